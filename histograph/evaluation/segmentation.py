"""Scores of a segmentation: found objects against true ones, on one image and over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from .bootstrap import bootstrap_interval

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
# Pairs of objects of one table; a table is faster than a sparse matrix, which needs less memory.
_DENSE = 250_000


@dataclass(frozen=True)
class SegmentationScores:
    """How well found objects agree with true ones; a score whose formula is 0 / 0 is NaN.

    Parameters
    ----------
    n_truth, n_predicted : int
        Number of objects.
    thresholds : tuple of float
        The T overlaps (IoU) above which a pair counts as a match.
    matched : tuple of int
        Matched pairs, one for each threshold.
    precision, recall, f1 : tuple of float
        ``matched / n_predicted``, ``matched / n_truth`` and ``2 matched / (n_predicted + n_truth)``.
    aji : float
        Aggregated Jaccard index: every true object with the found one of largest IoU, which others may have too.
    aji_plus : float
        The same with each found object in one pair only, the pairs of largest total IoU.
    dq, sq, pq : float
        Panoptic quality ``pq = dq * sq``: F1 at 0.5, and the mean IoU of the pairs that matched there.
    dice : float
        ``2 |A ∩ B| / (|A| + |B|)`` of foreground and foreground, whatever the objects.
    count_error : float
        ``(n_predicted - n_truth) / n_truth``.

    Examples
    --------
    >>> segmentation_scores([[1, 1, 0]], [[7, 7, 0]]).pq
    1.0
    """

    n_truth: int
    n_predicted: int
    thresholds: tuple[float, ...]
    matched: tuple[int, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    aji: float
    aji_plus: float
    dq: float
    sq: float
    pq: float
    dice: float
    count_error: float

    def row(self) -> dict[str, float]:
        """Return the scores by name, one number a name, for a table with a row for each image.

        Returns
        -------
        dict of str to float
            ``f1@0.5`` and so on for what has a threshold; ``abs_count_error`` beside ``count_error``.

        Examples
        --------
        >>> segmentation_scores([[1, 1, 0]], [[7, 7, 0]], thresholds=(0.5,)).row()["f1@0.5"]
        1.0
        """
        row: dict[str, float] = {}
        for name, value in asdict(self).items():
            if name in ("f1", "precision", "recall"):
                row |= {f"{name}@{t:g}": part for t, part in zip(self.thresholds, value)}
            elif name not in ("thresholds", "matched"):
                row[name] = value
        return row | {"abs_count_error": abs(self.count_error)}


def segmentation_scores(
    truth: Any, predicted: Any, thresholds: Sequence[float] = THRESHOLDS, mpp: float | None = None
) -> SegmentationScores:
    """Score found objects against true ones.

    Two objects match at t if their IoU, ``|A ∩ B| / |A ∪ B|``, is above t. From 0.5 on an object has one match at
    most; below, the pairs are chosen so that there are as many as possible. The work is linear in the pixels; labels
    may be any whole numbers.

    Parameters
    ----------
    truth, predicted : array_like, (H, W) integer, or Entities
        Label of each pixel, 0 is background. Entities are drawn on the raster of the other one, or, if both are
        Entities, on that of the truth: a pixel holds what lies under its centre.
    thresholds : sequence of float
        Overlaps, 0 … 1.
    mpp : float, optional
        Pixel size in µm of the one that is an array, if the other is Entities. Default: that of the Entities.

    Returns
    -------
    SegmentationScores

    Raises
    ------
    TypeError
        If an array does not hold integers.
    ValueError
        If shapes differ, a label is negative, or a threshold is out of range.

    References
    ----------
    N. Kumar et al., A dataset and a technique for generalized nuclear segmentation, IEEE Trans. Med. Imaging 36
    (2017) 1550-1560 (AJI). S. Graham et al., HoVer-Net, Med. Image Anal. 58 (2019) 101563 (AJI+). A. Kirillov et
    al., Panoptic segmentation, CVPR 2019 (PQ).

    Examples
    --------
    >>> truth = np.array([[1, 1, 1, 0, 2, 2]])
    >>> found = np.array([[5, 5, 0, 0, 9, 9]])
    >>> scores = segmentation_scores(truth, found, thresholds=(0.5, 0.9))
    >>> scores.f1, scores.aji, scores.dice
    ((1.0, 0.5), 0.8, 0.888...)
    """
    thresholds = tuple(float(t) for t in thresholds)
    if not thresholds or not all(0 <= t < 1 for t in thresholds):
        raise ValueError(f"thresholds: expected numbers from 0 to below 1, found {thresholds}")
    pair = _Overlap(*_maps(truth, predicted, mpp))
    n, m = len(pair.truth_area), len(pair.predicted_area)
    matched = tuple(int(pair.match(t).sum()) for t in thresholds)
    iou = pair.iou[pair.match(0.5)]
    return SegmentationScores(
        n_truth=n,
        n_predicted=m,
        thresholds=thresholds,
        matched=matched,
        precision=tuple(_ratio(k, m) for k in matched),
        recall=tuple(_ratio(k, n) for k in matched),
        f1=tuple(_ratio(2 * k, n + m) for k in matched),
        aji=pair.jaccard(pair.best()),
        aji_plus=pair.jaccard(pair.match(0.0, most=False)),
        dq=_ratio(2 * len(iou), n + m),
        sq=_ratio(float(iou.sum()), len(iou)),
        pq=_ratio(2 * float(iou.sum()), n + m),
        dice=_ratio(2 * int(pair.shared.sum()), int(pair.truth_area.sum() + pair.predicted_area.sum())),
        count_error=_ratio(m - n, n),
    )


def segmentation_table(
    scores: Sequence[SegmentationScores],
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Average scores over images, with intervals by resampling the images.

    Parameters
    ----------
    scores : sequence of SegmentationScores
        One for each of the n images, all with the same thresholds.
    groups : array_like, (n,), optional
        Patient or slide of each image; those of one group are drawn together.
    n_boot, confidence, seed
        As of `bootstrap_interval`.

    Returns
    -------
    DataFrame
        A row for each name of `SegmentationScores.row`: ``mean``, ``low``, ``high`` and ``images``, the number of
        images of which the score exists; the others are left out.

    Raises
    ------
    ValueError
        If there is no image, the thresholds differ, or as `bootstrap_interval` does.

    Examples
    --------
    >>> images = [segmentation_scores([[1, 1, 0]], [[2, 2, k]], thresholds=(0.5,)) for k in (0, 3)]
    >>> segmentation_table(images).loc["f1@0.5", ["mean", "low", "high"]].round(3).tolist()
    [0.833, 0.667, 1.0]
    """
    if not scores:
        raise ValueError("scores: expected those of at least one image, found none")
    if len({one.thresholds for one in scores}) > 1:
        raise ValueError("scores: expected the same thresholds for all images; score them again")
    group = np.arange(len(scores)) if groups is None else np.asarray(groups)
    if group.shape != (len(scores),):
        raise ValueError(f"groups: expected one for each of {len(scores)} images, found shape {group.shape}")
    images = pd.DataFrame([one.row() for one in scores])
    table = {}
    for name in images:
        value = images[name].to_numpy(np.float64)
        exists = np.isfinite(value)
        interval = (np.nan,) * 3
        if exists.any():
            interval = bootstrap_interval(
                np.mean,
                value[exists],
                groups=group[exists],
                n_boot=n_boot,
                confidence=confidence,
                seed=seed,
            )
        table[name] = [*interval, int(exists.sum())]
    columns = ["mean", "low", "high", "images"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).astype({"images": int})


class _Overlap:
    """Areas of the objects of two maps, and the pairs of objects that share pixels."""

    def __init__(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        a, b = truth.ravel(), predicted.ravel()
        # Runs of pixels with one pair of labels: from here on these are counted, which are far fewer.
        new = np.empty(len(a), np.bool_)
        new[:1] = True
        np.not_equal(a[1:], a[:-1], out=new[1:])
        new[1:] |= b[1:] != b[:-1]
        start = np.flatnonzero(new)
        length = np.diff(start, append=len(a))
        i, n = _numbered(a[start])
        j, m = _numbered(b[start])
        counts = csr_matrix((length, (i, j)), (n, m))
        self.truth_area = np.asarray(counts.sum(axis=1)).ravel()[1:]
        self.predicted_area = np.asarray(counts.sum(axis=0)).ravel()[1:]
        pairs = counts[1:, 1:].tocoo()
        self.truth, self.predicted, self.shared = pairs.row, pairs.col, pairs.data
        self.union = self.truth_area[self.truth] + self.predicted_area[self.predicted] - self.shared
        self.iou = self.shared / self.union

    def best(self) -> NDArray[np.int64]:
        """Return for each true object the pair of largest IoU, if it has any."""
        order = np.lexsort((self.predicted, -self.iou, self.truth))
        _, first = np.unique(self.truth[order], return_index=True)
        return order[first]

    def match(self, threshold: float, most: bool = True) -> NDArray[np.bool_]:
        """Return which pairs match: each object once, as many pairs as possible or those of largest total IoU."""
        allowed = self.iou > threshold
        if threshold >= 0.5:
            return allowed  # more than half of the union: no other can have that
        at = np.flatnonzero(allowed)
        # At most a whole is added to all of an image's overlaps, so that with `most` the number counts first.
        worth = 1 + self.iou[at] / (len(at) + 1) if most else self.iou[at]
        return np.isin(np.arange(len(allowed)), at[_assign(self.truth[at], self.predicted[at], worth)])

    def jaccard(self, pairs: NDArray[Any]) -> float:
        """Return shared pixels of the pairs over their union and all objects that are in none."""
        alone = 0
        for area, number in ((self.truth_area, self.truth), (self.predicted_area, self.predicted)):
            free = np.ones(len(area), np.bool_)
            free[number[pairs]] = False
            alone += int(area[free].sum())
        return _ratio(int(self.shared[pairs].sum()), int(self.union[pairs].sum()) + alone)


def _numbered(label: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return labels as 0, 1, … in ascending order, 0 for the background, and how many there are with it."""
    if not len(label) or label.max() > 8 * len(label) + 65_536:
        found, number = np.unique(np.append(label, 0), return_inverse=True)
        return number[:-1], len(found)
    # Labels that are no larger than the image need no sorting.
    used = np.zeros(int(label.max()) + 1, np.bool_)
    used[label] = True
    used[0] = True
    return (np.cumsum(used) - 1)[label], int(used.sum())


def _assign(row: NDArray[Any], col: NDArray[Any], worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the positions of the pairs of largest total worth in which no row and no column comes twice."""
    if not len(row):
        return np.zeros(0, np.int64)
    _, row = np.unique(row, return_inverse=True)
    _, col = np.unique(col, return_inverse=True)
    n, m = row.max() + 1, col.max() + 1
    # Objects that no chain of pairs connects are matched apart: their number alone would make it slow.
    part = connected_components(csr_matrix((worth, (row, n + col)), (n + m, n + m)), directed=False)[1]
    order = np.lexsort((-worth, part[row]))
    starts = np.flatnonzero(np.diff(part[row][order], prepend=-1))
    rows = np.bincount(part[:n])
    cols = np.bincount(part[n:], minlength=len(rows))
    chosen = [order[starts][(rows == 1) | (cols == 1)]]
    for k in np.flatnonzero((rows > 1) & (cols > 1)):
        pairs = order[starts[k] : starts[k + 1] if k + 1 < len(starts) else len(order)]
        chosen.append(pairs[_assign_connected(row[pairs], col[pairs], worth[pairs])])
    return np.concatenate(chosen)


def _assign_connected(row: NDArray[Any], col: NDArray[Any], worth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of some pairs are in the matching of largest total worth, at most 2 a pair."""
    _, row = np.unique(row, return_inverse=True)
    _, col = np.unique(col, return_inverse=True)
    n, m = row.max() + 1, col.max() + 1
    if n * m <= _DENSE:
        table = np.zeros((n, m))
        table[row, col] = worth
        best = np.full(n, -1)
        rows, cols = linear_sum_assignment(table, maximize=True)
        best[rows] = cols
        return best[row] == col
    # Each row may also take a column of its own that is worth nothing. The costs are 3 - worth, because the
    # solver takes 0 for "no pair".
    cost = np.concatenate([3 - worth, np.full(n, 3.0)])
    graph = csr_matrix((cost, (np.append(row, np.arange(n)), np.append(col, m + np.arange(n)))))
    return min_weight_full_bipartite_matching(graph)[1][row] == col


def _ratio(part: float, whole: float) -> float:
    """Return part / whole; NaN where there is nothing to divide by."""
    return part / whole if whole else float("nan")


def _maps(truth: Any, predicted: Any, mpp: float | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both as instance maps on one raster."""
    drawn = [callable(getattr(one, "instance_map", None)) for one in (truth, predicted)]
    if mpp is not None and sum(drawn) != 1:
        raise ValueError("mpp: only of an array, if the other one is Entities; leave it out")
    if all(drawn):
        ends = [one.bbox[:, 2:] for one in (truth, predicted)]
        ends += [np.reshape(one.extent_um or (0.0, 0.0), (1, 2)) for one in (truth, predicted)]
        cols, rows = np.ceil(np.concatenate(ends).max(axis=0) / truth.mpp - 1e-6).astype(int).tolist()
        maps = [on_raster(one, (rows, cols), truth.mpp) for one in (truth, predicted)]
    elif any(drawn):
        at = drawn.index(True)
        cells, other = (truth, predicted) if at == 0 else (predicted, truth)
        array = _checked("predicted" if at == 0 else "truth", other)
        maps = [array, on_raster(cells, array.shape, cells.mpp if mpp is None else mpp)]
        maps = maps[::-1] if at == 0 else maps
    else:
        maps = [_checked("truth", truth), _checked("predicted", predicted)]
    if maps[0].shape != maps[1].shape:
        raise ValueError(
            f"truth, predicted: expected instance maps of one shape, found {maps[0].shape} and {maps[1].shape}; "
            "bring them to one pixel size, or give Entities and mpp"
        )
    return maps[0], maps[1]


def on_raster(entities: Any, shape: tuple[int, int], mpp: float) -> NDArray[Any]:
    """Draw Entities on a raster of another pixel size.

    Pixel (r, c) holds what lies under its centre, ``((c + 0.5) mpp, (r + 0.5) mpp)`` µm.

    Parameters
    ----------
    entities : Entities
        Objects.
    shape : tuple of int
        Rows and columns of the raster, whose corner is the origin of the canvas.
    mpp : float
        Its pixel size in µm.

    Returns
    -------
    ndarray, (rows, columns) int32 or int64
        Label of each pixel, 0 where there is none.

    Raises
    ------
    ValueError
        If an object lies beyond the raster.

    Examples
    --------
    >>> from histograph.entities import from_instance_map
    >>> on_raster(from_instance_map([[4, 0]], mpp=0.5), (2, 4), 0.25)
    array([[4, 4, 0, 0],
           [4, 4, 0, 0]], dtype=int32)
    """
    if not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp: expected a positive number of µm per pixel, found {mpp}")
    own = entities.mpp
    width, height = (entities.bbox[:, 2:].max(axis=0) if len(entities) else np.zeros(2)).tolist()
    # An object may end up to half a pixel of either raster beyond the last one.
    if width > shape[1] * mpp + (own + mpp) / 2 or height > shape[0] * mpp + (own + mpp) / 2:
        raise ValueError(
            f"entities reach {width:g} x {height:g} µm, the instance map {shape[1] * mpp:g} x {shape[0] * mpp:g}: "
            "is mpp the pixel size of the instance map?"
        )
    # A little is added, so that a centre on an edge of the other raster always falls to the same side.
    rows, cols = (np.floor((np.arange(n) + 0.5) * (mpp / own) + 1e-6).astype(np.int64) for n in shape)
    size = [(part[-1] + 1) * own if len(part) else 0.0 for part in (rows, cols)]
    drawn: NDArray[Any] = entities.instance_map((0.0, 0.0, size[1], size[0]))
    return drawn[np.ix_(rows, cols)]


def _checked(name: str, instance_map: ArrayLike) -> NDArray[Any]:
    """Check an instance map that is an array."""
    labelled = np.asarray(instance_map)
    if labelled.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: expected integers, found {labelled.dtype}; label a mask first, for example with "
            "skimage.measure.label"
        )
    if labelled.ndim != 2:
        raise ValueError(f"{name}: expected two axes (row, column), found shape {labelled.shape}")
    if labelled.size and labelled.min() < 0:
        raise ValueError(f"{name}: expected labels >= 0, found {labelled.min()}; use 0 for background")
    return labelled
