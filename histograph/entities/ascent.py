"""Splitting a foreground into peaks by steepest ascent, with every pixel's fate decided nearby.

A watershed floods from far away, so its result on a tile depends on where the tile ends. Here a pixel climbs to its
highest neighbour, a bounded number of steps; peaks that a shallow saddle parts are joined, a bounded number of times.
What happens to a pixel is therefore known once a fixed surrounding is, which makes tiled results exact.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def ascend(
    height: NDArray[np.int32],
    inside: NDArray[np.bool_],
    max_steps: int,
    radius: int,
    depth: int,
    max_joins: int,
) -> NDArray[np.int64]:
    """Assign foreground pixels to peaks.

    Every pixel steps to the highest of its eight neighbours inside the foreground (of equals the first in reading
    order) until it stands on a peak. A peak joins the nearest higher peak within `radius` if the ground on the straight
    line between them stays above ``height of the lower peak - depth``.

    Parameters
    ----------
    height : ndarray, (H, W) int32
        Landscape.
    inside : ndarray, (H, W) bool
        Foreground.
    max_steps : int
        Pixels that do not reach a peak in so many steps are left out.
    radius : int
        Reach of joining, in pixels.
    depth : int
        Depth of the saddle that parts two peaks, in units of `height`.
    max_joins : int
        Most joins in a row.

    Returns
    -------
    ndarray, (H, W) int64
        1 + the flat index of the pixel's peak, 0 for background. A pixel's value is exact if all pixels within
        ``max_steps + max_joins * radius + radius + 1`` are known.

    Examples
    --------
    >>> import numpy as np
    >>> height = np.array([[1, 5, 1, 0, 1, 4, 1]], np.int32)
    >>> ascend(height, height > 0, max_steps=9, radius=2, depth=1, max_joins=2)
    array([[2, 2, 2, 0, 6, 6, 6]])
    """
    step = _steps(height, inside)
    root = _joins(height, inside, step, radius, depth)
    return _resolve(step, root, max_steps, max_joins).reshape(height.shape)


@njit(cache=True, nogil=True)
def _steps(height, inside):  # type: ignore[no-untyped-def]
    """Flat index of each pixel's highest neighbour or itself; -1 outside."""
    rows, cols = height.shape
    step = np.full(rows * cols, -1, np.int64)
    for row in range(rows):
        for col in range(cols):
            if not inside[row, col]:
                continue
            best, best_height = row * cols + col, height[row, col]
            for r in range(max(row - 1, 0), min(row + 2, rows)):
                for c in range(max(col - 1, 0), min(col + 2, cols)):
                    at = r * cols + c
                    if inside[r, c] and (
                        height[r, c] > best_height or (height[r, c] == best_height and at < best)
                    ):
                        best, best_height = at, height[r, c]
            step[row * cols + col] = best
    return step


@njit(cache=True, nogil=True)
def _joins(height, inside, step, radius, depth):  # type: ignore[no-untyped-def]
    """Flat index of the peak that each peak joins (itself if none), stored at the peaks; -1 elsewhere."""
    rows, cols = height.shape
    root = np.full(rows * cols, -1, np.int64)
    for at in range(rows * cols):
        if step[at] != at:
            continue
        row, col = at // cols, at % cols
        top = height[row, col]
        best, best_distance = at, radius * radius + 1
        for r in range(max(row - radius, 0), min(row + radius + 1, rows)):
            for c in range(max(col - radius, 0), min(col + radius + 1, cols)):
                other = r * cols + c
                distance = (r - row) ** 2 + (c - col) ** 2
                if step[other] != other or other == at or distance >= best_distance:
                    continue
                if height[r, c] < top or (height[r, c] == top and other > at):
                    continue
                if _saddle_holds(height, inside, row, col, r, c, top - depth):
                    best, best_distance = other, distance
        root[at] = best
    return root


@njit(cache=True, nogil=True)
def _saddle_holds(height, inside, row_0, col_0, row_1, col_1, level):  # type: ignore[no-untyped-def]
    """Whether the straight line between two pixels stays inside and at or above a level."""
    n = max(abs(row_1 - row_0), abs(col_1 - col_0))
    for k in range(1, n):
        # Whole-number rounding, so that the line does not depend on where the array starts.
        row = row_0 + (2 * k * (row_1 - row_0) + n) // (2 * n)
        col = col_0 + (2 * k * (col_1 - col_0) + n) // (2 * n)
        if not inside[row, col] or height[row, col] < level:
            return False
    return True


@njit(cache=True, nogil=True)
def _resolve(step, root, max_steps, max_joins):  # type: ignore[no-untyped-def]
    peak = np.zeros(len(step), np.int64)
    for at in range(len(step)):
        if step[at] < 0:
            continue
        here = at
        for _ in range(max_steps):
            if step[here] == here:
                break
            here = step[here]
        if step[here] != here:
            continue
        for _ in range(max_joins):
            if root[here] == here:
                break
            here = root[here]
        peak[at] = here + 1
    return peak
