"""Edges to the k nearest neighbours: a uniform grid, or a k-d tree where points are heavily clustered.

Points are sorted into the cells of a grid (or the leaves of a tree), so that the candidates of a query are a
few contiguous runs of memory. Both searches compare candidates by (distance, x, y, index), so both give the
same answer, and a point's coordinates decide ties rather than its place in the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit

from .kdtree import query_tree, scan, sort_into_tree
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

__all__ = ["knn_edges"]

_PER_CELL = 0.35  # points per cell for each neighbour asked for; measured flat between 0.25 and 0.5
_CROWDED = (
    6.0  # the tree takes over when a point shares its cell with this many times more points than planned
)


def knn_edges(
    pos: ArrayLike | Tensor, k: int = 8, attributes: Sequence[str] = ("length",)
) -> tuple[Tensor, Tensor]:
    """Join every point with its k nearest neighbours; an edge exists when either end chose the other.

    The graph is `{i, j}: j in N_k(i) or i in N_k(j)`, where `N_k(i)` are the k points other than i that come
    first in order of (distance to i, x, y, index). Coincident points are neighbours at distance 0. Apart from
    the choice among coincident points, the graph does not depend on the order of the points.

    Parameters
    ----------
    pos
        Points, shape (N, 2), micrometres, x then y.
    k
        Number of neighbours that every point chooses, at least 1; with `k >= N - 1` the graph is complete.
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
        When k is below 1, `pos` is not finite or not (N, 2), or the graph would be absurdly large.

    Examples
    --------
    >>> edge_index, edge_attr = knn_edges([[0, 0], [1, 0], [5, 0]], k=1)
    >>> edge_index
    tensor([[0, 1, 1, 2],
            [1, 0, 2, 1]])
    >>> edge_attr.flatten()
    tensor([1., 1., 4., 4.])
    """
    points = as_points(pos)
    names = attribute_names(attributes)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, found {k!r}.")
    n, k = len(points), int(k)
    check_edge_count(n * min(k, max(n - 1, 0)), f"k={k} with {n} points", "choose a smaller k.")
    if k >= n - 1:
        ends = _complete(n)
    else:
        ends = _symmetric_union(*nearest(points, k))
    return torch.from_numpy(ends), torch.from_numpy(attribute_array(points, ends, names))


def nearest(points: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Find the k nearest neighbours of every point; needs `k < len(points)`.

    Returns
    -------
    order : ndarray
        Shape (N,), int64: the points in the order in which they were searched.
    neighbours : ndarray
        Shape (N, k), int32: row r holds the neighbours of point `order[r]`, as rows and not as points.
    """
    neighbours = np.empty((len(points), k), np.int32)
    order, placed, start, frame, crowding = _sort_into_grid(points, max(_PER_CELL * k, 1.0))
    if crowding <= _CROWDED * max(_PER_CELL * k, 1.0):
        in_chunks(
            lambda low, high: _query_grid(placed, order, start, frame, neighbours, low, high), len(points)
        )
    else:
        order, placed, spans, boxes = sort_into_tree(points, k)
        in_chunks(
            lambda low, high: query_tree(placed, order, spans, boxes, neighbours, low, high), len(points)
        )
    return order, neighbours


def _complete(n: int) -> NDArray[np.int64]:
    """Return all ordered pairs of n points."""
    source = np.repeat(np.arange(n), max(n - 1, 0))
    target = np.tile(np.arange(max(n - 1, 0)), n)
    target += target >= source
    return np.stack([source, target])


@njit(cache=True, nogil=True)
def _sort_into_grid(points, per_cell):
    """Sort points by grid cell, row by row.

    Returns the order, the sorted points, the first point of every cell, the frame (x, y, cell width, columns,
    rows) and how many points share a cell with a point, on average.
    """
    n = points.shape[0]
    x_low, x_high, y_low, y_high = points[0, 0], points[0, 0], points[0, 1], points[0, 1]
    for i in range(n):
        x_low, x_high = min(x_low, points[i, 0]), max(x_high, points[i, 0])
        y_low, y_high = min(y_low, points[i, 1]), max(y_high, points[i, 1])
    width, height = x_high - x_low, y_high - y_low
    cells = max(n / per_cell, 1.0)
    # square cells; for points (nearly) on a line the long side alone decides
    side = max(np.sqrt(width) * np.sqrt(height) / np.sqrt(cells), max(width, height) / cells)
    if not (side > 0 and np.isfinite(side) and np.isfinite(1 / side)):
        side = 1.0
    columns = int(min(width / side, 2 * cells)) + 1
    rows = int(min(height / side, 2 * cells)) + 1
    cell = np.empty(n, np.int64)
    start = np.zeros(columns * rows + 1, np.int64)
    for i in range(n):
        column = min(int((points[i, 0] - x_low) / side), columns - 1)
        row = min(int((points[i, 1] - y_low) / side), rows - 1)
        cell[i] = row * columns + column
        start[cell[i] + 1] += 1
    crowding = 0.0
    for c in range(columns * rows):
        crowding += float(start[c + 1]) * start[c + 1] / n
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    order = np.empty(n, np.int64)
    placed = np.empty((n, 2))
    for i in range(n):
        at = cursor[cell[i]]
        cursor[cell[i]] += 1
        order[at] = i
        placed[at, 0] = points[i, 0]
        placed[at, 1] = points[i, 1]
    return order, placed, start, (x_low, y_low, side, columns, rows), crowding


@njit(cache=True, nogil=True)
def _query_grid(placed, order, start, frame, neighbours, low, high):
    """Search rings of cells around every point until the next ring is farther than the k-th neighbour."""
    x_low, y_low, side, columns, rows = frame
    k = neighbours.shape[1]
    distance = np.empty(k)
    row = np.empty(k, np.int64)
    for q in range(low, high):
        distance[:] = np.inf
        filled = 0
        x, y = placed[q, 0] - x_low, placed[q, 1] - y_low
        column = min(int(x / side), columns - 1)
        line = min(int(y / side), rows - 1)
        ring = 1
        left, right = max(column - 1, 0), min(column + 1, columns - 1)
        for c_line in range(max(line - 1, 0), min(line + 1, rows - 1) + 1):
            base = c_line * columns
            filled = scan(
                placed, order, q, start[base + left], start[base + right + 1], distance, row, filled
            )
        while ring < max(columns, rows):
            # the unsearched points lie beyond the nearest side of the searched square; cells are only
            # exact up to rounding, hence the margin
            reach = np.inf
            if column - ring > 0:
                reach = min(reach, x - (column - ring) * side)
            if column + ring < columns - 1:
                reach = min(reach, (column + ring + 1) * side - x)
            if line - ring > 0:
                reach = min(reach, y - (line - ring) * side)
            if line + ring < rows - 1:
                reach = min(reach, (line + ring + 1) * side - y)
            reach -= 1e-9 * (side + abs(x) + abs(y))
            if filled == k and reach > 0 and distance[k - 1] < reach * reach:
                break
            ring += 1
            left, right = max(column - ring, 0), min(column + ring, columns - 1)
            for c_line in range(max(line - ring, 0), min(line + ring, rows - 1) + 1):
                base = c_line * columns
                if c_line == line - ring or c_line == line + ring:
                    filled = scan(
                        placed, order, q, start[base + left], start[base + right + 1], distance, row, filled
                    )
                    continue
                if column - ring >= 0:
                    filled = scan(
                        placed, order, q, start[base + left], start[base + left + 1], distance, row, filled
                    )
                if column + ring < columns:
                    filled = scan(
                        placed, order, q, start[base + right], start[base + right + 1], distance, row, filled
                    )
        for t in range(k):
            neighbours[q, t] = row[t]


def _symmetric_union(order: NDArray[np.int64], neighbours: NDArray[np.int32]) -> NDArray[np.int64]:
    """Turn directed neighbour rows into the symmetric, sorted edges between the original points."""
    pointer, back_pointer, back = _missing_directions(order, neighbours)
    ends = np.empty((2, pointer[-1]), np.int64)
    in_chunks(
        lambda low, high: _write_rows(order, neighbours, pointer, back_pointer, back, ends, low, high),
        len(order),
    )
    return ends


@njit(cache=True, nogil=True)
def _chosen(neighbours, i, j):
    """Whether row i chose row j."""
    for t in range(neighbours.shape[1]):  # noqa: SIM110 (numba compiles the loop)
        if neighbours[i, t] == j:
            return True
    return False


@njit(cache=True, nogil=True)
def _missing_directions(order, neighbours):
    """List for every row those that chose it without being chosen; also the row pointer of the edges."""
    n, k = neighbours.shape
    back_pointer = np.zeros(n + 1, np.int64)
    one_sided = np.zeros((n, k), np.bool_)
    for i in range(n):
        for t in range(k):
            j = neighbours[i, t]
            if not _chosen(neighbours, j, i):
                one_sided[i, t] = True
                back_pointer[j + 1] += 1
    pointer = np.zeros(n + 1, np.int64)
    for i in range(n):
        pointer[order[i] + 1] = k + back_pointer[i + 1]
    for i in range(n):
        back_pointer[i + 1] += back_pointer[i]
        pointer[i + 1] += pointer[i]
    back = np.empty(back_pointer[n], np.int32)
    cursor = back_pointer[:-1].copy()
    for i in range(n):
        for t in range(k):
            if one_sided[i, t]:
                j = neighbours[i, t]
                back[cursor[j]] = i
                cursor[j] += 1
    return pointer, back_pointer, back


@njit(cache=True, nogil=True)
def _write_rows(order, neighbours, pointer, back_pointer, back, ends, low, high):
    """Write the sorted edges of the rows low…high in terms of the original points."""
    for i in range(low, high):
        source = order[i]
        at = pointer[source]
        for t in range(neighbours.shape[1]):
            ends[1, at] = order[neighbours[i, t]]
            at += 1
        for b in range(back_pointer[i], back_pointer[i + 1]):
            ends[1, at] = order[back[b]]
            at += 1
        sort_range(ends[1], pointer[source], at)
        for e in range(pointer[source], at):
            ends[0, e] = source
