"""The compiled loops of `segment_kmeans`: draw starts, let rows choose, move centroids."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .balanced_assignment import sinkhorn

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS, _TOLERANCE = 200, 1e-4  # of Sinkhorn
_SWEEPS = 20  # over the rows of a segment, for their neighbours' sake
_SETTLED = 1e-4  # a soft clustering ends when no centroid moves by more than this part of the spread


class Task(NamedTuple):
    """What all segments share.

    Attributes
    ----------
    order : ndarray
        (N,) int64 rows, segment after segment, inside one in the order of their keys.
    pointer : ndarray
        (S + 1,) int64, where in `order` each segment begins.
    key : ndarray
        (N,) uint64, a number for each row that its values decide, see `row_keys`.
    begin, near : ndarray
        (N + 1,) and (E,) int64: the neighbours of the row at place p of `order` are at the places
        ``near[begin[p] : begin[p + 1]]``.
    coherence : float
        What an edge between two clusters costs.
    tau : float
        Temperature of soft assignment; 0 for hard.
    iterations, restarts, minimum : int
        As of `segment_kmeans`.
    seed : numpy.uint64
        Of the starts.
    """

    order: Ints
    pointer: Ints
    key: Words
    begin: Ints
    near: Ints
    coherence: float
    tau: float
    iterations: int
    restarts: int
    minimum: int
    seed: np.uint64


@njit(cache=True, nogil=True)
def _mixed(word: np.uint64) -> np.uint64:
    """Scramble 64 bits (splitmix64)."""
    word += np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@njit(cache=True, nogil=True)
def row_keys(bits: NDArray[np.uint32]) -> Words:
    """Give each row a number that its values decide (multilinear hashing).

    Parameters
    ----------
    bits : ndarray
        (N, D) uint32, the bits of float32 values.

    Returns
    -------
    ndarray
        (N,) uint64; equal rows have equal numbers, different ones as good as never.

    Examples
    --------
    >>> import numpy as np
    >>> one, two, three = row_keys(np.float32([[1, 2], [2, 1], [1, 2]]).view(np.uint32))
    >>> bool(one == three), bool(one == two)
    (True, False)
    """
    key, factor = np.zeros(len(bits), np.uint64), np.empty(bits.shape[1], np.uint64)
    for d in range(bits.shape[1]):
        factor[d] = _mixed(np.uint64(d))
    for i in range(len(bits)):
        for d in range(bits.shape[1]):
            key[i] += np.uint64(bits[i, d]) * factor[d]
    return key


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _apart(one: Floats, two: Floats) -> np.float32:
    """Compute a squared distance."""
    total = np.float32(0.0)
    for d in range(len(one)):
        step = one[d] - two[d]
        total += step * step
    return total


@njit(cache=True, nogil=True)
def _squared_distances(x: Floats, centroid: Floats, out: Doubles) -> None:
    for i in range(len(x)):
        for j in range(len(centroid)):
            out[i, j] = _apart(x[i], centroid[j])


@njit(cache=True, nogil=True)
def _copy(row: Floats, out: Floats) -> None:
    """Copy a row; what slices do as well, but take seconds to compile."""
    for d in range(len(row)):
        out[d] = row[d]


@njit(cache=True, nogil=True)
def _draw(x: Floats, key: Words, seed: np.uint64, centroid: Floats) -> None:
    """Take rows as centroids, each with a probability proportional to its squared distance to those before it.

    The row of the smallest e / w is such a draw where e are exponential random numbers and w the weights.
    """
    n, k = len(x), len(centroid)
    weight = np.ones(n)
    for j in range(k):
        seed = _mixed(seed)
        best, least, twins = -1, np.inf, np.uint64(0)
        for i in range(n):
            twins = twins + np.uint64(1) if i > 0 and key[i] == key[i - 1] else np.uint64(0)
            if weight[i] > 0:
                word = _mixed(_mixed(key[i] + twins) ^ seed)
                late = -np.log((float(word >> np.uint64(11)) + 0.5) / 2.0**53) / weight[i]
                if late < least:
                    best, least = i, late
        if best < 0:  # no other rows than those taken
            _copy(x[j % n], centroid[j])
            continue
        _copy(x[best], centroid[j])
        for i in range(n):
            distance = _apart(x[i], centroid[j])
            weight[i] = distance if j == 0 else min(weight[i], distance)


@njit(cache=True, nogil=True)
def _choose(distance: Doubles, task: Task, offset: int, cluster: Ints) -> bool:
    """Let rows choose the cluster of the least cost, in turn until none changes; give whether any has changed.

    On entry clusters are -1 or the last choice, from which an edge's cost may keep a row.
    """
    n, k = distance.shape
    changed = False
    if cluster[0] < 0 or task.coherence == 0:
        for i in range(n):
            best = np.argmin(distance[i])
            changed |= best != cluster[i]
            cluster[i] = best
    if task.coherence == 0:
        return changed
    cost = np.empty(k)
    for _ in range(_SWEEPS):
        calm = True
        for i in range(n):
            for j in range(k):
                cost[j] = distance[i, j]
            for e in range(task.begin[offset + i], task.begin[offset + i + 1]):
                cost[cluster[task.near[e] - offset]] -= task.coherence
            best = np.argmin(cost)
            if cost[best] < cost[cluster[i]]:
                cluster[i] = best
                calm = False
        if calm:
            break
        changed = True
    return changed


@njit(cache=True, nogil=True)
def _share(
    distance: Doubles,
    task: Task,
    offset: int,
    column: Doubles,
    share: Doubles,
) -> None:
    """Share rows among clusters of equal size; the pull of neighbours is that of the shares on entry."""
    cost = distance.copy()
    if task.coherence > 0:
        for i in range(len(cost)):
            for e in range(task.begin[offset + i], task.begin[offset + i + 1]):
                for j in range(cost.shape[1]):
                    cost[i, j] -= task.coherence * (share[i, j] + share[task.near[e] - offset, j])
    sinkhorn(cost, task.tau, _ROUNDS, _TOLERANCE, column, share)


@njit(cache=True, nogil=True)
def _move(x: Floats, distance: Doubles, task: Task, offset: int, cluster: Ints, centroid: Floats) -> None:
    """Make centroids the means of their rows; a cluster without rows takes that by which most is gained."""
    n, k = distance.shape
    count = np.zeros(k, np.int64)
    for i in range(n):
        count[cluster[i]] += 1
    total = np.zeros(centroid.shape)
    for j in range(k):
        if count[j] > 0:
            continue
        best, most = -1, 0.0
        for i in range(n):
            gain = distance[i, cluster[i]]
            for e in range(task.begin[offset + i], task.begin[offset + i + 1]):
                gain -= task.coherence * (cluster[task.near[e] - offset] == cluster[i])
            if gain > most and count[cluster[i]] > 1:
                best, most = i, gain
        if best < 0:
            _copy(x[j % n], centroid[j])
            continue
        count[cluster[best]] -= 1
        count[j] += 1
        cluster[best] = j
        distance[best, j] = 0.0
    for i in range(n):
        row, own = x[i], total[cluster[i]]
        for d in range(len(row)):
            own[d] += row[d]
    for j in range(k):
        for d in range(centroid.shape[1] if count[j] > 0 else 0):
            centroid[j, d] = total[j, d] / count[j]


@njit(cache=True, nogil=True)
def _move_soft(x: Floats, share: Doubles, centroid: Floats) -> float:
    """Make centroids the means of all rows by their shares; give the largest squared way."""
    n, k = share.shape
    total, size, most = np.zeros(centroid.shape), np.zeros(k), 0.0
    for i in range(n):
        for j in range(k):
            size[j] += share[i, j]
            for d in range(x.shape[1]):
                total[j, d] += share[i, j] * x[i, d]
    for j in range(k):
        way = 0.0
        for d in range(x.shape[1]):
            mean = total[j, d] / size[j]
            way += (mean - centroid[j, d]) ** 2
            centroid[j, d] = mean
        most = max(most, way)
    return most


@njit(cache=True, nogil=True)
def _objective(
    distance: Doubles,
    task: Task,
    offset: int,
    cluster: Ints,
    share: Doubles,
) -> float:
    """Give what is minimised, of clusters (tau 0) or shares."""
    n, k = distance.shape
    total = 0.0
    for i in range(n):
        if task.tau == 0:
            total += distance[i, cluster[i]]
        else:
            for j in range(k):
                q = share[i, j]
                total += q * distance[i, j] + (task.tau * q * np.log(q) if q > 0 else 0.0)
        for e in range(task.begin[offset + i], task.begin[offset + i + 1]):  # half for each direction
            other = task.near[e] - offset
            if task.tau == 0:
                total += 0.5 * task.coherence * (cluster[i] != cluster[other])
            else:
                both = 0.0
                for j in range(k):
                    both += (share[i, j] + share[other, j]) ** 2
                total += 0.5 * task.coherence * (2.0 - 0.5 * both)
    return total


@njit(cache=True, nogil=True)
def _lloyd(
    x: Floats,
    centroid: Floats,
    task: Task,
    offset: int,
    distance: Doubles,
    cluster: Ints,
    share: Doubles,
) -> float:
    """Let rows choose and centroids move in turn; centroids, distances and clusters are left as they end."""
    n, k = distance.shape
    column, spread, settled = np.zeros(k), 0.0, False
    _squared_distances(x, centroid, distance)
    for i in range(n):
        cluster[i] = -1
        for j in range(k):
            share[i, j] = 1.0 / k
            spread += distance[i, j] / (n * k)
    for turn in range(task.iterations + 1):
        if task.tau == 0:
            if not _choose(distance, task, offset, cluster) or turn == task.iterations:
                break
            _move(x, distance, task, offset, cluster, centroid)
        else:
            _share(distance, task, offset, column, share)
            if settled or turn == task.iterations:
                break
            settled = _move_soft(x, share, centroid) <= _SETTLED**2 * spread
        _squared_distances(x, centroid, distance)
    if task.tau > 0:
        for i in range(n):
            cluster[i] = np.argmax(share[i])
    return _objective(distance, task, offset, cluster, share)


@njit(cache=True, nogil=True)
def cluster_segments(
    low: int,
    high: int,
    rows: Floats,
    start: Floats,
    task: Task,
    centroid: Floats,
    cluster: Ints,
    scores: Doubles,
) -> None:
    """Cluster segments `low` to `high - 1`, each by itself; one with too few rows is passed over.

    Parameters
    ----------
    low, high : int
        Which segments.
    rows : ndarray
        (N, D) float32.
    start : ndarray
        (S, k, D) float32, where the first restart begins; (0, k, D) for a drawn start.
    task : Task
        The rest.
    centroid, cluster, scores : ndarray
        (S, k, D) float32, (N,) int64 and (2, S) float64, inertia and objective; what is found is written here.

    Examples
    --------
    >>> import numpy as np
    >>> rows, none = np.float32([[0], [1], [5]]), np.empty(0, np.int64)
    >>> task = Task(np.arange(3), np.array([0, 3]), row_keys(rows.view(np.uint32)), np.zeros(4, np.int64), none,
    ...             0.0, 0.0, 10, 3, 1, np.uint64(0))
    >>> centroid, cluster, scores = np.zeros((1, 2, 1), np.float32), np.zeros(3, np.int64), np.zeros((2, 1))
    >>> cluster_segments(0, 1, rows, np.empty((0, 2, 1), np.float32), task, centroid, cluster, scores)
    >>> sorted(centroid.flatten().tolist()), scores[0].tolist()
    ([0.5, 5.0], [0.5])
    """
    k = centroid.shape[1]
    for s in range(low, high):
        offset = task.pointer[s]
        here = task.order[offset : task.pointer[s + 1]]
        n = len(here)
        if n < task.minimum:
            continue
        x, keys = np.empty((n, rows.shape[1]), np.float32), np.empty(n, np.uint64)
        for i in range(n):
            _copy(rows[here[i]], x[i])
            keys[i] = task.key[here[i]]
        distance, share, choice = np.empty((n, k)), np.empty((n, k)), np.empty(n, np.int64)
        trial = np.empty_like(centroid[s])
        scores[1, s] = np.inf
        for turn in range(task.restarts):
            if turn == 0 and len(start):
                for j in range(k):
                    _copy(start[s, j], trial[j])
            else:
                _draw(x, keys, _mixed(_mixed(task.seed) + np.uint64(turn)), trial)
            objective = _lloyd(x, trial, task, offset, distance, choice, share)
            if objective < scores[1, s]:
                scores[1, s], scores[0, s] = objective, 0.0
                for j in range(k):
                    _copy(trial[j], centroid[s, j])
                for i in range(n):
                    cluster[here[i]] = choice[i]
                    scores[0, s] += distance[i, choice[i]]
