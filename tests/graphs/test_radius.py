import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from histograph.graphs import points as points_module
from histograph.graphs.radius import radius_edges


def by_brute_force(pos: np.ndarray, radius: float) -> np.ndarray:
    near = ((pos[:, None] - pos[None]) ** 2).sum(-1) <= radius * radius
    np.fill_diagonal(near, False)
    return np.stack(np.nonzero(near))


def cases():
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
    yield "uniform", rng.random((300, 2)), 0.1
    yield "everything in reach", rng.random((100, 2)), 5.0
    yield "nothing in reach", rng.random((300, 2)) * 1e9, 1e-6
    yield "bound included", lattice, 5.0
    yield "duplicated", rng.integers(0, 9, (300, 2)).astype(float), 1.0
    yield "radius zero", rng.integers(0, 9, (300, 2)).astype(float), 0.0
    yield "coincident", np.full((80, 2), 4.2), 0.0
    yield "clusters", np.concatenate([rng.normal(0, 1, (200, 2)), 1e7 + rng.normal(0, 1, (200, 2))]), 0.5
    yield "line", np.stack([rng.random(200), np.zeros(200)], 1), 0.05
    yield "far", rng.random((200, 2)) + 1e8, 0.1
    yield "negative", rng.random((200, 2)) - 0.5, 0.1


@pytest.mark.parametrize(("pos", "radius"), [pytest.param(p, r, id=name) for name, p, r in cases()])
def test_equals_brute_force(pos, radius):
    edge_index, edge_attr = radius_edges(pos, radius, attributes=("dx", "dy"))
    assert np.array_equal(edge_index, by_brute_force(pos, radius))
    source, target = edge_index.numpy()
    d = pos[target] - pos[source]
    np.testing.assert_allclose(edge_attr, np.column_stack([np.hypot(*d.T), d]), rtol=1e-6, atol=1e-9)


def test_equals_scipy_on_many_points():
    pos = np.random.default_rng(1).random((40_000, 2)) * 1000  # enough for threads
    pairs = cKDTree(pos).query_pairs(9.0, output_type="ndarray")
    keys = np.sort(np.concatenate([pairs[:, 0] * 40_000 + pairs[:, 1], pairs[:, 1] * 40_000 + pairs[:, 0]]))
    edge_index, _ = radius_edges(pos, 9.0)
    assert np.array_equal(edge_index[0] * 40_000 + edge_index[1], keys)


@pytest.mark.parametrize(("n", "edges"), [(0, 0), (1, 0), (2, 2)])
def test_few_points(n, edges):
    edge_index, edge_attr = radius_edges(np.zeros((n, 2)), 1.0, attributes=("sin", "cos"))
    assert edge_index.shape == (2, edges) and edge_index.dtype == torch.int64
    assert edge_attr.shape == (edges, 3) and edge_attr.dtype == torch.float32


def test_permuting_points_permutes_the_graph():
    rng = np.random.default_rng(2)
    pos = rng.random((400, 2)) * 100
    order = rng.permutation(400)
    edge_index, edge_attr = radius_edges(pos, 8.0)
    moved_index, moved_attr = radius_edges(pos[order], 8.0)
    back = order[moved_index.numpy()]
    rank = np.lexsort((back[1], back[0]))
    assert np.array_equal(back[:, rank], edge_index)
    assert torch.equal(moved_attr[rank], edge_attr)


def test_scaling_scales_lengths_and_moving_changes_nothing():
    pos = np.random.default_rng(3).integers(0, 400, (500, 2)) / 4.0  # exact in float64, also after the moves
    edge_index, edge_attr = radius_edges(pos, 7.5)
    for other, factor in [(pos * 4, 4.0), (pos / 2, 0.5), (pos - [2.0**20, 4096.0], 1.0)]:
        other_index, other_attr = radius_edges(other, 7.5 * factor)
        assert torch.equal(other_index, edge_index)
        assert torch.equal(other_attr, edge_attr * factor)


def test_kinds_of_input_agree():
    pos = np.random.default_rng(4).integers(0, 50, (200, 2))
    expected, _ = radius_edges(pos, 4)
    for same in (pos.astype(np.float32), torch.from_numpy(pos), torch.from_numpy(pos).float(), pos.tolist()):
        assert torch.equal(radius_edges(same, 4)[0], expected)


@pytest.mark.parametrize("radius", [-1.0, np.nan, np.inf])
def test_bad_radius(radius):
    with pytest.raises(ValueError, match="radius_um must be finite and not negative"):
        radius_edges(np.zeros((3, 2)), radius)


def test_bad_points_and_names():
    with pytest.raises(ValueError, match="pos must be finite"):
        radius_edges([[0, 0], [0, np.nan]], 1)
    with pytest.raises(ValueError, match="valid names"):
        radius_edges([[0, 0], [0, 1]], 1, attributes=("size",))


def test_an_absurd_radius_is_refused_before_any_edge_is_made():
    pos = np.random.default_rng(5).random((60_000, 2)) * 1000  # pixels taken for micrometres
    with pytest.raises(ValueError, match=r"radius_um=1e\+06 with 60000 points would give about 3.6e\+09"):
        radius_edges(pos, 1e6)


def test_the_exact_count_is_checked_too(monkeypatch):
    monkeypatch.setattr(points_module, "MAX_EDGES", 3)
    assert radius_edges([[0, 0], [1, 0], [9, 9]], 2.0)[0].shape == (2, 2)
    with pytest.raises(ValueError, match="more than the 3"):
        radius_edges([[0, 0], [1, 0], [0, 1]], 2.0)
