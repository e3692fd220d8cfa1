"""StarDist's polygons: ids and order survive, convex shapes nearly so, and the rule of filling is known."""

import numpy as np
import pytest
from skimage.draw import polygon

from histograph.entities import from_instance_map, patches
from histograph.formats import read_stardist, star_polygons, star_shapes, write_stardist
from histograph.slides import open_slide

from .scenes import assert_same, cells


def discs():
    row, col = np.mgrid[:120, :200]
    instance_map = np.zeros((120, 200), int)
    for k in range(12):
        r, c = 15 + 30 * (k // 4), 20 + 45 * (k % 4)
        instance_map[(row - r) ** 2 / 1.5 + (col - c) ** 2 < (5 + k / 2) ** 2] = 100 - 7 * k
    source = from_instance_map(instance_map, 0.5)
    source.columns["prob"] = np.linspace(0, 1, 12, dtype=np.float32)
    source.columns["type"] = np.array(["a", "b", ""] * 4)
    return source


def test_round_trip(tmp_path):
    source = discs()
    again = read_stardist(write_stardist(source, tmp_path / "a.npz", n_rays=64))
    np.testing.assert_array_equal(again.label, source.label)
    for name in ("prob", "type"):
        np.testing.assert_array_equal(again.columns[name], source.columns[name])
    for i in range(12):
        x, y, x_1, y_1 = source.bbox[i]
        window = (x - 2, y - 2, x_1 - x + 4, y_1 - y + 4)
        a, b = (e.select([i]).instance_map(window) > 0 for e in (source, again))
        assert (a & b).sum() / (a | b).sum() > 0.93
    np.testing.assert_allclose(again.centroid, source.centroid, atol=0.1)


def test_coordinates_are_stardists(tmp_path):
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(32) / 32
    points = rng.uniform(20, 40, (5, 2))
    dist = rng.uniform(6, 12, (5, 32))
    coord = points[:, :, None] + np.stack([dist * np.sin(angle), dist * np.cos(angle)], axis=1)
    found = read_stardist({"coord": coord, "points": points, "prob": np.ones(5)}, mpp=0.5)
    for i in range(5):
        expected = np.zeros((60, 60), bool)
        expected[polygon(*coord[i], shape=(60, 60))] = True
        np.testing.assert_array_equal(found.select([i]).instance_map((0, 0, 30, 30)) > 0, expected)
    moved = read_stardist(
        {"coord": coord, "class_id": [0, 1, 2, 1, 1]}, mpp=0.5, offset_px=(4, 2), types=["", "a", "b"]
    )
    np.testing.assert_allclose(moved.centroid, found.centroid + np.array([2, 1]))
    assert moved.columns["type"].tolist() == ["", "a", "b", "a", "a"]
    plain = read_stardist({"coord": coord, "class_id": [0, 1, 2, 1, 1], "label": [9, 8, 7, 6, 5]}, mpp=0.5)
    assert plain.columns["type"].tolist() == ["1", "1", "2", "1", ""] and plain.label.tolist() == [
        5,
        6,
        7,
        8,
        9,
    ]


def test_pieces_are_the_whole(monkeypatch):
    star = star_polygons(discs())
    star["label"] = star["label"][::-1].copy()
    whole = read_stardist(star)
    monkeypatch.setattr(star_shapes, "_ROWS", 5)
    assert_same(whole, read_stardist(star))
    with pytest.raises(ValueError, match="polygon 2: lies off the canvas"):
        read_stardist({"coord": np.where(np.arange(12)[:, None, None] == 1, -9.0, star["coord"])}, mpp=0.5)
    assert len(read_stardist({"coord": np.zeros((0, 2, 8))}, mpp=0.5)) == 0


def test_strange_shapes_have_polygons():
    instance_map = np.zeros((20, 20), int)
    instance_map[2:18, 2:4] = instance_map[2:4, 2:18] = instance_map[16:18, 2:18] = (
        3  # its centroid is outside
    )
    instance_map[10, 10] = 5
    star = star_polygons(from_instance_map(instance_map, 1.0), 8)
    assert np.isfinite(star["coord"]).all()
    row, col = np.round(star["points"]).astype(int).T
    assert instance_map[row, col].tolist() == [3, 5]
    assert star_polygons(cells(typed=False), 16)["coord"].shape[1:] == (2, 16)


def test_bad_input(tmp_path):
    path = write_stardist(discs(), tmp_path / "a.npz")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:300])
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, message in {
        "cut.npz": "not a whole",
        "text.npz": "not a whole",
        "other.npz": "'coord'",
        "one.npy": "it holds one array",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_stardist(tmp_path / name, 0.5)
    square = np.array([[[0.0, 0, 4, 4], [0, 4, 4, 0]]] * 2)
    off, broken = square - 50, square.copy()
    broken[1, 0, 0] = np.nan
    for arrays, options, message in [
        ({"coord": square}, {"mpp": None}, "mpp"),
        ({"coord": square[:, :1]}, {}, "shape"),
        ({"coord": broken}, {}, "polygon 2: coord is not finite"),
        ({"coord": off}, {}, "polygon 1: lies off the canvas"),
        ({"coord": square, "prob": [1]}, {}, "prob: expected 2 values"),
        ({"coord": square, "label": [4, 4]}, {}, "polygon 2: its label 4 is that of polygon 1 too"),
        ({"coord": square, "label": [4, 0]}, {}, "label"),
        ({"coord": square, "class_id": [1, 2]}, {"types": {1: "a"}}, "class_id 2 has no name"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_stardist(arrays, **{"mpp": 0.5, **options})
    with pytest.raises(ValueError, match="npz"):
        write_stardist(discs(), tmp_path / "a.zip")
    with pytest.raises(ValueError, match="n_rays"):
        star_polygons(discs(), 2)
    slide = open_slide(np.full((60, 60, 3), 90, np.uint8), mpp=0.5)
    with pytest.raises(ValueError, match="expected masks"):
        star_polygons(patches(slide, 10.0, mask=None))
