"""Regression probe: how much of a measured quantity can be read linearly from frozen embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from .bootstrap import check_bootstrap, percentile_interval
from .inputs import as_groups, as_numbers, as_vectors
from .metrics import check_metrics
from .scores import REGRESSION_METRICS, RegressionResult, _Values, resampled
from .splits import split_codes

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]

#: Ridge penalties to choose from, of standardised columns.
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)


def regression_probe(
    z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    model: Literal["ridge", "least_squares"] = "ridge",
    metrics: Sequence[str] = ("mse", "r2", "prediction_probability"),
    confidence: float = 0.95,
    n_boot: int = 1000,
    repeats: int = 1,
    penalty_grid: Sequence[float] = PENALTIES,
) -> RegressionResult:
    r"""Score a linear regression on frozen embeddings, out of fold, with intervals over groups.

    "least_squares" minimises :math:`\sum_i (y_i - b - w^T z_i)^2`, and takes the smallest w where several do.
    "ridge" adds :math:`\lambda |w|^2` on columns that are standardised on the training part; :math:`\lambda` is the one
    of least squared error in an inner cross-validation (three folds, same groups; with fewer than three groups, the
    middle of the grid).

    Parameters
    ----------
    z
        (n, D) embeddings; anything `numpy.asarray` takes.
    y
        (n,) measured values, for instance cellularity.
    groups
        (n,) patient (or slide) of each row: never on both sides of a fold, and the unit of the bootstrap. None: each
        row alone.
    folds
        Number of folds.
    seed
        Seed of everything random. Repeat r splits with `seed + r`.
    model
        "ridge" or "least_squares".
    metrics
        As in `score_values`.
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of groups.
    repeats
        Number of cross-validations with different splits; scores are means over them.
    penalty_grid
        Penalties to choose from, of "ridge".

    Returns
    -------
    RegressionResult
        Scores with intervals, and the out-of-fold predictions.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, there are fewer groups than folds, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(60, 3))
    >>> result = regression_probe(z, z @ [1, -2, 0], groups=np.arange(60) // 2, n_boot=100)
    >>> result.metrics["r2"][0] > 0.95
    True
    """
    check_bootstrap(n_boot, confidence)
    names = check_metrics(metrics, REGRESSION_METRICS)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, found {repeats}.")
    vectors = as_vectors(z)
    target = as_numbers(y, "y", len(vectors))
    code = as_groups(groups, len(vectors))
    fit = LinearModel(model, tuple(penalty_grid), [])
    parts, tables = [], []
    with threadpool_limits(limits=1, user_api="blas"):
        for repeat in range(repeats):
            fold_of, predicted = np.empty(len(target), dtype=np.int64), np.empty(len(target))
            for number, (train, test) in enumerate(split_codes(None, code, folds, seed + repeat)):
                predicted[test] = fit(
                    vectors[train], target[train], code[train], vectors[test], seed + repeat
                )
                fold_of[test] = number
            parts.append(_Values(target, predicted, fold_of))
            row = np.arange(len(target))
            shown = row if groups is None else np.asarray(groups)
            columns = {"repeat": repeat, "fold": fold_of, "row": row, "group": shown, "y": target}
            tables.append(pd.DataFrame(columns | {"predicted": predicted}))
    values, replicates = resampled(parts, code, names, n_boot, seed)
    return RegressionResult(
        probe=model,
        metrics={
            name: (value, *percentile_interval(replicates[name].to_numpy(), confidence))
            for name, value in values.items()
        },
        predictions=pd.concat(tables, ignore_index=True),
        replicates=replicates,
        classes=[],
        n=len(target),
        n_groups=int(code.max()) + 1,
        parameters={
            "folds": folds,
            "seed": seed,
            "repeats": repeats,
            "confidence": confidence,
            "n_boot": n_boot,
            "model": model,
            "penalty": fit.chosen,
        },
    )


@dataclass
class LinearModel:
    """A linear regression, fitted on one part and read on another; `chosen` records each penalty.

    Parameters
    ----------
    model
        "ridge" or "least_squares".
    grid
        Penalties of "ridge".
    chosen
        The penalty of each fit is appended.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([[0.0], [1.0], [2.0]])
    >>> LinearModel("least_squares", (), [])(z, np.array([1.0, 3.0, 5.0]), np.arange(3), np.array([[5.0]]), 0).round(6)
    array([11.])
    """

    model: str
    grid: tuple[float, ...]
    chosen: list[float]

    def __post_init__(self) -> None:
        if self.model not in ("ridge", "least_squares"):
            raise ValueError(f'model must be "ridge" or "least_squares", found {self.model!r}.')
        self.grid = tuple(sorted(float(penalty) for penalty in self.grid))
        if self.model == "ridge" and (not self.grid or not self.grid[0] > 0):
            raise ValueError(f"penalty_grid must hold positive numbers, at least one; found {self.grid}.")

    def __call__(self, train: Matrix, y: Matrix, groups: Codes, test: Matrix, seed: int) -> Matrix:
        """Fit on the training part and give (n_test,) values."""
        if self.model == "least_squares":
            centre = train.mean(axis=0)
            weight = np.linalg.lstsq(train - centre, y - y.mean(), rcond=None)[0]
            return y.mean() + (test - centre) @ weight
        penalty = self._choose(train, y, groups, seed)
        self.chosen.append(penalty)
        return _ridge(train, y, test, (penalty,))[0]

    def _choose(self, train: Matrix, y: Matrix, groups: Codes, seed: int) -> float:
        middle = self.grid[len(self.grid) // 2]
        if len(self.grid) == 1 or len(np.unique(groups)) < 3:
            return middle
        error = np.zeros(len(self.grid))
        for inner, outer in split_codes(None, groups, 3, seed):
            guesses = _ridge(train[inner], y[inner], train[outer], self.grid)
            error += ((guesses - y[outer]) ** 2).sum(axis=1)
        return self.grid[int(error.argmin())]


def _ridge(train: Matrix, y: Matrix, test: Matrix, penalties: tuple[float, ...]) -> Matrix:
    """Give (penalties, n_test) values of ridge regressions on standardised columns, of one decomposition."""
    centre, scale = train.mean(axis=0), train.std(axis=0)
    # equal values deviate by rounding, and divided by that another value in the test part would be without bounds
    scale = np.where(scale > 1e-12 * np.abs(centre), scale, 1.0)
    inner, outer = (train - centre) / scale, (test - centre) / scale
    size, basis = np.linalg.eigh(inner.T @ inner)
    read, along = outer @ basis, basis.T @ (inner.T @ (y - y.mean()))
    return np.stack([y.mean() + read @ (along / (np.maximum(size, 0) + penalty)) for penalty in penalties])
