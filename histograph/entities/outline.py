"""The outline of a mask as a closed ring along the cracks between pixels."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def outer_ring(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Trace the outer ring of a mask along pixel cracks.

    The ring bounds the largest component (4-connected; the first in reading order if several are largest) with its
    holes filled. It runs clockwise as seen on the image, holds corners only, and never touches itself, so it is a
    valid simple polygon.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
        The mask; at least one pixel is set.

    Returns
    -------
    ndarray, (P, 2) int64
        Corners ``x, y`` in pixels (pixel (row, col) spans ``[col, col + 1] x [row, row + 1]``); the first corner is
        repeated at the end.

    Raises
    ------
    ValueError
        If no pixel is set.

    Examples
    --------
    >>> import numpy as np
    >>> outer_ring(np.array([[True, True]])).tolist()
    [[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]
    """
    if not mask.any():
        raise ValueError("mask: expected at least one pixel, found none; leave empty masks out.")
    padded = np.pad(np.asarray(mask, np.uint8), 1)
    return _trace(_largest_component(padded)) - 1


@njit(cache=True, nogil=True)
def _largest_component(padded):  # type: ignore[no-untyped-def]
    """Keep the largest 4-connected component of a mask with a border of zeros, as a boolean mask."""
    height, width = padded.shape
    component = np.zeros(padded.shape, np.int32)
    stack = np.empty((padded.size, 2), np.int32)
    best, best_size, current = 0, 0, 0
    for row in range(1, height - 1):
        for col in range(1, width - 1):
            if padded[row, col] == 0 or component[row, col] != 0:
                continue
            current += 1
            component[row, col] = current
            stack[0, 0], stack[0, 1] = row, col
            depth, size = 1, 0
            while depth > 0:
                depth -= 1
                r, c = stack[depth, 0], stack[depth, 1]
                size += 1
                for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    if padded[r + dr, c + dc] != 0 and component[r + dr, c + dc] == 0:
                        component[r + dr, c + dc] = current
                        stack[depth, 0], stack[depth, 1] = r + dr, c + dc
                        depth += 1
            if size > best_size:
                best, best_size = current, size
    return component == best


@njit(cache=True, nogil=True)
def _trace(inside):  # type: ignore[no-untyped-def]
    """Walk the cracks with the component on the right hand, from its first pixel in reading order."""
    height, width = inside.shape
    row = col = -1
    for first in range(height * width):
        if inside[first // width, first % width]:
            row, col = first // width, first % width
            break
    start_row, start_col = row, col
    ring = [(col, row)]
    # The walker stands on the crack corner (row, col) and looks along (dr, dc); it starts towards the right.
    dr, dc = 0, 1
    while True:
        row += dr
        col += dc
        # The two pixels ahead of the corner: on the left hand and on the right hand.
        left = inside[row - (dr - dc < 0), col - (dr + dc < 0)]
        right = inside[row - (dr + dc < 0), col - (dc - dr < 0)]
        if left:
            # Turning left at a corner where only diagonal pixels meet keeps the ring simple: the gap becomes a hole.
            new = (-dc, dr)
        elif right:
            new = (dr, dc)
        else:
            new = (dc, -dr)
        if row == start_row and col == start_col:
            break
        if new != (dr, dc):
            ring.append((col, row))
        dr, dc = new
    ring.append((start_col, start_row))
    out = np.empty((len(ring), 2), np.int64)
    for i in range(len(ring)):
        out[i, 0], out[i, 1] = ring[i]
    return out
