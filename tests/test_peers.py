"""The peers that benchmarks compare with are right and fair."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from peers import graphmae, supervised
from peers.graphmae import GraphMAE, scaled_cosine_error
from peers.supervised import fit_predict

from .methods.graphs import graph, striped


@pytest.fixture(params=["gin", "gat", "gcn"])
def encoder(request):
    return request.param


def method_for(encoder, **options):
    torch.manual_seed(0)
    return GraphMAE(node_dim=6, hidden_dim=16, encoder=encoder, **options).eval()


def test_scaled_cosine_error_equals_its_formula():
    out, goal = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = np.mean(
        [(1 - a @ b / np.sqrt(a @ a * (b @ b))) ** 3 for a, b in zip(out.numpy(), goal.numpy())]
    )
    assert float(scaled_cosine_error(out, goal, 3.0)) == pytest.approx(expected, rel=1e-5)
    assert float(scaled_cosine_error(out[:0], goal[:0], 3.0)) == 0


def test_graphmae_learns_a_wave(encoder):
    data = [striped(seed) for seed in range(8)]
    log = hg.pretrain(method_for(encoder), data, epochs=30, lr=1e-2, accelerator="cpu", progress=False)
    assert log["loss"].iloc[-3:].mean() < 0.6 * log["loss"].iloc[0]


def test_only_hidden_nodes_count_and_they_are_hidden(encoder, monkeypatch):
    method, data = method_for(encoder, replace_rate=0.0), graph()
    hidden = torch.zeros(data.num_nodes, dtype=torch.bool)
    hidden[::3] = True
    monkeypatch.setattr(graphmae, "random_subset", lambda *_: hidden)
    seen = {}
    method.encoder.register_forward_hook(lambda module, inputs, out: seen.update(encoded=inputs[0]))
    method.decoder.register_forward_hook(lambda module, inputs, out: seen.update(code=inputs[0], out=out))
    before = method(data)["loss"]
    (row_gradient,) = torch.autograd.grad(before, seen["out"])
    assert (row_gradient.abs().sum(1) > 0).equal(hidden)
    assert seen["encoded"][hidden].equal(method.mask_token.expand(int(hidden.sum()), -1))
    assert seen["code"][hidden].equal(method.remask_token.expand(int(hidden.sum()), -1))
    first = seen["out"]
    data.x[hidden] += 1.0  # the prediction of a hidden node must not know its features
    method(data)
    assert seen["out"].equal(first)


def test_masks_are_shares_of_each_graph_and_some_are_replaced():
    method = method_for("gin", mask_rate=0.5, replace_rate=0.3)
    batch = Batch.from_data_list([graph(nodes=n, seed=n) for n in (10, 300, 51)])
    seen = {}
    method.encoder.register_forward_hook(lambda module, inputs, out: seen.update(x=inputs[0]))
    torch.manual_seed(0)
    method(batch)
    x = method.node_scale(batch.x)
    token = (seen["x"] == method.mask_token).all(1)
    other = (seen["x"] != x).any(1) & ~token
    hidden = torch.bincount(batch.batch[token | other], minlength=3)
    # a replaced node can draw itself, which then does not show
    assert hidden[0] == 5 and abs(int(hidden[1]) - 150) <= 3 and abs(int(hidden[2]) - 25) <= 1
    assert 0.2 < int(other.sum()) / 180 < 0.4
    assert (seen["x"][other][:, None] == x[None]).all(2).any(1).all()


def test_encode_is_deterministic_equivariant_and_alone_in_the_batch(encoder):
    method, data = method_for(encoder, representation="layers", pooling="mean_std"), graph()
    z = method.encode(data)
    assert method.encode(data).node.equal(z.node)
    assert z.node.shape == (20, 48) and z.graph.shape == (1, 96)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = Data(x=data.x[order], edge_index=order.argsort()[data.edge_index])
    shuffled = method.encode(moved)
    torch.testing.assert_close(shuffled.node, z.node[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled.graph, z.graph, atol=1e-5, rtol=1e-5)
    together = method.encode(Batch.from_data_list([graph(nodes=9, seed=3), data]))
    torch.testing.assert_close(together.graph[1:], z.graph, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_is_over_the_nodes_of_each_graph(pooling):
    graphs = [graph(nodes=n, seed=n) for n in (9, 12)]
    z = method_for("gin", pooling=pooling).encode(Batch.from_data_list(graphs))
    for row, nodes in zip(z.graph, z.node.split([9, 12])):
        torch.testing.assert_close(row, nodes.mean(0) if pooling == "mean" else nodes.amax(0))


def test_graphmae_survives_a_file_and_tiny_graphs(tmp_path):
    method = method_for("gat")
    lonely = Data(x=torch.randn(1, 6), edge_index=torch.zeros(2, 0, dtype=torch.long))
    assert float(method(lonely)["loss"].detach()) == 0  # nothing to hide
    hg.pretrain(method, [graph(), graph(seed=1)], epochs=1, accelerator="cpu", progress=False)
    method.save(tmp_path / "method.safetensors")
    again = hg.methods.load_method(tmp_path / "method.safetensors")
    assert again.encode(graph()).graph.equal(method.encode(graph()).graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "mlp"}, "encoder must be one of gin, gat, gcn; found 'mlp'"),
        ({"mask_rate": 1.0}, "mask_rate must be between 0 and 1"),
        ({"hidden_dim": 10, "encoder": "gat"}, "divisible by heads = 4; found 10"),
        ({"layers": 0}, "layers must be at least 1; found 0"),
        ({"gamma": 0.5}, "gamma must be at least 1; found 0.5"),
    ],
)
def test_graphmae_refuses_what_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        GraphMAE(**({"node_dim": 6} | options))


def labelled(n, signal=2.5):
    """Graphs of noise; in class 1 the nodes of the first half differ in one column."""
    graphs, classes = [graph(nodes=12, pairs=20, seed=i) for i in range(n)], [i % 2 for i in range(n)]
    for item, label in zip(graphs, classes):
        item.x[:6, 0] += signal * label
    return graphs, classes


@pytest.mark.parametrize("patience", [None, 10])
def test_supervised_learns_a_planted_class(encoder, patience):
    graphs, y = labelled(60)
    options = {"encoder": encoder, "hidden_dim": 16, "layers": 2, "lr": 1e-2, "epochs": 30}
    p = fit_predict(graphs[:40], y[:40], graphs[40:], patience=patience, **options)
    assert p.shape == (20, 2) and np.allclose(p.sum(1), 1)
    assert (p.argmax(1) == y[40:]).mean() >= 0.8
    assert np.array_equal(p, fit_predict(graphs[:40], y[:40], graphs[40:], patience=patience, **options))
    assert not np.array_equal(p, fit_predict(graphs[:40], y[:40], graphs[40:], seed=1, **options))


def test_supervised_reads_labelled_nodes_and_their_neighbours_only():
    graphs = [striped(seed) for seed in range(6)]
    full = [(item.x[:, 0] > 0).long() for item in graphs]
    few = []
    for number, target in enumerate(full):
        rows = torch.randperm(24, generator=torch.Generator().manual_seed(number))[:6]
        few.append(torch.full((24,), -1).index_copy(0, rows, target[rows]).numpy())
    few[0][:] = -1  # a graph without any label does no harm
    p = fit_predict(graphs, few, graphs, level="node", hidden_dim=16, layers=1, epochs=30, lr=1e-2)
    assert p.shape == (6 * 24, 2)
    assert (p.argmax(1) == torch.cat(full).numpy()).mean() > 0.9


def test_supervised_takes_a_loss_such_as_that_of_cox():
    graphs, y = labelled(40, signal=3.0)
    targets = [[10.0 - 5 * label + 0.01 * i, 1.0] for i, label in enumerate(y)]  # class 1 dies early

    def cox(risk, target):
        order = target[:, 0].argsort(descending=True)
        return (risk[order].logcumsumexp(0) - risk[order]).mul(target[order, 1]).mean()

    risk = fit_predict(graphs, targets, graphs, loss=cox, hidden_dim=16, epochs=30, lr=1e-2, batch_size=64)
    assert risk.shape == (40,)
    assert risk[1::2].mean() > risk[::2].mean() + 1


def test_early_stopping_keeps_the_best_weights_and_groups_together(monkeypatch):
    graphs, y = labelled(30, signal=0.0)  # nothing to learn: the first epochs are the best
    split = []
    real = supervised.grouped_split
    monkeypatch.setattr(supervised, "grouped_split", lambda *a, **k: split.extend(real(*a, **k)) or split)
    groups = np.arange(30) // 3
    options = {"groups": groups, "hidden_dim": 16, "lr": 1e-2, "epochs": 200}
    stopped = fit_predict(graphs, y, graphs, patience=5, **options)
    assert not set(groups[split[0].train]) & set(groups[split[0].test])
    long = fit_predict(graphs, y, graphs, **options)
    assert np.abs(stopped - 0.5).mean() < 0.5 * np.abs(long - 0.5).mean()


@pytest.mark.parametrize(
    ("targets", "level", "message"),
    [
        ([0], "graph", "one entry for each graph, found 1 for 2"),
        ([[0, 1]] * 2, "node", "one row for each of 20 nodes"),
        ([[-1] * 20] * 2, "node", "label at least one node"),
        ([0, 1], "edge", 'level must be "graph" or "node"'),
    ],
)
def test_supervised_refuses_what_cannot_work(targets, level, message):
    with pytest.raises(ValueError, match=message):
        fit_predict([graph(), graph()], targets, [graph()], level=level)
