from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histograph.slides import open_slide


def test_mpp_is_the_files_or_the_callers(bundled_svs):
    with open_slide(str(bundled_svs)) as slide:
        assert slide.mpp == (0.499, 0.499)
        assert slide.slide_id == "CMU-1-Small-Region"
        assert slide.dimensions == (2220, 2967)
    with open_slide(bundled_svs, mpp=(0.5, 0.6)) as slide:
        assert slide.mpp == (0.5, 0.6)
    assert open_slide(np.zeros((2, 2), np.uint8), mpp=1).slide_id == "array"


def test_missing_mpp_says_how_to_give_it(tmp_path, pyramid, noise):
    # field bug E.12: elsewhere the pixel size is guessed from classes of magnification
    path = pyramid(tmp_path / "a.tif", [noise(64, 64, 3)], mpp=None)
    for source in (path, noise(4, 4, 3)):
        with pytest.raises(ValueError, match=r"open_slide\(.*mpp=0.25\)"):
            open_slide(source)


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_printing_resolution_is_not_a_pixel_size(tmp_path, pyramid, noise, dpi):
    tiled = pyramid(tmp_path / "a.tif", [noise(64, 64, 3)], mpp=25400 / dpi)
    Image.fromarray(noise(9, 9, 3)).save(tmp_path / "b.png", dpi=(dpi, dpi))
    tifffile.imwrite(
        tmp_path / "c.tif", noise(9, 9, 3), photometric="rgb", resolution=(dpi, dpi), resolutionunit=2
    )
    for path in (tiled, tmp_path / "b.png", tmp_path / "c.tif"):
        with pytest.raises(ValueError, match="mpp"):
            open_slide(path)


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), float("inf"), (0.5, -1), (0.5,), (1, 2, 3)])
def test_impossible_mpp(mpp):
    with pytest.raises(ValueError, match="mpp must be"):
        open_slide(np.zeros((4, 4, 3), np.uint8), mpp=mpp)


def test_mpp_of_another_type():
    with pytest.raises(TypeError, match="mpp must be"):
        open_slide(np.zeros((4, 4, 3), np.uint8), mpp="x")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no slide at"):
        open_slide(tmp_path / "nothing.svs")


def test_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        open_slide(tmp_path)


def test_neither_path_nor_array():
    with pytest.raises(TypeError, match="int"):
        open_slide(3)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.svs", b"", "is empty"),
        ("text.svs", b"this is no slide\n" * 50, "not a slide or an image"),
        ("what.xyz", bytes(range(256)), "extension '.xyz'"),
        ("none", b"\x00" * 100, "extension 'none'"),
        ("short.svs", b"II*\0", "truncated"),
        ("short.tif", b"II+\0\x08\0", "truncated"),
    ],
)
def test_files_that_are_no_slides(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=word):
        open_slide(path, mpp=0.5)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.67, 0.9, 0.999])
def test_truncated_svs(tmp_path, bundled_svs, share):
    data = bundled_svs.read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="is truncated"):
        open_slide(path)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_truncated_pyramid(tmp_path, noise, bigtiff, byteorder):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise(256, 256, 3), tile=(64, 64), photometric="rgb", bigtiff=bigtiff, byteorder=byteorder
    )
    open_slide(path, mpp=0.5).close()
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match="is truncated"):
            open_slide(path, mpp=0.5)


def test_truncated_png_and_jpeg(tmp_path, noise):
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise(64, 64, 3)).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="damaged or truncated"):
            open_slide(tmp_path / name, mpp=0.5).read_region(0, 0, 5, 5)


def test_the_extension_does_not_matter(tmp_path, pyramid, noise):
    image = noise(64, 64, 3)
    for name in ("a.tif", "a.xyz", "noextension"):
        with open_slide(pyramid(tmp_path / name, [image])) as slide:
            np.testing.assert_array_equal(slide.read_region(0, 0, *slide.size_um), image)


def test_relative_path_is_pickled_absolute(tmp_path, pyramid, noise, monkeypatch):
    pyramid(tmp_path / "a.tif", [noise(64, 64, 3)])
    monkeypatch.chdir(tmp_path)
    _, (path, _, _) = open_slide("a.tif").__reduce__()
    assert Path(path).is_absolute()


@pytest.mark.parametrize("layout", [{}, {"tile": (32, 32)}])
def test_a_fourth_sample_that_is_not_said_to_be_transparency_is_left_out(tmp_path, noise, layout):
    # OpenSlide, which reads the tiled file, takes it for transparency that the colours are multiplied by
    image = noise(64, 64, 4)
    image[..., 3] = 0
    options = {"photometric": "rgb", "extrasamples": ["unspecified"], **layout}
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert np.array_equal(slide.read_region(0, 0, 32, 32, 0.5), image[..., :3])
