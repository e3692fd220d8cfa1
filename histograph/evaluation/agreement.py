"""Does a predicted score put samples in the order of their truth: the prediction probability."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from .inputs import as_numbers


class PairCounts(NamedTuple):
    """How the pairs of samples are ordered by their scores.

    Parameters
    ----------
    concordant
        Pairs of different truth whose score has its order.
    discordant
        Pairs of different truth whose score has the opposite order.
    tied
        Pairs of different truth and one score.
    tied_both
        Pairs of one truth and one score.
    """

    concordant: int
    discordant: int
    tied: int
    tied_both: int


def prediction_probability(truth: ArrayLike, score: ArrayLike, legacy: bool = False) -> float:
    r"""Compute the prediction probability: how often, of two samples, the one with more also has the higher score.

    Over the C concordant, D discordant and T tied pairs of samples of different truth,

    .. math:: P = \frac{C + T / 2}{C + D + T},

    which is 1 for the right order, 1/2 for a score that says nothing, and 0 for the reversed order. It is the area
    under the ROC curve when the truth has two values.

    Parameters
    ----------
    truth
        (n,) true values, for instance cellularity.
    score
        (n,) predicted values, on any scale.
    legacy
        Give the value of the evaluation code of the BreastPathQ challenge, as published with DINO in histopathology:
        :math:`(C + D + T/2) / (C + 2 D + T)`, for its C also holds the discordant pairs, and T also those of one truth
        and one score. It is 2/3 for a score without ties that says nothing and never below 1/2: comparable with
        published numbers, and with nothing else.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, or all truths are equal.

    References
    ----------
    W. D. Smith, R. C. Dutton, N. T. Smith, A measure of association for assessing prediction accuracy, Statistics in
    Medicine 15, 1996. R. J. Chen, R. G. Krishnan, arXiv:2203.00585, 2022 (the legacy value).

    Examples
    --------
    >>> prediction_probability([0.1, 0.2, 0.9], [1.0, 3.0, 2.0])
    0.6666666666666666
    >>> prediction_probability([0.1, 0.2, 0.9], [1.0, 3.0, 2.0], legacy=True)
    0.75
    """
    values = as_numbers(truth, "truth")
    numbers = as_numbers(score, "score", len(values))
    counts = pair_counts(values, numbers)
    if sum(counts[:3]) == 0:
        raise ValueError(
            f"truth must hold at least two different values, found {len(values)} samples with "
            f"{values[:1].tolist()}: no pair has an order."
        )
    return ordered_share(counts, legacy)


def ordered_share(counts: PairCounts, legacy: bool = False) -> float:
    """Turn counts of pairs into the prediction probability.

    Parameters
    ----------
    counts
        Of the pairs.
    legacy
        As in `prediction_probability`.

    Returns
    -------
    float
        Between 0 and 1; NaN without a pair.

    Examples
    --------
    >>> ordered_share(PairCounts(6, 2, 2, 5)), ordered_share(PairCounts(6, 2, 2, 0), legacy=True)
    (0.7, 0.75)
    """
    c, d, t, both = counts
    if c + d + t == 0:
        return float("nan")
    return (c + d + (t + both) / 2) / (c + 2 * d + t + both) if legacy else (c + t / 2) / (c + d + t)


def pair_counts(truth: NDArray[np.float64], score: NDArray[np.float64]) -> PairCounts:
    r"""Count the pairs of samples by truth and by the order of their scores, in :math:`O(n \log n)`.

    Kendall's tau-b is :math:`(C - D)` over the geometric mean of the pairs untied in either; counts of ties then give C
    and D.

    Parameters
    ----------
    truth
        (n,) finite true values.
    score
        (n,) finite scores.

    Returns
    -------
    PairCounts
        The counts.

    Examples
    --------
    >>> import numpy as np
    >>> pair_counts(np.array([0.0, 0.0, 1.0, 2.0]), np.array([5.0, 6.0, 6.0, 5.0]))
    PairCounts(concordant=1, discordant=2, tied=2, tied_both=0)
    """
    x, y = (np.unique(values, return_inverse=True)[1] for values in (truth, score))
    total = _pairs(np.array([len(x)]))
    same_truth, same_score = _pairs(np.bincount(x)), _pairs(np.bincount(y))
    same_both = _pairs(np.unique(x * (y.max(initial=0) + 1) + y, return_counts=True)[1])
    tied, ordered = same_score - same_both, total - same_truth - same_score + same_both
    if ordered == 0:
        return PairCounts(0, 0, tied, same_both)
    if total == 1:  # of which SciPy computes no p-value
        surplus = 1 if (x[0] < x[1]) == (y[0] < y[1]) else -1
        return PairCounts((1 + surplus) // 2, (1 - surplus) // 2, tied, same_both)
    # the p-value is not asked for, and its exact form is slow
    tau = float(kendalltau(x, y, method="asymptotic").statistic)
    surplus = round(tau * np.sqrt(float(total - same_truth)) * np.sqrt(float(total - same_score)))
    return PairCounts((ordered + surplus) // 2, (ordered - surplus) // 2, tied, same_both)


def _pairs(sizes: NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())
