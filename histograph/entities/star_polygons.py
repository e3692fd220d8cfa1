"""Star-shaped polygons: a centre and the distance to the edge in each direction; overlap, suppression, drawing.

The rules are StarDist's: corners are cut to whole pixels before overlaps are measured, the overlap is the common area
over the smaller one, and of overlapping polygons the one with the higher probability stays and is drawn on top.
Drawings are equal pixel by pixel. Common areas may differ by about a pixel, because the library that StarDist uses
rounds at every row, and then a nucleus whose overlap is very near the threshold may be kept by one and not the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNDECIDED, KEPT, SUPPRESSED = 0, 1, 2
_CELL_PX = 16  # side of the squares by which neighbours are looked up


@dataclass(frozen=True, eq=False)
class StarPolygons:
    """Polygons on the raster of an image or slide.

    Parameters
    ----------
    points : ndarray, (N, 2) int64
        Row and column of the centres.
    dist : ndarray, (N, R) float32
        Distances to the edge in pixels; direction ``k`` points ``2 π k / R`` from the columns towards the rows.
    score : ndarray, (N,) float32
        Probabilities.
    kind : ndarray, (N,) int64
        Class of each, 0 where classes are not told apart.

    Examples
    --------
    >>> square = StarPolygons.of([[5, 5]], np.full((1, 4), 3.0), [0.9])
    >>> square.corners()[0].round().tolist()
    [[5.0, 8.0], [8.0, 5.0], [5.0, 2.0], [2.0, 5.0]]
    """

    points: NDArray[np.int64]
    dist: NDArray[np.float32]
    score: NDArray[np.float32]
    kind: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of polygons."""
        return len(self.points)

    @classmethod
    def of(cls, points, dist, score, kind=None) -> StarPolygons:  # type: ignore[no-untyped-def]
        """Make polygons from anything array-like.

        Examples
        --------
        >>> len(StarPolygons.of([[1, 2]], [[1.0, 1.0, 1.0]], [0.5]))
        1
        """
        dist = np.ascontiguousarray(dist, np.float32)
        points = np.ascontiguousarray(points, np.int64).reshape(-1, 2)
        score = np.ascontiguousarray(score, np.float32)
        if dist.ndim != 2 or not len(dist) == len(points) == len(score) or dist.shape[1] < 3:
            raise ValueError(
                f"dist: expected (N, R) with R >= 3 for {len(points)} points and {len(score)} scores, found "
                f"{dist.shape}"
            )
        kinds = np.zeros(len(points), np.int64) if kind is None else np.ascontiguousarray(kind, np.int64)
        return cls(points, dist, score, kinds)

    @staticmethod
    def concatenate(parts: list[StarPolygons]) -> StarPolygons:
        """Join polygons, one part after the other.

        Examples
        --------
        >>> one = StarPolygons.of([[1, 2]], [[1.0, 1.0, 1.0]], [0.5])
        >>> len(StarPolygons.concatenate([one, one]))
        2
        """
        columns = ("points", "dist", "score", "kind")
        return StarPolygons(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))

    def select(self, index: NDArray) -> StarPolygons:
        """Return some of them, in the order of the index.

        Examples
        --------
        >>> two = StarPolygons.of([[1, 2], [3, 4]], np.ones((2, 3)), [0.5, 0.6])
        >>> two.select(np.array([1])).points.tolist()
        [[3, 4]]
        """
        return StarPolygons(self.points[index], self.dist[index], self.score[index], self.kind[index])

    def ranked(self) -> StarPolygons:
        """Return them by falling probability; of equal ones the lower, then the more right comes first.

        Examples
        --------
        >>> two = StarPolygons.of([[1, 2], [3, 4]], np.ones((2, 3)), [0.5, 0.6])
        >>> two.ranked().score.tolist()
        [0.6000000238418579, 0.5]
        """
        return self.select(np.lexsort((self.points[:, 1], self.points[:, 0], self.score))[::-1])

    def corners(self) -> NDArray[np.float32]:
        """Return the corners as rows and columns, (N, R, 2) float32; pixel centres are whole numbers.

        Examples
        --------
        >>> StarPolygons.of([[0, 0]], [[1.0, 1.0, 1.0]], [1.0]).corners().shape
        (1, 3, 2)
        """
        angle = np.linspace(0, 2 * np.pi, self.dist.shape[1], endpoint=False)
        around = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        # rounded twice, as StarDist does
        offset = (self.dist[:, :, None] * around).astype(np.float32)
        return (offset + self.points[:, None]).astype(np.float32)

    def whole_corners(self) -> NDArray[np.int32]:
        """Return the corners cut to whole pixels, (N, R, 2) int32: what overlaps are measured on.

        Examples
        --------
        >>> StarPolygons.of([[5, 5]], np.full((1, 4), 2.6), [1.0]).whole_corners()[0].tolist()
        [[5, 7], [7, 5], [5, 2], [2, 5]]
        """
        rays = self.dist.shape[1]
        angle = np.float32(2 * np.pi / rays) * np.arange(rays, dtype=np.float32)
        around = np.stack([np.sin(angle.astype(np.float64)), np.cos(angle.astype(np.float64))], axis=1)
        offset = self.dist[:, :, None] * around.astype(np.float32)
        return np.trunc(self.points[:, None].astype(np.float32) + offset).astype(np.int32)


def suppress(
    polygons: StarPolygons,
    threshold: float,
    known: tuple[float, float, float, float] = (-np.inf, -np.inf, np.inf, np.inf),
    reach: float = 0.0,
) -> NDArray[np.int8]:
    """Decide which polygons stay: in order of rank, one that stays suppresses those that it overlaps too much.

    Where only a part of a slide is known, polygons whose fate could depend on what lies outside stay undecided. What
    is decided is what would be decided with the whole slide at hand.

    Parameters
    ----------
    polygons : StarPolygons
        Ranked, see `StarPolygons.ranked`.
    threshold : float
        Largest common area, as a share of the smaller polygon, that both survive.
    known : tuple of float
        Rows and columns ``row_min, col_min, row_max, col_max`` in which all candidates are present (the maxima
        exclusive).
    reach : float
        Largest distance from centre to edge of a polygon elsewhere.

    Returns
    -------
    ndarray, (N,) int8
        1 kept, 2 suppressed, 0 undecided.

    Examples
    --------
    >>> three = StarPolygons.of([[20, 20], [20, 22], [20, 50]], np.full((3, 16), 6.0), [0.9, 0.8, 0.7])
    >>> suppress(three, 0.5).tolist()
    [1, 2, 1]
    >>> suppress(three, 0.5, known=(0, 0, 40, 54), reach=6.0).tolist()
    [1, 2, 0]
    """
    if not len(polygons):
        return np.zeros(0, np.int8)
    corners = polygons.whole_corners()
    low, high = corners.min(axis=1), corners.max(axis=1)
    row_min, col_min, row_max, col_max = known
    # a pixel of slack: corners are cut to whole pixels
    outside = (low[:, 0] <= row_min + reach) | (low[:, 1] <= col_min + reach)
    outside |= (high[:, 0] >= row_max - 1 - reach) | (high[:, 1] >= col_max - 1 - reach)
    boxes = np.concatenate([low, high], axis=1).astype(np.int32)
    first = polygons.points.min(axis=0) // _CELL_PX
    cell = polygons.points // _CELL_PX - first
    columns = int(cell[:, 1].max()) + 1
    flat = cell[:, 0] * columns + cell[:, 1]
    members = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[members], np.arange((int(cell[:, 0].max()) + 1) * columns + 1))
    widest = int(np.abs(corners - polygons.points[:, None]).max()) + 1
    return _suppress(corners, boxes, outside, np.float32(threshold), members, starts, first, columns, widest)


def overlap_area(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    """Return the common area of two polygons with whole corners; where edges cross is rounded to whole pixels.

    Each boundary is walked along, and what of it lies inside the other polygon bounds the common area. One polygon
    is thought of as shifted by an infinitesimal step, so that corners on edges and edges on edges need no cases.

    Parameters
    ----------
    first, second : ndarray, (R, 2) int32
        Rows and columns of the corners, in the order of their directions.

    Returns
    -------
    float
        In pixels.

    References
    ----------
    H. Edelsbrunner, E. P. Mücke, Simulation of simplicity, ACM Trans. Graphics 9 (1990) 66-104.

    Examples
    --------
    >>> square = np.array([[0, 0], [0, 4], [4, 4], [4, 0]], np.int32)
    >>> overlap_area(square, square), overlap_area(square, square + 1), overlap_area(square, square + 4)
    (16.0, 9.0, 0.0)
    """
    size = len(first) * len(second)
    return float(_overlap(first, second, np.empty((size, 2)), np.empty((size, 3), np.int64)))


def draw(polygons: StarPolygons, window: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """Draw polygons into a window of the raster; a pixel belongs to the first in rank that covers its centre.

    Parameters
    ----------
    polygons : StarPolygons
        Ranked, see `StarPolygons.ranked`.
    window : tuple of int
        Row, column, height, width.

    Returns
    -------
    ndarray, (height, width) int64
        1 + the row of the polygon in `polygons`, 0 where there is none.

    References
    ----------
    J. O'Rourke, Computational Geometry in C, section 7.4 (point in polygon, edges included).

    Examples
    --------
    >>> square = StarPolygons.of([[2, 2]], np.full((1, 4), 1.5), [0.9])
    >>> draw(square, (0, 0, 5, 5)).tolist()[1]
    [0, 0, 1, 0, 0]
    """
    row, col, height, width = window
    out = np.zeros((height, width), np.int64)
    corners = polygons.corners().astype(np.float64)
    if len(corners):
        low = np.ceil(corners.min(axis=1)).astype(np.int64)
        high = np.floor(corners.max(axis=1)).astype(np.int64) + 1
        limits = np.array([row + height, col + width])
        boxes = np.concatenate([np.maximum(low, (row, col)), np.minimum(high, limits)], axis=1)
        _draw(corners, boxes, out, row, col)
    return out


@njit(cache=True, nogil=True)
def _suppress(corners, boxes, outside, threshold, members, starts, first, columns, widest):  # type: ignore[no-untyped-def]
    n, rays = corners.shape[0], corners.shape[1]
    rows = (len(starts) - 1) // columns
    place, whole = np.empty((rays * rays, 2)), np.empty((rays * rays, 3), np.int64)
    area = np.empty(n)
    for i in range(n):
        area[i] = abs(_twice_area(corners[i])) / 2
    state = np.zeros(n, np.int8)
    unsure = outside.copy()
    for i in range(n):
        if state[i] == SUPPRESSED:
            continue
        sure = not unsure[i]
        if sure:
            state[i] = KEPT
        cells_0 = max((boxes[i, 0] - widest) // _CELL_PX - first[0], 0)
        cells_1 = min((boxes[i, 2] + widest) // _CELL_PX - first[0], rows - 1)
        low = max((boxes[i, 1] - widest) // _CELL_PX - first[1], 0)
        high = min((boxes[i, 3] + widest) // _CELL_PX - first[1], columns - 1)
        for cell_row in range(cells_0, cells_1 + 1):
            base = cell_row * columns
            for m in range(starts[base + low], starts[base + high + 1]):
                j = members[m]
                if j <= i or state[j] == SUPPRESSED or (not sure and unsure[j]):
                    continue
                if boxes[j, 0] > boxes[i, 2] or boxes[i, 0] > boxes[j, 2]:
                    continue
                if boxes[j, 1] > boxes[i, 3] or boxes[i, 1] > boxes[j, 3]:
                    continue
                common = _overlap(corners[i], corners[j], place, whole)
                if np.float32(common / (min(area[i], area[j]) + 1e-10)) > threshold:
                    if sure:
                        state[j] = SUPPRESSED
                    else:
                        unsure[j] = True
    return state


@njit(cache=True, nogil=True)
def _twice_area(ring):  # type: ignore[no-untyped-def]
    """Twice the signed area, positive when the directions run from the columns towards the rows."""
    total = np.int64(0)
    for k in range(len(ring)):
        m = k + 1 if k + 1 < len(ring) else 0
        y, x = np.int64(ring[k, 0] - ring[0, 0]), np.int64(ring[k, 1] - ring[0, 1])
        total += x * (ring[m, 0] - ring[0, 0]) - y * (ring[m, 1] - ring[0, 1])
    return total


@njit(cache=True, nogil=True)
def _tie(dy, dx):  # type: ignore[no-untyped-def]
    """Sign of the cross product of an edge with the infinitesimal step, first along x, then along y."""
    if dy != 0:
        return -1 if dy > 0 else 1
    return 1 if dx > 0 else -1


@njit(cache=True, nogil=True)
def _winding(ring, y, x, shifted):  # type: ignore[no-untyped-def]
    """How often a ring winds around a point; `shifted` is 1 if the point is the shifted one, -1 if the ring is."""
    turns = 0
    for k in range(len(ring)):
        m = k + 1 if k + 1 < len(ring) else 0
        y0, x0, y1, x1 = ring[k, 0], ring[k, 1], ring[m, 0], ring[m, 1]
        below_0 = y0 < y or (y0 == y and shifted > 0)
        below_1 = y1 < y or (y1 == y and shifted > 0)
        if below_0 == below_1:
            continue
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if side == 0:
            side = shifted * _tie(y1 - y0, x1 - x0)
        if below_0 and side > 0:
            turns += 1
        elif below_1 and side < 0:
            turns -= 1
    return turns


@njit(cache=True, nogil=True)
def _crossings(a, b, place, whole):  # type: ignore[no-untyped-def]
    """Find where the boundaries cross: places along each, the rounded point, and the turn that a makes into b."""
    low_y, low_x, high_y, high_x = b[0, 0], b[0, 1], b[0, 0], b[0, 1]
    for k in range(1, len(b)):
        low_y, high_y = min(low_y, b[k, 0]), max(high_y, b[k, 0])
        low_x, high_x = min(low_x, b[k, 1]), max(high_x, b[k, 1])
    count = 0
    for i in range(len(a)):
        m = i + 1 if i + 1 < len(a) else 0
        y0, x0, y1, x1 = np.int64(a[i, 0]), np.int64(a[i, 1]), np.int64(a[m, 0]), np.int64(a[m, 1])
        dy, dx = y1 - y0, x1 - x0
        top, bottom, left, right = min(y0, y1), max(y0, y1), min(x0, x1), max(x0, x1)
        if bottom < low_y or top > high_y or right < low_x or left > high_x or (dy == 0 and dx == 0):
            continue
        for j in range(len(b)):
            p = j + 1 if j + 1 < len(b) else 0
            v0, v1 = np.int64(b[j, 0]), np.int64(b[p, 0])
            if (v0 < top and v1 < top) or (v0 > bottom and v1 > bottom):
                continue
            u0, u1 = np.int64(b[j, 1]), np.int64(b[p, 1])
            if (u0 < left and u1 < left) or (u0 > right and u1 > right):
                continue
            ey, ex = v1 - v0, u1 - u0
            if ey == 0 and ex == 0:
                continue
            from_b0 = ex * (y0 - v0) - ey * (x0 - u0)
            from_b1 = ex * (y1 - v0) - ey * (x1 - u0)
            tie = -_tie(ey, ex)
            side_0, side_1 = from_b0 if from_b0 != 0 else tie, from_b1 if from_b1 != 0 else tie
            if (side_0 > 0) == (side_1 > 0):
                continue
            from_a0 = dx * (v0 - y0) - dy * (u0 - x0)
            from_a1 = dx * (v1 - y0) - dy * (u1 - x0)
            tie = _tie(dy, dx)
            if ((from_a0 if from_a0 != 0 else tie) > 0) == ((from_a1 if from_a1 != 0 else tie) > 0):
                continue
            along = from_b0 / (from_b0 - from_b1)
            place[count, 0] = i + along
            place[count, 1] = j + from_a0 / (from_a0 - from_a1)
            whole[count, 0] = _nearest(y0 + along * dy)
            whole[count, 1] = _nearest(x0 + along * dx)
            whole[count, 2] = 1 if side_1 > 0 else -1
            count += 1
    return count


@njit(cache=True, nogil=True)
def _nearest(value):  # type: ignore[no-untyped-def]
    """Round to the nearest whole number, halves away from 0."""
    return np.int64(value + 0.5) if value >= 0 else np.int64(value - 0.5)


@njit(cache=True, nogil=True)
def _walk(ring, column, place, whole, count, turns, y, x):  # type: ignore[no-untyped-def]
    """Sum the cross products along those parts of a ring that lie inside the other one; (y, x) is the origin."""
    order = np.argsort(place[:count, column])
    entering = 1 if column == 0 else -1
    total, at = np.int64(0), 0
    for k in range(len(ring)):
        m = k + 1 if k + 1 < len(ring) else 0
        from_y, from_x = np.int64(ring[k, 0]) - y, np.int64(ring[k, 1]) - x
        while at < count and (place[order[at], column] < k + 1 or k + 1 == len(ring)):
            c = order[at]
            to_y, to_x = whole[c, 0] - y, whole[c, 1] - x
            if turns != 0:
                total += from_x * to_y - from_y * to_x
            turns += entering * whole[c, 2]
            from_y, from_x = to_y, to_x
            at += 1
        if turns != 0:
            to_y, to_x = np.int64(ring[m, 0]) - y, np.int64(ring[m, 1]) - x
            total += from_x * to_y - from_y * to_x
    return total


@njit(cache=True, nogil=True)
def _overlap(a, b, place, whole):  # type: ignore[no-untyped-def]
    count = _crossings(a, b, place, whole)
    y, x = np.int64(a[0, 0]), np.int64(a[0, 1])
    inside_b = _winding(b, a[0, 0], a[0, 1], -1)
    inside_a = _winding(a, b[0, 0], b[0, 1], 1)
    if count == 0 and inside_a == 0 and inside_b == 0:
        return 0.0
    total = _walk(a, 0, place, whole, count, inside_b, y, x)
    total += _walk(b, 1, place, whole, count, inside_a, y, x)
    return abs(total) / 2


@njit(cache=True, nogil=True)
def _draw(corners, boxes, out, row_0, col_0):  # type: ignore[no-untyped-def]
    rays = corners.shape[1]
    edges = np.empty(rays, np.int64)
    for i in range(len(corners) - 1, -1, -1):
        ring = corners[i]
        for row in range(boxes[i, 0], boxes[i, 2]):
            count = 0
            for k in range(rays):
                y0, y1 = ring[k, 0] - row, ring[k + 1 if k + 1 < rays else 0, 0] - row
                if (y0 > 0) != (y1 > 0) or (y0 < 0) != (y1 < 0):
                    edges[count] = k
                    count += 1
            for col in range(boxes[i, 1], boxes[i, 3]):
                if _covers(ring, edges, count, row, col):
                    out[row - row_0, col - col_0] = i + 1


@njit(cache=True, nogil=True)
def _covers(ring, edges, count, row, col):  # type: ignore[no-untyped-def]
    """Whether a pixel centre lies in the polygon or on its edge, from the edges that meet its row."""
    right = left = False
    for e in range(count):
        k = edges[e]
        m = k + 1 if k + 1 < len(ring) else 0
        y0, y1, x0, x1 = ring[k, 0] - row, ring[m, 0] - row, ring[k, 1] - col, ring[m, 1] - col
        if (y0 == 0 and x0 == 0) or (y1 == 0 and x1 == 0):
            return True
        where = (x0 * y1 - x1 * y0) / (y1 - y0)
        if (y0 > 0) != (y1 > 0) and where > 0:
            right = not right
        if (y0 < 0) != (y1 < 0) and where < 0:
            left = not left
    return right or left
