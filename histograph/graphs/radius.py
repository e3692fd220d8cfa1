"""Edges between all points within a radius: a sparse grid, one pass to count and one to fill.

Cells are as wide as the radius and only those that hold points exist, so neither empty space nor dense
clusters cost more than the edges they give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit

from . import points as points_module
from .morton import radix_argsort
from .points import (
    as_points,
    attribute_array,
    attribute_names,
    check_edge_count,
    in_chunks,
    sort_range,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["radius_edges"]

_SAMPLE = 500  # points that the estimate looks at
_ADVICE = "choose a smaller radius (is pos in micrometres?)."
_AXIS_BITS = 30  # cells along one axis; two axes make one 60-bit key


def radius_edges(
    pos: ArrayLike | Tensor, radius_um: float, attributes: Sequence[str] = ("length",)
) -> tuple[Tensor, Tensor]:
    """Join all pairs of points at most a radius apart.

    The graph is `{i, j}: |pos_i - pos_j| <= radius_um`, the bound included. Coincident points are joined.

    Parameters
    ----------
    pos
        Points, shape (N, 2), micrometres, x then y.
    radius_um
        Longest edge, micrometres, finite and not negative.
    attributes
        Edge attributes by name: `"length"` (always first), `"dx"`, `"dy"`, `"angle"`, `"sin"`, `"cos"`;
        see `histograph.graphs.points.edge_attributes`.

    Returns
    -------
    edge_index : Tensor
        Shape (2, E), int64: both directions of every edge, sorted by source and then target, no self loops.
    edge_attr : Tensor
        Shape (E, D), float32; lengths in micrometres.

    Raises
    ------
    ValueError
        When the radius is negative or not finite, `pos` is not finite or not (N, 2), or the graph would have
        more than 2**31 edges (estimated from a sample before any memory is taken).

    Examples
    --------
    >>> edge_index, edge_attr = radius_edges([[0, 0], [3, 4], [9, 9]], radius_um=5)
    >>> edge_index
    tensor([[0, 1],
            [1, 0]])
    >>> edge_attr.flatten()
    tensor([5., 5.])
    """
    points = as_points(pos)
    names = attribute_names(attributes)
    radius = float(radius_um)
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius_um must be finite and not negative, found {radius_um!r}.")
    n = len(points)
    if n == 0:
        ends = np.empty((2, 0), np.int64)
    else:
        order, placed, key, columns = _sort_by_cell(points, radius)
        _refuse_absurd(placed, key, columns, radius)
        pointer = np.zeros(n + 1, np.int64)
        in_chunks(lambda low, high: _count(placed, order, key, columns, radius, pointer[1:], low, high), n)
        np.cumsum(pointer, out=pointer)
        check_edge_count(float(pointer[-1]), f"radius_um={radius:g} with {n} points", _ADVICE)
        ends = np.empty((2, pointer[-1]), np.int64)
        in_chunks(lambda low, high: _fill(placed, order, key, columns, radius, pointer, ends, low, high), n)
    return torch.from_numpy(ends), torch.from_numpy(attribute_array(points, ends, names))


def _sort_by_cell(
    points: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], int]:
    """Sort points by grid cell: the order, the sorted points, their cells, the columns of the grid."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max())
    # the margin outweighs the rounding of a column number below 2**30, so that no pair in reach lies two
    # cells apart
    side = max(radius, span / 2**_AXIS_BITS) * (1 + 1e-6)
    if not side > 0 or not math.isfinite(span / side):
        side = 1.0
    columns = int((high[0] - low[0]) / side) + 3  # an empty column at both ends keeps rows apart
    key = _cells(points, low[0], low[1], side, columns)
    order = radix_argsort(key, int(key.max()).bit_length(), 11)
    return order, points[order], key[order], columns


@njit(cache=True, nogil=True)
def _cells(points, x_low, y_low, side, columns):
    """Return the cell of every point, numbered row by row."""
    key = np.empty(points.shape[0], np.int64)
    for i in range(points.shape[0]):
        row, column = int((points[i, 1] - y_low) / side), int((points[i, 0] - x_low) / side)
        key[i] = row * columns + column + 1
    return key


def _refuse_absurd(placed: NDArray[np.float64], key: NDArray[np.int64], columns: int, radius: float) -> None:
    """Estimate the number of edges from a sample of the points and refuse a graph above the limit."""
    n = len(placed)
    if n * (n - 1) <= points_module.MAX_EDGES:
        return
    sample = np.unique(np.linspace(0, n - 1, _SAMPLE).astype(np.int64))
    found = np.zeros(n, np.int64)
    for r in sample.tolist():
        _count(placed, np.arange(n), key, columns, radius, found, r, r + 1)
    check_edge_count(found[sample].mean() * n, f"radius_um={radius:g} with {n} points", _ADVICE)


@njit(cache=True, nogil=True)
def _enter(key, columns, r):
    """Find the runs of rows in reach of row r: those in the cells above, beside and below."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for line in range(3):
        centre = key[r] + (line - 1) * columns
        low[line] = np.searchsorted(key, centre - 1)
        high[line] = np.searchsorted(key, centre + 2)
    return low, high


@njit(cache=True, nogil=True)
def _advance(key, columns, r, low, high):
    """Move the runs on to row r; cells of one grid row follow each other, so three runs hold nine cells."""
    n = key.shape[0]
    for line in range(3):
        centre = key[r] + (line - 1) * columns
        while low[line] < n and key[low[line]] < centre - 1:
            low[line] += 1
        while high[line] < n and key[high[line]] <= centre + 1:
            high[line] += 1


@njit(cache=True, nogil=True)
def _count(placed, order, key, columns, radius, degree, first, last):
    """Count the edges of the sorted points first…last."""
    limit = radius * radius
    low, high = _enter(key, columns, first)
    for r in range(first, last):
        _advance(key, columns, r, low, high)
        x, y = placed[r, 0], placed[r, 1]
        found = -1  # the point itself
        for line in range(3):
            for s in range(low[line], high[line]):
                dx, dy = placed[s, 0] - x, placed[s, 1] - y
                found += dx * dx + dy * dy <= limit
        degree[order[r]] = found


@njit(cache=True, nogil=True)
def _fill(placed, order, key, columns, radius, pointer, ends, first, last):
    """Write the edges of the sorted points first…last into the rows of the original points."""
    limit = radius * radius
    low, high = _enter(key, columns, first)
    for r in range(first, last):
        _advance(key, columns, r, low, high)
        x, y = placed[r, 0], placed[r, 1]
        source = order[r]
        at = pointer[source]
        for line in range(3):
            for s in range(low[line], high[line]):
                dx, dy = placed[s, 0] - x, placed[s, 1] - y
                if dx * dx + dy * dy <= limit and s != r:
                    ends[1, at] = order[s]
                    ends[0, at] = source
                    at += 1
        sort_range(ends[1], pointer[source], at)
