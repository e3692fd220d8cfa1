"""CLAM's head of slides: gated attention that is also told which regions are evidence, by its own weights."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .bounds import check_bounds
from .segments import segment_sum
from .slide_heads import ScoredHead

INSTANCE_LOSSES = ("svm", "cross_entropy")


class GatedAttentionHead(ScoredHead):
    r"""CLAM with one branch: gated attention, and regions of much and of little attention told apart for each class.

    .. math:: a_i = \mathrm{softmax}_i\, w^T (\tanh(V h_i) \odot \sigma(G h_i))

    To the cross-entropy of slides, of weight :math:`1 - \lambda`, comes a loss of regions, of weight :math:`\lambda`.
    Each class has a classifier of regions, evidence or not. For the class of the slide the k regions with most
    attention are taken as evidence and the k with least as none; for every other class, if classes exclude each other,
    the k with most as none. Losses are means over these regions, and then over classes (over the one class of the
    slide, if they do not exclude each other). Which regions these are carries no gradient.

    Parameters
    ----------
    in_dim : int
        Width D of the region vectors.
    classes : int
        Number of classes.
    hidden_dim : int
        Width of h.
    attention_dim : int
        Rows of V and of G.
    dropout : float
        Share set to 0 while training: of h, and of both factors of the attention.
    instances : int
        k; in a slide of n regions at most n // 2, so that no region is both, and a single one is neither.
    instance_weight : float
        :math:`\lambda`, from 0 (attention alone) to below 1.
    instance_loss : {"svm", "cross_entropy"}
        The smooth top-1 support vector loss with margin and temperature 1,
        :math:`\log \sum_j e^{s_j + [j \ne y]} - s_y`, or cross-entropy.
    exclusive : bool
        Whether classes exclude each other, as subtypes do.

    References
    ----------
    Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide images", Nature Biomedical
    Engineering 5, 2021; loss: Berrada, Zisserman, Kumar, "Smooth loss functions for deep top-k classification", ICLR
    2018.

    Examples
    --------
    >>> head = GatedAttentionHead(8, 2, instances=1)
    >>> z, slide = torch.randn(5, 8), torch.tensor([0, 0, 0, 1, 1])
    >>> head(z, slide, 2).logits.shape, head.loss(z, slide, torch.tensor([0, 1])).shape
    (torch.Size([2, 2]), torch.Size([]))
    """

    def __init__(
        self,
        in_dim: int,
        classes: int,
        hidden_dim: int = 512,
        attention_dim: int = 256,
        dropout: float = 0.25,
        instances: int = 8,
        instance_weight: float = 0.3,
        instance_loss: Literal["svm", "cross_entropy"] = "svm",
        exclusive: bool = True,
    ) -> None:
        super().__init__(in_dim, classes, hidden_dim, attention_dim, dropout, gated=True)
        check_bounds(
            [
                ("instances", instances >= 1, "at least 1"),
                ("instance_weight", 0 <= instance_weight < 1, "from 0 to below 1"),
                ("instance_loss", instance_loss in INSTANCE_LOSSES, f"among {', '.join(INSTANCE_LOSSES)}"),
            ],
            locals(),
        )
        self.instances, self.instance_weight = instances, instance_weight
        self.margin = 1.0 if instance_loss == "svm" else 0.0
        self.exclusive = exclusive
        self.evidence = nn.Linear(hidden_dim, 2 * classes) if instance_weight > 0 else None

    def loss(self, z: Tensor, slide: Tensor, y: Tensor) -> Tensor:
        """Give the weighted sum of the losses of slides and of regions.

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
        reading = self(z, slide, len(y))
        whole = cross_entropy(reading.logits, y)
        if self.evidence is None:
            return whole
        parts = self.instance_loss(reading.hidden, reading.attention, slide, y)
        return (1 - self.instance_weight) * whole + self.instance_weight * parts

    def instance_loss(self, hidden: Tensor, attention: Tensor, slide: Tensor, y: Tensor) -> Tensor:
        """Give the loss of the classifiers of regions.

        Parameters
        ----------
        hidden : Tensor
            (N, hidden_dim) embedded regions.
        attention : Tensor
            (N,) their weights; equal ones rank in the order of the rows.
        slide : Tensor
            (N,) int64.
        y : Tensor
            (S,) int64 classes.

        Returns
        -------
        Tensor
            A number, the mean over slides.

        Raises
        ------
        ValueError
            If the head was made with ``instance_weight=0``.
        """
        if self.evidence is None:
            raise ValueError(
                "a head with instance_weight 0 has no classifiers of regions; give a weight above 0"
            )
        place, count = _ranks(attention, slide, len(y))
        k = (count // 2).clamp(max=self.instances)
        most, least = place < k[slide], place >= (count - k)[slide]
        own = y[slide].unsqueeze(1) == torch.arange(self.classes, device=y.device)
        is_evidence = own & most.unsqueeze(1)
        used = own & (most | least).unsqueeze(1)
        if self.exclusive:
            used = used | (~own & most.unsqueeze(1))
        score = self.evidence(hidden).view(-1, self.classes, 2)
        truth = torch.stack([~is_evidence, is_evidence], 2)
        loss = (score + self.margin * ~truth).logsumexp(2) - (score * truth).sum(2)
        share = used / segment_sum(used.to(loss.dtype), slide, len(y)).clamp(min=1)[slide]
        return (loss * share).sum() / len(y) / (self.classes if self.exclusive else 1)


def _ranks(value: Tensor, slide: Tensor, num_slides: int) -> tuple[Tensor, Tensor]:
    """Rank the rows of each slide, 0 for the largest value; also count them."""
    order = value.detach().argsort(descending=True, stable=True)
    order = order[slide[order].argsort(stable=True)]
    count = torch.bincount(slide, minlength=num_slides)
    start = count.cumsum(0) - count
    place = torch.empty_like(slide)
    place[order] = torch.arange(len(slide), device=slide.device) - start[slide[order]]
    return place, count
