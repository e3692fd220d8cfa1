import torch

from histograph.nn import segment_max, segment_mean, segment_softmax, segment_sum


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
