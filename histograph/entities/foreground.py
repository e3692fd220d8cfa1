"""Local image operators whose result at a pixel depends on a known surrounding only, bit by bit.

Sums are over whole numbers wherever pixels are counted or averaged, because sliding sums of floats depend on where
they start.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage


def above_threshold(
    amount: NDArray[np.int32], radius: int, level: float, global_weight: float, spread: float
) -> NDArray[np.bool_]:
    """Compare each pixel with a blend of a global level and its surrounding.

    A pixel is foreground if ``amount > g · level + (1 - g) · (mean + spread · sd)``, with the mean and the standard
    deviation over the square of ``2 radius + 1`` pixels around it (cut at the array's border).

    Parameters
    ----------
    amount : ndarray, (H, W) int32
        Amount of stain in whole units.
    radius : int
        Half the side of the square, in pixels.
    level : float
        Global threshold, in the units of `amount`.
    global_weight : float
        Weight g of the global level, 0 … 1.
    spread : float
        Standard deviations above the local mean.

    Returns
    -------
    ndarray, (H, W) bool

    Examples
    --------
    >>> amount = np.array([[0, 0, 9]], np.int32)
    >>> above_threshold(amount, radius=1, level=5.0, global_weight=1.0, spread=0.0)
    array([[False, False,  True]])
    """
    return _above(amount, radius, float(level), float(global_weight), float(spread))


@njit(cache=True, nogil=True)
def _above(amount, radius, level, global_weight, spread):  # type: ignore[no-untyped-def]
    height, width = amount.shape
    out = np.zeros((height, width), np.bool_)
    # Column sums of the rows now in reach, and of their squares.
    total = np.zeros(width, np.int64)
    square = np.zeros(width, np.int64)
    low, high = 0, 0
    for row in range(height):
        while high < min(row + radius + 1, height):
            for col in range(width):
                value = np.int64(amount[high, col])
                total[col] += value
                square[col] += value * value
            high += 1
        while low < row - radius:
            for col in range(width):
                value = np.int64(amount[low, col])
                total[col] -= value
                square[col] -= value * value
            low += 1
        left, right = 0, 0
        sum_1, sum_2 = np.int64(0), np.int64(0)
        for col in range(width):
            while right < min(col + radius + 1, width):
                sum_1 += total[right]
                sum_2 += square[right]
                right += 1
            while left < col - radius:
                sum_1 -= total[left]
                sum_2 -= square[left]
                left += 1
            n = (high - low) * (right - left)
            mean = sum_1 / n
            sd = math.sqrt(max(sum_2 / n - mean * mean, 0.0))
            local = mean + spread * sd
            out[row, col] = amount[row, col] > global_weight * level + (1.0 - global_weight) * local
    return out


def fill_small_holes(inside: NDArray[np.bool_], max_pixels: int, max_extent: int) -> NDArray[np.bool_]:
    """Fill background components that are small in area and in extent.

    Parameters
    ----------
    inside : ndarray, (H, W) bool
        Foreground.
    max_pixels : int
        Largest hole in pixels.
    max_extent : int
        Largest height and width of a hole in pixels: a hole is decided by what lies so near.

    Returns
    -------
    ndarray, (H, W) bool
        Components that reach the array's border stay open.

    Examples
    --------
    >>> ring = np.ones((3, 3), bool)
    >>> ring[1, 1] = False
    >>> bool(fill_small_holes(ring, 1, 1).all())
    True
    """
    label, n = ndimage.label(~inside)
    return inside | _small(label, n, max_pixels, max_extent)


@njit(cache=True, nogil=True)
def _small(label, n, max_pixels, max_extent):  # type: ignore[no-untyped-def]
    height, width = label.shape
    count = np.zeros(n + 1, np.int64)
    box = np.empty((n + 1, 4), np.int64)
    box[:, 0] = height
    box[:, 1] = width
    box[:, 2:] = -1
    for row in range(height):
        for col in range(width):
            i = label[row, col]
            count[i] += 1
            box[i, 0] = min(box[i, 0], row)
            box[i, 1] = min(box[i, 1], col)
            box[i, 2] = max(box[i, 2], row)
            box[i, 3] = max(box[i, 3], col)
    small = np.zeros(n + 1, np.bool_)
    for i in range(1, n + 1):
        small[i] = (
            count[i] <= max_pixels
            and box[i, 2] - box[i, 0] < max_extent
            and box[i, 3] - box[i, 1] < max_extent
            and box[i, 0] > 0
            and box[i, 1] > 0
            and box[i, 2] < height - 1
            and box[i, 3] < width - 1
        )
    out = np.zeros((height, width), np.bool_)
    for row in range(height):
        for col in range(width):
            out[row, col] = small[label[row, col]]
    return out


@njit(cache=True, nogil=True)
def near_edge_distance(inside, radius):  # type: ignore[no-untyped-def]
    """Euclidean distance of each foreground pixel to the nearest background pixel, at most `radius`.

    Parameters
    ----------
    inside : ndarray, (H, W) bool
        Foreground; what lies beyond the array counts as foreground.
    radius : int
        Largest distance, in pixels.

    Returns
    -------
    ndarray, (H, W) float32
        Pixels; 0 on the background.

    Examples
    --------
    >>> near_edge_distance(np.array([[False, True, True, True]]), 2)
    array([[0., 1., 2., 2.]], dtype=float32)
    """
    height, width = inside.shape
    down = np.empty((height, width), np.int32)
    for col in range(width):
        down[0, col] = radius if inside[0, col] else 0
    for row in range(1, height):
        for col in range(width):
            down[row, col] = min(down[row - 1, col] + 1, radius) if inside[row, col] else 0
    for row in range(height - 2, -1, -1):
        for col in range(width):
            down[row, col] = min(down[row, col], down[row + 1, col] + 1)
    out = np.zeros((height, width), np.float32)
    for row in range(height):
        for col in range(width):
            if not inside[row, col]:
                continue
            best = down[row, col] * down[row, col]
            offset = 1
            while offset * offset < best:
                if col >= offset:
                    side = down[row, col - offset]
                    best = min(best, offset * offset + side * side)
                if col + offset < width:
                    side = down[row, col + offset]
                    best = min(best, offset * offset + side * side)
                offset += 1
            out[row, col] = math.sqrt(best)
    return out
