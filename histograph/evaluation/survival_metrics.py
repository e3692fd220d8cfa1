"""Concordance of risks with follow-up, the log-rank test, and groups of low and high risk."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import _column
from .survival_inputs import FollowUp, as_follow_up

# Weights times pairs of one block of events hold at most this many numbers (32 MB).
_BLOCK = 4_000_000


class LogRank(NamedTuple):
    """Result of a log-rank test.

    Parameters
    ----------
    statistic
        Chi-squared statistic.
    p_value
        Probability of a statistic as large when the groups have one survival curve.
    degrees
        Degrees of freedom, the number of groups less one.
    """

    statistic: float
    p_value: float
    degrees: int


def need_lifelines(module: str) -> ModuleType:
    """Import a module of lifelines, which the extra `survival` installs.

    Parameters
    ----------
    module
        Full name.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        If lifelines is not installed.

    Examples
    --------
    >>> need_lifelines("lifelines.utils").__name__
    'lifelines.utils'
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            'this needs lifelines, which is not installed: pip install "histograph[survival]"'
        ) from error


def concordance_index(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> float:
    """Compute Harrell's concordance index of risks: 1 when a higher risk always means an earlier event.

    A pair counts when it is known who had the event first: the earlier of the two times is an event (at
    equal times, an event comes before a censoring; two events at one time do not count). The index is the
    share of these pairs in which the earlier one has the higher risk, equal risks counting one half. Risk
    that says nothing has 0.5, and -risk has one minus the value. Predicted *survival times* have the
    opposite sign: hand in their negative.

    Parameters
    ----------
    risk
        (n,) predicted risk, for instance a log hazard: higher means an earlier event.
    time
        (n,) follow-up times.
    event
        (n,) 1 where the event was seen, 0 where censored.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If lengths differ, a value is missing, or no pair can be compared.
    ImportError
        If lifelines (extra `survival`) is not installed.

    References
    ----------
    F. E. Harrell, K. L. Lee, D. B. Mark, Multivariable prognostic models, Statistics in Medicine 15, 1996.

    Examples
    --------
    >>> concordance_index(risk=[3.0, 2.0, 1.0], time=[1, 5, 9], event=[1, 1, 0])
    1.0
    """
    rows = as_follow_up(time, event)
    score = _finite(risk, len(rows.time))
    utils = need_lifelines("lifelines.utils")
    try:
        return float(utils.concordance_index(rows.time, -score, rows.event))
    except ZeroDivisionError as error:
        raise ValueError(
            f"no pair of the {len(score)} subjects can be compared: {int(rows.event.sum())} events, none before "
            "the end of another's follow-up."
        ) from error


def weighted_concordance(
    risk: NDArray[np.float64],
    follow_up: FollowUp,
    stratum: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute the concordance index of many weighted resamples, comparing subjects of one stratum only.

    A pair weighs the product of its subjects' weights. Strata are folds: risks of models that were fitted
    on different patients share no scale. With one stratum and unit weights this is `concordance_index`.

    Parameters
    ----------
    risk
        (n,) risks.
    follow_up
        Of the n subjects.
    stratum
        (n,) stratum of each subject.
    weight
        (B, n) non-negative weights.

    Returns
    -------
    ndarray
        (B,) indices; NaN where no pair exists.

    Examples
    --------
    >>> rows = FollowUp(np.array([1.0, 5.0, 9.0]), np.array([True, True, False]))
    >>> weighted_concordance(np.array([3.0, 2.0, 1.0]), rows, np.zeros(3, int), np.ones((1, 3)))
    array([1.])
    """
    concordant, pairs = np.zeros(len(weight)), np.zeros(len(weight))
    for s in np.unique(stratum):
        rows = np.flatnonzero(stratum == s)
        t, seen, r, w = follow_up.time[rows], follow_up.event[rows], risk[rows], weight[:, rows]
        events = np.flatnonzero(seen)
        size = max(1, _BLOCK // max(len(rows), len(weight)))
        for start in range(0, len(events), size):
            i = events[start : start + size]
            later = (t > t[i, None]) | ((t == t[i, None]) & ~seen)
            right = later * ((r < r[i, None]) + 0.5 * (r == r[i, None]))
            concordant += ((w @ right.T) * w[:, i]).sum(axis=1)
            pairs += ((w @ later.T.astype(np.float64)) * w[:, i]).sum(axis=1)
    return np.divide(concordant, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)


def log_rank(time: ArrayLike, event: ArrayLike, group: ArrayLike) -> LogRank:
    """Test whether two or more groups have the same survival.

    Parameters
    ----------
    time
        (n,) follow-up times.
    event
        (n,) 1 where the event was seen, 0 where censored.
    group
        (n,) group of each subject.

    Returns
    -------
    LogRank
        Statistic, p-value and degrees of freedom. When the groups were formed by a model that was trained
        on the same subjects, the p-value is too small: use out-of-fold risks.

    Raises
    ------
    ValueError
        If there are fewer than two groups, no event, or a length differs.
    ImportError
        If lifelines (extra `survival`) is not installed.

    References
    ----------
    N. Mantel, Evaluation of survival data and two new rank order statistics, Cancer Chemotherapy Reports 50,
    1966.

    Examples
    --------
    >>> result = log_rank([1, 2, 3, 9, 10, 11], [1, 1, 1, 1, 1, 1], ["a", "a", "a", "b", "b", "b"])
    >>> round(result.p_value, 3)
    0.025
    """
    rows = as_follow_up(time, event)
    names = _column(group, len(rows.time), "group")
    code = np.unique(names.astype(str) if names.dtype.kind == "O" else names, return_inverse=True)[1]
    n_groups = int(code.max()) + 1
    if n_groups < 2:
        raise ValueError(f"group must have at least two values, found only {names[0]}.")
    if not rows.event.any():
        raise ValueError(f"event has no event among {len(code)} subjects: nothing can be tested.")
    found = need_lifelines("lifelines.statistics").multivariate_logrank_test(rows.time, code, rows.event)
    return LogRank(float(found.test_statistic), float(found.p_value), n_groups - 1)


def median_split(
    risk: ArrayLike,
    strata: ArrayLike | None = None,
    names: tuple[str, str] = ("low risk", "high risk"),
) -> NDArray[np.str_]:
    """Call the upper half of the risks high: those above the median.

    Parameters
    ----------
    risk
        (n,) risks.
    strata
        (n,) fold of each subject; the median is then that of his own fold, as risks of different folds share
        no scale. None: one median.
    names
        What to call the two groups, low and high.

    Returns
    -------
    ndarray
        (n,) names, to hand to `plot_survival` and `log_rank`. A risk equal to the median is low.

    Raises
    ------
    ValueError
        If a risk is not finite or a length differs.

    Examples
    --------
    >>> median_split([0.1, 0.9, 0.4], names=("low", "high")).tolist()
    ['low', 'high', 'low']
    """
    score = _finite(risk, len(np.atleast_1d(np.asarray(risk))))
    fold = np.zeros(len(score)) if strata is None else _column(strata, len(score), "strata")
    high = np.zeros(len(score), dtype=bool)
    for value in np.unique(fold):
        rows = fold == value
        high[rows] = score[rows] > np.median(score[rows])
    return np.where(high, names[1], names[0])


def _finite(risk: ArrayLike, n: int) -> NDArray[np.float64]:
    score = _column(risk, n, "risk")
    if score.dtype.kind not in "fiub" or not np.isfinite(score).all():
        raise ValueError(f"risk must hold finite numbers, found dtype {score.dtype} or infinity.")
    return score.astype(np.float64)
