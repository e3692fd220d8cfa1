import numpy as np
import pytest

from histograph.slides import TissueMask, open_slide, tissue_mask

GLASS, PINK, PURPLE = (243, 242, 244), (222, 160, 195), (110, 60, 130)


def scene(height, width, colour, seed=0, noise=4):
    rng = np.random.default_rng(seed)
    image = np.empty((height, width, 3))
    image[:] = colour
    return image + rng.normal(0, noise, image.shape)


def slide_of(image, mpp=8.0):
    return open_slide(np.clip(np.round(image), 0, 255).astype(np.uint8), mpp=mpp)


def agreement(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (238, 232, 226), (225, 225, 228), (235, 232, 240)])
def test_empty_slide_gives_an_empty_mask(glass):
    assert slide_of(scene(200, 300, glass)).tissue_mask().area_um2 == 0.0


@pytest.mark.parametrize("colour", [PINK, PURPLE, (235, 205, 222), (150, 100, 160)])
def test_full_slide_gives_a_full_mask(colour):
    assert slide_of(scene(200, 300, colour)).tissue_mask().mask.all()


def test_full_slide_of_two_stains_is_not_split():
    image = scene(200, 300, PINK)
    image[:, 150:] = scene(200, 150, PURPLE)
    assert slide_of(image).tissue_mask().mask.all()


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (238, 232, 226)])
@pytest.mark.parametrize("colour", [PINK, PURPLE, (232, 195, 215)])
def test_a_piece_of_tissue(glass, colour):
    image = scene(200, 300, glass)
    y, x = np.mgrid[:200, :300]
    truth = (x - 150) ** 2 + (y - 100) ** 2 < 60**2
    image[truth] = scene(200, 300, colour, seed=1)[truth]
    assert agreement(slide_of(image).tissue_mask().mask, truth) > 0.96


def test_pen_borders_and_shadows_are_not_tissue():
    image = scene(200, 300, GLASS)
    truth = np.zeros((200, 300), bool)
    truth[60:120, 100:200] = True
    image[truth] = scene(200, 300, PINK, seed=1)[truth]
    image[:8], image[:, :6] = 8, (20, 15, 18)  # black borders of the scan
    image[140:160, 20:280] = (25, 25, 30)  # black pen
    image[170:180, 20:280] = (40, 80, 190)  # blue pen
    image[185:195, 20:280] = (60, 150, 90)  # green pen
    image[20:50, 20:60] = (190, 190, 192)  # a shadow
    mask = slide_of(image).tissue_mask().mask
    assert agreement(mask, truth) > 0.95


def test_specks_go_and_holes_close_by_area():
    image = scene(200, 300, GLASS, noise=2)
    image[50:150, 50:150] = PINK
    image[95:105, 95:105] = GLASS  # a hole of 80 x 80 µm
    image[20:28, 200:208] = PINK  # a speck of 64 x 64 µm
    image[100:140, 200:240] = PINK
    slide = slide_of(image)
    mask = slide.tissue_mask().mask
    assert mask[100, 100] and not mask[24, 204] and mask[120, 220]
    mask = slide.tissue_mask(min_area_um2=0, max_hole_um2=0, close_um=0).mask
    assert not mask[100, 100] and mask[24, 204]
    assert not slide.tissue_mask(min_area_um2=200_000).mask[120, 220]


def test_threshold_of_the_caller():
    image = scene(100, 100, GLASS, noise=1)
    image[30:70, 30:70] = PINK
    assert slide_of(image).tissue_mask(threshold=0.9).area_um2 == 0.0


def test_finer_levels_and_bands_give_the_same(monkeypatch):
    image = scene(200, 300, GLASS)
    image[60:120, 100:200] = PINK
    slide = slide_of(image, mpp=4.0)
    expected = slide.tissue_mask(workers=1).mask
    monkeypatch.setattr("histograph.slides.tissue._BAND_ROWS", 7)
    np.testing.assert_array_equal(slide.tissue_mask(workers=3).mask, expected)
    assert expected.shape == (100, 150)


def test_sizes_that_do_not_divide():
    for shape in ((1, 1), (1, 50), (33, 57), (2, 3)):
        mask = slide_of(scene(*shape, PURPLE), mpp=3.0).tissue_mask(min_area_um2=0)
        assert mask.mask.shape == tuple(max(1, -(-n * 3 // 8)) for n in shape)
        if min(shape) > 4:
            assert mask.mask.all()


def test_real_slide(bundled_svs):
    with open_slide(bundled_svs) as slide:
        mask = tissue_mask(slide)
    assert mask.mask.shape == (186, 139)
    assert 0.35 < mask.mask.mean() < 0.46
    assert mask.fraction(450, 900, 200, 200) == 1.0  # dermis
    assert mask.fraction(0, 700, 100, 500) == 0.0 and mask.fraction(950, 0, 100, 200) == 0.0  # glass


def test_fraction_against_counting():
    rng = np.random.default_rng(0)
    raster = rng.random((20, 30)) < 0.4
    mask = TissueMask(raster, mpp=2.0)
    fine = np.pad(np.kron(raster, np.ones((20, 20))), 400)  # 0.1 µm pixels, with glass around
    x, y = rng.integers(-300, 700, 200), rng.integers(-300, 500, 200)
    w, h = rng.integers(1, 300, 200), rng.integers(1, 300, 200)
    expected = [
        fine[b + 400 : b + 400 + d, a + 400 : a + 400 + c].sum() / (c * d) for a, b, c, d in zip(x, y, w, h)
    ]
    np.testing.assert_allclose(mask.fraction(x / 10, y / 10, w / 10, h / 10), expected, atol=1e-9)
    assert mask.area_um2 == raster.sum() * 4.0
    assert isinstance(mask.fraction(0, 0, 1, 1), float)
    with pytest.raises(ValueError, match="positive"):
        mask.fraction(0, 0, 0, 1)
    assert TissueMask(np.zeros((3, 3), bool), 1.0).bbox_um is None
    assert "mm²" in repr(mask)


@pytest.mark.parametrize(
    "options",
    [{"mpp": 0}, {"mpp": -8.0}, {"close_um": -1}, {"min_area_um2": -1}, {"max_hole_um2": -1}, {"workers": 0}],
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tissue_mask(slide_of(scene(20, 20, GLASS)), **options)


@pytest.mark.parametrize(
    ("mask", "mpp", "error", "message"),
    [
        (np.full((4, 4), 255, np.uint8), 8.0, TypeError, "bool, found uint8; write mask > 0"),
        ([[True]], 8.0, TypeError, "bool, found list"),
        (np.ones((4, 4, 3), bool), 8.0, ValueError, "two axes"),
        (np.ones((4, 4), bool), 0.0, ValueError, "mpp: expected a positive number"),
        (np.ones((4, 4), bool), (8.0, 4.0), ValueError, "mpp: expected a positive number"),
    ],
)
def test_a_mask_of_another_kind_is_refused(mask, mpp, error, message):
    # half a mask of 0 and 255 counted as all tissue
    with pytest.raises(error, match=message):
        TissueMask(mask, mpp)
