import pytest
import torch

from histograph.nn import Standardise


def test_moments_over_tables_equal_those_of_all_rows():
    torch.manual_seed(0)
    rows = torch.randn(100, 3) * torch.tensor([1.0, 50.0, 1e-3]) + torch.tensor([0.0, 1e4, 7.0])
    scale = Standardise(3)
    scale.fit([rows[:10], rows[:0], rows[10:11], rows[11:]])
    torch.testing.assert_close(scale.mean, rows.double().mean(0).float())
    torch.testing.assert_close(scale.std, rows.double().std(0, correction=0).float(), rtol=1e-3, atol=0)
    assert bool(scale.fitted)


def test_constant_columns_become_zero_and_outliers_are_clipped():
    scale = Standardise(2, clip=3.0)
    scale.fit([torch.tensor([[0.1, 1.0], [0.1, -1.0]])])
    assert torch.equal(scale(torch.tensor([[0.1, 100.0]])), torch.tensor([[0.0, 3.0]]))


def test_nan_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"graph 1 .* column 2"):
        Standardise(3).fit([torch.zeros(2, 3), torch.tensor([[0.0, 0.0, float("nan")]])])
