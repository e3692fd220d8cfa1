"""Files hold exactly the graph, windows are the induced sub-graph, and broken files say what is wrong."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch_geometric.data import Data, HeteroData

from histograph.graphs import GraphFile, crop, layer, load, save, validate
from histograph.graphs import store as store_module
from histograph.graphs.example import example_graph
from histograph.graphs.header import read_header
from histograph.graphs.order import canonical

NEAR = ("cell", "near", "cell")


def same(first, second):
    """Whether two graphs are equal, field by field, in names, types and values."""
    if type(first) is not type(second) or len(first.stores) != len(second.stores):
        return False
    keys = [s._key for s in first.stores]
    if sorted(map(str, keys)) != sorted(str(s._key) for s in second.stores):
        return False
    other = {str(s._key): s for s in second.stores}
    for store in first.stores:
        twin = other[str(store._key)]
        if set(store.keys()) != set(twin.keys()):
            return False
        for name, value in store.items():
            if isinstance(value, torch.Tensor):
                if value.dtype != twin[name].dtype or not torch.equal(value, twin[name]):
                    return False
            elif value != twin[name] or type(value) is not type(twin[name]):
                return False
    return True


def permuted(graph, seed):
    """The same graph with nodes and edges in another, still valid order."""
    random = np.random.default_rng(seed)
    result, rank = HeteroData(), {}
    for name, value in graph.stores[0].items():
        result[name] = value
    for name, store in graph.node_items():
        order = random.permutation(store.num_nodes)
        rank[name] = torch.from_numpy(np.argsort(order))
        for field, value in store.items():
            result[name][field] = value[torch.from_numpy(order)] if isinstance(value, torch.Tensor) else value
    for key, store in graph.edge_items():
        ends = torch.stack([rank[key[0]][store.edge_index[0]], rank[key[2]][store.edge_index[1]]])
        order = torch.argsort(ends[0], stable=True)
        result[key].edge_index, result[key].edge_attr = ends[:, order], store.edge_attr[order]
        result[key].edge_attr_names = store.edge_attr_names
    return result


@pytest.mark.parametrize("cells", [0, 1, 2, 60, 3000])
def test_round_trip_is_exact(tmp_path, cells):
    graph = example_graph(cells=cells, patches=16)
    assert same(load(save(graph, tmp_path / "a.safetensors")), graph)
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


def test_round_trip_of_a_layer_and_of_further_fields(tmp_path):
    data = layer(example_graph(), "cell")
    data.y = torch.tensor([3])
    data.label = torch.arange(60)
    data.embedding = torch.rand(60, 4).to(torch.bfloat16)
    data.edge_weight = torch.rand(data.num_edges)
    data.stain, data.levels, data.nothing = "H&E", [1, 2.5, None], {"deep": {"er": [1]}}
    again = load(save(data, tmp_path / "a.safetensors"))
    assert isinstance(again, Data) and same(again, data)
    graph = example_graph()
    graph["cell"].area_um2, graph["cell"].bbox = torch.rand(60), torch.rand(60, 4)
    graph["cell"].palette = ["red", "blue"]
    graph[NEAR].note, graph.y, graph.vector = "x", torch.tensor([0.5]), torch.rand(7)
    assert same(load(save(graph, tmp_path / "b.safetensors")), graph)


def test_text_ids_round_trip_whole_and_in_windows(tmp_path):
    graph = example_graph(cells=3000, patches=16)
    graph["cell"].id = [f"cellule n° {number}" for number in graph["cell"].id.tolist()]
    graph = canonical(graph)
    path = save(graph, tmp_path / "a.safetensors")
    assert same(load(path), graph)
    with GraphFile(path) as file:
        assert same(file.window((100, 50, 300, 210)), crop(graph, (100, 50, 300, 210)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cells=st.integers(0, 80))
def test_the_order_given_does_not_matter(tmp_path_factory, seed, cells):
    folder = tmp_path_factory.mktemp("order")
    graph = example_graph(cells=cells, seed=seed)
    graph["cell"].pos = (graph["cell"].pos / 64).round() * 64  # many cells on one spot: ties go by id
    for key in (NEAR, ("cell", "in", "patch")):
        ends = graph[key].edge_index
        steps = graph["cell"].pos[ends[0]] - graph[key[2]].pos[ends[1]]
        graph[key].edge_attr = steps.norm(dim=1, keepdim=True)
    graph = canonical(graph)
    other = permuted(graph, seed)
    validate(other)
    before = other["cell"].id.clone()
    assert same(load(save(other, folder / "a.safetensors")), graph)
    assert torch.equal(other["cell"].id, before)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), box=st.tuples(*[st.floats(-50, 560)] * 4))
def test_windows_are_the_induced_sub_graph(tmp_path_factory, seed, box):
    x0, x1, y0, y1 = sorted(box[:2]) + sorted(box[2:])
    if x0 == x1 or y0 == y1:
        return
    path = tmp_path_factory.getbasetemp() / f"window-{seed % 3}.safetensors"
    if not path.exists():
        save(example_graph(cells=2500, patches=16, seed=seed % 3), path)
    whole = load(path)
    with GraphFile(path) as file:
        part = file.window((x0, y0, x1, y1))
    validate(part)
    assert same(part, crop(whole, (x0, y0, x1, y1)))
    inside = (whole["cell"].pos >= torch.tensor([x0, y0]).double()) & (
        whole["cell"].pos < torch.tensor([x1, y1]).double()
    )
    assert part["cell"].id.tolist() == whole["cell"].id[inside.all(dim=1)].tolist()


def test_window_of_node_types_and_relations(tmp_path):
    graph = example_graph(cells=2000, patches=16)
    file = GraphFile(save(graph, tmp_path / "a.safetensors"))
    box = (0.0, 0.0, 128.0, 128.0)
    assert file.window(box, ["cell"]).edge_types == [NEAR]
    assert file.window(box, ["cell"], []).edge_types == []
    assert file.load(["patch"]).node_types == ["patch"]
    assert same(file.window(box), pickle.loads(pickle.dumps(file)).window(box))
    file.close()
    assert len(file.window(box)["patch"].pos) == 1  # closed files open again
    with pytest.raises(ValueError, match="no node type 'gland'"):
        file.load(["gland"])
    with pytest.raises(ValueError, match="no relation"):
        file.window(box, relations=[("cell", "far", "cell")])
    for bad in [(0, 0, 0, 1), (0, 0, 1), (0, 0, np.nan, 1), (5, 0, 1, 1)]:
        with pytest.raises(ValueError, match="window: expected"):
            file.window(bad)


def test_header_facts_without_reading_tensors(tmp_path):
    graph = example_graph(cells=2000, patches=16)
    file = GraphFile(save(graph, tmp_path / "a.safetensors"))
    assert file.node_types == ["cell", "patch"] and set(file.relations) == set(graph.edge_types)
    assert file.num_nodes() == {"cell": 2000, "patch": 16}
    assert file.num_edges()[NEAR] == graph[NEAR].num_edges
    assert file.header["mpp"] == (0.5, 0.5) and file.header["provenance"] == graph.provenance
    low, high = graph["cell"].pos.min(dim=0).values.tolist(), graph["cell"].pos.max(dim=0).values.tolist()
    assert file.extent(["cell"]) == (*low, *high)
    assert torch.equal(file.pos("cell"), graph["cell"].pos)
    assert "2000 cell" in repr(file)
    assert GraphFile(save(example_graph(cells=0, patches=0), tmp_path / "b.safetensors")).extent() is None


def test_the_file_is_as_the_specification_says(tmp_path):
    graph = example_graph(cells=2500, patches=16)
    path = save(graph, tmp_path / "a.safetensors")
    with safe_open(path, framework="np") as file:
        header = file.metadata()
        assert header["format"] == "histograph.graph" and header["format_version"] == "1.0"
        assert json.loads(header["feature_names"])["cell"] == graph["cell"].feature_names
        pointer, ends = (
            file.get_tensor("cell|near|cell.edge_ptr"),
            file.get_tensor("cell|near|cell.edge_index"),
        )
        boxes, pos = file.get_tensor("cell.block_bbox"), file.get_tensor("cell.pos")
    assert np.array_equal(np.repeat(np.arange(2500), np.diff(pointer)), ends[0])
    assert boxes.shape == (3, 4) and boxes.dtype == np.float32
    for block in range(3):
        points = pos[1024 * block : 1024 * (block + 1)]
        assert np.array_equal(boxes[block], np.concatenate([points.min(0), points.max(0)]))


def test_loaded_graphs_do_not_depend_on_the_file(tmp_path):
    graph = example_graph()
    path = save(graph, tmp_path / "a.safetensors")
    again, part = load(path), GraphFile(path).window((0, 0, 999, 999))
    path.write_bytes(b"\0" * path.stat().st_size)
    part["cell"].x += 1.0
    assert same(again, graph) and torch.equal(part["cell"].x, graph["cell"].x + 1.0)


@pytest.fixture
def saved(tmp_path):
    return save(example_graph(), tmp_path / "a.safetensors")


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
def test_a_file_cut_off_says_so(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"a\.safetensors is cut off"):
        load(saved)


def test_other_files_say_what_they_are(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        GraphFile(tmp_path)
    for content, message in [
        (b"", "is empty"),
        (b"PK\3\4" * 99, "not a safetensors"),
        (b"{}", "not a safetensors"),
    ]:
        saved.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(saved)
    saved.write_bytes((20).to_bytes(8, "little") + b"{nonsense that is long enough")
    with pytest.raises(ValueError, match="not a safetensors"):
        load(saved)
    save_file({"weight": torch.zeros(3)}, saved)
    with pytest.raises(ValueError, match="not a histograph graph"):
        load(saved)


def test_newer_major_versions_are_refused_and_minor_ones_read(saved):
    with safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    save_file(tensors, saved, metadata={**header, "format_version": "1.7", "later": "[1]"})
    assert same(load(saved), example_graph())
    save_file(tensors, saved, metadata={**header, "format_version": "2.0"})
    with pytest.raises(ValueError, match=r"format version 2\.0, this histograph reads up to 1\.x"):
        load(saved)


def test_a_failed_write_leaves_the_old_file_and_no_other(saved, monkeypatch):
    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(example_graph(cells=3), saved)
    assert [item.name for item in saved.parent.iterdir()] == ["a.safetensors"]
    assert same(load(saved), example_graph())


def test_places_that_cannot_be_written_are_named(tmp_path):
    graph = example_graph(cells=3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save(graph, tmp_path / "nowhere" / "a.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"a\.safetensors"):
        save(graph, tmp_path / "file" / "a.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save(graph, tmp_path)
    with pytest.raises(PermissionError, match=r"a\.safetensors"):
        raise_as_read_only(graph, tmp_path)


def raise_as_read_only(graph, folder):
    """Write where touching a file is not allowed; root may write anywhere, so the refusal is made."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(self, exist_ok=True):
            raise PermissionError(13, "Permission denied", str(self))

        patch.setattr(Path, "touch", refuse)
        save(graph, folder / "a.safetensors")


def test_what_cannot_be_stored_is_named(tmp_path):
    graph = example_graph()
    graph.tool = object()
    with pytest.raises(TypeError, match=r"graph\.tool cannot be stored"):
        save(graph, tmp_path / "a.safetensors")
    graph = example_graph()
    graph["cell"].adjacency = torch.eye(60).to_sparse()
    with pytest.raises(TypeError, match="sparse"):
        save(graph, tmp_path / "a.safetensors")
    graph = example_graph()
    graph["cell"].x[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        save(graph, tmp_path / "a.safetensors")
    graph = example_graph()
    graph["a.b"].update(example_graph()["patch"].to_dict())
    with pytest.raises(ValueError, match="may not be empty"):
        save(graph, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_sparse_tensors_are_named_where_nodes_are_put_in_order(tmp_path):
    graph = permuted(example_graph(), 0)
    graph["cell"].adjacency = torch.eye(60).to_sparse()
    with pytest.raises(TypeError, match="adjacency cannot be stored: it is sparse"):
        save(graph, tmp_path / "a.safetensors")


def test_a_file_written_anew_is_not_read_by_its_old_header(tmp_path):
    path = save(example_graph(cells=60), tmp_path / "a.safetensors")
    file = GraphFile(path)
    save(example_graph(cells=90), path)
    with pytest.raises(
        ValueError, match=r"a\.safetensors was written anew since it was opened; open it again"
    ):
        file.load()
    assert len(GraphFile(path).load(["cell"])["cell"].pos) == 90


def test_tensors_that_share_memory_are_stored(tmp_path):
    graph = example_graph()
    graph["cell"].bbox = torch.cat([graph["cell"].pos] * 2, dim=1)
    both = torch.rand(60, 6)
    graph["cell"].x, graph["cell"].other = both[:, :3], both[:, 3:]
    graph["cell"].again = graph["cell"].x
    assert same(load(save(graph, tmp_path / "a.safetensors")), graph)


def test_read_header_is_cheap_and_complete(saved):
    header = read_header(saved)
    assert header["kind"] == "hetero" and header["slide_id"] == "example" and header["block_size"] == 1024
