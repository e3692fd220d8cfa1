"""One layer of a slide's graph."""

import pytest
import torch
from torch_geometric.data import Batch, HeteroData

from histograph.graphs import layer, validate
from histograph.graphs.example import example_graph
from histograph.graphs.summary import summary


def test_a_layer_has_the_fields_of_its_type_and_relation():
    graph = example_graph()
    data = layer(graph, "cell")
    validate(data)
    assert torch.equal(data.x, graph["cell"].x) and torch.equal(data.id, graph["cell"].id)
    assert torch.equal(data.edge_index, graph["cell", "near", "cell"].edge_index)
    assert data.feature_names == ["cell_0", "cell_1", "cell_2"] and data.edge_attr_names == ["length"]
    assert data.slide_id == "example" and data.mpp == (0.5, 0.5) and data.provenance["seed"] == 0


def test_relation_by_name_by_tuple_and_by_default():
    graph = example_graph()
    graph["cell", "touches", "cell"].edge_index = torch.zeros(2, 0, dtype=torch.int64)
    assert layer(graph, "cell").num_edges == layer(graph, "cell", "near").num_edges > 0
    assert (
        layer(graph, "cell", "touches").num_edges
        == layer(graph, "cell", ("cell", "touches", "cell")).num_edges
        == 0
    )


def test_a_type_without_relation_has_no_edges():
    graph = example_graph()
    del graph["patch", "next_to", "patch"]
    data = layer(graph, "patch")
    validate(data)
    assert data.num_nodes == 4 and data.num_edges == 0


def test_data_passes_through():
    data = layer(example_graph(), "cell")
    assert layer(data) is data and layer(data, "cell") is data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"has \['cell', 'patch'\]; say which"),
        (("gland",), "no 'gland'"),
        (("cell", "next_to"), r"no 'next_to' within 'cell' in the graph; it has \['near'\]"),
        (("cell", ("cell", "in", "patch")), "within 'cell'"),
    ],
)
def test_what_is_not_there_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(example_graph(), *arguments)


def test_other_objects_are_a_type_error():
    with pytest.raises(TypeError, match="found list"):
        layer([1])


def test_layers_batch_in_pyg():
    batch = Batch.from_data_list([layer(example_graph(seed=seed), "cell") for seed in (0, 1)])
    assert batch.num_nodes == 120 and batch.slide_id == ["example", "example"]
    assert batch.get_example(1).id.tolist() == layer(example_graph(seed=1), "cell").id.tolist()


def test_graphs_of_several_types_batch_in_pyg():
    batch = Batch.from_data_list([example_graph(seed=seed) for seed in (0, 1)])
    assert isinstance(batch, HeteroData) and batch["cell"].num_nodes == 120
    assert batch["cell", "in", "patch"].edge_index[1].max() == 7


def test_summary_counts():
    graph = example_graph()
    table = summary(graph)
    edges = graph["cell", "near", "cell"]
    row = table.loc["cell – near – cell"]
    assert table.loc["cell", "nodes"] == 60 and table.loc["patch", "features"] == 2
    assert row["edges"] == edges.num_edges and row["mean_degree"] == edges.num_edges / 60
    assert row["mean_length_um"] == pytest.approx(float(edges.edge_attr.mean()))
    assert summary(example_graph(cells=0))["mean_length_um"].isna()["cell – near – cell"]
