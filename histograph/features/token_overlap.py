"""How much of each entity lies in each square of a grid: exact areas, and the windows of squares that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numba import njit

if TYPE_CHECKING:
    from histograph.entities import Entities

__all__ = ["TokenWindows", "square_overlaps", "token_windows"]

# Borders of pixels and squares that are nearer than this, in sides of a square, are one border: 3 x 0.1 is not 0.3.
_SAME = 1e-9

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def square_overlaps(entities: Entities, side_um: float) -> tuple[Integers, Integers, Reals]:
    """Measure how much of each entity lies in each square of a grid that starts at the canvas origin.

    Areas are exact: a mask pixel that a border of the grid cuts is shared out. An entity whose mask holds no pixel, or
    whose box has no area, counts as the point at its centroid, so that every entity has a square.

    Parameters
    ----------
    entities : Entities
        N entities; without masks each is a full rectangle. They may overlap.
    side_um : float
        Side of a square in micrometres.

    Returns
    -------
    entity : (E,) int64 array
        Row of the entity, ascending.
    square : (E, 2) int64 array
        Row and column of the square; negative above or left of the canvas.
    area : (E,) float64 array
        Area that they share, in squares; positive.

    Raises
    ------
    ValueError
        When a box or centroid is not finite.

    Examples
    --------
    >>> from histograph.entities import Entities
    >>> cells = Entities.from_instance_map(np.array([[0, 5, 5, 5]]), mpp=1.0)
    >>> square_overlaps(cells, side_um=2.0)
    (array([0, 0]), array([[0, 0],
           [0, 1]]), array([0.25, 0.5 ]))
    """
    for name, values in (("bbox", entities.bbox), ("centroid", entities.centroid)):
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            label = entities.label[np.flatnonzero(bad)[0]]
            raise ValueError(f"entities.{name} must be finite micrometres, found nan or inf at label {label}")
    masks = entities.masks
    if masks is None:
        box: npt.NDArray[np.floating] = entities.bbox[:, [1, 0, 3, 2]] / side_um
    else:
        box = masks.boxes * (entities.mpp / side_um)
    first = np.floor(box[:, :2] + _SAME).astype(np.int64)
    size = np.maximum(np.ceil(box[:, 2:] - _SAME).astype(np.int64) - first, 1)
    start = np.concatenate([[0], np.cumsum(size[:, 0] * size[:, 1])]).astype(np.int64)
    area = np.zeros(int(start[-1]))
    square = np.empty((len(area), 2), np.int64)
    if masks is None:
        _rectangles(box, first, size, start, square, area)
    else:
        scale = entities.mpp / side_um
        _masks(masks.bits, masks.pointers, masks.boxes, scale, first, size, start, square, area)
    entity = np.repeat(np.arange(len(entities)), np.diff(start))
    empty = np.bincount(entity, area, len(entities)) == 0
    if empty.any():  # nothing to weigh by
        at = start[:-1][empty]
        square[at] = np.floor(entities.centroid[empty][:, ::-1] / side_um).astype(np.int64)
        area[at] = 1.0
    kept = area > 0
    return entity[kept], square[kept], area[kept]


@dataclass(frozen=True)
class TokenWindows:
    """Windows of a fixed grid that hold entities, and what of each window every entity takes.

    Parameters
    ----------
    corner : (W, 2) int64 array
        Row and column of each window's first square on the grid of the canvas; row by row.
    start : (W + 1,) int64 array
        The shares of window w are ``start[w]`` to ``start[w + 1]``.
    entity : (E,) int64 array
        Row of the entity, ascending within a window.
    place : (E,) int64 array
        Number of the square within its window, row by row.
    area : (E,) float64 array
        Area that they share, in squares.

    Examples
    --------
    >>> from histograph.entities import Entities
    >>> cells = Entities.from_instance_map(np.array([[0, 5, 5, 5]]), mpp=1.0)
    >>> token_windows(cells, side_um=2.0, grid=3, margin=1).corner  # inner parts of one square
    array([[-1, -1],
           [-1,  0]])
    """

    corner: Integers
    start: Integers
    entity: Integers
    place: Integers
    area: Reals

    def __len__(self) -> int:
        return len(self.corner)


def token_windows(entities: Entities, side_um: float, grid: int, margin: int) -> TokenWindows:
    """Share entities out among windows, each square taken from the one window in whose inner part it lies.

    Parameters
    ----------
    entities : Entities
        N entities.
    side_um : float
        Side of a square in micrometres.
    grid : int
        Squares along the side of a window.
    margin : int
        Squares at each border of a window that are read for context alone; less than half of `grid`.

    Returns
    -------
    TokenWindows
        Only windows whose inner part holds a part of an entity.

    Raises
    ------
    ValueError
        When a box or centroid is not finite.

    Examples
    --------
    >>> from histograph.entities import Entities
    >>> cells = Entities.from_instance_map(np.array([[0, 5, 5, 5]]), mpp=1.0)
    >>> token_windows(cells, side_um=2.0, grid=4, margin=1).place
    array([5, 6])
    """
    entity, square, area = square_overlaps(entities, side_um)
    inner = grid - 2 * margin
    window = square // inner
    if not len(window):
        return TokenWindows(window, np.zeros(1, np.int64), entity, entity, area)
    low, high = window.min(axis=0), window.max(axis=0)
    across = int(high[1] - low[1]) + 1
    key = (window[:, 0] - low[0]) * across + window[:, 1] - low[1]
    order = np.argsort(key, kind="stable")
    found, start = np.unique(key[order], return_index=True)
    row, column = np.divmod(found, across)
    corner = np.stack([row + low[0], column + low[1]], axis=1) * inner - margin
    inside = (square - window * inner)[order] + margin
    return TokenWindows(
        corner,
        np.append(start, len(order)).astype(np.int64),
        entity[order],
        inside[:, 0] * grid + inside[:, 1],
        area[order],
    )


@njit(cache=True, nogil=True)
def _rectangles(box, first, size, start, square, area):  # type: ignore[no-untyped-def]
    for i in range(len(box)):
        k = start[i]
        for row in range(first[i, 0], first[i, 0] + size[i, 0]):
            height = min(box[i, 2], row + 1.0) - max(box[i, 0], float(row))
            for col in range(first[i, 1], first[i, 1] + size[i, 1]):
                width = min(box[i, 3], col + 1.0) - max(box[i, 1], float(col))
                square[k, 0], square[k, 1] = row, col
                area[k] = max(height, 0.0) * max(width, 0.0)
                k += 1


@njit(cache=True, nogil=True)
def _masks(bits, pointers, boxes, scale, first, size, start, square, area):  # type: ignore[no-untyped-def]
    for i in range(len(boxes)):
        for k in range(size[i, 0] * size[i, 1]):
            square[start[i] + k, 0] = first[i, 0] + k // size[i, 1]
            square[start[i] + k, 1] = first[i, 1] + k % size[i, 1]
        bit = 0
        for row in range(boxes[i, 0], boxes[i, 2]):
            col = boxes[i, 1]
            while col < boxes[i, 3]:
                run = col
                while col < boxes[i, 3] and bits[pointers[i] + (bit >> 3)] & (128 >> (bit & 7)):
                    col += 1
                    bit += 1
                if col > run:
                    _add_run(row, run, col, scale, first[i], size[i], area[start[i] : start[i + 1]])
                else:
                    col += 1
                    bit += 1


@njit(cache=True, nogil=True)
def _add_run(row, run, col, scale, first, size, area):  # type: ignore[no-untyped-def]
    """Share the pixels `run` to `col` of one row out among the squares of one entity."""
    top, bottom, left, right = row * scale, (row + 1) * scale, run * scale, col * scale
    for r in range(max(int(np.floor(top + _SAME)), first[0]), first[0] + size[0]):
        height = min(bottom, r + 1.0) - max(top, float(r))
        if height <= _SAME * scale:
            break
        for c in range(max(int(np.floor(left + _SAME)), first[1]), first[1] + size[1]):
            width = min(right, c + 1.0) - max(left, float(c))
            if width <= _SAME * scale:
                break
            area[(r - first[0]) * size[1] + c - first[1]] += height * width
