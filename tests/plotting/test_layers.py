import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from histograph.plotting.layers import take_layer

from .scenes import chain


def _pairs(segments: np.ndarray) -> set[frozenset[tuple[float, ...]]]:
    return {frozenset(map(tuple, segment.tolist())) for segment in segments}


@pytest.mark.parametrize("directions", ["both", "up", "down", "mixed"])
def test_each_undirected_edge_is_taken_once(directions: str) -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((20, 2))
    pairs = np.array([(i, j) for i in range(20) for j in range(i) if rng.random() < 0.2]).T
    stored = {
        "both": np.concatenate([pairs, pairs[::-1]], axis=1),
        "up": pairs,
        "down": pairs[::-1],
        "mixed": np.concatenate([pairs, pairs[::-1, ::2], [[3], [3]]], axis=1),
    }[directions]
    layer = take_layer(Data(pos=torch.tensor(pos), edge_index=torch.tensor(stored.copy())))
    segments, column = layer.segments()
    assert len(segments) == pairs.shape[1]
    assert _pairs(segments) == _pairs(pos[pairs.T])
    assert np.array_equal(pos[stored[:, column].T], segments)


def test_defaults_take_cells_and_their_first_relation() -> None:
    layer = take_layer(chain())
    assert layer.node_type == "cell" and len(layer.segments()[0]) == 11
    assert len(take_layer(chain(), relation="touches").segments()[0]) == 1
    assert take_layer(chain(), "patch").edge_index.shape == (2, 0)


def test_relations_between_types_keep_every_edge() -> None:
    graph = chain()
    layer = take_layer(graph, relation=("cell", "in", "patch"))
    segments, _ = layer.segments()
    assert layer.target_type == "patch" and segments.shape == (12, 2, 2)
    target = graph["patch"].pos.numpy()[graph["cell", "in", "patch"].edge_index[1]]
    assert np.array_equal(segments[:, 1], target)


def test_a_graph_without_edges_or_features_is_fine() -> None:
    layer = take_layer(Data(pos=torch.rand(3, 2)))
    assert layer.segments()[0].shape == (0, 2, 2) and layer.x.shape == (3, 0) and layer.id is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_type": "nucleus"}, r"node_type must be one of \['cell', 'patch'\], found 'nucleus'"),
        ({"relation": "far"}, "relation 'far' from node type 'cell' is not in the graph.*near"),
        ({"node_type": "patch", "relation": "near"}, "Present: none"),
    ],
)
def test_unknown_layers_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take_layer(chain(), **options)


def test_ambiguous_relation_asks_for_the_triple() -> None:
    graph = chain()
    graph["tissue"].pos = torch.rand(1, 2)
    graph["cell", "in", "tissue"].edge_index = torch.tensor([[0], [0]])
    with pytest.raises(ValueError, match="ambiguous; give the full triple"):
        take_layer(graph, relation="in")
    assert take_layer(graph, relation=("cell", "in", "tissue")).target_type == "tissue"


@pytest.mark.parametrize(
    ("pos", "message"),
    [
        (None, "have no pos"),
        (torch.rand(3, 3), r"shape \(N, 2\), found \(3, 3\)"),
        (torch.tensor([[0.0, 0.0], [np.nan, 1.0]]), "NaN or infinity at node 1"),
    ],
)
def test_bad_positions_are_named(pos: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take_layer(Data(pos=pos))


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="found str"):
        take_layer("graph.safetensors")
    with pytest.raises(ValueError, match="Data with one layer"):
        take_layer(Data(pos=torch.rand(1, 2)), node_type="cell")
    with pytest.raises(ValueError, match="no nodes"):
        take_layer(HeteroData())
