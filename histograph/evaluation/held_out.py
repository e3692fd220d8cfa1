"""Probes on a split that is given: fitted on one set of samples, scored on another."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from .inputs import Labels, _column, as_classes, as_groups, as_labels, as_numbers, as_vectors
from .probes import _Logistic
from .regression import PENALTIES, LinearModel
from .result import ProbeResult
from .scores import RegressionResult, score_classes, score_values
from .splits import check_split
from .vote import neighbour_vote


def held_out_probe(
    train: ArrayLike,
    y: ArrayLike,
    test: ArrayLike,
    y_test: ArrayLike,
    probe: Literal["linear", "vote"] = "linear",
    groups: ArrayLike | None = None,
    groups_test: ArrayLike | None = None,
    seed: int = 0,
    c_grid: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    k: int = 20,
    temperature: float | None = 0.07,
    distance: Literal["cosine", "euclidean"] = "cosine",
    **scoring: Any,
) -> ProbeResult:
    """Fit a classifier on frozen embeddings of one set, and score it on another, such as an official test set.

    Parameters
    ----------
    train
        (n, D) embeddings to fit on.
    y
        (n,) their classes.
    test
        (m, D) embeddings to score on.
    y_test
        (m,) their classes, all of them in `y`.
    probe
        "linear": the logistic regression of `linear_probe`, its penalty chosen within the training set; "vote":
        `neighbour_vote`.
    groups, groups_test
        Patient (or slide) of each row. With both, patients on both sides are refused. Those of the test set are the
        unit of the bootstrap.
    seed
        Seed of the inner folds of "linear" and of the resampling.
    c_grid
        Inverse penalties of "linear".
    k, temperature, distance
        Of "vote".
    **scoring
        Further arguments of `score_classes`: `metrics`, `each_class`, `confidence`, `n_boot`.

    Returns
    -------
    ProbeResult
        Scores with intervals over the groups of the test set, given the fitted model.

    Raises
    ------
    ValueError
        If lengths or widths differ, a test class is unknown, or patients are shared.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y, y_test = np.repeat([0, 1], 20), np.repeat([0, 1], 5)
    >>> z, z_test = (rng.normal(size=(len(v), 2)) + 4 * v[:, None] for v in (y, y_test))
    >>> held_out_probe(z, y, z_test, y_test, n_boot=50).metrics["auc"][0]
    1.0
    """
    if probe not in ("linear", "vote"):
        raise ValueError(f'probe must be "linear" or "vote", found {probe!r}.')
    known, asked = as_vectors(train), as_vectors(test)
    labels = as_labels(y, len(known))
    code = _checked(known, asked, groups, groups_test)
    parameters: dict[str, Any]
    # many tiny matrix products, which more than one thread slows down
    with threadpool_limits(limits=1 if len(known) < 5000 else None, user_api="blas"):
        if probe == "vote":
            vote = neighbour_vote(known, labels.classes[labels.code], asked, k, temperature, distance)
            probability = vote.probability
            parameters = {"k": k, "temperature": temperature, "distance": distance}
        else:
            model = _Logistic(tuple(sorted(float(c) for c in c_grid)), None, [])
            if not model.grid or model.grid[0] <= 0:
                raise ValueError(f"c_grid must hold positive numbers, at least one; found {tuple(c_grid)}.")
            probability = model(known, Labels(labels.code, labels.classes), code, asked, seed)
            parameters = {"C": model.chosen}
    truth = as_known(y_test, labels, len(asked))
    scored = score_classes(truth, probability, labels.classes, groups_test, seed=seed, **scoring)
    return replace(scored, probe=probe, parameters=scored.parameters | parameters)


def held_out_regression(
    train: ArrayLike,
    y: ArrayLike,
    test: ArrayLike,
    y_test: ArrayLike,
    model: Literal["ridge", "least_squares"] = "ridge",
    groups: ArrayLike | None = None,
    groups_test: ArrayLike | None = None,
    seed: int = 0,
    penalty_grid: Sequence[float] = PENALTIES,
    **scoring: Any,
) -> RegressionResult:
    """Fit a linear regression on frozen embeddings of one set, and score it on another.

    Parameters
    ----------
    train
        (n, D) embeddings to fit on.
    y
        (n,) their measured values.
    test
        (m, D) embeddings to score on.
    y_test
        (m,) their measured values.
    model
        "ridge" or "least_squares", as in `regression_probe`.
    groups, groups_test
        As in `held_out_probe`.
    seed
        Seed of the inner folds of "ridge" and of the resampling.
    penalty_grid
        Penalties of "ridge".
    **scoring
        Further arguments of `score_values`: `metrics`, `confidence`, `n_boot`.

    Returns
    -------
    RegressionResult
        Scores with intervals over the groups of the test set, given the fitted model.

    Raises
    ------
    ValueError
        If lengths or widths differ, a value is not finite, or patients are shared.

    Examples
    --------
    >>> import numpy as np
    >>> z, z_test = np.arange(9.0)[:, None], np.array([[0.5], [9.0]])
    >>> result = held_out_regression(z, 2 * z[:, 0], z_test, [1.0, 18.0], model="least_squares", n_boot=50)
    >>> round(result.metrics["mse"][0], 6)
    0.0
    """
    known, asked = as_vectors(train), as_vectors(test)
    target = as_numbers(y, "y", len(known))
    truth = as_numbers(y_test, "y_test", len(asked))
    code = _checked(known, asked, groups, groups_test)
    fit = LinearModel(model, tuple(penalty_grid), [])
    predicted = fit(known, target, code, asked, seed)
    scored = score_values(truth, predicted, groups_test, seed=seed, **scoring)
    return replace(
        scored, probe=model, parameters=scored.parameters | {"model": model, "penalty": fit.chosen}
    )


def as_known(y_test: ArrayLike, labels: Labels, n: int) -> Any:
    """Give test classes in the type of the classes that were trained on.

    Parameters
    ----------
    y_test
        (n,) classes.
    labels
        Of the training rows.
    n
        Expected number.

    Returns
    -------
    ndarray
        (n,) of the type of `labels.classes`.

    Raises
    ------
    ValueError
        If the length differs.

    Examples
    --------
    >>> as_known([1.0, 0.0], as_labels([0.0, 1.0], 2), 2)
    array([1, 0])
    """
    truth = np.asarray(y_test)
    if truth.shape != (n,):
        raise ValueError(
            f"y_test must have one class for each of {n} rows of test, found shape {truth.shape}."
        )
    truth = as_classes(_column(y_test, n, "y_test"))
    return truth.astype(str) if labels.classes.dtype.kind in "US" else truth


def _checked(known: Any, asked: Any, groups: ArrayLike | None, groups_test: ArrayLike | None) -> Any:
    """Check widths and patients; give the group codes of the training rows."""
    if known.shape[1] != asked.shape[1]:
        raise ValueError(
            f"train and test must have the same number of columns, found {known.shape[1]} and {asked.shape[1]}."
        )
    code = as_groups(groups, len(known))
    as_groups(groups_test, len(asked), "groups_test")
    if groups is not None and groups_test is not None:
        check_split(np.asarray(groups), np.asarray(groups_test))
    return code
