"""Which entity lies in which: cells in superpixels and patches, patches in regions."""

import numpy as np
from scipy.spatial import cKDTree

from histograph.entities import Entities

# The raster of the parents is painted in squares of this many pixels, so that memory does not grow with the
# slide.
_TILE_PX = 4096


def parent_of(pos: np.ndarray, parents: Entities) -> np.ndarray:
    """Find the entity that each point lies in.

    Of parents with masks it is the one whose pixel of the raster lies under the point. Of equal squares
    without masks it is the one whose half-open box ``[x_min, x_max) x [y_min, y_max)`` holds the point;
    where patches overlap, the one whose centre is nearest (in the larger of dx and dy), then the one with
    the lower label.

    Parameters
    ----------
    pos : ndarray
        (N, 2) points in micrometres.
    parents : Entities
        M entities.

    Returns
    -------
    ndarray
        (N,) int64 row of `parents`, or -1 for a point that lies in none (never the last row).

    Examples
    --------
    >>> tissue = Entities.from_instance_map(np.array([[5, 5, 0], [0, 9, 9]]), mpp=1.0, kind="tissue")
    >>> parent_of(np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [-3.0, 0.0]]), tissue)
    array([ 0, -1,  1, -1])
    """
    if not len(pos) or not len(parents):
        return np.full(len(pos), -1, dtype=np.int64)
    sides = parents.bbox[:, 2:] - parents.bbox[:, :2]
    if parents.masks is None and np.allclose(sides, sides[0, 0], rtol=1e-6):
        return _in_squares(pos, parents)
    return _on_raster(pos, parents)


def _on_raster(pos: np.ndarray, parents: Entities) -> np.ndarray:
    """Look points up on the raster of the parents, tile by tile."""
    mpp = parents.mpp
    pixel = np.floor(pos / mpp).astype(np.int64)
    limit = np.ceil(parents.bbox[:, 2:].max(axis=0) / mpp).astype(np.int64)
    result = np.full(len(pos), -1, dtype=np.int64)
    inside = np.flatnonzero((pixel >= 0).all(axis=1) & (pixel < limit).all(axis=1))
    tile = pixel[inside] // _TILE_PX
    number = tile[:, 1] * (int(limit[0]) // _TILE_PX + 1) + tile[:, 0]
    for members in np.split(np.argsort(number, kind="stable"), np.flatnonzero(np.diff(np.sort(number))) + 1):
        if not len(members):
            continue
        rows = inside[members]
        low, high = pixel[rows].min(axis=0), pixel[rows].max(axis=0) + 1
        width, height = ((high - low) * mpp).tolist()
        labels = parents.instance_map((float(low[0] * mpp), float(low[1] * mpp), width, height))
        found = labels[pixel[rows, 1] - low[1], pixel[rows, 0] - low[0]]
        place = np.minimum(np.searchsorted(parents.label, found), len(parents) - 1)
        result[rows] = np.where(found > 0, place, -1)
    return result


def _in_squares(pos: np.ndarray, parents: Entities) -> np.ndarray:
    """Look points up among equal squares."""
    low, high = parents.bbox[:, :2], parents.bbox[:, 2:]
    centre = (low + high) / 2
    count = min(len(parents), 4)  # a point on a corner of the grid is equally near to four squares
    distance, row = cKDTree(centre).query(pos, k=list(range(1, count + 1)), p=np.inf)
    points = pos[:, None, :]
    holds = ((points >= low[row]) & (points < high[row])).all(axis=2)
    distance = np.where(holds, distance, np.inf)
    nearest = distance.min(axis=1, keepdims=True)
    candidates = np.where(holds & (distance <= nearest), row, len(parents))
    best = candidates.min(axis=1).astype(np.int64)
    return np.where(best < len(parents), best, -1)
