"""What the released PAMA is given: a grid of patches, bins of pairs, and slides cut and padded to one size.

The released loader keeps the first 2,048 patches and the first 128 anchors of a slide and fills the rest with zeros;
the network sees that padding. Distances are counted in shares of the largest one among all patches, those cut off too.
"""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from .pama_geometry import hull_corners
from .pama_released_layers import DIRECTIONS

MAX_PATCHES, MAX_ANCHORS = 2048, 128
_INTERVALS = 64
_SEED, _STARTS, _ITERATIONS = 9, 10, 10  # of the released k-means
_KEPT = 4096  # slides whose anchors are remembered
_ROUNDING = 1e-6  # of the largest coordinate: what single precision may make of equal positions
_SAME_STEP = 1.25  # gaps of one step differ by less than this factor
_SQUARE = 1.1  # steps of rows and columns may differ by this factor, for pixels are not quite square
_ON_GRID = 0.1  # of a step: how far positions may be from the grid


@dataclass(frozen=True)
class ReleasedSlides:
    """B slides as tensors of one size, as the released loader hands them over.

    Attributes
    ----------
    feat : Tensor
        (B, L, C) features of patches, 0 in padding.
    distance, direction : Tensor
        (B, K, L) int64 bins of pairs of anchor and patch, 0 .. 64 and 0 .. 7, 0 in padding.
    token_mask, anchor_mask : Tensor
        (B, L, 1) and (B, K, 1), 1 for what is real.

    Raises
    ------
    ValueError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import torch
    >>> bins = torch.zeros(1, 2, 5, dtype=torch.long)
    >>> slides = ReleasedSlides(torch.randn(1, 5, 3), bins, bins, torch.ones(1, 5, 1), torch.ones(1, 2, 1))
    >>> slides.allowed.shape
    torch.Size([1, 2, 5])
    """

    feat: Tensor
    distance: Tensor
    direction: Tensor
    token_mask: Tensor
    anchor_mask: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.feat.dim() != 3 or self.distance.dim() != 3:
            raise ValueError(
                "feat must be (B, L, C) and distance (B, K, L), found "
                f"{tuple(self.feat.shape)} and {tuple(self.distance.shape)}"
            )
        size, length, anchors = *self.feat.shape[:2], self.distance.shape[1]
        wanted = {
            "distance": (size, anchors, length),
            "direction": (size, anchors, length),
            "token_mask": (size, length, 1),
            "anchor_mask": (size, anchors, 1),
        }
        for name, shape in wanted.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(
                    f"{name} must have shape {shape} for B, L and K of the others, found {found}"
                )

    @property
    def allowed(self) -> Tensor:
        """(B, K, L) bool, True where anchor and patch are real."""
        return self.anchor_mask.bool() & self.token_mask.bool().mT


def grid_places(pos: Tensor) -> Tensor:
    """Give the row and column of each patch on the grid that the positions lie on.

    The step is the smallest gap between coordinates, that of rows and that of columns each by itself where they agree
    within 10 %. Positions that are not on a grid, further from it than a tenth of a step, are given in steps without
    rounding: the network only reads shares of distances and angles, which need no grid. With one, bins at the border of
    two are exact.

    Parameters
    ----------
    pos : Tensor
        (P, 2) positions x, y in any unit.

    Returns
    -------
    Tensor
        (P, 2) float64 row and column, counted from the origin of the positions; whole numbers on a grid. Bins do not
        depend on the origin, but ties in the released k-means do.

    Examples
    --------
    >>> import torch
    >>> grid_places(torch.tensor([[64.0, 64.0], [192.0, 64.0], [64.0, 320.0]])).tolist()
    [[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]
    """
    places = pos.detach().double().flip(1)
    first, least = places.amin(0), _ROUNDING * float(places.abs().max())
    steps = [_step(places[:, axis], least) for axis in (0, 1)]
    known = [step for step in steps if step is not None]
    if not known:
        return torch.zeros_like(places)
    if max(known) > _SQUARE * min(known):
        steps = [min(known)] * 2
    step = places.new_tensor([min(known) if step is None else step for step in steps])
    places = (places - first) / step
    rounded = places.round()
    if float((places - rounded).abs().max()) > _ON_GRID:
        return places + first / step
    return rounded + (first / step + _ON_GRID).floor()


def _step(values: Tensor, least: float) -> float | None:
    """Give the mean of the smallest gaps between different values, None where all are equal."""
    gaps = values.unique().diff()
    gaps = gaps[gaps > least]
    return float(gaps[gaps < _SAME_STEP * gaps.min()].mean()) if gaps.numel() else None


def largest_distance(places: Tensor) -> float:
    """Give the distance of the two patches furthest from each other, 0 for one patch.

    Parameters
    ----------
    places : Tensor
        (P, 2).

    Returns
    -------
    float
        In the unit of `places`.

    Examples
    --------
    >>> largest_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]))
    5.0
    """
    ends = torch.from_numpy(hull_corners(places.detach().cpu().numpy()))
    # by the same arithmetic as all distances: one unit in the last place more, and no patch were in the last bin
    return float(_distances(ends, ends).max())


def distance_bins(anchors: Tensor, places: Tensor, largest: float) -> Tensor:
    """Give the number of the interval of distance, of 64 from 0; the largest distance alone is in number 64.

    Parameters
    ----------
    anchors, places : Tensor
        (K, 2) and (P, 2) float64 row and column.
    largest : float
        Largest distance between patches of the slide. Where it is 0 all bins are 0, for which the released code has
        no number.

    Returns
    -------
    Tensor
        (K, P) int64 in 0 .. 64.

    Examples
    --------
    >>> places = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
    >>> distance_bins(places[:1], places, 4.0).tolist()
    [[0, 16, 64]]
    """
    return (_distances(anchors, places) / (largest / _INTERVALS or 1.0)).floor().long()


def _distances(anchors: Tensor, places: Tensor) -> Tensor:
    """Give the distance of each anchor from each place, (K, P)."""
    return (places - anchors.unsqueeze(1)).square().sum(2).sqrt()


def direction_angles(anchors: Tensor, places: Tensor) -> Tensor:
    """Give the angle from anchor to patch, 0 downwards and a quarter turn to the right, in (-pi, pi].

    Parameters
    ----------
    anchors, places : Tensor
        (K, 2) and (P, 2) float64 row and column.

    Returns
    -------
    Tensor
        (K, P) radians; 0 at the anchor itself.

    Examples
    --------
    >>> places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> direction_angles(places[:1], places)
    tensor([[0.0000, 0.0000, 1.5708]])
    """
    step = places - anchors.unsqueeze(1)
    return torch.atan2(step[:, :, 1], step[:, :, 0])


def direction_bins(angles: Tensor) -> Tensor:
    """Give the number of the sector, of eight from -pi; the angle pi alone is in 8, which the released loader makes 7.

    Parameters
    ----------
    angles : Tensor
        Radians in (-pi, pi].

    Returns
    -------
    Tensor
        Of the same shape, int64.

    Examples
    --------
    >>> direction_bins(torch.tensor([-math.pi / 2, 0.0, math.pi / 2, math.pi], dtype=torch.float64)).tolist()
    [2, 4, 6, 8]
    """
    return (angles / (2 * math.pi / DIRECTIONS)).floor().long() + DIRECTIONS // 2


def nearest_patches(centres: Tensor, places: Tensor) -> Tensor:
    """Give the patch nearest to each centre, the first of equally near ones; patches can come up twice.

    Parameters
    ----------
    centres, places : Tensor
        (K, 2) and (P, 2) float64 row and column.

    Returns
    -------
    Tensor
        (K,) int64.

    Examples
    --------
    >>> nearest_patches(torch.tensor([[0.4, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist()
    [1]
    """
    return (places - centres.unsqueeze(1)).square().sum(2).argmin(1)


def anchor_centres(places: Tensor, count: int) -> Tensor:
    """Give the centres of the released k-means: scikit-learn's, seed 9, best of 10 starts of at most 10 steps.

    Parameters
    ----------
    places : Tensor
        (P, 2) row and column.
    count : int
        Number of centres, at most that of different places.

    Returns
    -------
    Tensor
        (count, 2) float64 on the CPU, in scikit-learn's order. They can differ between versions of scikit-learn.

    Examples
    --------
    >>> anchor_centres(torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 0.0]]), 2).tolist()
    [[0.0, 1.0], [9.0, 0.0]]
    """
    table: NDArray[np.float64] = places.detach().cpu().double().numpy()
    model = KMeans(count, n_init=_STARTS, max_iter=_ITERATIONS, random_state=_SEED)
    return torch.from_numpy(model.fit(table).cluster_centers_)


class ReleasedReader:
    """Turns a PyG batch into :class:`ReleasedSlides`, as the released preparation and loader do.

    Parameters
    ----------
    node_dim : int
        Columns of ``x``.
    max_patches, max_anchors : int
        Size to which every slide is cut or padded: its first patches and first anchors, in stored order.
    patches_per_anchor : float
        Graphs without ``anchor_index`` get ``floor(P / patches_per_anchor) + 1`` anchors.
    num_anchors : int, optional
        That many instead.

    Raises
    ------
    ValueError
        If a number is too small.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> graph = Data(x=torch.randn(3, 4), pos=torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]))
    >>> slides = ReleasedReader(4, max_patches=5, max_anchors=2).read(graph)
    >>> slides.feat.shape, slides.anchor_mask.flatten().tolist()
    (torch.Size([1, 5, 4]), [1.0, 0.0])
    """

    def __init__(
        self,
        node_dim: int,
        max_patches: int = MAX_PATCHES,
        max_anchors: int = MAX_ANCHORS,
        patches_per_anchor: float = 144.0,
        num_anchors: int | None = None,
    ) -> None:
        limits = {"node_dim": node_dim, "max_patches": max_patches, "max_anchors": max_anchors}
        for name, value in (limits | ({} if num_anchors is None else {"num_anchors": num_anchors})).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value!r}")
        if not patches_per_anchor > 0:
            raise ValueError(f"patches_per_anchor must be above 0, found {patches_per_anchor!r}")
        self.node_dim, self.max_patches, self.max_anchors = node_dim, max_patches, max_anchors
        self.patches_per_anchor, self.num_anchors = patches_per_anchor, num_anchors
        self._anchors: OrderedDict[bytes, Tensor] = OrderedDict()

    def read(self, batch: Any) -> ReleasedSlides:
        """Cut and pad the slides of a batch.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (N, node_dim), ``pos`` (N, 2); ``anchor_index`` (sum of K,) int64 rows of the anchors, if there
            is one.

        Returns
        -------
        ReleasedSlides
            On the device of the batch.

        Raises
        ------
        ValueError
            If something is missing, of the wrong shape or not finite, or a slide has no patch or no anchor.
        """
        x, pos = _rows(batch, "x", self.node_dim), _rows(batch, "pos", 2)
        if len(x) != len(pos):
            raise ValueError(f"x and pos must have a row for each patch, found {len(x)} and {len(pos)}")
        bounds, given = slide_bounds(batch), _given_anchors(batch, len(x))
        size = len(bounds) - 1
        feat = x.new_zeros(size, self.max_patches, self.node_dim)
        bins = x.new_zeros(2, size, self.max_anchors, self.max_patches, dtype=torch.long)
        token_mask = x.new_zeros(size, self.max_patches, 1)
        anchor_mask = x.new_zeros(size, self.max_anchors, 1)
        for slide, (start, end) in enumerate(pairwise(bounds)):
            places = grid_places(pos[start:end])
            rows = self._chosen(places) if given is None else given[(given >= start) & (given < end)] - start
            if len(rows) == 0:
                raise ValueError(
                    f"anchor_index must have an anchor for every slide, found none for slide {slide} of the batch; "
                    "leave anchor_index out to have them chosen"
                )
            count, anchors = min(end - start, self.max_patches), places[rows[: self.max_anchors]]
            largest, places = largest_distance(places), places[:count]
            feat[slide, :count] = x[start : start + count]
            bins[0, slide, : len(anchors), :count] = distance_bins(anchors, places, largest)
            found = direction_bins(direction_angles(anchors, places))
            bins[1, slide, : len(anchors), :count] = found.clamp(max=DIRECTIONS - 1)
            token_mask[slide, :count] = 1
            anchor_mask[slide, : len(anchors)] = 1
        return ReleasedSlides(feat, bins[0], bins[1], token_mask, anchor_mask)

    def _chosen(self, places: Tensor) -> Tensor:
        """Choose anchors, or remember them: a k-means takes longer than a step."""
        table = places.cpu()
        key = hashlib.blake2b(table.numpy().tobytes(), digest_size=16).digest()
        if key not in self._anchors:
            count = self.num_anchors or math.floor(len(table) / self.patches_per_anchor) + 1
            # scikit-learn warns where there are fewer places than centres
            count = min(count, len(table.unique(dim=0)))
            self._anchors[key] = nearest_patches(anchor_centres(table, count), table)
            if len(self._anchors) > _KEPT:
                self._anchors.popitem(last=False)
        return self._anchors[key].to(places.device)


def slide_bounds(batch: Any) -> list[int]:
    """Give the first row of each graph of a batch, and the number of all rows.

    Parameters
    ----------
    batch : torch_geometric.data.Batch or Data
        With ``x``.

    Returns
    -------
    list of int
        G + 1 numbers.

    Raises
    ------
    ValueError
        If a graph is empty.

    Examples
    --------
    >>> from torch_geometric.data import Batch, Data
    >>> slide_bounds(Batch.from_data_list([Data(x=torch.zeros(2, 1)), Data(x=torch.zeros(3, 1))]))
    [0, 2, 5]
    """
    ptr = getattr(batch, "ptr", None)
    bounds = [0, len(batch.x)] if ptr is None else ptr.tolist()
    if min(np.diff(bounds)) < 1:
        raise ValueError(
            "x must have at least one patch for every slide, found a slide without; leave it out"
        )
    return bounds


def _rows(batch: Any, name: str, columns: int) -> Tensor:
    values = getattr(batch, name, None)
    if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] != columns:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must have {columns} columns for this PAMA, found {found}")
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"{name} must be finite, found NaN or infinity in row {row} of the batch")
    return values


def _given_anchors(batch: Any, count: int) -> Tensor | None:
    index = getattr(batch, "anchor_index", None)
    if index is None:
        return None
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"anchor_index must be (K,) whole numbers, rows of patches; found {tuple(index.shape)} {index.dtype}"
        )
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= count):
        raise ValueError(
            f"anchor_index must be rows of patches, 0 .. {count - 1}; found {int(index.min())} .. {int(index.max())}"
        )
    return index
