"""Attention both ways between tokens and anchors, with a bias from the distance and the direction of each pair.

An edge joins an anchor and a token. It carries one code: a distance bin and a direction bin together, or one of two
codes for the pairs that have no direction, an anchor with its own place and an anchor with the slide node. Both
directions of attention run over the same edges with the same bias. Nothing is padded: each slide is a block of its
own, and a block is worked through in pieces, so that besides the rows themselves only the codes grow with a slide.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .attend import attend
from .segments import segment_softmax, segment_sum

#: Numbers of a piece of the (heads, anchors, tokens) table: what a CPU's allocator keeps, and what fills a GPU.
_PIECE = {"cpu": 1 << 22}
_PIECE_ELSEWHERE = 1 << 27


@dataclass(frozen=True)
class AnchorCodes:
    """How a bin of distance and a bin of direction make the code of an edge.

    The code of distance bin r and direction bin p is ``r * direction_bins + p``; ``here`` and ``slide`` follow.

    Attributes
    ----------
    distance_bins : int
        Number of distance bins R.
    direction_bins : int
        Number of direction bins B.

    Examples
    --------
    >>> codes = AnchorCodes(65, 8)
    >>> codes.here, codes.slide, codes.count
    (520, 521, 522)
    """

    distance_bins: int
    direction_bins: int

    @property
    def here(self) -> int:
        """Code of an anchor with a token at its own place, which has no direction."""
        return self.distance_bins * self.direction_bins

    @property
    def slide(self) -> int:
        """Code of an anchor with the slide node, which is nowhere."""
        return self.here + 1

    @property
    def count(self) -> int:
        """Number of codes."""
        return self.here + 2


@dataclass(frozen=True)
class DenseEdges:
    """All pairs of the anchors and the tokens of each slide.

    Attributes
    ----------
    code : list of Tensor
        For each slide (K_i, T_i) int64, the code of each anchor with each token.
    anchor_ptr : list of int
        (G + 1,) first anchor of each slide, and their number.
    token_ptr : list of int
        (G + 1,) first token of each slide, and their number.
    """

    code: list[Tensor]
    anchor_ptr: list[int]
    token_ptr: list[int]

    def listed(self, seen: list[Tensor]) -> "SparseEdges":
        """List the pairs that are marked in (K_i, T_i) tables of booleans, one for each slide."""
        found = []
        for code, marks, anchor, token in zip(self.code, seen, self.anchor_ptr, self.token_ptr, strict=False):
            a, t = marks.nonzero().T
            found.append(torch.stack([a + anchor, t + token, code[a, t]]))
        return SparseEdges(*torch.cat(found, dim=1))


@dataclass(frozen=True)
class SparseEdges:
    """Some pairs of anchors and tokens, listed.

    Attributes
    ----------
    anchor : Tensor
        (E,) int64, row of the anchor; ascending.
    token : Tensor
        (E,) int64, row of the token.
    code : Tensor
        (E,) int64.
    """

    anchor: Tensor
    token: Tensor
    code: Tensor


def main_direction(strength: Tensor, code: Tensor, codes: AnchorCodes) -> Tensor:
    r"""Find the direction in which each anchor looks most, a reduction over its edges.

    .. math:: m_{ha} = \arg\max_o \sum_{t : p_{at} = o} |s_{hat}|

    Edges without a direction count for nothing. Of equal sums the first bin wins. No gradient.

    Parameters
    ----------
    strength : Tensor
        (H, K, T) scores before bias.
    code : Tensor
        (K, T) int64 codes.
    codes : AnchorCodes
        How to read them.

    Returns
    -------
    Tensor
        (H, K) int64 direction bins.

    References
    ----------
    PAMA, kernel reorientation; Wu et al., MICCAI 2023, and IEEE TMI 44(4), 2025.

    Examples
    --------
    >>> import torch
    >>> codes = AnchorCodes(1, 4)
    >>> main_direction(torch.tensor([[[1.0, -3.0, 2.0, 9.0]]]), torch.tensor([[0, 3, 0, 4]]), codes)
    tensor([[0]])
    """
    with torch.no_grad():
        total = strength.new_zeros(*strength.shape[:2], codes.count, dtype=torch.float32)
        total.scatter_add_(2, code.expand(strength.shape[0], -1, -1), strength.abs().float())
        return _largest(total, codes)


def _largest(total: Tensor, codes: AnchorCodes) -> Tensor:
    """Sum (..., codes) over distances and give the direction of the largest sum."""
    directed = total[..., : codes.here].unflatten(-1, (codes.distance_bins, codes.direction_bins))
    return directed.sum(-2).argmax(-1)


class AnchorAttention(nn.Module):
    r"""Anchors read the tokens and tokens read the anchors, at the same time and with shared weights.

    With :math:`q, k, v` of tokens and :math:`\hat q, \hat k, \hat v` of anchors from one projection, and
    :math:`m_{ha}` of :func:`main_direction` on :math:`s_{hat} = \hat q_a \cdot k_t / \sqrt d`,

    .. math::

        \beta_{hat} &= D_h[r_{at}] + P[(p_{at} - m_{ha}) \bmod B] \\
        \hat y_a &= W \sum_t \mathrm{softmax}_t(s_{hat} + \beta_{hat}) v_t \\
        y_t &= W \sum_a \mathrm{softmax}_a(q_t \cdot \hat k_a / \sqrt d + \beta_{hat}) \hat v_a

    Edges without a direction have a learned bias of their own instead of :math:`\beta`.

    Parameters
    ----------
    dim : int
        Width of rows.
    heads : int
        Number of heads; must divide `dim`.
    codes : AnchorCodes
        Numbers of bins.
    reorientation : bool
        Count directions from the main one of each head and anchor; else from the axes of the slide.
    distance : bool
        Use the bias of distance.
    direction : bool
        Use the bias of direction.

    Raises
    ------
    ValueError
        If `heads` does not divide `dim`.

    Examples
    --------
    >>> import torch
    >>> codes = AnchorCodes(65, 8)
    >>> edges = DenseEdges([torch.tensor([[codes.slide, codes.here, 12]])], [0, 1], [0, 3])
    >>> y, anchors = AnchorAttention(8, 2, codes)(torch.randn(3, 8), torch.randn(1, 8), edges)
    >>> y.shape, anchors.shape
    (torch.Size([3, 8]), torch.Size([1, 8]))
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        codes: AnchorCodes,
        reorientation: bool = True,
        distance: bool = True,
        direction: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide the width of rows; found heads {heads} and width {dim}")
        self.heads, self.codes = heads, codes
        self.reorientation = reorientation and direction
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        # of unit size from the start, as released: hidden patches differ by their biases alone
        self.apart = nn.Parameter(torch.randn(heads, 2))  # here, slide
        self.distance = nn.Parameter(torch.randn(heads, codes.distance_bins)) if distance else None
        self.direction = nn.Parameter(torch.randn(codes.direction_bins)) if direction else None

    def forward(
        self, tokens: Tensor, anchors: Tensor, edges: DenseEdges | SparseEdges, slide_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Exchange what anchors and tokens of the same slide know.

        Parameters
        ----------
        tokens : Tensor
            (T, dim) all tokens, slide after slide.
        anchors : Tensor
            (K, dim) all anchors, slide after slide.
        edges : DenseEdges or SparseEdges
            The pairs that see each other, with their codes.
        slide_only : bool
            Of the tokens, let only slide nodes read. Where edges are dense, these are the first of each slide.

        Returns
        -------
        tuple of Tensor
            (T, dim), or (G, dim) with `slide_only`, and (K, dim).
        """
        token, anchor = self._project(tokens), self._project(anchors)
        if isinstance(edges, DenseEdges):
            for_tokens, for_anchors = self._dense(token, anchor, edges, slide_only)
        else:
            for_tokens, for_anchors = self._sparse(token, anchor, edges, slide_only)
        return self.out(for_tokens), self.out(for_anchors)

    def weights(
        self, tokens: Tensor, anchors: Tensor, code: Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Give the attention of one slide as two tables, for looking at it.

        Parameters
        ----------
        tokens : Tensor
            (T, dim).
        anchors : Tensor
            (K, dim).
        code : Tensor
            (K, T) int64.
        seen : Tensor, optional
            (K, T) bool, the pairs that see each other; all of them without it.

        Returns
        -------
        tuple of Tensor
            (H, K, T) what anchors take from tokens, rows summing to 1, and (H, T, K) what tokens take from anchors.
        """
        (q, k, _), (aq, ak, _) = self._project(tokens), self._project(anchors)
        score = torch.einsum("had,htd->hat", aq, k) / math.sqrt(q.shape[-1])
        if seen is not None:
            score = score * seen
        main = main_direction(score, code, self.codes) if self.reorientation else None
        bias = _bias(self._table(main, len(anchors)), code)
        if seen is not None:
            bias = bias.masked_fill(~seen, -math.inf)
        back = torch.einsum("htd,had->hta", q, ak) / math.sqrt(q.shape[-1])
        return (score + bias).softmax(-1), (back + bias.transpose(1, 2)).softmax(-1)

    def _project(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give queries, keys and values, each (H, rows, d)."""
        q, k, v = self.qkv(rows).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        return q, k, v

    def _table(self, main: Tensor | None, anchors: int) -> Tensor:
        """Give the bias of each code for each head and anchor: (H, K, codes)."""
        count = self.codes.direction_bins
        turned = self.apart.new_zeros(self.heads, anchors, count)
        if self.direction is not None:
            turned = turned + self.direction
            if main is not None:
                bins = torch.arange(count, device=main.device)
                turned = self.direction[(bins - main.unsqueeze(-1)) % count]
        both = turned.unsqueeze(2).expand(-1, -1, self.codes.distance_bins, -1)
        if self.distance is not None:
            both = both + self.distance[:, None, :, None]
        return torch.cat([both.flatten(2), self.apart.unsqueeze(1).expand(-1, anchors, -1)], dim=2)

    def _dense(
        self, token: tuple[Tensor, ...], anchor: tuple[Tensor, ...], edges: DenseEdges, slide_only: bool
    ) -> tuple[Tensor, Tensor]:
        slides, (_, rows, width) = len(edges.code), token[0].shape
        for_tokens = token[0].new_empty(slides if slide_only else rows, self.heads, width)
        for_anchors = token[0].new_empty(anchor[0].shape[1], self.heads, width)
        spans = zip(pairwise(edges.token_ptr), pairwise(edges.anchor_ptr), edges.code, strict=True)
        for number, ((t0, t1), (a0, a1), code) in enumerate(spans):
            q, k, v = (part[:, t0:t1] for part in token)
            aq, ak, av = (part[:, a0:a1] for part in anchor)
            out = for_tokens[number : number + 1] if slide_only else for_tokens[t0:t1]
            table = self._table(self._main(aq, k, code), a1 - a0)
            for heads, piece in _pieces(self.heads, a1 - a0, t1 - t0, q.device):
                bias = _bias(table[heads, piece], code[piece])
                found = attend(aq[None, heads, piece], k[None, heads], v[None, heads], bias[None])
                for_anchors[a0:a1][piece, heads] = found[0].transpose(0, 1)
            for heads, piece in _pieces(self.heads, len(out), a1 - a0, q.device):
                bias = _bias(table[heads], code[:, : len(out)][:, piece]).transpose(1, 2)
                asked = q[None, heads, : len(out)][:, :, piece]
                found = attend(asked, ak[None, heads], av[None, heads], bias[None])
                out[piece, heads] = found[0].transpose(0, 1)
        return for_tokens.flatten(1), for_anchors.flatten(1)

    def _main(self, aq: Tensor, k: Tensor, code: Tensor) -> Tensor | None:
        """Find the main direction of each head and anchor, (H, K), in pieces."""
        if not self.reorientation:
            return None
        found = torch.empty(self.heads, aq.shape[1], dtype=torch.long, device=aq.device)
        with torch.no_grad():
            scale = 1 / math.sqrt(k.shape[-1])
            for heads, rows in _pieces(self.heads, aq.shape[1], k.shape[1], k.device):
                strength = (aq[heads, rows] * scale) @ k[heads].transpose(1, 2)
                found[heads, rows] = main_direction(strength, code[rows], self.codes)
        return found

    def _sparse(
        self, token: tuple[Tensor, ...], anchor: tuple[Tensor, ...], edges: SparseEdges, slide_only: bool
    ) -> tuple[Tensor, Tensor]:
        (q, k, v), (aq, ak, av) = token, anchor
        anchors, scale = aq.shape[1], 1 / math.sqrt(q.shape[-1])
        a, t = edges.anchor, edges.token
        score = ((aq[:, a] * k[:, t]).sum(-1) * scale).T  # (E, H)
        main = None
        if self.reorientation:
            total = torch.zeros(anchors * self.codes.count, self.heads, device=q.device)
            total.index_add_(0, a * self.codes.count + edges.code, score.detach().abs().float())
            main = _largest(total.view(anchors, self.codes.count, -1).permute(2, 0, 1), self.codes)
        bias = self._table(main, anchors)[:, a, edges.code].T
        weight = segment_softmax(score + bias, a, anchors)
        for_anchors = segment_sum((v[:, t] * weight.T.unsqueeze(-1)).transpose(0, 1).flatten(1), a, anchors)
        tokens = q.shape[1]
        if slide_only:
            kept = edges.code == self.codes.slide
            reader, t = t[kept].unique(return_inverse=True)
            a, bias, tokens, q = a[kept], bias[kept], len(reader), q[:, reader]
        back = ((q[:, t] * ak[:, a]).sum(-1) * scale).T + bias
        weight = segment_softmax(back, t, tokens)
        for_tokens = segment_sum((av[:, a] * weight.T.unsqueeze(-1)).transpose(0, 1).flatten(1), t, tokens)
        return for_tokens, for_anchors


def _pieces(heads: int, rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut (heads, rows, columns) into slices of heads and rows that hold few enough numbers at once."""
    budget = _PIECE.get(device.type, _PIECE_ELSEWHERE)
    tall = max(1, min(rows, budget // max(columns, 1)))
    deep = max(1, min(heads, budget // max(tall * columns, 1))) if tall >= rows else 1
    for h in range(0, heads, deep):
        for r in range(0, rows, tall):
            yield slice(h, h + deep), slice(r, r + tall)


def _bias(table: Tensor, code: Tensor) -> Tensor:
    """Look up (H, K, codes) by (K, T) codes: (H, K, T)."""
    return table.gather(2, code.expand(table.shape[0], -1, -1))
