import networkx as nx
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from histograph.graphs import knn as module
from histograph.graphs import points as points_module
from histograph.graphs.knn import knn_edges


def cloud(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(np.arange(15.0), np.arange(15.0)), -1).reshape(-1, 2)
    return {
        "uniform": rng.random((300, 2)) * 100,
        "lattice": rng.permutation(lattice),
        "coincident": np.full((150, 2), 3.7),
        "duplicated": rng.integers(0, 7, (300, 2)).astype(float),
        "clusters": np.concatenate(
            [rng.normal(0, 1e-3, (150, 2)), rng.normal(5, 1e-4, (100, 2)), rng.random((5, 2)) * 1e6]
        ),
        "horizontal": np.stack([rng.random(200), np.full(200, 2.0)], 1),
        "diagonal": np.repeat(rng.random((200, 1)), 2, axis=1),
        "far": rng.random((200, 2)) + 1e8,
    }[name]


CLOUDS = ["uniform", "lattice", "coincident", "duplicated", "clusters", "horizontal", "diagonal", "far"]


def by_brute_force(pos: np.ndarray, k: int) -> np.ndarray:
    n = len(pos)
    square = ((pos[:, None] - pos[None]) ** 2).sum(-1)
    adjacent = np.zeros((n, n), bool)
    for i in range(n):
        order = np.lexsort((np.arange(n), pos[:, 1], pos[:, 0], square[i]))
        adjacent[i, order[order != i][:k]] = True
    return np.stack(np.nonzero(adjacent | adjacent.T))


@pytest.mark.parametrize("search", ["grid", "tree", "as it decides"])
@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("k", [1, 4, 25])
def test_equals_brute_force_ties_included(name, k, search, monkeypatch):
    monkeypatch.setattr(
        module, "_CROWDED", {"grid": np.inf, "tree": 0.0, "as it decides": module._CROWDED}[search]
    )
    pos = cloud(name)
    edge_index, edge_attr = knn_edges(pos, k)
    assert np.array_equal(edge_index, by_brute_force(pos, k))
    source, target = edge_index.numpy()
    np.testing.assert_allclose(edge_attr[:, 0], np.linalg.norm(pos[source] - pos[target], axis=1), rtol=1e-6)


def test_equals_scipy_on_many_points():
    pos = np.random.default_rng(1).random((40_000, 2)) * 1000  # enough for threads
    _, neighbours = cKDTree(pos).query(pos, 7)
    source = np.repeat(np.arange(len(pos)), 6)
    target = neighbours[:, 1:].ravel()
    keys = np.unique(np.concatenate([source * len(pos) + target, target * len(pos) + source]))
    edge_index, _ = knn_edges(pos, 6)
    assert np.array_equal(edge_index[0] * len(pos) + edge_index[1], keys)


@pytest.mark.parametrize("scale", [1e-7, 1.0])
def test_tight_clusters_and_outliers_do_not_go_quadratic(scale):
    rng = np.random.default_rng(2)
    # every pair compared would be 4e9 comparisons; the tree needs a fraction of a second
    centres = rng.random((4, 2)) * 1e6
    pos = np.concatenate(
        [centre + rng.normal(0, scale, (15_000, 2)) for centre in centres] + [rng.random((9, 2)) * 1e9]
    )
    edge_index, _ = knn_edges(pos, 5)
    distance, _ = cKDTree(pos).query(pos[:200], 6)
    nearest = np.full(len(pos), np.inf)
    length = np.linalg.norm(pos[edge_index[0]] - pos[edge_index[1]], axis=1)
    np.minimum.at(nearest, edge_index[0].numpy(), length)
    np.testing.assert_allclose(nearest[:200], distance[:, 1])


def test_many_coincident_points_do_not_go_quadratic():
    edge_index, edge_attr = knn_edges(np.full((60_000, 2), 5.0), 3)
    # the first four points are everybody's neighbours
    assert edge_index.shape[1] == 2 * (6 + (60_000 - 4) * 3)
    assert not edge_attr.any()


def test_coincident_cells_keep_their_edge():
    # field bug E.2: elsewhere edges of length zero vanish; with k=1 both cells become isolated
    edge_index, edge_attr = knn_edges([[5, 5], [5, 5], [9, 9]], k=1, attributes=("angle", "sin", "cos"))
    assert edge_index.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    assert edge_attr[0].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("k", [1, 8, 100])
def test_few_points(n, k):
    pos = np.random.default_rng(n).random((n, 2))
    edge_index, edge_attr = knn_edges(pos, k, attributes=("dx",))
    assert edge_index.dtype == torch.int64 and edge_attr.dtype == torch.float32
    assert edge_attr.shape == (edge_index.shape[1], 2)
    if k >= n - 1:
        complete = nx.to_numpy_array(nx.complete_graph(n)) if n else np.zeros((0, 0))
        assert np.array_equal(edge_index, np.stack(np.nonzero(complete)))
    else:
        assert np.array_equal(edge_index, by_brute_force(pos, k))


@pytest.mark.parametrize("name", CLOUDS)
def test_symmetric_sorted_simple(name):
    edge_index, _ = knn_edges(cloud(name), 5)
    n = len(cloud(name))
    keys = edge_index[0] * n + edge_index[1]
    assert (keys.diff() > 0).all()
    assert torch.equal((edge_index[1] * n + edge_index[0]).sort().values, keys)
    assert (edge_index[0] != edge_index[1]).all()
    assert np.bincount(edge_index[0], minlength=n).min() >= 5


@pytest.mark.parametrize("name", ["uniform", "lattice", "clusters", "diagonal"])
def test_permuting_points_permutes_the_graph(name):
    pos = cloud(name)
    order = np.random.default_rng(5).permutation(len(pos))
    edge_index, edge_attr = knn_edges(pos, 4)
    moved_index, moved_attr = knn_edges(pos[order], 4)
    back = order[moved_index.numpy()]
    rank = np.lexsort((back[1], back[0]))
    assert np.array_equal(back[:, rank], edge_index)
    assert torch.equal(moved_attr[rank], edge_attr)


def test_scaling_scales_lengths_and_moving_changes_nothing():
    pos = np.random.default_rng(6).integers(0, 4000, (500, 2)) / 4.0  # exact in float64, also after the moves
    edge_index, edge_attr = knn_edges(pos, 6)
    for other, factor in [(pos * 8, 8.0), (pos / 2, 0.5), (pos - [2.0**20, 4096.0], 1.0)]:
        other_index, other_attr = knn_edges(other, 6)
        assert torch.equal(other_index, edge_index)
        assert torch.equal(other_attr, edge_attr * factor)


def test_kinds_of_input_agree():
    pos = np.random.default_rng(7).integers(0, 50, (200, 2))
    expected, _ = knn_edges(pos, 4)
    for same in (pos.astype(np.float32), torch.from_numpy(pos), torch.from_numpy(pos).float(), pos.tolist()):
        assert torch.equal(knn_edges(same, 4)[0], expected)


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_bad_k(k):
    with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
        knn_edges(np.zeros((5, 2)), k)


def test_bad_points_and_names():
    with pytest.raises(ValueError, match="pos must be finite"):
        knn_edges([[0, 0], [0, np.nan]], 1)
    with pytest.raises(ValueError, match="valid names"):
        knn_edges([[0, 0], [0, 1]], 1, attributes=("size",))


def test_an_absurd_graph_is_refused(monkeypatch):
    monkeypatch.setattr(points_module, "MAX_EDGES", 50)
    with pytest.raises(ValueError, match="choose a smaller k"):
        knn_edges(np.random.default_rng(0).random((20, 2)), 8)
