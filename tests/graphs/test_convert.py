"""NetworkX copies keep counts, order, names and values."""

import networkx as nx
import numpy as np
import pytest
import torch

from histograph.graphs import layer, to_networkx
from histograph.graphs.example import example_graph


def test_a_layer_becomes_an_undirected_graph():
    data = layer(example_graph(), "cell")
    copy = to_networkx(data)
    assert type(copy) is nx.Graph and copy.graph == {"slide_id": "example", "mpp": (0.5, 0.5)}
    assert copy.number_of_nodes() == 60 and 2 * copy.number_of_edges() == data.num_edges
    assert list(copy.nodes) == list(range(60))
    assert [copy.nodes[row]["id"] for row in copy] == data.id.tolist()
    x = np.array([[copy.nodes[row][name] for name in data.feature_names] for row in copy], dtype=np.float32)
    assert np.array_equal(x, data.x.numpy())
    pos = np.array([copy.nodes[row]["pos"] for row in copy], dtype=np.float32)
    assert np.array_equal(pos, data.pos.numpy())
    for (source, target), length in zip(
        data.edge_index.T.tolist(), data.edge_attr[:, 0].tolist(), strict=True
    ):
        assert copy.edges[source, target] == {"length": length}


def test_degrees_agree():
    data = layer(example_graph(seed=3), "cell")
    degree = torch.bincount(data.edge_index[0], minlength=60).tolist()
    assert [value for _, value in to_networkx(data).degree()] == degree


def test_several_types_become_a_multigraph():
    graph = example_graph()
    copy = to_networkx(graph)
    assert type(copy) is nx.MultiDiGraph and copy.number_of_nodes() == 64
    assert copy.number_of_edges() == sum(store.num_edges for store in graph.edge_stores)
    assert next(iter(copy.nodes)) == ("cell", 0) and list(copy.nodes)[-1] == ("patch", 3)
    assert copy.nodes["patch", 2]["id"] == int(graph["patch"].id[2])
    inside = graph["cell", "in", "patch"]
    for (cell, patch), length in zip(
        inside.edge_index.T.tolist(), inside.edge_attr[:, 0].tolist(), strict=True
    ):
        assert copy.edges[("cell", cell), ("patch", patch), "in"] == {"length": length}


def test_one_type_of_several():
    graph = example_graph()
    assert nx.utils.graphs_equal(to_networkx(graph, "patch"), to_networkx(layer(graph, "patch")))
    with pytest.raises(ValueError, match="no 'gland'"):
        to_networkx(graph, "gland")


def test_empty_graphs_and_text_ids():
    assert to_networkx(layer(example_graph(cells=0), "cell")).number_of_nodes() == 0
    data = layer(example_graph(cells=2), "cell")
    data.id = ["a", "b"]
    assert to_networkx(data).nodes[1]["id"] == "b"


def test_a_feature_may_not_hide_a_node_attribute():
    data = layer(example_graph(), "cell")
    data.feature_names = ["pos", "b", "c"]
    with pytest.raises(ValueError, match="would hide"):
        to_networkx(data)
