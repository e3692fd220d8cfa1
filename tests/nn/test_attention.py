from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import AttentionLayout, CrossAttention, SelfAttention, graph_attention, received_attention

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hmgdm" / "layers.npz"


def brute_force(query, key, value, query_batch, key_batch, heads):
    """Score everything against everything, then mask what is in another graph."""
    out = []
    for q, k, v in zip(query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1)):
        score = q @ k.T / q.shape[1] ** 0.5
        score = score.masked_fill(query_batch[:, None] != key_batch[None], float("-inf"))
        out.append(score.softmax(1).nan_to_num(0.0) @ v)
    return torch.cat(out, 1)


@pytest.mark.parametrize("sizes", [[7, 5, 9], [1, 60, 3, 200, 2], [30, 30]])
def test_equals_dense_masked_attention(sizes):
    torch.manual_seed(0)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    query_batch, key_batch = batch[torch.randperm(len(batch))], batch[torch.randperm(len(batch))]
    key_batch = key_batch[key_batch != 0]  # the first graph has no keys
    query, key = torch.randn(len(query_batch), 8), torch.randn(len(key_batch), 8)
    value = torch.randn(len(key_batch), 8)
    out = graph_attention(query, key, value, AttentionLayout(query_batch, key_batch, len(sizes)), heads=2)
    expected = brute_force(query, key, value, query_batch, key_batch, 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(out[query_batch == 0], torch.zeros_like(out[query_batch == 0]))


def test_gradient_equals_dense_attention():
    torch.manual_seed(1)
    batch = torch.tensor([0, 0, 0, 1, 1, 2])
    rows = [torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    layout = AttentionLayout(batch, batch, 3)
    mine = torch.autograd.grad(graph_attention(*rows, layout, heads=2).square().sum(), rows)
    theirs = torch.autograd.grad(brute_force(*rows, batch, batch, 2).square().sum(), rows)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b)


def test_no_queries_and_no_keys_keep_every_weight_in_the_graph():
    empty = torch.empty(0, dtype=torch.long)
    module = CrossAttention(8, 2)
    for query_batch, key_batch in [(empty, torch.tensor([0, 0])), (torch.tensor([0]), empty), (empty, empty)]:
        module.zero_grad()
        layout = AttentionLayout(query_batch, key_batch, 2)
        out = module(torch.randn(len(query_batch), 8), torch.randn(len(key_batch), 8), layout)
        assert out.shape == (len(query_batch), 8)
        out.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_cross_attention_equals_the_released_one():
    with np.load(GOLDEN) as file:
        golden = {name[4:]: torch.tensor(file[name]) for name in file.files if name.startswith("att_")}
    module = CrossAttention(8, int(golden["heads"]))
    weight, bias = golden["in_proj_weight"], golden["in_proj_bias"]
    module.query.load_state_dict({"weight": weight[:8], "bias": bias[:8]})
    module.key_value.load_state_dict({"weight": weight[8:], "bias": bias[8:]})
    module.out.load_state_dict({"weight": golden["out_proj.weight"], "bias": golden["out_proj.bias"]})
    x = torch.nn.functional.layer_norm(golden["x"], (8,), golden["norm.weight"], golden["norm.bias"])
    target = golden["node_target_mask"]
    layout = AttentionLayout(golden["batch"][target], golden["batch"][~target], 1)
    torch.testing.assert_close(
        module(x[target], x[~target], layout), golden["coatt_out"], atol=2e-6, rtol=1e-5
    )


def test_graphs_are_isolated_bit_by_bit():
    torch.manual_seed(2)
    batch = torch.tensor([0] * 5 + [1] * 9)
    module, layout = SelfAttention(8, 2), AttentionLayout(batch, batch, 2)
    x = torch.randn(14, 8)
    other = torch.where(batch[:, None] == 0, x, torch.randn(14, 8))
    assert torch.equal(module(x, layout)[:5], module(other, layout)[:5])


def test_no_score_between_graphs_is_stored():
    def saved(graphs):
        batch = torch.repeat_interleave(torch.arange(graphs), 40)
        rows = torch.randn(40 * graphs, 8, requires_grad=True)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            graph_attention(rows, rows, rows, AttentionLayout(batch, batch, graphs), 2)
        return sum(sizes)

    assert saved(8) <= 8 * saved(1) * 1.1


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads"):
        SelfAttention(8, 3)


@pytest.mark.parametrize("sizes", [[7, 5, 9], [1, 60, 3, 200, 2], [30, 30]])
def test_received_attention_equals_dense_weights(sizes):
    torch.manual_seed(3)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    query_batch, key_batch = batch[torch.randperm(len(batch))], batch[torch.randperm(len(batch))]
    key_batch, query_batch = key_batch[key_batch != 0], query_batch[query_batch != 1]
    query, key = torch.randn(len(query_batch), 8), torch.randn(len(key_batch), 8)
    layout = AttentionLayout(query_batch, key_batch, len(sizes))
    received = received_attention(query, key, layout, heads=2)
    dense = torch.zeros(len(key_batch))
    for q, k in zip(query.chunk(2, 1), key.chunk(2, 1)):
        score = (q @ k.T / 2).masked_fill(query_batch[:, None] != key_batch[None], float("-inf"))
        dense += score.softmax(1).nan_to_num(0.0).sum(0) / 2
    torch.testing.assert_close(received, dense, atol=1e-5, rtol=1e-4)
    for g in range(1, len(sizes)):
        queries = int((query_batch == g).sum())
        assert float(received[key_batch == g].sum()) == pytest.approx(queries, abs=1e-4)
    assert torch.equal(received[key_batch == 1], torch.zeros(sizes[1]))  # no query is in that graph
