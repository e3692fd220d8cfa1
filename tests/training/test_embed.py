import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_geometric.data import HeteroData

from histograph.methods import HMGDM, Embedding, Method
from histograph.training import Embeddings, embed
from tests.methods.graphs import graph


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    return HMGDM(6, 2, hidden_dim=16, heads=2)


def graphs():
    return [graph(n, n, seed=n, slide_id=f"s{n}", id=torch.arange(n) * 10 + n) for n in (9, 4, 17, 1, 6)]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_order_and_ids(method, batch_size):
    data = graphs()
    z = embed(method, data, batch_size=batch_size, progress=False)
    assert z.slide_ids == ["s9", "s4", "s17", "s1", "s6"]
    assert z.ptr.tolist() == [0, 9, 13, 30, 31, 37]
    assert torch.equal(z.node_id, torch.cat([g.id for g in data]))
    for g, single in enumerate(data):
        alone = method.encode(single)
        torch.testing.assert_close(z.node[z.ptr[g] : z.ptr[g + 1]], alone.node.detach())
        torch.testing.assert_close(z.graph[g], alone.graph[0].detach())
    assert method.training  # as before


def test_without_nodes(method):
    whole, alone = (
        embed(method, graphs(), batch_size=2, progress=False, nodes=nodes) for nodes in (True, False)
    )
    torch.testing.assert_close(alone.graph, whole.graph)
    assert (
        alone.node is None and torch.equal(alone.ptr, whole.ptr) and torch.equal(alone.node_id, whole.node_id)
    )


def test_text_ids_and_missing_names(method):
    data = [graph(3, 2, id=["a", "b", "c"]), graph(2, 1)]
    z = embed(method, data, progress=False)
    assert z.node_id == ["a", "b", "c", "0", "1"] and z.slide_ids == ["0", "1"]


def test_as_array(method):
    z = embed(method, graphs(), progress=False)
    assert np.asarray(z).shape == (5, 16) and np.array_equal(np.asarray(z), z.graph.numpy())
    assert np.asarray(z, dtype=np.float64).dtype == np.float64
    assert len(z) == 5
    assert "5 × 16" in z._repr_html_() and "<table>" in z._repr_html_()


@pytest.mark.parametrize("text", [False, True])
def test_round_trip(method, tmp_path, text):
    data = [graph(3, 2, id=["a", "b", "é"])] if text else graphs()
    z = embed(method, data, progress=False)
    z.save(tmp_path / "z.safetensors")
    again = Embeddings.load(tmp_path / "z.safetensors")
    assert (
        torch.equal(again.graph, z.graph)
        and torch.equal(again.node, z.node)
        and torch.equal(again.ptr, z.ptr)
    )
    assert list(again.node_id) == list(z.node_id) and again.slide_ids == z.slide_ids


def test_method_without_node_vectors(tmp_path):
    class GraphOnly(Method):
        def __init__(self):
            super().__init__({})
            self.weight = torch.nn.Parameter(torch.ones(()))

        def encode(self, batch):
            return Embedding(None, torch.ones(batch.num_graphs, 2))

    z = embed(GraphOnly(), graphs(), progress=False)
    z.save(tmp_path / "z")
    assert Embeddings.load(tmp_path / "z").node is None and "none" in z._repr_html_()


def test_foreign_files_are_refused(tmp_path):
    save_file({"graph": torch.zeros(1, 1)}, tmp_path / "z")
    with pytest.raises(ValueError, match="another kind"):
        Embeddings.load(tmp_path / "z")
    (tmp_path / "z").write_bytes(b"abc")
    with pytest.raises(ValueError, match="truncated"):
        Embeddings.load(tmp_path / "z")


def test_wrong_data(method):
    with pytest.raises(ValueError, match="at least one"):
        embed(method, [])
    with pytest.raises(ValueError, match="pick one"):
        embed(method, [HeteroData()])
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        embed(method, graphs(), device="gpu")
    with pytest.raises(ValueError, match="batch_size"):
        embed(method, graphs(), batch_size=0)
    with pytest.raises(ValueError, match="node_dim"):
        embed(method, [graph(node_dim=3)], progress=False)
