"""Generation of the hidden part: exact with an oracle, isolated, order-free, and of use once trained."""

import math

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import HMGDM
from histograph.methods.hmgdm_sampling import HiddenRows, restore_hidden, sample_hidden
from tests.methods.graphs import graph, striped

SMALL = {"hidden_dim": 16, "heads": 2, "joint_depth": 1, "timesteps": 60, "schedule": "cosine"}


def small(**settings):
    torch.manual_seed(0)
    method = HMGDM(6, 2, **(SMALL | settings))
    method.before_epoch(0, [graph(30, 60, seed=9)])
    return method


def batch_of(*sizes):
    return Batch.from_data_list([graph(n, 2 * n, seed=k) for k, n in enumerate(sizes)])


def masks_of(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch.num_nodes, generator=generator) < 0.6,
        torch.rand(batch.num_edges, generator=generator) < 0.5,
    )


def all_knowing(method):
    """Replace the network by one that knows the truth and answers in the method's own target."""

    def denoise(split, encoded, latents, noisy, edge_rows, time):
        process, answers = method.diffusion, []
        truth = [split.x[split.visible :], split.edge_attr[split.known :]]
        for x0, rows in zip(truth, (noisy, edge_rows[split.known - split.condition :])):
            when = time[:1].expand(len(rows))
            kept = process.kept(when).to(rows).unsqueeze(1)
            eps = (rows - kept.sqrt() * x0) / (1 - kept).sqrt()
            answers.append(process.target(method.target, x0, eps, when))
        return tuple(answers)

    method._denoise = denoise
    return method


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("target", ["x0", "epsilon", "step"])
def test_a_perfect_decoder_gives_the_truth_in_its_units(target, sampler):
    # the sigmoid schedule keeps some signal at every level, so that the noise tells the rows also at the last
    method, batch = all_knowing(small(target=target, schedule="sigmoid")), batch_of(6, 11)
    masks = masks_of(batch)
    sample = sample_hidden(method, batch, sampler, steps=8, masks=masks, draws=2)
    for rows, values, mask in ((sample.node, batch.x, masks[0]), (sample.edge, batch.edge_attr, masks[1])):
        assert torch.equal(rows.mask, mask)
        torch.testing.assert_close(rows.truth, values[mask])
        for found in (rows.draws[0], rows.draws[1], rows.mean):
            torch.testing.assert_close(found, values[mask], atol=5e-3, rtol=0)
        assert rows.errors()["draw"] < 5e-3 < 0.5 < rows.errors()["training_mean"]


@pytest.mark.parametrize(
    "settings", [{}, {"edge_latents": False}, {"edge_mask_ratio": 0.0}, {"skips": False}]
)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_same_seed_draws_the_same_and_leaves_the_generator(settings, sampler):
    method, batch = small(**settings), batch_of(6, 11)
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in method.state_dict().items()}
    first, again = (sample_hidden(method, batch, sampler, 5, seed=4, draws=2) for _ in range(2))
    other = sample_hidden(method, batch, sampler, 5, seed=5, draws=2)
    assert torch.equal(first.node.draws, again.node.draws) and torch.equal(first.node.mask, again.node.mask)
    assert not torch.equal(first.node.draws[0], first.node.draws[1])
    assert not torch.equal(first.node.draws, other.node.draws)
    assert torch.equal(state, torch.get_rng_state()) and method.training
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert int(first.node.mask.sum()) == 3 + 6
    if "edge_latents" in settings:
        assert first.edge is None and list(first.errors().index) == ["node"]
    elif "edge_mask_ratio" in settings:
        assert first.edge.draws.shape == (2, 0, 2) and math.isnan(first.edge.errors()["draw"])
    else:
        assert int(first.edge.mask.sum()) == first.edge.draws.shape[1] == 2 * (7 + 13)


@pytest.mark.parametrize("target", ["x0", "epsilon", "step"])
def test_estimates_stay_in_the_range_of_attributes(target):
    method, batch = small(target=target, clip=2.0), batch_of(9)
    sample = sample_hidden(method, batch, steps=6)
    inside = (sample.node.draws - method.node_scale.mean) / method.node_scale.std
    assert inside.isfinite().all() and inside.abs().max() <= 2.0 + 1e-5


def noise_for(masks, draws=1, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(draws, int(mask.sum()), width, generator=generator) for mask, width in zip(masks, (6, 2))
    )


def test_storage_order_does_not_matter():
    method, data = small().eval(), graph(14, 30)
    masks = masks_of(data)
    start = noise_for(masks)
    node, edge = torch.randperm(14), torch.randperm(data.num_edges)
    place = node.argsort()
    shuffled = Data(
        x=data.x[node], edge_index=place[data.edge_index[:, edge]], edge_attr=data.edge_attr[edge]
    )
    # where each hidden row of the shuffled graph lies among the hidden rows of the first
    rank = [mask.long().cumsum(0) - 1 for mask in masks]
    rows = [rank[0][node][masks[0][node]], rank[1][edge][masks[1][edge]]]
    moved = (masks[0][node], masks[1][edge])
    turned = (start[0][:, rows[0]], start[1][:, rows[1]])
    first = sample_hidden(method, data, steps=6, masks=masks, start=start)
    second = sample_hidden(method, shuffled, steps=6, masks=moved, start=turned)
    torch.testing.assert_close(second.node.draws, first.node.draws[:, rows[0]], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(second.edge.draws, first.edge.draws[:, rows[1]], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(second.node.truth, first.node.truth[rows[0]])


def test_a_graph_is_drawn_alone_as_in_a_batch():
    method, batch = small(), batch_of(7, 12)
    masks = masks_of(batch)
    start = noise_for(masks, draws=2)
    together = sample_hidden(method, batch, steps=6, masks=masks, start=start, draws=2)
    n, e = batch.ptr[1], int((batch.edge_index[0] < 7).sum())
    hidden, edges = int(masks[0][:n].sum()), int(masks[1][:e].sum())
    parts = (slice(None, n), slice(None, e), slice(None, hidden), slice(None, edges))
    rest = (slice(n, None), slice(e, None), slice(hidden, None), slice(edges, None))
    for data, (rows, columns, drawn, lines) in zip(batch.to_data_list(), (parts, rest)):
        mine, noise = (masks[0][rows], masks[1][columns]), (start[0][:, drawn], start[1][:, lines])
        alone = sample_hidden(method, data, steps=6, masks=mine, start=noise, draws=2)
        torch.testing.assert_close(alone.node.draws, together.node.draws[:, drawn], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(alone.edge.draws, together.edge.draws[:, lines], atol=1e-3, rtol=1e-3)


def test_what_is_hidden_does_not_leak():
    method, batch = small(), batch_of(7, 12)
    masks = masks_of(batch)
    before = sample_hidden(method, batch, "ddpm", steps=5, masks=masks)
    batch.x[masks[0]] += 3.0
    batch.edge_attr[masks[1]] -= 2.0
    after = sample_hidden(method, batch, "ddpm", steps=5, masks=masks)
    assert torch.equal(before.node.draws, after.node.draws)
    assert torch.equal(before.edge.draws, after.edge.draws)
    assert not torch.equal(before.node.truth, after.node.truth)


def test_errors_are_those_of_their_definitions():
    torch.manual_seed(0)
    truth, draws, spread = torch.randn(5, 3), torch.randn(4, 5, 3), torch.tensor([1.0, 2.0, 0.5])
    centre, mean = torch.randn(3), torch.randn(5, 3)
    errors = HiddenRows(torch.ones(5, dtype=torch.bool), draws, mean, truth, centre, spread).errors()
    x, y = (draws / spread).numpy(), (truth / spread).numpy()
    distance = np.linalg.norm(x - y, axis=2)
    pairs = [np.linalg.norm(x[i] - x[j], axis=1) for i in range(4) for j in range(4) if i != j]
    wanted = {
        "draw": ((x - y) ** 2).mean() ** 0.5,
        "mean": (((mean / spread).numpy() - y) ** 2).mean() ** 0.5,
        "mean_of_draws": ((x.mean(0) - y) ** 2).mean() ** 0.5,
        "training_mean": (((centre / spread).numpy() - y) ** 2).mean() ** 0.5,
        "nearest": (distance.min(0) ** 2 / 3).mean() ** 0.5,
        "diversity": x.var(0, ddof=1).mean() ** 0.5,
        "energy": (distance.mean(0) - np.mean(pairs, 0) / 2).mean() / 3**0.5,
    }

    assert errors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert errors[name] == pytest.approx(float(value), rel=1e-5), name


def test_restoring_at_little_noise_is_easy_and_uses_the_masks():
    method, batch = all_knowing(small()), batch_of(6, 11)
    masks = masks_of(batch)
    restored = restore_hidden(method, batch, 30, masks)
    assert torch.equal(restored.node.mask, masks[0])
    torch.testing.assert_close(restored.node.mean, batch.x[masks[0]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(restored.node.draws[0], restored.node.mean)
    echo = small(target="epsilon")
    echo._denoise = lambda split, encoded, latents, noisy, edge_rows, time: (
        torch.zeros_like(noisy),
        torch.zeros_like(split.edge_attr[split.known :]),
    )
    # with an estimate of no noise what comes back is the noisy copy over its signal
    error = restore_hidden(echo, batch_of(400), 20).node.errors()["mean"]
    process = echo.diffusion
    assert error == pytest.approx(float(process.noise[20] / process.signal[20]), rel=0.05)


@pytest.mark.parametrize("schedule", ["cosine", "sigmoid"])
def test_trained_draws_know_the_hidden_nodes(schedule):
    torch.manual_seed(0)
    data = [striped(seed) for seed in range(16)]
    method = HMGDM(6, 1, **(SMALL | {"schedule": schedule}))
    method.before_epoch(0, data)
    batch, unseen = Batch.from_data_list(data), Batch.from_data_list([striped(100 + s) for s in range(16)])
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()
    errors = sample_hidden(method, unseen, "ddpm", steps=10, draws=4).errors().loc["node"]
    assert max(errors["mean"], errors["draw"]) < 0.7 * errors["training_mean"]
    assert errors["nearest"] < errors["draw"] and 0 < errors["diversity"] < 0.5
    assert errors["energy"] < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler must be one of ddim, ddpm"),
        ({"sampler": "ddpm", "eta": 0.5}, 'eta belongs to the sampler "ddim"'),
        ({"eta": -0.1}, "eta must lie"),
        ({"steps": 0}, "steps must lie between 1 and 60"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"masks": (torch.ones(3).bool(), torch.ones(12).bool())}, r"masks: expected a bool tensor of shape \(6,\)"),
        ({"masks": (torch.ones(6), torch.ones(12).bool())}, "masks: .* found .*float32"),
        ({"start": (torch.ones(1, 9, 6), None)}, r"start: expected noise of shape \(1, 3, 6\) for hidden nodes"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample_hidden(small(), graph(6, 6), **({"steps": 3} | options))


def test_one_noise_level_is_not_enough_and_times_have_bounds():
    with pytest.raises(ValueError, match=r"knows the noise level 7 only"):
        sample_hidden(small(fixed_time=7), graph(6, 6))
    with pytest.raises(ValueError, match=r"time must lie in 0 \.\. timesteps - 1 = 59, found 60"):
        restore_hidden(small(), graph(6, 6), 60)
    released = HMGDM(6, 2, hidden_dim=8, embed_dim=12, official_compat=True)
    for call in (
        lambda: sample_hidden(released, graph(6, 6)),
        lambda: restore_hidden(released, graph(6, 6), 5),
    ):
        with pytest.raises(ValueError, match="lets its encoder see the hidden nodes"):
            call()


@pytest.mark.parametrize("sizes", [[(1, 0)], [(1, 0), (9, 3)], [(0, 0), (5, 4)]])
def test_odd_graphs(sizes):
    data = Batch.from_data_list([graph(n, p, seed=k) for k, (n, p) in enumerate(sizes)])
    sample = sample_hidden(small(), data, "ddpm", steps=3)
    assert sample.node.draws.isfinite().all() and sample.edge.draws.isfinite().all()
