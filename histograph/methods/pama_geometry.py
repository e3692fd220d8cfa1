"""Where the anchors of a slide are, and in which distance and direction each patch lies from each of them.

All of it is a function of the positions alone. Distances are counted in shares of the slide's largest one, directions
in equal sectors, so neither changes with a shift or a scale; a quarter turn shifts every direction by a quarter of the
bins. The choice of anchors is the same for every order in which patches are stored and for every quarter turn.
"""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError, cKDTree
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..nn.anchor_attention import AnchorCodes

_KEPT = 4096  # slides whose anchors are remembered, a few kB each
_ITERATIONS = 10  # of k-means, as released
_SAME = 1e-6  # of the extent: positions that differ by less are one
_ON_GRID = 0.05  # of a step: how far positions may be from a grid
_SLACK = (
    4e-6  # of a bin: what lies on a border by construction shall fall on the same side however it is turned
)


@dataclass(frozen=True)
class _Places:
    """What the positions of a slide say about its anchors."""

    orders: list[NDArray[np.int64]]  # equally good orders of the rows; several only for a symmetric slide
    chosen: NDArray[np.int64]  # places of the anchors in such an order
    largest: float  # largest distance between two patches


def choose_anchors(
    pos: Tensor,
    patches_per_anchor: float = 144.0,
    num_anchors: int | None = None,
    x: Tensor | None = None,
    seed: int = 9,
) -> Tensor:
    """Choose the patches nearest to the centres of a k-means of the positions.

    k is ``floor(P / patches_per_anchor) + 1``, and never more than there are distinct positions.

    Parameters
    ----------
    pos : Tensor
        (P, 2) positions, in any unit.
    patches_per_anchor : float
        Patches for each anchor; not used with `num_anchors`.
    num_anchors : int, optional
        Number of centres.
    x : Tensor, optional
        (P, F) features. They only decide between orientations of a slide whose set of positions looks the same
        from several sides, such as a full square of patches.
    seed : int
        Of the k-means.

    Returns
    -------
    Tensor
        (K,) int64 rows, ascending, on the device of `pos`; at most k, for centres can share their nearest patch.

    Raises
    ------
    ValueError
        If there is no patch, a position is not finite, or a number is too small.

    References
    ----------
    PAMA, Wu et al., IEEE TMI 44(4), 2025; k and seed as released.

    Examples
    --------
    >>> import torch
    >>> row = torch.arange(9.0)
    >>> choose_anchors(torch.stack([row, 0 * row], dim=1), num_anchors=1).tolist()
    [4]
    """
    places = AnchorMemory(patches_per_anchor, num_anchors, seed).places(pos)
    return places_to_rows(places, x).to(pos.device)


def places_to_rows(places: _Places, x: Tensor | None = None) -> Tensor:
    """Give the rows of the anchors, ascending; features decide where positions alone cannot."""
    order = places.orders[0]
    if len(places.orders) > 1 and x is not None:
        table = x.detach().float().cpu().numpy()
        order = min(places.orders, key=lambda rows: tuple(table[rows].ravel().tolist()))
    return torch.from_numpy(np.unique(order[places.chosen]))


class AnchorMemory:
    """Anchors of slides, remembered by their positions, for a k-means takes longer than a training step.

    Parameters
    ----------
    patches_per_anchor : float
        As in :func:`choose_anchors`.
    num_anchors : int, optional
        As in :func:`choose_anchors`.
    seed : int
        As in :func:`choose_anchors`.

    Examples
    --------
    >>> memory = AnchorMemory(4.0)
    >>> memory.places(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).largest
    5.0
    """

    def __init__(
        self, patches_per_anchor: float = 144.0, num_anchors: int | None = None, seed: int = 9
    ) -> None:
        if not patches_per_anchor > 0:
            raise ValueError(f"patches_per_anchor must be above 0, found {patches_per_anchor}")
        if num_anchors is not None and num_anchors < 1:
            raise ValueError(f"num_anchors must be at least 1, or None; found {num_anchors}")
        self.patches_per_anchor, self.num_anchors, self.seed = patches_per_anchor, num_anchors, seed
        self._known: OrderedDict[bytes, _Places] = OrderedDict()

    def places(self, pos: Tensor) -> _Places:
        """Give the anchors of one slide with (P, 2) positions."""
        table = _checked(pos)
        key = hashlib.blake2b(table.tobytes(), digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
        else:
            count = self.num_anchors or math.floor(len(table) / self.patches_per_anchor) + 1
            self._known[key] = _find(table, count, self.seed)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[key]


def edge_codes(anchor_pos: Tensor, pos: Tensor, largest: float, codes: AnchorCodes) -> Tensor:
    r"""Give the code of each pair of an anchor and a patch.

    With :math:`\Delta` from anchor to patch, :math:`D` the largest distance of the slide, R + 1 distance bins and B
    direction bins,

    .. math:: r = \lfloor R |\Delta| / D \rfloor, \quad
              p = (\lfloor B \theta / 2 \pi \rfloor + B / 2) \bmod B, \quad
              \theta = \operatorname{atan2}(\Delta_x, \Delta_y)

    so that direction B / 2 begins downwards and bins follow each other counter-clockwise as the picture is seen.
    A patch at the place of the anchor has no direction and gets the code ``codes.here``.

    Parameters
    ----------
    anchor_pos : Tensor
        (K, 2) positions x, y.
    pos : Tensor
        (P, 2) positions in the same unit.
    largest : float
        Largest distance between two patches of the slide; 0 where all are at one place.
    codes : AnchorCodes
        Numbers of bins; ``codes.distance_bins`` is R + 1.

    Returns
    -------
    Tensor
        (K, P) int64, on the device of `pos`.

    References
    ----------
    PAMA, Wu et al., IEEE TMI 44(4), 2025; directions wrap, which the released code's do not.

    Examples
    --------
    >>> import torch
    >>> codes = AnchorCodes(65, 8)
    >>> pos = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -2.0]])
    >>> edge_codes(pos[:1], pos, 2.0, codes).tolist()  # here, below, right, above at the largest distance
    [[520, 260, 262, 512]]
    """
    dx, dy = (pos[:, i] - anchor_pos[:, i : i + 1] for i in (0, 1))
    distance = torch.hypot(dx, dy)
    # positions are rounded to their precision: differences carry that error, and so do bins at their borders
    rounding = torch.finfo(pos.dtype).eps * float(pos.abs().max()) if pos.numel() else 0.0
    steps, sectors = codes.distance_bins - 1, codes.direction_bins
    unit = max(largest, torch.finfo(pos.dtype).tiny) / max(steps, 1)
    ring = ((distance + 4 * rounding) / unit + _SLACK).floor().clamp(0, steps)
    angle = torch.atan2(dx, dy) + 4 * rounding / distance.clamp(min=torch.finfo(pos.dtype).tiny)
    sector = ((angle * (sectors / (2 * math.pi)) + _SLACK).floor() + sectors // 2) % sectors
    code = (ring * sectors + sector).long()
    return code.masked_fill_(distance <= 4 * rounding, codes.here)


def nearest_anchors(anchor_pos: Tensor, pos: Tensor, count: int) -> Tensor:
    """Mark the nearest anchors of each patch, with those that are as near as the last of them.

    Parameters
    ----------
    anchor_pos : Tensor
        (K, 2) positions.
    pos : Tensor
        (P, 2) positions.
    count : int
        Number of anchors r for each patch; all, if there are fewer.

    Returns
    -------
    Tensor
        (K, P) bool, with at least min(r, K) marks in each column.

    Examples
    --------
    >>> import torch
    >>> pos = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> nearest_anchors(pos[[0, 2]], pos, 1).tolist()
    [[True, True, False], [False, True, True]]
    """
    distance = torch.cdist(anchor_pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
    if count >= len(anchor_pos):
        return torch.ones_like(distance, dtype=torch.bool)
    rounding = 8 * torch.finfo(pos.dtype).eps * float(pos.abs().max())
    return distance <= distance.kthvalue(count, dim=0).values + rounding


def _checked(pos: Tensor) -> NDArray[np.float64]:
    """Give positions as an array, or say what is wrong with them."""
    if pos.dim() != 2 or pos.shape[1] != 2:
        raise ValueError(f"pos must have shape (P, 2), x and y of each patch; found {tuple(pos.shape)}")
    if pos.shape[0] == 0:
        raise ValueError("pos must hold at least one patch, found none; leave out slides without patches")
    table = pos.detach().to("cpu", torch.float64).numpy()
    wrong = ~np.isfinite(table).all(1)
    if wrong.any():
        raise ValueError(f"pos must be finite; found {table[wrong][0].tolist()} in row {int(wrong.argmax())}")
    return table


def _find(pos: NDArray[np.float64], count: int, seed: int) -> _Places:
    frame, orders = _canonical(_lattice(pos))
    distinct, first, weight = np.unique(frame, axis=0, return_index=True, return_counts=True)
    chosen = np.arange(len(distinct))
    if count < len(distinct):
        with threadpool_limits(1):  # threads would add up centres in another order, and decide ties otherwise
            fit = KMeans(count, n_init=1, max_iter=_ITERATIONS, random_state=seed).fit(
                distinct, sample_weight=weight
            )
        chosen = _nearest(fit.cluster_centers_, distinct)
    return _Places(orders, first[chosen], float(pdist(hull_corners(pos)).max()))


def _lattice(pos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give positions in whole numbers: steps of their grid, or where there is none, small parts of the extent."""
    shifted = pos - pos.min(0)
    extent = shifted.max()
    if extent == 0:
        return shifted
    gaps = np.concatenate([np.diff(np.sort(axis)) for axis in shifted.T])
    step = gaps[gaps > _SAME * extent].min()
    # the smallest gap carries the rounding of two numbers, and every row multiplies it
    step = extent / round(extent / step)
    if np.abs(shifted / step - np.rint(shifted / step)).max() > _ON_GRID:
        step = _SAME * extent
    return np.rint(shifted / step)


def _canonical(places: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Turn and sort whole numbers so that every quarter turn and every order of the rows gives the same table.

    Also gives the orders of the rows that lead to it: one, or several for a set that looks alike from several sides.
    """
    best: NDArray[np.float64] | None = None
    orders: list[NDArray[np.int64]] = []
    for _ in range(4):
        places = np.stack([places[:, 1], places[:, 0].max() - places[:, 0]], axis=1)
        order = np.lexsort(places.T)
        frame = places[order]
        ahead = 1.0 if best is None else next(iter((best - frame)[best != frame].tolist()), 0.0)
        if ahead > 0:
            best, orders = frame, []
        if ahead >= 0:
            orders.append(order)
    return cast(NDArray[np.float64], best), orders


def _nearest(centres: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give the place nearest to each centre, the first of equally near ones, each place once."""
    some = min(8, len(places))
    distance, row = cKDTree(places).query(centres, k=some)
    distance, row = distance.reshape(len(centres), some), row.reshape(len(centres), some)
    tied = distance <= distance[:, :1] + _SAME * (1 + distance[:, :1])
    return np.unique(np.where(tied, row, len(places)).min(1))


def hull_corners(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give places among which are the two that lie furthest apart.

    Parameters
    ----------
    places : array
        (P, 2).

    Returns
    -------
    array
        The corners of the convex hull; of places on one line, or fewer than three, the two ends.

    Examples
    --------
    >>> hull_corners(np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]])).tolist()
    [[0.0, 0.0], [3.0, 3.0]]
    """
    try:
        return places[ConvexHull(places).vertices]
    except (QhullError, ValueError):
        return places[np.lexsort(places.T)[[0, -1]]]
