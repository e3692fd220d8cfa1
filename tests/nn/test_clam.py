"""CLAM's loss of regions against a plain version, slide by slide and class by class."""

import numpy as np
import pytest
import torch

from histograph.nn import GatedAttentionHead


def plain(score, attention, slide, y, k, margin, exclusive):
    """Take `score` (N, classes, 2) of regions; loop over slides and classes."""
    total, classes = 0.0, score.shape[1]
    for number, label in enumerate(y):
        rows = np.flatnonzero(slide == number)
        ranked = rows[np.argsort(-attention[rows], kind="stable")]
        few = min(k, len(rows) // 2)
        most, least = ranked[:few], ranked[len(ranked) - few :]
        for c in range(classes):
            pairs = []
            if c == label:
                pairs = [(row, 1) for row in most] + [(row, 0) for row in least]
            elif exclusive:
                pairs = [(row, 0) for row in most]
            losses = []
            for row, truth in pairs:
                s = score[row, c].copy()
                s[1 - truth] += margin
                losses.append(np.log(np.exp(s).sum()) - score[row, c, truth])
            if losses:
                total += np.mean(losses) / (classes if exclusive else 1)
    return total / len(y)


@pytest.mark.parametrize("loss", ["svm", "cross_entropy"])
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_loss_of_regions_is_the_plain_one(loss, exclusive, k):
    torch.manual_seed(k)
    head = (
        GatedAttentionHead(5, 3, 7, 4, instances=k, instance_loss=loss, exclusive=exclusive).double().eval()
    )
    slide = torch.tensor([0, 1, 0, 2, 2, 0, 0, 2, 3, 2, 2, 0])[torch.randperm(12)]
    z, y = torch.randn(12, 5).double(), torch.tensor([2, 0, 0, 1])
    reading = head(z, slide, 4)
    found = head.instance_loss(reading.hidden, reading.attention, slide, y)
    score = head.evidence(reading.hidden).detach().numpy().reshape(12, 3, 2)
    expected = plain(
        score,
        reading.attention.detach().numpy(),
        slide.numpy(),
        y.numpy(),
        k,
        float(loss == "svm"),
        exclusive,
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)
    whole = torch.nn.functional.cross_entropy(reading.logits, y)
    assert head.loss(z, slide, y).item() == pytest.approx(0.7 * whole.item() + 0.3 * expected, rel=1e-12)


def test_a_single_region_has_no_loss_of_its_own():
    head = GatedAttentionHead(5, 2, 7, 4)
    reading = head(torch.randn(1, 5), torch.zeros(1, dtype=torch.long), 1)
    loss = head.instance_loss(
        reading.hidden, reading.attention, torch.zeros(1, dtype=torch.long), torch.tensor([1])
    )
    assert loss.item() == 0
    loss.backward()
    assert not head.evidence.weight.grad.any()


def test_which_regions_are_chosen_carries_no_gradient():
    head = GatedAttentionHead(5, 2, 7, 4).eval()
    z, slide = torch.randn(9, 5), torch.zeros(9, dtype=torch.long)
    reading = head(z, slide, 1)
    head.instance_loss(reading.hidden, reading.attention, slide, torch.tensor([0])).backward()
    assert head.score.weight.grad is None and head.content.weight.grad is None
    assert head.embed[0].weight.grad.abs().sum() > 0


def test_without_weight_it_is_attention_alone():
    head = GatedAttentionHead(5, 2, 7, 4, instance_weight=0.0).eval()
    assert not any(name.startswith("evidence") for name, _ in head.named_parameters())
    z, slide, y = torch.randn(9, 5), torch.arange(9) // 5, torch.tensor([0, 1])
    reading = head(z, slide, 2)
    assert torch.equal(head.loss(z, slide, y), torch.nn.functional.cross_entropy(reading.logits, y))
    with pytest.raises(ValueError, match="instance_weight 0 has no classifiers"):
        head.instance_loss(reading.hidden, reading.attention, slide, y)


@pytest.mark.parametrize(
    "wrong", [{"instances": 0}, {"instance_weight": 1.0}, {"instance_loss": "hinge"}], ids=str
)
def test_mistakes_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be"):
        GatedAttentionHead(5, 2, **wrong)
