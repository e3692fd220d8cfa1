"""Layers of the released H-MGDM, from which :mod:`histograph.methods.hmgdm_released` is put together."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import AttentionLayout, CrossAttention, DualHypergraph, GraphConv, HypergraphConv, SelfAttention

# widths inside the posterior maps, whatever the width of the rest
_POSTERIOR_WIDTHS = (256, 64)


@dataclass(frozen=True)
class ReleasedEncoding:
    """What the released encoder says of all nodes and of the edges that it was given.

    Attributes
    ----------
    node_layers, edge_layers : list of Tensor
        (N, h) and (E', h) features after each layer.
    node_mean, node_logvar, edge_mean, edge_logvar : Tensor
        Posterior; the log variance of the nodes is their mean.

    Examples
    --------
    >>> import torch
    >>> one = torch.zeros(1, 2)
    >>> ReleasedEncoding([one], [one], one, one, one, one).sample(torch.ones(1, 2), one)[0]
    tensor([[1., 1.]])
    """

    node_layers: list[Tensor]
    edge_layers: list[Tensor]
    node_mean: Tensor
    node_logvar: Tensor
    edge_mean: Tensor
    edge_logvar: Tensor

    def sample(self, node_eps: Tensor, edge_eps: Tensor) -> tuple[Tensor, Tensor]:
        """Draw latents with given noise, ``m + exp(logvar / 2) eps``, of nodes (N, h) and edges (E', h)."""
        return (
            self.node_mean + (self.node_logvar / 2).exp() * node_eps,
            self.edge_mean + (self.edge_logvar / 2).exp() * edge_eps,
        )

    def kl(self) -> Tensor:
        """Divergence from N(0, 1), ``mean(exp(lv) + m^2 - 1 - lv) / 2``, of nodes plus that of edges."""
        pairs = (
            (self.node_mean.float(), self.node_logvar.float()),
            (self.edge_mean.float(), self.edge_logvar.float()),
        )
        return torch.stack([0.5 * mean_entry(v.exp() + m.square() - 1 - v) for m, v in pairs]).sum()


class ReleasedLayers(nn.Module):
    """Input maps, convolutions of nodes and edges, and posterior maps: the encoder, and each decoder layer.

    Parameters
    ----------
    in_dim, dim : int
        Widths before and after.
    layers : int
        Number of convolutions; with more than one, edge features gate the next node layer.
    decoder : bool
        A decoder layer ends its node path in ReLU, and none of its posterior maps is used.

    Examples
    --------
    >>> import torch
    >>> layers = ReleasedLayers(4, 8, layers=2)
    >>> encoding = layers.encode(torch.ones(2, 4), torch.ones(2, 4), torch.tensor([[0, 1], [1, 0]]))
    >>> encoding.node_mean.shape
    torch.Size([2, 8])
    """

    def __init__(self, in_dim: int, dim: int, layers: int, decoder: bool = False) -> None:
        super().__init__()
        self.decoder = decoder
        widths = [in_dim] + [dim] * layers
        self.node_in, self.edge_in = nn.Linear(in_dim, in_dim), nn.Linear(in_dim, in_dim)
        self.node_convs = nn.ModuleList(GraphConv(a, b) for a, b in pairwise(widths))
        self.edge_convs = nn.ModuleList(HypergraphConv(a, b) for a, b in pairwise(widths))
        self.gates = nn.ModuleList(HypergraphConv(dim, 1) for _ in range(layers - 1))
        self.edge_mean, self.edge_logvar = _posterior_map(dim, "mean"), _posterior_map(dim, "logvar")
        self.node_mean, self.node_logvar = _posterior_map(dim, "mean"), _posterior_map(dim, "logvar")
        unused = (self.edge_mean, self.edge_logvar, self.node_mean) if decoder else ()
        for module in (self.node_logvar, *unused):
            module.requires_grad_(False)

    def forward(self, x: Tensor, e: Tensor, edge_index: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Give the features of nodes (N, dim) and edges (E, dim) after every layer."""
        dual = DualHypergraph.from_edges(edge_index, x.shape[0])
        x, e, weight = self.node_in(x), self.edge_in(e), None
        nodes, edges = [], []
        last = len(self.node_convs) - 1
        for layer, (node_conv, edge_conv) in enumerate(zip(self.node_convs, self.edge_convs, strict=True)):
            x, e = node_conv(x, edge_index, weight), edge_conv(e, dual)
            x = F.relu(x) if layer < last or self.decoder else x
            e = F.relu(e) if layer < last else e
            nodes.append(x)
            edges.append(e)
            if layer < last:
                weight = torch.tanh(self.gates[layer](e, dual)).squeeze(1).clamp(0, 1)
        return nodes, edges

    def encode(self, x: Tensor, e: Tensor, edge_index: Tensor) -> ReleasedEncoding:
        """Give the features after every layer and the posterior of the last."""
        nodes, edges = self(x, e, edge_index)
        mean = self.node_mean(nodes[-1])
        return ReleasedEncoding(
            nodes, edges, mean, mean, self.edge_mean(edges[-1]), self.edge_logvar(edges[-1])
        )


class ReleasedTransformer(nn.Module):
    """Pre-norm transformer over visible and hidden rows; its feed-forward has no residual.

    Parameters
    ----------
    dim, heads, depth : int
        Width, attention heads and number of layers.

    Examples
    --------
    >>> import torch
    >>> one_block = torch.zeros(3, dtype=torch.long)
    >>> ReleasedTransformer(8, 2, 1)(torch.ones(3, 8), AttentionLayout(one_block, one_block, 1)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.attentions = nn.ModuleList(SelfAttention(dim, heads) for _ in range(depth))
        self.feed_forwards = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, layout: AttentionLayout) -> Tensor:
        """Mix the rows (N, dim); the released network puts all rows of the batch in one block."""
        for norm, attention, feed_forward in zip(
            self.norms, self.attentions, self.feed_forwards, strict=True
        ):
            x = feed_forward(x + attention(norm(x), layout))
        return self.norm(x)


class ReleasedReader(nn.Module):
    """Cross attention inside each graph, one norm for queries and what they read.

    Parameters
    ----------
    dim, heads : int
        Width and attention heads.

    Examples
    --------
    >>> import torch
    >>> layout = AttentionLayout(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    >>> reader = ReleasedReader(8, 2)
    >>> bool((reader(torch.ones(2, 8), torch.ones(2, 8), layout)[1] == reader.attention.out.bias).all())
    True
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, heads)
        # Xavier for the three input maps as one matrix
        bound = (6 / (4 * dim)) ** 0.5
        for projection in (self.attention.query, self.attention.key_value):
            nn.init.uniform_(projection.weight, -bound, bound)
            nn.init.zeros_(projection.bias)

    def forward(self, rows: Tensor, context: Tensor, layout: AttentionLayout) -> Tensor:
        """Let rows (N, dim) read context rows (M, dim); a row with nothing to read gets the output bias."""
        return self.attention(self.norm(rows), self.norm(context), layout)


class ReleasedBlock(nn.Module):
    """Parts of a decoder block: hidden rows read an encoder layer, visible rows become it; convolve; affine maps.

    Parameters
    ----------
    dim, heads : int
        Width and attention heads.

    Examples
    --------
    >>> import torch
    >>> ReleasedBlock(8, 2).node_out(torch.ones(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.node_reader, self.edge_reader = ReleasedReader(dim, heads), ReleasedReader(dim, heads)
        self.layers = ReleasedLayers(dim, dim, layers=1, decoder=True)
        self.node_out, self.edge_out = affine_pair(dim, dim // 2, dim), affine_pair(dim, dim // 2, dim)


def affine_pair(first: int, second: int, third: int) -> nn.Sequential:
    """Chain two affine maps without activation between, of widths ``first -> second -> third``.

    Parameters
    ----------
    first, second, third : int
        Widths.

    Returns
    -------
    torch.nn.Sequential
        The maps.

    Examples
    --------
    >>> len(affine_pair(4, 2, 3))
    2
    """
    return nn.Sequential(nn.Linear(first, second), nn.Linear(second, third))


def mean_entry(values: Tensor) -> Tensor:
    """Average over all entries; 0 without entries.

    Parameters
    ----------
    values : Tensor
        Any shape.

    Returns
    -------
    Tensor
        Scalar, float32.

    Examples
    --------
    >>> import torch
    >>> mean_entry(torch.ones(2, 3)), mean_entry(torch.ones(0, 3))
    (tensor(1.), tensor(0.))
    """
    return values.float().sum() / max(values.numel(), 1)


def _posterior_map(dim: int, kind: Literal["mean", "logvar"]) -> nn.Sequential:
    wide, narrow = _POSTERIOR_WIDTHS
    maps = nn.Linear(dim, wide), nn.Linear(wide, narrow), nn.Linear(narrow, dim)
    if kind == "mean":
        return nn.Sequential(maps[0], maps[1], nn.ReLU(), maps[2])
    return nn.Sequential(*maps, nn.ReLU())
