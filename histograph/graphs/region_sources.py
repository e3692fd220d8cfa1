"""What the data set of regions asks of the place where regions come from, and which regions are neighbours."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.spatial import cKDTree
from torch_geometric.data import Data

# Regions with centres at most this many sides apart in x and in y are neighbours: the eight around on a grid, and
# those of grids that do not quite meet, as where each piece of tissue has its own.
_REACH = 1.25


@dataclass(frozen=True)
class SlideRegions:
    """The regions of one slide.

    Parameters
    ----------
    slide_id : str
        The slide.
    region_id : ndarray
        (R,) int64, the ids of its regions.
    pos : ndarray
        (R, 2) float32, their centres in micrometres; nan where unknown.
    edges : ndarray
        (2, E) int64, neighbours, both directions.
    count : ndarray
        (R,) int64, how many nodes each holds.

    Examples
    --------
    >>> SlideRegions("s", np.array([1]), np.zeros((1, 2)), np.zeros((2, 0), int), np.array([256])).slide_id
    's'
    """

    slide_id: str
    region_id: np.ndarray
    pos: np.ndarray
    edges: np.ndarray
    count: np.ndarray


class RegionSource(Protocol):
    """Where regions are read.

    Attributes
    ----------
    slides : list of SlideRegions
        What there is.
    feature_dim : int
        Width of the features.
    on_disk : bool
        Whether reading costs enough for what was read to be kept.
    """

    slides: list[SlideRegions]
    feature_dim: int
    on_disk: bool

    def read(self, slide: int, row: int) -> Data:
        """Give the graph of one region: ``x``, ``pos``, and as far as there are ``place``, ``id`` and edges."""
        ...


def near(centre: np.ndarray, side_um: float) -> np.ndarray:
    """Join the regions of a slide that are neighbours.

    Parameters
    ----------
    centre : ndarray
        (R, 2) centres in micrometres; those that are nan have no neighbours.
    side_um : float
        Side of a region in micrometres; centres up to 1.25 of it apart in x and in y are of neighbours.

    Returns
    -------
    ndarray
        (2, E) int64, both directions, sorted.

    Examples
    --------
    >>> near(np.array([[0.0, 0.0], [10.0, 10.0], [30.0, 10.0]]), 10.0)
    array([[0, 1],
           [1, 0]])
    """
    known = np.flatnonzero(np.isfinite(centre).all(1))
    pairs = np.zeros((0, 2), np.int64)
    if len(known) > 1:
        tree = cKDTree(centre[known].astype(np.float64))
        pairs = known[tree.query_pairs(_REACH * side_um, p=np.inf, output_type="ndarray")].reshape(-1, 2)
    both = np.concatenate([pairs, pairs[:, ::-1]]).T
    return both[:, np.lexsort((both[1], both[0]))]
