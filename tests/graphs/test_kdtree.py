import numpy as np
import pytest
from scipy.spatial import cKDTree

from histograph.graphs.kdtree import query_tree, sort_into_tree


@pytest.mark.parametrize("n", [1, 2, 12, 13, 25, 1000])
@pytest.mark.parametrize("levels", [1000, 4])
def test_nodes_divide_the_rows_and_boxes_hold_them(n, levels):
    pos = np.random.default_rng(n).integers(0, levels, (n, 2)).astype(float)
    order, placed, spans, boxes = sort_into_tree(pos, 3)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(placed, pos[order])
    for node, (low, high) in enumerate(spans):
        np.testing.assert_array_equal(boxes[node], [*placed[low:high].min(0), *placed[low:high].max(0)])
        if 2 * node + 2 < len(spans):
            assert spans[2 * node + 1, 0] == low and spans[2 * node + 2, 1] == high
            assert spans[2 * node + 1, 1] == spans[2 * node + 2, 0]


def test_only_the_first_coincident_points_are_in_the_tree():
    pos = np.full((100, 2), 5.0)
    order, _, spans, _ = sort_into_tree(pos, 3)
    assert spans[0].tolist() == [0, 4]
    assert sorted(order[:4]) == [0, 1, 2, 3]


def test_distances_equal_scipy():
    pos = np.random.default_rng(0).normal(0, [1, 100], (3000, 2)) ** 3
    order, placed, spans, boxes = sort_into_tree(pos, 6)
    neighbours = np.empty((3000, 6), np.int32)
    query_tree(placed, order, spans, boxes, neighbours, 0, 3000)
    distance = np.linalg.norm(placed[neighbours] - placed[:, None], axis=2)
    np.testing.assert_allclose(distance, cKDTree(placed).query(placed, 7)[0][:, 1:])
