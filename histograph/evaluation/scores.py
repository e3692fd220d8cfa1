"""Scores, with intervals over patients, of predictions that are at hand, by whatever model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .agreement import PairCounts, ordered_share, pair_counts
from .bootstrap import _draws, check_bootstrap, percentile_interval, score_table
from .inputs import _column, as_classes, as_groups, as_numbers
from .metrics import check_metrics, weighted_auc
from .result import ProbeResult

#: What a regression is scored by.
REGRESSION_METRICS = ("mse", "mae", "r2", "prediction_probability", "prediction_probability_legacy")
_ORDERS = {"prediction_probability": False, "prediction_probability_legacy": True}


@dataclass(frozen=True, repr=False)
class RegressionResult(ProbeResult):
    """Scores of a regression on one set of embeddings.

    As `ProbeResult`, with these differences: `classes` is empty, and `predictions` has one row for each sample and
    repeat: `repeat`, `fold`, `row`, `group`, `y` and `predicted`.

    Examples
    --------
    >>> RegressionResult("ridge", {"mse": (0.03, 0.02, 0.04)}, pd.DataFrame(), pd.DataFrame(), [], 80, 40)
    RegressionResult(ridge probe, 80 samples, 40 groups: mse 0.030 [0.020, 0.040])
    """

    def _facts(self) -> str:
        return f"{self.probe} probe, {self.n} samples, {self.n_groups} groups"


def score_classes(
    y: ArrayLike,
    probability: ArrayLike,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    fold: ArrayLike | None = None,
    metrics: Sequence[str] = ("accuracy", "f1", "auc"),
    each_class: bool = False,
    confidence: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> ProbeResult:
    """Score probabilities of classes that a model gave samples which it has not seen.

    `linear_probe` and `knn_probe` end in the same way; so a model of any kind can be compared with them by
    `compare_results`.

    Parameters
    ----------
    y
        (n,) true classes.
    probability
        (n, K) probabilities, or scores that grow with them.
    classes
        (K,) class of each column; None takes the classes of `y`, ascending.
    groups
        (n,) patient (or slide) of each row, the unit of the bootstrap; None: each row alone.
    fold
        (n,) the model that each row is from: areas under the curve compare rows of one model. None: one model.
    metrics
        As in `linear_probe`.
    each_class
        Also give the area under the curve of each class against the rest, as "auc_<class>".
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of groups.
    seed
        Seed of the resampling.

    Returns
    -------
    ProbeResult
        Scores with intervals, of the probe "given".

    Raises
    ------
    ValueError
        If lengths differ, a probability is not finite, or a true class has no column.

    Examples
    --------
    >>> chance = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    >>> score_classes(["fat", "fat", "tumour", "tumour"], chance, n_boot=50).metrics["auc"][0]
    0.75
    """
    check_bootstrap(n_boot, confidence)
    names = check_metrics(metrics)
    scores = np.asarray(probability, dtype=np.float64)
    truth = _column(y, len(np.asarray(y)), "y") if np.ndim(y) == 1 else y
    known = np.unique(as_classes(truth)) if classes is None else as_classes(classes)
    code = _codes(truth, known, scores)
    n = len(code)
    group, strata = as_groups(groups, n), _strata(fold, n)
    table = {
        "repeat": 0,
        "fold": strata,
        "row": np.arange(n),
        "group_code": group,
        "y_code": code,
        "predicted_code": scores.argmax(axis=1),
    }
    shown = [str(name) for name in known.tolist()]
    table |= {f"p_{name}": scores[:, i] for i, name in enumerate(shown)}
    frame = pd.DataFrame(table)
    values, replicates = score_table(frame, shown, names, n_boot, seed)
    if each_class:
        more, drawn = _areas(code, scores, strata, group, shown, n_boot, seed)
        values, replicates = values | more, pd.concat([replicates, drawn], axis=1)
    frame = frame.drop(columns=["group_code", "y_code", "predicted_code"])
    frame.insert(3, "group", np.arange(n) if groups is None else np.asarray(groups))
    frame.insert(4, "y", known[code])
    frame.insert(5, "predicted", known[scores.argmax(axis=1)])
    return ProbeResult(
        probe="given",
        metrics=_with_intervals(values, replicates, confidence),
        predictions=frame,
        replicates=replicates,
        classes=known.tolist(),
        n=n,
        n_groups=int(group.max()) + 1,
        parameters={"seed": seed, "confidence": confidence, "n_boot": n_boot},
    )


def score_values(
    y: ArrayLike,
    predicted: ArrayLike,
    groups: ArrayLike | None = None,
    fold: ArrayLike | None = None,
    metrics: Sequence[str] = ("mse", "r2", "prediction_probability"),
    confidence: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> RegressionResult:
    """Score predicted values of samples that a model has not seen.

    Parameters
    ----------
    y
        (n,) true values, for instance cellularity.
    predicted
        (n,) predicted values.
    groups
        (n,) patient (or slide) of each row, the unit of the bootstrap; None: each row alone.
    fold
        (n,) the model that each row is from: the prediction probability compares rows of one model. None: one model.
    metrics
        Among "mse", "mae", "r2" (against the mean of all rows), "prediction_probability" and
        "prediction_probability_legacy" (see `prediction_probability`).
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of groups.
    seed
        Seed of the resampling.

    Returns
    -------
    RegressionResult
        Scores with intervals, of the probe "given".

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, or a metric is unknown.

    Examples
    --------
    >>> score_values([0.1, 0.2, 0.9], [0.1, 0.3, 0.8], n_boot=50).metrics["prediction_probability"][0]
    1.0
    """
    check_bootstrap(n_boot, confidence)
    names = check_metrics(metrics, REGRESSION_METRICS)
    truth = as_numbers(y, "y")
    guess = as_numbers(predicted, "predicted", len(truth))
    group = as_groups(groups, len(truth))
    rows = _Values(truth, guess, _strata(fold, len(truth)))
    values, replicates = resampled([rows], group, names, n_boot, seed)
    table = pd.DataFrame(
        {
            "repeat": 0,
            "fold": rows.stratum,
            "row": np.arange(len(truth)),
            "group": np.arange(len(truth)) if groups is None else np.asarray(groups),
            "y": truth,
            "predicted": guess,
        }
    )
    return RegressionResult(
        probe="given",
        metrics=_with_intervals(values, replicates, confidence),
        predictions=table,
        replicates=replicates,
        classes=[],
        n=len(truth),
        n_groups=int(group.max()) + 1,
        parameters={"seed": seed, "confidence": confidence, "n_boot": n_boot},
    )


def resampled(
    repeats: Sequence["_Values"], group: NDArray[np.int64], names: Sequence[str], n_boot: int, seed: int
) -> tuple[dict[str, float], pd.DataFrame]:
    """Score predictions, and score them again for every bootstrap resample of groups; means over repeats.

    Parameters
    ----------
    repeats
        Rows of each repeat of a cross-validation, in the same order.
    group
        (n,) group codes.
    names
        Metrics.
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
    """

    def scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.mean([rows.scores(counts[:, group], names) for rows in repeats], axis=0)

    n_groups = int(group.max()) + 1
    exact = scores(np.ones((1, n_groups), dtype=np.int64))[0]
    blocks = [scores(counts) for counts in _draws(n_groups, n_boot, seed, len(group))]
    values = {name: float(value) for name, value in zip(names, exact)}
    return values, pd.DataFrame(np.concatenate(blocks), columns=list(names))


@dataclass(frozen=True)
class _Values:
    """True and predicted values, and the model that each row is from."""

    y: NDArray[np.float64]
    predicted: NDArray[np.float64]
    stratum: NDArray[np.int64]

    def scores(self, weight: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.float64]:
        """Return (B, metrics) scores for (B, n) counts of rows."""
        total = weight.sum(axis=1)
        error = self.predicted - self.y
        squares = weight @ error**2
        # about the mean of all rows, so that what is left of the squares is not lost where values are large
        level = self.y - self.y.mean()
        spread = weight @ level**2 - (weight @ level) ** 2 / total
        # no spread: what rounding leaves of equal values
        none = 1e-12 * (weight @ level**2) + total * (1e-14 * np.abs(self.y).max()) ** 2
        found = {
            "mse": squares / total,
            "mae": weight @ np.abs(error) / total,
            "r2": 1 - np.divide(squares, spread, out=np.full(len(total), np.nan), where=spread > none),
        }
        if any(name in _ORDERS for name in names):
            counts = [self._pairs(row) for row in weight]
            found |= {
                name: np.array([ordered_share(c, old) for c in counts]) for name, old in _ORDERS.items()
            }
        return np.stack([found[name] for name in names], axis=1)

    def _pairs(self, count: NDArray[np.int64]) -> PairCounts:
        parts = []
        for stratum in np.unique(self.stratum):
            rows = np.flatnonzero(self.stratum == stratum)
            times = count[rows]
            rows = np.repeat(rows, times)
            if len(rows):
                found = pair_counts(self.y[rows], self.predicted[rows])
                # a row that was drawn several times makes no pair with itself
                parts.append(
                    found._replace(tied_both=found.tied_both - int((times * (times - 1) // 2).sum()))
                )
        return PairCounts(*(sum(numbers) for numbers in zip(*parts)))


def _codes(y: ArrayLike, known: NDArray[Any], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give the column of the class of each row, checked."""
    truth = as_classes(y)
    if scores.ndim != 2 or truth.shape != (len(scores),) or not len(truth):
        raise ValueError(
            "probability must have a row for each class in y and a column for each class, found shape "
            f"{scores.shape} for y of shape {truth.shape}."
        )
    if (
        known.ndim != 1
        or scores.shape[1] != len(known)
        or len(known) < 2
        or len(np.unique(known)) != len(known)
    ):
        raise ValueError(
            "probability must have a column for each of at least two distinct classes, found "
            f"{scores.shape[1]} columns for {known.tolist()}."
        )
    if not np.isfinite(scores).all():
        raise ValueError("probability must be finite, found NaN or infinity.")
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known[order], truth), len(known) - 1)
    code = order[place]
    missing = np.flatnonzero(known[code] != truth)
    if len(missing):
        raise ValueError(
            f"y has class {truth[missing[0]].item()!r}, which is not among classes {known.tolist()}."
        )
    return code.astype(np.int64)


def _strata(fold: ArrayLike | None, n: int) -> NDArray[np.int64]:
    return np.zeros(n, dtype=np.int64) if fold is None else as_groups(fold, n, "fold")


def _areas(
    code: NDArray[np.int64],
    scores: NDArray[np.float64],
    strata: NDArray[np.int64],
    group: NDArray[np.int64],
    names: Sequence[str],
    n_boot: int,
    seed: int,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Give the area of each class against the rest, of the rows and of their resamples."""

    def areas(counts: NDArray[Any]) -> NDArray[np.float64]:
        weight = counts[:, group].astype(np.float64)
        return np.stack(
            [
                weighted_auc((code == k).astype(np.int64), scores[:, [k, k]], strata, weight)
                for k in range(len(names))
            ],
            axis=1,
        )

    n_groups = int(group.max()) + 1
    exact = areas(np.ones((1, n_groups)))[0]
    drawn = np.concatenate([areas(counts) for counts in _draws(n_groups, n_boot, seed, len(code))])
    columns = [f"auc_{name}" for name in names]
    return dict(zip(columns, exact.tolist())), pd.DataFrame(drawn, columns=columns)


def _with_intervals(
    values: dict[str, float], replicates: pd.DataFrame, confidence: float
) -> dict[str, tuple[float, float, float]]:
    return {
        name: (value, *percentile_interval(replicates[name].to_numpy(), confidence))
        for name, value in values.items()
    }
