"""Shape of entities: size, elongation, direction and convexity, from their pixel runs.

Area, box, axes, eccentricity, perimeter and convex area follow the definitions of
`skimage.measure.regionprops`, each entity taken alone: a touching neighbour counts as outside.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["SHAPE_COLUMNS", "shape_kernel"]

# name, unit, power of mpp that turns pixels into the unit
SHAPE_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("area", "µm²", 2),
    ("perimeter", "µm", 1),
    ("equivalent_diameter", "µm", 1),
    ("major_axis", "µm", 1),
    ("minor_axis", "µm", 1),
    ("eccentricity", "1", 0),
    ("orientation_sin", "1", 0),
    ("orientation_cos", "1", 0),
    ("extent", "1", 0),
    ("convex_area", "µm²", 2),
    ("solidity", "1", 0),
    ("bbox_aspect", "1", 0),
    ("circularity", "1", 0),
)

_ROOT2 = math.sqrt(2.0)
_FAR = np.int64(2**40)


def _perimeter_weights() -> np.ndarray:
    """Length of the contour through a border pixel, by 1 + 2 * (side neighbours) + 10 * (corner neighbours).

    Benkrid and Crookes, "Design and FPGA implementation of a perimeter estimator", 2000.
    """
    weights = np.zeros(50)
    weights[[5, 7, 15, 17, 25, 27]] = 1.0
    weights[[21, 33]] = _ROOT2
    weights[[13, 23]] = (1 + _ROOT2) / 2
    return weights


_WEIGHTS = _perimeter_weights()


@njit(cache=True, nogil=True)
def _perimeter(row, start, stop, a, b, r0, c0, width, mask, count):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Perimeter of one entity; `mask` is a scratch of the padded box, zero before and after."""
    w = width + 2
    for k in range(a, b):
        base = (row[k] - r0 + 1) * w + 1 - c0
        for i in range(base + start[k], base + stop[k]):
            mask[i] = 1
    count[:] = 0
    for k in range(a, b):
        base = (row[k] - r0 + 1) * w + 1 - c0
        for i in range(base + start[k], base + stop[k]):
            if mask[i - 1] == 0 or mask[i + 1] == 0 or mask[i - w] == 0 or mask[i + w] == 0:
                mask[i] = 3  # bit 1: border
    for k in range(a, b):
        base = (row[k] - r0 + 1) * w + 1 - c0
        for i in range(base + start[k], base + stop[k]):
            if mask[i] == 3:
                side = (mask[i - 1] >> 1) + (mask[i + 1] >> 1) + (mask[i - w] >> 1) + (mask[i + w] >> 1)
                corner = mask[i - w - 1] >> 1
                corner += (mask[i - w + 1] >> 1) + (mask[i + w - 1] >> 1) + (mask[i + w + 1] >> 1)
                count[1 + 2 * side + 10 * corner] += 1
    for k in range(a, b):
        base = (row[k] - r0 + 1) * w + 1 - c0
        for i in range(base + start[k], base + stop[k]):
            mask[i] = 0
    total = 0.0
    for i in range(50):
        total += count[i] * _WEIGHTS[i]
    return total


@njit(cache=True, nogil=True)
def _chain(x, m, hull):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the y of the lower convex chain of the points (y, x[y]) with x[y] < _FAR; return their number."""
    n = 0
    for y in range(m):
        if x[y] >= _FAR:
            continue
        while n >= 2:
            p, q = hull[n - 2], hull[n - 1]
            if (x[q] - x[p]) * (y - p) < (x[y] - x[p]) * (q - p):
                break
            n -= 1
        hull[n] = y
        n += 1
    return n


@njit(cache=True, nogil=True)
def _ceil_half(x, hull, segment, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Half of the chain's x at row y, rounded up, in exact integer arithmetic."""
    p, q = hull[segment], hull[segment + 1]
    over = x[p] * (q - p) + (x[q] - x[p]) * (y - p)
    return -((-over) // (2 * (q - p)))


@njit(cache=True, nogil=True)
def _convex_area(row, start, stop, a, b, r0, c0, height, low, high, hull, hull2):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count pixel centres in, or on, the hull of the midpoints of all pixel sides (coordinates doubled)."""
    m = 2 * height + 1
    low[:m] = _FAR
    high[:m] = _FAR  # negated, so that both chains are lower ones
    for k in range(a, b):
        y = 2 * (row[k] - r0) + 1
        s = 2 * (np.int64(start[k]) - c0)
        t = 2 * (np.int64(stop[k]) - 1 - c0)
        low[y] = min(low[y], s - 1)
        high[y] = min(high[y], -t - 1)
        for z in (y - 1, y + 1):
            low[z] = min(low[z], s)
            high[z] = min(high[z], -t)
    _chain(low, m, hull)
    _chain(high, m, hull2)
    i = 0
    j = 0
    total = 0
    for y in range(1, m, 2):
        while hull[i + 1] < y:
            i += 1
        while hull2[j + 1] < y:
            j += 1
        total += 1 - _ceil_half(high, hull2, j, y) - _ceil_half(low, hull, i, y)
    return total


@njit(cache=True, nogil=True)
def _moments(row, start, stop, a, b, r0, c0):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Pixel count and the central second moments (variance of x, of y, covariance) of one entity."""
    n = sx = sy = sxx = syy = sxy = 0
    for k in range(a, b):
        y = np.int64(row[k]) - r0
        s = np.int64(start[k]) - c0
        t = np.int64(stop[k]) - c0
        m = t - s
        x1 = (s + t - 1) * m // 2
        n += m
        sx += x1
        sy += y * m
        sxx += ((t - 1) * t * (2 * t - 1) - (s - 1) * s * (2 * s - 1)) // 6
        syy += y * y * m
        sxy += y * x1
    f = float(n)  # whole numbers below 2**53 for all but huge entities: the differences are exact
    xx = (f * sxx - float(sx) * sx) / (f * f)
    yy = (f * syy - float(sy) * sy) / (f * f)
    xy = (f * sxy - float(sx) * sy) / (f * f)
    return n, xx, yy, xy


@njit(cache=True, nogil=True)
def shape_kernel(ptr, row, start, stop, first, last, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the shape columns of some entities into their rows of `out`.

    Parameters
    ----------
    ptr, row, start, stop : arrays
        The fields of `Runs`, in pixels.
    first, last : int
        Entities to measure, `last` excluded.
    out : (N, 13) float64 array
        Where the columns of `SHAPE_COLUMNS` go, lengths in pixels.
    """
    box = 1
    tall = 1
    for e in range(first, last):
        c0, c1 = start[ptr[e]], stop[ptr[e]]
        for k in range(ptr[e], ptr[e + 1]):
            c0, c1 = min(c0, start[k]), max(c1, stop[k])
        h = np.int64(row[ptr[e + 1] - 1]) - row[ptr[e]] + 1
        tall = max(tall, h)
        box = max(box, (h + 2) * (np.int64(c1) - c0 + 2))
    mask = np.zeros(box, np.uint8)
    count = np.zeros(50, np.int64)
    low, high = np.empty(2 * tall + 1, np.int64), np.empty(2 * tall + 1, np.int64)
    hull, hull2 = np.empty(2 * tall + 1, np.int64), np.empty(2 * tall + 1, np.int64)
    for e in range(first, last):
        a, b = ptr[e], ptr[e + 1]
        r0 = np.int64(row[a])
        h = np.int64(row[b - 1]) - r0 + 1
        c0, c1 = np.int64(start[a]), np.int64(stop[a])
        for k in range(a, b):
            c0, c1 = min(c0, np.int64(start[k])), max(c1, np.int64(stop[k]))
        w = c1 - c0
        n, xx, yy, xy = _moments(row, start, stop, a, b, r0, c0)
        middle = 0.5 * (xx + yy)
        spread = math.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)
        l1 = max(0.0, middle + spread)
        l2 = max(0.0, middle - spread)
        perimeter = _perimeter(row, start, stop, a, b, r0, c0, w, mask, count)
        convex = _convex_area(row, start, stop, a, b, r0, c0, h, low, high, hull, hull2)
        out[e, 0] = n
        out[e, 1] = perimeter
        out[e, 2] = math.sqrt(4.0 * n / math.pi)
        out[e, 3] = 4.0 * math.sqrt(l1)
        out[e, 4] = 4.0 * math.sqrt(l2)
        out[e, 5] = math.sqrt(1.0 - l2 / l1) if l1 > 0 else 0.0
        out[e, 6] = xy / spread if spread > 0 else 0.0
        out[e, 7] = 0.5 * (xx - yy) / spread if spread > 0 else 0.0
        out[e, 8] = n / float(h * w)
        out[e, 9] = convex
        out[e, 10] = n / float(convex)
        out[e, 11] = min(h, w) / float(max(h, w))
        out[e, 12] = 4.0 * math.pi * n / (perimeter * perimeter) if perimeter > 0 else 0.0
