import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from histograph.slides import open_slide


def ramp(width, height, step):
    """Red is the level-0 x of the pixel centre / 16, green is y / 16: linear, so averages are exact."""
    x, y = (np.arange(width) + 0.5) * step, (np.arange(height) + 0.5) * step
    image = np.zeros((height, width, 3))
    image[..., 0], image[..., 1] = x[None, :] / 16, y[:, None] / 16
    return np.round(image).astype(np.uint8)


def stitched(slide, x, y, columns, rows, mpp, tile):
    out = np.empty((rows, columns, 3), np.uint8)
    for r in range(0, rows, tile):
        for c in range(0, columns, tile):
            h, w = min(tile, rows - r), min(tile, columns - c)
            out[r : r + h, c : c + w] = slide.read_region((x + c) * mpp, (y + r) * mpp, w * mpp, h * mpp, mpp)
    return out


@pytest.mark.parametrize("factor", [4.0, 3.99, 3.57])
def test_levels_agree_on_where_things_are(tmp_path, pyramid, factor):
    # field bug E.12
    w1, h1 = 800, 600
    w0, h0 = round(w1 * factor), round(h1 * factor)
    slide = open_slide(pyramid(tmp_path / "a.tif", [ramp(w0, h0, 1.0), ramp(w1, h1, factor)], mpp=0.5))
    assert slide.properties["openslide.vendor"] == "generic-tiff"
    assert slide.level_downsamples == pytest.approx((1.0, factor))
    fine = slide.read_region(300, 200, 400, 300, mpp=0.5 * 3.4)
    for mpp in (2.0, 2.0125, 3.0):  # both levels come into use
        image = slide.read_region(300, 200, 400, 300, mpp)
        assert image.shape == (round(300 / mpp), round(400 / mpp), 3)
        x_px = (300 + (np.arange(image.shape[1]) + 0.5) * mpp) / 0.5
        y_px = (200 + (np.arange(image.shape[0]) + 0.5) * mpp) / 0.5
        assert np.abs(image[..., 0].astype(float) - x_px[None, :] / 16).max() < 1.1  # 16 px
        assert np.abs(image[..., 1].astype(float) - y_px[:, None] / 16).max() < 1.1
        # the mean error is far below a pixel of level 0
        assert abs((image[..., 0] - x_px[None, :] / 16).mean()) < 1 / 16
    assert abs(fine[..., 0].mean() - (300 + 200) / 0.5 / 16) < 1 / 16


def test_known_pixels_of_a_coarse_level(tmp_path, pyramid, noise):
    levels = [noise(400, 800, 3), noise(100, 200, 3, seed=1), noise(25, 50, 3, seed=2)]
    slide = open_slide(pyramid(tmp_path / "a.tif", levels, mpp=0.25))
    for level, mpp in ((0, 0.25), (1, 1.0), (2, 4.0)):
        np.testing.assert_array_equal(slide.read_region(0, 0, *slide.size_um, mpp=mpp), levels[level])
        np.testing.assert_array_equal(
            slide.read_region(8, 12, 16, 20, mpp=mpp),
            levels[level][round(12 / mpp) : round(32 / mpp), round(8 / mpp) : round(24 / mpp)],
        )
    halved = levels[1].reshape(50, 2, 100, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(slide.read_region(0, 0, 200, 100, mpp=2.0), np.floor(halved + 0.5))


def test_a_level_rounded_down_repeats_its_border(tmp_path, pyramid):
    levels = [np.full((203, 403, 3), 50, np.uint8), np.full((50, 100, 3), 50, np.uint8)]
    slide = open_slide(pyramid(tmp_path / "a.tif", levels, mpp=0.5))
    assert slide.level_downsamples == (1.0, 4.0)
    image = slide.read_region(0, 0, 204, 104, mpp=2.0)
    assert (image[:51, :101] == 50).all()
    assert (image[51:] == 255).all() and (image[:, 101:] == 255).all()


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.499, 0.5, 0.7, 1.0, 1.9, 2.0, 3.3])
@pytest.mark.parametrize("reader", ["openslide", "openslide-3.99", "tifffile", "array"])
def test_cutting_changes_no_bit(tmp_path, pyramid, noise, reader, mpp):
    full = noise(399, 798, 3)
    if reader == "array":
        slide = open_slide(full, mpp=(0.499, 0.51))
    elif reader == "tifffile":
        tifffile.imwrite(tmp_path / "a.tif", full, photometric="rgb", rowsperstrip=37, compression="deflate")
        slide = open_slide(tmp_path / "a.tif", mpp=0.499)
    else:
        small = noise(100, 200, 3, seed=1) if reader == "openslide-3.99" else noise(200, 399, 3, seed=1)
        slide = open_slide(pyramid(tmp_path / "a.tif", [full, small]), mpp=(0.499, 0.499))
    columns, rows = 140, 90
    whole = slide.read_region(-7 * mpp, 11 * mpp, columns * mpp, rows * mpp, mpp)
    assert whole.shape == (rows, columns, 3)
    np.testing.assert_array_equal(stitched(slide, -7, 11, columns, rows, mpp, 33), whole)


def test_blocks_of_a_large_read_leave_no_seam(noise, monkeypatch):
    slide = open_slide(noise(300, 400, 3), mpp=0.5)
    for mpp in (0.5, 1.3, 0.3):
        whole = slide.read_region(3, 5, 190, 140, mpp)
        monkeypatch.setattr("histograph.slides.slide._BLOCK_PIXELS", 5000)
        np.testing.assert_array_equal(slide.read_region(3, 5, 190, 140, mpp), whole)
        monkeypatch.undo()


def test_anisotropic_pixels_come_out_square(noise):
    image = noise(60, 120, 3)
    slide = open_slide(image, mpp=(0.25, 0.5))
    assert slide.size_um == (30.0, 30.0)
    out = slide.read_region(0, 0, 30, 30, mpp=0.5)
    expected = np.floor(image.reshape(60, 60, 2, 3).astype(float).mean(axis=2) + 0.5)
    np.testing.assert_array_equal(out, expected)
    assert slide.read_region(0, 0, 30, 30).shape == (80, 80, 3)  # default: the mean, 0.375


def test_outside_is_white(noise):
    image = noise(10, 20, 3)
    slide = open_slide(image, mpp=1.0)
    out = slide.read_region(-5, -3, 40, 20, mpp=1.0)
    np.testing.assert_array_equal(out[3:13, 5:25], image)
    out[3:13, 5:25] = 255
    assert (out == 255).all()
    assert (slide.read_region(1e6, 1e6, 5, 5) == 255).all()
    assert (slide.read_region(-9.5, 0, 9, 9, mpp=0.5) == 255).all()
    up = slide.read_region(-2, 0, 4, 4, mpp=0.5)
    assert (up[:, :4] == 255).all() and (up[0, 4] == image[0, 0]).all()


def test_one_pixel(noise):
    slide = open_slide(np.full((1, 1, 3), 7, np.uint8), mpp=0.5)
    assert slide.read_region(0, 0, 0.5, 0.5).tolist() == [[[7, 7, 7]]]
    assert (slide.read_region(0, 0, 0.5, 0.5, mpp=0.1) == 7).all()
    assert slide.thumbnail(16).shape == (16, 16, 3)
    assert slide.tissue_mask().area_um2 == 0.0
    assert len(slide.tiles(size=128)) == 1
    assert "<img" in slide._repr_html_()


@pytest.mark.parametrize(
    ("region", "mpp", "word"),
    [
        ((0, 0, 0, 5), None, "expected at least one"),
        ((0, 0, 5, -1), None, "expected at least one"),
        ((0, 0, 5, 5), 0.0, "mpp"),
        ((0, 0, 5, 5), -1.0, "mpp"),
        ((0, 0, 5, 5), float("nan"), "mpp"),
        ((float("nan"), 0, 5, 5), None, "x_um"),
        ((0, 0, float("inf"), 5), None, "width_um"),
    ],
)
def test_impossible_regions(region, mpp, word):
    slide = open_slide(np.zeros((10, 10, 3), np.uint8), mpp=0.5)
    with pytest.raises(ValueError, match=word):
        slide.read_region(*region, mpp=mpp)


def test_thumbnail_has_the_shape_of_the_slide(bundled_svs):
    with open_slide(bundled_svs) as slide:
        image = slide.thumbnail(300)
        assert image.shape == (300, round(300 * 2220 / 2967), 3)
        assert len(slide._repr_html_()) < 50_000
        assert "2220 x 2967" in slide._repr_html_() and "2220 x 2967" in repr(slide)
        with pytest.raises(ValueError, match="max_px"):
            slide.thumbnail(0)
    with pytest.raises(ValueError, match="closed"):
        slide.read_region(0, 0, 10, 10)


def test_bundled_pixels_are_those_of_openslide(bundled_svs):
    import openslide

    with open_slide(bundled_svs) as slide, openslide.OpenSlide(bundled_svs) as handle:
        expected = np.asarray(handle.read_region((700, 900), 0, (300, 200)))[..., :3]
        m = 0.499
        np.testing.assert_array_equal(slide.read_region(700 * m, 900 * m, 300 * m, 200 * m), expected)


@pytest.mark.parametrize("kind", ["svs", "tif", "array"])
def test_threads_read_the_same(tmp_path, noise, bundled_svs, kind):
    if kind == "svs":
        slide = open_slide(bundled_svs)
    elif kind == "array":
        slide = open_slide(noise(300, 300, 3), mpp=0.5)
    else:
        tifffile.imwrite(
            tmp_path / "a.ome.tif", noise(300, 300, 3), tile=(32, 32), photometric="rgb", compression="lzw"
        )
        slide = open_slide(tmp_path / "a.ome.tif", mpp=0.5)
    places = [(x, y) for x in range(0, 100, 17) for y in range(0, 100, 13)]
    alone = [slide.read_region(x, y, 40, 30, mpp=0.7) for x, y in places]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: slide.read_region(*p, 40, 30, mpp=0.7), places))
    np.testing.assert_array_equal(alone, together)


def test_pickle_opens_the_file_again(tmp_path, pyramid, noise):
    slide = open_slide(pyramid(tmp_path / "a.tif", [noise(64, 64, 3)]), mpp=(0.3, 0.4), slide_id="name")
    copy = pickle.loads(pickle.dumps(slide))
    assert (copy.mpp, copy.slide_id, copy.path) == ((0.3, 0.4), "name", slide.path)
    np.testing.assert_array_equal(copy.read_region(0, 0, 9, 9), slide.read_region(0, 0, 9, 9))
    array = pickle.loads(pickle.dumps(open_slide(noise(8, 8, 3), mpp=1.0)))
    np.testing.assert_array_equal(array.read_region(0, 0, 8, 8), noise(8, 8, 3))


def mean_of(slide):
    return float(slide.read_region(0, 0, 50, 50).mean())


@pytest.mark.slow
def test_spawned_process_reads_it(bundled_svs):
    slide = open_slide(bundled_svs)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(mean_of, slide).result() == mean_of(slide)
