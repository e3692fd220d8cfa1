"""Self-distillation of regions with two targets more: the prototype of a region's slide, and of similar slides.

What a region is, and what reads it, is left to the methods: SLPD reads grids of patches, GraphSLPD graphs of any kind.
This file holds the rest. Before an epoch the teacher reads every region; regions are clustered slide by slide; each
slide finds the slides whose clusters are most like its own. In a step the student must say of each view of a region
what the teacher says of its other views, of the region's own prototype, and of the matching prototypes elsewhere.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch_geometric.data import Batch, Data

from ..nn.bounds import check_bounds
from ..nn.dino_loss import DINOLoss, cross_entropies
from ..nn.prototype_graph import PrototypeGraph, PrototypeTargets
from .base import Graphs
from .distillation import GLOBAL_VIEWS, SelfDistillation
from .slpd_released import all_views, released_views

# What :class:`PrototypeGraph` is made with.
_OF_GRAPH = ("prototypes", "neighbors", "match", "min_regions", "assignment", "coherence")


class PrototypeDistillation(SelfDistillation):
    """Student, teacher, prototypes and three losses; a method adds views, backbone and :meth:`whole_view`.

    Parameters
    ----------
    config : dict
        The method's arguments by name; those of the prototypes are read here, see :class:`histograph.methods.SLPD`.
    make_backbone, dim
        Of :class:`histograph.methods.distillation.SelfDistillation`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from histograph.methods import SLPD
    >>> issubclass(SLPD, PrototypeDistillation)
    True
    """

    #: Regions at once when all are read before an epoch.
    regions_at_once: ClassVar[int] = 64
    # 1e-6 / 1e-3
    released_end: ClassVar[float] = 0.001

    def __init__(self, config: dict[str, Any], make_backbone: Any, dim: int) -> None:
        _check_arguments(config)
        super().__init__(config, make_backbone, dim)
        compat = bool(config.get("official_compat"))
        chosen = {name: config[name] for name in _OF_GRAPH}
        chosen["match"] = config["match"] or ("nearest" if compat else "bijective")
        self.prototypes = PrototypeGraph(dim=config["bottleneck_dim"], **chosen)
        self.intra = self._centred()
        self.inter = self.intra if compat else self._centred()
        self.compared = released_views if compat else all_views
        same = config["exclude_same_patient"]
        self.exclude_same_patient = not compat if same is None else same
        # every process makes the same tables; torch would send the first one's to the others before every step
        self._ddp_params_and_buffers_to_ignore = [
            f"prototypes.{name}" for name, _ in self.prototypes.named_buffers()
        ]

    def whole_view(self, batch: Any) -> Any:
        """Give the view of a whole region that is clustered; nothing in it is random.

        Parameters
        ----------
        batch : torch_geometric.data.Batch
            Regions.

        Returns
        -------
        object
            One view, as :meth:`represent` reads it.
        """
        raise TypeError(f"{type(self).__name__} must define whole_view(batch)")

    @torch.no_grad()
    def prototype_space(self, batch: Any) -> Tensor:
        """Embed regions by the teacher where prototypes are: the bottleneck of the head.

        Parameters
        ----------
        batch : torch_geometric.data.Batch
            Regions.

        Returns
        -------
        Tensor
            (B, bottleneck_dim) of length 1.
        """
        return self.teacher.head.bottleneck(self.represent(self.teacher.backbone, [self.whole_view(batch)]))

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Cluster the regions, from `start_epoch` on and every `refresh_every` epochs.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        dataset : RegionDataset, or sequence of Data
            All training regions; of other sequences than a `RegionDataset` each has ``region``, its number there, and
            ``slide``.

        Raises
        ------
        ValueError
            If regions are not numbered, or edges between regions are wanted and missing.
        """
        super().before_epoch(epoch, dataset)
        config, start = self.config, self.config["start_epoch"]
        if epoch < start or config["intra_weight"] == config["inter_weight"] == 0:
            self.prototypes.clear()
            return
        if self.prototypes.regions != len(dataset) or (epoch - start) % config["refresh_every"] == 0:
            self.refresh(dataset, warm=config["warm_start"] and epoch > start)

    def refresh(self, dataset: Graphs, warm: bool = False) -> None:
        """Read all regions with the teacher, cluster them and find similar slides.

        With several processes each reads a share and all cluster all, alike.

        Parameters
        ----------
        dataset : RegionDataset, or sequence of Data
            See :meth:`before_epoch`.
        warm : bool
            Start from the clusters at hand.

        Raises
        ------
        ValueError
            If regions are not numbered, or edges between regions are wanted and missing.
        """
        z = self.read_regions(dataset)
        slide = _slides(dataset).to(z.device)
        names = getattr(dataset, "slide_ids", None)
        slides = int(slide.max()) + 1 if names is None else len(names)
        patients = getattr(dataset, "patients", None) if self.exclude_same_patient else None
        edges = getattr(dataset, "region_edges", None) if self.config["coherence"] > 0 else None
        if edges is None and self.config["coherence"] > 0:
            raise ValueError(
                f"coherence = {self.config['coherence']} needs region_edges of the data set, found "
                f"{type(dataset).__name__} without; give a RegionDataset, or set coherence=0"
            )
        self.prototypes.refresh(
            z,
            slide,
            slides,
            patients=None if patients is None else _numbers(patients).to(z.device),
            edge_index=None if edges is None else edges.to(z.device),
            warm=warm,
        )

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Draw views, look up prototypes and compare.

        Parameters
        ----------
        batch : torch_geometric.data.Batch
            Regions; ``region`` (B,), their numbers in the data set, once there are prototypes.

        Returns
        -------
        dict of str to Tensor
            ``loss``; detached ``self``, ``intra`` and ``inter``, before they are weighted, and 0 where there are no
            prototypes; and ``entropy``, the teacher's, which ``self`` cannot fall below.

        Raises
        ------
        ValueError
            If regions are not numbered.
        """
        targets = None
        if self.prototypes.regions:
            region = getattr(batch, "region", None)
            if not isinstance(region, Tensor):
                raise ValueError(
                    "region is missing: to find the prototypes of regions, their numbers in the data set must be "
                    "known; give pretrain a RegionDataset"
                )
            targets = self.prototypes(region.to(self.prototypes.slide.device))
        return self.distil(*self.views(batch), targets)

    def distil(
        self, global_views: list[Any], local_views: list[Any], targets: PrototypeTargets | None = None
    ) -> dict[str, Tensor]:
        """Compare what the student says of given views with what the teacher says of views and prototypes.

        Parameters
        ----------
        global_views, local_views : list
            As of :meth:`views`.
        targets : PrototypeTargets, optional
            Prototypes of the batch; none before there are any.

        Returns
        -------
        dict of str to Tensor
            As of :meth:`forward`.
        """
        said = self.student.head(self.represent(self.student.backbone, global_views + local_views))
        parts = self._parts(targets)
        with torch.no_grad():
            head = self.teacher.head
            rows = [head.bottleneck(self.represent(self.teacher.backbone, global_views))]
            # the last layer is by far the widest, and one product serves views and prototypes
            rows += [part.vector.flatten(0, 1) for _, part in parts]
            wanted = head.last_layer(torch.cat(rows)).split([len(part) for part in rows])
            p, entropy = self.loss.targets(wanted[0], self.teacher_temperature)
            spoken = [(self.loss, wanted[0].float().mean(0, keepdim=True), len(wanted[0]))]
            pairs_of = [p, *self._centred_targets(parts, wanted[1:], spoken)]
            batch = len(wanted[0]) // GLOBAL_VIEWS
        target = torch.cat(pairs_of).view(-1, batch, said.shape[1])
        pairs = cross_entropies(target, said, self.loss.student_temperature)
        views = pairs.shape[1]
        own = pairs.new_ones(GLOBAL_VIEWS, views).fill_diagonal_(0)
        terms = {"self": (own * pairs[:GLOBAL_VIEWS].mean(2)).sum() / own.sum()}
        loss, first = terms["self"], GLOBAL_VIEWS
        for name, part in parts:
            last = first + len(part.known)
            compared = self.compared(len(part.known), views, pairs.device)
            weight = compared.unsqueeze(2) * part.known.unsqueeze(1)  # (targets, views, regions)
            terms[name] = (weight * pairs[first:last]).sum() / self._pairs(weight)
            loss, first = loss + self.config[f"{name}_weight"] * terms[name], last
        if self.training:
            self._pending = spoken
        found = {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
        return {"intra": loss.new_zeros(()), "inter": loss.new_zeros(())} | found | {"entropy": entropy}

    def _parts(self, targets: PrototypeTargets | None) -> list[tuple[str, PrototypeTargets]]:
        """Split the prototypes of a batch by loss, and leave out what has no weight."""
        if targets is None:
            return []
        split = {"intra": slice(0, 1), "inter": slice(1, None)}
        return [
            (name, PrototypeTargets(targets.vector[rows], targets.known[rows]))
            for name, rows in split.items()
            if self.config[f"{name}_weight"] > 0
        ]

    def _centred_targets(
        self,
        parts: list[tuple[str, PrototypeTargets]],
        wanted: tuple[Tensor, ...],
        spoken: list[tuple[DINOLoss, Tensor, int]],
    ) -> list[Tensor]:
        """Give the distributions of prototypes, and note by how much their centres move after the step."""
        found, center = [], None
        for (name, part), logits in zip(parts, wanted, strict=True):
            criterion: DINOLoss = getattr(self, name)
            found.append(criterion.targets(logits, self.teacher_temperature, center)[0])
            known = part.known.flatten()
            count = int(known.sum())
            mean = known.float().unsqueeze(0) @ logits.float() / max(count, 1)
            spoken.append((criterion, mean, count))
            if self.inter is self.intra and self.training:
                # released: the next loss reads the centre that this one has moved
                center = criterion.moved(mean, count)
        return found

    def _pairs(self, weight: Tensor) -> Tensor:
        """Count what a loss is the mean over; of several processes the mean count, for gradients are averaged."""
        total = weight.sum()
        if self.training and _processes() > 1:
            dist.all_reduce(total)
            return total.clamp(min=1) / _processes()
        return total.clamp(min=1)

    def _centred(self) -> DINOLoss:
        config = self.config
        return DINOLoss(config["out_dim"], config["student_temperature"], config["center_momentum"])

    @torch.no_grad()
    def read_regions(self, dataset: Graphs) -> Tensor:
        """Give the vectors of all regions that are clustered; of several processes each reads a share.

        Parameters
        ----------
        dataset : RegionDataset, or sequence of Data
            See :meth:`before_epoch`.

        Returns
        -------
        Tensor
            (N, bottleneck_dim) of length 1, as of :meth:`prototype_space`.

        Raises
        ------
        ValueError
            If regions are not numbered.
        """
        device = self.loss.center.device
        z = torch.zeros(len(dataset), self.config["bottleneck_dim"], device=device)
        rank = dist.get_rank() if _processes() > 1 else 0
        for chosen in torch.arange(rank, len(dataset), _processes()).split(self.regions_at_once):
            batch = self._batch([dataset[int(number)] for number in chosen])
            region = getattr(batch, "region", None)
            if not isinstance(region, Tensor) or not torch.equal(region, chosen):
                found = "none" if region is None else f"{region.tolist()[:5]} ..."
                raise ValueError(
                    f"region of each graph must be its number in the data set, as RegionDataset gives it; expected "
                    f"{chosen.tolist()[:5]} ..., found {found}"
                )
            z[chosen.to(device)] = self.prototype_space(batch.to(device)).float()
        if _processes() > 1:
            dist.all_reduce(z)  # each row is 0 in all processes but one
        return z

    def _batch(self, regions: list[Any]) -> Batch:
        """Batch what is read of regions."""
        return Batch.from_data_list(
            [Data(**{name: one[name] for name in self.reads if one.get(name) is not None}) for one in regions]
        )


def _slides(dataset: Graphs) -> Tensor:
    """Give the slide of each region."""
    slide = getattr(dataset, "slide", None)
    if not isinstance(slide, Tensor):
        found = [dataset[number].get("slide") for number in range(len(dataset))]
        if not all(isinstance(one, Tensor) and one.numel() == 1 for one in found):
            raise ValueError(
                "slide of each graph must be a tensor with the number of its slide; give a RegionDataset"
            )
        slide = torch.cat([one.view(1) for one in found])
    return slide.long()


def _numbers(names: Any) -> Tensor:
    """Give a number for each name, the same for the same."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([known[name] for name in names])


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument; the table of prototypes checks its own."""
    bounds = [("refresh_every", config["refresh_every"] >= 1, "at least 1")]
    at_least_0 = ("intra_weight", "inter_weight", "start_epoch")
    bounds += [(name, config[name] >= 0, "at least 0") for name in at_least_0]
    check_bounds(bounds, config)
