"""Masks to polygons with holes and parts, and polygons to masks: exact inverses of each other.

A polygon's rings run along the cracks between pixels, so that a mask can be told from its rings. A pixel belongs to a
polygon when its centre does, by the even-odd rule, with left and upper borders in and right and lower ones out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .entities import Entities, assemble
from .masks import Masks
from .outline import _trace

#: Pixels that one polygon may cover: larger ones are refused rather than filling the memory.
MAX_PIXELS = 2**30


@dataclass(frozen=True, eq=False)
class Rings:
    """Polygons of N entities as one ragged array: entity, its polygons, their rings, their corners.

    Parameters
    ----------
    points : ndarray, (P, 2)
        Corners ``x, y`` of all rings; every ring repeats its first corner at its end.
    ring_start : ndarray, (R + 1,) int64
        Ring ``r`` is ``points[ring_start[r]:ring_start[r + 1]]``.
    polygon_start : ndarray, (Q + 1,) int64
        Polygon ``q`` has the rings ``polygon_start[q]`` to ``polygon_start[q + 1]``; the first is the outer one, the
        others are holes.
    entity_start : ndarray, (N + 1,) int64
        Entity ``i`` has the polygons ``entity_start[i]`` to ``entity_start[i + 1]``.

    Examples
    --------
    >>> rings = mask_rings(Entities.from_instance_map([[5, 0, 5]], mpp=1.0))
    >>> len(rings), rings.geometry(0)[1]
    (1, [array([[2, 0], [3, 0], [3, 1], [2, 1], [2, 0]])])
    """

    points: NDArray[Any]
    ring_start: NDArray[np.int64]
    polygon_start: NDArray[np.int64]
    entity_start: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of entities."""
        return len(self.entity_start) - 1

    def geometry(self, i: int) -> list[list[NDArray[Any]]]:
        """Return the polygons of one entity, each as a list of rings.

        Parameters
        ----------
        i : int
            Row of the entity.

        Returns
        -------
        list of list of ndarray, (P, 2)
            Outer ring first, then holes.

        Examples
        --------
        >>> rings = mask_rings(Entities.from_instance_map([[5]], mpp=1.0))
        >>> rings.geometry(0)[0][0].tolist()
        [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
        """
        start = self.ring_start
        return [
            [
                self.points[start[r] : start[r + 1]]
                for r in range(self.polygon_start[q], self.polygon_start[q + 1])
            ]
            for q in range(self.entity_start[i], self.entity_start[i + 1])
        ]


def mask_rings(entities: Entities, start: int = 0, stop: int | None = None) -> Rings:
    """Trace all rings of the masks of some entities, holes and separate parts included.

    Outer rings run clockwise as seen on the slide, holes against the clock. Every ring is simple: parts and holes that
    meet at a corner only are rings of their own.

    Parameters
    ----------
    entities : Entities
        With masks, or rectangles whose sides are whole pixels or not.
    start, stop : int
        Rows.

    Returns
    -------
    Rings
        Corners in pixels of the entities' raster: int64 where there are masks, float64 for rectangles.

    Examples
    --------
    >>> ring = Entities.from_instance_map([[5, 5, 5], [5, 0, 5], [5, 5, 5]], mpp=0.5)
    >>> [ring_.tolist() for ring_ in mask_rings(ring).geometry(0)[0]]
    [[[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]], [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]]
    """
    stop = len(entities) if stop is None else min(stop, len(entities))
    if entities.masks is None:
        box = entities.bbox[start:stop] / entities.mpp
        corners = box[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2)
        one_each = np.arange(len(box) + 1, dtype=np.int64)
        return Rings(corners, 5 * one_each, one_each, one_each)
    masks = entities.masks
    return Rings(*_all_rings(masks.bits, masks.pointers, masks.boxes, start, stop))


def entities_from_rings(
    rings: Rings,
    label: NDArray[np.int64],
    mpp: float,
    kind: str = "cell",
    inclusive: bool = False,
    parameters: dict[str, Any] | None = None,
) -> Entities:
    """Fill polygons on a raster: the pixels whose centres lie inside.

    An entity that covers no pixel centre gets the pixel under the mean of its first ring, so that none is lost. What
    reaches over the left or upper border of the canvas is cut off.

    Parameters
    ----------
    rings : Rings
        Corners in pixels of the raster (pixel (row, col) spans ``[col, col + 1] x [row, row + 1]``), finite.
    label : ndarray, (N,) int64
        Ids, ascending.
    mpp : float
        Pixel size of the raster in µm.
    kind : {"cell", "tissue", "patch", "region"}
        What the entities are.
    inclusive : bool
        Whether pixels that a ring runs through belong to it too: for contours whose corners are the centres of border
        pixels, as OpenCV gives them.
    parameters : dict, optional
        Provenance.

    Returns
    -------
    Entities

    Raises
    ------
    IndexError
        With the row of an entity that lies off the canvas, or is larger than `MAX_PIXELS`, as its second argument.

    Examples
    --------
    >>> entities = Entities.from_instance_map([[5, 5, 0], [5, 0, 7]], mpp=0.5)
    >>> again = entities_from_rings(mask_rings(entities), entities.label, 0.5)
    >>> again.instance_map().tolist()
    [[5, 5, 0], [5, 0, 7]]
    """
    bits, pointers, boxes, count, total, bad, reason = _fill(
        np.ascontiguousarray(rings.points, np.float64),
        rings.ring_start,
        rings.polygon_start,
        rings.entity_start,
        inclusive,
        MAX_PIXELS,
    )
    if reason == 1:
        raise IndexError("lies off the canvas, left of or above its origin", int(bad))
    if reason == 2:
        raise IndexError(f"covers more than {MAX_PIXELS:,} pixels; read it on a coarser raster", int(bad))
    return assemble(kind, label, Masks(bits, pointers, boxes), count, total, mpp, (0, 0), parameters, None)


@njit(cache=True, nogil=True)
def _components(inside):  # type: ignore[no-untyped-def]
    """Give the 4-connected components of a mask numbers from 1 in reading order, and their boxes."""
    height, width = inside.shape
    component = np.zeros(inside.shape, np.int32)
    stack = np.empty(inside.size, np.int64)
    boxes = np.empty((8, 4), np.int64)
    current = 0
    for first in range(height * width):
        if not inside[first // width, first % width] or component[first // width, first % width]:
            continue
        if current == len(boxes):
            grown = np.empty((2 * current, 4), np.int64)
            grown[:current] = boxes
            boxes = grown
        box = boxes[current]
        box[0], box[1], box[2], box[3] = height, width, 0, 0
        current += 1
        component[first // width, first % width] = current
        stack[0] = first
        depth = 1
        while depth > 0:
            depth -= 1
            r, c = stack[depth] // width, stack[depth] % width
            box[0], box[1] = min(box[0], r), min(box[1], c)
            box[2], box[3] = max(box[2], r + 1), max(box[3], c + 1)
            for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                rr, cc = r + dr, c + dc
                if 0 <= rr < height and 0 <= cc < width and inside[rr, cc] and component[rr, cc] == 0:
                    component[rr, cc] = current
                    stack[depth] = rr * width + cc
                    depth += 1
    return component, boxes[:current]


@njit(cache=True, nogil=True)
def _cut(component, number, box):  # type: ignore[no-untyped-def]
    """Mask of one component within its box, with a border of one pixel."""
    out = np.zeros((box[2] - box[0] + 2, box[3] - box[1] + 2), np.bool_)
    for r in range(box[0], box[2]):
        for c in range(box[1], box[3]):
            out[r - box[0] + 1, c - box[1] + 1] = component[r, c] == number
    return out


@njit(cache=True, nogil=True)
def _append(points, used, ring, row, col, backwards):  # type: ignore[no-untyped-def]
    """Add a ring to the corners, moved by a number of pixels."""
    n = len(ring)
    if used + n > len(points):
        grown = np.empty((max(2 * len(points), used + n), 2), np.int64)
        grown[:used] = points[:used]
        points = grown
    for k in range(n):
        j = n - 1 - k if backwards else k
        points[used + k, 0] = ring[j, 0] + col
        points[used + k, 1] = ring[j, 1] + row
    return points, used + n


@njit(cache=True, nogil=True)
def _all_rings(bits, pointers, boxes, start, stop):  # type: ignore[no-untyped-def]
    points = np.empty((64 * max(stop - start, 1), 2), np.int64)
    used = 0
    ring_start, polygon_start, entity_start = [0], [0], [0]
    for i in range(start, stop):
        height, width = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        mask = np.zeros((height, width), np.bool_)
        for bit in range(height * width):
            mask[bit // width, bit % width] = bits[pointers[i] + (bit >> 3)] & (128 >> (bit & 7)) != 0
        component, part_boxes = _components(mask)
        for number in range(len(part_boxes)):
            part = _cut(component, number + 1, part_boxes[number])
            row = boxes[i, 0] + part_boxes[number, 0] - 1
            col = boxes[i, 1] + part_boxes[number, 1] - 1
            points, used = _append(points, used, _trace(part), row, col, False)
            ring_start.append(used)
            # Around the part there is a border of one pixel, so the first component of the rest is the outside.
            rest, hole_boxes = _components(~part)
            for hole in range(1, len(hole_boxes)):
                inner = _trace(_cut(rest, hole + 1, hole_boxes[hole]))
                hole_row, hole_col = row + hole_boxes[hole, 0] - 1, col + hole_boxes[hole, 1] - 1
                points, used = _append(points, used, inner, hole_row, hole_col, True)
                ring_start.append(used)
            polygon_start.append(len(ring_start) - 1)
        entity_start.append(len(polygon_start) - 1)
    return points[:used].copy(), np.array(ring_start), np.array(polygon_start), np.array(entity_start)


@njit(cache=True, nogil=True)
def _even_odd(points, first, last, row_0, col_0, out):  # type: ignore[no-untyped-def]
    """Flip the pixels of `out` right of every edge of a ring."""
    height, width = out.shape
    for k in range(first, last - 1):
        x_0, y_0, x_1, y_1 = points[k, 0], points[k, 1], points[k + 1, 0], points[k + 1, 1]
        if y_0 == y_1:
            continue
        if y_0 > y_1:  # always downwards, so that an edge shared by two polygons is cut at the same place
            x_0, y_0, x_1, y_1 = x_1, y_1, x_0, y_0
        top = max(int(np.ceil(y_0 - 0.5)) - row_0, 0)
        bottom = min(int(np.ceil(y_1 - 0.5)) - row_0, height)
        for row in range(top, bottom):
            x = x_0 + (row + row_0 + 0.5 - y_0) / (y_1 - y_0) * (x_1 - x_0)
            col = max(int(np.ceil(x - 0.5)) - col_0, 0)
            if col < width:
                out[row, col] ^= 1


@njit(cache=True, nogil=True)
def _draw(points, first, last, row_0, col_0, out):  # type: ignore[no-untyped-def]
    """Set the pixels along the edges of a ring."""
    height, width = out.shape
    for k in range(first, last - 1):
        d_x, d_y = points[k + 1, 0] - points[k, 0], points[k + 1, 1] - points[k, 1]
        steps = max(int(np.ceil(max(abs(d_x), abs(d_y)))), 1)
        for step in range(steps + 1):
            row = int(np.floor(points[k, 1] + d_y * step / steps)) - row_0
            col = int(np.floor(points[k, 0] + d_x * step / steps)) - col_0
            if 0 <= row < height and 0 <= col < width:
                out[row, col] = 1


@njit(cache=True, nogil=True)
def _fill_one(points, ring_start, polygon_start, first, last, box, inclusive):  # type: ignore[no-untyped-def]
    """Fill the polygons of one entity in a box: union of the polygons, even-odd over the rings of each."""
    out = np.zeros((box[2] - box[0], box[3] - box[1]), np.uint8)
    for polygon in range(first, last):
        part = np.zeros(out.shape, np.uint8)
        for r in range(polygon_start[polygon], polygon_start[polygon + 1]):
            _even_odd(points, ring_start[r], ring_start[r + 1], box[0], box[1], part)
        for row in range(out.shape[0]):
            inside = 0
            for col in range(out.shape[1]):
                inside ^= part[row, col]
                out[row, col] |= inside
        if inclusive:
            for r in range(polygon_start[polygon], polygon_start[polygon + 1]):
                _draw(points, ring_start[r], ring_start[r + 1], box[0], box[1], out)
    return out


@njit(cache=True, nogil=True)
def _loose_box(points, first, last):  # type: ignore[no-untyped-def]
    """Rows and columns that corners reach, on the canvas."""
    low_x = high_x = points[first, 0]
    low_y = high_y = points[first, 1]
    for k in range(first, last):
        low_x, high_x = min(low_x, points[k, 0]), max(high_x, points[k, 0])
        low_y, high_y = min(low_y, points[k, 1]), max(high_y, points[k, 1])
    box = np.empty(4, np.int64)
    limit = 2.0**40
    box[0], box[1] = int(min(max(np.floor(low_y), 0), limit)), int(min(max(np.floor(low_x), 0), limit))
    box[2], box[3] = (
        int(max(min(np.floor(high_y) + 1, limit), 0)),
        int(max(min(np.floor(high_x) + 1, limit), 0)),
    )
    return box


@njit(cache=True, nogil=True)
def _tight(filled, box):  # type: ignore[no-untyped-def]
    """Box, number and sums of rows and columns of the pixels that are set."""
    tight = np.array([box[2], box[3], 0, 0])
    count, rows, cols = 0, 0, 0
    for r in range(filled.shape[0]):
        for c in range(filled.shape[1]):
            if filled[r, c]:
                row, col = r + box[0], c + box[1]
                tight[0], tight[1] = min(tight[0], row), min(tight[1], col)
                tight[2], tight[3] = max(tight[2], row + 1), max(tight[3], col + 1)
                count, rows, cols = count + 1, rows + row, cols + col
    return tight, count, rows, cols


@njit(cache=True, nogil=True)
def _fill(points, ring_start, polygon_start, entity_start, inclusive, limit):  # type: ignore[no-untyped-def]
    n = len(entity_start) - 1
    bits, used = np.zeros(64 * max(n, 1), np.uint8), 0
    pointers, boxes = np.zeros(n + 1, np.int64), np.zeros((n, 4), np.int64)
    count, total = np.zeros(n, np.int64), np.zeros((n, 2), np.int64)
    for i in range(n):
        first, last = entity_start[i], entity_start[i + 1]
        start, stop = ring_start[polygon_start[first]], ring_start[polygon_start[last]]
        box = _loose_box(points, start, stop)
        if box[2] <= box[0] or box[3] <= box[1]:
            return bits, pointers, boxes, count, total, i, 1
        if (box[2] - box[0]) * (box[3] - box[1]) > limit:
            return bits, pointers, boxes, count, total, i, 2
        filled = _fill_one(points, ring_start, polygon_start, first, last, box, inclusive)
        tight, pixels, rows, cols = _tight(filled, box)
        if pixels == 0:
            end = ring_start[polygon_start[first] + 1]
            x, y = points[start : end - 1, 0].mean(), points[start : end - 1, 1].mean()
            row = min(max(int(np.floor(y)), box[0]), box[2] - 1)
            col = min(max(int(np.floor(x)), box[1]), box[3] - 1)
            filled[row - box[0], col - box[1]] = 1
            tight, pixels, rows, cols = _tight(filled, box)
        boxes[i], count[i] = tight, pixels
        total[i, 0], total[i, 1] = rows, cols
        height, width = tight[2] - tight[0], tight[3] - tight[1]
        need = (height * width + 7) // 8
        if used + need > len(bits):
            grown = np.zeros(max(2 * len(bits), used + need), np.uint8)
            grown[:used] = bits[:used]
            bits = grown
        for bit in range(height * width):
            if filled[tight[0] - box[0] + bit // width, tight[1] - box[1] + bit % width]:
                bits[used + (bit >> 3)] |= np.uint8(128 >> (bit & 7))
        used += need
        pointers[i + 1] = used
    return bits[:used].copy(), pointers, boxes, count, total, -1, 0
