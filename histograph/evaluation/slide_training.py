"""Heads of `histograph.nn` trained on bags of region vectors, and what they say of other bags."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histograph.nn import AttentionHead, GatedAttentionHead, MeanHead, RegionTransformerHead
from histograph.nn.bounds import check_bounds
from histograph.nn.seeded import seeded
from histograph.nn.slide_heads import SlideHead

from .bags import Bags

#: Heads by name.
SLIDE_HEADS: dict[str, Callable[..., SlideHead]] = {
    "mean": MeanHead,
    "attention": AttentionHead,
    "clam": GatedAttentionHead,
    "transformer": RegionTransformerHead,
}
# slides read at once, when nothing is learnt
_READ = 16


class Said(NamedTuple):
    """What a trained head says of slides.

    Parameters
    ----------
    probability
        (S, K).
    attention
        (N,) weight of each region, in the order of the bags.
    """

    probability: NDArray[np.float64]
    attention: NDArray[np.float64]


@dataclass(frozen=True)
class HeadTraining:
    """How heads are trained; the defaults of `mil_probe`.

    Parameters
    ----------
    epochs
        Passes, each of as many slides as there are.
    lr, weight_decay
        Of Adam.
    batch_size
        Slides a step.
    balance
        Whether slides are drawn with replacement by the inverse frequency of their class; else each once.
    standardise
        Whether columns are centred and scaled by the regions of the training slides, each slide of equal weight.
    device
        Where it runs.

    Examples
    --------
    >>> HeadTraining(epochs=5).lr
    0.0002
    """

    epochs: int = 20
    lr: float = 2e-4
    weight_decay: float = 1e-5
    batch_size: int = 1
    balance: bool = True
    standardise: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_bounds(
            [
                ("epochs", self.epochs >= 1, "at least 1"),
                ("lr", self.lr > 0, "above 0"),
                ("weight_decay", self.weight_decay >= 0, "at least 0"),
                ("batch_size", self.batch_size >= 1, "at least 1"),
            ],
            vars(self),
        )

    def fit(
        self,
        make: Callable[[int, int], SlideHead],
        bags: Bags,
        slides: NDArray[np.int64],
        code: NDArray[np.int64],
        n_classes: int,
        seed: int,
    ) -> "TrainedHead":
        """Train a head.

        Parameters
        ----------
        make
            Gives the head for a width of the vectors and a number of classes.
        bags
            All slides.
        slides
            (n,) numbers of those to train on.
        code
            (n,) their classes, 0 … n_classes - 1.
        n_classes
            Number of classes.
        seed
            Of weights, order and dropout; torch's own generator is left as it was.

        Returns
        -------
        TrainedHead
            In evaluation mode.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.

        Examples
        --------
        >>> from histograph.evaluation.bags import as_bags
        >>> bags = as_bags([[[0.0], [0.1]], [[1.0]], [[1.1], [0.9]]])
        >>> trained = HeadTraining(epochs=50, lr=0.01).fit(MeanHead, bags, np.arange(2), np.array([0, 1]), 2, seed=0)
        >>> trained.read(bags, np.array([2])).probability.argmax(axis=1)
        array([1])
        """
        shift, scale = _scale(bags, slides) if self.standardise else (0.0, 1.0)
        rng = np.random.default_rng(seed)
        with seeded(seed, self.device):
            head = make(bags.z.shape[1], n_classes).to(self.device)
            trained = TrainedHead(head, shift, scale, self.device)
            head.train()
            # one kernel for all weights: steps are small, and many
            optimiser = torch.optim.Adam(
                head.parameters(), self.lr, weight_decay=self.weight_decay, fused=True
            )
            for chosen in self._steps(code, n_classes, rng):
                z, place = trained.batch(bags, slides[chosen])
                loss = head.loss(z, place, torch.as_tensor(code[chosen], device=self.device))
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss of {type(head).__name__} is {loss.item()}; lower lr, now {self.lr}"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        head.eval()
        return trained

    def _steps(
        self, code: NDArray[np.int64], n_classes: int, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the places, in the training part, of the slides of each step."""
        n = len(code)
        chance = 1.0 / np.bincount(code, minlength=n_classes)[code]
        for _ in range(self.epochs):
            order = rng.choice(n, n, p=chance / chance.sum()) if self.balance else rng.permutation(n)
            yield from np.split(order, range(self.batch_size, n, self.batch_size))


@dataclass(frozen=True)
class TrainedHead:
    """A head, and the scale of what it was trained on.

    Parameters
    ----------
    head
        The head.
    shift, scale
        What is taken from each column, and what it is then divided by.
    device
        Where the head is.
    """

    head: SlideHead
    shift: Any
    scale: Any
    device: str

    def batch(self, bags: Bags, slides: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Give the scaled regions of some slides as a ragged batch.

        Parameters
        ----------
        bags
            All slides.
        slides
            (s,) numbers of slides.

        Returns
        -------
        z : Tensor
            (n, D) float32.
        place : Tensor
            (n,) int64, which of the slides each region is of.
        """
        rows, place = bags.rows_of(slides)
        z = ((bags.z[rows] - self.shift) / self.scale).astype(np.float32)
        return torch.as_tensor(z, device=self.device), torch.as_tensor(place, device=self.device)

    def read(self, bags: Bags, slides: NDArray[np.int64]) -> Said:
        """Give probabilities and attention.

        Parameters
        ----------
        bags
            All slides.
        slides
            (s,) numbers of slides.

        Returns
        -------
        Said
            (s, K) probabilities; weights of the regions of the slides, one slide after the other.
        """
        parts = []
        with torch.inference_mode():
            for some in np.split(slides, range(_READ, len(slides), _READ)):
                reading = self.head(*self.batch(bags, some), len(some))
                chance = reading.logits.double().softmax(1)
                parts.append((chance.cpu().numpy(), reading.attention.double().cpu().numpy()))
        probability, attention = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Said(probability, attention)


def _scale(bags: Bags, slides: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give mean and standard deviation of each column over slides of equal weight; 1 where a column is constant."""
    rows, place = bags.rows_of(slides)
    weight = (1.0 / np.bincount(place))[place][:, None] / len(slides)
    mean = (weight * bags.z[rows]).sum(axis=0)
    spread = np.sqrt((weight * (bags.z[rows] - mean) ** 2).sum(axis=0))
    return mean, np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1.0), spread, 1.0)
