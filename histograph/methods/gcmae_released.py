"""What the released GCMAE does otherwise than our default form: its memory bank, and its learning rates.

The network is the same, :class:`histograph.nn.MaskedAutoencoder`. Use :class:`histograph.methods.GCMAE` with
``official_compat=True``, for released weights and to compare with the paper. For new models the default form is the
better choice, for the released code

- copies the K + 1 rows that it contrasts with for every image, 24 MiB an image at K = 8,192 and a width of 768;
- may draw an image's own row for a negative of it;
- starts with rows of any length, from which the first batch takes Z;
- contrasts the mean of all tokens and hands out the class token, of which the contrast hears 1/99;
- lets each process have a bank of its own, and writes it in the backward pass. This one is written after the step
  and shared, which comes to the same in one process.

Quan, Li, Chen et al., "Global Contrast-Masked Autoencoders Are Powerful Pathological Representation Learners",
arXiv 2205.09048; Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.masked_autoencoder import MaskedAutoencoder
from ..nn.memory_bank import Bank, gather_rows, mean_over_processes

_EPS = 1e-7
# of the buffer `params`: negatives, temperature, Z, momentum
_Z = 2


class AliasSampler:
    """Draw numbers with given chances, two random numbers a draw (Walker's alias method).

    Parameters
    ----------
    chances : Tensor
        (N,) at least 0, of any sum above 0.

    Attributes
    ----------
    prob : Tensor
        (N,) chance that a number, once hit, is kept.
    alias : Tensor
        (N,) int64, the number that takes its place otherwise.

    Raises
    ------
    ValueError
        If the chances are no chances.

    Examples
    --------
    >>> sampler = AliasSampler(torch.tensor([1.0, 3.0]))
    >>> sampler.prob, sampler.alias
    (tensor([0.5000, 1.0000]), tensor([1, 0]))
    >>> sampler.draw(5).shape
    torch.Size([5])
    """

    def __init__(self, chances: Tensor) -> None:
        if chances.dim() != 1 or not len(chances) or not bool((chances >= 0).all()) or not chances.sum() > 0:
            raise ValueError("chances must be numbers of at least 0, not all of them 0")
        share = chances.float() / chances.float().sum() * len(chances)
        self.prob = torch.ones_like(share)
        self.alias = torch.zeros(len(chances), dtype=torch.long)
        rest: list[float] = share.tolist()
        below = [number for number, value in enumerate(rest) if value < 1]
        above = [number for number, value in enumerate(rest) if value >= 1]
        while below and above:
            small, large = below.pop(), above.pop()
            self.prob[small], self.alias[small] = rest[small], large
            rest[large] -= 1 - rest[small]
            (below if rest[large] < 1 else above).append(large)

    def draw(self, count: int) -> Tensor:
        """Draw numbers, with replacement.

        Parameters
        ----------
        count : int
            How many.

        Returns
        -------
        Tensor
            (count,) int64 from 0 to N - 1.
        """
        hit = torch.randint(len(self.prob), (count,))
        return torch.where(torch.bernoulli(self.prob[hit]) > 0, hit, self.alias[hit])


@dataclass(frozen=True)
class ReleasedContrast:
    """One contrast with its parts.

    Attributes
    ----------
    loss : Tensor
        Scalar.
    chance : Tensor
        (B, 1 + K) P of the own row, then of the negatives.

    Examples
    --------
    >>> ReleasedContrast(torch.tensor(1.0), torch.ones(2, 4)).chance.shape
    torch.Size([2, 4])
    """

    loss: Tensor
    chance: Tensor


class ReleasedBank(Bank):
    r"""Memory bank of the released code, with its noise-contrastive loss.

    With :math:`P_{ik} = \exp(M_{idx_{ik}} \cdot v_i / T) / Z`, a = K / N and e = 1e-7,

    .. math::

        L = -\frac{1}{B} \sum_i \Bigl[ \log \frac{P_{i0}}{P_{i0} + a + e}
            + \sum_{k = 1}^K \log \frac{a}{P_{ik} + a + e} \Bigr]

    Parameters
    ----------
    dim : int
        Width D.
    rows : int
        Items N.
    momentum : float
        Share m of the old vector in the new.
    negatives : int
        K, for each image.
    temperature : float
        T.

    Attributes
    ----------
    params : Tensor
        (4,) K, T, Z and m, as the released files keep them; Z is -1 before the first batch.

    Examples
    --------
    >>> bank = ReleasedBank(8, rows=20, negatives=5)
    >>> v = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    >>> bank(v, torch.arange(4)).shape, bank.contrast(v, torch.arange(4)).chance.shape
    (torch.Size([]), torch.Size([4, 6]))
    """

    def __init__(
        self,
        dim: int,
        rows: int = 0,
        momentum: float = 0.5,
        negatives: int = 8192,
        temperature: float = 0.07,
    ) -> None:
        super().__init__(dim, rows, momentum)
        self.negatives, self.temperature = negatives, temperature
        self.params: Tensor
        self.register_buffer("params", torch.tensor([negatives, temperature, -1.0, momentum]))
        self._sampler: AliasSampler | None = None

    def start(self, rows: int) -> None:
        """Forget everything, Z too, and begin with random rows.

        Parameters
        ----------
        rows : int
            Items N of the data set, at least 1.
        """
        super().start(rows)
        self.params[_Z] = -1.0

    def forward(self, v: Tensor, row: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        v : Tensor
            (B, D) of length 1.
        row : Tensor
            (B,) int64, the item that each is of.

        Returns
        -------
        Tensor
            Scalar.

        Raises
        ------
        ValueError
            If rows do not fit the bank.
        """
        return self.contrast(v, row).loss

    def contrast(self, v: Tensor, row: Tensor, index: Tensor | None = None) -> ReleasedContrast:
        """Compute the loss of a batch, with its parts.

        Parameters
        ----------
        v : Tensor
            (B, D) of length 1.
        row : Tensor
            (B,) int64, the item that each is of.
        index : Tensor, optional
            (B, 1 + K) int64 rows to contrast with, the own one first, in place of drawing them.

        Returns
        -------
        ReleasedContrast
            Loss and chances.

        Raises
        ------
        ValueError
            If rows do not fit the bank.
        """
        self._check(v, row)
        if index is None:
            if self._sampler is None or len(self._sampler.prob) != self.rows:
                self._sampler = AliasSampler(torch.ones(self.rows))
            drawn = self._sampler.draw(len(row) * (self.negatives + 1)).view(len(row), -1)
            index = torch.cat([row.unsqueeze(1), drawn.to(row.device)[:, 1:]], dim=1)
        with torch.autocast(v.device.type, enabled=False):
            score = (self.memory[index].float() @ v.float().unsqueeze(2)).squeeze(2)
            chance = (score / self.temperature).exp()
            if self.params[_Z] < 0:
                self.params[_Z] = mean_over_processes(chance.detach().mean()) * self.rows
            chance = chance / self.params[_Z].clone()
            noise = (index.shape[1] - 1) / self.rows
            own = (chance[:, 0] / (chance[:, 0] + noise + _EPS)).log()
            others = (noise / (chance[:, 1:] + noise + _EPS)).log().sum(1)
            return ReleasedContrast(-(own + others).mean(), chance)

    def update(self, row: Tensor, v: Tensor) -> None:
        """Remember what was seen; of a row that was seen several times the last counts.

        Parameters
        ----------
        row : Tensor
            (B,) int64.
        v : Tensor
            (B, D) of length 1.
        """
        row, v = gather_rows(row, v.detach().float())
        last = {number: place for place, number in enumerate(row.tolist())}
        row, v = row[list(last.values())], v[list(last.values())]
        self._write(row, self.momentum * self.memory[row] + (1 - self.momentum) * v)

    def _first(self, rows: int, dim: int) -> Tensor:
        bound = 1 / math.sqrt(dim / 3)
        return torch.empty(rows, dim).uniform_(-bound, bound)


def released_features(network: MaskedAutoencoder, image: Tensor, pooling: str) -> tuple[Tensor, Tensor]:
    """Give what the released downstream model reads off an image, with nothing hidden.

    Parameters
    ----------
    network : MaskedAutoencoder
        The network.
    image : Tensor
        (B, 3, H, W), normalised.
    pooling : {"cls", "mean"}
        The class token after the last norm; or the mean of the squares' tokens before it, normalised after that (with
        the norm of the downstream model as it starts).

    Returns
    -------
    node : Tensor
        (B · N, D) tokens of the squares, after the last norm.
    graph : Tensor
        (B, D).

    Examples
    --------
    >>> sizes = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    >>> network = MaskedAutoencoder(8, 4, dim=8, depth=1, heads=2, **sizes)
    >>> released_features(network, torch.zeros(2, 3, 8, 8), "cls")[1].shape
    torch.Size([2, 8])
    """
    x = network.tokens(image)
    for block in network.blocks:
        x = block(x)
    node = network.norm(x)
    if pooling == "cls":
        return node[:, 1:].flatten(0, 1), node[:, 0]
    return node[:, 1:].flatten(0, 1), nn.functional.layer_norm(x[:, 1:].mean(1), x.shape[2:], eps=1e-6)


def released_learning_rate(epoch: float, peak: float, warmup: float = 40.0, epochs: float = 80.0) -> float:
    """Rise linearly to the peak, then fall to 0 by half a cosine.

    Parameters
    ----------
    epoch : float
        Epochs done, with the share of the present one.
    peak : float
        Learning rate at the end of the warm-up; released: 1e-3 · batch size / 256.
    warmup : float
        Epochs of the rise.
    epochs : float
        All epochs.

    Returns
    -------
    float
        The learning rate.

    Examples
    --------
    >>> [released_learning_rate(epoch, 5e-4) for epoch in (0, 20, 40, 60)]
    [0.0, 0.00025, 0.0005, 0.00025]
    """
    if epoch < warmup:
        return peak * epoch / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
