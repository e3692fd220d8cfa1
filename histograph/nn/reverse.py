"""The way back of denoising diffusion: from noise to clean rows, for any network that restores noisy ones."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from .diffusion import Diffusion, Target

#: Estimates the clean tables from the noisy ones at a time, the same for all rows.
Restore = Callable[[list[Tensor], int], Sequence[Tensor]]


def reverse_times(process: Diffusion, steps: int, target: Target = "x0") -> list[int]:
    """Choose the times at which a reverse process evaluates its network, evenly spaced and descending.

    Parameters
    ----------
    process : Diffusion
        The noising process.
    steps : int
        How many, at least 1.
    target : {"x0", "step", "epsilon"}
        What the network predicts. "step" is 0 by definition at time 0, so that the last evaluation is at time
        1; from "epsilon" nothing can be told at a time where no signal is left, which is passed over.

    Returns
    -------
    list of int
        From the noisiest time to the first; a single step is at the noisiest.

    Raises
    ------
    ValueError
        If there are not as many times as `steps`.

    Examples
    --------
    >>> reverse_times(Diffusion("sigmoid", 1000), 4), reverse_times(Diffusion("sigmoid", 5), 4, "step")
    ([999, 666, 333, 0], [4, 3, 2, 1])
    """
    last, first = process.timesteps - 1, 1 if target == "step" else 0
    if target == "epsilon" and process.signal[last] == 0:
        last -= 1
    if not 1 <= steps <= last - first + 1:
        raise ValueError(
            f"steps must lie between 1 and {last - first + 1} for {process.timesteps} noise levels and the target "
            f'"{target}", found {steps}'
        )
    return np.linspace(last, first, steps).round().astype(int).tolist()


def burn_in_rounds(process: Diffusion, tolerance: float = 0.05) -> int:
    """Count the rounds that make a reverse process forget that it started from pure noise.

    Where a schedule stops short of pure noise (abar_T = 0.37 for the default one), the noisiest rows still hold
    a trace of the clean ones, and a start from N(0, I) has the right variance but lacks that trace. A round
    runs the process to clean rows and noises them again; the right distribution is the one that rounds leave as it
    is, and for Gaussian rows of variance 1 or less each shrinks the error of the mean at least by abar_T.

    Parameters
    ----------
    process : Diffusion
        The noising process.
    tolerance : float
        Largest error of the noisiest rows' mean that may be left, in standard deviations of the clean rows.

    Returns
    -------
    int
        The smallest r >= 0 with ``abar_T^(r + 1/2) <= tolerance``.

    Raises
    ------
    ValueError
        If the tolerance is not between 0 and 1.

    Examples
    --------
    >>> [burn_in_rounds(Diffusion(name)) for name in ("sigmoid", "linear", "const", "cosine", "jsd")]
    [3, 3, 1, 0, 0]
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, found {tolerance}")
    kept = float(process.signal[-1]) ** 2
    return 0 if kept <= tolerance**2 else math.ceil(math.log(tolerance) / math.log(kept) - 0.5)


def reverse_process(
    process: Diffusion,
    restore: Restore,
    start: Sequence[Tensor],
    times: Sequence[int],
    randn: Callable[[Tensor], Tensor],
    eta: float = 0.0,
    burn_in: int = 0,
) -> tuple[list[Tensor], list[Tensor]]:
    """Turn noise into clean rows, several tables at once.

    Parameters
    ----------
    process : Diffusion
        The noising process.
    restore : callable
        From the tables at a time, and the time, the estimated clean tables.
    start : sequence of Tensor
        (N_i, F_i) noisiest tables, standard normal as a rule.
    times : sequence of int
        Descending, as from :func:`reverse_times`; after the last the rows are clean.
    randn : callable
        Gives standard normal numbers of the shape of a table.
    eta : float
        Fresh noise per step, 0 (DDIM, deterministic) to 1 (DDPM).
    burn_in : int
        Rounds before, with ``eta`` 1, each noised again to the first time; see :func:`burn_in_rounds`.

    Returns
    -------
    rows : list of Tensor
        Clean tables.
    first : list of Tensor
        The estimate at the first time of the last round, from which the least is known beforehand.

    Raises
    ------
    ValueError
        If the times do not descend or are none, or a number is outside its range.

    References
    ----------
    Ho et al., NeurIPS 2020, algorithm 2; Song et al., ICLR 2021, eq. 12.

    Examples
    --------
    >>> import torch
    >>> process, truth = Diffusion("cosine", 100), torch.ones(2, 3)
    >>> rows, _ = reverse_process(process, lambda tables, time: [truth], [torch.randn(2, 3)], [99, 40],
    ...                           torch.randn_like)
    >>> torch.equal(rows[0], truth)
    True
    """
    if not times or any(later >= time for time, later in zip(times, list(times)[1:])):
        raise ValueError(f"times must descend and be at least one, found {list(times)}")
    if burn_in < 0:
        raise ValueError(f"burn_in must be at least 0, found {burn_in}")
    tables = list(start)
    for _ in range(burn_in):
        clean, _first = _descend(process, restore, tables, times, randn, 1.0)
        tables = [process.noisy(x0, randn(x0), _all(x0, times[0])) for x0 in clean]
    return _descend(process, restore, tables, times, randn, eta)


def _descend(
    process: Diffusion,
    restore: Restore,
    tables: list[Tensor],
    times: Sequence[int],
    randn: Callable[[Tensor], Tensor],
    eta: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Go once through the times."""
    first: list[Tensor] = []
    for time, earlier in zip(times, [*list(times)[1:], -1], strict=True):
        clean = list(restore(tables, time))
        first = first or clean
        tables = [
            process.ddim_step(
                x0, rows, _all(rows, time), _all(rows, earlier), eta, randn(rows) if eta > 0 else None
            )
            for x0, rows in zip(clean, tables, strict=True)
        ]
    return tables, first


def _all(rows: Tensor, time: int) -> Tensor:
    """Give every row the same time."""
    return rows.new_full((rows.shape[0],), time).long()
