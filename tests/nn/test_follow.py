"""The teacher's moving average and clipping tensor by tensor, against one tensor after another; schedules."""

import numpy as np
import pytest
import torch
from torch import nn

from histograph.nn import clip_each, cosine_schedule, follow, linear_rise


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def test_follows_as_one_by_one():
    teacher, student = network(0), network(1)
    student(torch.randn(8, 3))  # moves the statistics
    wanted = [
        0.9 * old + 0.1 * new for old, new in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    follow(teacher, student, 0.9)
    for found, value in zip(teacher.parameters(), wanted, strict=True):
        torch.testing.assert_close(found, value)
    assert torch.equal(teacher[1].running_mean, student[1].running_mean)


def test_momentum_of_one_and_of_nought():
    teacher, student = network(0), network(1)
    before = [value.clone() for value in teacher.parameters()]
    follow(teacher, student, 1.0)
    assert all(map(torch.equal, teacher.parameters(), before))
    follow(teacher, student, 0.0)
    assert all(map(torch.equal, teacher.parameters(), student.parameters()))


def test_follow_refuses_other_forms():
    with pytest.raises(ValueError, match="same shapes"):
        follow(nn.Linear(2, 2), nn.Linear(3, 2), 0.5)
    with pytest.raises(ValueError, match="momentum must be from 0 to 1; found 2"):
        follow(nn.Linear(2, 2), nn.Linear(2, 2), 2)


def test_each_gradient_is_clipped_by_itself():
    weights = [nn.Parameter(torch.zeros(size)) for size in (3, 4, 2, 5)]
    for number, weight in enumerate(weights[:3]):
        weight.grad = (
            torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 10.0**-number
        )
    before = [weight.grad.clone() for weight in weights[:3]]
    clip_each(weights, 0.3)
    for weight, old in zip(weights, before, strict=False):
        wanted = nn.Parameter(torch.zeros(old.shape))
        wanted.grad = old
        torch.nn.utils.clip_grad_norm_([wanted], 0.3)
        torch.testing.assert_close(weight.grad, wanted.grad)
    norms = [float(weight.grad.norm()) for weight in weights[:3]]
    assert norms[0] == pytest.approx(0.3, abs=1e-5) and norms[2] < 0.1
    assert torch.equal(weights[2].grad, before[2]) and weights[3].grad is None
    clip_each([], 1.0)
    with pytest.raises(ValueError, match="limit must be above 0"):
        clip_each(weights, 0.0)


def test_cosine_is_symmetric_and_stops_short_of_its_end():
    values = np.array([cosine_schedule(1.0, 0.0, step, 50) for step in range(50)])
    assert values[0] == 1 and 0 < values[-1] < 0.002 and (np.diff(values) < 0).all()
    np.testing.assert_allclose(values[1:] + values[:0:-1], 1, atol=1e-12)
    assert cosine_schedule(1.0, 0.25, 50, 50) == 0.25


def test_rise_is_that_of_linspace():
    for steps in (1, 2, 7):
        found = [linear_rise(0.5, 2.0, step, steps) for step in range(steps)]
        np.testing.assert_allclose(found, np.linspace(0.5, 2.0, steps))
        assert linear_rise(0.5, 2.0, steps, steps) == 2.0
        found = [cosine_schedule(2.0, 0.0, step, 10, steps, 0.5) for step in range(steps + 1)]
        np.testing.assert_allclose(found, [*np.linspace(0.5, 2.0, steps), 2.0])


def test_schedule_messages():
    with pytest.raises(ValueError, match="step must be"):
        cosine_schedule(1, 0, -1, 5)
    with pytest.raises(ValueError, match="warmup must be from 0 to total = 5"):
        cosine_schedule(1, 0, 0, 5, 6)
