"""Heads of slides by their properties: sets, ragged batches, gradients, and other implementations."""

import numpy as np
import pytest
import torch
from torch import nn

from histograph.nn import AttentionHead, GatedAttentionHead, MeanHead, RegionTransformerHead, SlideHead

HEADS = {
    "mean": lambda **more: MeanHead(6, 3, hidden_dim=12, **more),
    "attention": lambda **more: AttentionHead(6, 3, hidden_dim=12, attention_dim=5, **more),
    "clam": lambda **more: GatedAttentionHead(6, 3, hidden_dim=12, attention_dim=5, instances=2, **more),
    "transformer": lambda **more: RegionTransformerHead(6, 3, hidden_dim=12, heads=3, **more),
}
SIZES = [4, 1, 30, 7]


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    return HEADS[request.param]().eval()


def batch(sizes=SIZES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    slide = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.randn(len(slide), 6, generator=generator), slide


def test_the_order_of_regions_changes_nothing(head):
    z, slide = batch()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(3))
    before, after = head(z, slide, 4), head(z[order], slide[order], 4)
    torch.testing.assert_close(after.logits, before.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.attention, before.attention[order], atol=1e-6, rtol=0)
    y = torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(
        head.loss(z[order], slide[order], y), head.loss(z, slide, y), atol=1e-5, rtol=0
    )


def test_a_ragged_batch_equals_one_slide_at_a_time(head):
    z, slide = batch()
    together = head(z, slide, 4)
    y = torch.tensor([0, 2, 1, 2])
    losses = []
    for number in range(4):
        rows = slide == number
        alone = head(z[rows], torch.zeros(int(rows.sum()), dtype=torch.long), 1)
        torch.testing.assert_close(alone.logits[0], together.logits[number], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.attention, together.attention[rows], atol=1e-6, rtol=0)
        losses.append(head.loss(z[rows], torch.zeros(int(rows.sum()), dtype=torch.long), y[number, None]))
    torch.testing.assert_close(torch.stack(losses).mean(), head.loss(z, slide, y), atol=1e-5, rtol=0)


def test_one_region_has_all_attention_and_a_finite_loss(head):
    z, slide = batch([1])
    reading = head.train()(z, slide, 1)
    assert reading.attention.tolist() == [1.0] and torch.isfinite(reading.logits).all()
    head.loss(z, slide, torch.tensor([1])).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_attention_is_positive_and_sums_to_one_per_slide(head):
    z, slide = batch()
    weight = head(z, slide, 4).attention
    assert (weight > 0).all()
    sums = torch.zeros(4).index_add(0, slide, weight)
    torch.testing.assert_close(sums, torch.ones(4))
    # and what is classified is the mean that it weighs
    reading = head(z, slide, 4)
    if not isinstance(head, MeanHead):
        pooled = torch.zeros(4, 12).index_add(0, slide, weight[:, None] * reading.hidden)
        torch.testing.assert_close(pooled, reading.pooled)
    torch.testing.assert_close(head.classifier(reading.pooled), reading.logits)


def test_gradients_reach_every_parameter(head):
    z, slide = batch()
    head.loss(z, slide, torch.tensor([0, 2, 1, 2])).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_only():
    z, slide = batch()
    for make in HEADS.values():
        head = make(dropout=0.5)
        torch.manual_seed(0)
        assert not torch.equal(head(z, slide, 4).logits, head(z, slide, 4).logits)
        head.eval()
        assert torch.equal(head(z, slide, 4).logits, head(z, slide, 4).logits)


def test_a_slide_without_regions_is_defined(head):
    z, slide = batch([3, 0, 2])
    reading = head(z, slide, 3)
    assert torch.isfinite(reading.logits).all()
    torch.testing.assert_close(reading.logits[2], head(z[3:], slide[3:] - 2, 1).logits[0], atol=1e-5, rtol=0)


def test_the_mean_head_is_blind_to_all_but_the_mean():
    z, slide = batch([5])
    head = HEADS["mean"]().eval()
    moved = z + torch.tensor([3.0, -3.0, 1.0, -1.0, 0.0])[:, None]
    torch.testing.assert_close(head(moved, slide, 1).logits, head(z, slide, 1).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["attention", "clam"])
def test_attention_is_that_of_the_papers(name):
    """Ilse et al., equations 8 and 9, in numpy."""
    head = HEADS[name]().eval()
    z, slide = batch([6])
    part = {key: value.detach().double().numpy() for key, value in head.state_dict().items()}
    h = np.maximum(z.double().numpy() @ part["embed.0.weight"].T + part["embed.0.bias"], 0)
    found = np.tanh(h @ part["content.weight"].T + part["content.bias"])
    if name == "clam":
        found /= 1 + np.exp(-(h @ part["gate.weight"].T + part["gate.bias"]))
    score = np.exp(found @ part["score.weight"][0])
    weight = score / score.sum()
    logits = weight @ h @ part["classifier.weight"].T + part["classifier.bias"]
    reading = head(z, slide, 1)
    np.testing.assert_allclose(reading.attention.detach().numpy(), weight, atol=1e-6)
    np.testing.assert_allclose(reading.logits[0].detach().numpy(), logits, atol=1e-5)


def test_layers_of_the_transformer_are_those_of_torch():
    """torch.nn.TransformerEncoderLayer with the same weights; ours has no biases in queries, keys and values."""
    head = HEADS["transformer"](dropout=0.0).eval()
    reference = nn.ModuleList(
        nn.TransformerEncoderLayer(12, 3, dim_feedforward=12, dropout=0.0, batch_first=True) for _ in range(2)
    )
    for ours, theirs in zip(head.layers, reference, strict=True):
        with torch.no_grad():
            theirs.self_attn.in_proj_weight.copy_(ours.attention.qkv.weight)
            theirs.self_attn.in_proj_bias.zero_()
            theirs.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
            for mine, their in ((ours.fc1, theirs.linear1), (ours.fc2, theirs.linear2)):
                their.load_state_dict(mine.state_dict())
            for mine, their in ((ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2)):
                mine.weight.uniform_(0.5, 1.5)
                their.load_state_dict(mine.state_dict())
    z, slide = batch()
    hidden = head(z, slide, 4).hidden
    for number in range(4):
        x = head.embed(z[slide == number])[None]
        for layer in reference:
            x = layer(x)
        torch.testing.assert_close(hidden[slide == number], x[0], atol=1e-5, rtol=0)


def planted(slides, seed):
    """Slides of mean exactly 0; in those of class 1 two regions lie opposite each other on the first axis."""
    rng = np.random.default_rng(seed)
    z, slide = [], []
    y = np.arange(slides) % 2
    for number in range(slides):
        part = rng.normal(size=(rng.integers(8, 16), 6))
        if y[number]:
            part[:2, 0] = [5.0, -5.0]
            part[:2, 1:] *= 0.3
        z.append(part - part.mean(axis=0))
        slide += [number] * len(part)
    return torch.tensor(np.concatenate(z), dtype=torch.float32), torch.tensor(slide), torch.tensor(y)


@pytest.mark.parametrize("name", HEADS)
def test_a_signal_that_the_mean_cannot_see_is_learnt_by_attention(name):
    torch.manual_seed(0)
    makers = {
        "mean": lambda: MeanHead(6, 2, 16),
        "attention": lambda: AttentionHead(6, 2, 16, 8, dropout=0.0),
        "clam": lambda: GatedAttentionHead(6, 2, 16, 8, dropout=0.0, instances=2),
        "transformer": lambda: RegionTransformerHead(6, 2, 12, 3, dropout=0.0),
    }
    head = makers[name]()
    z, slide, y = planted(80, 0)
    optimiser = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(120):
        optimiser.zero_grad()
        head.loss(z, slide, y).backward()
        optimiser.step()
    head.eval()
    z, slide, y = planted(200, 1)
    reading = head(z, slide, 200)
    accuracy = (reading.logits.argmax(1) == y).float().mean().item()
    if name == "mean":
        assert accuracy == 0.5  # every slide looks the same to it
        return
    assert accuracy > 0.9
    if name == "transformer":
        return  # regions have read each other: the signal is no longer in two of them alone
    first = torch.tensor([int((slide == s).nonzero()[0]) for s in y.nonzero().squeeze(1)])
    seen = reading.attention[first] + reading.attention[first + 1]
    fair = torch.stack([2.0 / (slide == s).sum() for s in y.nonzero().squeeze(1)])
    assert (seen / fair).mean() > 2  # it looks at the two regions that tell


def test_mistakes_are_named():
    for wrong, message in (
        (lambda: SlideHead(4, 1), "classes must be at least 2; found 1"),
        (lambda: MeanHead(0, 2), "in_dim must be at least 1; found 0"),
        (lambda: MeanHead(4, 2, dropout=1.0), "dropout must be from 0 to below 1; found 1.0"),
        (lambda: AttentionHead(4, 2, attention_dim=0), "attention_dim must be at least 1; found 0"),
        (lambda: RegionTransformerHead(4, 2, depth=0), "depth must be at least 1; found 0"),
        (lambda: RegionTransformerHead(4, 2, heads=5), "heads must divide"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
