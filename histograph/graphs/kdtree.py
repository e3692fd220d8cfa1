"""A balanced k-d tree for points in the plane: the search for points too clustered for a grid.

Rows are split at their median, again and again, along the longer side of their box, and end up sorted by
leaf. The tree needs no pointers: the children of node i are 2 i + 1 and 2 i + 2, and the rows of a node
follow from the path to it. Many points at one place cannot make it slow: of coincident points only the first
k + 1 can be anybody's neighbour, so only these are in the tree and the rest only ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from .morton import morton_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["query_tree", "scan", "sort_into_tree"]

_LEAF = 12


def sort_into_tree(
    points: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Sort points by the leaves of a k-d tree made for queries of k neighbours.

    Returns
    -------
    order : ndarray
        Shape (N,), int64: the points in the order of the rows.
    placed : ndarray
        Shape (N, 2): the sorted points.
    spans : ndarray
        Shape (nodes, 2), int64: the rows of every node.
    boxes : ndarray
        Shape (nodes, 4): x_min, y_min, x_max, y_max of every node.
    """
    order = morton_order(points)  # coincident points follow each other in it, by index
    surplus = _surplus(points, order, k)
    order = np.concatenate([order[~surplus], order[surplus]])
    placed = points[order]
    size = len(points) - int(surplus.sum())
    levels = 0
    while size > _LEAF << levels:
        levels += 1
    spans = np.empty((2 ** (levels + 1) - 1, 2), np.int64)
    boxes = np.empty((len(spans), 4))
    _split_nodes(placed, order, size, spans, boxes)
    return order, placed, spans, boxes


@njit(cache=True, nogil=True)
def _surplus(points, order, k):
    """Mark the rows that have more than k coincident rows before them."""
    surplus = np.zeros(order.shape[0], np.bool_)
    run = 0
    for r in range(1, order.shape[0]):
        a, b = order[r - 1], order[r]
        run = run + 1 if points[a, 0] == points[b, 0] and points[a, 1] == points[b, 1] else 0
        surplus[r] = run > k
    return surplus


@njit(cache=True, nogil=True)
def _split_nodes(placed, order, size, spans, boxes):
    """Split the rows 0…size at medians, level by level, filling the rows and the box of every node."""
    spans[0] = (0, size)
    for node in range(spans.shape[0]):
        low, high = spans[node]
        x_low, y_low, x_high, y_high = np.inf, np.inf, -np.inf, -np.inf
        for r in range(low, high):
            x_low, x_high = min(x_low, placed[r, 0]), max(x_high, placed[r, 0])
            y_low, y_high = min(y_low, placed[r, 1]), max(y_high, placed[r, 1])
        boxes[node] = (x_low, y_low, x_high, y_high)
        if 2 * node + 1 < spans.shape[0]:
            middle = (low + high) // 2
            _select(placed, order, low, high, middle, 0 if x_high - x_low >= y_high - y_low else 1)
            spans[2 * node + 1] = (low, middle)
            spans[2 * node + 2] = (middle, high)


@njit(cache=True, nogil=True)
def _select(placed, order, low, high, middle, axis):
    """Move rows so that none before `middle` has a larger coordinate than any from `middle` on (Hoare)."""
    left, right = low, high - 1
    while left < right:
        a, b, c = placed[left, axis], placed[(left + right) // 2, axis], placed[right, axis]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = left, right
        while i <= j:
            while placed[i, axis] < pivot:
                i += 1
            while placed[j, axis] > pivot:
                j -= 1
            if i <= j:
                placed[i, 0], placed[j, 0] = placed[j, 0], placed[i, 0]
                placed[i, 1], placed[j, 1] = placed[j, 1], placed[i, 1]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@njit(cache=True, nogil=True)
def _box_distance(boxes, node, x, y):
    """Squared distance from a point to the box of a node; also rounded at most that to a point inside."""
    dx = max(max(boxes[node, 0] - x, x - boxes[node, 2]), 0.0)
    dy = max(max(boxes[node, 1] - y, y - boxes[node, 3]), 0.0)
    return dx * dx + dy * dy


@njit(cache=True, nogil=True)
def query_tree(placed, order, spans, boxes, neighbours, low, high):
    """Find the nearest rows of the rows low…high, depth first, nearer child first."""
    k = neighbours.shape[1]
    nodes = spans.shape[0]
    distance = np.empty(k)
    row = np.empty(k, np.int64)
    waiting = np.empty(64, np.int64)
    bound = np.empty(64)
    for q in range(low, high):
        x, y = placed[q, 0], placed[q, 1]
        distance[:] = np.inf
        filled, depth = 0, 1
        waiting[0], bound[0] = 0, 0.0
        while depth > 0:
            depth -= 1
            node = waiting[depth]
            if bound[depth] > distance[k - 1]:  # at equal distance the tie may still be won
                continue
            while 2 * node + 1 < nodes:
                near, far = 2 * node + 1, 2 * node + 2
                d_near, d_far = _box_distance(boxes, near, x, y), _box_distance(boxes, far, x, y)
                if d_far < d_near:
                    near, far, d_near, d_far = far, near, d_far, d_near
                if d_far <= distance[k - 1]:
                    waiting[depth], bound[depth] = far, d_far
                    depth += 1
                if d_near > distance[k - 1]:
                    node = -1
                    break
                node = near
            if node >= 0:
                filled = scan(placed, order, q, spans[node, 0], spans[node, 1], distance, row, filled)
        for t in range(k):
            neighbours[q, t] = row[t]


@njit(cache=True, nogil=True)
def comes_first(placed, order, a, b):
    """Whether row a precedes row b when both are equally far: by x, then y, then index."""
    if placed[a, 0] != placed[b, 0]:
        return placed[a, 0] < placed[b, 0]
    if placed[a, 1] != placed[b, 1]:
        return placed[a, 1] < placed[b, 1]
    return order[a] < order[b]


@njit(cache=True, nogil=True)
def scan(placed, order, query, low, high, distance, row, filled):
    """Merge the rows low…high into the list of the nearest (`distance`, `row`); return its new length."""
    k = row.shape[0]
    x, y = placed[query, 0], placed[query, 1]
    worst = distance[k - 1]
    for r in range(low, high):
        dx = placed[r, 0] - x
        dy = placed[r, 1] - y
        d = dx * dx + dy * dy
        if d > worst or r == query:
            continue
        if filled == k and d == worst and not comes_first(placed, order, r, row[k - 1]):
            continue
        at = filled if filled < k else k - 1
        while at > 0 and (
            distance[at - 1] > d or (distance[at - 1] == d and comes_first(placed, order, r, row[at - 1]))
        ):
            distance[at] = distance[at - 1]
            row[at] = row[at - 1]
            at -= 1
        distance[at] = d
        row[at] = r
        filled = min(filled + 1, k)
        worst = distance[k - 1]
    return filled
