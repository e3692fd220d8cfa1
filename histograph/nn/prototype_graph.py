"""Prototypes as a graph: regions point at the prototype of their cluster, prototypes at those of similar slides.

Nothing is trained here and no gradient flows: it is a table that is made anew now and then from the vectors of all
regions, and read by the numbers of regions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from .bounds import check_bounds
from .prototype_sets import nearest_slides
from .segment_kmeans import segment_kmeans

#: How prototypes of two slides are matched, and how regions are shared among clusters.
MATCHES, ASSIGNMENTS = ("bijective", "nearest"), ("hard", "sinkhorn")
# Of the random first points, the same at every refresh, as released.
_SEED = 0
# Buffers that have a row for each region or slide.
_TABLES = ("centroid", "valid", "slide", "assignment", "neighbor", "similarity", "matching")


@dataclass(frozen=True)
class PrototypeTargets:
    """What prototypes say of a batch of regions.

    Attributes
    ----------
    vector : Tensor
        (1 + r, B, D) rows of length 1: the prototype of each region's own cluster, then those that match it in the r
        most similar slides; 0 where there is none.
    known : Tensor
        (1 + r, B) bool, whether there is one.
    """

    vector: Tensor
    known: Tensor


class PrototypeGraph(nn.Module):
    """Clusters of regions inside slides, and their counterparts in the most similar slides.

    Parameters
    ----------
    prototypes : int
        Clusters K of a slide.
    dim : int
        Width D of the vectors.
    neighbors : int
        Similar slides r of each slide.
    match : {"bijective", "nearest"}
        Whether the prototypes of two slides are matched one to one, or each with the nearest.
    min_regions : int
        Slides with fewer regions have no prototypes and are nobody's neighbour.
    assignment : {"hard", "sinkhorn"}
        How regions are shared among clusters, see :func:`histograph.nn.segment_kmeans`.
    coherence : float
        How much neighbouring regions are drawn to one cluster.
    iterations, restarts : int
        Rounds of k-means, and how often it starts anew; the best is kept.

    Attributes
    ----------
    centroid : Tensor
        (S, K, D) float32 means of the clusters, not of length 1.
    valid : Tensor
        (S,) bool, whether a slide has prototypes.
    slide, assignment : Tensor
        (N,) int64 slide and cluster of each region; cluster -1 in slides without prototypes.
    neighbor, similarity : Tensor
        (S, r) int64 most similar slides, -1 where there are not as many, and how similar: at most K.
    matching : Tensor
        (S, r, K) int64 number of the matching prototype in each of them.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> graph = PrototypeGraph(prototypes=2, dim=4, neighbors=1, min_regions=3)
    >>> z = normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> graph.refresh(z, torch.arange(3).repeat_interleave(4))
    >>> targets = graph(torch.tensor([0, 7]))
    >>> targets.vector.shape, targets.known.all().item()
    (torch.Size([2, 2, 4]), True)
    """

    centroid: Tensor
    valid: Tensor
    slide: Tensor
    assignment: Tensor
    neighbor: Tensor
    similarity: Tensor
    matching: Tensor

    def __init__(
        self,
        prototypes: int,
        dim: int,
        neighbors: int = 1,
        match: Any = "bijective",
        min_regions: int = 1,
        assignment: Any = "hard",
        coherence: float = 0.0,
        iterations: int = 10,
        restarts: int = 5,
    ) -> None:
        super().__init__()
        _check_arguments(locals())
        self.prototypes, self.dim, self.neighbors = prototypes, dim, neighbors
        self.match, self.min_regions, self.rule, self.coherence = match, min_regions, assignment, coherence
        self.iterations, self.restarts = iterations, restarts
        for name, value in self._empty().items():
            self.register_buffer(name, value)

    @property
    def regions(self) -> int:
        """Regions N that are in the table; 0 before the first refresh."""
        return len(self.assignment)

    def clear(self) -> None:
        """Forget all prototypes."""
        for name, value in self._empty().items():
            setattr(self, name, value.to(self.centroid.device))

    @torch.no_grad()
    def refresh(
        self,
        z: Tensor,
        slide: Tensor,
        slides: int | None = None,
        patients: Tensor | None = None,
        edge_index: Tensor | None = None,
        warm: bool = False,
    ) -> None:
        """Cluster the regions of each slide, and find its most similar slides.

        Parameters
        ----------
        z : Tensor
            (N, D) float32 of length 1.
        slide : Tensor
            (N,) int64 slide of each region.
        slides : int, optional
            Number S of slides; one more than the largest number by default.
        patients : Tensor, optional
            (S,) int64; slides of the same patient are not neighbours.
        edge_index : Tensor, optional
            (2, E) int64 neighbouring regions, for `coherence`.
        warm : bool
            Start from the centroids at hand alone where the slides are as many, in place of random regions.

        Raises
        ------
        ValueError
            If the rows are of another width, or do not fit the other arguments.
        """
        if z.dim() != 2 or z.shape[1] != self.dim:
            raise ValueError(f"z must have shape (N, dim = {self.dim}), found {tuple(z.shape)}")
        slides = int(slide.max()) + 1 if slides is None else slides
        warm = warm and len(self.centroid) == slides
        found = segment_kmeans(
            z,
            slide,
            self.prototypes,
            num_segments=slides,
            iterations=self.iterations,
            restarts=1 if warm else self.restarts,
            seed=_SEED,
            start=self.centroid if warm else None,
            minimum=self.min_regions,
            assignment=self.rule,
            edge_index=edge_index if self.coherence > 0 else None,
            coherence=self.coherence,
        )
        self.centroid, self.valid = found.centroid, found.valid
        self.slide, self.assignment = slide.clone(), found.assignment
        self.neighbor, self.similarity, self.matching = nearest_slides(
            self.unit(), found.valid, self.neighbors, patients=patients, match=self.match
        )

    def unit(self) -> Tensor:
        """Give the prototypes, (S, K, D) of length 1; 0 in slides that have none."""
        return normalize(self.centroid, dim=2) * self.valid.view(-1, 1, 1)

    def forward(self, region: Tensor) -> PrototypeTargets:
        """Look up the prototypes of regions: one step to the own one, two to those of other slides.

        Parameters
        ----------
        region : Tensor
            (B,) int64 numbers in the data set.

        Returns
        -------
        PrototypeTargets
            Without gradients.

        Raises
        ------
        ValueError
            If there is no such region in the table.
        """
        if len(region) and not 0 <= int(region.min()) <= int(region.max()) < self.regions:
            raise ValueError(
                f"region must be at least 0 and below {self.regions}, the regions that were clustered; found "
                f"{int(region.min())} to {int(region.max())}; train on the data set that before_epoch was given"
            )
        slide, cluster = self.slide[region], self.assignment[region]
        known = cluster >= 0
        cluster = cluster.clamp(min=0)
        other = self.neighbor[slide]
        matched = self.matching[slide].gather(2, cluster.view(-1, 1, 1).expand(-1, self.neighbors, 1))[..., 0]
        vector = torch.cat(
            [
                self.centroid[slide, cluster].unsqueeze(1),
                self.centroid[other.clamp(min=0), matched.clamp(min=0)],
            ],
            1,
        )
        known = torch.cat([known.unsqueeze(1), known.unsqueeze(1) & (other >= 0)], dim=1)
        vector = normalize(vector, dim=2) * known.unsqueeze(2)
        return PrototypeTargets(vector.transpose(0, 1), known.t())

    def as_graph(self) -> HeteroData:
        """Give the table as a graph, for pictures and for other programs.

        Returns
        -------
        HeteroData
            Nodes ``region`` (N), ``prototype`` (S · K, the valid ones not left out; ``x`` of length 1) and ``slide``
            (S). Edges ``(region, in, prototype)``, ``(prototype, in, slide)``, ``(slide, similar, slide)`` with
            ``similarity``, and ``(prototype, matches, prototype)``, from a slide to its neighbours.

        Examples
        --------
        >>> graph = PrototypeGraph(2, 4, min_regions=3)
        >>> graph.refresh(normalize(torch.randn(12, 4), dim=1), torch.arange(3).repeat_interleave(4))
        >>> graph.as_graph()["prototype", "matches", "prototype"].edge_index.shape
        torch.Size([2, 6])
        """
        k, device = self.prototypes, self.centroid.device
        graph = HeteroData()
        graph["region"].num_nodes, graph["slide"].num_nodes = self.regions, len(self.valid)
        graph["prototype"].x = self.unit().flatten(0, 1)
        inside = (self.assignment >= 0).nonzero().squeeze(1)
        graph["region", "in", "prototype"].edge_index = torch.stack(
            [inside, self.slide[inside] * k + self.assignment[inside]]
        )
        number = torch.arange(len(self.valid) * k, device=device)
        of_valid = number[self.valid.repeat_interleave(k)]
        graph["prototype", "in", "slide"].edge_index = torch.stack([of_valid, of_valid // k])
        source, rank = (self.neighbor >= 0).nonzero().unbind(1)
        target = self.neighbor[source, rank]
        graph["slide", "similar", "slide"].edge_index = torch.stack([source, target])
        graph["slide", "similar", "slide"].similarity = self.similarity[source, rank]
        own = source.unsqueeze(1) * k + torch.arange(k, device=device)
        matched = target.unsqueeze(1) * k + self.matching[source, rank]
        graph["prototype", "matches", "prototype"].edge_index = torch.stack(
            [own.flatten(), matched.flatten()]
        )
        return graph

    def _empty(self) -> dict[str, Tensor]:
        """Make tables without a slide."""
        whole = torch.int64
        return {
            "centroid": torch.zeros(0, self.prototypes, self.dim),
            "valid": torch.zeros(0, dtype=torch.bool),
            "slide": torch.zeros(0, dtype=whole),
            "assignment": torch.zeros(0, dtype=whole),
            "neighbor": torch.zeros(0, self.neighbors, dtype=whole),
            "similarity": torch.zeros(0, self.neighbors),
            "matching": torch.zeros(0, self.neighbors, self.prototypes, dtype=whole),
        }

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **settings: Any
    ) -> None:
        """Take over as many rows as a file has."""
        for name in _TABLES:
            found, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if isinstance(found, Tensor) and found.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(found.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments, **settings)


def _check_arguments(given: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    whole = ("prototypes", "dim", "neighbors", "min_regions", "iterations", "restarts")
    bounds = [(name, given[name] >= 1, "at least 1") for name in whole]
    bounds += [
        ("match", given["match"] in MATCHES, f"one of {', '.join(MATCHES)}"),
        ("assignment", given["assignment"] in ASSIGNMENTS, f"one of {', '.join(ASSIGNMENTS)}"),
        ("coherence", given["coherence"] >= 0, "at least 0"),
    ]
    check_bounds(bounds, given)
