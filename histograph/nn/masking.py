"""Random subsets of fixed size inside each graph of a batch."""

import torch
from torch import Tensor


def random_subset(batch: Tensor, num_graphs: int, ratio: float) -> Tensor:
    """Pick ``floor(ratio * n)`` of the n rows of every graph, uniformly and afresh at each call.

    Parameters
    ----------
    batch : Tensor
        (N,) int64, the graph of each row; any order.
    num_graphs : int
        Number of graphs.
    ratio : float
        Share to pick, at least 0 and below 1, so that every graph with rows keeps one that is not picked.

    Returns
    -------
    Tensor
        (N,) bool, True where picked. Drawn from torch's default generator.

    Raises
    ------
    ValueError
        If the ratio is outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> batch = torch.tensor([0] * 5 + [1] * 10 + [2])
    >>> picked = random_subset(batch, 3, 0.6)
    >>> [int(picked[batch == g].sum()) for g in range(3)]
    [3, 6, 0]
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be at least 0 and below 1, found {ratio}; 0.6 hides 60 % of each graph")
    count = torch.bincount(batch, minlength=num_graphs)
    # a shuffle of all rows, then a stable sort by graph: every graph is shuffled inside itself
    shuffled = torch.rand(batch.numel(), device=batch.device).argsort()
    order = shuffled[batch[shuffled].argsort(stable=True)]
    rank = torch.empty_like(batch)
    start = count.cumsum(0) - count
    rank[order] = torch.arange(batch.numel(), device=batch.device) - start[batch[order]]
    # in double precision, as int(ratio * n) would be; on the CPU, for some accelerators lack it
    size = (count.cpu().double() * ratio).floor().long().to(batch.device)
    return rank < size[batch]


def edge_pairs(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Give undirected edges numbers, so that both directions of one can be treated together.

    Parameters
    ----------
    edge_index : Tensor
        (2, E) int64 directed edges.
    num_nodes : int
        Number of nodes.

    Returns
    -------
    pair : Tensor
        (E,) int64, the number of the undirected edge that each directed edge belongs to.
    node : Tensor
        (P,) int64, one end point of each undirected edge.

    Examples
    --------
    >>> import torch
    >>> pair, node = edge_pairs(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
    >>> pair.tolist(), node.tolist()
    ([0, 0, 1, 1], [0, 1])
    """
    low, high = edge_index.min(0).values, edge_index.max(0).values
    key, pair = torch.unique(low * num_nodes + high, return_inverse=True)
    return pair, key.div(max(num_nodes, 1), rounding_mode="floor")
