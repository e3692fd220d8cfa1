"""Edges between regions of an instance map that touch, or nearly do.

The map is read once, into runs: stretches of one label within one row. Two regions touch when two of their
runs do, so everything after that pass is linear in the number of runs, which is far below the number of
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numba import njit

from .points import ATTRIBUTES, attribute_names, edge_attributes, edges_from_pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["contact_edges", "contact_pairs"]


class _Runs(NamedTuple):
    """Stretches of one label: row r of the map holds runs pointer[r]…pointer[r + 1], columns first…last."""

    pointer: NDArray[np.int64]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    node: NDArray[np.int64]  # rank of the label among the labels
    labels: NDArray[np.int64]


def contact_edges(
    instance_map: ArrayLike | Tensor,
    mpp: float,
    gap_um: float = 0.0,
    attributes: Sequence[str] = ("length",),
    connectivity: int = 8,
) -> tuple[Tensor, Tensor]:
    """Join regions of an instance map that touch, or whose outlines are at most a gap apart.

    Pixels are squares of `mpp` by `mpp`. The gap between two regions is the Euclidean distance between their
    nearest squares: for pixels that are (dr, dc) apart, `mpp * hypot(max(|dr| - 1, 0), max(|dc| - 1, 0))`.
    Regions are joined when their gap is at most `gap_um`, whatever lies between; regions that share a side or
    a corner have gap 0. With `connectivity=4` a shared corner does not count.

    Parameters
    ----------
    instance_map
        Labels, shape (H, W), integers, 0 is background; labels need not be contiguous. Node i is the i-th
        smallest label above 0.
    mpp
        Micrometres per pixel of the map.
    gap_um
        Widest gap, micrometres; 0 joins only regions that touch.
    attributes
        Edge attributes by name. `"length"` (always first), `"dx"`, `"dy"`, `"angle"`, `"sin"`, `"cos"` are
        those between centroids, see `histograph.graphs.points.edge_attributes`; `"contact_um"` is the length
        of the border that the regions share: pixel sides with one region on either hand, times `mpp`; 0
        across a gap or a corner.
    connectivity
        8 or 4; 4 only without a gap.

    Returns
    -------
    edge_index : Tensor
        Shape (2, E), int64: both directions of every edge, sorted by source and then target, no self loops.
    edge_attr : Tensor
        Shape (E, D), float32; lengths in micrometres.

    Raises
    ------
    TypeError
        When the map does not hold integers.
    ValueError
        When the map is not (H, W) or has negative labels, `mpp` is not positive, `gap_um` is negative, or
        `connectivity` is neither 4 nor 8, or 4 with a gap.

    Examples
    --------
    >>> instance_map = [[7, 7, 0], [9, 9, 4]]
    >>> edge_index, edge_attr = contact_edges(instance_map, mpp=0.5, attributes=("length", "contact_um"))
    >>> edge_index
    tensor([[0, 0, 1, 1, 2, 2],
            [1, 2, 0, 2, 0, 1]])

    Labels 4, 7, 9 are nodes 0, 1, 2; label 7 touches only a corner of label 4, so these share no border:

    >>> edge_attr[:, 1]
    tensor([0.0000, 0.5000, 0.0000, 1.0000, 0.5000, 1.0000])
    """
    scale = float(mpp)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"mpp must be positive and finite, found {mpp!r}.")
    names = attribute_names(attributes, extra=("contact_um",))
    gap_px = _checked_gap(gap_um, "gap_um") / scale
    runs = _encode(_checked_map(instance_map))
    pairs, sides = _touching(runs, gap_px, _checked_connectivity(connectivity, gap_px))
    centroid = _centroids(runs) * scale
    geometric = tuple(name for name in names if name in ATTRIBUTES)
    edge_index, _ = edges_from_pairs(pairs, centroid)
    edge_attr = edge_attributes(centroid, edge_index, geometric)
    if "contact_um" in names:
        n = len(runs.labels)
        low, high = edge_index.min(dim=0).values.numpy(), edge_index.max(dim=0).values.numpy()
        where = np.searchsorted(pairs[:, 0] * n + pairs[:, 1], low * n + high)
        shared = torch.from_numpy((sides[where] * scale).astype(np.float32))
        at = names.index("contact_um")
        edge_attr = torch.cat([edge_attr[:, :at], shared[:, None], edge_attr[:, at:]], dim=1)
    return edge_index, edge_attr


def contact_pairs(
    instance_map: ArrayLike | Tensor, gap_px: float = 0.0, connectivity: int = 8
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of labels that touch, or are at most a gap apart, and the pixel sides they share.

    The plain result under `contact_edges`, for callers that read a large map block by block: blocks that
    overlap by one row and column (by `ceil(gap_px) + 1` with a gap) together see every pair. Shared sides add
    up over blocks only where blocks do not see the same side twice.

    Parameters
    ----------
    instance_map
        Labels, shape (H, W), integers, 0 is background.
    gap_px
        Widest gap between the squares of two regions, pixels; see `contact_edges`.
    connectivity
        8 or 4; 4 only without a gap.

    Returns
    -------
    pairs : ndarray
        Shape (M, 2), int64: labels, the smaller first, unique, sorted.
    sides : ndarray
        Shape (M,), int64: number of pixel sides with one region on either hand.

    Raises
    ------
    TypeError, ValueError
        As `contact_edges`.

    Examples
    --------
    >>> pairs, sides = contact_pairs([[7, 7, 0], [9, 9, 4]])
    >>> pairs.tolist(), sides.tolist()
    ([[4, 7], [4, 9], [7, 9]], [0, 1, 2])
    """
    gap = _checked_gap(gap_px, "gap_px")
    runs = _encode(_checked_map(instance_map))
    pairs, sides = _touching(runs, gap, _checked_connectivity(connectivity, gap))
    return runs.labels[pairs], sides


def _checked_gap(gap: float, name: str) -> float:
    """Return the gap as a float, or say what is wrong with it."""
    if not (math.isfinite(gap) and gap >= 0):
        raise ValueError(f"{name} must be finite and not negative, found {gap!r}.")
    return float(gap)


def _checked_connectivity(connectivity: int, gap: float) -> int:
    """Return the connectivity, or say what is wrong with it."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, found {connectivity!r}.")
    if connectivity == 4 and gap > 0:
        raise ValueError(
            "connectivity=4 leaves out shared corners and a gap above 0 includes them: give one or the other."
        )
    return connectivity


def _checked_map(instance_map: ArrayLike | Tensor) -> NDArray[np.integer]:
    """Return the map as a C-contiguous integer array without negative labels."""
    array = instance_map.detach().cpu().numpy() if isinstance(instance_map, torch.Tensor) else instance_map
    array = np.asarray(array)
    if array.ndim != 2:
        raise ValueError(f"instance_map must have shape (H, W), found shape {array.shape}.")
    if array.dtype.kind not in "iu":
        raise TypeError(f"instance_map must hold integers, found {array.dtype}; label it first.")
    if array.dtype.itemsize < 4:
        array = array.astype(np.int32)  # a few kinds of map mean a few compiled kernels
    elif array.dtype == np.uint64:
        array = array.astype(np.int64)
    return np.ascontiguousarray(array)


def _encode(instance_map: NDArray[np.integer]) -> _Runs:
    """Read a map into runs and rank its labels."""
    pointer = _count_runs(instance_map)
    if pointer[0] != 0:
        raise ValueError(f"instance_map must not hold negative labels, found {instance_map.min()}.")
    first, last = np.empty(pointer[-1], np.int32), np.empty(pointer[-1], np.int32)
    label = np.empty(pointer[-1], np.int64)
    _fill_runs(instance_map, pointer, first, last, label)
    labels, node = np.unique(label, return_inverse=True)
    return _Runs(pointer, first, last, node.reshape(-1).astype(np.int64, copy=False), labels)


@njit(cache=True, nogil=True)
def _count_runs(labels):
    """Return the row pointer of the runs; its first entry is -1 when a label is negative."""
    height, width = labels.shape
    pointer = np.zeros(height + 1, np.int64)
    negative = False
    for r in range(height):
        count = 0
        previous = labels.dtype.type(0)
        for c in range(width):
            label = labels[r, c]
            negative |= label < 0
            count += (label != previous) & (label != 0)
            previous = label
        pointer[r + 1] = pointer[r] + count
    if negative:
        pointer[0] = -1
    return pointer


@njit(cache=True, nogil=True)
def _fill_runs(labels, pointer, first, last, label_of_run):
    """Write the first and last column and the label of every run."""
    height, width = labels.shape
    for r in range(height):
        at = pointer[r] - 1
        previous = labels.dtype.type(0)
        for c in range(width):
            label = labels[r, c]
            if label != previous:
                if previous != 0:
                    last[at] = c - 1
                if label != 0:
                    at += 1
                    first[at] = c
                    label_of_run[at] = label
                previous = label
        if previous != 0:
            last[at] = width - 1


def _centroids(runs: _Runs) -> NDArray[np.float64]:
    """Return the mean pixel centre of every label, x then y, in pixels from the corner of the map."""
    n = len(runs.labels)
    row = np.repeat(np.arange(len(runs.pointer) - 1), np.diff(runs.pointer))
    length = runs.last - runs.first + 1.0
    area = np.bincount(runs.node, length, minlength=n)
    x = np.bincount(runs.node, length * (runs.first + runs.last + 1.0) / 2, minlength=n)
    y = np.bincount(runs.node, length * (row + 0.5), minlength=n)
    return np.stack([x / area, y / area], axis=1)


def _touching(runs: _Runs, gap: float, connectivity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of nodes at most a gap apart, sorted, and the pixel sides that they share."""
    # rounding must not lose a gap that is a whole number of pixels in decimal notation, such as 0.6 / 0.2
    square = gap * gap * (1 + 1e-9)
    rows_apart = math.floor(math.sqrt(square)) + 1
    empty = np.maximum(np.arange(rows_apart + 1) - 1, 0)  # rows between, for rows 0, 1, 2… apart
    reach = np.floor(np.sqrt(np.maximum(square - empty * empty, 0))).astype(np.int64)
    n = len(runs.labels)
    key, sides = _collect(runs.pointer, runs.first, runs.last, runs.node, n, reach, connectivity == 8)
    order = np.argsort(key)
    key = key[order]
    return np.stack([key // max(n, 1), key % max(n, 1)], axis=1), sides[order]


@njit(cache=True, nogil=True)
def _collect(pointer, first, last, node, n, reach, corners):
    """Compare the runs of every row with those of the rows below in reach; gather pairs in a hash table.

    `reach[d]` is the widest number of empty columns between runs that lie d rows apart.
    """
    height = pointer.shape[0] - 1
    keys = np.full(1024, -1, np.int64)
    sides = np.zeros(1024, np.int64)
    used = 0
    for r in range(height):
        for apart in range(min(reach.shape[0], height - r)):
            near = pointer[r + apart]
            end = pointer[r + apart + 1]
            wide = reach[apart]
            for a in range(pointer[r], pointer[r + 1]):
                while near < end and last[near] + 1 + wide < first[a]:
                    near += 1
                b = max(near, a + 1) if apart == 0 else near
                while b < end and first[b] <= last[a] + 1 + wide:
                    if node[a] != node[b]:
                        shared = 0
                        if apart == 0:
                            shared = 1 if first[b] == last[a] + 1 else 0
                        elif apart == 1:
                            shared = max(min(last[a], last[b]) - max(first[a], first[b]) + 1, 0)
                        if corners or shared > 0:
                            if 2 * (used + 1) > keys.shape[0]:
                                keys, sides = _grow(keys, sides)
                            key = min(node[a], node[b]) * n + max(node[a], node[b])
                            at = _slot(keys, key)
                            used += keys[at] < 0
                            keys[at] = key
                            sides[at] += shared
                    b += 1
    kept = np.flatnonzero(keys >= 0)
    return keys[kept], sides[kept]


@njit(cache=True, nogil=True)
def _slot(keys, key):
    """Return where a key is in the table, or the empty place where it belongs (size a power of two)."""
    mask = keys.shape[0] - 1
    at = ((key * -7046029254386353131) >> 20) & mask
    while keys[at] >= 0 and keys[at] != key:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _grow(keys, sides):
    """Copy the table into one of twice the size."""
    new_keys = np.full(2 * keys.shape[0], -1, np.int64)
    new_sides = np.zeros(2 * keys.shape[0], np.int64)
    for at in range(keys.shape[0]):
        if keys[at] >= 0:
            place = _slot(new_keys, keys[at])
            new_keys[place] = keys[at]
            new_sides[place] = sides[at]
    return new_keys, new_sides
