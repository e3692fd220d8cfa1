"""The compiled loops of `prototype_sets`: bounds, assignments, and lists of the nearest."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


class Tile(NamedTuple):
    """The inner products of some sets with some others.

    Attributes
    ----------
    gram : ndarray
        (A · K, B · K) float32, the products of prototypes.
    bound : ndarray
        (A, B) float32, how similar two sets can be at most; written by `upper_bound`.
    low, first : int
        Numbers of the first set of the rows, and of the columns.
    """

    gram: Floats
    bound: Floats
    low: int
    first: int


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _gain(one: Floats, two: Floats, out: Doubles) -> None:
    """Compute the inner products of two sets."""
    for a in range(len(one)):
        for b in range(len(two)):
            total = np.float32(0.0)
            for d in range(one.shape[1]):
                total += one[a, d] * two[b, d]
            out[a, b] = total


@njit(cache=True, nogil=True)
def assign(gain: Doubles, match: Ints) -> float:
    """Match rows to columns one to one at the largest total; a shortest augmenting path for each row.

    Parameters
    ----------
    gain : ndarray
        (K, K) float64, of each pair; finite.
    match : ndarray
        (K,) int64; the column of each row is written here.

    Returns
    -------
    float
        The total.

    Examples
    --------
    >>> import numpy as np
    >>> match = np.empty(2, np.int64)
    >>> assign(np.array([[3.0, 2.0], [3.0, 0.0]]), match), match.tolist()
    (5.0, [1, 0])
    """
    k = len(gain)
    # potentials of rows and columns: high[i] + pull[j] >= gain[i, j] throughout, equal where matched; column k stands
    # for "not yet matched"
    high, pull = np.empty(k), np.full(k + 1, -np.inf)
    for i in range(k):
        high[i] = gain[i, 0]
        for j in range(1, k):
            high[i] = max(high[i], gain[i, j])
        for j in range(k):
            pull[j] = max(pull[j], gain[i, j] - high[i])
    owner, way = np.full(k + 1, -1), np.full(k + 1, k)
    short, done = np.empty(k), np.empty(k + 1, np.bool_)
    for i in range(k):
        owner[k], at = i, k
        short[:] = np.inf
        done[:] = False
        while owner[at] >= 0:
            done[at] = True
            row, step, best = owner[at], np.inf, -1
            for j in range(k):
                if not done[j]:
                    lost = high[row] + pull[j] - gain[row, j]
                    if lost < short[j]:
                        short[j], way[j] = lost, at
                    if short[j] < step:
                        step, best = short[j], j
            for j in range(k + 1):
                if done[j]:
                    high[owner[j]] -= step
                    pull[j] += step
                else:
                    short[j] -= step
            at = best
        while at != k:
            owner[at] = owner[way[at]]
            at = way[at]
    total = 0.0
    for j in range(k):
        match[owner[j]] = j
        total += gain[owner[j], j]
    return total


@njit(cache=True, nogil=True)
def solve(gram: Floats, k: int, out: Floats, begin: int, end: int) -> None:
    """Compare sets `begin` to `end - 1` of the rows with all sets of the columns.

    Parameters
    ----------
    gram : ndarray
        (A · k, B · k) float32 products of prototypes.
    k : int
        Prototypes of a set.
    out : ndarray
        (A, B) float32; similarities are written here.
    begin, end : int
        Which sets.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.zeros((1, 1), np.float32)
    >>> solve(np.float32([[0, 1], [2, 5]]), 2, out, 0, 1)
    >>> out.item()
    5.0
    """
    gain, match = np.empty((k, k)), np.empty(k, np.int64)
    for i in range(begin, end):
        for j in range(out.shape[1]):
            for a in range(k):
                for b in range(k):
                    gain[a, b] = gram[i * k + a, j * k + b]
            out[i, j] = assign(gain, match)


@njit(cache=True, nogil=True)
def upper_bound(tile: Tile, k: int, begin: int, end: int) -> None:
    """Bound the similarities of sets `begin` to `end - 1` of the rows: each column's largest product, summed.

    Parameters
    ----------
    tile : Tile
        Its bounds are written.
    k : int
        Prototypes of a set.
    begin, end : int
        Which sets.

    Examples
    --------
    >>> import numpy as np
    >>> tile = Tile(np.float32([[0, 1], [2, 5]]), np.zeros((1, 1), np.float32), 0, 0)
    >>> upper_bound(tile, 2, 0, 1)
    >>> tile.bound.item()
    7.0
    """
    most = np.empty(tile.gram.shape[1], np.float32)
    for i in range(begin, end):
        for j in range(len(most)):  # a slice would do the same, but takes seconds to compile
            most[j] = tile.gram[i * k, j]
        for a in range(i * k + 1, (i + 1) * k):
            row = tile.gram[a]
            for j in range(len(row)):
                most[j] = max(most[j], row[j])
        for j in range(tile.bound.shape[1]):
            total = np.float32(0.0)
            for b in range(j * k, (j + 1) * k):
                total += most[b]
            tile.bound[i, j] = total


@njit(cache=True, nogil=True)
def _tighter(block: Floats, pull: Floats) -> float:
    """Bound the similarity by the potentials with which `assign` begins."""
    total = 0.0
    pull[:] = -np.inf
    for a in range(len(block)):
        high = block[a, 0]
        for b in range(1, len(block)):
            high = max(high, block[a, b])
        total += high
        for b in range(len(block)):
            pull[b] = max(pull[b], block[a, b] - high)
    for b in range(len(block)):
        total += pull[b]
    return total


@njit(cache=True, nogil=True)
def _insert(t: int, value: float, near: Ints, alike: Doubles) -> None:
    """Put a set into a list of the nearest, if it is nearer than the last: more alike, or of a smaller number."""
    place = len(near)
    while place > 0 and (
        value > alike[place - 1]
        or (value == alike[place - 1] and (t < near[place - 1] or near[place - 1] < 0))
    ):
        place -= 1
    if place < len(near):
        for q in range(len(near) - 1, place, -1):
            near[q], alike[q] = near[q - 1], alike[q - 1]
        near[place], alike[place] = t, value


@njit(cache=True, nogil=True)
def improve(
    tile: Tile,
    turned: bool,
    sets: Floats,
    group: Ints,
    slack: float,
    near: Ints,
    alike: Doubles,
    begin: int,
    end: int,
) -> None:
    """Put what a tile holds into the lists of the nearest.

    Parameters
    ----------
    tile : Tile
        With its bounds.
    turned : bool
        Whether the lists are those of the tile's columns instead of its rows.
    sets : ndarray
        (S, K, D) float32, all sets.
    group : ndarray
        (S,) int64; sets of one group are not neighbours.
    slack : float
        By how much rounding may put a bound below the similarity.
    near, alike : ndarray
        (S, r) int64 and float64 lists of all sets, nearest first, -1 and minus infinity where they end.
    begin, end : int
        Sets of the tile to work for.

    Examples
    --------
    >>> import numpy as np
    >>> sets = np.float32([[[1]], [[0.5]], [[0.9]]])
    >>> tile = Tile(sets[:, 0] @ sets[:, 0].T, np.zeros((3, 3), np.float32), 0, 0)
    >>> upper_bound(tile, 1, 0, 3)
    >>> near, alike = np.full((3, 1), -1), np.full((3, 1), -np.inf)
    >>> improve(tile, False, sets, np.arange(3), 1e-5, near, alike, 0, 3)
    >>> near.flatten().tolist()
    [2, 0, 0]
    """
    k, r = sets.shape[1], near.shape[1]
    gain, match, pull = np.empty((k, k)), np.empty(k, np.int64), np.empty(k, np.float32)
    own_first, other_first = (tile.first, tile.low) if turned else (tile.low, tile.first)
    for own in range(begin, end):
        s = own_first + own
        for other in range(tile.bound.shape[0 if turned else 1]):
            i, j = (other, own) if turned else (own, other)
            t = other_first + other
            if tile.bound[i, j] + slack < alike[s, r - 1] or group[s] == group[t]:
                continue
            if _tighter(tile.gram[i * k : (i + 1) * k, j * k : (j + 1) * k], pull) + slack < alike[s, r - 1]:
                continue
            # in one order of the two, so that both lists get the same number
            _gain(sets[min(s, t)], sets[max(s, t)], gain)
            _insert(t, assign(gain, match), near[s], alike[s])


@njit(cache=True, nogil=True)
def match_sets(sets: Floats, near: Ints, bijective: bool, matched: Ints) -> None:
    """Find the prototypes of the neighbours that belong to those of each set.

    Parameters
    ----------
    sets : ndarray
        (S, K, D) float32.
    near : ndarray
        (S, r) int64 neighbours, -1 for none.
    bijective : bool
        One to one at the largest total, or each the most alike.
    matched : ndarray
        (S, r, K) int64; numbers of prototypes are written here, nothing where there is no neighbour.

    Examples
    --------
    >>> import numpy as np
    >>> sets = np.float32([[[3], [2]], [[4], [1]]])
    >>> near, matched = np.array([[1], [0]]), np.empty((2, 1, 2), np.int64)
    >>> match_sets(sets, near, True, matched)
    >>> matched[0, 0].tolist()
    [0, 1]
    >>> match_sets(sets, near, False, matched)
    >>> matched[0, 0].tolist()
    [0, 0]
    """
    k = sets.shape[1]
    gain = np.empty((k, k))
    for s in range(len(near)):
        for q in range(near.shape[1]):
            if near[s, q] < 0:
                continue
            _gain(sets[s], sets[near[s, q]], gain)
            if bijective:
                assign(gain, matched[s, q])
            else:
                for a in range(k):
                    matched[s, q, a] = np.argmax(gain[a])
