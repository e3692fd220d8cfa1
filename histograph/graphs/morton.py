"""Z-order (Morton order) of points: neighbours in the plane become neighbours in memory.

Nodes of a graph are stored in this order, so that a spatial window is a few contiguous ranges and edge
building and message passing stay in cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from .points import as_points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["morton_order"]

_BITS = 21  # per axis; the 42-bit key then sorts in four passes of 11 bits
_DIGIT_BITS = 11


@njit(cache=True, nogil=True)
def _spread(value: int) -> int:
    """Put a zero bit between any two of the 21 bits of a value."""
    value = (value | (value << 16)) & 0x0000FFFF0000FFFF
    value = (value | (value << 8)) & 0x00FF00FF00FF00FF
    value = (value | (value << 4)) & 0x0F0F0F0F0F0F0F0F
    value = (value | (value << 2)) & 0x3333333333333333
    return (value | (value << 1)) & 0x5555555555555555


@njit(cache=True, nogil=True)
def _morton_keys(pos: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """Interleave the quantised coordinates of every point; both axes share one cell size."""
    n = pos.shape[0]
    x_low, x_high, y_low, y_high = pos[0, 0], pos[0, 0], pos[0, 1], pos[0, 1]
    for i in range(n):
        x_low, x_high = min(x_low, pos[i, 0]), max(x_high, pos[i, 0])
        y_low, y_high = min(y_low, pos[i, 1]), max(y_high, pos[i, 1])
    span = max(x_high - x_low, y_high - y_low)
    largest = (1 << bits) - 1
    scale = (largest + 1) / span if span > 0 else 0.0
    if not np.isfinite(scale):  # a span so small (or so large) that cells have no width
        scale = 0.0
    keys = np.empty(n, np.int64)
    for i in range(n):
        column = min(int((pos[i, 0] - x_low) * scale), largest)
        row = min(int((pos[i, 1] - y_low) * scale), largest)
        keys[i] = _spread(column) | (_spread(row) << 1)
    return keys


@njit(cache=True, nogil=True)
def radix_argsort(keys: NDArray[np.int64], bits: int, digit_bits: int) -> NDArray[np.int64]:
    """Argsort integers in [0, 2**bits): stable least-significant-digit radix sort, linear in N."""
    n = keys.shape[0]
    order = np.arange(n)
    other = np.empty(n, np.int64)
    buckets = 1 << digit_bits
    shift = 0
    while shift < bits:
        count = np.zeros(buckets + 1, np.int64)
        for i in range(n):
            count[((keys[i] >> shift) & (buckets - 1)) + 1] += 1
        if count.max() < n:  # a digit that all keys share needs no pass
            for b in range(buckets):
                count[b + 1] += count[b]
            for i in range(n):
                digit = (keys[order[i]] >> shift) & (buckets - 1)
                other[count[digit]] = order[i]
                count[digit] += 1
            order, other = other, order
        shift += digit_bits
    return order


def morton_order(pos: ArrayLike | Tensor) -> NDArray[np.int64]:
    """Return the permutation that puts points in Z-order.

    Coordinates are quantised to 21 bits on a square grid over the bounding square and their bits interleaved,
    `key = … y1 x1 y0 x0`; points of one grid cell follow in order of (x, y, index), so the result is
    deterministic, and apart from the order among coincident points it does not depend on the input order.

    Parameters
    ----------
    pos
        Points, shape (N, 2), x then y, in any unit (micrometres everywhere in histograph).

    Returns
    -------
    ndarray
        Permutation, shape (N,), int64: `pos[morton_order(pos)]` is in Z-order.

    Raises
    ------
    ValueError
        When `pos` is not (N, 2) or not finite.

    References
    ----------
    G. M. Morton, A computer oriented geodetic data base and a new technique in file sequencing, IBM, 1966.

    Examples
    --------
    >>> morton_order([[0, 0], [9, 9], [9, 0], [0, 9]])
    array([0, 2, 3, 1])
    """
    points = as_points(pos)
    if len(points) == 0:
        return np.empty(0, np.int64)
    keys = _morton_keys(points, _BITS)
    order = radix_argsort(keys, 2 * _BITS, _DIGIT_BITS)
    ordered = keys[order]
    equal = ordered[1:] == ordered[:-1]
    if equal.any():
        tied = np.zeros(len(order), bool)
        tied[1:] |= equal
        tied[:-1] |= equal
        members = order[tied]
        rank = np.lexsort((members, points[members, 1], points[members, 0], keys[members]))
        order[tied] = members[rank]
    return order
