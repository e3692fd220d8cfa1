"""Sums, means, maxima and softmax over the segments of a batch vector, without a loop over segments."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, batch: Tensor, num_segments: int) -> Tensor:
    """Sum the rows of each segment: ``out[g] = sum of values[i] with batch[i] == g``.

    Parameters
    ----------
    values : Tensor
        (N, ...) rows.
    batch : Tensor
        (N,) int64, the segment of each row, in ``0 .. num_segments - 1``; any order.
    num_segments : int
        Number of segments; one without rows gets 0.

    Returns
    -------
    Tensor
        (num_segments, ...).

    Examples
    --------
    >>> import torch
    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([3., 0., 4.])
    """
    return values.new_zeros((num_segments, *values.shape[1:])).index_add(0, batch, values)


def segment_mean(values: Tensor, batch: Tensor, num_segments: int) -> Tensor:
    """Average the rows of each segment; a segment without rows gets 0.

    Parameters
    ----------
    values : Tensor
        (N, ...) rows.
    batch : Tensor
        (N,) int64, the segment of each row; any order.
    num_segments : int
        Number of segments.

    Returns
    -------
    Tensor
        (num_segments, ...).

    Examples
    --------
    >>> import torch
    >>> segment_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([1.5000, 0.0000, 4.0000])
    """
    count = torch.bincount(batch, minlength=num_segments).clamp(min=1).to(values.dtype)
    return segment_sum(values, batch, num_segments) / count.view(-1, *[1] * (values.dim() - 1))


def segment_max(values: Tensor, batch: Tensor, num_segments: int) -> Tensor:
    """Take the largest value of each segment, column by column; a segment without rows gets 0.

    Parameters
    ----------
    values : Tensor
        (N, ...) rows.
    batch : Tensor
        (N,) int64, the segment of each row; any order.
    num_segments : int
        Number of segments.

    Returns
    -------
    Tensor
        (num_segments, ...).

    Examples
    --------
    >>> import torch
    >>> segment_max(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([ 2.,  0., -4.])
    """
    index = batch.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    empty = values.new_zeros((num_segments, *values.shape[1:]))
    return empty.scatter_reduce(0, index, values, reduce="amax", include_self=False)


def segment_softmax(values: Tensor, batch: Tensor, num_segments: int) -> Tensor:
    """Normalise scores inside each segment: ``exp(v_i) / sum over the segment of exp(v_j)``.

    Parameters
    ----------
    values : Tensor
        (N, ...) scores.
    batch : Tensor
        (N,) int64, the segment of each row; any order.
    num_segments : int
        Number of segments.

    Returns
    -------
    Tensor
        (N, ...), rows of a segment sum to 1 in every column.

    Examples
    --------
    >>> import torch
    >>> segment_softmax(torch.tensor([0.0, 0.0, 7.0]), torch.tensor([0, 0, 1]), 2)
    tensor([0.5000, 0.5000, 1.0000])
    """
    # the shift by the maximum keeps exp finite and cancels in the quotient
    shifted = (values - segment_max(values.detach(), batch, num_segments)[batch]).exp()
    return shifted / segment_sum(shifted, batch, num_segments)[batch]
