"""Hierarchical merging of touching regions by mean colour."""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit
from numpy.typing import NDArray


def touching_pairs(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs of labels that touch along a pixel edge.

    Parameters
    ----------
    label : ndarray, (H, W) int64
        Labels; negative is background.

    Returns
    -------
    ndarray, (E, 2) int64
        Pairs ``i < j``, sorted, each once.

    Examples
    --------
    >>> touching_pairs(np.array([[0, 0, 2], [1, 1, -1]])).tolist()
    [[0, 1], [0, 2]]
    """
    right = np.stack([label[:, :-1].ravel(), label[:, 1:].ravel()], axis=1)
    down = np.stack([label[:-1].ravel(), label[1:].ravel()], axis=1)
    return unique_pairs(np.concatenate([right, down]))


def unique_pairs(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each pair of two different, non-negative labels once, as ``i < j``, sorted.

    Parameters
    ----------
    pairs : ndarray, (M, 2) int64
        Pairs below 2^31 in any order.

    Returns
    -------
    ndarray, (E, 2) int64

    Examples
    --------
    >>> unique_pairs(np.array([[3, 1], [1, 3], [2, 2], [-1, 2]])).tolist()
    [[1, 3]]
    """
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    used = (low >= 0) & (low < high)
    key = np.unique((low[used] << 32) | high[used])
    return np.stack([key >> 32, key & 0xFFFFFFFF], axis=1)


def merge_by_colour(
    pairs: NDArray[np.int64],
    colour_sum: NDArray[np.float64],
    count: NDArray[np.int64],
    threshold: float,
    min_count: float = 0.0,
    max_count: float = np.inf,
) -> NDArray[np.int64]:
    """Merge touching regions, the most similar first, until no two below the threshold touch.

    The difference of two regions is the Euclidean distance of their mean colours, over all channels. A merged region
    has the mean of all its pixels, and its differences are brought up to date when they come to the top of the queue.
    Before that, regions smaller than `min_count` are merged with their most similar neighbour. Equal differences are
    taken in the order of `pairs`, so the result is always the same.

    Parameters
    ----------
    pairs : ndarray, (E, 2) int64
        Touching regions, see `touching_pairs`.
    colour_sum : ndarray, (N, C) float64
        Sum of the colours of each region's pixels.
    count : ndarray, (N,) int64
        Pixels of each region.
    threshold : float
        Regions that differ by less are merged.
    min_count : float
        Smaller regions are merged whatever their colour.
    max_count : float
        No merged region has more pixels.

    Returns
    -------
    ndarray, (N,) int64
        Group of each region, 0, 1, … in the order of the groups' first regions.

    Examples
    --------
    >>> pairs = np.array([[0, 1], [1, 2]])
    >>> merge_by_colour(pairs, np.array([[10.0], [22.0], [90.0]]), np.array([1, 2, 1]), threshold=5.0)
    array([0, 0, 1])
    """
    parent = np.arange(len(count))
    total = np.array(colour_sum, np.float64)
    size = np.array(count, np.float64)
    pairs = np.ascontiguousarray(pairs, np.int64)
    if len(pairs):
        if min_count > 0:
            _merge(pairs, total, size, parent, np.inf, float(min_count), float(max_count))
        if threshold > 0:
            _merge(pairs, total, size, parent, float(threshold), np.inf, float(max_count))
    roots = _roots(parent)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


@njit(cache=True, nogil=True)
def _find(parent, i):  # type: ignore[no-untyped-def]
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _roots(parent):  # type: ignore[no-untyped-def]
    out = np.empty_like(parent)
    for i in range(len(parent)):
        out[i] = _find(parent, i)
    return out


@njit(cache=True, nogil=True)
def _difference(total, size, i, j):  # type: ignore[no-untyped-def]
    square = 0.0
    for channel in range(total.shape[1]):
        square += (total[i, channel] / size[i] - total[j, channel] / size[j]) ** 2
    return np.sqrt(square)


@njit(cache=True, nogil=True)
def _merge(pairs, total, size, parent, threshold, small, largest):  # type: ignore[no-untyped-def]
    """Merge in place: pairs below the threshold of which one side is small, most similar first."""
    while True:
        queue = [(0.0, 0) for _ in range(0)]
        for edge in range(len(pairs)):
            i, j = _find(parent, pairs[edge, 0]), _find(parent, pairs[edge, 1])
            if i == j or min(size[i], size[j]) >= small or size[i] + size[j] > largest:
                continue
            difference = _difference(total, size, i, j)
            if difference < threshold:
                queue.append((difference, edge))
        # Merging moves means: what has come below the threshold meanwhile is found by looking once more.
        if len(queue) == 0:
            return
        heapq.heapify(queue)
        while len(queue) > 0:
            known, edge = heapq.heappop(queue)
            i, j = _find(parent, pairs[edge, 0]), _find(parent, pairs[edge, 1])
            if i == j or min(size[i], size[j]) >= small or size[i] + size[j] > largest:
                continue
            difference = _difference(total, size, i, j)
            if difference > known:
                if difference < threshold:
                    heapq.heappush(queue, (difference, edge))
                continue
            low, high = min(i, j), max(i, j)
            parent[high] = low
            size[low] += size[high]
            for channel in range(total.shape[1]):
                total[low, channel] += total[high, channel]
