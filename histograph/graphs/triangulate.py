"""Delaunay triangulation by divide and conquer, along the Morton order of the points.

After L. Guibas and J. Stolfi, "Primitives for the manipulation of general subdivisions and the computation of
Voronoi diagrams", ACM Transactions on Graphics 4, 1985, with the alternating cuts of R. A. Dwyer, "A faster
divide-and-conquer algorithm for constructing Delaunay triangulations", Algorithmica 2, 1987. From top to bottom:

- `build_mesh` sorts the points along the Morton curve and merges coincident ones. A run of the curve that shares a
  key prefix fills a square or half a square, so halving runs by the next bit of the key cuts the plane by
  alternating vertical and horizontal lines, without sorting again.
- `_build` triangulates a run: one point, two points, or two smaller runs that `_merge` joins.
- `_merge` finds the lower common tangent of two triangulations on either side of a line, and `_zip` climbs from it
  to the upper one, edge by edge, deleting the edges that the other side makes illegal.

Which side, which circle: those questions are answered exactly (`predicates.py`), so no input, however flat, tied or
tightly packed, can lead the walk astray, and no point is ever dropped.

The mesh is an array of half-edges. Half-edges ``e`` and ``e ^ 1`` are the two directions of one edge; a row holds
the next and the previous half-edge around the same origin (counter-clockwise and clockwise), and the origin:

- the end of ``e`` is ``edges[e ^ 1, ORIGIN]``;
- the edge after ``e`` around the face on its left is ``edges[e ^ 1, PREVIOUS]``, the one before it is
  ``edges[e, NEXT] ^ 1``;
- a run of one point is a loop, an edge from the point to itself, that goes with the first real edge.

V points own the rows ``0 … 6 V``: a planar graph has fewer than three edges a point. Free rows form a list through
``NEXT``, and their origin is -1. "Left", "up" and "counter-clockwise" hold for x to the right and y up; in image
coordinates, y down, everything is mirrored and nothing else changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .morton import _BITS, _morton_keys, morton_order
from .points import as_points
from .predicates import incircle, orient2d

__all__ = ["triangulate"]

NEXT, PREVIOUS, ORIGIN = 0, 1, 2

_BLOCK = 32_768  # points that one thread triangulates at a time, at least
_LARGEST = 1e70  # the product of four coordinate differences must stay a finite double
_MOST = (2**31 - 1) // 6  # half-edges are counted in 32 bits


@dataclass(frozen=True)
class Mesh:
    """A Delaunay triangulation: distinct points in Morton order, and the half-edges between them.

    Attributes
    ----------
    points
        Distinct points, shape (V, 2).
    edges
        Half-edges, shape (6 V, 3), int32: next, previous, origin; free rows have origin -1.
    order
        Input indices of all N points in Morton order, shape (N,).
    start
        Shape (V + 1,): the input points that coincide in vertex v are ``order[start[v]:start[v + 1]]``, lowest
        index first; that first one stands for all of them.
    """

    points: NDArray[np.float64]
    edges: NDArray[np.int32]
    order: NDArray[np.int64]
    start: NDArray[np.int64]

    @property
    def representative(self) -> NDArray[np.int64]:
        """Input index of the point that stands for each vertex, shape (V,)."""
        return self.order[self.start[:-1]]


def triangulate(pos: ArrayLike | Tensor) -> NDArray[np.int64]:
    """Compute the Delaunay triangulation of points in the plane.

    No point lies strictly inside the circumcircle of a triangle, decided exactly; the triangles fill the convex
    hull. Of the ways to cut four or more cocircular points one is taken that depends on the set of points only,
    not on their order. Of coincident points the first stands for all; the others are in no triangle.

    Parameters
    ----------
    pos
        Points, shape (N, 2), x then y, in any unit (micrometres everywhere in histograph). Coordinates must not
        exceed 1e70; below about 1e-70 distances may count as zero.

    Returns
    -------
    ndarray
        Shape (T, 3), int64, indices into `pos`: the corners of every triangle, counter-clockwise for x to the
        right and y up. Empty for fewer than three distinct points and for collinear ones.

    Raises
    ------
    TypeError
        When `pos` does not hold real numbers.
    ValueError
        When `pos` is not (N, 2), not finite or out of range.

    References
    ----------
    L. Guibas and J. Stolfi, ACM Transactions on Graphics 4, 74-123, 1985, section 9.

    Examples
    --------
    >>> triangulate([[0, 0], [4, 0], [0, 4], [1, 1]])
    array([[0, 3, 2],
           [3, 1, 2],
           [0, 1, 3]])
    """
    mesh = build_mesh(as_points(pos))
    return mesh.representative[_triangles(mesh.points, mesh.edges)]


def build_mesh(points: NDArray[np.float64]) -> Mesh:
    """Triangulate checked points; the mesh depends on the set of points only.

    Parameters
    ----------
    points
        Points from `as_points`, shape (N, 2).

    Returns
    -------
    Mesh
        The triangulation of the distinct points.

    Raises
    ------
    ValueError
        When a coordinate is above 1e70 or there are more than 357 million distinct points.
    """
    if len(points) and max(points.max(), -points.min()) > _LARGEST:
        raise ValueError(
            f"pos must lie within ±{_LARGEST:g}, found {points.min():g}…{points.max():g}; "
            "give micrometres, and drop points that mark missing values."
        )
    order = morton_order(points)  # coincident points follow each other, the lowest index first
    points = points.take(order, axis=0)
    first = np.ones(len(points), bool)
    first[1:] = (points[1:, 0] != points[:-1, 0]) | (points[1:, 1] != points[:-1, 1])
    start = np.append(np.flatnonzero(first), len(points))
    if len(start) <= len(points):
        points = points[first]
    if len(points) > _MOST:
        raise ValueError(f"pos must have at most {_MOST} points, found {len(points)}; cut the slide.")
    edges = np.empty((6 * len(points), 3), np.int32)
    if len(points):
        _build_blocks(points, _morton_keys(points, _BITS), edges)
    return Mesh(points, edges, order, start)


def _build_blocks(points: NDArray[np.float64], keys: NDArray[np.int64], edges: NDArray[np.int32]) -> None:
    """Triangulate blocks of the curve in threads, then merge them in the order of the recursion."""
    n = len(points)
    steps = list(_plan(keys, 0, n, max(_BLOCK, n // 16)))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        leaves = [(low, high) for low, middle, high, _ in steps if low == middle]
        blocks = iter([pool.submit(_build_block, points, keys, edges, low, high) for low, high in leaves])
        done: list[tuple[int, NDArray[np.int64]]] = []
        for low, middle, _, axis in steps:
            if low == middle:
                done.append(next(blocks).result())
                continue
            right_hull, right_free = done.pop()
            left_hull, free = done.pop()
            edges[6 * middle - 2, NEXT] = right_free[0]  # the left block's free list ends in its last row
            done.append((_merge(points, edges, free, left_hull, right_hull, axis), free))


def _plan(keys: NDArray[np.int64], low: int, high: int, block: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (low, low, high, 0) for a block to build, (low, middle, high, axis) for two to merge, parts first."""
    if high - low <= block:
        yield low, low, high, 0
        return
    middle, axis = _cut(keys, low, high)
    yield from _plan(keys, low, middle, block)
    yield from _plan(keys, middle, high, block)
    yield low, middle, high, axis


@njit(cache=True, nogil=True)
def _build_block(points, keys, edges, low, high):
    """Triangulate low…high in the block's own rows; return a hull edge and the head of the free list."""
    for e in range(6 * low, 6 * high):
        edges[e, NEXT] = e + 2
        edges[e, ORIGIN] = -1
    edges[6 * high - 2, NEXT] = -1
    free = np.array([6 * low])
    return _build(points, keys, edges, free, low, high), free


@njit(cache=True, nogil=True)
def _build(points, keys, edges, free, low, high):
    """Triangulate the run low…high; return a half-edge of its hull that has the outside on its left."""
    if high - low == 1:
        loop = _take(edges, free, low, low)
        edges[loop, NEXT] = edges[loop, PREVIOUS] = loop ^ 1
        edges[loop ^ 1, NEXT] = edges[loop ^ 1, PREVIOUS] = loop
        return loop
    if high - low == 2:
        edge = _take(edges, free, low, low + 1)
        edges[edge, NEXT] = edges[edge, PREVIOUS] = edge
        edges[edge ^ 1, NEXT] = edges[edge ^ 1, PREVIOUS] = edge ^ 1
        return edge
    middle, axis = _cut(keys, low, high)
    left = _build(points, keys, edges, free, low, middle)
    right = _build(points, keys, edges, free, middle, high)
    return _merge(points, edges, free, left, right, axis)


@njit(cache=True, nogil=True)
def _cut(keys, low, high):
    """Where the highest bit that differs within the run turns one, and the axis (0 x, 1 y) that it belongs to.

    Points of one key lie in one cell and are sorted by x, then y: they are halved, along x.
    """
    differ = keys[low] ^ keys[high - 1]
    if differ == 0:
        return (low + high) // 2, 0
    below = differ  # becomes the highest bit and all bits under it
    for shift in (1, 2, 4, 8, 16, 32):
        below |= below >> shift
    below >>= 1
    bound = keys[high - 1] & ~below
    axis = 0 if (below + 1) & 0x5555555555555555 else 1
    return low + np.searchsorted(keys[low:high], bound), axis


# ---- merging two triangulations ----------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _merge(points, edges, free, left, right, axis):
    """Join two triangulations, `left` before `right` along the axis, given by hull edges; return a hull edge.

    A horizontal cut is a vertical one after a quarter turn: low y is "left", and nothing else changes.
    """
    # l_edge runs down the right flank of the left part, r_edge down the left flank of the right part; their origins
    # are the ends of the candidate tangent. One steps down while its next point lies below that line.
    l_edge = _extreme(points, edges, left, axis, True)
    r_edge = edges[_extreme(points, edges, right, axis, False), NEXT]
    while True:
        a, b = edges[l_edge, ORIGIN], edges[r_edge, ORIGIN]
        if _turn(points, a, edges[l_edge ^ 1, ORIGIN], b) > 0:
            l_edge = edges[l_edge ^ 1, PREVIOUS]
        elif _turn(points, a, edges[r_edge ^ 1, ORIGIN], b) > 0:
            r_edge = edges[r_edge ^ 1, NEXT]
        else:
            break
    base = _connect(edges, free, r_edge, l_edge)
    if edges[l_edge ^ 1, ORIGIN] == a:
        _give(edges, free, l_edge)
    if edges[r_edge ^ 1, ORIGIN] == b:
        _give(edges, free, r_edge)
    return _zip(points, edges, free, base)


@njit(cache=True, nogil=True)
def _extreme(points, edges, hull, axis, last):
    """Slide along the hull from a half-edge to the one whose origin comes last (or first) along the axis.

    Along a convex polygon the order of the points has one peak: climb on the side that rises.
    """
    origin = edges[hull, ORIGIN]
    forward = True
    stuck = 0
    while stuck < 2:
        step = edges[hull ^ 1, PREVIOUS] if forward else edges[hull, NEXT] ^ 1
        if _after(points, edges[step, ORIGIN], origin, axis) == last and edges[step, ORIGIN] != origin:
            hull, origin = step, edges[step, ORIGIN]
        else:
            forward = False
            stuck += 1
    return hull


@njit(cache=True, nogil=True)
def _after(points, a, b, axis):
    """Whether a comes after b: by x, then y; a quarter turn on: by y, then -x."""
    if points[a, axis] != points[b, axis]:
        return points[a, axis] > points[b, axis]
    return (points[a, 1] > points[b, 1]) if axis == 0 else (points[a, 0] < points[b, 0])


@njit(cache=True, nogil=True)
def _zip(points, edges, free, base):
    """Climb from the lower common tangent, a half-edge from right to left, to the upper one; return a hull edge.

    Above the base, the next triangle ends in a point of either side: the one whose circle through the base holds
    no other. On each side the candidates are the ends of the edges around the base's end, in order; a candidate
    whose circle holds the one after it is cut loose.
    """
    while True:
        b, a = edges[base, ORIGIN], edges[base ^ 1, ORIGIN]
        l_edge = edges[base ^ 1, NEXT]
        left = edges[l_edge ^ 1, ORIGIN]
        left_valid = _turn(points, left, a, b) > 0
        while left_valid:
            following = edges[l_edge, NEXT]
            end = edges[following ^ 1, ORIGIN]
            if end == b or _inside(points, a, b, left, end) <= 0:
                break
            _give(edges, free, l_edge)
            l_edge, left = following, end
        r_edge = edges[base, PREVIOUS]
        right = edges[r_edge ^ 1, ORIGIN]
        right_valid = _turn(points, right, a, b) > 0
        while right_valid:
            following = edges[r_edge, PREVIOUS]
            end = edges[following ^ 1, ORIGIN]
            if end == a or _inside(points, a, b, right, end) <= 0:
                break
            _give(edges, free, r_edge)
            r_edge, right = following, end
        if left_valid and not (right_valid and _inside(points, left, a, b, right) > 0):
            base = _connect(edges, free, base, l_edge ^ 1)
        elif right_valid:
            base = _connect(edges, free, r_edge ^ 1, base ^ 1)
        else:
            return base ^ 1


@njit(cache=True, nogil=True)
def _turn(points, a, b, c):
    """Positive when the vertices a, b, c turn counter-clockwise."""
    return orient2d(points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1])


@njit(cache=True, nogil=True)
def _inside(points, a, b, c, d):
    """Positive when vertex d lies inside the circle through a, b, c (counter-clockwise)."""
    ax, ay, bx, by = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
    return incircle(ax, ay, bx, by, points[c, 0], points[c, 1], points[d, 0], points[d, 1])


# ---- half-edges --------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _take(edges, free, origin, end):
    """Take an edge from the free list, still tied to no ring."""
    e = free[0]
    free[0] = edges[e, NEXT]
    edges[e, ORIGIN], edges[e ^ 1, ORIGIN] = origin, end
    return e


@njit(cache=True, nogil=True)
def _give(edges, free, e):
    """Take an edge out of the rings at both ends and put it on the free list."""
    e &= ~1
    for half in range(e, e + 2):
        following, previous = edges[half, NEXT], edges[half, PREVIOUS]
        edges[previous, NEXT], edges[following, PREVIOUS] = following, previous
        edges[half, ORIGIN] = -1
    edges[e, NEXT] = free[0]
    free[0] = e


@njit(cache=True, nogil=True)
def _connect(edges, free, before, after):
    """Draw an edge between two origins: clockwise of `before` at its start, counter-clockwise of `after` at its end."""
    e = _take(edges, free, edges[before, ORIGIN], edges[after, ORIGIN])
    _insert(edges, e, edges[before, PREVIOUS], before)
    _insert(edges, e ^ 1, after, edges[after, NEXT])
    return e


@njit(cache=True, nogil=True)
def _insert(edges, e, previous, following):
    """Put a half-edge between two neighbours of a ring."""
    edges[previous, NEXT] = edges[following, PREVIOUS] = e
    edges[e, PREVIOUS], edges[e, NEXT] = previous, following


@njit(cache=True, nogil=True)
def _triangles(points, edges):
    """Corners of all triangles as vertices (T, 3), each found from its corner first in Morton order."""
    out = np.empty((2 * points.shape[0], 3), np.int64)
    used = 0
    for e in range(edges.shape[0]):
        a = edges[e, ORIGIN]
        if a < 0:
            continue
        b, c = edges[e ^ 1, ORIGIN], edges[edges[e, NEXT] ^ 1, ORIGIN]
        if a < b and a < c and _turn(points, a, b, c) > 0:  # outside the hull the turn is not to the left
            out[used, 0], out[used, 1], out[used, 2] = a, b, c
            used += 1
    return out[:used].copy()
