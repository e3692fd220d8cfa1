from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

from histograph.evaluation import cox_loss
from histograph.evaluation.survival_cox import CoxData, ridge_cox_path
from histograph.evaluation.survival_inputs import FollowUp

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hmgdm" / "cox_loss.npz"


def _cohort(n: int, d: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, FollowUp]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d))
    time = rng.exponential(size=n) * np.exp(-0.8 * z[:, 0])
    time = np.ceil(3 * time) if ties else time
    return z, FollowUp(time, rng.random(n) < 0.6)


def _brute_force(h: np.ndarray, follow_up: FollowUp) -> float:
    """Definition, one event and one member of its risk set after the other; a sum over events."""
    total = 0.0
    for i in np.flatnonzero(follow_up.event):
        at_risk = [np.exp(h[j]) for j in range(len(h)) if follow_up.time[j] >= follow_up.time[i]]
        total += h[i] - np.log(sum(at_risk))
    return total


def _loss(h: np.ndarray, follow_up: FollowUp) -> torch.Tensor:
    return cox_loss(torch.from_numpy(h), torch.from_numpy(follow_up.time), torch.from_numpy(follow_up.event))


@pytest.mark.parametrize("n", [4, 16, 33])
def test_loss_equals_the_golden_value(n: int) -> None:
    with np.load(GOLDEN) as golden:
        columns = (torch.from_numpy(golden[f"{name}_{n}"]) for name in ("hazards", "time", "event"))
        assert cox_loss(*columns).item() == pytest.approx(float(golden[f"loss_{n}"]), rel=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_loss_equals_brute_force(ties: bool) -> None:
    z, follow_up = _cohort(25, 1, ties=ties)
    expected = -_brute_force(z[:, 0], follow_up) / 25
    assert _loss(z[:, 0], follow_up).item() == pytest.approx(expected, rel=1e-12)
    assert CoxData(z, follow_up).log_likelihood(np.ones(1)) == pytest.approx(-25 * expected, rel=1e-12)


def test_gradient_is_that_of_finite_differences() -> None:
    z, follow_up = _cohort(12, 1, ties=True)
    hazards = torch.from_numpy(z[:, 0]).requires_grad_()
    time, event = torch.from_numpy(follow_up.time), torch.from_numpy(follow_up.event)
    assert torch.autograd.gradcheck(lambda h: cox_loss(h, time, event), hazards)


def test_a_constant_changes_nothing_and_large_hazards_are_safe() -> None:
    z, follow_up = _cohort(30, 1)
    h = z[:, 0]
    assert _loss(h + 1e4, follow_up).item() == pytest.approx(_loss(h, follow_up).item(), abs=1e-9)
    for dtype in (np.float32, np.float64):
        hazards = torch.from_numpy((1e4 * h).astype(dtype)).requires_grad_()
        loss = cox_loss(hazards, torch.from_numpy(follow_up.time), torch.from_numpy(follow_up.event))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(hazards.grad).all() and hazards.grad.abs().sum() > 0


def test_order_of_subjects_and_column_shape_do_not_matter() -> None:
    z, follow_up = _cohort(20, 1, ties=True)
    order = np.random.default_rng(1).permutation(20)
    moved = FollowUp(follow_up.time[order], follow_up.event[order])
    assert _loss(z[order], moved).item() == pytest.approx(_loss(z[:, 0], follow_up).item(), rel=1e-12)


def test_without_events_there_is_nothing_to_learn() -> None:
    hazards = torch.randn(5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = cox_loss(hazards, torch.arange(5.0), torch.zeros(5))
    loss.backward()
    assert loss.item() == 0 and hazards.grad.tolist() == [0] * 5


def test_half_precision_is_computed_in_single() -> None:
    z, follow_up = _cohort(20, 1)
    hazards = torch.from_numpy(z[:, 0])
    columns = torch.from_numpy(follow_up.time), torch.from_numpy(follow_up.event)
    half = cox_loss(hazards.bfloat16(), *columns)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(cox_loss(hazards, *columns).item(), rel=0.02)


def test_descent_on_the_loss_puts_the_risky_first() -> None:
    z, follow_up = _cohort(80, 3)
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        loss = cox_loss(
            torch.from_numpy(z) @ weight,
            torch.from_numpy(follow_up.time),
            torch.from_numpy(follow_up.event),
        )
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = (weight - gradient).detach().requires_grad_()
    assert weight[0] > 0.5 and weight[1:].abs().max() < 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hazards": torch.zeros(0)}, "hazards must be floating point of shape"),
        ({"hazards": torch.zeros(3, dtype=torch.long)}, "int64"),
        ({"hazards": torch.zeros(3, 2)}, r"\(3, 2\)"),
        ({"time": torch.ones(2)}, r"time must have one entry a hazard, expected shape \(3,\), found \(2,\)"),
        ({"event": torch.ones(3, 1)}, "event must have one entry"),
        ({"time": torch.tensor([1.0, float("nan"), 2.0])}, "time must be finite"),
        ({"event": torch.tensor([1, 2, 0])}, "event must be 1"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    arguments = {"hazards": torch.zeros(3), "time": torch.ones(3), "event": torch.ones(3), **change}
    with pytest.raises(ValueError, match=message):
        cox_loss(**arguments)


@pytest.mark.parametrize("penalty", [0.01, 0.1, 1.0])
def test_ridge_regression_is_that_of_lifelines(penalty: float) -> None:
    z, follow_up = _cohort(120, 5)
    z = (z - z.mean(0)) / z.std(0, ddof=1)  # lifelines penalises the coefficients of standardised columns
    frame = pd.DataFrame(z, columns=list("abcde")).assign(time=follow_up.time, event=follow_up.event)
    expected = CoxPHFitter(penalizer=penalty).fit(frame, "time", "event").params_.to_numpy()
    [beta] = ridge_cox_path(z, follow_up, [penalty])
    assert np.allclose(beta, expected, atol=2e-4)


def test_more_columns_than_patients_reach_the_minimum() -> None:
    z, follow_up = _cohort(30, 100, ties=True)
    for penalty, beta in zip((1.0, 0.1, 0.01), ridge_cox_path(z, follow_up, (0.01, 1.0, 0.1))):
        value, gradient = CoxData(z, follow_up).objective(beta, penalty, 30.0)
        assert np.abs(gradient).max() < 1e-5
        nearby = beta + 1e-3 * np.random.default_rng(0).normal(size=100)
        assert value < CoxData(z, follow_up).objective(nearby, penalty, 30.0)[0]


def test_objective_is_the_loss_of_torch_with_its_gradient() -> None:
    z, follow_up = _cohort(40, 4, ties=True)
    beta = torch.tensor([0.5, -1.0, 0.2, 3.0], dtype=torch.float64, requires_grad=True)
    loss = cox_loss(
        torch.from_numpy(z) @ beta, torch.from_numpy(follow_up.time), torch.from_numpy(follow_up.event)
    )
    loss = loss + 0.15 * beta.square().sum()
    loss.backward()
    value, gradient = CoxData(z, follow_up).objective(beta.detach().numpy(), 0.3, 40.0)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    assert np.allclose(gradient, beta.grad, atol=1e-12)


def test_constant_columns_get_no_weight() -> None:
    _, follow_up = _cohort(10, 1)
    [beta] = ridge_cox_path(np.zeros((10, 3)), follow_up, [1.0])
    assert beta.tolist() == [0, 0, 0]
