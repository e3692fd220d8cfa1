import numpy as np
import pytest

from histograph.entities import NucleusSettings, nuclei
from histograph.slides import TissueMask, open_slide


def same(a, b):
    assert a.label.tolist() == b.label.tolist()
    for name in ("centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.masks.bits, b.masks.bits)
    np.testing.assert_array_equal(a.masks.boxes, b.masks.boxes)


@pytest.mark.parametrize("tile_um,workers", [(20.0, 1), (33.3, 3), (61.0, 2), (128.0, 1)])
def test_result_does_not_depend_on_tiles_real(crop, tile_um, workers):
    slide = open_slide(crop[0], mpp=crop[1])
    same(nuclei(slide, tile_um=1e6, workers=1), nuclei(slide, tile_um=tile_um, workers=workers))


@pytest.mark.parametrize("tile_um,workers", [(17.0, 2), (41.7, 1), (77.0, 3)])
def test_result_does_not_depend_on_tiles_clumps_beyond_the_halo(blobs, tile_um, workers):
    slide = open_slide(blobs, mpp=0.5)
    whole = nuclei(slide, tile_um=1e6, workers=1)
    assert len(whole) > 40
    same(whole, nuclei(slide, tile_um=tile_um, workers=workers))


@pytest.mark.parametrize("mpp", [0.4, 0.73])
def test_result_does_not_depend_on_tiles_resampled_and_masked(crop, mpp):
    slide = open_slide(crop[0], mpp=crop[1])
    mask = TissueMask(np.random.default_rng(0).random((27, 24)) < 0.6, 8.0)
    whole = nuclei(slide, mpp, mask, tile_um=1e6)
    assert 0 < len(whole) < len(nuclei(slide, mpp))
    same(whole, nuclei(slide, mpp, mask, tile_um=47.0, workers=2))


def test_result_does_not_depend_on_tiles_with_noise_everywhere():
    image = np.random.default_rng(1).integers(60, 255, (220, 260, 3)).astype(np.uint8)
    slide = open_slide(image, mpp=0.5)
    options = {"min_area_um2": 0.0, "threshold": 0.4}
    whole = nuclei(slide, tile_um=1e6, **options)
    assert len(whole) > 100
    same(whole, nuclei(slide, tile_um=23.0, **options))


def test_mask_only_removes(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    everywhere = TissueMask(np.ones((30, 30), bool), 8.0)
    assert len(nuclei(slide, mask=everywhere, threshold=0.9)) == len(nuclei(slide, threshold=0.9))
    nowhere = TissueMask(np.zeros((30, 30), bool), 8.0)
    assert len(nuclei(slide, mask=nowhere)) == 0


def test_discs_are_found_where_they_are():
    image = np.full((200, 200, 3), (238, 205, 225), np.uint8)
    row, col = np.ogrid[:200, :200]
    centres = [(30, 30), (30, 44), (100, 120), (160, 60), (199, 100)]
    for r, c in centres:
        image[(row - r) ** 2 + (col - c) ** 2 <= 49] = (90, 60, 140)
    cells = nuclei(open_slide(image, mpp=0.5))
    assert len(cells) == 5
    # Two discs touch, the last is cut by the border of the slide.
    expected = np.array([(c + 0.5, r + 0.5) for r, c in centres]) / 2
    distance = np.abs(cells.centroid[:, None] - expected[None]).max(axis=2).min(axis=0)
    assert (distance[:4] < 0.6).all()
    assert distance[4] < 2.5
    assert np.abs(cells.area[2] - np.pi * 49 / 4) < 4


def test_ids_follow_rows_and_masks_do_not_overlap(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    cells = nuclei(slide)
    assert cells.kind == "cell"
    assert cells.label.tolist() == list(range(1, len(cells) + 1))
    counts = np.bincount(cells.instance_map().ravel(), minlength=len(cells) + 1)[1:]
    np.testing.assert_allclose(counts * 0.25, cells.area)
    settings = NucleusSettings()
    assert (cells.area >= settings.min_area_um2).all() and (cells.area <= settings.max_area_um2).all()
    assert cells.instance_map().shape == (round(slide.size_um[1] / 0.5), round(slide.size_um[0] / 0.5))


def test_ink_is_no_nucleus():
    image = np.full((100, 100, 3), (238, 205, 225), np.uint8)
    row, col = np.ogrid[:100, :100]
    image[(row - 30) ** 2 + (col - 30) ** 2 <= 49] = (90, 60, 140)
    image[(row - 70) ** 2 + (col - 70) ** 2 <= 49] = (20, 110, 110)
    cells = nuclei(open_slide(image, mpp=0.5))
    assert len(cells) == 1 and np.abs(cells.centroid - 15.25).max() < 0.6
    assert len(nuclei(open_slide(image, mpp=0.5), max_ink=9.0)) == 2


@pytest.mark.parametrize("image", [np.full((1, 1, 3), 90, np.uint8), np.full((50, 40, 3), 255, np.uint8)])
@pytest.mark.parametrize("stains", ["reference", "ruifrok"])
def test_nothing_to_find(image, stains):
    cells = nuclei(open_slide(image, mpp=0.5), stains=stains)
    assert len(cells) == 0
    assert cells.centroid.shape == (0, 2)
    assert cells.instance_map().shape == image.shape[:2]


def test_stains_are_estimated_once(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    whole = nuclei(slide, stains="estimate")
    same(whole, nuclei(slide, stains="estimate", tile_um=50.0))
    same(
        whole,
        nuclei(slide, stains=np.array(whole.parameters["stains"]), threshold=whole.parameters["threshold"]),
    )


@pytest.mark.parametrize(
    "options,error,match",
    [
        ({"mpp": 0.0}, ValueError, "mpp"),
        ({"tile_um": -1.0}, ValueError, "tile_um"),
        ({"workers": 0}, ValueError, "workers"),
        ({"workers": 1.5}, ValueError, "workers: expected a whole number"),
        ({"threshold": float("nan")}, ValueError, "threshold: expected an amount of stain"),
        ({"min_area_um2": 50.0, "max_area_um2": 10.0}, ValueError, "no more than max_area_um2"),
        ({"stains": "blue"}, ValueError, "stains"),
        ({"stains": [[1, 0, 0], [2, 0, 0]]}, ValueError, "stains"),
        ({"stains": "estimate"}, ValueError, "100 stained pixels"),
        ({"min_aera": 3.0}, TypeError, "min_aera"),
        ({"min_area_um2": -3.0}, ValueError, "min_area_um2"),
        ({"mask": "tissue"}, TypeError, "mask"),
    ],
)
def test_wrong_arguments_are_named(options, error, match):
    slide = open_slide(np.full((8, 8, 3), 255, np.uint8), mpp=0.5)
    with pytest.raises(error, match=match):
        nuclei(slide, **options)
