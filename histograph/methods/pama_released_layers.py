"""Blocks of the released PAMA: two attentions over the same pairs of anchor and patch, biased by where they lie.

The parts carry the names of the released checkpoints, so that those load as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DIRECTIONS = 8
# bins 0 .. 64 occur; the last row is in the checkpoints and never read
DISTANCES = 66
# what stands for the score of a pair that is not allowed; the bias is added to it
ANCHOR_FILL, TOKEN_FILL = -1e6, -1e9


@dataclass(frozen=True)
class ReleasedPairs:
    """Pairs of anchor and token as a block reads them, the slide token in column 0.

    Attributes
    ----------
    distance, direction : Tensor
        (B, K, T) int64 bins, 0 .. 64 and 0 .. 7.
    allowed : Tensor
        (B, K, T) bool, False where the anchor or the token is padding.

    Examples
    --------
    >>> import torch
    >>> bins = torch.tensor([[[3, 4, 64]]])
    >>> ReleasedPairs.with_slide(bins, bins % 8, torch.tensor([[[True, True, False]]])).distance
    tensor([[[23,  3,  4, 64]]])
    """

    distance: Tensor
    direction: Tensor
    allowed: Tensor

    @classmethod
    def with_slide(cls, distance: Tensor, direction: Tensor, allowed: Tensor) -> "ReleasedPairs":
        """Put the slide token before the tokens (B, K, T): bins are the cut means of all, and it sees every anchor.

        A mean of direction bins is no direction, and padding takes part in it; that is how it was released.
        """
        count = max(distance.shape[2], 1)
        distance, direction = (
            torch.cat([bins.sum(2, keepdim=True) // count, bins], dim=2) for bins in (distance, direction)
        )
        allowed = torch.cat([torch.ones_like(distance[:, :, :1], dtype=torch.bool), allowed], dim=2)
        return cls(distance, direction, allowed)


@dataclass(frozen=True)
class ReleasedRound:
    """What one block computed, for comparison and for drawing.

    Attributes
    ----------
    x, anchors : Tensor
        (B, T, D) and (B, K, D), the output.
    x_read, anchors_read : Tensor
        Of the same shapes, what attention added.
    score : Tensor
        (B, H, K, T) scaled scores of anchors against tokens, before bias and mask.
    direction, turned : Tensor
        (B, K, T) and (B, H, K, T) direction bins, as given and reoriented.
    anchor_weight, token_weight : Tensor
        (B, H, K, T) and (B, H, T, K) attention of anchors over tokens, and of tokens over anchors.

    Examples
    --------
    >>> import torch
    >>> rounds: list[ReleasedRound] = []
    >>> one = torch.zeros(1, 1, 2, dtype=torch.long)
    >>> pairs = ReleasedPairs(one, one, torch.ones(1, 1, 2, dtype=torch.bool))
    >>> _ = ReleasedBlock(4, 2)(torch.randn(1, 2, 4), torch.randn(1, 1, 4), pairs, rounds)
    >>> rounds[0].token_weight.shape
    torch.Size([1, 2, 2, 1])
    """

    x: Tensor
    anchors: Tensor
    x_read: Tensor
    anchors_read: Tensor
    score: Tensor
    direction: Tensor
    turned: Tensor
    anchor_weight: Tensor
    token_weight: Tensor


def reorient(score: Tensor, direction: Tensor) -> Tensor:
    """Turn the direction bins of every head and anchor so that its main direction becomes 0.

    The main direction ``m = argmax_o sum_t |score_t| [direction_t = o]``, the first on a tie; then
    ``(direction - m) mod 8``. Padding takes part: give a score of 0 to leave a pair out.

    Parameters
    ----------
    score : Tensor
        (B, H, K, T) scores of anchors against tokens.
    direction : Tensor
        (B, K, T) int64 in 0 .. 7.

    Returns
    -------
    Tensor
        (B, H, K, T) int64 in 0 .. 7.

    Examples
    --------
    >>> import torch
    >>> reorient(torch.tensor([[[[0.5, -2.0, 1.0]]]]), torch.tensor([[[1, 3, 1]]]))
    tensor([[[[6, 0, 6]]]])
    """
    with torch.no_grad():
        bins = direction.unsqueeze(1).expand_as(score)
        histogram = score.new_zeros(*score.shape[:3], DIRECTIONS)
        main = histogram.scatter_add_(3, bins, score.abs()).argmax(3, keepdim=True)
        return (bins - main).remainder(DIRECTIONS)


class ReleasedAttention(nn.Module):
    """Anchors read tokens and tokens read anchors, at once and with the same weights and biases.

    Parameters
    ----------
    dim, heads : int
        Width D, divisible by the heads H.
    dropout : float
        Share of the outputs that training sets to 0.

    Examples
    --------
    >>> sorted(name for name, _ in ReleasedAttention(8, 2).named_parameters())[:3]
    ['dis_embed.weight', 'polar_emb.weight', 'proj.bias']
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.polar_emb = nn.Embedding(DIRECTIONS, 1)
        self.dis_embed = nn.Embedding(DISTANCES, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, anchors: Tensor, pairs: ReleasedPairs) -> tuple[Tensor, ...]:
        """Attend both ways.

        Parameters
        ----------
        x, anchors : Tensor
            (B, T, D) tokens and (B, K, D) anchors.
        pairs : ReleasedPairs
            Their bins and permissions.

        Returns
        -------
        tuple of Tensor
            What tokens and anchors read, (B, T, D) and (B, K, D); then scores, turned bins and both weights as in
            :class:`ReleasedRound`.
        """
        q, k, v = self._heads(x)
        anchor_q, anchor_k, anchor_v = self._heads(anchors)
        scale = q.shape[3] ** -0.5
        # halves cannot hold the fills
        score = at_least_single(anchor_q @ k.transpose(2, 3) * scale)
        back = at_least_single(q @ anchor_k.transpose(2, 3) * scale)
        turned = reorient(score, pairs.direction)
        bias = self.dis_embed(pairs.distance).permute(0, 3, 1, 2) + self.polar_emb(turned).squeeze(4)
        barred = ~pairs.allowed.unsqueeze(1)
        anchor_weight = (score.masked_fill(barred, ANCHOR_FILL) + bias).softmax(3)
        token_weight = (back.masked_fill(barred.mT, TOKEN_FILL) + bias.mT).softmax(3)
        read = self._join(anchor_weight.to(v.dtype) @ v), self._join(token_weight.to(v.dtype) @ anchor_v)
        return read[1], read[0], score, turned, anchor_weight, token_weight

    def _heads(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map rows (B, T, D) to queries, keys and values, (B, H, T, D / H) each."""
        parts = self.qkv(rows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def _join(self, rows: Tensor) -> Tensor:
        return self.dropout(self.proj(rows.transpose(1, 2).flatten(2)))


class ReleasedMLP(nn.Module):
    """Two affine maps with GELU between, and dropout after each.

    Parameters
    ----------
    dim, inner : int
        Width outside and inside.
    dropout : float
        Share that training sets to 0.

    Examples
    --------
    >>> import torch
    >>> ReleasedMLP(4, 8)(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, dim: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (..., D)."""
        return self.dropout(self.fc2(self.dropout(nn.functional.gelu(self.fc1(rows)))))


class ReleasedBlock(nn.Module):
    """One round: both attentions from the normalised rows, on which the residual goes on, then the MLP.

    Parameters
    ----------
    dim, heads : int
        Width, and attention heads that divide it.
    mlp_ratio : float
        Width inside the MLP over `dim`.
    dropout, drop_path : float
        Share of values, and of whole slides in the MLP's branch, that training sets to 0.

    Examples
    --------
    >>> import torch
    >>> bins = torch.zeros(1, 3, 5, dtype=torch.long)
    >>> pairs = ReleasedPairs(bins, bins, torch.ones(1, 3, 5, dtype=torch.bool))
    >>> x, anchors = ReleasedBlock(8, 2)(torch.randn(1, 5, 8), torch.randn(1, 3, 8), pairs)
    >>> x.shape, anchors.shape
    (torch.Size([1, 5, 8]), torch.Size([1, 3, 8]))
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ReleasedAttention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ReleasedMLP(dim, round(dim * mlp_ratio), dropout)

    def forward(
        self, x: Tensor, anchors: Tensor, pairs: ReleasedPairs, rounds: list[ReleasedRound] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update tokens and anchors.

        Parameters
        ----------
        x, anchors : Tensor
            (B, T, D) and (B, K, D).
        pairs : ReleasedPairs
            Their bins and permissions.
        rounds : list of ReleasedRound, optional
            Gets what the block computed.

        Returns
        -------
        x, anchors : Tensor
            Of the same shapes.
        """
        x, anchors = self.norm1(x), self.norm1(anchors)
        x_read, anchors_read, *kept = self.attn(x, anchors, pairs)
        x, anchors = x + x_read, anchors + anchors_read
        x = x + self._drop_slides(self.mlp(self.norm2(x)))
        anchors = anchors + self._drop_slides(self.mlp(self.norm2(anchors)))
        if rounds is not None:
            score, turned, *weights = kept
            direction = pairs.direction
            rounds.append(ReleasedRound(x, anchors, x_read, anchors_read, score, direction, turned, *weights))
        return x, anchors

    def _drop_slides(self, rows: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return rows
        kept = 1 - self.drop_path
        return rows * torch.bernoulli(rows.new_full((rows.shape[0], 1, 1), kept)) / kept


def at_least_single(values: Tensor) -> Tensor:
    """Give half precision in single precision, and the rest as it is.

    Parameters
    ----------
    values : Tensor
        Of any floating-point type.

    Returns
    -------
    Tensor
        float32 or float64.

    Examples
    --------
    >>> at_least_single(torch.zeros(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
