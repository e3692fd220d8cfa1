"""Attention inside each graph of a ragged batch: every row sees all key rows of its own graph and no others.

The rows of a graph are laid out as one dense block, graphs of similar size share a block tensor, and no
score is ever computed between two graphs, so time and memory are linear in the number of graphs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attend import attend

# sizes within one factor of 1.5 are padded to a common length; small graphs are not worth telling apart
_GROWTH = 1.5
_SMALLEST = 24


@dataclass(frozen=True)
class _Block:
    """Padded positions of graphs of similar size."""

    query: Tensor  # (B, mq) row of each slot; padding repeats row 0
    key: Tensor  # (B, mk)
    mask: Tensor | None  # (B, 1, 1, mk) True where a key exists; None when every slot is filled


def _slots(batch: Tensor, num_graphs: int) -> tuple[Tensor, Tensor]:
    """Give each row its place inside its graph, in storage order, and each graph its number of rows."""
    count = torch.bincount(batch, minlength=num_graphs)
    order = batch.argsort(stable=True)
    slot = torch.empty_like(batch)
    start = count.cumsum(0) - count
    slot[order] = torch.arange(batch.numel(), device=batch.device) - start[batch[order]]
    return slot, count


def _padded(batch: Tensor, slot: Tensor, place: Tensor, width: int, height: int) -> Tensor:
    """Spread row numbers over a (height, width) table; `place` is the line of each graph, -1 for other graphs."""
    table = torch.zeros(height, width, dtype=torch.long, device=batch.device)
    line = place[batch]
    rows = (line >= 0).nonzero().squeeze(1)
    table[line[rows], slot[rows]] = rows
    return table


class AttentionLayout:
    """Which rows attend to which, made once per batch and used by every layer and head.

    Parameters
    ----------
    query_batch : Tensor
        (Nq,) int64, the graph of each query row; any order.
    key_batch : Tensor
        (Nk,) int64, the graph of each key row; any order.
    num_graphs : int
        Number of graphs.

    Examples
    --------
    >>> import torch
    >>> layout = AttentionLayout(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    >>> graph_attention(torch.ones(3, 4), torch.ones(3, 4), torch.eye(3, 4), layout, heads=1)[:2]
    tensor([[1., 0., 0., 0.],
            [1., 0., 0., 0.]])
    """

    def __init__(self, query_batch: Tensor, key_batch: Tensor, num_graphs: int) -> None:
        query_slot, query_count = _slots(query_batch, num_graphs)
        key_slot, key_count = _slots(key_batch, num_graphs)
        size = torch.maximum(query_count, key_count).clamp(min=_SMALLEST).float() / _SMALLEST
        level = (size.log() / math.log(_GROWTH)).ceil().long()
        level[(query_count == 0) | (key_count == 0)] = -1
        self.blocks: list[_Block] = []
        # 0 is the row of zeros that `graph_attention` puts first, for queries whose graph has no key
        self.gather = torch.zeros_like(query_batch)
        offset = 1
        for value in level.unique().tolist():
            if value < 0:
                continue
            graphs = (level == value).nonzero().squeeze(1)
            height, mq, mk = graphs.numel(), int(query_count[graphs].max()), int(key_count[graphs].max())
            place = torch.full((num_graphs,), -1, dtype=torch.long, device=query_batch.device)
            place[graphs] = torch.arange(height, device=query_batch.device)
            filled = torch.arange(mk, device=key_batch.device) < key_count[graphs].unsqueeze(1)
            self.blocks.append(
                _Block(
                    _padded(query_batch, query_slot, place, mq, height),
                    _padded(key_batch, key_slot, place, mk, height),
                    None if bool(filled.all()) else filled[:, None, None, :],
                )
            )
            line = place[query_batch]
            self.gather = torch.where(line >= 0, offset + line * mq + query_slot, self.gather)
            offset += height * mq


def _heads(rows: Tensor, index: Tensor, heads: int) -> Tensor:
    """Lay rows (N, d) out as (B, heads, m, d / heads)."""
    block = rows.index_select(0, index.reshape(-1))
    return block.view(*index.shape, heads, -1).transpose(1, 2)


def graph_attention(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, heads: int) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(d / heads)) v`` between rows of the same graph.

    Parameters
    ----------
    query : Tensor
        (Nq, d).
    key, value : Tensor
        (Nk, d).
    layout : AttentionLayout
        Made from the batch vectors of the same rows.
    heads : int
        Number of heads; divides d.

    Returns
    -------
    Tensor
        (Nq, d); 0 for a query whose graph has no key.

    Examples
    --------
    >>> import torch
    >>> layout = AttentionLayout(torch.tensor([0, 1]), torch.tensor([1, 1]), 2)
    >>> graph_attention(torch.ones(2, 2), torch.ones(2, 2), torch.tensor([[1.0, 3.0], [3.0, 5.0]]), layout, 1)
    tensor([[0., 0.],
            [2., 4.]])
    """
    # sums over no rows: 0, yet the projections stay in the autograd graph when there is nothing to attend to
    nothing = query[:0].sum() + key[:0].sum() + value[:0].sum()
    outputs = [query.new_zeros(1, query.shape[1]) + nothing]
    for block in layout.blocks:
        out = attend(
            _heads(query, block.query, heads),
            _heads(key, block.key, heads),
            _heads(value, block.key, heads),
            block.mask,
        )
        outputs.append(out.transpose(1, 2).reshape(-1, query.shape[1]))
    return torch.cat(outputs).index_select(0, layout.gather)


def _check_heads(dim: int, heads: int) -> None:
    if heads < 1 or dim % heads:
        raise ValueError(f"heads must divide the width: found width {dim} and {heads} heads")


class SelfAttention(nn.Module):
    """Complete attention inside each graph.

    Parameters
    ----------
    dim : int
        Width of the rows.
    heads : int
        Number of heads; divides ``dim``.

    References
    ----------
    Vaswani et al., "Attention is all you need", NeurIPS 2017.

    Examples
    --------
    >>> import torch
    >>> batch = torch.tensor([0, 0, 1])
    >>> SelfAttention(8, 2)(torch.ones(3, 8), AttentionLayout(batch, batch, 2)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        _check_heads(dim, heads)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: AttentionLayout) -> Tensor:
        """Mix the rows (N, dim) of each graph."""
        query, key, value = self.qkv(x).chunk(3, dim=1)
        return self.out(graph_attention(query, key, value, layout, self.heads))


class CrossAttention(nn.Module):
    """Attention from query rows to the key rows of the same graph.

    Parameters
    ----------
    dim : int
        Width of the rows.
    heads : int
        Number of heads; divides ``dim``.

    Examples
    --------
    >>> import torch
    >>> layout = AttentionLayout(torch.tensor([0, 1]), torch.tensor([0, 0, 1]), 2)
    >>> CrossAttention(8, 2)(torch.ones(2, 8), torch.ones(3, 8), layout).shape
    torch.Size([2, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        _check_heads(dim, heads)
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, layout: AttentionLayout) -> Tensor:
        """Let rows (Nq, dim) read from context rows (Nk, dim)."""
        key, value = self.key_value(context).chunk(2, dim=1)
        return self.out(graph_attention(self.query(x), key, value, layout, self.heads))


def received_attention(query: Tensor, key: Tensor, layout: AttentionLayout, heads: int) -> Tensor:
    """Sum, for each key row, the weights that :func:`graph_attention` gives it, over queries and mean over heads.

    Parameters
    ----------
    query : Tensor
        (Nq, d).
    key : Tensor
        (Nk, d).
    layout : AttentionLayout
        Made from the batch vectors of the same rows.
    heads : int
        Number of heads; divides d.

    Returns
    -------
    Tensor
        (Nk,) at least 0; over the keys of a graph it sums to the number of its queries.

    Examples
    --------
    >>> import torch
    >>> layout = AttentionLayout(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), 2)
    >>> received_attention(torch.ones(3, 4), torch.ones(3, 4), layout, heads=2)
    tensor([1., 1., 1.])
    """
    received = key.new_zeros(key.shape[0])
    slots = 1 + sum(block.query.numel() for block in layout.blocks)
    # slots that no query is gathered from are padding
    asks = torch.zeros(slots, dtype=torch.bool, device=key.device).index_fill_(0, layout.gather, True)
    first = 1
    for block in layout.blocks:
        q, k = _heads(query, block.query, heads), _heads(key, block.key, heads)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        if block.mask is not None:
            scores = scores.masked_fill(~block.mask, float("-inf"))
        asking = asks[first : first + block.query.numel()].view(*block.query.shape)
        weight = scores.softmax(3).mean(1) * asking.unsqueeze(2)
        received = received.index_add(0, block.key.reshape(-1), weight.sum(1).reshape(-1))
        first += block.query.numel()
    return received
