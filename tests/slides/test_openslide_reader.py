import numpy as np
import pytest

from histograph.slides import open_slide
from histograph.slides.openslide_reader import OpenSlideReader, _hex_colour


def test_fractional_level_does_not_depend_on_the_region(tmp_path, pyramid, noise):
    path = pyramid(tmp_path / "a.tif", [noise(3990 // 2, 3990, 3), noise(500, 1000, 3, seed=1)])
    reader = OpenSlideReader(path)
    whole = reader.read(1, 0, 0, 1000, 500)
    for x, y, w, h in ((3, 5, 100, 90), (500, 20, 300, 480), (511, 499, 2, 1), (999, 0, 1, 500)):
        np.testing.assert_array_equal(reader.read(1, x, y, w, h), whole[y : y + h, x : x + w])
    assert np.abs(whole[:512, :512].astype(int) - noise(500, 1000, 3, seed=1)[:512, :512]).max() == 0


def test_background_colour():
    assert _hex_colour("FF8000") == (255, 128, 0)


def test_damaged_tile_is_one_clear_error(tmp_path, pyramid, noise):
    path = pyramid(tmp_path / "a.tif", [noise(256, 256, 3)])
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : -len(data) // 4] = bytes(len(data[len(data) // 4 : -len(data) // 4]))
    path.write_bytes(data)
    slide = open_slide(path)
    with pytest.raises(ValueError, match=r"cannot read pixels of .*a\.tif"):
        slide.read_region(0, 0, *slide.size_um)
