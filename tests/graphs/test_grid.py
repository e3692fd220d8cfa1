import networkx as nx
import numpy as np
import pytest
import torch

from histograph.graphs.grid import grid_edges


def holey_lattice(seed: int = 0, spacing: float = 128.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(np.arange(14), np.arange(11)), -1).reshape(-1, 2)
    return rng.permutation(place[rng.random(len(place)) < 0.7]) * spacing + spacing / 2


@pytest.mark.parametrize(("neighbors", "limit"), [(4, 1.0), (8, 1.5)])
def test_equals_brute_force(neighbors, limit):
    pos = holey_lattice()
    near = ((pos[:, None] - pos[None]) ** 2).sum(-1) <= (limit * 128) ** 2
    np.fill_diagonal(near, False)
    edge_index, edge_attr = grid_edges(pos, 128, neighbors, attributes=("dx",))
    assert np.array_equal(edge_index, np.stack(np.nonzero(near)))
    assert torch.equal(
        edge_attr[:, 1], torch.from_numpy(pos[edge_index[1], 0] - pos[edge_index[0], 0]).float()
    )


def test_equals_networkx_on_a_full_grid():
    place = np.array([(x, y) for x in range(6) for y in range(9)])
    edge_index, edge_attr = grid_edges(place * 50.0, 50.0, neighbors=4)
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(6, 9), ordering="sorted")
    assert np.array_equal(edge_index, np.stack(np.nonzero(nx.to_numpy_array(graph, nodelist=range(54)))))
    assert (edge_attr == 50).all()


def test_no_edge_across_the_border():
    # the last place of one row and the first of the next follow each other in memory
    edge_index, _ = grid_edges([[0, 0], [10, 0], [20, 0], [0, 10]], 10.0)
    assert {tuple(e) for e in edge_index.T.tolist()} == {
        (0, 1),
        (1, 0),
        (1, 2),
        (2, 1),
        (0, 3),
        (3, 0),
        (1, 3),
        (3, 1),
    }


@pytest.mark.parametrize("neighbors", [4, 8])
def test_jitter_within_one_percent_is_no_matter(neighbors):
    pos = holey_lattice()
    shaken = pos + np.random.default_rng(1).uniform(-0.9, 0.9, pos.shape)
    assert torch.equal(grid_edges(shaken, 128, neighbors)[0], grid_edges(pos, 128, neighbors)[0])


def test_float32_far_from_the_origin_is_no_matter():
    pos = holey_lattice(spacing=0.3) + 1000.0
    assert torch.equal(grid_edges(pos.astype(np.float32), 0.3)[0], grid_edges(pos - 1000, 0.3)[0])


@pytest.mark.parametrize("n", [0, 1])
def test_few_points(n):
    edge_index, edge_attr = grid_edges(np.zeros((n, 2)), 10.0, attributes=("sin", "cos"))
    assert edge_index.shape == (2, 0) and edge_index.dtype == torch.int64
    assert edge_attr.shape == (0, 3) and edge_attr.dtype == torch.float32


def test_collinear_points():
    edge_index, _ = grid_edges([[0, 5], [0, 25], [0, 15], [0, 45]], 10)
    assert edge_index.tolist() == [[0, 1, 2, 2], [2, 2, 0, 1]]


def test_permuting_and_moving():
    pos = holey_lattice(2)
    order = np.random.default_rng(3).permutation(len(pos))
    edge_index, edge_attr = grid_edges(pos, 128)
    moved_index, moved_attr = grid_edges(torch.from_numpy(pos[order] * 2 - 4096), 256)
    back = order[moved_index.numpy()]
    rank = np.lexsort((back[1], back[0]))
    assert np.array_equal(back[:, rank], edge_index)
    assert torch.equal(moved_attr[rank], 2 * edge_attr)


@pytest.mark.parametrize(
    ("pos", "arguments", "message"),
    [
        ([[0, 0], [128, 0], [260, 0]], {}, r"spacing_um=128: x=260 at index 2 is 4 off \(3.1%"),
        (
            np.arange(40).reshape(-1, 2) * 64.0,
            {"spacing_um": 100.0},
            "the usual step between x coordinates is 128",
        ),
        ([[0, 0], [128, 0], [0, 0]], {}, "points 0 and 2 at the same one"),
        ([[0, 0], [1e12, 0]], {"spacing_um": 1e-3}, "too small"),
        ([[0, 0]], {"spacing_um": 0.0}, "spacing_um must be positive"),
        ([[0, 0]], {"spacing_um": np.nan}, "spacing_um must be positive"),
        ([[0, 0]], {"neighbors": 6}, "neighbors must be 4 or 8, found 6"),
        ([[0, np.nan]], {}, "pos must be finite"),
        ([[0, 0]], {"attributes": ("size",)}, "valid names"),
    ],
)
def test_errors_name_what_is_wrong(pos, arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_edges(pos, **{"spacing_um": 128.0, **arguments})
