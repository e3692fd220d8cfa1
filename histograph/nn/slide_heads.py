"""Heads that tell the class of a slide from the vectors of its regions: mean, attention, CLAM's, and a transformer.

A batch is ragged: rows (N, D) of all regions and the slide of each, in any order. What a head computes of a slide
depends neither on the order of its regions nor on the other slides of the batch. Labels are of slides only; the weight
that each region gets is what there is to see of where the evidence lies. CLAM's head is in `clam.py`.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .attention import AttentionLayout, SelfAttention
from .bounds import check_bounds
from .segments import segment_mean, segment_softmax, segment_sum


class SlideReading(NamedTuple):
    """What a head makes of a batch of slides.

    Attributes
    ----------
    logits : Tensor
        (S, classes).
    attention : Tensor
        (N,) weight of each region in the vector of its slide; 1 in sum over the regions of a slide.
    pooled : Tensor
        (S, width) vector of each slide, which the logits are read off.
    hidden : Tensor
        (N, width) vectors of the regions that are pooled.
    """

    logits: Tensor
    attention: Tensor
    pooled: Tensor
    hidden: Tensor


class SlideHead(nn.Module):
    """What all heads have: a weighted mean of region vectors and a linear classifier on it.

    By itself a linear classifier of the mean. A head of one's own overrides `regions`, `scores`, or both.

    Parameters
    ----------
    hidden_dim : int
        Width of the vectors that are pooled.
    classes : int
        Number of classes, at least 2.

    Examples
    --------
    >>> import torch
    >>> class Longest(SlideHead):
    ...     '''Looks at the region with the largest first column.'''
    ...     def scores(self, hidden):
    ...         return 100 * hidden[:, 0]
    >>> reading = Longest(2, 3)(torch.tensor([[1.0, 0.0], [5.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 1]), 2)
    >>> reading.attention, reading.logits.shape
    (tensor([0., 1., 1.]), torch.Size([2, 3]))
    """

    def __init__(self, hidden_dim: int, classes: int) -> None:
        super().__init__()
        check_bounds(
            [("hidden_dim", hidden_dim >= 1, "at least 1"), ("classes", classes >= 2, "at least 2")], locals()
        )
        self.classes = classes
        self.classifier = nn.Linear(hidden_dim, classes)

    def regions(self, z: Tensor, slide: Tensor, num_slides: int) -> Tensor:
        """Give the vectors that are pooled: here the given ones.

        Parameters
        ----------
        z : Tensor
            (N, D) region vectors.
        slide : Tensor
            (N,) int64, the slide of each region.
        num_slides : int
            Number of slides.

        Returns
        -------
        Tensor
            (N, width).
        """
        return z

    def scores(self, hidden: Tensor) -> Tensor:
        """Give the (N,) scores whose softmax over the regions of a slide is the attention; 0 for a plain mean.

        Parameters
        ----------
        hidden : Tensor
            (N, width).

        Returns
        -------
        Tensor
            (N,).
        """
        return hidden.new_zeros(len(hidden))

    def forward(self, z: Tensor, slide: Tensor, num_slides: int) -> SlideReading:
        """Read slides.

        Parameters
        ----------
        z : Tensor
            (N, D) region vectors.
        slide : Tensor
            (N,) int64, the slide of each region, in ``0 .. num_slides - 1``; any order.
        num_slides : int
            Number S of slides. The vector of one without regions is 0.

        Returns
        -------
        SlideReading
            Logits, attention, and vectors of slides and regions.
        """
        hidden = self.regions(z, slide, num_slides)
        attention = segment_softmax(self.scores(hidden), slide, num_slides)
        pooled = segment_sum(attention.unsqueeze(1) * hidden, slide, num_slides)
        return SlideReading(self.classifier(pooled), attention, pooled, hidden)

    def loss(self, z: Tensor, slide: Tensor, y: Tensor) -> Tensor:
        """Give the mean cross-entropy of slides.

        Parameters
        ----------
        z : Tensor
            (N, D) region vectors.
        slide : Tensor
            (N,) int64, the slide of each region.
        y : Tensor
            (S,) int64, the class of each slide.

        Returns
        -------
        Tensor
            A number.
        """
        return cross_entropy(self(z, slide, len(y)).logits, y)


class MeanHead(SlideHead):
    r"""A network on the mean of the regions: what their arrangement and rarity add, it cannot see.

    .. math:: \hat y = W\,\mathrm{relu}(U \bar z + b) + c

    Parameters
    ----------
    in_dim : int
        Width D of the region vectors.
    classes : int
        Number of classes.
    hidden_dim : int
        Width of the layer after the mean.
    dropout : float
        Share of its outputs set to 0 while training.

    Examples
    --------
    >>> import torch
    >>> z, slide = torch.randn(5, 8), torch.tensor([0, 0, 0, 1, 1])
    >>> MeanHead(8, 2)(z, slide, 2).attention
    tensor([0.3333, 0.3333, 0.3333, 0.5000, 0.5000])
    """

    def __init__(self, in_dim: int, classes: int, hidden_dim: int = 192, dropout: float = 0.25) -> None:
        super().__init__(hidden_dim, classes)
        self.embed = _embedding(in_dim, hidden_dim, dropout)

    def forward(self, z: Tensor, slide: Tensor, num_slides: int) -> SlideReading:
        """Average the regions of each slide, then classify."""
        mean = segment_mean(z, slide, num_slides)
        pooled = self.embed(mean)
        attention = segment_softmax(self.scores(z), slide, num_slides)
        return SlideReading(self.classifier(pooled), attention, pooled, z)


class ScoredHead(SlideHead):
    r"""A head that embeds each region and scores it with a small network.

    Parameters
    ----------
    in_dim : int
        Width D of the region vectors.
    classes : int
        Number of classes.
    hidden_dim : int
        Width of the embedded regions.
    attention_dim : int
        Hidden width of the network that scores.
    dropout : float
        Share of the embedded regions set to 0 while training; if gated, also of both factors of the attention.
    gated : bool
        Whether :math:`\tanh(V h)` is multiplied by :math:`\sigma(G h)`.

    Examples
    --------
    >>> import torch
    >>> head = ScoredHead(8, 2, hidden_dim=6, attention_dim=4, dropout=0.0, gated=True)
    >>> head(torch.randn(3, 8), torch.tensor([0, 0, 1]), 2).hidden.shape
    torch.Size([3, 6])
    """

    def __init__(
        self, in_dim: int, classes: int, hidden_dim: int, attention_dim: int, dropout: float, gated: bool
    ) -> None:
        super().__init__(hidden_dim, classes)
        check_bounds([("attention_dim", attention_dim >= 1, "at least 1")], locals())
        self.embed = _embedding(in_dim, hidden_dim, dropout)
        self.content = nn.Linear(hidden_dim, attention_dim)
        self.gate = nn.Linear(hidden_dim, attention_dim) if gated else None
        self.drop = nn.Dropout(dropout)
        # without a bias, which would cancel in the softmax
        self.score = nn.Linear(attention_dim, 1, bias=False)

    def regions(self, z: Tensor, slide: Tensor, num_slides: int) -> Tensor:
        """Embed each region by itself."""
        return self.embed(z)

    def scores(self, hidden: Tensor) -> Tensor:
        """Score each region."""
        found = self.content(hidden).tanh()
        if self.gate is not None:
            found = self.drop(found) * self.drop(self.gate(hidden).sigmoid())
        return self.score(found).squeeze(1)


class AttentionHead(ScoredHead):
    r"""Attention-based multiple instance learning.

    With :math:`h_i = \mathrm{relu}(U z_i + b)`,

    .. math:: a_i = \mathrm{softmax}_i\, w^T \tanh(V h_i), \qquad \hat y = W \sum_i a_i h_i + c .

    Parameters
    ----------
    in_dim : int
        Width D of the region vectors.
    classes : int
        Number of classes.
    hidden_dim : int
        Width of h.
    attention_dim : int
        Rows of V.
    dropout : float
        Share of h set to 0 while training.

    References
    ----------
    Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", ICML 2018, equation 8.

    Examples
    --------
    >>> import torch
    >>> head = AttentionHead(8, 3)
    >>> reading = head(torch.randn(5, 8), torch.tensor([0, 0, 0, 1, 1]), 2)
    >>> reading.logits.shape, bool(reading.attention[3:].sum().isclose(torch.tensor(1.0)))
    (torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        in_dim: int,
        classes: int,
        hidden_dim: int = 192,
        attention_dim: int = 128,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(in_dim, classes, hidden_dim, attention_dim, dropout, gated=False)


class RegionTransformerHead(ScoredHead):
    """HIPT's head: a small transformer over the regions of a slide, then gated attention.

    Layers are those of the original transformer, with the norm after each sum; regions have no positions, they are a
    set.

    Parameters
    ----------
    in_dim : int
        Width D of the region vectors.
    classes : int
        Number of classes.
    hidden_dim : int
        Width of all layers, also of the feed-forward ones.
    heads : int
        Heads; divides `hidden_dim`.
    depth : int
        Layers.
    dropout : float
        Share set to 0 while training: of embedded regions, of what each part of a layer adds, and of both factors
        of the gated attention.

    References
    ----------
    Chen et al., "Scaling vision transformers to gigapixel images via hierarchical self-supervised learning", CVPR
    2022.

    Examples
    --------
    >>> import torch
    >>> head = RegionTransformerHead(8, 2, hidden_dim=6, heads=3)
    >>> head(torch.randn(5, 8), torch.tensor([0, 0, 0, 1, 1]), 2).logits.shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        in_dim: int,
        classes: int,
        hidden_dim: int = 192,
        heads: int = 3,
        depth: int = 2,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(in_dim, classes, hidden_dim, hidden_dim, dropout, gated=True)
        check_bounds([("depth", depth >= 1, "at least 1")], {"depth": depth})
        self.layers = nn.ModuleList(_Layer(hidden_dim, heads, dropout) for _ in range(depth))

    def regions(self, z: Tensor, slide: Tensor, num_slides: int) -> Tensor:
        """Embed regions, and let those of a slide read each other."""
        hidden = self.embed(z)
        layout = AttentionLayout(slide, slide, num_slides)
        for layer in self.layers:
            hidden = layer(hidden, layout)
        return hidden


class _Layer(nn.Module):
    """Attention among the regions of a slide and a feed-forward layer, a norm after each sum."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: AttentionLayout) -> Tensor:
        x = self.norm1(x + self.drop(self.attention(x, layout)))
        return self.norm2(x + self.drop(self.fc2(self.drop(self.fc1(x).relu()))))


def _embedding(in_dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    """Make the layer that all heads begin with."""
    check_bounds(
        [("in_dim", in_dim >= 1, "at least 1"), ("dropout", 0 <= dropout < 1, "from 0 to below 1")], locals()
    )
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout))
