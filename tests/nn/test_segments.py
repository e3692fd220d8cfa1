import pytest
import torch

from histograph.nn import SparseSum, segment_max, segment_mean, segment_softmax, segment_sum, segments


def test_segments_equal_a_loop_and_leave_empty_ones_zero():
    torch.manual_seed(0)
    values, batch = torch.randn(20, 3), torch.randint(0, 5, (20,))
    batch[batch == 2] = 4
    for g in range(5):
        rows = values[batch == g]
        expected = rows if len(rows) else torch.zeros(1, 3)
        torch.testing.assert_close(segment_sum(values, batch, 5)[g], expected.sum(0))
        torch.testing.assert_close(segment_mean(values, batch, 5)[g], expected.mean(0))
        assert torch.equal(segment_max(values, batch, 5)[g], expected.max(0).values)
        if len(rows):
            torch.testing.assert_close(segment_softmax(values, batch, 5)[batch == g], rows.softmax(0))


def test_softmax_of_large_scores_is_finite():
    out = segment_softmax(torch.tensor([1e4, 1e4, -1e4]), torch.tensor([0, 0, 0]), 1)
    assert torch.equal(out, torch.tensor([0.5, 0.5, 0.0]))


@pytest.fixture(params=["sorted lists", "row by row"])
def way(request, monkeypatch):
    """Accelerators add row by row."""
    if request.param == "row by row":
        monkeypatch.setattr(segments, "_LISTS_ON", ())


@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_sum_is_a_product_with_a_matrix(way, weighted):
    torch.manual_seed(0)
    segment, row = torch.randint(0, 7, (30,)), torch.randint(0, 9, (30,))
    segment[segment == 3] = 5  # nothing to sum
    rows = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(30, dtype=torch.float64, requires_grad=weighted) if weighted else torch.ones(30)
    matrix = torch.zeros(7, 9, dtype=torch.float64).index_put(
        (segment, row), weight.double(), accumulate=True
    )
    total = SparseSum.from_pairs(segment, row, 7)
    out, expected = total(rows, weight[total.order] if weighted else None), matrix @ rows
    torch.testing.assert_close(out, expected)
    leaves = [rows, weight] if weighted else [rows]
    for mine, theirs in zip(
        torch.autograd.grad(out.square().sum(), leaves), torch.autograd.grad(expected.square().sum(), leaves)
    ):
        torch.testing.assert_close(mine, theirs)


def test_sparse_sum_without_pairs_rows_or_segments(way):
    none = torch.empty(0, dtype=torch.long)
    assert torch.equal(SparseSum.from_pairs(none, none, 2)(torch.ones(3, 4)), torch.zeros(2, 4))
    assert torch.equal(SparseSum.from_pairs(none, none, 2)(torch.ones(0, 4)), torch.zeros(2, 4))
    assert SparseSum.from_pairs(none, none, 0)(torch.ones(0, 4)).shape == (0, 4)
