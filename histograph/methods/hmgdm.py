"""H-MGDM: dynamic entity-masked graph diffusion.

*Nodes* are tissue entities (or cells), *edges* their adjacency, each with an attribute of its own. *Hidden*
is a fresh random subgraph at every step: a share of the nodes and, drawn independently, of the edges of
each graph. *Predicted* are the hidden attributes, from a noisy copy of them at a random noise level and
from what an encoder sees in the visible rest. After training the encoder alone embeds whole graphs.

The file reads top to bottom as a step runs: read the batch, split it, encode the visible part, add noise to
the hidden part, decode, compare.

Zhuang, Cen, Li, Zhou, Yu, Magnier and Wang, "Dynamic Entity-Masked Graph Diffusion Model for Histopathology
Image Representation Learning", AAAI 2025. Where the released code departs from the paper's figure or hides
too little, this follows the figure.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import (
    AttentionLayout,
    CrossAttention,
    Diffusion,
    DualHypergraph,
    GraphConv,
    HypergraphConv,
    SelfAttention,
    SparseSum,
    Standardise,
    TimeEmbedding,
    antithetic_times,
    edge_pairs,
    random_subset,
    segment_max,
    segment_mean,
)
from ..nn.bounds import check_bounds
from ..nn.diffusion import TARGETS, Schedule, Target
from .base import Embedding, Graphs, Method, check_finite, constructor_arguments
from .hmgdm_released import build_released

# At unit variance the sample drowns the mean of an untrained encoder, and the decoder learns to do without it.
_FIRST_LOGVAR = -6.0

POOLINGS = ("mean", "max", "mean_std")
REPRESENTATIONS = ("latent", "layers", "decoder")


@dataclass(frozen=True)
class _Graphs:
    """A batch as the network reads it: standardised attributes and who belongs to which graph."""

    x: Tensor  # (N, F)
    edge_index: Tensor  # (2, E)
    edge_attr: Tensor | None  # (E, D), None without edge latents
    batch: Tensor  # (N,)
    num_graphs: int


@dataclass(frozen=True)
class _Split:
    """A batch with its rows ordered by role, so that every role is a slice.

    Nodes: visible, hidden. Edges: between visible nodes, the other visible ones, hidden.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    node_batch: Tensor
    edge_batch: Tensor
    visible: int  # nodes [:visible] are the condition, nodes [visible:] the target
    condition: int  # edges [:condition] are the condition
    known: int  # edges [condition:known] are visible but touch a hidden node, edges [known:] are the target


@dataclass(frozen=True)
class _Encoded:
    """What the encoder says: features after every layer, and the posterior of the last."""

    node_layers: list[Tensor]
    edge_layers: list[Tensor]
    node_mean: Tensor
    node_logvar: Tensor
    edge_mean: Tensor | None
    edge_logvar: Tensor | None


def _posterior_head(dim: int, latent_dim: int, start: float = 0.0) -> nn.Sequential:
    """Map features to the mean or the log variance of the latent, through a bottleneck."""
    narrow = max(dim // 4, 8)
    head = nn.Sequential(nn.Linear(dim, narrow), nn.ReLU(), nn.Linear(narrow, latent_dim))
    if start:
        nn.init.constant_(cast(Tensor, head[-1].bias), start)
    return head


class _Encoder(nn.Module):
    """Convolutions of nodes and, on the dual hypergraph, of edges; edge features gate the next node layer."""

    def __init__(self, dim: int, latent_dim: int, layers: int, edge_latents: bool) -> None:
        super().__init__()
        self.node_convs = nn.ModuleList(GraphConv(dim, dim) for _ in range(layers))
        self.node_mean = _posterior_head(dim, latent_dim)
        self.node_logvar = _posterior_head(dim, latent_dim, _FIRST_LOGVAR)
        self.edge_latents = edge_latents
        if edge_latents:
            self.edge_convs = nn.ModuleList(HypergraphConv(dim, dim) for _ in range(layers))
            self.gates = nn.ModuleList(HypergraphConv(dim, 1) for _ in range(layers - 1))
            self.edge_mean = _posterior_head(dim, latent_dim)
            self.edge_logvar = _posterior_head(dim, latent_dim, _FIRST_LOGVAR)

    def forward(self, x: Tensor, e: Tensor | None, edge_index: Tensor) -> _Encoded:
        nodes: list[Tensor] = []
        edges: list[Tensor] = []
        last = len(self.node_convs) - 1
        dual = DualHypergraph.from_edges(edge_index, x.shape[0]) if e is not None else None
        incoming = SparseSum.from_pairs(edge_index[1], edge_index[0], x.shape[0])
        weight = None
        for layer, conv in enumerate(self.node_convs):
            x = conv(x, incoming, weight)
            x = x if layer == last else F.relu(x)
            nodes.append(x)
            if e is None:
                continue
            e = self.edge_convs[layer](e, dual)
            e = e if layer == last else F.relu(e)
            edges.append(e)
            if layer < last:
                weight = torch.tanh(self.gates[layer](e, dual)).squeeze(1).clamp(0, 1)
        return _Encoded(
            nodes,
            edges,
            self.node_mean(x),
            self.node_logvar(x),
            None if e is None else self.edge_mean(e),
            None if e is None else self.edge_logvar(e),
        )


class _Transformer(nn.Module):
    """Pre-norm transformer inside each graph, over visible and hidden rows together."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.attentions = nn.ModuleList(SelfAttention(dim, heads) for _ in range(depth))
        self.feed_forwards = nn.ModuleList(_feed_forward(dim, dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, layout: AttentionLayout) -> Tensor:
        for norm, attention, feed_forward in zip(
            self.norms, self.attentions, self.feed_forwards, strict=True
        ):
            x = x + attention(norm(x), layout)
            x = x + feed_forward(x)
        return self.norm(x)


def _feed_forward(dim: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))


class _Reader(nn.Module):
    """Decoder sub-block of nodes or of edges: hidden rows read the visible ones, which then take the skip."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, heads)
        self.conv_norm = nn.LayerNorm(dim)
        self.feed_forward = _feed_forward(dim, max(dim // 2, 8))

    def read(
        self, rows: Tensor, skip: Tensor | None, known: int, first: int, layout: AttentionLayout
    ) -> Tensor:
        """Let rows [first:], the hidden ones, read the condition [:known]; a skip takes its place."""
        context = rows[:known] if skip is None else skip
        hidden = rows[first:]
        hidden = hidden + self.attention(self.query_norm(hidden), self.context_norm(context), layout)
        return torch.cat([context.to(hidden.dtype), rows[known:first].to(hidden.dtype), hidden])


class _DecoderBlock(nn.Module):
    """Cross attention to an encoder layer, convolution over the whole graph, feed-forward; all residual."""

    def __init__(self, dim: int, heads: int, edge_latents: bool) -> None:
        super().__init__()
        self.node, self.node_conv = _Reader(dim, heads), GraphConv(dim, dim)
        if edge_latents:
            self.edge, self.edge_conv = _Reader(dim, heads), HypergraphConv(dim, dim)

    def mix_nodes(self, x: Tensor, incoming: SparseSum) -> Tensor:
        x = x + F.relu(self.node_conv(self.node.conv_norm(x), incoming))
        return x + self.node.feed_forward(x)

    def mix_edges(self, e: Tensor, dual: DualHypergraph) -> Tensor:
        e = e + self.edge_conv(self.edge.conv_norm(e), dual)
        return e + self.edge.feed_forward(e)


class _Decoder(nn.Module):
    """Predict the hidden rows from their noisy copy, the time, and the encoder's view of the visible rows."""

    def __init__(
        self,
        dims: tuple[int, int],
        dim: int,
        latent_dim: int,
        layers: int,
        heads: int,
        joint_depth: int,
        edge_latents: bool,
        skips: bool,
    ) -> None:
        super().__init__()
        self.edge_latents, self.skips = edge_latents, skips
        self.time = TimeEmbedding(dim)
        self.node_query, self.node_latent = nn.Linear(dim, dim), nn.Linear(latent_dim, dim)
        self.node_joint = _Transformer(dim, heads, joint_depth)
        self.node_head = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dims[0])
        )
        if edge_latents:
            self.edge_query, self.edge_latent = nn.Linear(dim, dim), nn.Linear(latent_dim, dim)
            self.edge_joint = _Transformer(dim, heads, joint_depth)
            self.edge_head = nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dims[1])
            )
        self.blocks = nn.ModuleList(_DecoderBlock(dim, heads, edge_latents) for _ in range(layers - 1))

    def forward(
        self,
        split: _Split,
        encoded: _Encoded,
        latents: tuple[Tensor, Tensor | None],
        rows: tuple[Tensor, Tensor | None],
        time: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the hidden attributes, of nodes and of edges; arguments as in `rows`."""
        x, e = self.rows(split, encoded, latents, rows, time)
        return self.node_head(x), None if e is None else self.edge_head(e)

    def rows(
        self,
        split: _Split,
        encoded: _Encoded,
        latents: tuple[Tensor, Tensor | None],
        rows: tuple[Tensor, Tensor | None],
        time: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Decode up to the heads: features of the hidden nodes and of the hidden edges.

        `latents` are the samples of the visible nodes and condition edges, `rows` the embedded hidden nodes
        (noisy) and the embedded edges beyond the condition (hidden ones noisy, known ones clean), `time`
        the (G,) times.
        """
        num_graphs, visible = time.numel(), split.visible
        tau = self.time(time)
        node_tau = tau.index_select(0, split.node_batch)
        x = torch.cat([self.node_latent(latents[0]), self.node_query(rows[0])]) + node_tau
        x = self.node_joint(x, AttentionLayout(split.node_batch, split.node_batch, num_graphs))
        node_reads = AttentionLayout(split.node_batch[visible:], split.node_batch[:visible], num_graphs)
        e: Tensor | None = None
        if latents[1] is not None and rows[1] is not None:
            edge_tau = tau.index_select(0, split.edge_batch)
            e = torch.cat([self.edge_latent(latents[1]), self.edge_query(rows[1])]) + edge_tau
            e = self.edge_joint(e, AttentionLayout(split.edge_batch, split.edge_batch, num_graphs))
            edge_reads = AttentionLayout(
                split.edge_batch[split.known :], split.edge_batch[: split.condition], num_graphs
            )
            dual = DualHypergraph.from_edges(split.edge_index, x.shape[0])
        incoming = SparseSum.from_pairs(split.edge_index[1], split.edge_index[0], x.shape[0])
        for layer in reversed(range(len(self.blocks))):
            block = cast(_DecoderBlock, self.blocks[layer])
            skip = encoded.node_layers[layer] + node_tau[:visible] if self.skips else None
            x = block.node.read(x + node_tau, skip, visible, visible, node_reads)
            x = block.mix_nodes(x, incoming)
            if e is not None:
                skip = encoded.edge_layers[layer] + edge_tau[: split.condition] if self.skips else None
                e = block.edge.read(e + edge_tau, skip, split.condition, split.known, edge_reads)
                e = block.mix_edges(e, dual)
        return x[visible:], None if e is None else e[split.known :]


class HMGDM(Method):
    """Dynamic entity-masked graph diffusion model.

    The loss is ``kl_weight * KL + node_weight * mse(hidden nodes) + edge_weight * mse(hidden edges)``, all
    means over entries. Positions are not read; give relative ones as edge attributes (length, dx, dy) if
    they shall count. The result does not depend on the order of nodes or edges.

    Parameters
    ----------
    node_dim : int
        Columns of ``x``.
    edge_dim : int
        Columns of ``edge_attr``; 0 when edges have none.
    hidden_dim : int
        Width of all layers, divisible by ``heads``.
    latent_dim : int, optional
        Width of the representation; ``hidden_dim`` by default.
    layers : int
        Encoder layers, at least 2.
    heads : int
        Attention heads of the decoder.
    joint_depth : int
        Depth of the decoder's transformer over visible and hidden rows together. Its attention between
        edges is the most expensive part of a step.
    node_mask_ratio, edge_mask_ratio : float
        Hidden share of the nodes and edges of each graph, rounded down; in (0, 1) and [0, 1).
    paired_edges : bool, optional
        Hide both directions of an edge together, the default; else each by itself, and the visible direction tells
        the length of the hidden one.
    timesteps : int
        Noise levels.
    schedule : {"sigmoid", "linear", "quad", "const", "jsd", "cosine"}
        See :func:`histograph.nn.beta_schedule`.
    beta_start, beta_end : float, optional
        Ends of the schedule; see there.
    target : {"x0", "step", "epsilon"}
        What is predicted: the clean attributes, one deterministic step towards them, or the noise.
    edge_latents : bool, optional
        Whether edges have features of their own; by default when ``edge_dim`` is above 0. Without,
        ``edge_attr`` is not read and edges only carry messages (ablation).
    skips : bool
        Whether each decoder block reads an encoder layer; without, it reads the latents only (ablation).
    fixed_time : int, optional
        One noise level for all graphs, ``0 .. timesteps - 1``; random by default (ablation).
    kl_weight, node_weight, edge_weight : float
        Weights of the three terms. The released ``kl_weight`` of 1 makes the latent collapse to its prior
        when the skips can carry everything, so the default is far smaller, 1e-3.
    pooling : {"mean", "max", "mean_std"}
        How node vectors make the graph vector; the last has twice the width.
    representation : {"latent", "layers", "decoder"}
        What `encode` gives; the loss is the same. "latent": the posterior mean, as in the paper; it passes a narrow
        bottleneck that only keeps what helps to restore neighbours. "layers": the input embedding and all encoder
        layers side by side, ``(layers + 1) * hidden_dim`` wide, which keep more of the node itself. "decoder": what
        the diffusion decoder makes of each node, ``hidden_dim`` wide, when it is shown the node without noise but as
        if at level `read_time`, and the whole graph as condition. Its attention spans a graph: give it windows.
    read_time : int, optional
        Noise level that the representation "decoder" assumes, ``0 .. timesteps - 1``; by default `fixed_time`, or
        half of `timesteps`.
    clip : float, optional
        Standardised features are clipped at this many standard deviations, 5 by default.
    official_compat : bool
        Use the released network with its oddities (:mod:`histograph.methods.hmgdm_released` lists them), for released
        weights or for comparison. Nothing is standardised, masks are drawn over the whole batch, ``kl_weight`` is 1
        by default, and with ``fixed_time`` the later half of the graphs gets ``timesteps - 1 - fixed_time``.
        `encode` gives the posterior mean, where the released code draws a sample.
    embed_dim : int, optional
        Width of the embedded attributes of the released network, 512 by default; only with ``official_compat``.
    theta : float, optional
        Base of its rotary frequencies, 1000 by default; only with ``official_compat``.

    Raises
    ------
    ValueError
        If an argument is outside its range, or asks for what the form that is chosen cannot do.

    References
    ----------
    Zhuang et al., AAAI 2025, vol. 39 no. 10, pp. 11058-11066.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> graph = Data(x=torch.randn(4, 5), edge_index=edge_index, edge_attr=torch.ones(4, 1))
    >>> method = HMGDM(node_dim=5, edge_dim=1, hidden_dim=16)
    >>> sorted(method(graph))
    ['edge', 'kl', 'loss', 'node']
    >>> method.encode(graph).graph.shape
    torch.Size([1, 16])
    """

    reads = ("x", "edge_index", "edge_attr")

    def __init__(
        self,
        node_dim: int,
        edge_dim: int = 0,
        hidden_dim: int = 256,
        latent_dim: int | None = None,
        layers: int = 3,
        heads: int = 4,
        joint_depth: int = 2,
        node_mask_ratio: float = 0.6,
        edge_mask_ratio: float = 0.6,
        paired_edges: bool | None = None,
        timesteps: int = 1000,
        schedule: Schedule = "sigmoid",
        beta_start: float | None = None,
        beta_end: float | None = None,
        target: Target = "x0",
        edge_latents: bool | None = None,
        skips: bool = True,
        fixed_time: int | None = None,
        kl_weight: float | None = None,
        node_weight: float = 0.5,
        edge_weight: float = 0.5,
        pooling: Literal["mean", "max", "mean_std"] = "mean",
        representation: Literal["latent", "layers", "decoder"] = "latent",
        read_time: int | None = None,
        clip: float | None = None,
        official_compat: bool = False,
        embed_dim: int | None = None,
        theta: float | None = None,
    ) -> None:
        config = constructor_arguments(locals())
        super().__init__(config)
        _check_arguments(config)
        self.released = build_released(config) if official_compat else None
        if self.released is not None:
            return
        self.node_dim, self.edge_dim = node_dim, edge_dim
        self.edge_latents = edge_dim > 0 if edge_latents is None else edge_latents
        self.node_mask_ratio, self.edge_mask_ratio, self.paired_edges = (
            node_mask_ratio,
            edge_mask_ratio,
            paired_edges is not False,
        )
        self.target, self.fixed_time, self.pooling = target, fixed_time, pooling
        self.representation = representation
        assumed = timesteps // 2 if fixed_time is None else fixed_time
        self.read_time = assumed if read_time is None else read_time
        self.weights = {
            "kl": 1e-3 if kl_weight is None else kl_weight,
            "node": node_weight,
            "edge": edge_weight,
        }
        latent = hidden_dim if latent_dim is None else latent_dim

        clip = 5.0 if clip is None else clip
        self.diffusion = Diffusion(schedule, timesteps, beta_start, beta_end)
        self.node_scale = Standardise(node_dim, clip)
        self.node_embed = nn.Sequential(nn.Linear(node_dim, hidden_dim), nn.GELU())
        if self.edge_latents:
            self.edge_scale = Standardise(edge_dim, clip)
            self.edge_embed = nn.Sequential(nn.Linear(edge_dim, hidden_dim), nn.GELU())
        self.encoder = _Encoder(hidden_dim, latent, layers, self.edge_latents)
        self.decoder = _Decoder(
            (node_dim, edge_dim), hidden_dim, latent, layers, heads, joint_depth, self.edge_latents, skips
        )

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Fit the standardisation over all graphs, once in the life of the weights.

        Parameters
        ----------
        epoch : int
            Number of the epoch; nothing is done after the first.
        dataset : sequence of Data
            All training graphs.

        Raises
        ------
        ValueError
            If a graph has other columns than expected, or features that are not finite.
        """
        if self.released is not None or epoch > 0 or bool(self.node_scale.fitted):
            return
        self.node_scale.fit(self._read_x(dataset[i]) for i in range(len(dataset)))
        if self.edge_latents:
            self.edge_scale.fit(self._read_edge_attr(dataset[i]) for i in range(len(dataset)))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Hide, noise, predict and compare.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (N, node_dim), ``edge_index`` (2, E), and ``edge_attr`` (E, edge_dim) with edge latents.

        Returns
        -------
        dict of str to Tensor
            ``loss``, and detached ``kl``, ``node`` and, with edge latents, ``edge``.

        Raises
        ------
        ValueError
            If the columns are not those of the constructor.
        """
        if self.released is not None:
            return self.released(batch)
        graphs = self._read(batch)
        split = self._split(graphs, *self._masks(graphs))
        encoded = self._condition(split)
        latents = self._sample(encoded)
        time = self._times(graphs.num_graphs, graphs.x.device)

        hidden = split.x[split.visible :]
        node_time = time[split.node_batch[split.visible :]]
        noise = torch.randn_like(hidden)
        noisy = self.diffusion.noisy(hidden, noise, node_time)
        edge_rows, edge_goal = None, None
        if split.edge_attr is not None:
            hidden_edges = split.edge_attr[split.known :]
            edge_time = time[split.edge_batch[split.known :]]
            edge_noise = torch.randn_like(hidden_edges)
            edge_rows = torch.cat(
                [
                    split.edge_attr[split.condition : split.known],
                    self.diffusion.noisy(hidden_edges, edge_noise, edge_time),
                ]
            )
            edge_goal = self.diffusion.target(self.target, hidden_edges, edge_noise, edge_time)

        node_out, edge_out = self._denoise(split, encoded, latents, noisy, edge_rows, time)
        terms = {
            "kl": self._kl(encoded),
            "node": _mean_square(node_out, self.diffusion.target(self.target, hidden, noise, node_time)),
        }
        if edge_out is not None and edge_goal is not None:
            terms["edge"] = _mean_square(edge_out, edge_goal)
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}

    def encode(self, batch: Any) -> Embedding:
        """Embed whole graphs: node and edge vectors, and the node vectors pooled over each graph.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`forward`.

        Returns
        -------
        Embedding
            ``node`` (N, D), ``graph`` (G, D, or twice that for ``mean_std``), ``edge`` (E, D) or None, with D =
            ``latent_dim``, ``(layers + 1) * hidden_dim`` for the representation "layers", or ``hidden_dim`` for
            "decoder", which has no edge vectors. The same for every call.
        """
        if self.released is not None:
            return self.released.encode(batch)
        graphs = self._read(batch)
        if self.representation == "decoder":
            node = self._decode_whole(graphs)
            return Embedding(node, self._pool(node, graphs))
        e = None if graphs.edge_attr is None else self.edge_embed(graphs.edge_attr)
        x = self.node_embed(graphs.x)
        encoded = self.encoder(x, e, graphs.edge_index)
        node, edge = encoded.node_mean, encoded.edge_mean
        if self.representation == "layers":
            node = torch.cat([x, *encoded.node_layers], dim=1)
            edge = None if e is None else torch.cat([e, *encoded.edge_layers], dim=1)
        return Embedding(node, self._pool(node, graphs), edge)

    def _pool(self, z: Tensor, graphs: _Graphs) -> Tensor:
        if self.pooling == "max":
            return segment_max(z, graphs.batch, graphs.num_graphs)
        mean = segment_mean(z, graphs.batch, graphs.num_graphs)
        if self.pooling == "mean":
            return mean
        variance = segment_mean((z - mean[graphs.batch]).square(), graphs.batch, graphs.num_graphs)
        return torch.cat([mean, (variance + 1e-12).sqrt()], dim=1)

    def _read_x(self, data: Any) -> Tensor:
        x = data.x
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != self.node_dim:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must have shape (N, node_dim = {self.node_dim}), found {found}")
        return x

    def _read_edge_attr(self, data: Any) -> Tensor:
        edge_attr, count = data.edge_attr, data.edge_index.shape[1]
        if not isinstance(edge_attr, Tensor) or edge_attr.shape != (count, self.edge_dim):
            found = tuple(edge_attr.shape) if isinstance(edge_attr, Tensor) else type(edge_attr).__name__
            raise ValueError(
                f"edge_attr must have shape (E = {count}, edge_dim = {self.edge_dim}), found {found}; "
                "give HMGDM the right edge_dim, or edge_dim=0 for edges without attributes"
            )
        return edge_attr

    def _read(self, batch: Any) -> _Graphs:
        x = self._read_x(batch)
        check_finite("x", x)
        x = self.node_scale(x.to(self.node_scale.mean.dtype))
        e = None
        if self.edge_latents:
            e = self._read_edge_attr(batch)
            check_finite("edge_attr", e)
            e = self.edge_scale(e.to(x.dtype))
        index = getattr(batch, "batch", None)
        if index is None:
            return _Graphs(
                x, batch.edge_index, e, torch.zeros(x.shape[0], dtype=torch.long, device=x.device), 1
            )
        ptr = getattr(batch, "ptr", None)
        num_graphs = ptr.numel() - 1 if ptr is not None else int(index.max()) + 1 if index.numel() else 0
        return _Graphs(x, batch.edge_index, e, index, num_graphs)

    def _masks(self, graphs: _Graphs) -> tuple[Tensor, Tensor]:
        """Draw which nodes and which edges are hidden."""
        hidden_nodes = random_subset(graphs.batch, graphs.num_graphs, self.node_mask_ratio)
        if not self.paired_edges:
            batch = graphs.batch[graphs.edge_index[0]]
            return hidden_nodes, random_subset(batch, graphs.num_graphs, self.edge_mask_ratio)
        pair, node = edge_pairs(graphs.edge_index, graphs.x.shape[0])
        hidden_pairs = random_subset(graphs.batch[node], graphs.num_graphs, self.edge_mask_ratio)
        return hidden_nodes, hidden_pairs[pair]

    def _split(self, graphs: _Graphs, hidden_nodes: Tensor, hidden_edges: Tensor) -> _Split:
        """Reorder the rows by their role."""
        node_order = hidden_nodes.byte().argsort(stable=True)
        place = torch.empty_like(node_order)
        place[node_order] = torch.arange(node_order.numel(), device=node_order.device)
        role = torch.where(hidden_edges, 2, hidden_nodes[graphs.edge_index].any(0).long())
        edge_order = role.argsort(stable=True)
        node_batch = graphs.batch[node_order]
        edge_index = place[graphs.edge_index[:, edge_order]]
        return _Split(
            x=graphs.x[node_order],
            edge_index=edge_index,
            edge_attr=None if graphs.edge_attr is None else graphs.edge_attr[edge_order],
            node_batch=node_batch,
            edge_batch=node_batch[edge_index[0]],
            visible=int((~hidden_nodes).sum()),
            condition=int((role == 0).sum()),
            known=int((role < 2).sum()),
        )

    def _condition(self, split: _Split) -> _Encoded:
        """Encode the visible subgraph, which holds no trace of the hidden attributes."""
        e = None if split.edge_attr is None else self.edge_embed(split.edge_attr[: split.condition])
        x = self.node_embed(split.x[: split.visible])
        return self.encoder(x, e, split.edge_index[:, : split.condition])

    def _sample(self, encoded: _Encoded) -> tuple[Tensor, Tensor | None]:
        """Draw latents from the posterior; evaluation takes the mean."""
        nodes = _reparameterise(encoded.node_mean, encoded.node_logvar, self.training)
        if encoded.edge_mean is None or encoded.edge_logvar is None:
            return nodes, None
        return nodes, _reparameterise(encoded.edge_mean, encoded.edge_logvar, self.training)

    def _times(self, num_graphs: int, device: torch.device) -> Tensor:
        if self.fixed_time is not None:
            return torch.full((num_graphs,), self.fixed_time, dtype=torch.long, device=device)
        return antithetic_times(num_graphs, self.diffusion.timesteps, device)

    def _denoise(
        self,
        split: _Split,
        encoded: _Encoded,
        latents: tuple[Tensor, Tensor | None],
        noisy: Tensor,
        edge_rows: Tensor | None,
        time: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        edge_rows = None if edge_rows is None else self.edge_embed(edge_rows)
        return self.decoder(split, encoded, latents, (self.node_embed(noisy), edge_rows), time)

    def _decode_whole(self, graphs: _Graphs) -> Tensor:
        """Give the decoder's features of every node: each is in the condition, and once more as a hidden copy.

        A copy has edges only from its neighbours in the condition; copies meet in the joint attention, as hidden
        nodes do in training. No mask is drawn, so the result depends on nothing but the graph.
        """
        count, edges = graphs.x.shape[0], graphs.edge_index.shape[1]
        into_copies = graphs.edge_index + graphs.edge_index.new_tensor([[0], [count]])
        e = graphs.edge_attr
        split = _Split(
            x=torch.cat([graphs.x, graphs.x]),
            edge_index=torch.cat([graphs.edge_index, into_copies], dim=1),
            edge_attr=None if e is None else torch.cat([e, e]),
            node_batch=graphs.batch.repeat(2),
            edge_batch=graphs.batch[graphs.edge_index[0]].repeat(2),
            visible=count,
            condition=edges,
            known=2 * edges,
        )
        encoded = self._condition(split)
        time = torch.full((graphs.num_graphs,), self.read_time, dtype=torch.long, device=graphs.x.device)
        faded = self.diffusion.noisy(graphs.x, torch.zeros_like(graphs.x), time[graphs.batch])
        rows = self.node_embed(faded), None if e is None else self.edge_embed(e)
        x, _ = self.decoder.rows(split, encoded, (encoded.node_mean, encoded.edge_mean), rows, time)
        return self.decoder.node_head[0](x)

    def _kl(self, encoded: _Encoded) -> Tensor:
        kl = _gaussian_kl(encoded.node_mean, encoded.node_logvar)
        if encoded.edge_mean is None or encoded.edge_logvar is None:
            return kl
        return kl + _gaussian_kl(encoded.edge_mean, encoded.edge_logvar)


def _reparameterise(mean: Tensor, logvar: Tensor, sample: bool) -> Tensor:
    return mean + (logvar / 2).exp() * torch.randn_like(mean) if sample else mean


def _gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of N(mean, exp(logvar)) from N(0, 1), mean over entries; 0 without entries."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (logvar.exp() + mean.square() - 1 - logvar).sum() / max(mean.numel(), 1)


def _mean_square(out: Tensor, goal: Tensor) -> Tensor:
    """Mean squared error over entries; 0 without entries."""
    return F.mse_loss(out.float(), goal.float(), reduction="sum") / max(goal.numel(), 1)


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    bounds = [
        ("node_dim", config["node_dim"] >= 1, "at least 1"),
        ("edge_dim", config["edge_dim"] >= 0, "at least 0"),
        ("hidden_dim", config["hidden_dim"] >= 4, "at least 4"),
        ("latent_dim", config["latent_dim"] is None or config["latent_dim"] >= 1, "at least 1, or None"),
        ("layers", config["layers"] >= 2, "at least 2: decoder blocks read the layers before the last"),
        ("joint_depth", config["joint_depth"] >= 1, "at least 1"),
        ("node_mask_ratio", 0 < config["node_mask_ratio"] < 1, "between 0 and 1, both excluded"),
        ("edge_mask_ratio", 0 <= config["edge_mask_ratio"] < 1, "at least 0 and below 1"),
        ("target", config["target"] in TARGETS, f"one of {', '.join(TARGETS)}"),
        ("pooling", config["pooling"] in POOLINGS, f"one of {', '.join(POOLINGS)}"),
        (
            "representation",
            config["representation"] in REPRESENTATIONS,
            f"one of {', '.join(REPRESENTATIONS)}",
        ),
        ("clip", config["clip"] is None or config["clip"] > 0, "above 0, or None"),
        (
            "fixed_time",
            config["fixed_time"] is None or 0 <= config["fixed_time"] < config["timesteps"],
            f"in 0 .. timesteps - 1 = {config['timesteps'] - 1}, or None",
        ),
        (
            "read_time",
            config["read_time"] is None or 0 <= config["read_time"] < config["timesteps"],
            f"in 0 .. timesteps - 1 = {config['timesteps'] - 1}, or None",
        ),
        (
            "edge_latents",
            not (config["edge_latents"] and config["edge_dim"] == 0),
            "False or None when edge_dim is 0: there are no edge attributes to encode",
        ),
    ]
    bounds += [
        (name, config["official_compat"] or config[name] is None, "None, or official_compat True")
        for name in ("embed_dim", "theta")
    ]
    bounds += [
        (name, config[name] is None or config[name] >= 0, "at least 0")
        for name in ("kl_weight", "node_weight", "edge_weight")
    ]
    check_bounds(bounds, config)
