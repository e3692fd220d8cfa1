"""Concordance of out-of-fold risks of any model, with intervals over patients."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .bootstrap import _draws, check_bootstrap, percentile_interval
from .survival_inputs import FollowUp, as_follow_up
from .survival_metrics import _finite, weighted_concordance
from .survival_result import SurvivalResult

METRICS = ("c_index", "c_index_pooled")


def score_risks(
    predictions: pd.DataFrame, confidence: float = 0.95, n_boot: int = 1000, seed: int = 0
) -> SurvivalResult:
    """Score risks that were predicted out of fold, by whatever model.

    `survival_probe` ends here; a network trained on the outcome, or several runs of one (as `repeat`), can be
    scored in the same way and compared with it by `compare_results`, when folds and patients are the same.

    Parameters
    ----------
    predictions
        One row a patient and repeat: `group` (the patient), `time`, `event` (1 = seen), `risk` (higher means an
        earlier event) and, if there are any, `repeat` and `fold`. Average the risks of a patient's images first.
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of patients.
    seed
        Seed of the resampling.

    Returns
    -------
    SurvivalResult
        `c_index`, in which patients of one fold are compared (folds have models of their own, whose risks share
        no scale), and `c_index_pooled`, in which all are; both are means over repeats.

    Raises
    ------
    ValueError
        If a column is missing, a value is missing or out of range, a patient is not once in every repeat, or his
        follow-up differs between repeats.

    Examples
    --------
    >>> table = pd.DataFrame({"group": list("abc"), "time": [2, 5, 9], "event": [1, 1, 0], "risk": [3.0, 2, 1]})
    >>> score_risks(table, n_boot=50).metrics["c_index"][0]
    1.0
    """
    check_bootstrap(n_boot, confidence)
    table, follow_up = _check(predictions)
    n = len(follow_up.time)
    parts = [
        (part["risk"].to_numpy(), part["fold"].to_numpy(), np.zeros(n, dtype=np.int64))
        for _, part in table.groupby("repeat", sort=True)
    ]

    def scores(weight: NDArray[Any]) -> NDArray[np.float64]:
        found = [
            [weighted_concordance(risk, follow_up, stratum, weight) for stratum in (fold, pooled)]
            for risk, fold, pooled in parts
        ]
        return np.mean(found, axis=0).T

    values = scores(np.ones((1, n)))[0]
    # The draws depend on the number of patients, n_boot and seed only, so two arms of one cohort are paired.
    blocks = [scores(counts.astype(np.float64)) for counts in _draws(n, n_boot, seed, n)]
    replicates = pd.DataFrame(np.concatenate(blocks), columns=list(METRICS))
    return SurvivalResult(
        probe="risk",
        metrics={
            name: (float(value), *percentile_interval(replicates[name].to_numpy(), confidence))
            for name, value in zip(METRICS, values)
        },
        predictions=table,
        replicates=replicates,
        classes=[False, True],
        n=n,
        n_groups=n,
        parameters={"seed": seed, "confidence": confidence, "n_boot": n_boot},
        n_events=int(follow_up.event.sum()),
        per_fold=_per_fold(table),
    )


def _check(predictions: pd.DataFrame) -> tuple[pd.DataFrame, FollowUp]:
    """Return the table by repeat, patients always in the order of the first repeat, and their follow-up."""
    absent = [name for name in ("group", "time", "event", "risk") if name not in predictions]
    if absent:
        raise ValueError(f"predictions lack the columns {absent}, found {list(predictions.columns)}.")
    # Repeat and fold come first, as in the table of a probe.
    table = predictions.assign(**{name: 0 for name in ("repeat", "fold") if name not in predictions})
    table = table[["repeat", "fold", "group", "time", "event", "risk"]].reset_index(drop=True)
    rows = as_follow_up(table["time"].to_numpy(), table["event"].to_numpy())
    table = table.assign(time=rows.time, event=rows.event, risk=_finite(table["risk"].to_numpy(), len(table)))
    missing = int(table[["repeat", "fold", "group"]].isna().any(axis=1).sum())
    if missing:
        raise ValueError(f"repeat, fold and group must be complete, found {missing} rows with a gap.")
    code = pd.factorize(table["group"])[0]
    table = table.iloc[np.lexsort((code, table["repeat"]))].reset_index(drop=True)
    counts = table.groupby("group")["repeat"].agg(["size", "nunique"])
    n_repeats = table["repeat"].nunique()
    wrong = counts.index[(counts["size"] != n_repeats) | (counts["nunique"] != n_repeats)]
    if len(wrong):
        raise ValueError(
            f"each patient must be once in each of {n_repeats} repeats, found {counts['size'][wrong[0]]} rows of group "
            f"{wrong[0]} ({len(wrong)} such groups). Average the risks of a patient's images first."
        )
    differs = table.groupby("group")[["time", "event"]].nunique().gt(1).any(axis=1)
    if differs.any():
        raise ValueError(
            f"time and event of a patient must be the same in all repeats, found group {differs.index[differs][0]} "
            "with several. Check the join."
        )
    first = table.iloc[: len(counts)]
    return table, FollowUp(first["time"].to_numpy(), first["event"].to_numpy())


def _per_fold(table: pd.DataFrame) -> pd.DataFrame:
    facts = []
    for (repeat, fold), part in table.groupby(["repeat", "fold"], sort=True):
        rows = FollowUp(part["time"].to_numpy(), part["event"].to_numpy())
        one = np.zeros(len(part), dtype=np.int64)
        c_index = weighted_concordance(part["risk"].to_numpy(), rows, one, np.ones((1, len(part))))[0]
        facts.append((repeat, fold, len(part), int(rows.event.sum()), float(c_index)))
    return pd.DataFrame(facts, columns=["repeat", "fold", "n", "events", "c_index"])
