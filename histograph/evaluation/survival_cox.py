"""Cox's partial likelihood: a loss for networks, and a ridge regression for frozen vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from .survival_inputs import FollowUp

if TYPE_CHECKING:
    from torch import Tensor


def cox_loss(hazards: Tensor, time: Tensor, event: Tensor) -> Tensor:
    r"""Compute the negative log partial likelihood of Cox's model, as a mean over all subjects.

    .. math:: L = -\frac{1}{n} \sum_{i: \delta_i = 1} \Big( h_i - \log \sum_{j: t_j \ge t_i} e^{h_j} \Big)

    Subjects with equal times are in each other's risk sets (Breslow). The sum runs over events and is
    divided by the number of all subjects, so a batch without events has loss 0 and gradient 0: it says
    nothing about the order. Adding a constant to all hazards changes nothing. Sums of exponentials are
    accumulated in logarithms, so hazards of any size are safe, in time O(n log n).

    Parameters
    ----------
    hazards
        (n,) or (n, 1) floating point log hazards :math:`h`: larger means an earlier event.
    time
        (n,) follow-up times, any one unit.
    event
        (n,) 1 where the event was seen, 0 where censored.

    Returns
    -------
    Tensor
        Scalar with gradient, of the dtype of `hazards` (float32 for half precision).

    Raises
    ------
    ValueError
        If shapes differ, there is no subject, a time is not finite, or `event` is not of 0 and 1.

    References
    ----------
    D. R. Cox, Partial likelihood, Biometrika 62, 1975. N. E. Breslow, Covariance analysis of censored
    survival data, Biometrics 30, 1974. J. L. Katzman et al., DeepSurv, BMC Medical Research Methodology 18,
    2018.

    Examples
    --------
    >>> import torch
    >>> hazards = torch.tensor([0.0, 0.0], requires_grad=True)
    >>> loss = cox_loss(hazards, torch.tensor([1.0, 2.0]), torch.tensor([1, 1]))
    >>> round(loss.item(), 4)  # log(2) / 2
    0.3466
    >>> loss.backward(); hazards.grad.tolist()
    [-0.25, 0.25]
    """
    import torch

    h = hazards.squeeze(-1) if hazards.dim() == 2 and hazards.shape[1] == 1 else hazards
    if h.dim() != 1 or not h.numel() or not h.is_floating_point():
        raise ValueError(
            f"hazards must be floating point of shape (n,) or (n, 1) with n > 0, found {hazards.dtype} "
            f"of shape {tuple(hazards.shape)}."
        )
    t, seen = (torch.as_tensor(column, device=h.device) for column in (time, event))
    for name, column in (("time", t), ("event", seen)):
        if column.shape != h.shape:
            raise ValueError(
                f"{name} must have one entry a hazard, expected shape {tuple(h.shape)}, found {tuple(column.shape)}."
            )
    if not torch.isfinite(t).all():
        raise ValueError("time must be finite, found NaN or infinity. Drop these subjects first.")
    if not ((seen == 0) | (seen == 1)).all():
        raise ValueError(
            "event must be 1 (seen) or 0 (censored), found other values; give 1 - censorship where 1 means censored."
        )
    # Half precision loses the order of hazards in sums over many subjects.
    h = h.float() if h.dtype in (torch.float16, torch.bfloat16) else h
    order = torch.argsort(t, descending=True)
    h, t, seen = h[order], -t[order], seen[order].to(h.dtype)
    last = torch.searchsorted(t, t, right=True) - 1  # the end of each run of equal times closes its risk set
    return (seen * (torch.logcumsumexp(h, 0)[last] - h)).sum() / h.numel()


class CoxData:
    """Vectors and follow-up in the order of the partial likelihood.

    Parameters
    ----------
    z
        (n, D) vectors.
    follow_up
        Of the n subjects.

    Examples
    --------
    >>> data = CoxData(np.array([[1.0], [0.0]]), FollowUp(np.array([1.0, 2.0]), np.array([True, True])))
    >>> round(data.log_likelihood(np.zeros(1)), 4)  # -log(2)
    -0.6931
    """

    def __init__(self, z: NDArray[np.float64], follow_up: FollowUp) -> None:
        order = np.argsort(-follow_up.time, kind="stable")
        time = -follow_up.time[order]
        self.z, self.event = z[order], follow_up.event[order]
        self.last = np.searchsorted(time, time, side="right") - 1
        self.first = np.searchsorted(time, time, side="left")

    def log_likelihood(self, beta: NDArray[np.float64]) -> float:
        """Return the log partial likelihood, a sum over events.

        Parameters
        ----------
        beta
            (D,) coefficients.

        Returns
        -------
        float
            Its value.
        """
        risk = self.z @ beta
        return float((risk - np.logaddexp.accumulate(risk)[self.last])[self.event].sum())

    def objective(
        self, beta: NDArray[np.float64], penalty: float, scale: float
    ) -> tuple[float, NDArray[np.float64]]:
        r"""Return the penalised loss and its gradient.

        Parameters
        ----------
        beta
            (D,) coefficients.
        penalty
            Ridge penalty.
        scale
            Divisor of the log likelihood.

        Returns
        -------
        value : float
            :math:`-\ell(\beta) / s + p \lVert\beta\rVert^2 / 2`.
        gradient : ndarray
            (D,).
        """
        risk = self.z @ beta
        total = np.logaddexp.accumulate(risk)[self.last]
        # Subject j is in the risk set of every event at or before its own time: those from first[j] on.
        inverse = np.where(self.event, -total, -np.inf)[::-1]
        share = np.exp(risk + np.logaddexp.accumulate(inverse)[::-1][self.first])
        value = -(risk - total)[self.event].sum() / scale + 0.5 * penalty * beta @ beta
        return float(value), self.z.T @ (share - self.event) / scale + penalty * beta


def ridge_cox_path(
    z: NDArray[np.float64], follow_up: FollowUp, penalties: Sequence[float]
) -> Iterator[NDArray[np.float64]]:
    r"""Fit Cox regressions with a ridge penalty.

    .. math:: \beta = \arg\min\; -\frac{1}{n} \ell(\beta) + \frac{p}{2} \lVert\beta\rVert^2

    with the log partial likelihood of `cox_loss`. This is the penalty of lifelines' `CoxPHFitter` on
    standardised columns; its Newton steps fail to converge where columns outnumber patients, which is the
    usual case of embeddings, so the (convex, smooth) problem goes to SciPy's L-BFGS here.

    Parameters
    ----------
    z
        (n, D) vectors, standardised.
    follow_up
        Of the n subjects, with an event.
    penalties
        Penalties p > 0.

    Yields
    ------
    ndarray
        (D,) coefficients for each penalty, from the strongest to the weakest.

    Examples
    --------
    >>> z, rows = np.array([[1.0], [0.0], [-1.0]]), FollowUp(np.arange(3.0), np.ones(3, bool))
    >>> [beta] = ridge_cox_path(z, rows, [0.1])
    >>> bool(beta[0] > 0)
    True
    """
    # The solution lies in the span of the rows: a rotation leaves at most n coordinates and the same penalty.
    _, singular, basis = np.linalg.svd(z, full_matrices=False)
    basis = basis[singular > 1e-10 * max(singular.max(initial=0.0), 1e-300)]
    data = CoxData(z @ basis.T, follow_up)
    beta = np.zeros(len(basis))
    for penalty in sorted(penalties, reverse=True):
        found = minimize(
            data.objective,
            beta,
            args=(penalty, float(len(z))),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-13, "gtol": 1e-8},
        )
        beta = found.x
        yield basis.T @ beta
