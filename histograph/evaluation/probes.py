"""Linear and nearest-neighbour probes: how much of a label can be read from frozen embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from .bootstrap import check_bootstrap, percentile_interval, score_table
from .inputs import Labels, as_groups, as_labels, as_vectors
from .metrics import check_metrics
from .result import ProbeResult
from .splits import split_codes, subsample_groups

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]


def linear_probe(
    z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    metrics: Sequence[str] = ("accuracy", "f1", "auc"),
    confidence: float = 0.95,
    n_boot: int = 1000,
    train_fraction: float | None = None,
    repeats: int = 1,
    c_grid: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    class_weight: Literal["balanced"] | None = None,
) -> ProbeResult:
    """Score a logistic regression on frozen embeddings, out of fold, with intervals over groups.

    In each fold the columns are standardised and the penalty is chosen on the training part alone: the C of
    least log loss in an inner cross-validation (three folds, same groups). When the training part has fewer
    than two groups of some class, there is nothing to choose with and the middle of `c_grid` is taken.

    Parameters
    ----------
    z
        (n, D) embeddings; anything `numpy.asarray` takes, so also the result of `hg.embed`.
    y
        (n,) class labels.
    groups
        (n,) patient (or slide) of each row: never on both sides of a fold, and the unit of the bootstrap.
        None: each row alone.
    folds
        Number of folds.
    seed
        Seed of everything random. Repeat r splits with `seed + r`.
    metrics
        Among "accuracy", "balanced_accuracy", "f1" (macro), "f1_weighted" and "auc" (binary, or macro one
        against the rest; pairs within a fold are compared, as folds have models of their own).
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of groups.
    train_fraction
        Fraction of the groups of each training part to keep (few labels), in (0, 1]; None keeps all.
    repeats
        Number of cross-validations with different splits; scores are means over them.
    c_grid
        Inverse penalties to choose from.
    class_weight
        "balanced" weighs classes by inverse frequency.

    Returns
    -------
    ProbeResult
        Scores with intervals, and the out-of-fold predictions.

    Raises
    ------
    ValueError
        If lengths differ, z has NaN, there is one class only, fewer groups than folds, or an unknown metric.

    References ---------- G. Alain, Y. Bengio, Understanding intermediate layers using linear classifier
    probes, arXiv:1610.01644, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 20)
    >>> z = rng.normal(size=(40, 3)) + 3 * y[:, None]
    >>> result = linear_probe(z, y, groups=np.arange(40) // 2, n_boot=100)
    >>> result.metrics["auc"][0] > 0.95
    True
    """
    grid = tuple(sorted(float(c) for c in c_grid))
    if not grid or grid[0] <= 0:
        raise ValueError(f"c_grid must hold positive numbers, at least one; found {tuple(c_grid)}.")
    if class_weight not in (None, "balanced"):
        raise ValueError(f'class_weight must be None or "balanced", found {class_weight!r}.')
    model = _Logistic(grid, class_weight, [])
    run = _Run(folds, seed, repeats, train_fraction, check_metrics(metrics), confidence, n_boot)
    return run.probe("linear", model, z, y, groups, {"C": model.chosen, "class_weight": class_weight})


def knn_probe(
    z: ArrayLike,
    y: ArrayLike,
    k: int = 10,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    metrics: Sequence[str] = ("accuracy", "f1", "auc"),
    confidence: float = 0.95,
    n_boot: int = 1000,
    train_fraction: float | None = None,
    repeats: int = 1,
    distance: Literal["cosine", "euclidean"] = "cosine",
) -> ProbeResult:
    """Score a vote of the k nearest training rows, out of fold, with intervals over groups.

    Columns are standardised on the training part. The probability of a class is its share among the k
    neighbours; on a tie the class that comes first wins.

    Parameters
    ----------
    z
        (n, D) embeddings; anything `numpy.asarray` takes.
    y
        (n,) class labels.
    k
        Number of neighbours.
    groups
        (n,) patient (or slide) of each row: never on both sides of a fold, and the unit of the bootstrap.
        None: each row alone.
    folds
        Number of folds.
    seed
        Seed of everything random. Repeat r splits with `seed + r`.
    metrics
        As in `linear_probe`.
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of groups.
    train_fraction
        Fraction of the groups of each training part to keep (few labels), in (0, 1]; None keeps all.
    repeats
        Number of cross-validations with different splits; scores are means over them.
    distance
        "cosine" or "euclidean", of standardised columns.

    Returns
    -------
    ProbeResult
        Scores with intervals, and the out-of-fold predictions.

    Raises
    ------
    ValueError
        As `linear_probe`; also if k exceeds a training part.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat(["normal", "tumour"], 15)
    >>> z = np.random.default_rng(0).normal(size=(30, 4)) + 4.0 * (y == "tumour")[:, None]
    >>> knn_probe(z, y, k=3, n_boot=100).metrics["accuracy"][0] > 0.9
    True
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}.")
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f'distance must be "cosine" or "euclidean", found {distance!r}.')
    run = _Run(folds, seed, repeats, train_fraction, check_metrics(metrics), confidence, n_boot)
    return run.probe("knn", _Neighbours(k, distance), z, y, groups, {"k": k, "distance": distance})


class _Model(Protocol):
    """Fits on a training part and returns (n_test, K) probabilities of a test part."""

    def __call__(self, train: Matrix, labels: Labels, groups: Codes, test: Matrix, seed: int) -> Matrix: ...


@dataclass
class _Run:
    """Settings that all probes share."""

    folds: int
    seed: int
    repeats: int
    train_fraction: float | None
    metrics: tuple[str, ...]
    confidence: float
    n_boot: int

    def __post_init__(self) -> None:
        check_bootstrap(self.n_boot, self.confidence)
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, found {self.repeats}.")

    def probe(
        self,
        name: str,
        model: _Model,
        z: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None,
        parameters: dict[str, Any],
    ) -> ProbeResult:
        """Cross-validate, score and pack."""
        vectors = as_vectors(z)
        labels = as_labels(y, len(vectors))
        code = as_groups(groups, len(vectors))
        # The optimiser makes thousands of tiny matrix products, which more than one thread slows down (up to
        # 20 times on a busy machine); the caller's setting comes back afterwards.
        with threadpool_limits(limits=1, user_api="blas"):
            table = self._predict(model, vectors, labels, code)
        classes = labels.classes.tolist()
        values, replicates = score_table(table, classes, self.metrics, self.n_boot, self.seed)
        scores = {
            metric: (value, *percentile_interval(replicates[metric].to_numpy(), self.confidence))
            for metric, value in values.items()
        }
        rows = table["row"].to_numpy()
        names = rows if groups is None else np.asarray(groups)[rows]
        shown = table.drop(columns=["group_code", "y_code", "predicted_code"])
        shown.insert(3, "group", names)
        shown.insert(4, "y", labels.classes[table["y_code"]])
        shown.insert(5, "predicted", labels.classes[table["predicted_code"]])
        return ProbeResult(
            probe=name,
            metrics=scores,
            predictions=shown,
            replicates=replicates,
            classes=classes,
            n=len(vectors),
            n_groups=int(code.max()) + 1,
            parameters={**vars(self), **parameters},
        )

    def _predict(self, model: _Model, z: Matrix, labels: Labels, groups: Codes) -> pd.DataFrame:
        """Return one row for each sample and repeat, in the order of the samples."""
        parts = []
        for repeat in range(self.repeats):
            seed = self.seed + repeat
            fold_of = np.empty(len(z), dtype=np.int64)
            probability = np.empty((len(z), len(labels.classes)))
            for number, (train, test) in enumerate(split_codes(labels, groups, self.folds, seed)):
                if self.train_fraction is not None:
                    rng = np.random.default_rng([seed, number])
                    train = train[
                        subsample_groups(labels.code[train], groups[train], self.train_fraction, rng)
                    ]
                part = Labels(labels.code[train], labels.classes)
                probability[test] = model(z[train], part, groups[train], z[test], seed)
                fold_of[test] = number
            columns = {
                "repeat": repeat,
                "fold": fold_of,
                "row": np.arange(len(z)),
                "group_code": groups,
                "y_code": labels.code,
                "predicted_code": probability.argmax(axis=1),
            }
            columns.update({f"p_{name}": probability[:, i] for i, name in enumerate(labels.classes.tolist())})
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


@dataclass
class _Logistic:
    """Logistic regression whose penalty is chosen inside the training part; `chosen` records each choice."""

    grid: tuple[float, ...]
    class_weight: Literal["balanced"] | None
    chosen: list[float]

    def __call__(self, train: Matrix, labels: Labels, groups: Codes, test: Matrix, seed: int) -> Matrix:
        c = self.grid[0] if len(self.grid) == 1 else self._choose(train, labels, groups, seed)
        self.chosen.append(c)
        return next(self._path(train, labels, test, (c,)))

    def _choose(self, z: Matrix, labels: Labels, groups: Codes, seed: int) -> float:
        n_classes = len(labels.classes)
        members = [len(np.unique(groups[labels.code == label])) for label in range(n_classes)]
        folds = min(3, *members)
        loss, n = np.zeros(len(self.grid)), 0
        if folds >= 2:
            for train, test in split_codes(labels, groups, folds, seed, complete=False):
                part = Labels(labels.code[train], labels.classes)
                if len(np.unique(part.code)) < n_classes:
                    continue
                for i, probability in enumerate(self._path(z[train], part, z[test], self.grid)):
                    truth = probability[np.arange(len(test)), labels.code[test]]
                    loss[i] -= np.log(np.maximum(truth, 1e-15)).sum()
                n += len(test)
        return self.grid[int(loss.argmin())] if n else self.grid[len(self.grid) // 2]

    def _path(self, train: Matrix, labels: Labels, test: Matrix, grid: tuple[float, ...]) -> Any:
        """Yield (n_test, K) probabilities for each C, ascending, each fit starting from the one before."""
        scaler = StandardScaler().fit(train)
        inner, outer = scaler.transform(train), scaler.transform(test)
        model = LogisticRegression(warm_start=True, max_iter=2000, class_weight=self.class_weight)
        for c in grid:
            yield model.set_params(C=c).fit(inner, labels.code).predict_proba(outer)


@dataclass
class _Neighbours:
    """Vote of the k nearest training rows."""

    k: int
    distance: str

    def __call__(self, train: Matrix, labels: Labels, groups: Codes, test: Matrix, seed: int) -> Matrix:
        if self.k > len(train):
            raise ValueError(
                f"k={self.k} neighbours exceed a training part of {len(train)} rows. Use a smaller k."
            )
        scaler = StandardScaler().fit(train)
        model = KNeighborsClassifier(self.k, metric=self.distance, algorithm="brute")
        return model.fit(scaler.transform(train), labels.code).predict_proba(scaler.transform(test))
