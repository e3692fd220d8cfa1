"""A step costs as much per graph in a large batch as in a small one. Bytes and calls are counted, nothing is timed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Batch

from histograph.methods import HMGDM, hmgdm
from histograph.nn import DualHypergraph, attention
from tests.methods.graphs import graph

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"


def script(name):
    """Load by path: as a module, the benchmark `hmgdm` would hide the folder `benchmarks/hmgdm`."""
    spec = importlib.util.spec_from_file_location(f"speed_{name}", SPEED / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


live_bytes = script("live_bytes")


def method_for(**settings):
    torch.manual_seed(0)
    return HMGDM(12, 3, **({"hidden_dim": 32, "heads": 2} | settings))


def batch_of(count):
    return Batch.from_data_list([graph(60, 165, 12, 3, seed=seed) for seed in range(count)])


def step(method, batch):
    method.zero_grad(set_to_none=True)
    method(batch)["loss"].backward()


def encode(method, batch):
    with torch.no_grad():
        method.encode(batch)


def count(work, method, batch):
    with live_bytes.LiveBytes(*method.parameters(), *method.buffers(), batch.x, batch.edge_attr) as live:
        work(method, batch)
    return live


def test_the_counter_counts_what_is_alive():
    given = torch.ones(10)
    with live_bytes.LiveBytes(given) as live:
        first = given + 1  # 40 bytes
        view = first[:5]
        second = torch.cat([first, given])  # 80
        del first
        assert live.now == 120  # the view keeps all of the first
        del view
        third = given * 2
        given.add_(1)
        assert live.now == 120
        del second, third
    assert (live.now, live.peak, live.largest) == (0, 120, 20)


def test_the_counter_sees_the_backward_pass():
    weight = torch.ones(8, requires_grad=True)
    with live_bytes.LiveBytes(weight) as live:
        (weight * 2).sum().backward()
    assert live.now == weight.grad.nbytes


@pytest.mark.parametrize("work", [step, encode])
def test_memory_is_linear_in_the_number_of_graphs(work):  # check 20
    method = method_for()
    one, many = (count(work, method, batch_of(graphs)).peak for graphs in (1, 32))
    assert 0 < many <= 1.1 * 32 * one


@pytest.mark.parametrize("work", [step, encode])
def test_nothing_is_as_large_as_all_nodes_by_all_nodes(work):
    batch = batch_of(32)
    largest = count(work, method_for(), batch).largest
    assert batch.num_edges * 32 <= largest < batch.num_nodes**2  # all pairs of edges would be even more


def test_dense_attention_would_be_noticed_and_gives_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "live_bytes", live_bytes)
    dense = script("hmgdm")
    method, batch = method_for(), batch_of(3)

    def loss():
        torch.manual_seed(5)
        return method(batch)["loss"]

    expected = loss()
    monkeypatch.setattr(hmgdm, "AttentionLayout", dense.DenseLayout)
    for attend in dense.PEERS.values():
        monkeypatch.setattr(attention, "graph_attention", attend)
        torch.testing.assert_close(loss(), expected)
        assert count(step, method, batch).largest >= batch.num_edges**2


@pytest.mark.parametrize("layers", [2, 5])
def test_dual_hypergraph_is_built_once_for_each_set_of_edges(layers, monkeypatch):
    sizes, build = [], DualHypergraph.from_edges
    monkeypatch.setattr(
        DualHypergraph,
        "from_edges",
        lambda edge_index, num_nodes: sizes.append(edge_index.shape[1]) or build(edge_index, num_nodes),
    )
    method, batch = method_for(layers=layers), batch_of(2)
    step(method, batch)
    assert len(sizes) == 2 and sizes[0] < sizes[1] == batch.num_edges  # visible ones, then all
    sizes.clear()
    encode(method, batch)
    assert sizes == [batch.num_edges]
