"""Balanced soft assignment: its conditions, its optimality, and the limit of low temperature."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from histograph.nn import balanced_assignment


def costs(n=12, k=4, seed=0, scale=1.0):
    return scale * torch.rand(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_shares_are_balanced_and_of_the_form_of_the_optimum(temperature):
    """log Q + C / tau is a sum of a term of the row and one of the column: the only such balanced Q is the optimum."""
    cost = costs()
    share = balanced_assignment(cost, temperature, rounds=5000, tolerance=1e-9)
    torch.testing.assert_close(share.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(share.sum(0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-8, atol=0)
    table = share.log() + cost / temperature
    table = table - table[:1]
    torch.testing.assert_close(table, table[:, :1].expand(-1, 4))


def test_low_temperature_gives_the_cheapest_assignment():
    cost = costs()
    share = balanced_assignment(cost, 1e-3, rounds=20000, tolerance=1e-6)
    row, slot = linear_sum_assignment(cost.repeat_interleave(3, dim=1).numpy())
    assert share.argmax(1).tolist() == [slot[i] // 3 for i in row]


def test_no_number_is_too_large_or_too_small():
    """Costs of up to 10^9 temperatures, all for one cluster; balance would take very many rounds."""
    cost = costs(50, 3, scale=1e6)
    cost[:, 0] = 0
    for few in (1, 2, 200):
        share = balanced_assignment(cost, 1e-3, rounds=few)
        torch.testing.assert_close(share.sum(1), torch.ones(50, dtype=torch.float64))


def test_a_share_once_too_small_for_a_number_returns():
    """After the first round the shares of the cheap cluster differ by more than floating point holds."""
    cost = torch.tensor([[0.0, 0.0], [0.0, 100.0], [0.0, 100.0], [0.0, 100.5]], dtype=torch.float64)
    share = balanced_assignment(cost, 0.1, rounds=3000, tolerance=1e-6)
    torch.testing.assert_close(share.sum(0), torch.full((2,), 2.0, dtype=torch.float64), rtol=1e-5, atol=0)
    assert float(share[3, 1]) < 0.05 and float(share[0, 1]) > 0.99


def test_type_is_kept():
    assert balanced_assignment(costs().float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": torch.zeros(3)}, r"cost must be a table \(n, k\)"),
        ({"cost": torch.full((2, 2), torch.inf)}, "cost must be finite"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        balanced_assignment(**{"cost": costs(), **change})
