"""Percentile intervals by resampling whole groups with replacement."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .inputs import as_groups
from .metrics import confusion_scores, weighted_auc

# Weights of one block of resamples hold at most this many numbers (32 MB).
_BLOCK = 4_000_000


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    r"""Give any statistic a percentile interval by the cluster bootstrap.

    G groups are drawn with replacement from the G groups, all rows of a drawn group enter (as often as it
    was drawn), and the statistic is computed again; the interval runs from the :math:`(1-c)/2` to the
    :math:`(1+c)/2` quantile of `n_boot` such values.

    Parameters
    ----------
    statistic
        Function of the arrays, for instance `sklearn.metrics.accuracy_score`.
    *arrays
        (n, …) arrays with the same number of rows.
    groups
        (n,) patient or slide of each row; None draws rows.
    n_boot
        Number of resamples.
    confidence
        Coverage c, between 0 and 1.
    seed
        Seed of the resampling.

    Returns
    -------
    tuple of float
        (value, low, high).

    Raises
    ------
    ValueError
        If the arrays differ in length, or `n_boot` or `confidence` is out of range.

    References
    ----------
    A. C. Davison, D. V. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.

    Examples
    --------
    >>> import numpy as np
    >>> value, low, high = bootstrap_interval(np.mean, np.arange(100.0), n_boot=200)
    >>> value, bool(low < 49.5 < high)
    (49.5, True)
    """
    check_bootstrap(n_boot, confidence)
    data = [np.asarray(array) for array in arrays]
    if not data or len({len(array) for array in data}) != 1 or not len(data[0]):
        raise ValueError(
            f"arrays must have the same number of rows, at least one; found {[len(a) for a in data]}."
        )
    code = as_groups(groups, len(data[0]))
    members = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
    values = np.empty(n_boot)
    row = 0
    for counts in _draws(len(members), n_boot, seed, len(code)):
        for count in counts:
            rows = np.concatenate([np.tile(members[g], count[g]) for g in np.flatnonzero(count)])
            values[row] = statistic(*(array[rows] for array in data))
            row += 1
    low, high = percentile_interval(values, confidence)
    return float(statistic(*data)), low, high


def check_bootstrap(n_boot: int, confidence: float) -> None:
    """Raise ValueError unless `n_boot` is positive and `confidence` is strictly between 0 and 1.

    Parameters
    ----------
    n_boot
        Number of resamples.
    confidence
        Coverage.

    Raises
    ------
    ValueError
        If one is out of range.

    Examples
    --------
    >>> check_bootstrap(1000, 0.95)
    """
    if n_boot < 1:
        raise ValueError(f"n_boot must be at least 1, found {n_boot}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, for instance 0.95; found {confidence}.")


def percentile_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Take the central quantiles of bootstrap values.

    Parameters
    ----------
    values
        (n_boot,) values; NaN (resamples in which the statistic does not exist) are left out.
    confidence
        Coverage.

    Returns
    -------
    tuple of float
        (low, high); NaN when fewer than half of the values exist, as an interval of the rest would mislead.

    Examples
    --------
    >>> import numpy as np
    >>> percentile_interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    kept = values[np.isfinite(values)]
    if 2 * len(kept) < len(values) or not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score_table(
    predictions: pd.DataFrame, classes: Sequence[Any], metrics: Sequence[str], n_boot: int, seed: int
) -> tuple[dict[str, float], pd.DataFrame]:
    """Score out-of-fold predictions, and score them again for every bootstrap resample of groups.

    Each metric is computed for each repeat of the cross-validation and averaged over repeats. The resamples
    depend on the number of groups, `n_boot` and `seed` only, so tables of two embeddings of the same
    samples are paired.

    Parameters
    ----------
    predictions
        Columns `repeat`, `fold`, `group_code`, `y_code`, `predicted_code` and one `p_<class>` for each class.
    classes
        The K classes.
    metrics
        Names of metrics.
    n_boot
        Number of resamples.
    seed
        Seed of the resampling.

    Returns
    -------
    values : dict of str to float
        Scores of the predictions themselves.
    replicates : DataFrame
        (n_boot, metrics) scores of the resamples.

    Examples
    --------
    >>> table = pd.DataFrame({"repeat": 0, "fold": 0, "group_code": [0, 1], "y_code": [0, 1],
    ...                       "predicted_code": [0, 1], "p_0": [1.0, 0.0], "p_1": [0.0, 1.0]})
    >>> score_table(table, [0, 1], ["accuracy"], 10, 0)[0]
    {'accuracy': 1.0}
    """
    parts = [_Repeat(part, classes) for _, part in predictions.groupby("repeat", sort=True)]
    n_groups = parts[0].n_groups

    def scores(counts: NDArray[Any]) -> NDArray[np.float64]:
        return np.mean([part.scores(counts, metrics) for part in parts], axis=0)

    exact = scores(np.ones((1, n_groups)))[0]
    blocks = [scores(counts) for counts in _draws(n_groups, n_boot, seed, len(parts[0].y))]
    values = {name: float(value) for name, value in zip(metrics, exact)}
    return values, pd.DataFrame(np.concatenate(blocks), columns=list(metrics))


class _Repeat:
    """Predictions of one repeat, laid out for fast scoring."""

    def __init__(self, part: pd.DataFrame, classes: Sequence[Any]) -> None:
        self.y = part["y_code"].to_numpy()
        self.group = part["group_code"].to_numpy()
        self.fold = part["fold"].to_numpy()
        self.probability = part[[f"p_{name}" for name in classes]].to_numpy()
        self.k = len(classes)
        self.n_groups = int(self.group.max()) + 1
        self.confusion = np.zeros((self.n_groups, self.k * self.k))
        np.add.at(self.confusion, (self.group, self.y * self.k + part["predicted_code"].to_numpy()), 1.0)

    def scores(self, counts: NDArray[Any], metrics: Sequence[str]) -> NDArray[np.float64]:
        """Return (B, metrics) scores for (B, G) counts of groups."""
        confusion = (counts @ self.confusion).reshape(-1, self.k, self.k)
        found = confusion_scores(confusion, metrics)
        if "auc" in metrics:
            found["auc"] = weighted_auc(self.y, self.probability, self.fold, counts[:, self.group])
        return np.stack([found[name] for name in metrics], axis=1)


def _draws(n_groups: int, n_boot: int, seed: int, n_rows: int) -> Iterator[NDArray[np.int64]]:
    """Yield blocks (b, G) of how often each group is drawn, with one stream whatever the block size."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(n_rows, 1))
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        drawn = rng.integers(0, n_groups, size=(size, n_groups)) + n_groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n_groups).reshape(size, n_groups)
