"""Which entities touch, strip by strip, so that the raster of a whole slide is never in memory at once."""

import math

import numpy as np

from histograph.entities import Entities
from histograph.graphs.contact import contact_edges

_STRIP_PX = 64_000_000
"""Pixels of the raster to a strip."""


def touching_pairs(
    entities: Entities, gap_um: float = 0.0, strip_px: int = _STRIP_PX
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of entities whose outlines meet or come within a gap, and the border that they share.

    Strips of the raster overlap by the reach of the gap, so that every pair is seen in one of them. Borders
    within an overlap are seen twice: those of the overlap alone are taken off again, ``Σ strips - Σ
    overlaps``.

    Parameters
    ----------
    entities : Entities
        N entities with masks or boxes.
    gap_um : float
        Widest gap in micrometres; 0 joins only entities that touch, corners included.
    strip_px : int
        Pixels to a strip: bounds the memory; the result does not depend on it.

    Returns
    -------
    pairs : ndarray
        (M, 2) int64 rows, each pair once, first < second, sorted.
    contact_um : ndarray
        (M,) float64 length of the shared border in micrometres; 0 across a gap or a corner.

    Examples
    --------
    >>> cells = Entities.from_instance_map(np.array([[7, 7, 0], [9, 9, 4]]), mpp=0.5)
    >>> touching_pairs(cells)[0].tolist(), touching_pairs(cells)[1].tolist()
    ([[0, 1], [0, 2], [1, 2]], [0.0, 0.5, 1.0])
    """
    if not len(entities):
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    mpp = entities.mpp
    low = np.floor(entities.bbox[:, :2].min(axis=0) / mpp + 1e-6).astype(np.int64)
    high = np.ceil(entities.bbox[:, 2:].max(axis=0) / mpp - 1e-6).astype(np.int64)
    reach = math.floor(gap_um / mpp) + 2
    step = max(strip_px // int(high[0] - low[0]), 4 * reach)
    keys, lengths = [], []
    for top in range(int(low[1]), int(high[1]), step):
        bottom = min(top + step + reach, int(high[1]))
        parts = [(top, bottom, 1.0)]
        if top + step < high[1]:
            parts.append((top + step, bottom, -1.0))
        for first, last, sign in parts:
            window = (low[0] * mpp, first * mpp, (high[0] - low[0]) * mpp, (last - first) * mpp)
            key, length = _pairs_in(entities, window, gap_um)
            keys.append(key)
            lengths.append(sign * length)
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate(lengths), minlength=len(key))
    pairs = np.stack(np.divmod(key, len(entities)), axis=1)
    return pairs, np.maximum(total.round(9), 0.0)


def _pairs_in(
    entities: Entities, window_um: tuple[float, float, float, float], gap_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in one window as ``first * N + second``, and the borders that they share in it."""
    labels: np.ndarray = entities.instance_map(window_um)
    if not labels.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    ends, attributes = contact_edges(
        labels, mpp=entities.mpp, gap_um=gap_um, attributes=("length", "contact_um")
    )
    once = (ends[0] < ends[1]).numpy()
    present = np.unique(labels)
    row = np.searchsorted(entities.label, present[present > 0])
    first, second = row[ends.numpy()[:, once]]
    return first * len(entities) + second, attributes.numpy()[once, 1].astype(np.float64)
