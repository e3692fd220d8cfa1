"""Edges between neighbours on a regular grid with holes: patches and regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .points import as_points, attribute_names, edges_from_pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["grid_edges"]

_TOLERANCE = 0.01  # of the spacing
_HALF_NEIGHBOURS = {4: ((1, 0), (0, 1)), 8: ((1, 0), (0, 1), (1, 1), (-1, 1))}


def grid_edges(
    pos: ArrayLike | Tensor,
    spacing_um: float,
    neighbors: int = 8,
    attributes: Sequence[str] = ("length",),
) -> tuple[Tensor, Tensor]:
    """Join the points that are neighbours on a square lattice; the lattice may have holes.

    Points are put on the integer lattice `(column, row) = round((pos - origin) / spacing_um)`, where the
    origin is found from the points, and joined when their columns and rows differ by at most 1.

    Parameters
    ----------
    pos
        Points, shape (N, 2), micrometres, x then y, on a lattice to within 1 % of its spacing.
    spacing_um
        Distance from a point to the next one along an axis, micrometres.
    neighbors
        4 (left, right, above, below) or 8 (the diagonals too).
    attributes
        Edge attributes by name: `"length"` (always first), `"dx"`, `"dy"`, `"angle"`, `"sin"`, `"cos"`;
        see `histograph.graphs.points.edge_attributes`.

    Returns
    -------
    edge_index : Tensor
        Shape (2, E), int64: both directions of every edge, sorted by source and then target, no self loops.
    edge_attr : Tensor
        Shape (E, D), float32; lengths in micrometres.

    Raises
    ------
    ValueError
        When the points do not lie on such a lattice, two points share a place of it, `neighbors` is neither 4
        nor 8, the spacing is not positive, or `pos` is not finite or not (N, 2).

    Examples
    --------
    >>> edge_index, edge_attr = grid_edges([[64, 64], [192, 64], [192, 192]], spacing_um=128, neighbors=4)
    >>> edge_index
    tensor([[0, 1, 1, 2],
            [1, 0, 2, 1]])
    >>> edge_attr.flatten()
    tensor([128., 128., 128., 128.])
    """
    points = as_points(pos)
    names = attribute_names(attributes)
    spacing = float(spacing_um)
    if not (math.isfinite(spacing) and spacing > 0):
        raise ValueError(f"spacing_um must be positive and finite, found {spacing_um!r}.")
    if neighbors not in _HALF_NEIGHBOURS:
        raise ValueError(f"neighbors must be 4 or 8, found {neighbors!r}.")
    if len(points) == 0:
        return edges_from_pairs(np.empty((0, 2), np.int64), points, names)
    place = np.stack([_lattice(points[:, axis], spacing, "xy"[axis]) for axis in (0, 1)], axis=1)
    return edges_from_pairs(_lattice_pairs(place, neighbors), points, names)


def _lattice(values: NDArray[np.float64], spacing: float, axis: str) -> NDArray[np.int64]:
    """Return the lattice index of every coordinate, counted from the smallest."""
    steps = (values - values.min()) / spacing
    if steps.max() >= 2**31:
        raise ValueError(
            f"spacing_um={spacing:g} is too small for {axis} coordinates {np.ptp(values):g} apart."
        )
    # the smallest coordinate may itself be off by a rounding error, so the lattice is centred on all of them
    shift = np.median(steps - np.rint(steps))
    index = np.rint(steps - shift)
    off = np.abs(steps - shift - index)
    worst = int(off.argmax())
    if off[worst] > _TOLERANCE:
        gaps = np.diff(np.unique(values))
        found = (
            float(np.median(gaps[gaps > _TOLERANCE * spacing]))
            if (gaps > _TOLERANCE * spacing).any()
            else 0.0
        )
        raise ValueError(
            f"pos must lie on a lattice of spacing_um={spacing:g}: {axis}={values[worst]:g} at index "
            f"{worst} is "
            f"{off[worst] * spacing:g} off ({off[worst]:.1%} of the spacing, at most {_TOLERANCE:.0%} is "
            "allowed); "
            f"the usual step between {axis} coordinates is {found:g}."
        )
    return (index - index.min()).astype(np.int64)


def _lattice_pairs(place: NDArray[np.int64], neighbors: int) -> NDArray[np.int64]:
    """Return every pair of neighbouring lattice places once, as indices of points."""
    columns = int(place[:, 0].max()) + 3  # an empty column at both ends: no neighbours across the border
    key = place[:, 1] * columns + place[:, 0] + 1
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        first, second = order[same[0]], order[same[0] + 1]
        raise ValueError(
            f"pos must hold every lattice place at most once, found points {first} and {second} at the "
            "same one; "
            "drop duplicates first."
        )
    pairs = []
    for step_column, step_row in _HALF_NEIGHBOURS[neighbors]:
        wanted = ordered + step_row * columns + step_column
        at = np.searchsorted(ordered, wanted)
        hit = at < len(ordered)
        hit[hit] = ordered[at[hit]] == wanted[hit]
        pairs.append(np.stack([order[hit], order[at[hit]]], axis=1))
    return np.concatenate(pairs)
