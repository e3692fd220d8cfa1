"""How much nodes are read: sums, a brute force, order, and nodes that are never visible."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import HMGDM
from histograph.methods.hmgdm_attention import attention_read, read_once
from histograph.nn import AttentionLayout
from tests.methods.graphs import graph


def small(**settings):
    torch.manual_seed(0)
    return HMGDM(6, 2, **({"hidden_dim": 16, "heads": 2, "joint_depth": 1} | settings))


def batch_of(*sizes):
    return Batch.from_data_list([graph(n, 2 * n, seed=k) for k, n in enumerate(sizes)])


def hidden_of(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(n, generator=generator) < 0.5 for n in (batch.num_nodes, batch.num_edges))


def test_a_round_equals_the_decoder_by_hand():
    """Follow the decoder's first block, whose input does not depend on other attentions, with dense softmax."""
    method, batch = small(layers=2).eval(), batch_of(7, 12)
    nodes, edges = hidden_of(batch)
    graphs = method._read(batch)
    torch.manual_seed(5)
    weight, seen = read_once(method, graphs, nodes, edges)
    torch.manual_seed(5)
    split = method._split(graphs, nodes, edges)
    encoded = method._condition(split)
    top = torch.full((2,), 999)
    hidden = split.x[split.visible :]
    noisy = method.diffusion.noisy(hidden, torch.randn_like(hidden), top[:1].expand(len(hidden)))
    tau = method.decoder.time(top)[split.node_batch]
    layout = AttentionLayout(split.node_batch, split.node_batch, 2)
    rows = [
        method.decoder.node_latent(encoded.node_mean),
        method.decoder.node_query(method.node_embed(noisy)),
    ]
    x = method.decoder.node_joint(torch.cat(rows) + tau, layout) + tau
    reader = method.decoder.blocks[0].node
    query = reader.attention.query(reader.query_norm(x[split.visible :]))
    skip = encoded.node_layers[0] + tau[: split.visible]
    key = reader.attention.key_value(reader.context_norm(skip))[:, :16]
    wanted = torch.zeros(split.visible)
    allowed = split.node_batch[split.visible :, None] == split.node_batch[None, : split.visible]
    for q, k in zip(query.chunk(2, 1), key.chunk(2, 1)):
        wanted += (q @ k.T / 8**0.5).masked_fill(~allowed, float("-inf")).softmax(1).sum(0) / 2
    for g in range(2):
        shown, asked = ((batch.batch == g) & ~nodes).sum(), ((batch.batch == g) & nodes).sum()
        wanted[split.node_batch[: split.visible] == g] *= shown / asked
    torch.testing.assert_close(weight[~nodes], wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(weight[nodes], torch.zeros(int(nodes.sum()))) and torch.equal(seen, ~nodes)


def test_even_attention_is_one():
    batch = batch_of(7, 12)
    weight, seen = read_once(small(), small()._read(batch), *hidden_of(batch))
    for g in range(2):
        mine = weight[seen & (batch.batch == g)]
        assert float(mine.mean()) == pytest.approx(1.0, abs=1e-5)
    flat = small()
    for block in flat.decoder.blocks:
        torch.nn.init.zeros_(block.node.attention.query.weight)
        torch.nn.init.zeros_(block.node.attention.query.bias)
    torch.testing.assert_close(attention_read(flat, batch, visible=3), torch.ones(19), atol=1e-5, rtol=0)


def test_storage_order_does_not_matter():
    method, data = small().eval(), graph(14, 30)
    method.diffusion.noise.zero_()  # the only thing that is drawn row by row
    nodes, edges = hidden_of(data)
    order, lines = torch.randperm(14), torch.randperm(data.num_edges)
    edge_index = order.argsort()[data.edge_index[:, lines]]
    shuffled = Data(x=data.x[order], edge_index=edge_index, edge_attr=data.edge_attr[lines])
    first, _ = read_once(method, method._read(data), nodes, edges)
    second, _ = read_once(method, method._read(shuffled), nodes[order], edges[lines])
    torch.testing.assert_close(second, first[order], atol=1e-5, rtol=1e-4)


def test_seeded_and_without_traces():
    method, batch = small(), batch_of(7, 12)
    state = torch.get_rng_state()
    first, again, other = (attention_read(method, batch, visible=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in method.modules())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_every_node_is_visible_often_enough(monkeypatch):
    method, batch, seen = small(node_mask_ratio=0.8), batch_of(7, 12), []
    masks = HMGDM._masks
    monkeypatch.setattr(HMGDM, "_masks", lambda self, graphs: seen.append(masks(self, graphs)) or seen[-1])
    attention_read(method, batch, visible=5)
    counts = torch.stack([~nodes for nodes, _ in seen]).sum(0)
    assert counts.min() == 5 and torch.stack([~nodes for nodes, _ in seen[:-1]]).sum(0).min() == 4


def test_nodes_without_a_round_are_nan(monkeypatch):
    assert attention_read(small(), graph(1, 0)).isnan().all()
    mixed = attention_read(small(), Batch.from_data_list([graph(1, 0), graph(9, 12)]), visible=2)
    assert mixed.isnan().tolist() == [True] + [False] * 9
    never = torch.zeros(9, dtype=torch.bool)
    never[4] = True
    monkeypatch.setattr(HMGDM, "_masks", lambda self, graphs: (never, torch.zeros(24, dtype=torch.bool)))
    assert attention_read(small(), graph(9, 12), visible=1).isnan().tolist() == never.tolist()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="visible must be at least 1"):
        attention_read(small(), graph(), visible=0)
    with pytest.raises(ValueError, match="released network"):
        attention_read(HMGDM(6, 2, hidden_dim=8, embed_dim=12, official_compat=True), graph())
