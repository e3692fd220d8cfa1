"""Items whose x and edge_attr are made up of several fields, and the schema's rules for latents."""

import pickle

import pytest
import torch
from torch_geometric.data import Data

from histograph.graphs import GraphDataset, GraphFile, crop, layer, load, save, validate
from histograph.graphs.example import example_graph

BOTH = {"node_fields": ("x", "latent"), "edge_fields": ("edge_attr", "edge_latent")}
NEAR = ("cell", "near", "cell")


def with_latents(seed=0, cells=60, width=3):
    """An example with random latents on its cells and their edges, and an area without a column dimension."""
    graph = example_graph(cells=cells, patches=4, seed=seed, slide_id=f"s{seed}")
    generator = torch.Generator().manual_seed(seed)
    edges = graph[NEAR].edge_index.shape[1]
    graph["cell"].latent = torch.randn(cells, width, generator=generator).half()
    graph["cell"].area_um2 = torch.rand(cells, generator=generator)
    graph[NEAR].edge_latent = torch.randn(edges, width, generator=generator).half()
    return graph


@pytest.fixture
def folder(tmp_path):
    for seed in range(2):
        save(with_latents(seed), tmp_path / f"s{seed}.safetensors")
    return tmp_path


@pytest.mark.parametrize("kind", ["file", "memory", "homogeneous"])
def test_fields_side_by_side(folder, kind):
    graph = with_latents(1)
    if kind == "file":
        data = GraphDataset(folder, node_type="cell", **BOTH)[1:]
    elif kind == "memory":
        data = GraphDataset([graph], node_type="cell", **BOTH)
    else:
        data = GraphDataset([layer(graph, "cell")], **BOTH)
    item = data[0]
    assert torch.equal(item.x, torch.cat([graph["cell"].x, graph["cell"].latent.float()], dim=1))
    assert torch.equal(
        item.edge_attr, torch.cat([graph[NEAR].edge_attr, graph[NEAR].edge_latent.float()], dim=1)
    )
    assert item.x.dtype == item.edge_attr.dtype == torch.float32
    assert item.latent.dtype == torch.float16
    assert data.node_dim == 3 + 3 and data.edge_dim == 1 + 3
    assert data.feature_names[3:] == ["latent_0", "latent_1", "latent_2"] == item.feature_names[3:]
    assert data.edge_attr_names == ["length", "edge_latent_0", "edge_latent_1", "edge_latent_2"]
    assert item.edge_attr_names == data.edge_attr_names
    assert graph["cell"].x.shape[1] == 3  # the source is as it was


def test_order_single_columns_and_latents_alone(folder):
    data = GraphDataset(
        folder, node_type="cell", node_fields=("area_um2", "latent"), edge_fields=("edge_latent",)
    )
    graph = with_latents(0)
    assert data.feature_names == ["area_um2", "latent_0", "latent_1", "latent_2"] and data.edge_dim == 3
    assert torch.equal(data[0].x[:, 0], graph["cell"].area_um2)
    assert torch.equal(data[0].edge_attr, graph[NEAR].edge_latent.float())
    assert pickle.loads(pickle.dumps(data))[0].x.shape == (60, 4)


def test_windows(folder):
    files = GraphDataset(folder, node_type="cell", window_um=60, **BOTH)
    memory = GraphDataset([with_latents(0), with_latents(1)], node_type="cell", window_um=60, **BOTH)
    assert len(files) == len(memory) > 4
    for ours, theirs in zip(files, memory, strict=True):
        assert torch.equal(ours.x, theirs.x) and torch.equal(ours.edge_attr, theirs.edge_attr)
        assert torch.equal(ours.id, theirs.id) and torch.equal(ours.latent, theirs.latent)
        assert len(ours.edge_latent) == ours.num_edges == len(ours.edge_attr)


def test_defaults_are_the_plain_items(folder):
    plain = GraphDataset(folder, node_type="cell")
    assert plain.node_dim == 3 and torch.equal(plain[0].x, with_latents(0)["cell"].x)
    assert plain[0].latent.shape == (60, 3)


def test_crop_keeps_rows():
    graph = with_latents()
    half = float(graph["cell"].pos[:, 0].median())
    part = crop(graph, (0, 0, half, 1e6))
    inside = graph["cell"].pos[:, 0] < half
    assert torch.equal(part["cell"].latent, graph["cell"].latent[inside])
    kept = inside[graph[NEAR].edge_index].all(0)
    assert torch.equal(part[NEAR].edge_latent, graph[NEAR].edge_latent[kept])


def test_file_round_trip_and_columns(folder):
    graph, again = with_latents(1), load(folder / "s1.safetensors")
    assert again["cell"].latent.dtype == torch.float16 and torch.equal(
        again["cell"].latent, graph["cell"].latent
    )
    assert torch.equal(again[NEAR].edge_latent, graph[NEAR].edge_latent)
    with GraphFile(folder / "s1.safetensors") as file:
        assert file.columns("cell") == {"x": 3, "pos": 2, "id": 1, "latent": 3, "area_um2": 1}
        assert file.columns(NEAR) == {"edge_attr": 1, "edge_latent": 3}
        with pytest.raises(ValueError, match="no node type 'tissue'"):
            file.columns("tissue")


@pytest.mark.parametrize("source", ["file", "memory"])
def test_missing_fields_name_the_slide_and_the_remedy(tmp_path, source):
    graphs = [with_latents(0), example_graph(cells=60, patches=4, seed=1, slide_id="s1")]
    given = graphs
    if source == "file":
        given = [save(graph, tmp_path / f"{graph.slide_id}.safetensors") for graph in graphs]
    with pytest.raises(ValueError, match=r"node_fields: .*s1.*no field 'latent', .*add_latents"):
        GraphDataset(given, node_type="cell", **BOTH)
    with pytest.raises(
        ValueError, match=r"edge_fields: .*s1.*no field 'edge_latent', there are \['edge_attr'\]"
    ):
        GraphDataset(given, node_type="cell", edge_fields=("edge_latent",))


def test_layer_without_a_relation(tmp_path):
    graph = with_latents()
    del graph[NEAR]
    data = GraphDataset([graph], node_type="cell", node_fields=("latent",))
    assert data.node_dim == 3 and data.edge_attr_names == ["length"] and data[0].edge_attr.shape == (0, 1)
    with pytest.raises(ValueError, match="edge_latent"):
        GraphDataset([graph], node_type="cell", **BOTH)


def test_graph_without_nodes():
    empty = with_latents(cells=0)
    data = GraphDataset([empty], node_type="cell", min_nodes=0, **BOTH)
    assert data.node_dim == 6 and data[0].x.shape == (0, 6) and data[0].edge_attr.shape == (0, 4)


def test_slides_must_have_latents_of_one_width():
    with pytest.raises(ValueError, match="differ in feature_names"):
        GraphDataset([with_latents(0), with_latents(1, width=4)], node_type="cell", **BOTH)


@pytest.mark.parametrize("fields", ["latent", (), ("x", "x"), (1,)])
def test_wrong_fields(fields):
    with pytest.raises(ValueError, match="node_fields: expected names of fields"):
        GraphDataset([with_latents()], node_type="cell", node_fields=fields)
    with pytest.raises(ValueError, match="edge_fields: expected names of fields"):
        GraphDataset([with_latents()], node_type="cell", edge_fields=fields)


def test_several_layers_at_once_have_no_fields_to_join():
    with pytest.raises(ValueError, match="give node_type too"):
        GraphDataset([with_latents()], **BOTH)


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.zeros(60, 3), "latent must be torch.float16, found torch.float32"),
        (torch.zeros(60).half(), r"latent must have shape \(rows, L\)"),
        (torch.zeros(59, 3).half(), "latent has 59 rows but there are 60 nodes; make it again"),
        (torch.full((60, 3), torch.inf).half(), "latent holds NaN or infinity in 60 rows"),
        ([1.0] * 60, "latent must be a .* tensor, found list"),
    ],
)
def test_validate_says_what_is_wrong_with_latents(latent, message):
    graph = with_latents()
    validate(graph)
    graph["cell"].latent = latent
    with pytest.raises(ValueError, match=f"cell: {message}"):
        validate(graph)
    graph["cell"].latent, whole = None, layer(with_latents(), "cell")
    whole.edge_latent = whole.edge_latent[1:]
    with pytest.raises(ValueError, match=r"graph: edge_latent has \d+ rows but there are \d+ edges"):
        validate(whole)
    assert isinstance(whole, Data)
