"""What is wrong with the rings of a polygon: too few corners, crossings, holes outside."""

from __future__ import annotations

import numpy as np
from numba import njit

from ..entities.rings import Rings

#: Pixels that a ring may cross by: rounded corners on another edge are no fault, and no pixel's centre would notice.
TOLERANCE_PX = 1e-3


def broken_ring(rings: Rings) -> tuple[int, str] | None:
    """Find the first object whose rings cannot be filled without guessing.

    Rings that touch, at corners or along edges, are no fault.

    Parameters
    ----------
    rings : Rings
        Polygons in pixels, closed, finite.

    Returns
    -------
    (int, str) or None
        Its row and what is wrong; None where all rings are sound.

    Examples
    --------
    >>> points = np.array([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]], float)
    >>> one = np.array([0, 1])
    >>> broken_ring(Rings(points, np.array([0, 5]), one, one))
    (0, 'a ring crosses itself near [2, 2]')
    """
    row, reason, ring, x, y = _first_broken(
        np.ascontiguousarray(rings.points, np.float64),
        rings.ring_start,
        rings.polygon_start,
        rings.entity_start,
        TOLERANCE_PX,
    )
    if row < 0:
        return None
    place = f"[{x:g}, {y:g}]"
    if reason == 1:
        return row, f"a ring has fewer than 3 different corners, near {place}"
    if reason == 2:
        return row, f"a ring crosses itself near {place}"
    if reason == 3:
        return row, f"hole {ring} crosses another ring of its polygon near {place}"
    return row, f"hole {ring} lies outside its outer ring, at {place}"


@njit(cache=True, nogil=True)
def _few_corners(points, first, last):  # type: ignore[no-untyped-def]
    """Whether there are fewer than three different points."""
    second = -1
    for k in range(first + 1, last):
        if points[k, 0] == points[first, 0] and points[k, 1] == points[first, 1]:
            continue
        if second < 0:
            second = k
        elif points[k, 0] != points[second, 0] or points[k, 1] != points[second, 1]:
            return False
    return True


@njit(cache=True, nogil=True)
def _opposite(points, i, j, tolerance):  # type: ignore[no-untyped-def]
    """Whether the ends of edge j lie on both sides of the line through edge i."""
    x, y = points[i, 0], points[i, 1]
    d_x, d_y = points[i + 1, 0] - x, points[i + 1, 1] - y
    limit = tolerance * np.sqrt(d_x * d_x + d_y * d_y)
    one = d_x * (points[j, 1] - y) - d_y * (points[j, 0] - x)
    two = d_x * (points[j + 1, 1] - y) - d_y * (points[j + 1, 0] - x)
    return (one > limit and two < -limit) or (one < -limit and two > limit)


@njit(cache=True, nogil=True)
def _crossing(points, edges, tolerance):  # type: ignore[no-untyped-def]
    """Return two edges that cross, or -1: a sweep along x."""
    n = len(edges)
    low, high = np.empty(n), np.empty(n)
    for k in range(n):
        a, b = points[edges[k], 0], points[edges[k] + 1, 0]
        low[k], high[k] = min(a, b), max(a, b)
    order = np.argsort(low)
    for k in range(n):
        i = edges[order[k]]
        bottom, top = min(points[i, 1], points[i + 1, 1]), max(points[i, 1], points[i + 1, 1])
        for m in range(k + 1, n):
            if low[order[m]] > high[order[k]]:
                break
            j = edges[order[m]]
            if max(points[j, 1], points[j + 1, 1]) < bottom or min(points[j, 1], points[j + 1, 1]) > top:
                continue
            if _opposite(points, i, j, tolerance) and _opposite(points, j, i, tolerance):
                return i, j
    return -1, -1


@njit(cache=True, nogil=True)
def _side(points, first, last, x, y, tolerance):  # type: ignore[no-untyped-def]
    """Return 1 inside a ring, -1 outside, 0 on its border."""
    inside = False
    for k in range(first, last - 1):
        x_0, y_0 = points[k, 0], points[k, 1]
        d_x, d_y = points[k + 1, 0] - x_0, points[k + 1, 1] - y_0
        length = d_x * d_x + d_y * d_y
        along = 0.0 if length == 0 else ((x - x_0) * d_x + (y - y_0) * d_y) / length
        along = min(max(along, 0.0), 1.0)
        if (x - x_0 - along * d_x) ** 2 + (y - y_0 - along * d_y) ** 2 <= tolerance * tolerance:
            return 0
        if (y_0 > y) != (points[k + 1, 1] > y) and x < x_0 + (y - y_0) / d_y * d_x:
            inside = not inside
    return 1 if inside else -1


@njit(cache=True, nogil=True)
def _outside(points, outer, outer_end, first, last, tolerance):  # type: ignore[no-untyped-def]
    """Return a corner of a hole that lies outside, or -1; once nothing crosses, one off the border tells for all."""
    for k in range(first, last - 1):
        side = _side(points, outer, outer_end, points[k, 0], points[k, 1], tolerance)
        if side != 0:
            return -1 if side > 0 else k
    return -1


@njit(cache=True, nogil=True)
def _first_broken(points, ring_start, polygon_start, entity_start, tolerance):  # type: ignore[no-untyped-def]
    """Return row, reason, number of the ring in its polygon and the place of the first fault; row -1 without."""
    for i in range(len(entity_start) - 1):
        for polygon in range(entity_start[i], entity_start[i + 1]):
            r_0, r_1 = polygon_start[polygon], polygon_start[polygon + 1]
            edges = np.empty(ring_start[r_1] - ring_start[r_0] - (r_1 - r_0), np.int64)
            used = 0
            for r in range(r_0, r_1):
                first, last = ring_start[r], ring_start[r + 1]
                if _few_corners(points, first, last):
                    return i, 1, r - r_0, points[first, 0], points[first, 1]
                for k in range(first, last - 1):
                    edges[used] = k
                    used += 1
            a, b = _crossing(points, edges, tolerance)
            if a >= 0:
                d_x, d_y = points[a + 1, 0] - points[a, 0], points[a + 1, 1] - points[a, 1]
                e_x, e_y = points[b + 1, 0] - points[b, 0], points[b + 1, 1] - points[b, 1]
                along = (points[b, 0] - points[a, 0]) * e_y - (points[b, 1] - points[a, 1]) * e_x
                along /= d_x * e_y - d_y * e_x
                ring = np.searchsorted(ring_start, max(a, b), side="right") - 1 - r_0
                other = np.searchsorted(ring_start, min(a, b), side="right") - 1 - r_0
                reason = 2 if ring == other else 3
                return i, reason, ring, points[a, 0] + along * d_x, points[a, 1] + along * d_y
            for r in range(r_0 + 1, r_1):
                k = _outside(
                    points, ring_start[r_0], ring_start[r_0 + 1], ring_start[r], ring_start[r + 1], tolerance
                )
                if k >= 0:
                    return i, 4, r - r_0, points[k, 0], points[k, 1]
    return -1, 0, 0, 0.0, 0.0
