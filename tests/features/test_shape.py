import numpy as np
import pytest
from skimage.measure import regionprops

from histograph.features import region_features

from .scenes import blobs

SAME = {
    "area": "area",
    "perimeter": "perimeter",
    "equivalent_diameter": "equivalent_diameter_area",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "eccentricity": "eccentricity",
    "extent": "extent",
    "convex_area": "area_convex",
    "solidity": "solidity",
}


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_regionprops(seed):
    m = blobs(seed=seed)[0]
    table, props = region_features(m), regionprops(m)
    for name, other in SAME.items():
        expected = [getattr(p, other) for p in props]
        np.testing.assert_allclose(table[name], expected, rtol=3e-7, atol=2e-6, err_msg=name)
    spread = np.array([np.ptp(p.inertia_tensor_eigvals) for p in props]) > 1e-9
    double = 2 * np.array([p.orientation for p in props])[spread]  # from the row axis; ours is from x
    np.testing.assert_allclose(table["orientation_sin"][spread], np.sin(double), atol=1e-6)
    np.testing.assert_allclose(table["orientation_cos"][spread], -np.cos(double), atol=1e-6)
    sides = np.array([np.subtract(p.bbox[2:], p.bbox[:2]) for p in props])
    np.testing.assert_allclose(table["bbox_aspect"], sides.min(1) / sides.max(1), rtol=1e-6)


def test_lengths_scale_with_mpp():
    m = blobs()[0]
    one, half = region_features(m), region_features(m, mpp=0.5)
    for name, unit in zip(one.names, one.units):
        factor = {"µm": 0.5, "µm²": 0.25, "1": 1.0}[unit]
        np.testing.assert_array_equal(half[name], one[name] * np.float32(factor))


def test_direction():
    m = np.zeros((30, 30), int)
    m[2:4, 1:15] = 1  # along x
    m[6:20, 2:4] = 2  # along y
    m[range(8, 20), range(10, 22)] = 3  # x and y grow together
    m[22:26, 22:26] = 4  # none
    table = region_features(m)
    np.testing.assert_allclose(table["orientation_cos"], [1, -1, 0, 0], atol=1e-7)
    np.testing.assert_allclose(table["orientation_sin"], [0, 0, 1, 0], atol=1e-7)


def test_one_pixel():
    row = region_features(np.array([[0, 4]]))
    assert dict(zip(row.names, row.values[0].tolist())) == {
        "area": 1.0,
        "perimeter": 0.0,
        "equivalent_diameter": float(np.float32(np.sqrt(4 / np.pi))),
        "major_axis": 0.0,
        "minor_axis": 0.0,
        "eccentricity": 0.0,
        "orientation_sin": 0.0,
        "orientation_cos": 0.0,
        "extent": 1.0,
        "convex_area": 1.0,
        "solidity": 1.0,
        "bbox_aspect": 1.0,
        "circularity": 0.0,
    }


def test_touching_entities_are_measured_as_if_alone():
    m = blobs(seed=5, count=90)[0]  # hardly any background
    table = region_features(m)
    for i, label in enumerate(table.label):
        alone = region_features(np.where(m == label, m, 0))
        assert (alone.values[0] == table.values[i]).all()


def test_circle_and_square():
    rows, columns = np.mgrid[:81, :81] - 40
    disc = region_features((rows**2 + columns**2 <= 35**2).astype(int))
    assert disc["circularity"][0] == pytest.approx(1, abs=0.1)
    assert disc["eccentricity"][0] == pytest.approx(0, abs=1e-3) and disc["solidity"][0] > 0.98
    square = region_features(np.ones((10, 10), int))
    assert square["solidity"][0] == square["extent"][0] == 1 and square["perimeter"][0] == 36
