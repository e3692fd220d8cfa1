"""Soft assignment of rows to clusters in which every cluster gets an equal share: entropic optimal transport."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from .bounds import check_bounds

Array = NDArray[np.float64]

_REFRESH = 50  # rounds after which shares are computed anew, so that one that was once too small for a number returns


def balanced_assignment(
    cost: Tensor, temperature: float = 0.1, rounds: int = 200, tolerance: float = 1e-4
) -> Tensor:
    r"""Share n rows among k clusters at the least cost, each cluster taking n / k rows in total.

    .. math::

        \min_Q \sum_{ik} Q_{ik} C_{ik} + \tau \sum_{ik} Q_{ik} \log Q_{ik}, \quad
        \sum_k Q_{ik} = 1, \quad \sum_i Q_{ik} = n / k

    by Sinkhorn's rounds: columns and rows are scaled in turn, now and then in logarithms, so that no temperature is
    too low for a number.

    Parameters
    ----------
    cost : Tensor
        (n, k) cost C of each row in each cluster, such as squared distances; finite.
    temperature : float
        tau, in the units of the cost; towards 0 the shares become 0 and 1, and more rounds are needed.
    rounds : int
        Largest number of rounds; after that, clusters have what they have then, and rows still sum to 1.
    tolerance : float
        Rounds end when each cluster has its n / k up to this part of it.

    Returns
    -------
    Tensor
        (n, k) shares Q, of the type and on the device of `cost`; rows sum to 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013.

    Examples
    --------
    >>> cost = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])  # all would like the first
    >>> balanced_assignment(cost, temperature=0.05).argmax(1)
    tensor([1, 1, 0, 0])
    """
    bounds = (
        ("cost", cost.dim() == 2 and min(cost.shape) >= 1, "a table (n, k) with at least one row and column"),
        ("temperature", temperature > 0, "above 0"),
        ("rounds", rounds >= 1, "at least 1"),
        ("tolerance", tolerance > 0, "above 0"),
    )
    given = {"cost": tuple(cost.shape), "temperature": temperature, "rounds": rounds, "tolerance": tolerance}
    check_bounds(bounds, given)
    if not bool(cost.isfinite().all()):
        raise ValueError("cost must be finite; found nan or inf, look at the rows it was computed from")
    table = cost.detach().to("cpu", torch.float64).contiguous().numpy()
    share = np.empty_like(table)
    sinkhorn(table, float(temperature), rounds, float(tolerance), np.zeros(table.shape[1]), share)
    return torch.from_numpy(share).to(cost)


@njit(cache=True, nogil=True)
def sinkhorn(
    cost: Array, temperature: float, rounds: int, tolerance: float, column: Array, share: Array
) -> None:
    """Do the rounds of `balanced_assignment`, without checks.

    Parameters
    ----------
    cost : ndarray
        (n, k) float64.
    temperature : float
        tau.
    rounds : int
        Largest number of rounds.
    tolerance : float
        When to end before.
    column : ndarray
        (k,) float64, logarithms of the factors of columns: where to begin, and on return where it ended, from where
        the rounds of a similar cost end sooner.
    share : ndarray
        (n, k) float64, Q on return.

    Examples
    --------
    >>> import numpy as np
    >>> share = np.empty((2, 2))
    >>> sinkhorn(np.array([[0.0, 1.0], [0.0, 1.0]]), 0.5, 50, 1e-6, np.zeros(2), share)
    >>> share.tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    n, k = cost.shape
    wanted = n / k
    total, step = np.empty(k), np.empty(k)
    for turn in range(rounds):
        if turn % _REFRESH == 0:
            _from_logarithms(cost, temperature, column, share, step)
        else:
            for i in range(n):
                row = 0.0
                for j in range(k):
                    share[i, j] *= step[j]
                    row += share[i, j]
                for j in range(k):
                    share[i, j] /= row
        total[:] = 0.0
        for i in range(n):
            for j in range(k):
                total[j] += share[i, j]
        worst = 0.0
        for j in range(k):
            step[j] = wanted / total[j]
            column[j] += np.log(step[j])
            worst = max(worst, abs(total[j] / wanted - 1.0))
        if worst <= tolerance:
            return


@njit(cache=True, nogil=True)
def _from_logarithms(cost: Array, temperature: float, column: Array, share: Array, top: Array) -> None:
    """Do a step of the columns and one of the rows without loss, from the factors of the columns and the cost.

    From then on a column's total is at least 1 / k after each step of the rows (they divide by n at most), and a row's
    at least 1 / k after each step of the columns (they divide by k at most): no later step can divide by 0.
    """
    n, k = cost.shape
    for turn in range(2):
        top[:] = -np.inf
        for i in range(n):
            high, row = -np.inf, 0.0
            for j in range(k):
                share[i, j] = column[j] - cost[i, j] / temperature
                high = max(high, share[i, j])
            for j in range(k):
                row += np.exp(share[i, j] - high)
            for j in range(k):
                share[i, j] -= np.log(row) + high
                top[j] = max(top[j], share[i, j])
        for j in range(k if turn == 0 else 0):
            total = 0.0
            for i in range(n):
                total += np.exp(share[i, j] - top[j])
            column[j] += np.log(n / k) - np.log(total) - top[j]
    for i in range(n):
        for j in range(k):
            share[i, j] = np.exp(share[i, j])
