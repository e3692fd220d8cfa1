"""Denoising diffusion: variance schedules, noisy values, what to predict, and single steps back to clean values."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Schedule = Literal["sigmoid", "linear", "quad", "const", "jsd", "cosine"]
Target = Literal["x0", "step", "epsilon"]
SCHEDULES: tuple[str, ...] = ("sigmoid", "linear", "quad", "const", "jsd", "cosine")
TARGETS: tuple[str, ...] = ("x0", "step", "epsilon")


def beta_schedule(
    name: Schedule, timesteps: int, beta_start: float | None = None, beta_end: float | None = None
) -> np.ndarray:
    """Give the variance that each step of the noising process adds.

    Parameters
    ----------
    name : {"sigmoid", "linear", "quad", "const", "jsd", "cosine"}
        ``sigmoid``: sigmoid from -6 to 6 between the two ends; ``linear``; ``quad``: linear in the square
        root; ``const``: ``beta_end``; ``jsd``: 1/T, 1/(T-1) ... 1; ``cosine``: from the squared cosine of
        Nichol and Dhariwal, at most 0.999. The last two know no ends.
    timesteps : int
        Number of steps T, at least 2.
    beta_start, beta_end : float, optional
        Ends of the schedule; 1e-4 / T and 2 / T by default, which is 1e-7 and 2e-3 for T = 1000.

    Returns
    -------
    numpy.ndarray
        (T,) float64, in (0, 1].

    Raises
    ------
    ValueError
        If the name is unknown, T is below 2, or the ends do not satisfy 0 < beta_start <= beta_end < 1.

    References
    ----------
    Ho et al., NeurIPS 2020; Nichol and Dhariwal, ICML 2021, eq. 17.

    Examples
    --------
    >>> beta = beta_schedule("sigmoid", 1000)
    >>> round(float((1 - beta).prod()), 4)
    0.3676
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, found {name!r}")
    if timesteps < 2:
        raise ValueError(f"timesteps must be at least 2, found {timesteps}")
    if name == "jsd":
        return 1.0 / np.linspace(timesteps, 1, timesteps)
    if name == "cosine":
        angle = (np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * math.pi / 2
        kept = np.cos(angle) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    start = 1e-4 / timesteps if beta_start is None else beta_start
    end = 2.0 / timesteps if beta_end is None else beta_end
    if not 0 < start <= end < 1:
        raise ValueError(
            f"beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, found {start} and {end}"
        )
    if name == "const":
        return np.full(timesteps, end)
    if name == "linear":
        return np.linspace(start, end, timesteps)
    if name == "quad":
        return np.linspace(start**0.5, end**0.5, timesteps) ** 2
    return (end - start) / (1 + np.exp(-np.linspace(-6, 6, timesteps))) + start


def antithetic_times(num_graphs: int, timesteps: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw one time per graph in pairs that sum to T - 1: every batch meets weak and strong noise alike.

    Parameters
    ----------
    num_graphs : int
        Number of graphs G.
    timesteps : int
        Number of steps T.
    device : torch.device or str
        Where to draw.

    Returns
    -------
    Tensor
        (G,) int64 in 0 .. T-1; entries i and i + G//2 + 1 sum to T - 1.

    Examples
    --------
    >>> t = antithetic_times(8, 1000)
    >>> (t[:3] + t[5:]).tolist()
    [999, 999, 999]
    """
    t = torch.randint(timesteps, (num_graphs // 2 + 1,), device=device)
    return torch.cat([t, timesteps - 1 - t])[:num_graphs]


class Diffusion(nn.Module):
    """The forward process ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``, ``abar_t = prod (1 - beta_s)``.

    Parameters
    ----------
    schedule : str
        See :func:`beta_schedule`.
    timesteps : int
        Number of steps T.
    beta_start, beta_end : float, optional
        See :func:`beta_schedule`.

    Examples
    --------
    >>> import torch
    >>> process = Diffusion("sigmoid", 1000)
    >>> x0, eps, t = torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 999])
    >>> process.noisy(x0, eps, t)[:, 0]
    tensor([1.0000, 0.6063])
    >>> process.target("step", x0, eps, torch.tensor([0, 0])).abs().max()
    tensor(0.)
    """

    signal: Tensor
    noise: Tensor

    def __init__(
        self,
        schedule: Schedule = "sigmoid",
        timesteps: int = 1000,
        beta_start: float | None = None,
        beta_end: float | None = None,
    ) -> None:
        super().__init__()
        kept = np.cumprod(1 - beta_schedule(schedule, timesteps, beta_start, beta_end))
        # Steps back subtract numbers close to 1: in double precision, and out of reach of `.to()`. Time -1 is clean.
        self._kept = np.append(kept, 1.0)
        # recomputed from the settings, so they need no place in a file
        self.register_buffer("signal", torch.tensor(np.sqrt(kept), dtype=torch.float32), persistent=False)
        self.register_buffer("noise", torch.tensor(np.sqrt(1 - kept), dtype=torch.float32), persistent=False)

    @property
    def timesteps(self) -> int:
        """Number of steps T."""
        return self.signal.numel()

    def noisy(self, x0: Tensor, eps: Tensor, time: Tensor) -> Tensor:
        """Mix clean rows (N, F) with noise (N, F) at the time of each row, (N,) int64."""
        return self.signal[time].unsqueeze(1) * x0 + self.noise[time].unsqueeze(1) * eps

    def target(self, kind: Target, x0: Tensor, eps: Tensor, time: Tensor) -> Tensor:
        """Give what a network has to predict from the noisy rows.

        Parameters
        ----------
        kind : {"x0", "step", "epsilon"}
            The clean rows; the deterministic step ``x_{t-1} - x_t`` with the same noise (0 at t = 0); the
            noise.
        x0, eps : Tensor
            (N, F) clean rows and noise.
        time : Tensor
            (N,) int64.

        Returns
        -------
        Tensor
            (N, F).

        Raises
        ------
        ValueError
            If the kind is unknown.
        """
        if kind == "x0":
            return x0
        if kind == "epsilon":
            return eps
        if kind == "step":
            return self.noisy(x0, eps, (time - 1).clamp(min=0)) - self.noisy(x0, eps, time)
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, found {kind!r}")

    def kept(self, time: Tensor) -> Tensor:
        """Give the share ``abar`` of the variance that is signal, 1 at time -1.

        Parameters
        ----------
        time : Tensor
            (N,) int64 in ``-1 .. T - 1``; -1 stands for the clean rows.

        Returns
        -------
        Tensor
            (N,) float64 on the CPU.

        Raises
        ------
        ValueError
            If a time is outside.

        Examples
        --------
        >>> import torch
        >>> Diffusion("sigmoid", 1000).kept(torch.tensor([-1, 999])).numpy().round(4)
        array([1.    , 0.3676])
        """
        index = time.detach().cpu().numpy()
        if index.size and (index.min() < -1 or index.max() >= self.timesteps):
            raise ValueError(
                f"time must lie in -1 .. timesteps - 1 = {self.timesteps - 1}, "
                f"found {index.min()} to {index.max()}"
            )
        return torch.from_numpy(self._kept[index])

    def clean(self, kind: Target, prediction: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Solve a prediction for the clean rows: the inverse of :meth:`target`.

        Parameters
        ----------
        kind : {"x0", "step", "epsilon"}
            What was predicted. A step says nothing at t = 0, where its target is 0 for all rows: there the
            noise is taken to be 0.
        prediction, noisy : Tensor
            (N, F) predictions, and the noisy rows that they were made from.
        time : Tensor
            (N,) int64.

        Returns
        -------
        Tensor
            (N, F). An error of the prediction grows by noise / signal for "epsilon", and about by the number of
            steps T for "step".

        Raises
        ------
        ValueError
            If the kind is unknown, or the noise is to give rows of which no signal is left.

        Examples
        --------
        >>> import torch
        >>> process, time = Diffusion("sigmoid", 100), torch.tensor([50])
        >>> x0, eps = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
        >>> for kind in TARGETS:
        ...     target = process.target(kind, x0, eps, time)
        ...     print(round(float(process.clean(kind, target, process.noisy(x0, eps, time), time)), 3))
        2.0
        2.0
        2.0
        """
        if kind == "x0":
            return prediction
        kept = self.kept(time)
        signal, noise = kept.sqrt(), (1 - kept).sqrt()
        if kind == "epsilon":
            if bool((kept <= 0).any()):
                raise ValueError(
                    f"no signal is left at time {int(time.max())} of this schedule, so the noise does not tell "
                    "the clean rows; start one step lower"
                )
            return _combine(noisy, 1 / signal, prediction, -noise / signal)
        if kind != "step":
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, found {kind!r}")
        before = self.kept((time - 1).clamp(min=0))
        slope = ((1 - before).sqrt() - noise) / noise
        gain = before.sqrt() - signal - slope * signal
        first = time.cpu() == 0
        gain = torch.where(first, signal, gain)
        rows = _combine(prediction, (~first).double(), noisy, torch.where(first, 1.0, -slope))
        return _combine(rows, 1 / gain)

    def posterior(
        self, x0: Tensor, noisy: Tensor, time: Tensor, earlier: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Give mean and variance of the less noisy rows, ``q(x_s | x_t, x_0)`` with s < t.

        With ``a = abar_t / abar_s``, the mean is ``(sqrt(abar_s) (1 - a) x_0 + sqrt(a) (1 - abar_s) x_t) /
        (1 - abar_t)`` and the variance ``(1 - a) (1 - abar_s) / (1 - abar_t)``.

        Parameters
        ----------
        x0, noisy : Tensor
            (N, F) clean rows and rows at `time`.
        time : Tensor
            (N,) int64, t.
        earlier : Tensor, optional
            (N,) int64, s, in ``-1 .. t - 1``, where -1 stands for the clean rows; t - 1 by default.

        Returns
        -------
        mean : Tensor
            (N, F).
        variance : Tensor
            (N, 1); 0 when s is -1.

        Raises
        ------
        ValueError
            If a time is outside, or s is not before t.

        References
        ----------
        Ho, Jain and Abbeel, NeurIPS 2020, eq. 6 and 7.

        Examples
        --------
        >>> import torch
        >>> x0, noisy = torch.ones(1, 2), torch.zeros(1, 2)
        >>> mean, variance = Diffusion().posterior(x0, noisy, torch.tensor([0]))
        >>> mean.tolist(), variance.tolist()
        ([[1.0, 1.0]], [[0.0]])
        """
        kept, before = self._two(time, earlier)
        ratio = kept / before
        mean = _combine(
            x0,
            before.sqrt() * (1 - ratio) / (1 - kept),
            noisy,
            ratio.sqrt() * (1 - before) / (1 - kept),
        )
        variance = (1 - ratio) * (1 - before) / (1 - kept)
        return mean, variance.to(mean).unsqueeze(1)

    def ddpm_step(
        self, x0: Tensor, noisy: Tensor, time: Tensor, eps: Tensor, earlier: Tensor | None = None
    ) -> Tensor:
        """Draw less noisy rows from the posterior.

        Parameters
        ----------
        x0, noisy, time, earlier
            As in :meth:`posterior`, with an estimate for the clean rows.
        eps : Tensor
            (N, F) standard normal numbers.

        Returns
        -------
        Tensor
            (N, F); `x0` itself when `earlier` is -1.

        References
        ----------
        Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020.

        Examples
        --------
        >>> import torch
        >>> x0, noisy, time = torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([70])
        >>> Diffusion().ddpm_step(x0, noisy, time, torch.randn(1, 2), earlier=torch.tensor([-1]))
        tensor([[1., 1.]])
        """
        mean, variance = self.posterior(x0, noisy, time, earlier)
        return mean + variance.sqrt() * eps

    def ddim_step(
        self,
        x0: Tensor,
        noisy: Tensor,
        time: Tensor,
        earlier: Tensor | None = None,
        eta: float = 0.0,
        eps: Tensor | None = None,
    ) -> Tensor:
        """Take the noise out and put less of the same noise back in.

        With ``n`` the noise in the rows and ``sigma = eta sqrt(variance of the posterior)``, gives
        ``sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) n + sigma eps``.

        Parameters
        ----------
        x0, noisy, time, earlier
            As in :meth:`posterior`, with an estimate for the clean rows; times may be far apart.
        eta : float
            Share of fresh noise, from 0 (none: the same start gives the same end) to 1 (:meth:`ddpm_step`).
        eps : Tensor, optional
            (N, F) standard normal numbers; needed when `eta` is above 0.

        Returns
        -------
        Tensor
            (N, F); `x0` itself when `earlier` is -1.

        Raises
        ------
        ValueError
            If `eta` is outside [0, 1], or it is above 0 without `eps`, or as :meth:`posterior`.

        References
        ----------
        Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, eq. 12.

        Examples
        --------
        >>> import torch
        >>> process, x0, eps = Diffusion(), torch.ones(1, 2), torch.tensor([[0.5, -1.0]])
        >>> late, early = torch.tensor([900]), torch.tensor([100])
        >>> step = process.ddim_step(x0, process.noisy(x0, eps, late), late, early)
        >>> torch.allclose(step, process.noisy(x0, eps, early))
        True
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie between 0 (deterministic) and 1 (DDPM), found {eta}")
        if eta > 0 and eps is None:
            raise ValueError(f"eps: standard normal numbers are needed with eta = {eta}, found None")
        kept, before = self._two(time, earlier)
        fresh = eta**2 * (1 - kept / before) * (1 - before) / (1 - kept)
        old = ((1 - before - fresh).clamp(min=0) / (1 - kept)).sqrt()
        rows = _combine(x0, before.sqrt() - old * kept.sqrt(), noisy, old)
        return rows if eps is None else _combine(rows, torch.ones_like(fresh), eps, fresh.sqrt())

    def _two(self, time: Tensor, earlier: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give abar at both times of a step back, and refuse a step forth."""
        earlier = time - 1 if earlier is None else earlier
        if bool((earlier >= time).any()):
            raise ValueError(f"earlier must be below time, found {earlier.tolist()} for {time.tolist()}")
        return self.kept(time), self.kept(earlier)


def _combine(a: Tensor, a_factor: Tensor, b: Tensor | None = None, b_factor: Tensor | None = None) -> Tensor:
    """Add rows (N, F) times factors (N,), in the precision and place of the rows."""
    out = a * a_factor.to(a).unsqueeze(1)
    return out if b is None or b_factor is None else out + b * b_factor.to(b).unsqueeze(1)
