"""Every rule of the table, broken once, is reported in one sentence."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from histograph.graphs import layer, validate
from histograph.graphs.example import example_graph
from histograph.graphs.schema import EDGE_FIELDS, GRAPH_FIELDS, NODE_FIELDS, NODE_TYPES, RELATIONS

NEAR = ("cell", "near", "cell")
INSIDE = ("cell", "in", "patch")


def drop(store, name):
    del store[name]


BREAKS = {
    "slide_id": (lambda g: drop(g.stores[0], "slide_id"), "slide_id must be a non-empty string"),
    "mpp missing": (lambda g: drop(g.stores[0], "mpp"), "mpp is missing"),
    "mpp negative": (lambda g: setattr(g, "mpp", (0.5, -1.0)), "two positive numbers"),
    "mpp one": (lambda g: setattr(g, "mpp", 0.5), "two positive numbers"),
    "provenance": (lambda g: setattr(g, "provenance", "me"), "provenance must be a dict"),
    "no pos": (lambda g: drop(g["cell"], "pos"), "cell: pos is missing"),
    "pos dtype": (lambda g: setattr(g["cell"], "pos", g["cell"].pos.double()), "pos must be torch.float32"),
    "pos 3d": (lambda g: setattr(g["cell"], "pos", torch.zeros(60, 3)), r"shape \(N, 2\)"),
    "pos nan": (
        lambda g: g["cell"].pos.__setitem__((3, 0), np.nan),
        "pos holds NaN or infinity in 1 rows.* 3",
    ),
    "x dtype": (
        lambda g: setattr(g["cell"], "x", g["cell"].x.long()),
        "x must be torch.float32, found torch.int64",
    ),
    "x rows": (lambda g: setattr(g["cell"], "x", g["cell"].x[1:]), "x has 59 rows but pos has 60"),
    "x nan": (lambda g: g["cell"].x.__setitem__((5, 1), np.inf), "x holds NaN or infinity"),
    "names short": (lambda g: g["cell"].feature_names.pop(), "feature_names has 2 names but x has 3 columns"),
    "names twice": (lambda g: setattr(g["cell"], "feature_names", ["a", "a", "b"]), "repeats a"),
    "names none": (lambda g: drop(g["cell"], "feature_names"), "feature_names must be a list of 3 strings"),
    "id missing": (lambda g: drop(g["cell"], "id"), "id is missing"),
    "id twice": (
        lambda g: g["cell"].id.__setitem__(0, int(g["cell"].id[1])),
        "not unique: 60 nodes share 59",
    ),
    "id float": (lambda g: setattr(g["cell"], "id", g["cell"].id.float()), "int64 tensor or a list of str"),
    "id short": (lambda g: setattr(g["cell"], "id", g["cell"].id[1:]), "id has 59 entries"),
    "range": (lambda g: g[NEAR].edge_index.__setitem__((1, 0), 60), "target 60, out of range for 60 nodes"),
    "negative": (lambda g: g[NEAR].edge_index.__setitem__((0, 0), -1), "source -1, out of range"),
    "index dtype": (
        lambda g: setattr(g[NEAR], "edge_index", g[NEAR].edge_index.int()),
        "must be torch.int64",
    ),
    "unsorted": (lambda g: flip(g[NEAR]), "not sorted by source"),
    "one way": (lambda g: one_way(g[NEAR]), "has no reverse edge"),
    "attr rows": (lambda g: setattr(g[NEAR], "edge_attr", g[NEAR].edge_attr[1:]), "edge_attr has .* rows"),
    "attr name": (
        lambda g: setattr(g[NEAR], "edge_attr_names", ["dx"]),
        "first edge attribute must be 'length'",
    ),
    "attr none": (lambda g: drop(g[NEAR], "edge_attr"), "edge_attr is missing"),
    "negative length": (
        lambda g: g[NEAR].edge_attr.__setitem__((4, 0), -1.0),
        "edge 4 has the negative length -1",
    ),
    "wrong length": (lambda g: g[NEAR].edge_attr.mul_(2.0), "but its ends lie"),
    "two targets": (lambda g: two_targets(g[INSIDE]), "'in' gives each source at most one"),
    "no such type": (
        lambda g: setattr(g["cell", "in", "gland"], "edge_index", torch.zeros(2, 0).long()),
        "'gland'",
    ),
}


def flip(store):
    store.edge_index, store.edge_attr = store.edge_index.flip(1), store.edge_attr.flip(0)


def one_way(store):
    keep = store.edge_index[0] < store.edge_index[1]
    store.edge_index, store.edge_attr = store.edge_index[:, keep], store.edge_attr[keep]


def two_targets(store):
    store.edge_index[0, 1] = store.edge_index[0, 0]
    store.edge_index[1, 1] = (store.edge_index[1, 0] + 1) % 4


@pytest.mark.parametrize("name", BREAKS)
def test_each_broken_rule_is_named(name):
    graph = example_graph()
    validate(graph)
    breaks, message = BREAKS[name]
    breaks(graph)
    with pytest.raises(ValueError, match=message) as caught:
        validate(graph)
    assert "\n" not in str(caught.value)


def test_homogeneous_graphs_follow_the_same_rules():
    data = layer(example_graph(), "cell")
    validate(data)
    data.edge_attr = data.edge_attr + 9.0
    with pytest.raises(ValueError, match="graph: edge 0 has length"):
        validate(data)


def test_self_loops_are_refused():
    data = layer(example_graph(), "cell").clone()
    data.edge_index[1, 0] = data.edge_index[0, 0]
    with pytest.raises(ValueError, match="1 self loops, first at node"):
        validate(data)


def test_duplicate_edges_are_refused():
    data = layer(example_graph(), "cell").clone()
    first = data.edge_index[:, :1]
    data.edge_index = torch.cat([first, data.edge_index], dim=1)
    data.edge_attr = torch.cat([data.edge_attr[:1], data.edge_attr])
    with pytest.raises(ValueError, match="stored more than once"):
        validate(data)


def test_order_of_targets_within_a_source_is_free():
    data = layer(example_graph(), "cell").clone()
    key = data.edge_index[0] * 60 - data.edge_index[1]
    order = key.argsort()
    data.edge_index, data.edge_attr = data.edge_index[:, order], data.edge_attr[order]
    validate(data)


def test_empty_graphs_are_sound():
    validate(HeteroData(slide_id="s", mpp=(0.5, 0.5)))
    validate(example_graph(cells=0))
    validate(example_graph(cells=0, patches=0))
    validate(layer(example_graph(cells=0), "cell"))
    validate(example_graph(cells=1, patches=1))


def test_text_ids_and_lists_are_sound():
    graph = example_graph()
    graph["cell"].id = [f"cell-{number}" for number in range(60)]
    graph.mpp = [0.25, 0.5]
    validate(graph)


def test_positions_far_from_the_origin_are_sound():
    graph = example_graph()
    for name in graph.node_types:
        graph[name].pos = graph[name].pos + 150_000.0
    validate(graph)


def test_other_objects_are_a_type_error():
    with pytest.raises(TypeError, match="found dict"):
        validate({"x": 1})
    with pytest.raises(ValueError, match="pos is missing"):
        validate(Data(slide_id="s", mpp=(1.0, 1.0)))


def test_the_table_names_each_field_of_an_example():
    graph = example_graph()
    assert set(graph.node_types) <= set(NODE_TYPES) and set(graph.edge_types) <= set(RELATIONS)
    for store in graph.node_stores:
        assert set(store.keys()) <= set(NODE_FIELDS)
    for store in graph.edge_stores:
        assert set(store.keys()) <= set(EDGE_FIELDS)
        assert {name for name, field in EDGE_FIELDS.items() if field.required} <= set(store.keys())
    assert set(graph.stores[0].keys()) == set(GRAPH_FIELDS)
