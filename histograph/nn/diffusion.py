"""The noising process of denoising diffusion: variance schedules, noisy values, and what to predict."""

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
