"""SLPD: regions of slides seen through several windows, and what is typical of their slide and of similar slides.

*Nodes* are regions of a slide (4,096 px), each a grid of patches (256 px) whose vectors were made before, and the
prototypes of each slide: the means of clusters of its regions. *Edges* join all pairs of patches inside a region, a
region with its prototype, and a prototype with the one that matches it in the most similar other slide. *Hidden* is
what lies outside a window of the grid. *Predicted* is what a slowly following teacher says of the other windows, of the
region's prototype, and of the matching one. The vector of a region is the teacher's class token.

The file reads top to bottom as a step runs: cut views, represent; `prototype_distillation.py` clusters and compares.

Yu et al., "SLPD: Slide-level Prototypical Distillation for WSIs", MICCAI 2023, on the regions of Chen et al., "Scaling
Vision Transformers to Gigapixel Images via Hierarchical Self-Supervised Learning", CVPR 2022 (HIPT). Where the released
code errs, this does what the paper means: a prototype is a target of every view, prototypes of two slides are matched
one to one, slides of one patient are no neighbours, each loss has a centre of its own, and patches that a region at the
border of the tissue lacks are not there, in place of being white.
"""

from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..nn.bounds import check_bounds
from ..nn.region_views import TURNS, centre_crop, random_crop, to_grids
from ..nn.region_vit import RegionTransformer
from ..nn.standardise import Standardise
from .base import Embedding, Graphs, check_finite, constructor_arguments
from .distillation import GLOBAL_VIEWS
from .prototype_distillation import PrototypeDistillation

#: A square of the grids of regions, and where it has patches; None for everywhere.
GridView = tuple[Tensor, Tensor | None]


class SLPD(PrototypeDistillation):
    r"""Slide-level prototypical distillation of regions.

    With p the teacher's distribution and q the student's, over the views v and the global views u of a region i, its
    own prototype a(i) and those b(i) that match it in the r most similar slides,

    .. math::

        L = \frac{1}{|\{u \ne v\}|} \sum_{u \ne v} H(p_u, q_v) + \frac{w_1}{V} \sum_v H(p_{a}, q_v)
            + \frac{w_2}{r V} \sum_{b, v} H(p_b, q_v), \quad H(p, q) = - p \cdot \log q

    A prototype goes through the last layer of the teacher's head alone, for it lies where the head's bottleneck does.
    The similarity of two slides is the largest :math:`\sum_k \langle p_{s,k}, p_{t,\pi(k)} \rangle` over all one-to-one
    matches of their prototypes.

    The defaults are the published sizes. For a CPU, ``SLPD(F, dim=64, depth=2, heads=2, local_views=4, out_dim=1024,
    head_dim=256, bottleneck_dim=64, start_epoch=3)``. As published, train with ``pretrain(..., epochs=100,
    batch_size=512, lr=1e-3, weight_decay=0.04, gradient_clip=3.0, warmup=0.1)``; short runs want a lower `momentum`.

    Parameters
    ----------
    feature_dim : int
        Width F of the features of a patch.
    dim, depth, heads, mlp_ratio, drop_path
        Of the student's :class:`histograph.nn.RegionTransformer`; dim is the width of the vectors, and the teacher
        drops nothing.
    region_size : int
        Side of a region in patches.
    global_size, local_size : int
        Sides of the global and local views in patches; positions are learned for the global ones.
    local_views : int
        Number of local views.
    turns : {1, 2, 8}, optional
        Views are as they are, mirrored left and right, or turned and mirrored in all ways; None for 8, with
        `official_compat` 2.
    standardise : bool, optional
        Scale features by mean and standard deviation of the training data; None for yes, unless `official_compat`.
    out_dim : int
        Width of the distributions; fewer than the 65,536 published for small data, such as 1,024.
    head_dim, bottleneck_dim, head_layers : int
        Width of the hidden layers, width at the prototypes and number of layers of the head.
    train_gain : bool
        Whether the lengths of the rows of the last layer are trained; otherwise they stay 1.
    student_temperature, teacher_temperature : float
        Of the two distributions.
    warmup_teacher_temperature : float
        The teacher's in the first epoch.
    temperature_epochs : int
        Epochs in which the teacher's rises to its value; 0 for none.
    center_momentum : float
        How much of the centres stays after a step.
    momentum : float
        How much of the teacher stays after the first step; rises to 1.
    weight_decay_growth : float
        Weight decay at the end over that at the start, which is the trainer's.
    freeze_epochs : int
        First epochs in which the last layer stays as it is.
    prototypes : int
        Clusters K of each slide.
    min_regions : int
        Slides with fewer regions have no prototypes, and no part in the two losses of prototypes.
    neighbors : int
        Similar slides r.
    match : {"bijective", "nearest"}, optional
        Match the prototypes of two slides one to one, or each with the nearest; None for bijective, with
        `official_compat` nearest.
    intra_weight, inter_weight : float
        w_1 and w_2; 0 leaves a loss out.
    start_epoch : int
        Epoch from which there are prototypes; plain self-distillation before it.
    refresh_every : int
        Epochs between two clusterings.
    warm_start : bool
        From the second clustering on, start from the last centroids in place of several random starts.
    assignment : {"hard", "sinkhorn"}
        Regions go to the nearest centroid, or are shared so that clusters are equally large.
    coherence : float
        How much neighbouring regions are drawn to one cluster; 0 for not at all.
    exclude_same_patient : bool, optional
        Whether slides of one patient are never neighbours; None for yes, unless `official_compat`.
    official_compat : bool
        The released recipe: see `slpd_released.py`; positions of other sizes are interpolated with its offset, and
        the learning rate starts at 0 and ends at 0.1 % of its peak.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> small = {"dim": 16, "depth": 2, "heads": 2, "out_dim": 32, "head_dim": 16, "bottleneck_dim": 8}
    >>> method = SLPD(5, region_size=4, global_size=3, local_size=2, local_views=2, **small)
    >>> region = Data(x=torch.randn(3, 5), place=torch.tensor([[0, 1], [1, 1], [3, 2]]))  # 3 of 16 patches
    >>> sorted(method(region))
    ['entropy', 'inter', 'intra', 'loss', 'self']
    >>> z = method.encode(region)
    >>> z.node.shape, z.graph.shape
    (torch.Size([3, 16]), torch.Size([1, 16]))
    """

    reads: ClassVar[tuple[str, ...]] = ("x", "place", "region")

    def __init__(
        self,
        feature_dim: int = 384,
        dim: int = 192,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.1,
        region_size: int = 16,
        global_size: int = 14,
        local_size: int = 6,
        local_views: int = 8,
        turns: int | None = None,
        standardise: bool | None = None,
        out_dim: int = 65536,
        head_dim: int = 2048,
        bottleneck_dim: int = 256,
        head_layers: int = 3,
        train_gain: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        temperature_epochs: int = 0,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        weight_decay_growth: float = 10.0,
        freeze_epochs: int = 1,
        prototypes: int = 4,
        min_regions: int = 32,
        neighbors: int = 1,
        match: Literal["bijective", "nearest"] | None = None,
        intra_weight: float = 1.0,
        inter_weight: float = 1.0,
        start_epoch: int = 21,
        refresh_every: int = 1,
        warm_start: bool = False,
        assignment: Literal["hard", "sinkhorn"] = "hard",
        coherence: float = 0.0,
        exclude_same_patient: bool | None = None,
        official_compat: bool = False,
    ) -> None:
        config = constructor_arguments(locals())
        _check_arguments(config)

        def backbone(student: bool) -> RegionTransformer:
            return RegionTransformer(
                feature_dim,
                dim,
                depth,
                heads,
                global_size,
                mlp_ratio,
                drop_path=drop_path if student else 0.0,
                interpolation_offset=0.1 if official_compat else 0.0,
            )

        super().__init__(config, backbone, dim)
        self.turns = turns or (2 if official_compat else 8)
        scaled = not official_compat if standardise is None else standardise
        self.scale = Standardise(feature_dim) if scaled else None

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Measure the scale of the features before the first epoch, and cluster regions before later ones.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        dataset : RegionDataset
            All training regions.

        Raises
        ------
        ValueError
            If regions are not numbered, or edges between regions are wanted and missing.
        """
        if self.scale is not None and not bool(self.scale.fitted):
            self.scale.fit(dataset[i].x for i in range(len(dataset)))
        super().before_epoch(epoch, dataset)

    def views(self, batch: Any) -> tuple[list[Any], list[Any]]:
        """Cut windows out of each region.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            Regions: ``x`` (N, feature_dim) features and ``place`` (N, 2) rows and columns of patches.

        Returns
        -------
        global_views, local_views : list of (Tensor, Tensor or None)
            Grids (B, feature_dim, size, size), and where they have patches.

        Raises
        ------
        ValueError
            If features or places do not fit.
        """
        grid, present = self._read(batch)
        whole = _mask(present) is None

        def windows(size: int, count: int) -> list[GridView]:
            found = [random_crop(grid, present, size, self.turns) for _ in range(count)]
            return [(view, None if whole else there) for view, there in found]

        large = windows(self.config["global_size"], GLOBAL_VIEWS)
        return large, windows(self.config["local_size"], self.config["local_views"])

    def whole_view(self, batch: Any) -> GridView:
        """Cut the middle out of each region, as large as a global view.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`views`.

        Returns
        -------
        grid, present : Tensor, Tensor or None
            (B, feature_dim, size, size), and where there are patches.
        """
        grid, present = centre_crop(*self._read(batch), self.config["global_size"])
        return grid, _mask(present)

    def represent(self, backbone: Any, views: list[Any]) -> Tensor:
        """Give the class tokens of windows, with one pass for each run of windows of one size.

        Parameters
        ----------
        backbone : RegionTransformer
            The student's or the teacher's.
        views : list of (Tensor, Tensor or None)
            As of :meth:`views`.

        Returns
        -------
        Tensor
            (windows · B, dim), window after window.
        """
        rows = []
        for _, run in groupby(views, key=lambda view: (view[0].shape[-2:], view[1] is None)):
            grids, present = zip(*run, strict=True)
            rows.append(backbone.pooled(torch.cat(grids), None if present[0] is None else torch.cat(present)))
        return torch.cat(rows)

    def encode(self, batch: Any) -> Embedding:
        """Embed whole regions and their patches by the teacher.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`views`.

        Returns
        -------
        Embedding
            ``node`` (N, dim) of patches, ``graph`` (B, dim) of regions: class tokens.
        """
        grid, present = self._read(batch)
        tokens = self.teacher.backbone(grid, _mask(present))
        index = getattr(batch, "batch", None)
        if index is None:
            index = torch.zeros(len(batch.x), dtype=torch.long, device=tokens.device)
        number = 1 + batch.place[:, 0] * grid.shape[3] + batch.place[:, 1]
        return Embedding(tokens[index, number], tokens[:, 0])

    def encode_graphs(self, batch: Any) -> Tensor:
        """Embed regions alone, without the last block of the patches.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`views`.

        Returns
        -------
        Tensor
            (B, dim), as ``encode(batch).graph``.
        """
        grid, present = self._read(batch)
        return self.teacher.backbone.pooled(grid, _mask(present))

    def _read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Lay the patches of a batch out on grids."""
        width = self.config["feature_dim"]
        if not isinstance(batch.x, Tensor) or batch.x.dim() != 2 or batch.x.shape[1] != width:
            found = tuple(batch.x.shape) if isinstance(batch.x, Tensor) else type(batch.x).__name__
            raise ValueError(f"x must have shape (N, feature_dim = {width}), found {found}")
        check_finite("x", batch.x)
        read = batch.clone()  # shares the tensors
        read.x = batch.x.to(self.loss.center.dtype)
        if self.scale is not None:
            read.x = self.scale(read.x)
        grid, present = to_grids(read, self.config["region_size"])
        empty = ~present.flatten(1).any(1)
        if bool(empty.any()):
            raise ValueError(
                f"every region must have a patch; region {int(empty.nonzero()[0])} of the batch has none, leave it out"
            )
        return grid, present


def _mask(present: Tensor) -> Tensor | None:
    """Give where there are patches, unless they are everywhere: attention without a mask is faster."""
    return None if bool(present.all()) else present


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument; sizes of the network are checked by the network."""
    side = config["region_size"]
    bounds = [("region_size", side >= 1, "at least 1")]
    bounds += [
        (name, 1 <= config[name] <= side, f"from 1 to region_size {side}")
        for name in ("global_size", "local_size")
    ]
    bounds.append(
        ("turns", config["turns"] in (None, *TURNS), f"one of {', '.join(map(str, TURNS))}, or None")
    )
    check_bounds(bounds, config)
