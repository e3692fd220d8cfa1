"""Bit-packed masks: one bit a pixel, each mask in its own box, all masks in one ragged array.

A slide holds millions of nuclei. A Python object each would cost gigabytes, so the masks of all entities share three
arrays: the packed bits, a pointer to where each mask starts, and the boxes. Every step runs over all entities at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Masks:
    """The pixel masks of N entities, packed to one bit a pixel.

    Mask ``i`` is row-major in its box, eight pixels a byte, first pixel in the highest bit (as `numpy.packbits`).

    Parameters
    ----------
    bits : ndarray, (B,) uint8
        Packed bits of all masks, one mask after the other; every mask starts at a whole byte.
    pointers : ndarray, (N + 1,) int64
        Mask ``i`` lies in ``bits[pointers[i]:pointers[i + 1]]``.
    boxes : ndarray, (N, 4) int64
        ``row_min, col_min, row_max, col_max`` on the raster, in pixels, the maxima exclusive.

    Examples
    --------
    >>> import numpy as np
    >>> from histograph.entities import from_instance_map
    >>> entities = from_instance_map(np.array([[0, 7, 7], [0, 7, 0]]), mpp=0.5)
    >>> entities.masks[0]
    array([[ True,  True],
           [ True, False]])
    """

    bits: NDArray[np.uint8]
    pointers: NDArray[np.int64]
    boxes: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.boxes)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """Return mask ``index`` as a boolean array of the size of its box."""
        i = range(len(self))[index]
        row_min, col_min, row_max, col_max = (int(v) for v in self.boxes[i])
        height, width = row_max - row_min, col_max - col_min
        packed = self.bits[self.pointers[i] : self.pointers[i + 1]]
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)

    @property
    def nbytes(self) -> int:
        """Memory that the three arrays take, in bytes."""
        return self.bits.nbytes + self.pointers.nbytes + self.boxes.nbytes

    @classmethod
    def empty(cls) -> Masks:
        """Return masks of no entity.

        Examples
        --------
        >>> len(Masks.empty())
        0
        """
        return cls(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros((0, 4), np.int64))

    def select(self, index: NDArray[np.int64]) -> Masks:
        """Return the masks at ``index``, in that order.

        Parameters
        ----------
        index : ndarray, (M,) int64
            Positions of the masks, each in ``0 … N - 1``.

        Returns
        -------
        Masks
            A copy that shares no memory with this one.
        """
        length = np.diff(self.pointers)[index]
        pointers = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        bits = np.empty(int(pointers[-1]), np.uint8)
        _gather(self.bits, self.pointers, np.ascontiguousarray(index, np.int64), pointers, bits)
        return Masks(bits, pointers, self.boxes[index])

    @staticmethod
    def concatenate(parts: Sequence[Masks]) -> Masks:
        """Return the masks of all parts, one part after the other.

        Parameters
        ----------
        parts : sequence of Masks
            The boxes of all parts refer to the same raster.
        """
        if not parts:
            return Masks.empty()
        starts = np.cumsum([0] + [int(part.pointers[-1]) for part in parts])
        pointers = [part.pointers[:-1] + start for part, start in zip(parts, starts)]
        return Masks(
            np.concatenate([part.bits for part in parts]),
            np.concatenate([*pointers, starts[-1:]]).astype(np.int64),
            np.concatenate([part.boxes for part in parts]),
        )

    def union(self, group: NDArray[np.int64], n_groups: int) -> Masks:
        """Return one mask a group: the union of its members' masks.

        Parameters
        ----------
        group : ndarray, (N,) int64
            Group of each mask, ``0 … n_groups - 1``; every group has a member.
        n_groups : int
            Number of groups.
        """
        limits = np.iinfo(np.int64)
        boxes = np.empty((n_groups, 4), np.int64)
        boxes[:, :2], boxes[:, 2:] = limits.max, limits.min
        for column, ufunc in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
            ufunc.at(boxes[:, column], group, self.boxes[:, column])
        pointers = _pointers(boxes)
        bits = np.zeros(int(pointers[-1]), np.uint8)
        _unite(self.bits, self.pointers, self.boxes, group, pointers, boxes, bits)
        return Masks(bits, pointers, boxes)

    def paint(self, label: NDArray[np.int64], out: NDArray[np.int64], row: int, col: int) -> None:
        """Write the label of every mask into a window of the raster, in place.

        Parameters
        ----------
        label : ndarray, (N,) int64
            Label of each mask.
        out : ndarray, (H, W) int32 or int64
            The window; pixels under no mask keep their value, and where masks overlap the later one stays.
        row, col : int
            Raster pixel of the window's top-left corner.
        """
        height, width = out.shape
        near = np.flatnonzero(
            (self.boxes[:, 0] < row + height)
            & (self.boxes[:, 2] > row)
            & (self.boxes[:, 1] < col + width)
            & (self.boxes[:, 3] > col)
        )
        _paint(self.bits, self.pointers, self.boxes, near, label, out, row, col)


def pack(instance_map: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[Masks, NDArray, NDArray]:
    """Pack the masks of all labels of an instance map and measure them exactly.

    Parameters
    ----------
    instance_map : ndarray, (H, W) int32 or int64, C-contiguous
        Label of each pixel; 0 is background.
    labels : ndarray, (N,) int64
        The labels to pack, ascending. Pixels with another label are left out.

    Returns
    -------
    Masks
        Masks with boxes in pixels of the map.
    ndarray, (N,) int64
        Pixel counts.
    ndarray, (N, 2) int64
        Sums of the row and of the column numbers of each label's pixels.
    """
    boxes, count, total = _measure(instance_map, labels)
    pointers = _pointers(boxes)
    bits = np.zeros(int(pointers[-1]), np.uint8)
    _pack(instance_map, labels, boxes, pointers, bits)
    return Masks(bits, pointers, boxes), count, total


def unique_labels(instance_map: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels of an instance map, ascending, without the background 0.

    Parameters
    ----------
    instance_map : ndarray, (H, W) int32 or int64, C-contiguous
        Label of each pixel, not negative.

    Returns
    -------
    ndarray, (N,) int64

    Examples
    --------
    >>> import numpy as np
    >>> unique_labels(np.array([[0, 9], [4, 9]]))
    array([4, 9])
    """
    if instance_map.size == 0:
        return np.zeros(0, np.int64)
    top = int(instance_map.max())
    # A presence table is one pass; only labels far beyond the number of pixels are sorted instead.
    if top <= 4 * instance_map.size + 2**20:
        return np.flatnonzero(_present(instance_map, top)).astype(np.int64)
    found = np.unique(instance_map).astype(np.int64)
    return found[found > 0]


def _pointers(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start of each mask's bytes, from the sizes of the boxes."""
    pixels = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.concatenate([[0], np.cumsum((pixels + 7) // 8)]).astype(np.int64)


@njit(cache=True, nogil=True)
def _present(instance_map, top):  # type: ignore[no-untyped-def]
    table = np.zeros(top + 1, np.bool_)
    for row in range(instance_map.shape[0]):
        for col in range(instance_map.shape[1]):
            table[instance_map[row, col]] = True
    table[0] = False
    return table


@njit(cache=True, nogil=True)
def _find(labels, value):  # type: ignore[no-untyped-def]
    """Position of a value in the ascending labels, or -1."""
    low, high = 0, len(labels)
    while low < high:
        middle = (low + high) // 2
        if labels[middle] < value:
            low = middle + 1
        else:
            high = middle
    if low < len(labels) and labels[low] == value:
        return low
    return -1


@njit(cache=True, nogil=True)
def _measure(instance_map, labels):  # type: ignore[no-untyped-def]
    height, width = instance_map.shape
    n = len(labels)
    boxes = np.empty((n, 4), np.int64)
    boxes[:, 0] = height
    boxes[:, 1] = width
    boxes[:, 2:] = 0
    count = np.zeros(n, np.int64)
    total = np.zeros((n, 2), np.int64)
    for row in range(height):
        col = 0
        while col < width:
            value = instance_map[row, col]
            start = col
            while col < width and instance_map[row, col] == value:
                col += 1
            i = -1 if value == 0 else _find(labels, value)
            if i >= 0:
                boxes[i, 0] = min(boxes[i, 0], row)
                boxes[i, 1] = min(boxes[i, 1], start)
                boxes[i, 2] = row + 1
                boxes[i, 3] = max(boxes[i, 3], col)
                count[i] += col - start
                total[i, 0] += row * (col - start)
                total[i, 1] += (start + col - 1) * (col - start) // 2
    return boxes, count, total


@njit(cache=True, nogil=True)
def _pack(instance_map, labels, boxes, pointers, bits):  # type: ignore[no-untyped-def]
    height, width = instance_map.shape
    for row in range(height):
        col = 0
        while col < width:
            value = instance_map[row, col]
            start = col
            while col < width and instance_map[row, col] == value:
                col += 1
            i = -1 if value == 0 else _find(labels, value)
            if i >= 0:
                base = (row - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]) - boxes[i, 1]
                for bit in range(base + start, base + col):
                    bits[pointers[i] + (bit >> 3)] |= np.uint8(128 >> (bit & 7))


@njit(cache=True, nogil=True)
def _gather(bits, pointers, index, out_pointers, out):  # type: ignore[no-untyped-def]
    for j in range(len(index)):
        start = pointers[index[j]]
        for k in range(out_pointers[j + 1] - out_pointers[j]):
            out[out_pointers[j] + k] = bits[start + k]


@njit(cache=True, nogil=True)
def _unite(bits, pointers, boxes, group, out_pointers, out_boxes, out):  # type: ignore[no-untyped-def]
    for i in range(len(group)):
        g = group[i]
        width = boxes[i, 3] - boxes[i, 1]
        out_width = out_boxes[g, 3] - out_boxes[g, 1]
        for row in range(boxes[i, 0], boxes[i, 2]):
            bit = (row - boxes[i, 0]) * width
            out_bit = (row - out_boxes[g, 0]) * out_width + boxes[i, 1] - out_boxes[g, 1]
            for _ in range(width):
                if bits[pointers[i] + (bit >> 3)] & (128 >> (bit & 7)):
                    out[out_pointers[g] + (out_bit >> 3)] |= np.uint8(128 >> (out_bit & 7))
                bit += 1
                out_bit += 1


@njit(cache=True, nogil=True)
def _paint(bits, pointers, boxes, near, label, out, row_0, col_0):  # type: ignore[no-untyped-def]
    for i in near:
        width = boxes[i, 3] - boxes[i, 1]
        for row in range(max(boxes[i, 0], row_0), min(boxes[i, 2], row_0 + out.shape[0])):
            col_start = max(boxes[i, 1], col_0)
            bit = (row - boxes[i, 0]) * width + col_start - boxes[i, 1]
            for col in range(col_start, min(boxes[i, 3], col_0 + out.shape[1])):
                if bits[pointers[i] + (bit >> 3)] & (128 >> (bit & 7)):
                    out[row - row_0, col - col_0] = label[i]
                bit += 1
