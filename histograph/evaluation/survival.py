"""Survival probe: how much of a patient's outcome can be read from frozen embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from .bootstrap import check_bootstrap
from .inputs import Labels, as_vectors
from .splits import Fold, split_codes, subsample_groups
from .survival_cox import CoxData, ridge_cox_path
from .survival_inputs import FollowUp, as_follow_up, one_row_a_patient
from .survival_result import SurvivalResult
from .survival_scores import score_risks

Matrix = NDArray[np.float64]


def survival_probe(
    z: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    confidence: float = 0.95,
    n_boot: int = 1000,
    train_fraction: float | None = None,
    repeats: int = 1,
    penalty_grid: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
) -> SurvivalResult:
    r"""Score a Cox regression on frozen embeddings, out of fold, with intervals over patients.

    The vectors of a patient's graphs are averaged first, so that each patient is one row: his follow-up
    counts once however many images he has. Folds are of whole patients, with the share of events as equal as
    possible. In each fold the columns are standardised and the ridge penalty is chosen on the training part
    alone: that of the largest cross-validated log partial likelihood,
    :math:`\sum_k \ell(\beta_{-k}) - \ell_{-k}(\beta_{-k})` (three inner folds). When the training part has
    fewer than four events there is nothing to choose with, and the middle of `penalty_grid` is taken.

    Parameters
    ----------
    z
        (n, D) embeddings, one row a graph; anything `numpy.asarray` takes, so also the result of `hg.embed`.
    time
        (n,) follow-up times of the graph's patient, any one unit.
    event
        (n,) 1 where the event was seen, 0 where censored.
    groups
        (n,) patient of each row: never on both sides of a fold, and the unit of the bootstrap. None: each row
        is a patient of its own.
    folds
        Number of folds.
    seed
        Seed of everything random. Repeat r splits with `seed + r`.
    confidence
        Coverage of the percentile intervals. They say how the score varies over patients, given the models
        that were fitted.
    n_boot
        Number of bootstrap resamples of patients.
    train_fraction
        Fraction of the patients of each training part to keep (few labels), in (0, 1]; None keeps all.
    repeats
        Number of cross-validations with different splits; scores are means over them. Small cohorts want
        several: with 50 patients the split alone moves the index by 0.03 and more.
    penalty_grid
        Ridge penalties to choose from, of the objective in `ridge_cox_path`.

    Returns
    -------
    SurvivalResult
        `c_index`, in which patients of one fold are compared (folds have models of their own), and
        `c_index_pooled`, in which all are; out-of-fold risks; and the index of each fold.

    Raises
    ------
    ValueError
        If lengths differ, z has NaN, the rows of a patient disagree about his follow-up, there are fewer events
        than folds, or a training part keeps fewer than two events.

    References
    ----------
    P. J. M. Verweij, H. C. van Houwelingen, Cross-validation in survival analysis, Statistics in Medicine 12,
    1993.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(60, 3))
    >>> time = rng.exponential(np.exp(-2 * z[:, 0]))
    >>> result = survival_probe(z, time, np.ones(60), n_boot=100)
    >>> result.metrics["c_index"][0] > 0.75
    True
    """
    grid = tuple(sorted(float(p) for p in penalty_grid))
    if not grid or not grid[0] > 0:
        raise ValueError(
            f"penalty_grid must hold positive numbers, at least one; found {tuple(penalty_grid)}."
        )
    check_bootstrap(n_boot, confidence)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, found {repeats}.")
    vectors = as_vectors(z)
    patients = one_row_a_patient(vectors, as_follow_up(time, event, len(vectors)), groups)
    run = _Run(folds, seed, repeats, train_fraction, grid)
    names = patients.first if groups is None else np.asarray(groups)[patients.first]
    # Tiny matrix products, which more than one thread slows down; the caller's setting comes back afterwards.
    with threadpool_limits(limits=1, user_api="blas"):
        table, fits = run.predict(patients.z, patients.follow_up)
        row = table.pop("row").to_numpy()
        table = table.assign(
            group=names[row], time=patients.follow_up.time[row], event=patients.follow_up.event[row]
        )
        result = score_risks(table, confidence, n_boot, seed)
    return replace(
        result,
        probe="survival",
        n=len(vectors),
        parameters={**vars(run), **result.parameters},
        per_fold=result.per_fold.merge(fits, on=["repeat", "fold"], validate="one_to_one"),
    )


@dataclass
class _Run:
    """Settings of a cross-validation."""

    folds: int
    seed: int
    repeats: int
    train_fraction: float | None
    penalty_grid: tuple[float, ...]

    def predict(self, z: Matrix, follow_up: FollowUp) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return one row for each patient and repeat, and one for each fold and repeat."""
        tables, fits = [], []
        for repeat in range(self.repeats):
            seed = self.seed + repeat
            fold_of, risk = np.empty(len(z), dtype=np.int64), np.empty(len(z))
            for number, (train, test) in enumerate(_folds(follow_up, self.folds, seed)):
                kept = self._subsample(train, follow_up, seed, number)
                inner = _take(follow_up, kept)
                penalty = self._choose(z[kept], inner, seed)
                [beta], scaler = _path(z[kept], inner, (penalty,))
                risk[test], fold_of[test] = scaler.transform(z[test]) @ beta, number
                fits.append((repeat, number, len(kept), int(inner.event.sum()), penalty))
            columns = {"repeat": repeat, "fold": fold_of, "row": np.arange(len(z)), "risk": risk}
            tables.append(pd.DataFrame(columns))
        names = ["repeat", "fold", "n_train", "train_events", "penalty"]
        return pd.concat(tables, ignore_index=True), pd.DataFrame(fits, columns=names)

    def _subsample(
        self, train: NDArray[np.int64], follow_up: FollowUp, seed: int, number: int
    ) -> NDArray[np.int64]:
        if self.train_fraction is not None:
            rng = np.random.default_rng([seed, number])
            codes = follow_up.event[train].astype(np.int64)
            train = train[subsample_groups(codes, train, self.train_fraction, rng)]
        events = int(follow_up.event[train].sum())
        if events < 2:
            raise ValueError(
                f"a training part must keep at least two events, found {events} among {len(train)} patients in fold "
                f"{number} with train_fraction={self.train_fraction}. Raise train_fraction, or use more patients."
            )
        return train

    def _choose(self, z: Matrix, follow_up: FollowUp, seed: int) -> float:
        grid = self.penalty_grid
        middle = grid[len(grid) // 2]
        if len(grid) == 1 or follow_up.event.sum() < 4:
            return grid[0] if len(grid) == 1 else middle
        gain = np.zeros(len(grid))
        for train, _ in _folds(follow_up, 3, seed):
            part = _take(follow_up, train)
            betas, scaler = _path(z[train], part, grid)
            whole, inner = CoxData(scaler.transform(z), follow_up), CoxData(scaler.transform(z[train]), part)
            gain += [whole.log_likelihood(beta) - inner.log_likelihood(beta) for beta in betas]
        return grid[int(gain.argmax())]


def _path(
    z: Matrix, follow_up: FollowUp, penalties: tuple[float, ...]
) -> tuple[list[Matrix], StandardScaler]:
    """Standardise, and fit all penalties; coefficients are in ascending order of the penalty."""
    scaler = StandardScaler().fit(z)
    return list(ridge_cox_path(scaler.transform(z), follow_up, penalties))[::-1], scaler


def _folds(follow_up: FollowUp, folds: int, seed: int) -> list[Fold]:
    """Split patients, stratified by event unless one side is too small to be spread over the folds."""
    code = follow_up.event.astype(np.int64)
    n_events = int(code.sum())
    if n_events < folds and len(code) >= folds >= 2:
        raise ValueError(
            f"folds={folds} needs at least {folds} patients with an event, found {n_events} among {len(code)}. "
            "Use fewer folds; if most events are missing, event may be a censorship column (1 = censored)."
        )
    spread = folds <= len(code) - n_events
    labels = Labels(code, np.array(["censored", "event"])) if spread else None
    return split_codes(labels, np.arange(len(code)), folds, seed)


def _take(follow_up: FollowUp, rows: NDArray[np.int64]) -> FollowUp:
    return FollowUp(follow_up.time[rows], follow_up.event[rows])
