"""Edges between the neighbours of the Delaunay triangulation of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .points import ATTRIBUTES, _fill_attributes, as_points, attribute_names, in_chunks, sort_range
from .triangulate import NEXT, ORIGIN, build_mesh

__all__ = ["delaunay_edges"]


def delaunay_edges(
    pos: ArrayLike | Tensor, max_length_um: float | None = None, attributes: Sequence[str] = ("length",)
) -> tuple[Tensor, Tensor]:
    """Join points that share an edge of their Delaunay triangulation.

    Two points are joined when some circle through both holds no other point. Every distinct point takes part,
    however tight the cluster or far the origin, and the result does not depend on the order of the points:

    - collinear points form the path along their line, two points one edge, fewer none;
    - four or more cocircular points (grids) have several Delaunay triangulations, of which one is taken;
    - of coincident points the first has the Delaunay edges, and each other is joined to it by an edge of length 0.

    Parameters
    ----------
    pos
        Points, shape (N, 2), micrometres, x then y; within ±1e70.
    max_length_um
        Leave out longer edges, in micrometres; None keeps all.
    attributes
        Edge attributes by name, out of ``"length"``, ``"dx"``, ``"dy"``, ``"angle"``, ``"sin"``, ``"cos"``;
        ``"length"`` always comes first.

    Returns
    -------
    edge_index : Tensor
        Shape (2, E), int64: both directions, sorted by source and then by target.
    edge_attr : Tensor
        Shape (E, D), float32; the first column is the length in micrometres.

    Raises
    ------
    TypeError
        When `pos` does not hold real numbers.
    ValueError
        When `pos` is not (N, 2), not finite or out of range, `max_length_um` is not positive, or an attribute is
        unknown.

    References
    ----------
    B. Delaunay, "Sur la sphère vide", Bulletin de l'Académie des Sciences de l'URSS 6, 793-800, 1934.

    Examples
    --------
    >>> edge_index, edge_attr = delaunay_edges([[0, 0], [3, 0], [0, 4]])
    >>> edge_index
    tensor([[0, 0, 1, 1, 2, 2],
            [1, 2, 0, 2, 0, 1]])
    >>> edge_attr.flatten()
    tensor([3., 4., 3., 5., 4., 5.])
    >>> delaunay_edges([[0, 0], [3, 0], [0, 4]], max_length_um=4)[0]
    tensor([[0, 0, 1, 2],
            [1, 2, 0, 0]])
    """
    points = as_points(pos)
    names = attribute_names(attributes)
    if max_length_um is not None and not max_length_um > 0:
        raise ValueError(f"max_length_um must be positive, or None to keep all edges, found {max_length_um}.")
    limit = np.inf if max_length_um is None else float(max_length_um)
    mesh = build_mesh(points)
    representative = mesh.representative
    exit_, degree = _degrees(mesh.points, mesh.edges, limit)
    copies = np.diff(mesh.start) - 1
    pointer = np.zeros(len(points) + 1, np.int64)
    pointer[mesh.order + 1] = 1  # a copy has one edge, to its representative
    pointer[representative + 1] = degree + copies
    np.cumsum(pointer, out=pointer)
    ends = np.empty((2, pointer[-1]), np.int64)
    values = np.empty((pointer[-1], len(names)), np.float32)
    codes = np.array([ATTRIBUTES.index(name) for name in names])

    def fill(low: int, high: int) -> None:
        _fill_rows(
            mesh.edges, mesh.order, mesh.start, exit_, limit, points, pointer, codes, ends, values, low, high
        )

    in_chunks(fill, len(mesh.points))
    return torch.from_numpy(ends), torch.from_numpy(values)


@njit(cache=True, nogil=True)
def _degrees(
    points: NDArray[np.float64], edges: NDArray[np.int32], limit: float
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Any half-edge that leaves each vertex (-1 for none), and how many that are no longer than the limit."""
    exit_ = np.full(points.shape[0], -1, np.int32)
    degree = np.zeros(points.shape[0], np.int64)
    for e in range(edges.shape[0]):
        a, b = edges[e, ORIGIN], edges[e ^ 1, ORIGIN]
        if a >= 0 and a != b:  # neither free nor the loop of a lone point
            exit_[a] = e
            degree[a] += _distance(points, a, b) <= limit
    return exit_, degree


@njit(cache=True, nogil=True)
def _fill_rows(edges, order, start, exit_, limit, points, pointer, codes, ends, values, low, high):
    """Write the edges of the vertices low…high: walk around each, sort what was met, compute the attributes.

    Vertices come in Morton order, so that all of this stays in cache however the input is ordered.
    """
    for v in range(low, high):
        source = order[start[v]]
        row = used = pointer[source]
        e = exit_[v]
        while e >= 0:
            target = order[start[edges[e ^ 1, ORIGIN]]]
            if _distance(points, source, target) <= limit:
                ends[1, used] = target
                used += 1
            e = edges[e, NEXT]
            if e == exit_[v]:
                break
        for k in range(start[v] + 1, start[v + 1]):
            copy, place = order[k], pointer[order[k]]
            ends[1, used] = copy
            used += 1
            ends[0, place], ends[1, place] = copy, source
            _fill_attributes(points, ends, codes, values, place, place + 1)
        sort_range(ends[1], row, used)
        ends[0, row:used] = source
        _fill_attributes(points, ends, codes, values, row, used)


@njit(cache=True, nogil=True)
def _distance(points: NDArray[np.float64], a: int, b: int) -> float:
    """Return the length of the edge between two points, as `edge_attributes` computes it."""
    dx, dy = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
    return np.sqrt(dx * dx + dy * dy)
