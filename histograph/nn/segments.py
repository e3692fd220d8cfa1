"""Sums, means, maxima and softmax over the segments of a batch vector, without a loop over segments."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# where sums over sorted lists are several times faster than adding row by row
_LISTS_ON = ("cpu",)


@dataclass(frozen=True)
class SparseSum:
    """Sums of chosen rows, ``out[s] = sum of rows[row[k]] over all k with segment[k] == s``; sorted once, used often.

    It is the product with a sparse matrix of ones, in compressed row form.

    Attributes
    ----------
    segment, row : Tensor
        (M,) int64, which row goes into which sum, sorted by segment.
    start : Tensor
        (num_segments,) int64, where each segment begins.
    order : Tensor
        (M,) int64, the place of each pair in the lists that were given.

    Examples
    --------
    >>> import torch
    >>> total = SparseSum.from_pairs(torch.tensor([2, 0, 2]), torch.tensor([0, 1, 1]), num_segments=3)
    >>> total(torch.tensor([[1.0], [4.0]])).squeeze(1)
    tensor([4., 0., 5.])
    """

    segment: Tensor
    row: Tensor
    start: Tensor
    order: Tensor

    @classmethod
    def from_pairs(cls, segment: Tensor, row: Tensor, num_segments: int) -> "SparseSum":
        """Sort the pairs by segment, keeping the order inside a segment.

        Parameters
        ----------
        segment : Tensor
            (M,) int64, in ``0 .. num_segments - 1``; any order.
        row : Tensor
            (M,) int64, the row that goes into the sum.
        num_segments : int
            Number of sums.

        Returns
        -------
        SparseSum
            On the device of ``segment``.
        """
        segment, order = segment.sort(stable=True)
        count = torch.bincount(segment, minlength=num_segments)
        return cls(segment, row[order], count.cumsum(0) - count, order)

    def __call__(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sum.

        Parameters
        ----------
        rows : Tensor
            (N, D).
        weight : Tensor, optional
            (M,) factor of each pair, sorted like them: ``weight[self.order]``.

        Returns
        -------
        Tensor
            (num_segments, D); 0 for a segment without pairs.
        """
        if rows.device.type in _LISTS_ON:
            return F.embedding_bag(self.row, rows, self.start, mode="sum", per_sample_weights=weight)
        terms = rows.index_select(0, self.row)
        terms = terms if weight is None else terms * weight.unsqueeze(1)
        return rows.new_zeros(self.start.numel(), rows.shape[1]).index_add(0, self.segment, terms)


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
