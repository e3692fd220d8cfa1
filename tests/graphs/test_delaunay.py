import numpy as np
import pytest
import scipy.spatial
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histograph.graphs.delaunay import delaunay_edges
from histograph.graphs.points import edge_attributes
from histograph.graphs.triangulate import triangulate


def pairs(edge_index):
    return set(map(tuple, edge_index.T.tolist()))


def check_form(pos, edge_index, edge_attr):
    """Check what holds for every edge builder: symmetric, sorted, unique, no loops, true lengths."""
    assert edge_index.dtype == torch.int64
    assert edge_attr.dtype == torch.float32
    assert edge_index.shape[1] == len(edge_attr)
    key = edge_index[0] * (len(pos) + 1) + edge_index[1]
    assert (key.diff() > 0).all()
    assert (edge_index[0] != edge_index[1]).all()
    assert pairs(edge_index) == pairs(edge_index.flip(0))
    assert torch.equal(edge_attr[:, :1], edge_attributes(pos, edge_index))


@pytest.mark.parametrize("n", [3, 4, 10, 4000, 70_000])
def test_equals_qhull(n):
    pos = np.random.default_rng(n).random((n, 2)) * 1000
    edge_index, edge_attr = delaunay_edges(pos)
    pointer, target = scipy.spatial.Delaunay(pos).vertex_neighbor_vertices
    source = np.repeat(np.arange(n), np.diff(pointer))
    order = np.lexsort((target, source))
    assert np.array_equal(edge_index.numpy(), np.stack([source[order], target[order]]))
    assert torch.equal(edge_attr, edge_attributes(pos, edge_index))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 5).map(float))
)
def test_edges_are_the_sides_of_the_triangles(pos):
    edge_index, edge_attr = delaunay_edges(pos)
    check_form(pos, edge_index, edge_attr)
    triangles = triangulate(pos)
    sides = {s for a, b, c in triangles.tolist() for s in ((a, b), (b, c), (c, a), (b, a), (c, b), (a, c))}
    long = edge_index[:, edge_attr[:, 0] > 0]
    if len(triangles):
        assert pairs(long) == sides
    _, first = np.unique(pos, axis=0, return_index=True)
    copies = sorted(set(range(len(pos))) - set(first.tolist()))
    zero = edge_index[:, edge_attr[:, 0] == 0]
    assert zero.shape[1] == 2 * len(copies)
    if len(pos) > 1:
        assert set(edge_index[0].tolist()) == set(range(len(pos)))  # no point is isolated


@pytest.mark.parametrize("limit", [0.02, 0.05, 10.0])
def test_max_length_leaves_out_the_longer_edges(limit):
    pos = np.random.default_rng(0).random((2000, 2))
    every, length = delaunay_edges(pos)
    edge_index, edge_attr = delaunay_edges(pos, max_length_um=limit)
    check_form(pos, edge_index, edge_attr)
    assert pairs(edge_index) == pairs(every[:, length[:, 0] <= limit])


def test_max_length_is_inclusive():
    pos = [[0, 0], [3, 4], [0, 4]]
    assert delaunay_edges(pos, max_length_um=5)[0].shape[1] == 6
    assert delaunay_edges(pos, max_length_um=np.nextafter(5.0, 0.0))[0].shape[1] == 4


def test_few_points():
    for n in (0, 1):
        edge_index, edge_attr = delaunay_edges(np.ones((n, 2)), attributes=("length", "dx"))
        assert edge_index.shape == (2, 0)
        assert edge_attr.shape == (0, 2)
    edge_index, edge_attr = delaunay_edges([[1, 1], [4, 5]])
    assert edge_index.tolist() == [[0, 1], [1, 0]]
    assert edge_attr.tolist() == [[5], [5]]


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (3, -7), (-1, -1)])
def test_collinear_points_form_a_path(direction):
    rank = np.random.default_rng(0).permutation(300)
    edge_index, edge_attr = delaunay_edges(rank.reshape(-1, 1) * np.array(direction))
    assert (np.abs(rank[edge_index[0]] - rank[edge_index[1]]) == 1).all()
    assert edge_index.shape[1] == 2 * 299
    assert np.allclose(edge_attr, np.hypot(*direction))


def test_coincident_points_hang_on_the_first():
    edge_index, edge_attr = delaunay_edges([[7, 7]] * 4)
    assert pairs(edge_index) == {(0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0)}
    assert (edge_attr == 0).all()
    edge_index, edge_attr = delaunay_edges([[0, 0], [1, 0], [0, 0], [1, 0], [0, 2]], max_length_um=1)
    check_form([[0, 0], [1, 0], [0, 0], [1, 0], [0, 2]], edge_index, edge_attr)
    assert pairs(edge_index) == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (3, 1)}


@pytest.mark.parametrize("kind", ["random", "lattice", "copies"])
def test_order_of_the_points_does_not_matter(kind):
    rng = np.random.default_rng(6)
    pos = rng.random((900, 2))
    if kind != "random":
        pos = np.stack(np.meshgrid(np.arange(30.0), np.arange(30.0)), axis=-1).reshape(-1, 2)
    order = rng.permutation(len(pos))
    if kind == "copies":
        # the lowest index among coincident points stands for them: keep them in order, shuffle the rest
        pos = np.concatenate([pos, pos[:100]])
        order = np.concatenate([order, np.arange(900, 1000)])
    edge_index, _ = delaunay_edges(pos)
    shuffled, _ = delaunay_edges(pos[order])
    assert pairs(torch.from_numpy(order)[shuffled]) == pairs(edge_index)


def test_scale_offset_and_type_do_not_matter():
    pos = np.random.default_rng(7).integers(0, 2**20, (2000, 2)).astype(float)
    edge_index, _ = delaunay_edges(pos)
    assert torch.equal(delaunay_edges(pos * 2.0**-30)[0], edge_index)
    assert torch.equal(delaunay_edges(pos + 2.0**40)[0], edge_index)
    assert torch.equal(delaunay_edges(torch.from_numpy(pos).float())[0], edge_index)


def test_attributes():
    pos = np.random.default_rng(8).random((500, 2))
    pos[100:200] = pos[:100]
    names = ("length", "dx", "dy", "angle", "sin", "cos")
    edge_index, edge_attr = delaunay_edges(pos, attributes=names)
    assert torch.equal(edge_attr, edge_attributes(pos, edge_index, names))


def test_bad_arguments():
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            delaunay_edges([[0, 0], [1, value]])
    for value in (0, -1, np.nan):
        with pytest.raises(ValueError, match="max_length_um"):
            delaunay_edges([[0, 0], [1, 1]], max_length_um=value)
    with pytest.raises(ValueError, match="unknown name"):
        delaunay_edges([[0, 0], [1, 1]], attributes=("weight",))
    with pytest.raises(ValueError, match="shape"):
        delaunay_edges([[0, 0, 0]])
