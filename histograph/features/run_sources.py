"""Pixel runs of rectangles and packed masks, which may overlap, and runs on a grid of another pixel size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numba import njit

from .runs import Runs

if TYPE_CHECKING:
    from histograph.entities.masks import Masks

__all__ = ["resample_runs", "runs_of_masks", "runs_of_rectangles"]


def runs_of_rectangles(label: npt.ArrayLike, box: npt.ArrayLike) -> Runs:
    """Make the runs of full rectangles, which may overlap.

    Parameters
    ----------
    label : (N,) int
        Label of every rectangle.
    box : (N, 4) int
        Half-open boxes in pixels: row_min, column_min, row_stop, column_stop; none empty.

    Returns
    -------
    Runs
        Entities in the order given.

    Raises
    ------
    ValueError
        When a box is empty.

    Examples
    --------
    >>> runs_of_rectangles([4], [[0, 1, 2, 3]]).row
    array([0, 1], dtype=int32)
    """
    boxes, labels = np.asarray(box, dtype=np.int64).reshape(-1, 4), np.asarray(label, dtype=np.int64)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    if len(boxes) and min(height.min(), width.min()) < 1:
        i = int(np.flatnonzero((height < 1) | (width < 1))[0])
        raise ValueError(f"box {i} (entity {labels[i]}) holds no pixel: {boxes[i].tolist()}")
    ptr = np.concatenate([[0], np.cumsum(height)])
    within = np.arange(ptr[-1]) - np.repeat(ptr[:-1], height)
    row = np.repeat(boxes[:, 0], height) + within
    start, stop = np.repeat(boxes[:, 1], height), np.repeat(boxes[:, 3], height)
    return Runs(labels, ptr, *(a.astype(np.int32) for a in (row, start, stop)))


@njit(cache=True, nogil=True)
def _mask_runs(bits, pointers, boxes, fill, ptr, row, start, stop):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count the runs of every mask into ptr[1:], or write them where `fill` is true; returns their number."""
    k = 0
    for e in range(len(boxes)):
        width = boxes[e, 3] - boxes[e, 1]
        bit = 8 * pointers[e]
        for r in range(boxes[e, 0], boxes[e, 2]):
            before = False
            for c in range(width):
                here = bits[bit >> 3] & (128 >> (bit & 7)) != 0
                bit += 1
                if here and not before:
                    if fill:
                        row[k], start[k] = r, boxes[e, 1] + c
                    k += 1
                if fill and here:
                    stop[k - 1] = boxes[e, 1] + c + 1
                before = here
        ptr[e + 1] = k
    return k


def runs_of_masks(label: npt.ArrayLike, masks: Masks) -> Runs:
    """Make the runs of bit-packed masks, which may overlap.

    Parameters
    ----------
    label : (N,) int
        Label of every mask.
    masks : Masks
        N masks, none empty, boxes in pixels.

    Returns
    -------
    Runs
        Entities in the order given.

    Raises
    ------
    ValueError
        When a mask holds no pixel.

    Examples
    --------
    >>> from histograph.entities.masks import Masks
    >>> masks = Masks(np.array([0b11100000], np.uint8), np.array([0, 1]), np.array([[4, 6, 6, 8]]))
    >>> runs = runs_of_masks([9], masks)  # a pixel pair above a single pixel
    >>> runs.row, runs.start, runs.stop
    (array([4, 5], dtype=int32), array([6, 6], dtype=int32), array([8, 7], dtype=int32))
    """
    labels = np.asarray(label, dtype=np.int64)
    ptr, none = np.zeros(len(labels) + 1, np.int64), np.zeros(0, np.int32)
    n = _mask_runs(masks.bits, masks.pointers, masks.boxes, False, ptr, none, none, none)
    if (np.diff(ptr) == 0).any():
        raise ValueError(f"entity {labels[np.argmin(np.diff(ptr))]} has an empty mask; leave it out")
    row, start, stop = (np.empty(n, np.int32) for _ in range(3))
    _mask_runs(masks.bits, masks.pointers, masks.boxes, True, ptr, row, start, stop)
    return Runs(labels, ptr, row, start, stop)


def resample_runs(runs: Runs, ratio: float) -> Runs:
    """Bring entities to a grid of another pixel size: a new pixel belongs to an entity when its centre does.

    Parameters
    ----------
    runs : Runs
        Entities on the old grid; both grids have their corner at pixel (0, 0).
    ratio : float
        Width of a new pixel in old pixels.

    Returns
    -------
    Runs
        The same entities, in the same order.

    Raises
    ------
    ValueError
        When an entity covers no centre of a new pixel.

    Examples
    --------
    >>> runs = resample_runs(runs_of_rectangles([1], [[0, 2, 2, 6]]), 2.0)
    >>> runs.row, runs.start, runs.stop
    (array([0], dtype=int32), array([1], dtype=int32), array([3], dtype=int32))
    """
    first, after = (np.ceil(v / ratio - 0.5).astype(np.int64) for v in (runs.row, runs.row + 1.0))
    start, stop = (np.ceil(v / ratio - 0.5).astype(np.int64) for v in (runs.start, runs.stop))
    copies = np.where(stop > start, after - first, 0)
    entity = np.repeat(np.arange(len(runs)), np.diff(runs.ptr))
    source = np.repeat(np.arange(len(entity)), copies)
    row = first[source] + np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
    order = np.lexsort((start[source], row, entity[source]))
    source, row = source[order], row[order]
    count = np.bincount(entity[source], minlength=len(runs))
    if len(runs) and count.min() == 0:
        raise ValueError(
            f"entity {runs.label[np.argmin(count)]} covers no pixel when its mask is brought to pixels "
            f"{ratio:g} times as wide; use a smaller mpp"
        )
    ptr = np.concatenate([[0], np.cumsum(count)])
    return Runs(runs.label, ptr, *(a.astype(np.int32) for a in (row, start[source], stop[source])))
