"""The loss of a StarDist network against its formula."""

import numpy as np
import torch

from histograph.nn.stardist_loss import stardist_loss


def random_terms(seed: int) -> tuple[torch.Tensor, ...]:
    gen = torch.Generator().manual_seed(seed)
    logit = torch.randn(2, 1, 3, 4, generator=gen)
    dist, distance = 10 * torch.rand(2, 2, 5, 3, 4, generator=gen)
    probability = torch.rand(2, 1, 3, 4, generator=gen) * (torch.rand(2, 1, 3, 4, generator=gen) > 0.5)
    present = (torch.rand(2, 1, 3, 4, generator=gen) > 0.3).float()
    return logit, dist, probability, distance, present


def test_the_loss_is_its_formula() -> None:
    logit, dist, probability, distance, present = random_terms(0)
    terms = stardist_loss(logit, dist, probability, distance, present)
    z, p, known = (t.numpy().astype(float)[:, 0] for t in (logit, probability, present))
    d, wanted = dist.numpy().astype(float), distance.numpy().astype(float)
    entropy = error = idle = weight = 0.0
    for b, row, col in np.ndindex(2, 3, 4):
        if not known[b, row, col]:
            continue
        chance = 1 / (1 + np.exp(-z[b, row, col]))
        truth = p[b, row, col]
        entropy -= truth * np.log(chance) + (1 - truth) * np.log(1 - chance)
        error += truth * np.abs(d[b, :, row, col] - wanted[b, :, row, col]).mean()
        weight += truth
        idle += np.abs(d[b, :, row, col]).mean() * (truth == 0)
    entropy, error, idle = entropy / known.sum(), error / max(weight, 1), idle / known.sum()
    assert np.isclose(terms["probability"], entropy, rtol=1e-5)
    assert np.isclose(terms["distance"], error, rtol=1e-5)
    assert np.isclose(terms["loss"], entropy + 0.2 * (error + 1e-4 * idle), rtol=1e-5)


def test_what_is_not_known_has_no_say() -> None:
    logit, dist, probability, distance, present = random_terms(1)
    first = stardist_loss(logit, dist, probability, distance, present)["loss"]
    hidden = present == 0
    second = stardist_loss(
        torch.where(hidden, 9.0, logit),
        torch.where(hidden, 99.0, dist),
        torch.where(hidden, 1.0, probability),
        torch.where(hidden, 77.0, distance),
        present,
    )["loss"]
    torch.testing.assert_close(first, second)


def test_nothing_known_gives_a_loss_of_nothing() -> None:
    logit, dist, probability, distance, present = random_terms(2)
    logit.requires_grad_()
    loss = stardist_loss(logit, dist, probability, distance, torch.zeros_like(present))["loss"]
    loss.backward()
    assert loss == 0
    assert (logit.grad == 0).all()
