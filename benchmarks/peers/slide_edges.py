"""Edges among the patches of a slide, as two papers describe them and as their released code builds them.

Patch-GCN (Chen et al., "Whole Slide Images are 2D Point Clouds", MICCAI 2021) joins a patch with the 8 nearest in
space and, as *latent* edges, with the 8 of nearest features. Its notebook `WSI-Graph Construction.ipynb` fits the index
of the latent edges on features, but queries it with the coordinates of the patch. The index, HNSW of nmslib, takes a
query that is too short: it compares as many columns as the query has, in blocks of 16 where the features are a multiple
of 16 wide. So with features of 1024 columns nothing is compared, and every patch of a slide gets the same 8 neighbours,
a patch where the index begins and patches of like features (nmslib 2.1.2; users saw it too, issue 25 of that
repository). With features of another width the two coordinates are compared with the first two features.

WSI-HGNN (Chan et al., "Histopathology Whole Slide Image Analysis with Heterogeneous Graph Representation Learning",
CVPR 2023) joins the 8 nearest in space as well. `construct_graph/graph_constructor.py` fits and queries the index with
features; coordinates do not occur there. These edges are Patch-GCN's latent ones, as they were meant. Its kinds of
nodes and edges are left out here: they are made after the edges.

As released, an edge leads from a patch to those that it found, so that messages flow to these; that is so in all
variants here, and one thing differs at a time. Search is exact, and ties are broken by row.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

#: Columns that nmslib compares at once, where features are a multiple of it wide.
BLOCK = 16
#: Rows whose distances to all others are held at once.
_ROWS = 1024


def patch_gcn_edges(
    pos: ArrayLike | Tensor,
    x: ArrayLike | Tensor,
    k: int = 8,
    latent: Literal["features", "as released"] = "features",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Make the spatial and the latent edges of Patch-GCN.

    Parameters
    ----------
    pos : array-like
        (N, 2) places of the patches; as released, top-left corners in pixels of level 0.
    x : array-like
        (N, F) features of the patches.
    k : int
        Neighbours that a patch finds, below N.
    latent : {"features", "as released"}
        Latent edges lead to the patches of nearest features, or to what the released notebook finds.
    seed : int
        Draws the patch where the index begins, with "as released" and F a multiple of 16. nmslib does not say which.

    Returns
    -------
    spatial, latent : Tensor
        (2, N k) int64 each; column by column a patch, and one that it found.

    Raises
    ------
    ValueError
        If shapes do not match, `k` is not below N, or `latent` is unknown.

    Examples
    --------
    >>> pos, x = [[0, 0], [1, 0], [9, 0], [9, 1]], [[0.0, 0.0], [5.0, 0.0], [0.0, 1.0], [5.0, 1.0]]
    >>> spatial, latent = patch_gcn_edges(pos, x, k=1)
    >>> spatial[1].tolist(), latent[1].tolist()
    ([1, 0, 3, 2], [2, 3, 0, 1])
    >>> patch_gcn_edges(pos, x, k=1, latent="as released")[1][1].tolist()
    [2, 2, 3, 1]
    """
    places, features = _as_points(pos, x, k)
    if latent not in ("features", "as released"):
        raise ValueError(f'latent must be "features" or "as released"; found {latent!r}')
    found = _nearest(features, k) if latent == "features" else _queried_with_places(places, features, k, seed)
    return _edges(_nearest(places, k)), _edges(found)


def wsi_hgnn_edges(
    pos: ArrayLike | Tensor,
    x: ArrayLike | Tensor,
    k: int = 8,
    spatial: Literal["places", "as released"] = "places",
) -> Tensor:
    """Make the edges of WSI-HGNN.

    Parameters
    ----------
    pos, x, k
        As of `patch_gcn_edges`.
    spatial : {"places", "as released"}
        Edges lead to the nearest patches, or, as in the released code, to those of nearest features.

    Returns
    -------
    Tensor
        (2, N k) int64.

    Raises
    ------
    ValueError
        If shapes do not match, `k` is not below N, or `spatial` is unknown.

    Examples
    --------
    >>> pos, x = [[0, 0], [1, 0], [9, 0], [9, 1]], [[0.0], [5.0], [1.0], [6.0]]
    >>> wsi_hgnn_edges(pos, x, k=1)[1].tolist(), wsi_hgnn_edges(pos, x, k=1, spatial="as released")[1].tolist()
    ([1, 0, 3, 2], [2, 3, 0, 1])
    """
    places, features = _as_points(pos, x, k)
    if spatial not in ("places", "as released"):
        raise ValueError(f'spatial must be "places" or "as released"; found {spatial!r}')
    return _edges(_nearest(places if spatial == "places" else features, k))


def union(*parts: Tensor) -> Tensor:
    """Put sets of edges together, each edge once.

    Examples
    --------
    >>> union(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 0], [1, 2]]))
    tensor([[0, 0, 1],
            [1, 2, 0]])
    """
    return torch.unique(torch.cat(parts, dim=1), dim=1)


def shared(one: Tensor, other: Tensor) -> float:
    """Give the share of the edges of one set that are in another.

    Examples
    --------
    >>> shared(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 0], [1, 2]]))
    0.5
    """
    known = set(map(tuple, other.T.tolist()))
    edges = set(map(tuple, one.T.tolist()))
    return len(edges & known) / max(len(edges), 1)


def _as_points(pos: Any, x: Any, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    places, features = (np.asarray(values, dtype=np.float64) for values in (pos, x))
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"pos must be (N, 2), found shape {places.shape}")
    if features.ndim != 2 or len(features) != len(places):
        raise ValueError(
            f"x must have one row for each of {len(places)} patches, found shape {features.shape}"
        )
    if not 1 <= k < len(places):
        raise ValueError(
            f"k must be at least 1 and below the number of patches, {len(places)}; found {k}: choose another k"
        )
    return places, features


def _nearest(points: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Find the k nearest others of each point: (N, k)."""
    found = np.empty((len(points), k), dtype=np.int64)
    for start in range(0, len(points), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(points)))
        away = cdist(points[rows], points, "sqeuclidean")
        away[rows - start, rows] = np.inf
        found[rows] = np.argsort(away, axis=1, kind="stable")[:, :k]
    return found


def _queried_with_places(
    places: NDArray[np.float64], features: NDArray[np.float64], k: int, seed: int
) -> NDArray[np.int64]:
    """Find what an index of features gives for places: (N, k); the first of k + 1 is dropped unseen, as released."""
    n, width = features.shape
    if width % BLOCK == 0:
        first = int(np.random.default_rng(seed).integers(n))
        away = cdist(features[first : first + 1], features, "sqeuclidean")[0]
        away[first] = -1.0  # one with the same features does not come before it
        return np.tile(np.argsort(away, kind="stable")[1 : k + 1], (n, 1))
    if width < places.shape[1]:
        raise ValueError(f'x must have at least 2 columns with latent="as released", found {width}')
    found = np.empty((n, k), dtype=np.int64)
    for start in range(0, n, _ROWS):
        away = cdist(places[start : start + _ROWS], features[:, : places.shape[1]], "sqeuclidean")
        found[start : start + _ROWS] = np.argsort(away, axis=1, kind="stable")[:, 1 : k + 1]
    return found


def _edges(found: NDArray[np.int64]) -> Tensor:
    """Write the (N, k) patches that each found as (2, N k) edges."""
    source = np.repeat(np.arange(len(found)), found.shape[1])
    return torch.from_numpy(np.stack([source, found.ravel()]))
