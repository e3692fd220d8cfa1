"""SLPD on graphs: regions of any size with cells, tissue or patches in them, read by any graph encoder.

*Nodes* are the cells, tissue regions or patches of a region of a slide, *edges* its own, and beside them the
prototypes of each slide, as in `slpd.py`. *Hidden* is what lies outside a window of the region. *Predicted* is what a
slowly following teacher says of the other windows, of the region's prototype, and of the matching prototypes of similar
slides. The vector of a region is the mean of its nodes'.

Windows and encoders are those of `dino_graph.py`; prototypes and losses those of `prototype_distillation.py`.
"""

from typing import Any, ClassVar, Literal

from ..nn import Standardise
from .base import constructor_arguments
from .dino_graph import GraphViews, check_graph_views
from .prototype_distillation import PrototypeDistillation


class GraphSLPD(GraphViews, PrototypeDistillation):
    """Slide-level prototypical distillation of regions that are graphs.

    Parameters
    ----------
    node_dim : int
        Width of the node features.
    dim, layers, encoder, local_views, global_scale, local_scale, feature_drop, standardise
        Of the encoder and its windows, see :class:`histograph.methods.GraphDINO`; a subclass brings any other encoder
        by :meth:`make_encoder`.
    out_dim, head_dim, bottleneck_dim, head_layers, train_gain
        Of the head.
    student_temperature, teacher_temperature, warmup_teacher_temperature, temperature_epochs, center_momentum, momentum
        Of the losses and the teacher.
    weight_decay_growth, freeze_epochs
        Of the training.
    prototypes, min_regions, neighbors, match, intra_weight, inter_weight, start_epoch, refresh_every, warm_start
        Of the prototypes.
    assignment, coherence, exclude_same_patient
        Of the clusters and the neighbours; all as in :class:`histograph.methods.SLPD`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Batch, Data
    >>> def region(number):
    ...     edges = torch.randint(20, (2, 60))
    ...     graph = Data(x=torch.randn(20, 4), pos=torch.rand(20, 2), edge_index=edges)
    ...     graph.region, graph.slide = torch.tensor([number]), torch.tensor([number // 6])
    ...     return graph
    >>> regions = [region(number) for number in range(12)]
    >>> method = GraphSLPD(4, dim=16, out_dim=32, prototypes=2, min_regions=4, start_epoch=0)
    >>> method.before_epoch(0, regions)
    >>> terms = method(Batch.from_data_list(regions[:3]))
    >>> bool(terms["inter"] > 0), method.encode(regions[0]).graph.shape
    (True, torch.Size([1, 16]))
    """

    reads: ClassVar[tuple[str, ...]] = ("x", "edge_index", "edge_attr", "pos", "region")
    # a region may hold thousands of cells
    regions_at_once: ClassVar[int] = 8

    def __init__(
        self,
        node_dim: int,
        dim: int = 128,
        layers: int = 3,
        encoder: str = "gcn",
        local_views: int = 6,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        feature_drop: float = 0.2,
        standardise: bool = True,
        out_dim: int = 1024,
        head_dim: int = 256,
        bottleneck_dim: int = 64,
        head_layers: int = 3,
        train_gain: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        temperature_epochs: int = 0,
        center_momentum: float = 0.9,
        momentum: float = 0.99,
        weight_decay_growth: float = 10.0,
        freeze_epochs: int = 1,
        prototypes: int = 4,
        min_regions: int = 32,
        neighbors: int = 1,
        match: Literal["bijective", "nearest"] = "bijective",
        intra_weight: float = 1.0,
        inter_weight: float = 1.0,
        start_epoch: int = 21,
        refresh_every: int = 1,
        warm_start: bool = False,
        assignment: Literal["hard", "sinkhorn"] = "hard",
        coherence: float = 0.0,
        exclude_same_patient: bool = True,
    ) -> None:
        config = constructor_arguments(locals())
        check_graph_views(config)
        super().__init__(config, lambda student: self.make_encoder(), dim)
        self.scale = Standardise(node_dim) if standardise else None

    def whole_view(self, batch: Any) -> Any:
        """Give whole regions, laid side by side as one graph.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (N, node_dim), ``pos`` (N, 2), ``edge_index`` (2, E) and perhaps ``edge_attr``.

        Returns
        -------
        Data
            With ``batch``, the region of each node.
        """
        return self._read(batch)
