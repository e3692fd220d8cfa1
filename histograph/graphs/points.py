"""What all edge builders share: checking points, sorting undirected pairs into edges, edge attributes.

Every builder hands out the same thing: `edge_index` (2, E) with both directions of every edge, sorted by
source and then by target, without self loops or duplicates, and `edge_attr` (E, D) float32 whose first column
is the length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["ATTRIBUTES", "as_points", "attribute_names", "edge_attributes", "edges_from_pairs"]

ATTRIBUTES = ("length", "dx", "dy", "angle", "sin", "cos")
"""The geometric edge attributes that every edge builder can hand out."""

MAX_EDGES = 2**31
"""A graph with more directed edges than this is refused: 48 GB and more, and nearly always a wrong unit."""

_FARTHEST = 1e150  # squares of larger coordinates overflow
_SMALL = 16_384  # below this many items threads cost more than they save


def as_points(pos: ArrayLike | Tensor, name: str = "pos") -> NDArray[np.float64]:
    """Check points and return them as a C-contiguous float64 array.

    Parameters
    ----------
    pos
        Points, shape (N, 2), x then y: a tensor, an array or nested lists, of any real number type.
    name
        The name of the argument in error messages.

    Returns
    -------
    ndarray
        Shape (N, 2), float64; the input itself when it already is such an array.

    Raises
    ------
    TypeError
        When `pos` does not hold real numbers.
    ValueError
        When the shape is not (N, 2), or a coordinate is NaN or infinite.

    Examples
    --------
    >>> as_points([[1, 2], [3, 4]])
    array([[1., 2.],
           [3., 4.]])
    """
    if isinstance(pos, Tensor):
        if pos.is_complex():
            raise TypeError(f"{name} must hold real numbers, found a tensor of {pos.dtype}.")
        array = pos.detach().to("cpu", torch.float64).numpy()
    else:
        array = np.asarray(pos)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{name} must hold real numbers, found dtype {array.dtype}.")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"{name} must have shape (N, 2), x then y, found shape {tuple(array.shape)}; "
            "no points at all are an array of shape (0, 2)."
        )
    points = np.ascontiguousarray(array, dtype=np.float64)
    bad = _first_bad(points)
    if bad >= 0:
        raise ValueError(
            f"{name} must be finite (at most 1e150), found ({points[bad, 0]}, {points[bad, 1]}) "
            f"at index {bad}; drop such points first."
        )
    return points


@njit(cache=True, nogil=True)
def _first_bad(points: NDArray[np.float64]) -> int:
    """Return the index of the first point with a coordinate that is not finite or too far out, or -1."""
    for i in range(points.shape[0]):
        if not (abs(points[i, 0]) <= _FARTHEST and abs(points[i, 1]) <= _FARTHEST):  # false for NaN, too
            return i
    return -1


def attribute_names(attributes: Sequence[str], extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Check the names of edge attributes and return them in column order, `"length"` first.

    Parameters
    ----------
    attributes
        Names out of `ATTRIBUTES` and `extra`; `"length"` may be left out, it comes first anyway.
    extra
        Further names that the calling builder knows.

    Returns
    -------
    tuple of str
        The names of the columns of `edge_attr`.

    Raises
    ------
    TypeError
        When a single string is given in place of a sequence of names.
    ValueError
        When a name is unknown or given twice.

    Examples
    --------
    >>> attribute_names(("dx", "length"))
    ('length', 'dx')
    """
    if isinstance(attributes, str):
        raise TypeError(f"attributes must be a sequence of names, found a string; write ({attributes!r},).")
    names = tuple(attributes)
    valid = (*ATTRIBUTES, *extra)
    for name in names:
        if name not in valid:
            raise ValueError(f"attributes: unknown name {name!r}; valid names are {', '.join(valid)}.")
    if len(set(names)) != len(names):
        raise ValueError(f"attributes must not repeat a name, found {names}.")
    return ("length", *(name for name in names if name != "length"))


def edge_attributes(
    pos: ArrayLike | Tensor, edge_index: Tensor, attributes: Sequence[str] = ("length",)
) -> Tensor:
    """Compute geometric attributes of edges.

    With `d = pos[target] - pos[source]`: `length = |d|`, `dx, dy = d`, `angle = atan2(dy, dx)` in (-pi, pi]
    radians, `sin = dy / length`, `cos = dx / length`. An edge of length zero has angle 0, sin 0 and cos 1.
    Differences are taken in float64, so a far offset of all points costs no accuracy.

    Parameters
    ----------
    pos
        Points, shape (N, 2), micrometres, x then y.
    edge_index
        Edges, shape (2, E), source then target.
    attributes
        Names out of `"length"`, `"dx"`, `"dy"`, `"angle"`, `"sin"`, `"cos"`; `"length"` always comes first.

    Returns
    -------
    Tensor
        Shape (E, D), float32; lengths in micrometres, angles in radians.

    Raises
    ------
    ValueError
        When a name is unknown, `edge_index` is not (2, E), or an edge names a point that does not exist.

    Examples
    --------
    >>> edge_attributes([[0, 0], [3, 4]], torch.tensor([[0], [1]]), ("length", "dx"))
    tensor([[5., 3.]])
    """
    points = as_points(pos)
    names = attribute_names(attributes)
    edges = torch.as_tensor(edge_index)
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        raise ValueError(
            f"edge_index must be integers of shape (2, E), found {edges.dtype} of {tuple(edges.shape)}."
        )
    ends = np.ascontiguousarray(edges.detach().cpu().numpy(), dtype=np.int64)
    if ends.size and not 0 <= ends.min() <= ends.max() < len(points):
        raise ValueError(
            f"edge_index must lie in 0…{len(points) - 1} for {len(points)} points, "
            f"found {ends.min()}…{ends.max()}."
        )
    return torch.from_numpy(attribute_array(points, ends, names))


def attribute_array(
    points: NDArray[np.float64], ends: NDArray[np.int64], names: Sequence[str]
) -> NDArray[np.float32]:
    """Fill the (E, D) array of checked attribute names for checked edges (names unknown here stay zero)."""
    out = np.zeros((ends.shape[1], len(names)), np.float32)
    codes = np.array([ATTRIBUTES.index(name) if name in ATTRIBUTES else -1 for name in names], np.int64)
    in_chunks(lambda low, high: _fill_attributes(points, ends, codes, out, low, high), ends.shape[1])
    return out


@njit(cache=True, nogil=True)
def _fill_attributes(
    points: NDArray[np.float64],
    ends: NDArray[np.int64],
    codes: NDArray[np.int64],
    out: NDArray[np.float32],
    low: int,
    high: int,
) -> None:
    """Write the attributes of the edges low…high; codes count along ATTRIBUTES."""
    for e in range(low, high):
        source, target = ends[0, e], ends[1, e]
        # adding 0.0 turns -0.0 into 0.0, so that equal heights never give an angle of -pi
        dx = points[target, 0] - points[source, 0] + 0.0
        dy = points[target, 1] - points[source, 1] + 0.0
        length = np.sqrt(dx * dx + dy * dy)
        out[e, 0] = length
        for column in range(1, codes.shape[0]):
            code = codes[column]
            if code == 1:
                out[e, column] = dx
            elif code == 2:
                out[e, column] = dy
            elif code == 3:
                out[e, column] = np.arctan2(dy, dx) if length > 0 else 0.0
            elif code == 4:
                out[e, column] = dy / length if length > 0 else 0.0
            elif code == 5:
                out[e, column] = dx / length if length > 0 else 1.0


def edges_from_pairs(
    pairs: ArrayLike | Tensor, pos: ArrayLike | Tensor, attributes: Sequence[str] = ("length",)
) -> tuple[Tensor, Tensor]:
    """Turn undirected pairs into a symmetric, sorted edge list with attributes.

    A counting sort by source and a short sort of every row: linear in the number of pairs for bounded degree.

    Parameters
    ----------
    pairs
        Undirected pairs, shape (M, 2), integers, each pair once and in any order.
    pos
        Points, shape (N, 2), micrometres, x then y.
    attributes
        Edge attributes by name, see `edge_attributes`.

    Returns
    -------
    edge_index : Tensor
        Shape (2, 2 M), int64: both directions, sorted by source and then by target.
    edge_attr : Tensor
        Shape (2 M, D), float32.

    Raises
    ------
    ValueError
        When `pairs` is not (M, 2), names a point that does not exist, joins a point to itself or repeats a
        pair.

    Examples
    --------
    >>> edge_index, edge_attr = edges_from_pairs([[0, 2], [0, 1]], [[0, 0], [1, 0], [0, 2]])
    >>> edge_index
    tensor([[0, 0, 1, 2],
            [1, 2, 0, 0]])
    >>> edge_attr.flatten()
    tensor([1., 2., 1., 2.])
    """
    points = as_points(pos)
    names = attribute_names(attributes)
    array = pairs.detach().cpu().numpy() if isinstance(pairs, Tensor) else np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(
            f"pairs must be integers of shape (M, 2), found {array.dtype} of shape {array.shape}."
        )
    undirected = np.ascontiguousarray(array, dtype=np.int64)
    pointer, bad = _row_pointer(undirected, len(points))
    if bad >= 0:
        first, second = undirected[bad]
        raise ValueError(
            f"pairs must join two different points of 0…{len(points) - 1}, "
            f"found ({first}, {second}) at index {bad}."
        )
    ends = np.empty((2, 2 * len(undirected)), np.int64)
    _scatter_pairs(undirected, pointer, ends[1])
    finish_rows(pointer, ends)
    repeated = _first_repeat(ends)
    if repeated >= 0:
        raise ValueError(f"pairs must be unique, found {tuple(ends[:, repeated].tolist())} more than once.")
    return torch.from_numpy(ends), torch.from_numpy(attribute_array(points, ends, names))


@njit(cache=True, nogil=True)
def _row_pointer(pairs: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], int]:
    """Count the edges of every source into a row pointer; also find the first impossible pair, or -1."""
    pointer = np.zeros(n + 1, np.int64)
    for m in range(pairs.shape[0]):
        i, j = pairs[m, 0], pairs[m, 1]
        if i == j or min(i, j) < 0 or max(i, j) >= n:
            return pointer, m
        pointer[i + 1] += 1
        pointer[j + 1] += 1
    for i in range(n):
        pointer[i + 1] += pointer[i]
    return pointer, -1


@njit(cache=True, nogil=True)
def _scatter_pairs(pairs: NDArray[np.int64], pointer: NDArray[np.int64], target: NDArray[np.int64]) -> None:
    """Write both ends of every pair into the row of the other end."""
    cursor = pointer[:-1].copy()
    for m in range(pairs.shape[0]):
        i, j = pairs[m, 0], pairs[m, 1]
        target[cursor[i]] = j
        cursor[i] += 1
        target[cursor[j]] = i
        cursor[j] += 1


@njit(cache=True, nogil=True)
def _first_repeat(ends: NDArray[np.int64]) -> int:
    """Return the position of the first edge that equals its predecessor, or -1."""
    for e in range(1, ends.shape[1]):
        if ends[1, e] == ends[1, e - 1] and ends[0, e] == ends[0, e - 1]:
            return e
    return -1


def finish_rows(pointer: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    """Sort the targets `ends[1]` within every row and write the sources `ends[0]`, in place."""
    in_chunks(lambda low, high: _finish_rows(pointer, ends, low, high), len(pointer) - 1)


@njit(cache=True, nogil=True)
def _finish_rows(pointer: NDArray[np.int64], ends: NDArray[np.int64], low: int, high: int) -> None:
    """Sort the rows low…high and write their sources."""
    for i in range(low, high):
        sort_range(ends[1], pointer[i], pointer[i + 1])
        for e in range(pointer[i], pointer[i + 1]):
            ends[0, e] = i


@njit(cache=True, nogil=True)
def sort_range(values: NDArray[np.int64], low: int, high: int) -> None:
    """Sort values[low:high] in place: insertion for short ranges, heap sort for long ones."""
    if high - low <= 48:
        for e in range(low + 1, high):
            value = values[e]
            f = e
            while f > low and values[f - 1] > value:
                values[f] = values[f - 1]
                f -= 1
            values[f] = value
        return
    size = high - low
    root = size // 2
    while size > 1:
        if root > 0:
            root -= 1
        else:
            size -= 1
            values[low], values[low + size] = values[low + size], values[low]
        parent = root
        value = values[low + parent]
        while 2 * parent + 1 < size:
            child = 2 * parent + 1
            if child + 1 < size and values[low + child + 1] > values[low + child]:
                child += 1
            if values[low + child] <= value:
                break
            values[low + parent] = values[low + child]
            parent = child
        values[low + parent] = value


def check_edge_count(count: float, how: str, advice: str) -> None:
    """Raise a ValueError when a graph would have more than MAX_EDGES directed edges."""
    if count > MAX_EDGES:
        raise ValueError(
            f"{how} would give about {count:.2g} directed edges ({20 * count / 1e9:.0f} GB), "
            f"more than the {MAX_EDGES} that histograph builds; {advice}"
        )


def in_chunks(work: Callable[[int, int], object], n: int) -> None:
    """Run `work(low, high)` over 0…n in pieces, in threads when n is large (work must release the GIL)."""
    workers = min(os.cpu_count() or 1, 8)
    if n <= _SMALL or workers == 1:
        work(0, n)
        return
    # more pieces than threads, so that a dense piece does not keep one thread busy alone
    cuts = np.linspace(0, n, 8 * workers + 1).astype(np.int64).tolist()
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, low, high) for low, high in pairwise(cuts)]:
            done.result()
