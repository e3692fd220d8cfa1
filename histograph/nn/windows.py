"""Windows of graphs: rectangles that hold a share of the nodes, and the subgraphs that they induce."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subgraphs:
    """Several subgraphs of one batch of graphs, laid side by side as one graph.

    Attributes
    ----------
    node : Tensor
        (M,) int64, the row of each node in the batch that it comes from.
    edge : Tensor
        (E',) int64, the column of each edge.
    edge_index : Tensor
        (2, E') int64, among the M nodes.
    batch : Tensor
        (M,) int64, the number of the subgraph.
    """

    node: Tensor
    edge: Tensor
    edge_index: Tensor
    batch: Tensor


def random_window(
    pos: Tensor, scale: tuple[float, float], generator: torch.Generator | None = None
) -> Tensor:
    """Draw a rectangle around a random node that holds a random share of all nodes.

    Its width over height is uniform in its logarithm from 3/4 to 4/3, as with crops of images; its size is what it
    takes to hold as many nodes.

    Parameters
    ----------
    pos : Tensor
        (N, 2) places, N at least 1.
    scale : (float, float)
        Smallest and largest share of the nodes; at least one node is held.
    generator : torch.Generator, optional
        Of the CPU; torch's default one otherwise.

    Returns
    -------
    Tensor
        (N,) bool; with equal distances a few more nodes than drawn.

    Raises
    ------
    ValueError
        If `scale` is out of range.

    Examples
    --------
    >>> line = torch.stack([torch.arange(10.0), torch.zeros(10)], dim=1)
    >>> int(random_window(line, (1.0, 1.0)).sum())
    10
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must be two numbers above 0, ascending, at most 1; found {scale}")
    share, shape, centre = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    count = max(round(len(pos) * (scale[0] + (scale[1] - scale[0]) * share)), 1)
    stretch = math.exp(math.log(4 / 3) * (shape - 0.5))  # of the height; its square is the ratio
    away = (pos - pos[int(centre * len(pos))]).abs()
    reach = torch.maximum(away[:, 0] / stretch, away[:, 1] * stretch)
    return reach <= reach.kthvalue(count).values


def induced(masks: list[Tensor], edge_index: Tensor, batch: Tensor, graphs: int) -> Subgraphs:
    """Take the subgraphs that sets of nodes induce, all at once.

    Parameters
    ----------
    masks : list of Tensor
        V sets, each (N,) bool over the nodes of all graphs of the batch.
    edge_index : Tensor
        (2, E) int64 of the batch.
    batch : Tensor
        (N,) int64, the graph of each node.
    graphs : int
        Number B of graphs.

    Returns
    -------
    Subgraphs
        Set after set and graph after graph: subgraph v · B + b is the part of graph b in set v.

    Examples
    --------
    >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> batch = torch.zeros(3, dtype=torch.long)
    >>> parts = induced([torch.tensor([True, True, False]), torch.tensor([False, True, True])], path, batch, 1)
    >>> parts.node.tolist(), parts.edge_index.tolist(), parts.batch.tolist()
    ([0, 1, 1, 2], [[0, 1, 2, 3], [1, 0, 3, 2]], [0, 0, 1, 1])
    """
    kept = torch.stack(masks)
    view, node = kept.nonzero(as_tuple=True)
    row = (kept.flatten().cumsum(0) - 1).view_as(kept)
    source, target = edge_index
    edge_view, edge = (kept[:, source] & kept[:, target]).nonzero(as_tuple=True)
    ends = torch.stack([row[edge_view, source[edge]], row[edge_view, target[edge]]])
    return Subgraphs(node, edge, ends, view * graphs + batch[node])
