"""Masks become polygons and come back bit by bit; polygons are filled by the centre of pixels."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histograph.entities import Entities, from_instance_map
from histograph.entities.rings import Rings, entities_from_rings, mask_rings


def polygon(*rings):
    """One entity of one polygon."""
    starts = np.cumsum([0, *map(len, rings)])
    return Rings(
        np.concatenate([np.asarray(r, float) for r in rings]),
        starts,
        np.array([0, len(rings)]),
        np.array([0, 1]),
    )


@settings(max_examples=200, deadline=None)
@given(arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_masks_survive_and_rings_are_valid(instance_map):
    entities = from_instance_map(instance_map, 0.5)
    rings = mask_rings(entities)
    again = entities_from_rings(rings, entities.label, 0.5)
    for name in ("bits", "pointers", "boxes"):
        np.testing.assert_array_equal(getattr(again.masks, name), getattr(entities.masks, name))
    for name in ("centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(again, name), getattr(entities, name))
    for i, label in enumerate(entities.label):
        shape = shapely.MultiPolygon([(parts[0], parts[1:]) for parts in rings.geometry(i)])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == (instance_map == label).sum()
        assert all(
            shapely.LinearRing(parts[0]).is_ccw for parts in rings.geometry(i)
        )  # y points down: clockwise


def test_outer_ring_is_that_of_polygon():
    rng = np.random.default_rng(0)
    entities = from_instance_map((rng.random((40, 40)) < 0.7).astype(int), 0.25)
    largest = max(mask_rings(entities).geometry(0), key=lambda parts: shapely.Polygon(parts[0]).area)
    np.testing.assert_array_equal(largest[0] * 0.25, entities.polygon(0))


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, (7, 2), elements=st.floats(0, 12, width=32)))
def test_fill_is_even_odd_at_pixel_centres(corners):
    corners = np.concatenate([corners, corners[:1]])
    filled = entities_from_rings(polygon(corners), np.array([1]), 1.0).instance_map((0, 0, 13, 13))
    x = np.arange(13) + 0.5
    inside = np.zeros((13, 13), bool)
    for (x_0, y_0), (x_1, y_1) in pairwise(corners):
        crosses = (x[:, None] >= min(y_0, y_1)) & (x[:, None] < max(y_0, y_1))
        with np.errstate(divide="ignore", invalid="ignore"):
            (x_0, y_0), (x_1, y_1) = sorted([(x_0, y_0), (x_1, y_1)], key=lambda p: p[1])
            at = x_0 + (x[:, None] - y_0) / (y_1 - y_0) * (x_1 - x_0)
            inside ^= crosses & (x[None] >= at)
    if inside.any():
        np.testing.assert_array_equal(filled > 0, inside)
    else:
        assert (filled > 0).sum() == 1


def test_neighbours_that_share_an_edge_share_no_pixel():
    rng = np.random.default_rng(1)
    a, b, c, d = [0, 0], [20, 0], [20, 20], [0, 20]
    for _ in range(50):
        p, q = [0.0, rng.uniform(2, 18)], [20.0, rng.uniform(2, 18)]
        top = entities_from_rings(polygon([a, b, q, p, a]), np.array([1]), 1.0).instance_map((0, 0, 20, 20))
        low = entities_from_rings(polygon([p, q, c, d, p]), np.array([1]), 1.0).instance_map((0, 0, 20, 20))
        np.testing.assert_array_equal(top + low, 1)


def test_inclusive_takes_the_border_pixels():
    contour = np.array([[2, 1], [5, 1], [5, 4], [2, 4], [2, 1]]) + 0.5
    entities = entities_from_rings(polygon(contour), np.array([1]), 1.0, inclusive=True)
    assert entities.bbox.tolist() == [[2, 1, 6, 5]] and entities.area[0] == 16
    line = np.array([[3, 3], [6, 6], [3, 3]]) + 0.5
    assert entities_from_rings(polygon(line), np.array([1]), 1.0, inclusive=True).area[0] == 4


def test_small_and_cut_polygons():
    tiny = np.array([[3.1, 4.1], [3.2, 4.1], [3.2, 4.2], [3.1, 4.1]])
    assert entities_from_rings(polygon(tiny), np.array([1]), 0.5).bbox.tolist() == [[1.5, 2.0, 2.0, 2.5]]
    over = np.array([[-2, -1], [2, -1], [2, 3], [-2, 3], [-2, -1]])
    assert entities_from_rings(polygon(over), np.array([1]), 1.0).bbox.tolist() == [[0, 0, 2, 3]]
    with pytest.raises(IndexError, match="off the canvas"):
        entities_from_rings(polygon(over - 5), np.array([1]), 1.0)
    with pytest.raises(IndexError, match="coarser raster"):
        entities_from_rings(polygon(over * 1e6), np.array([1]), 1.0)


def test_rectangles():
    box = np.array([[0.3, 1.0, 2.5, 3.0]])
    patch = Entities("patch", np.array([4]), np.array([[1.4, 2.0]]), box, np.array([4.4]), 0.5)
    assert (mask_rings(patch).points * 0.5).tolist() == patch.polygon(0).tolist()
    assert len(mask_rings(Entities.empty())) == 0
    assert len(entities_from_rings(mask_rings(Entities.empty()), np.zeros(0, np.int64), 1.0)) == 0
