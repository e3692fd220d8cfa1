"""Convolution of edge features over the dual hypergraph, without building the dual.

In the dual hypergraph every edge of the graph is a node and every node of the graph is a hyperedge that
joins the edges at it. One convolution is then: each edge averages the mean of all edges at its first end,
the mean of all edges at its second end, and itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .segments import SparseSum


@dataclass(frozen=True)
class DualHypergraph:
    """Incidence of edges and nodes with the normalisers, made once per batch and used by every layer.

    Attributes
    ----------
    source, target : Tensor
        (E,) int64 end points of each edge.
    node_scale : Tensor
        (N, 1), 1 / (edges at the node), 0 where the node joins fewer than two edges.
    edge_scale : Tensor
        (E, 1), 1 / (hyperedges of the edge, its own singleton included).
    at_node : SparseSum
        Sums the rows of the edges at each node.

    Examples
    --------
    >>> import torch
    >>> dual = DualHypergraph.from_edges(torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    >>> dual.node_scale.squeeze(1)
    tensor([0.0000, 0.5000, 0.0000])
    >>> dual.edge_scale.squeeze(1)
    tensor([0.5000, 0.5000])
    """

    source: Tensor
    target: Tensor
    node_scale: Tensor
    edge_scale: Tensor
    at_node: SparseSum

    @classmethod
    def from_edges(cls, edge_index: Tensor, num_nodes: int) -> "DualHypergraph":
        """Count the edges at each node.

        Parameters
        ----------
        edge_index : Tensor
            (2, E) int64 directed edges, without self loops; both directions of an edge count as two edges.
        num_nodes : int
            Number of nodes of the graph.

        Returns
        -------
        DualHypergraph
            On the device of ``edge_index``.
        """
        source, target = edge_index
        count = torch.bincount(edge_index.reshape(-1), minlength=num_nodes).float()
        # a hyperedge of one edge only repeats that edge, so it is dropped for the edge's private singleton
        joins = (count > 1).float()
        node_scale = joins / count.clamp(min=1)
        edge_scale = 1 / (1 + joins[source] + joins[target])
        edge = torch.arange(source.numel(), device=source.device)
        at_node = SparseSum.from_pairs(edge_index.reshape(-1), edge.repeat(2), num_nodes)
        return cls(source, target, node_scale.unsqueeze(1), edge_scale.unsqueeze(1), at_node)


class _Around(torch.autograd.Function):
    """Mean of the edges at both ends of each edge, plus itself: ``H B^-1 H^T e``.

    The matrix is symmetric, so the backward pass is the same sum over the gradient and nothing is kept for it.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, dual: DualHypergraph) -> Tensor:
        ctx.dual = dual
        mean = dual.at_node(e) * dual.node_scale.to(e.dtype)
        around = mean.index_select(0, dual.source)
        around += mean.index_select(0, dual.target)
        around += e
        return around

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Around.apply(gradient, ctx.dual), None


class HypergraphConv(nn.Module):
    """Hypergraph convolution on edge features, ``D^-1 H B^-1 H^T e W + b``.

    ``H`` is the incidence of edges and hyperedges (end points, and one singleton per edge), ``B`` the
    number of edges of a hyperedge, ``D`` the number of hyperedges of an edge.

    Parameters
    ----------
    in_dim, out_dim : int
        Widths of the edge features before and after.

    References
    ----------
    Jo et al., "Edge representation learning with hypergraphs", NeurIPS 2021;
    Zhuang et al., "Dynamic entity-masked graph diffusion model", AAAI 2025.

    Examples
    --------
    >>> import torch
    >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> HypergraphConv(3, 5)(torch.ones(4, 3), DualHypergraph.from_edges(edge_index, 3)).shape
    torch.Size([4, 5])
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(in_dim, out_dim)))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, edge_attr: Tensor, dual: DualHypergraph) -> Tensor:
        """Pass messages from edges to end points and back.

        Parameters
        ----------
        edge_attr : Tensor
            (E, in_dim).
        dual : DualHypergraph
            Incidence of the same E edges, in the same order.

        Returns
        -------
        Tensor
            (E, out_dim).
        """
        around = _Around.apply(edge_attr @ self.weight, dual)
        return torch.addcmul(self.bias, around, dual.edge_scale.to(around.dtype))
