"""Labelled rasters keep every label, above 65,535 too, and are read and written in pieces."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from histograph.entities import Entities, from_instance_map
from histograph.formats import instance_maps, read_instance_map, write_instance_map

from .scenes import assert_same, cells


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(instance_maps, "_TILE", 64)
    monkeypatch.setattr(instance_maps, "_BAND", 37)


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".npy", ".TIF"])
@pytest.mark.parametrize("mpp", [0.25, 0.2465])
def test_round_trip(tmp_path, suffix, mpp):
    source = cells(mpp=mpp, typed=False)
    assert source.label[-1] > 65535
    again = read_instance_map(
        write_instance_map(source, tmp_path / f"m{suffix}"), mpp if suffix == ".npy" else None
    )
    assert_same(source, again)
    assert again.extent_um == source.extent_um


@pytest.mark.parametrize("top", [200, 65535])
def test_png(tmp_path, top):
    source = from_instance_map([[0, 7, 7], [top, 0, 7]], 0.5)
    path = write_instance_map(source, tmp_path / "m.png")
    assert imagecodecs.png_decode(path.read_bytes()).dtype == np.uint16
    assert_same(source, read_instance_map(path, 0.5))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5, "compression": "zlib"}])
def test_maps_of_others(tmp_path, dtype, options):
    instance_map = np.zeros((50, 33), dtype)
    instance_map[10:20, 5:30], instance_map[40:, 20:] = 3, 120
    tifffile.imwrite(tmp_path / "m.tif", instance_map, **options)
    assert_same(from_instance_map(instance_map, 0.5), read_instance_map(tmp_path / "m.tif", 0.5))
    np.save(tmp_path / "m.npy", instance_map)
    read = read_instance_map(tmp_path / "m.npy", 0.5, "tissue", origin_um=(2.0, 1.0))
    assert_same(from_instance_map(instance_map, 0.5, "tissue", (2.0, 1.0)), read)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_more_nuclei_than_sixteen_bits_count(tmp_path, monkeypatch, suffix):
    """Field bug E.6: elsewhere the number of nuclei overflows at 65,535, and ids come twice."""
    monkeypatch.setattr(instance_maps, "_TILE", 256)
    instance_map = np.zeros((532, 532), np.int64)
    instance_map[::2, ::2] = np.random.default_rng(0).permutation(266 * 266).reshape(266, 266) + 1
    source = from_instance_map(instance_map, 0.5)
    assert len(source) == 70_756
    again = read_instance_map(write_instance_map(source, tmp_path / f"m{suffix}"), 0.5)
    assert_same(source, again)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_pieces_are_told_by_their_values(tmp_path, suffix):
    """Field bug E.8: elsewhere connectivity decides, so that touching nuclei merge and those cut by a tile split."""
    instance_map = np.zeros((90, 90), np.int64)
    instance_map[10:20, 60:70], instance_map[10:20, 70:80] = 7, 3  # touch; a tile ends at 64
    instance_map[30:34, 10:14], instance_map[30:34, 80:84] = 5, 5  # one in two parts
    source = from_instance_map(instance_map, 0.5)
    again = read_instance_map(write_instance_map(source, tmp_path / f"m{suffix}"), 0.5)
    assert again.label.tolist() == [3, 5, 7] and again.area.tolist() == [25, 8, 25]
    assert_same(source, again)


def test_window_and_large_labels(tmp_path):
    source = from_instance_map([[1, 1, 2], [0, 2, 2**40]], 0.5)
    path = write_instance_map(source, tmp_path / "m.npy", (0.5, 0.0, 1.0, 1.0))
    assert np.load(path).tolist() == [[1, 2], [2, 2**40]]
    with pytest.raises(ValueError, match=r"TIFF holds labels up to 2\^32"):
        write_instance_map(source, tmp_path / "m.tif")
    small = read_instance_map(write_instance_map(source.select([0, 1]), tmp_path / "s.tif"))
    assert tifffile.imread(tmp_path / "s.tif").dtype == np.uint16 and small.kind == "cell"


def test_kind_and_mpp_are_in_the_tiff(tmp_path):
    source = from_instance_map([[1, 2]], 0.2465, "tissue")
    assert_same(source, read_instance_map(write_instance_map(source, tmp_path / "m.tif")))
    empty = Entities(
        "cell", np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 4)), np.zeros(0), 0.5, None, {}, (4, 4)
    )
    assert len(read_instance_map(write_instance_map(empty, tmp_path / "e.tif"))) == 0


def test_bad_files(tmp_path):
    whole = write_instance_map(cells(typed=False), tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.tif").write_text("no tiff")
    (tmp_path / "empty.png").touch()
    (tmp_path / "a.bmp").write_text("x")
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((4, 9, 9), np.uint16), photometric="minisblack")
    (tmp_path / "rgb.png").write_bytes(imagecodecs.png_encode(np.zeros((9, 9, 3), np.uint8)))
    np.save(tmp_path / "float.npy", np.zeros((3, 3)))
    np.save(tmp_path / "three.npy", np.zeros((3, 3, 3), int))
    np.save(tmp_path / "negative.npy", np.full((3, 3), -1))
    cases = {
        "cut.tif": "whole TIFF",
        "text.png": "whole PNG",
        "text.npy": "whole NPY",
        "text.tif": "whole TIFF",
        "empty.png": "is empty",
        "a.bmp": "expected a name that ends in",
        "rgb.tif": "one channel",
        "stack.tif": "one page",
        "rgb.png": "3 channels",
        "float.npy": "expected integers",
        "three.npy": "two axes",
        "negative.npy": "labels >= 0",
    }
    for name, message in cases.items():
        with pytest.raises((ValueError, TypeError), match=f"{name}.*{message}"):
            read_instance_map(tmp_path / name, 0.5)
    for options, message in [
        ({}, "mpp"),
        ({"mpp": 0}, "positive"),
        ({"mpp": 0.5, "origin_um": (0.3, 0)}, "origin_um"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_instance_map(tmp_path / "text.npy", **options)
    before = sorted(tmp_path.iterdir())
    for name, window in [("x.bmp", None), ("x.png", None), ("x.npy", (0, 0, 0, 0))]:
        with pytest.raises(ValueError):
            write_instance_map(cells(typed=False), tmp_path / name, window)
    assert sorted(tmp_path.iterdir()) == before
