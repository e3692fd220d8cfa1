"""DINO on graphs: a graph of cells or patches seen through several windows, and a student that learns from its teacher.

*Nodes* are the cells, tissue regions or patches of a graph, *edges* its own. *Hidden* is what lies outside a window:
the student sees two large and several small windows, the teacher the large ones alone. *Predicted* is the teacher's
distribution over learned prototypes, from every other window. The vector of a graph is the mean of its nodes'.

The backbone is any network that gives each node a vector; :meth:`GraphDINO.make_encoder` is the place to put another.

After Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, with subgraphs for crops.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from ..nn import GraphConv, SparseSum, Standardise, segment_mean
from ..nn.bounds import are_numbers, check_bounds
from ..nn.windows import induced, random_window
from .base import Embedding, Graphs, check_finite, constructor_arguments
from .distillation import GLOBAL_VIEWS, SelfDistillation
from .pama import PAMA

# Ours, and those of torch_geometric.nn that need nothing but a width and a depth.
ENCODERS = ("gcn", "pama", "GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN")


class _Convolutions(nn.Module):
    """Graph convolutions, each after a norm and beside an identity."""

    def __init__(self, node_dim: int, dim: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(node_dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.convs = nn.ModuleList(GraphConv(dim, dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, graph: Data) -> Tensor:
        x = self.embed(graph.x)
        edges = SparseSum.from_pairs(graph.edge_index[1], graph.edge_index[0], len(x))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + nn.functional.gelu(conv(norm(x), edges))
        return self.norm(x)


class _OfPAMA(nn.Module):
    """The encoder of PAMA, whose patches speak through anchors; no edges are read."""

    # Nodes for each anchor: windows hold tens to hundreds of nodes, where slides hold thousands.
    _NODES = 16.0

    def __init__(self, node_dim: int, dim: int, layers: int) -> None:
        super().__init__()
        heads = math.gcd(dim, 8)
        sizes = {"decoder_dim": heads, "decoder_layers": 1, "patches_per_anchor": self._NODES}
        self.network = PAMA(node_dim, dim, layers, heads, **sizes, standardise=False)  # type: ignore[arg-type]
        for name in ("mask_token", "decoder_embed", "decoder_blocks", "decoder_norm", "predict"):
            delattr(self.network, name)

    def forward(self, graph: Data) -> Tensor:
        count = torch.bincount(graph.batch, minlength=graph.graphs)
        ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        slides = Data(x=graph.x, pos=graph.pos, batch=graph.batch, ptr=ptr)
        return cast(Tensor, self.network.encode(slides).node)


class _OfGeometric(nn.Module):
    """A network of PyG by its name, and a norm."""

    def __init__(self, name: str, node_dim: int, dim: int, layers: int) -> None:
        super().__init__()
        from torch_geometric.nn import models  # takes seconds to import

        self.network = getattr(models, name)(node_dim, dim, layers, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, graph: Data) -> Tensor:
        return self.norm(self.network(graph.x, graph.edge_index))


class GraphViews(SelfDistillation):
    """Views, backbone and vectors of a method that distils graphs; the method adds a constructor and the loss.

    Its ``config`` holds `node_dim`, `dim`, `layers`, `encoder`, `local_views`, `global_scale`, `local_scale` and
    `feature_drop`, and it has a ``scale``, see :class:`GraphDINO`.

    Examples
    --------
    >>> issubclass(GraphDINO, GraphViews)
    True
    """

    scale: Standardise | None

    def make_encoder(self) -> nn.Module:
        """Build a backbone by the names in ``config``; a subclass may build any other.

        Returns
        -------
        Module
            Called with a `torch_geometric.data.Data` that has ``x``, ``edge_index``, ``batch``, ``pos``, and
            ``edge_attr`` where the graphs have it, it gives a row of width ``dim`` for each node.
        """
        name, sizes = self.config["encoder"], [self.config[size] for size in ("node_dim", "dim", "layers")]
        own = {"gcn": _Convolutions, "pama": _OfPAMA}
        return own[name](*sizes) if name in own else _OfGeometric(name, *sizes)

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Measure the scale of the features before the first epoch, and remember the epoch.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        dataset : sequence of Data
            All training graphs.
        """
        if self.scale is not None and not bool(self.scale.fitted):
            self.scale.fit(dataset[i].x for i in range(len(dataset)))
        super().before_epoch(epoch, dataset)

    def views(self, batch: Any) -> tuple[list[Any], list[Any]]:
        """Cut windows out of each graph.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (N, node_dim), ``pos`` (N, 2), ``edge_index`` (2, E) and perhaps ``edge_attr``.

        Returns
        -------
        global_views, local_views : list of Data
            All large and all small windows, laid side by side as one graph each, window after window.

        Raises
        ------
        ValueError
            If features or positions do not fit.
        """
        graph = self._read(batch)
        check_finite("pos", graph.pos)
        parts = graph.pos.split(torch.bincount(graph.batch, minlength=graph.graphs).tolist())

        def windows(scale: list[float], count: int) -> list[Any]:
            masks = [
                torch.cat([random_window(part, (scale[0], scale[1])) for part in parts]) for _ in range(count)
            ]
            return [self._cut(graph, masks)] if masks else []

        local = windows(self.config["local_scale"], self.config["local_views"])
        return windows(self.config["global_scale"], GLOBAL_VIEWS), local

    def represent(self, backbone: Any, views: list[Any]) -> Tensor:
        """Give the mean vectors of windows.

        Parameters
        ----------
        backbone : Module
            The student's or the teacher's.
        views : list of Data
            As of :meth:`views`.

        Returns
        -------
        Tensor
            (windows · B, dim), window after window.
        """
        return torch.cat([segment_mean(backbone(part), part.batch, part.graphs) for part in views])

    def encode(self, batch: Any) -> Embedding:
        """Embed whole graphs and their nodes by the teacher.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`views`.

        Returns
        -------
        Embedding
            ``node`` (N, dim), and their means ``graph`` (G, dim).
        """
        graph = self._read(batch)
        node = self.teacher.backbone(graph)
        return Embedding(node, segment_mean(node, graph.batch, graph.graphs))

    def _cut(self, graph: Data, masks: list[Tensor]) -> Data:
        """Lay the windows side by side, and drop columns of features in each."""
        parts = induced(masks, graph.edge_index, graph.batch, graph.graphs)
        windows = len(masks) * graph.graphs
        x = graph.x[parts.node]
        if self.config["feature_drop"] > 0:
            kept = (torch.rand(windows, x.shape[1]) >= self.config["feature_drop"]).to(x.device)
            x = x * kept[parts.batch]
        cut = Data(x=x, pos=graph.pos[parts.node], edge_index=parts.edge_index, batch=parts.batch)
        if graph.get("edge_attr") is not None:
            cut.edge_attr = graph.edge_attr[parts.edge]
        cut.graphs = windows
        return cut

    def _read(self, batch: Any) -> Data:
        """Check a batch, scale its features, and give it with the graph of each node."""
        x, pos = batch.x, getattr(batch, "pos", None)
        width = self.config["node_dim"]
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != width:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must have shape (N, node_dim = {width}), found {found}")
        check_finite("x", x)
        if not isinstance(pos, Tensor) or pos.shape != (len(x), 2):
            found = tuple(pos.shape) if isinstance(pos, Tensor) else type(pos).__name__
            raise ValueError(
                f"pos must have shape (N = {len(x)}, 2), a place for each row of x; found {found}"
            )
        if not isinstance(batch.edge_index, Tensor):
            raise ValueError(
                f"edge_index must be a (2, E) tensor, found {type(batch.edge_index).__name__}; build edges first, as "
                "histograph.knn_edges does"
            )
        index, ptr = getattr(batch, "batch", None), getattr(batch, "ptr", None)
        if index is None:
            index = torch.zeros(len(x), dtype=torch.long, device=x.device)
        graphs = 1 if ptr is None else ptr.numel() - 1
        count = torch.bincount(index, minlength=graphs)
        if not bool(count.all()):
            raise ValueError(f"every graph must have a node; graph {int((count == 0).nonzero()[0])} has none")
        x = x.to(self.loss.center.dtype)
        x = x if self.scale is None else self.scale(x)
        read = Data(x=x, pos=pos, edge_index=batch.edge_index, batch=index)
        if getattr(batch, "edge_attr", None) is not None:
            read.edge_attr = batch.edge_attr
        read.graphs = graphs
        return read


class GraphDINO(GraphViews):
    """Self-distillation with no labels, of graphs.

    The loss, the head, the centre and the teacher are those of :class:`histograph.methods.DINO`.

    Parameters
    ----------
    node_dim : int
        Width of the node features.
    dim : int
        Width of the vectors.
    layers : int
        Rounds of message passing.
    encoder : {"gcn", "pama", "GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN"}
        ``"gcn"`` is our own, ``"pama"`` the encoder of :class:`histograph.methods.PAMA`, which reads positions and no
        edges; the others are of `torch_geometric.nn`. A subclass brings any other by
        :meth:`make_encoder`.
    local_views : int
        Number of small windows.
    global_scale, local_scale : (float, float)
        Smallest and largest share of the nodes that a large and a small window hold.
    feature_drop : float
        Chance that a column of the features is set to 0 in a window, its mean where features are standardised.
    standardise : bool
        Scale features by mean and standard deviation of the training data.
    out_dim, head_dim, bottleneck_dim, head_layers, train_gain
        Of the head.
    student_temperature, teacher_temperature, warmup_teacher_temperature, temperature_epochs, center_momentum, momentum
        Of the loss and the teacher.
    weight_decay_growth, freeze_epochs
        Of the training; all as in :class:`histograph.methods.DINO`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> graph = Data(x=torch.randn(20, 4), pos=torch.rand(20, 2), edge_index=torch.randint(20, (2, 60)))
    >>> method = GraphDINO(node_dim=4, dim=16, out_dim=32)
    >>> sorted(method(graph)), method.encode(graph).node.shape
    (['entropy', 'loss'], torch.Size([20, 16]))

    Another backbone:

    >>> class PointDINO(GraphDINO):
    ...     def make_encoder(self):
    ...         class Points(nn.Linear):
    ...             def forward(self, graph):
    ...                 return super().forward(graph.x)
    ...         return Points(self.config["node_dim"], self.config["dim"])
    >>> PointDINO(node_dim=4, dim=8, out_dim=32).encode(graph).graph.shape
    torch.Size([1, 8])
    """

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
    ) -> None:
        config = constructor_arguments(locals())
        check_graph_views(config)
        super().__init__(config, lambda student: self.make_encoder(), dim)
        self.scale = Standardise(node_dim) if standardise else None


def check_graph_views(config: dict[str, Any]) -> None:
    """Refuse what the network or its windows cannot be made with.

    Parameters
    ----------
    config : dict
        Arguments by name, see :class:`GraphViews`.

    Raises
    ------
    ValueError
        If one is out of range.

    Examples
    --------
    >>> check_graph_views(GraphDINO(4, dim=8, out_dim=16).config)
    """
    bounds = [(name, config[name] >= 1, "at least 1") for name in ("node_dim", "dim", "layers")]
    bounds += [
        ("encoder", config["encoder"] in ENCODERS, f"one of {', '.join(ENCODERS)}"),
        ("feature_drop", 0 <= config["feature_drop"] < 1, "at least 0 and below 1"),
    ]
    bounds += [
        (
            name,
            are_numbers(config[name], 2) and 0 < config[name][0] <= config[name][1] <= 1,
            "two numbers above 0, ascending, at most 1",
        )
        for name in ("global_scale", "local_scale")
    ]
    check_bounds(bounds, config)
