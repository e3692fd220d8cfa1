"""A bank with a remembered vector for every item of a data set, and the contrast of an item with it.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, normalize, softplus

STORAGE = {"float32": torch.float32, "float16": torch.float16}
CONTRASTS = ("softmax", "nce")


class Bank(nn.Module):
    """Remembered vectors of the items of a data set, a row an item.

    The rows are a buffer: they are saved and resumed, and no gradient reaches them. They change in :meth:`update` and
    nowhere else; in several processes all of them write what any of them saw, so that all hold the same bank.

    Parameters
    ----------
    dim : int
        Width D of the vectors.
    rows : int
        Items N; 0 before they are known.
    momentum : float
        Share m of the old vector in the new.
    storage : {"float32", "float16"}
        How the rows are kept.

    Attributes
    ----------
    memory : Tensor
        (N, D).

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> bank = Bank(2, rows=3, momentum=0.0)
    >>> bank.update(torch.tensor([1]), torch.tensor([[0.0, 4.0]]))
    >>> bank.memory[1]
    tensor([0., 1.])
    """

    def __init__(
        self,
        dim: int,
        rows: int = 0,
        momentum: float = 0.5,
        storage: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__()
        for name, fine, expected, found in (
            ("dim", dim >= 1, "at least 1", dim),
            ("rows", rows >= 0, "at least 0", rows),
            ("momentum", 0 <= momentum < 1, "at least 0 and below 1", momentum),
            ("storage", storage in STORAGE, f"one of {', '.join(STORAGE)}", storage),
        ):
            if not fine:
                raise ValueError(f"{name} must be {expected}; found {found!r}")
        self.momentum = momentum
        self.memory: Tensor
        self.register_buffer("memory", self._first(rows, dim).to(STORAGE[storage]))

    @property
    def rows(self) -> int:
        """Items N."""
        return self.memory.shape[0]

    def start(self, rows: int) -> None:
        """Forget everything and begin with random vectors, the same in all processes.

        Parameters
        ----------
        rows : int
            Items N of the data set, at least 1.
        """
        memory = self._first(rows, self.memory.shape[1]).to(self.memory)
        if _processes() > 1:
            distributed.broadcast(memory, src=0)
        self.memory = memory

    def update(self, row: Tensor, v: Tensor) -> None:
        r"""Remember what was seen: :math:`M_y \leftarrow m M_y + (1 - m) v`, brought to length 1.

        A row that was seen several times, here or in other processes, takes the mean of what was seen.

        Parameters
        ----------
        row : Tensor
            (B,) int64, y.
        v : Tensor
            (B, D); lengths do not matter.
        """
        row, v = gather_rows(row, normalize(v.detach().float(), dim=1))
        unique, which = row.unique(return_inverse=True)
        mean = v.new_zeros(len(unique), v.shape[1]).index_add_(0, which, v)
        mean /= which.bincount(minlength=len(unique)).unsqueeze(1)
        self._write(unique, self.momentum * self.memory[unique].float() + (1 - self.momentum) * mean)

    def _write(self, row: Tensor, value: Tensor) -> None:
        # a buffer that a state dict shares must be written in place, and may have been made in inference mode
        self.memory[row] = normalize(value, dim=1).to(self.memory.dtype)

    def _first(self, rows: int, dim: int) -> Tensor:
        """Draw directions at random, all equally likely."""
        return normalize(torch.randn(rows, dim), dim=1)

    def _check(self, v: Tensor, row: Tensor) -> None:
        """Refuse rows that the bank does not have."""
        if row.shape != v.shape[:1] or row.dtype != torch.long:
            raise ValueError(
                f"row must have shape ({len(v)},) and type int64, found {tuple(row.shape)} and {row.dtype}"
            )
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < self.rows:
            raise ValueError(
                f"row must be at least 0 and below {self.rows}, the rows of the bank; found {int(row.min())} to "
                f"{int(row.max())}. Give the bank the size of the data set with start(rows), as pretrain does"
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **settings: Any
    ) -> None:
        """Take over as many rows as a file has."""
        found = state_dict.get(f"{prefix}memory")
        if isinstance(found, Tensor) and found.dim() == 2 and found.shape[1] == self.memory.shape[1]:
            self.memory = self.memory.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **settings)


class MemoryBank(Bank):
    r"""Tell which item of a data set a vector is of, by its row in a bank, against others.

    With S rows drawn from the bank for the whole batch, and y the own row,

    .. math::

        L = -\frac{1}{B} \sum_i \log \frac{\exp(v_i \cdot M_{y_i} / T)}
            {\exp(v_i \cdot M_{y_i} / T) + \sum_{j \in S \setminus y_i} \exp(v_i \cdot M_j / T)}

    and its noise-contrastive estimation (``contrast="nce"``), with n negatives and :math:`a = n / (N - 1)`,

    .. math::

        L = -\frac{1}{B} \sum_i \Bigl[ \log \frac{P_{i y_i}}{P_{i y_i} + a}
            + \sum_{j \in S \setminus y_i} \log \frac{a}{P_{ij} + a} \Bigr],
        \quad P_{ij} = \exp(v_i \cdot M_j / T) / Z,

    where Z is set by the first batch, the mean of :math:`\exp(v \cdot M / T)` over its negatives times N, and stays.
    As the negatives are shared, the scores are one product of matrices and no row is copied more than once; an item's
    own row is never its negative.

    Parameters
    ----------
    dim, rows, momentum, storage
        See :class:`Bank`.
    negatives : int, optional
        Rows that are drawn for a batch, with replacement; the whole bank, without drawing, if None or if the bank has
        not more.
    temperature : float
        T.
    contrast : {"softmax", "nce"}
        The loss.

    Attributes
    ----------
    log_z : Tensor
        () log Z of the estimation; NaN before its first batch.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> bank = MemoryBank(8, rows=20, negatives=5, contrast="nce")
    >>> v = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    >>> bank(v, torch.arange(4)).shape, bool(bank.log_z.isfinite())
    (torch.Size([]), True)
    """

    def __init__(
        self,
        dim: int,
        rows: int = 0,
        momentum: float = 0.5,
        storage: Literal["float32", "float16"] = "float32",
        negatives: int | None = 8192,
        temperature: float = 0.07,
        contrast: Literal["softmax", "nce"] = "softmax",
    ) -> None:
        super().__init__(dim, rows, momentum, storage)
        for name, fine, expected, found in (
            ("negatives", negatives is None or negatives >= 1, "at least 1, or None for all", negatives),
            ("temperature", temperature > 0, "above 0", temperature),
            ("contrast", contrast in CONTRASTS, f"one of {', '.join(CONTRASTS)}", contrast),
        ):
            if not fine:
                raise ValueError(f"{name} must be {expected}; found {found!r}")
        self.negatives, self.temperature, self.contrast = negatives, temperature, contrast
        self.log_z: Tensor
        self.register_buffer("log_z", torch.tensor(math.nan))

    def start(self, rows: int) -> None:
        """Forget everything, Z too, and begin with random vectors, the same in all processes.

        Parameters
        ----------
        rows : int
            Items N of the data set, at least 1.
        """
        super().start(rows)
        self.log_z = torch.full_like(self.log_z, math.nan)

    def forward(self, v: Tensor, row: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        v : Tensor
            (B, D) of length 1.
        row : Tensor
            (B,) int64, the item that each is of.
        drawn : Tensor, optional
            (K,) int64 rows to take for negatives, in place of drawing them.

        Returns
        -------
        Tensor
            Scalar; 0 for a bank of one row, which has nothing to contrast with.

        Raises
        ------
        ValueError
            If rows do not fit the bank.
        """
        self._check(v, row)
        if drawn is None and self.negatives is not None and self.negatives < self.rows:
            drawn = torch.randint(self.rows, (self.negatives,), device=row.device)
        with torch.autocast(v.device.type, enabled=False):
            v = v.float()
            own = (v * self.memory[row].float()).sum(1) / self.temperature
            others = self.memory if drawn is None else self.memory[drawn]
            scores = v @ others.t().float() / self.temperature
            numbers = torch.arange(self.rows, device=row.device) if drawn is None else drawn
            same = row.unsqueeze(1) == numbers
            return self._nce(own, scores, same) if self.contrast == "nce" else _softmax(own, scores, same)

    def _nce(self, own: Tensor, scores: Tensor, same: Tensor) -> Tensor:
        count = (~same).sum(1)
        if self.rows == 1 or not bool(count.any()):
            return own.sum() * 0.0
        self._fix_z(scores.detach().masked_fill(same, -math.inf), count)
        log_a = (count.clamp(min=1) / (self.rows - 1)).log()
        # log(P / (P + a)) = -softplus(log a - log P), which neither overflows nor needs a small number added
        right = softplus(log_a - (own - self.log_z))
        wrong = softplus(scores - (self.log_z + log_a).unsqueeze(1)).masked_fill(same, 0.0).sum(1)
        return (right + wrong).mean()

    def _fix_z(self, scores: Tensor, count: Tensor) -> None:
        """Set Z from the first batch, once."""
        if not bool(self.log_z.isnan()):
            return
        log_mean = scores.flatten().logsumexp(0) - count.sum().log()
        if _processes() > 1:
            log_mean = mean_over_processes(log_mean.double().exp()).log().to(log_mean)
        self.log_z = log_mean + math.log(self.rows)


def _softmax(own: Tensor, scores: Tensor, same: Tensor) -> Tensor:
    """Cross entropy of the own row among the negatives."""
    logits = torch.cat([own.unsqueeze(1), scores.masked_fill(same, -math.inf)], dim=1)
    return cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def gather_rows(row: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Join the rows and vectors of all processes, in the order of the processes; one process has its own.

    Parameters
    ----------
    row : Tensor
        (B,) int64; B may differ among processes.
    v : Tensor
        (B, D).

    Returns
    -------
    row, v : Tensor
        Of all processes, the same in each.

    Examples
    --------
    >>> gather_rows(torch.tensor([3]), torch.ones(1, 2))
    (tensor([3]), tensor([[1., 1.]]))
    """
    world = _processes()
    if world == 1:
        return row, v
    counts = [torch.zeros(1, dtype=torch.long, device=v.device) for _ in range(world)]
    distributed.all_gather(counts, torch.tensor([len(row)], device=v.device))
    sizes = [int(count) for count in counts]
    joined = []
    for part in (row, v):
        # processes exchange tensors of one shape
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part
        found = [torch.empty_like(padded) for _ in range(world)]
        distributed.all_gather(found, padded)
        joined.append(torch.cat([one[:size] for one, size in zip(found, sizes, strict=True)]))
    return joined[0], joined[1]


def mean_over_processes(value: Tensor) -> Tensor:
    """Give the mean of a number over all processes; one process has its own.

    Parameters
    ----------
    value : Tensor
        Of one shape in all processes.

    Returns
    -------
    Tensor
        The same in each.

    Examples
    --------
    >>> mean_over_processes(torch.tensor(3.0))
    tensor(3.)
    """
    if _processes() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / _processes()


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
