"""Classification scores of many weighted resamples at once.

A bootstrap resample is a vector of counts, so a score of B resamples is a score with B rows of weights.
Confusion matrices are then one matrix product, and the area under the curve one cumulative sum over the
sorted scores.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_weighted", "auc")


def check_metrics(metrics: Sequence[str], known: Sequence[str] = METRICS) -> tuple[str, ...]:
    """Check the names of metrics.

    Parameters
    ----------
    metrics
        Names among `known`.
    known
        Those that there are: "accuracy", "balanced_accuracy", "f1" (macro), "f1_weighted" and "auc".

    Returns
    -------
    tuple of str
        The names.

    Raises
    ------
    ValueError
        If there is none, or one is unknown or repeated.

    Examples
    --------
    >>> check_metrics(["auc"])
    ('auc',)
    """
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(f"metrics must be distinct names among {', '.join(known)}; found {names}.")
    return names


def confusion_scores(confusion: NDArray[np.float64], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    r"""Compute the scores that depend on predicted classes only.

    With :math:`C_{jk}` the weight of samples of class j predicted as k, the recall of class j is
    :math:`C_{jj} / \sum_k C_{jk}` and its F1 is :math:`2 C_{jj} / (\sum_k C_{jk} + \sum_k C_{kj})`.
    Balanced accuracy and macro F1 are means over the classes for which these are defined, as in
    scikit-learn.

    Parameters
    ----------
    confusion
        (B, K, K) non-negative weights, true class by predicted class.
    names
        Metrics to compute; "auc" is passed over.

    Returns
    -------
    dict of str to ndarray
        (B,) values of each metric; NaN where all weights are zero.

    Examples
    --------
    >>> import numpy as np
    >>> confusion_scores(np.array([[[3.0, 1.0], [0.0, 4.0]]]), ["accuracy"])["accuracy"]
    array([0.875])
    """
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = true.sum(axis=1)
    recall, f1 = _ratio(hit, true), _ratio(2 * hit, true + predicted)
    scores = {
        "accuracy": lambda: _ratio(hit.sum(axis=1), total),
        "balanced_accuracy": lambda: _mean_defined(recall),
        "f1": lambda: _mean_defined(f1),
        "f1_weighted": lambda: _ratio((np.nan_to_num(f1) * true).sum(axis=1), total),
    }
    return {name: scores[name]() for name in names if name in scores}


def weighted_auc(
    y: NDArray[np.int64],
    probability: NDArray[np.float64],
    stratum: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    r"""Compute the area under the receiver operating characteristic, comparing samples of one stratum only.

    .. math:: A = \frac{\sum_{i \in P, j \in N, s_i = s_j} w_i w_j ([p_i > p_j] + \frac12 [p_i = p_j])}
                       {\sum_{i \in P, j \in N, s_i = s_j} w_i w_j}

    Strata are folds: scores of models that were fitted on different folds share no scale, and comparing
    across folds puts an uninformative feature below one half, because a fold rich in positives leaves a
    training part poor in them. With one stratum this is the ordinary area. With more than two classes it is
    the mean over classes of one against the rest.

    Parameters
    ----------
    y
        (n,) class codes 0 … K-1.
    probability
        (n, K) scores of the classes; with two classes the second column is used.
    stratum
        (n,) stratum of each sample, 0 … S-1.
    weight
        (B, n) non-negative weights.

    Returns
    -------
    ndarray
        (B,) areas; NaN where no pair exists.

    References
    ----------
    G. Forman, M. Scholz, Apples-to-apples in cross-validation studies, SIGKDD Explorations 12, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    >>> weighted_auc(y, np.column_stack([1 - p, p]), np.zeros(4, int), np.ones((1, 4)))
    array([0.75])
    """
    n_classes = probability.shape[1]
    if n_classes == 2:
        return _binary_auc(y == 1, probability[:, 1], stratum, weight)
    areas = [_binary_auc(y == k, probability[:, k], stratum, weight) for k in range(n_classes)]
    return _mean_defined(np.stack(areas, axis=1))


def _binary_auc(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    stratum: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    concordant, pairs = np.zeros(len(weight)), np.zeros(len(weight))
    for s in np.unique(stratum):
        rows = np.flatnonzero(stratum == s)
        rows = rows[np.argsort(score[rows], kind="stable")]
        # Tied scores form one step of the curve; their pairs count one half.
        step = np.flatnonzero(np.r_[True, np.diff(score[rows]) != 0])
        up = np.add.reduceat(weight[:, rows] * positive[rows], step, axis=1)
        down = np.add.reduceat(weight[:, rows] * ~positive[rows], step, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        concordant += (up * below).sum(axis=1)
        pairs += up.sum(axis=1) * down.sum(axis=1)
    return _ratio(concordant, pairs)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def _mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))
