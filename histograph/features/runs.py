"""Entities as runs of pixels: the compact form that every feature kernel reads.

A run is a stretch of pixels of one entity in one row. Runs are grouped by entity (CSR) and lie in raster
order within it, so that a kernel visits the pixels of an entity in the same order wherever the entity is and
whatever is around it. Memory is linear in the number of runs, never in the largest label.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["Runs", "check_instance_map", "runs_of_instance_map"]


@dataclass(frozen=True)
class Runs:
    """Pixel runs of N entities, grouped by entity.

    Parameters
    ----------
    label : (N,) int64
        Label of every entity.
    ptr : (N + 1,) int64
        Runs of entity i are `ptr[i]:ptr[i + 1]`, at least one, in raster order.
    row, start, stop : (R,) int32
        Row of a run, its first column, and the column after its last, in pixels.

    Examples
    --------
    >>> runs = runs_of_instance_map(np.array([[5, 5, 0], [0, 5, 2]]))
    >>> runs.label, runs.area
    (array([2, 5]), array([1, 3]))
    >>> runs.bbox.tolist()  # row_min, column_min, row_stop, column_stop
    [[1, 2, 2, 3], [0, 0, 2, 2]]
    """

    label: npt.NDArray[np.int64]
    ptr: npt.NDArray[np.int64]
    row: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    stop: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def area(self) -> npt.NDArray[np.int64]:
        """Number of pixels of every entity, (N,) int64."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.add.reduceat((self.stop - self.start).astype(np.int64), self.ptr[:-1])

    @property
    def bbox(self) -> npt.NDArray[np.int64]:
        """Half-open boxes (N, 4) in pixels: row_min, column_min, row_stop, column_stop."""
        if not len(self):
            return np.zeros((0, 4), np.int64)
        first = self.ptr[:-1]
        columns = (
            self.row[first],
            np.minimum.reduceat(self.start, first),
            self.row[self.ptr[1:] - 1] + 1,
            np.maximum.reduceat(self.stop, first),
        )
        return np.stack(columns, axis=1).astype(np.int64)

    @property
    def centroid(self) -> npt.NDArray[np.float64]:
        """Mean row and column of the pixel centres, (N, 2) float64 in pixels (regionprops's convention)."""
        if not len(self):
            return np.zeros((0, 2))
        n = (self.stop - self.start).astype(np.int64)
        row_sum = np.add.reduceat(n * self.row, self.ptr[:-1])
        twice = np.add.reduceat(n * (self.start.astype(np.int64) + self.stop - 1), self.ptr[:-1])
        return np.stack([row_sum, twice / 2], axis=1) / self.area[:, None]

    def shift(self, rows: int, columns: int) -> Runs:
        """Move all entities by whole pixels.

        Parameters
        ----------
        rows, columns : int
            Pixels down and to the right.

        Returns
        -------
        Runs
            The moved entities.

        Examples
        --------
        >>> runs_of_instance_map(np.array([[5, 5]])).shift(2, 1).bbox.tolist()
        [[2, 1, 3, 3]]
        """
        move = np.int32(columns)
        return replace(self, row=self.row + np.int32(rows), start=self.start + move, stop=self.stop + move)

    def chunks(self, count: int) -> list[tuple[int, int]]:
        """Split the entities into at most `count` ranges with like numbers of pixels.

        Parameters
        ----------
        count : int
            Number of ranges, at least 1.

        Returns
        -------
        list of (int, int)
            First entity of each range and the one after its last.

        Examples
        --------
        >>> runs_of_instance_map(np.array([[1, 2, 3, 3]])).chunks(2)
        [(0, 1), (1, 3)]
        """
        total = np.cumsum(self.area)
        if not len(self):
            return []
        cuts = np.searchsorted(total, total[-1] * np.arange(1, count) / count)
        edges = np.unique(np.concatenate([[0], cuts, [len(self)]]))
        return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def check_instance_map(instance_map: npt.ArrayLike) -> npt.NDArray[np.integer]:
    """Return the instance map as int32 or int64, C-contiguous; say what is wrong when it is no instance map.

    Parameters
    ----------
    instance_map : (H, W) integer array
        Labels, 0 is background.

    Returns
    -------
    (H, W) int32 or int64 array
        The same array where it already fits.

    Raises
    ------
    ValueError
        When it is not 2-D or not integer.

    Examples
    --------
    >>> check_instance_map(np.zeros((2, 3), np.uint8)).dtype
    dtype('int32')
    """
    labels = np.asarray(instance_map)
    if labels.ndim != 2:
        raise ValueError(f"instance_map must have shape (H, W), found shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"instance_map must hold integer labels, found dtype {labels.dtype}; "
            "for a binary mask use skimage.measure.label first"
        )
    if max(labels.shape) >= 2**31:
        raise ValueError(f"instance_map must have sides below 2**31 pixels, found shape {labels.shape}")
    if labels.dtype == np.uint64 and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise ValueError("instance_map must hold labels below 2**63, found a larger uint64")
    narrow = labels.dtype.itemsize < 4 or labels.dtype == np.int32
    return np.ascontiguousarray(labels, dtype=np.int32 if narrow else np.int64)


@njit(cache=True, nogil=True)
def _count_runs(labels, first, stop, count):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for r in range(first, stop):
        n = 0
        last = labels[r, 0]
        if last != 0:
            n = 1
        negative = last < 0
        for c in range(1, labels.shape[1]):
            here = labels[r, c]
            if here != last:
                negative |= here < 0
                n += here != 0
                last = here
        count[r + 1] = -1 if negative else n


@njit(cache=True, nogil=True)
def _fill_runs(labels, first, stop, ptr, row, start, end, label):  # type: ignore[no-untyped-def]  # pragma: no cover
    for r in range(first, stop):
        k = ptr[r]
        last = labels[r, 0]
        begin = 0
        for c in range(1, labels.shape[1]):
            here = labels[r, c]
            if here != last:
                if last != 0:
                    row[k], start[k], end[k], label[k] = r, begin, c, last
                    k += 1
                last = here
                begin = c
        if last != 0:
            row[k], start[k], end[k], label[k] = r, begin, labels.shape[1], last


@njit(cache=True, nogil=True)
def _group_runs(index, ptr, row, start, stop, rows, starts, stops):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Sort by entity, by counting; stable, so raster order is kept within an entity."""
    for i in range(len(index)):
        ptr[index[i] + 1] += 1
    for e in range(1, len(ptr)):
        ptr[e] += ptr[e - 1]
    place = ptr[:-1].copy()
    for i in range(len(index)):
        k = place[index[i]]
        rows[k], starts[k], stops[k] = row[i], start[i], stop[i]
        place[index[i]] = k + 1


def _compact(label: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted distinct labels, and the place of every run's label among them."""
    if not len(label):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    largest = int(label.max())
    if largest > 4 * len(label) + 65536:  # a table of this size would not be linear in the runs
        found, index = np.unique(label, return_inverse=True)
        return found, index.reshape(-1)
    table = np.zeros(largest + 1, np.int64)
    table[label] = 1
    found = np.flatnonzero(table)
    table[found] = np.arange(len(found))
    return found, table[label]


def _over_rows(work: Callable[[int, int], None], height: int, workers: int) -> None:
    """Call `work(first, stop)` on bands of rows, in threads (the kernels release the GIL)."""
    edges = np.linspace(0, height, workers + 1).astype(int)
    if workers == 1:
        work(0, height)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def runs_of_instance_map(instance_map: npt.ArrayLike, workers: int = 1) -> Runs:
    """Find the runs of every label of an instance map, in two passes over the pixels.

    Parameters
    ----------
    instance_map : (H, W) integer array
        Labels, 0 is background; they need be neither contiguous nor small.
    workers : int
        Threads.

    Returns
    -------
    Runs
        Entities in ascending order of label.

    Raises
    ------
    ValueError
        When the map is not 2-D, not integer, or holds a negative label.

    Examples
    --------
    >>> runs_of_instance_map(np.array([[2**40, 2**40, 7]])).label
    array([            7, 1099511627776])
    """
    labels = check_instance_map(instance_map)
    count = np.zeros(len(labels) + 1, np.int64)
    if labels.size:
        _over_rows(lambda a, b: _count_runs(labels, a, b, count), len(labels), workers)
    if count.min() < 0:
        raise ValueError(f"instance_map must hold labels >= 0, found {labels.min()}")
    ptr = np.cumsum(count)
    n = int(ptr[-1])
    row, start, stop = (np.empty(n, np.int32) for _ in range(3))
    label = np.empty(n, np.int64)
    if n:
        _over_rows(lambda a, b: _fill_runs(labels, a, b, ptr, row, start, stop, label), len(labels), workers)
    found, index = _compact(label)
    grouped = Runs(found, np.zeros(len(found) + 1, np.int64), *(np.empty(n, np.int32) for _ in range(3)))
    _group_runs(index, grouped.ptr, row, start, stop, grouped.row, grouped.start, grouped.stop)
    return grouped
