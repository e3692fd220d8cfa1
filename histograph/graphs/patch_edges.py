"""Edges between neighbouring patches, also where the patches of a slide lie on more than one lattice."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree

from histograph.graphs.grid import grid_edges
from histograph.graphs.points import edge_attributes, edges_from_pairs

# Half of the share of a step that grid_edges allows: it measures from the middle, here it is from the edge.
_TOLERANCE = 0.005


def patch_edges(
    corner: np.ndarray, step: np.ndarray, pos: torch.Tensor, attributes: Sequence[str] = ("length",)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join each patch with those less than one and a half steps away along both axes.

    On one lattice these are the eight neighbours, and `histograph.graphs.grid_edges` finds them. CLAM starts
    a lattice of its own in every piece of tissue, and coordinates may be rounded to pixels or come twice: the
    rule holds there too. Patches at the same position are joined by an edge of length 0.

    Parameters
    ----------
    corner : ndarray
        (N, 2) top-left corners, in any unit.
    step : ndarray
        (2,) distance from one patch to the next along x and y, in the same unit.
    pos : Tensor
        (N, 2) centres in micrometres, from which the attributes are computed.
    attributes : sequence of str
        As of `grid_edges`.

    Returns
    -------
    edge_index : Tensor
        (2, E) int64: both directions of every edge, sorted by source, then target.
    edge_attr : Tensor
        (E, D) float32; the first column is the length in micrometres.

    Examples
    --------
    >>> corner = np.array([[0.0, 0.0], [8.0, 8.0], [24.0, 8.0], [3.0, 19.0]])
    >>> patch_edges(corner, np.array([8.0, 8.0]), torch.from_numpy(corner).float() * 0.5)[0]
    tensor([[0, 1, 1, 3],
            [1, 0, 3, 1]])
    """
    places = (corner - corner.min(axis=0)) / step if len(corner) else corner
    if is_lattice(places):
        edge_index, _ = grid_edges(places, spacing_um=1.0)
        return edge_index, edge_attributes(pos, edge_index, attributes)
    reach = np.nextafter(1.5, 0)  # less than, not at most
    pairs = cKDTree(places).query_pairs(reach, p=np.inf, output_type="ndarray").astype(np.int64)
    return edges_from_pairs(np.sort(pairs, axis=1), pos, attributes)


def is_lattice(places: np.ndarray) -> bool:
    """Tell whether points lie on one lattice of spacing 1, each on a place of its own.

    Parameters
    ----------
    places : ndarray
        (N, 2) positions in steps from the smallest.

    Returns
    -------
    bool
        To within 0.5 % of a step.

    Examples
    --------
    >>> is_lattice(np.array([[0.0, 0.0], [2.0, 1.001]])), is_lattice(np.array([[0.0, 0.0], [2.0, 1.2]]))
    (True, False)
    """
    index = np.rint(places)
    if len(places) and np.abs(places - index).max() > _TOLERANCE:
        return False
    return len(np.unique(index, axis=0)) == len(places)
