"""What a survival probe found: concordance with intervals, and the risks that it comes from."""

from dataclasses import dataclass, field

import pandas as pd

from .result import ProbeResult


@dataclass(frozen=True, repr=False)
class SurvivalResult(ProbeResult):
    """Scores of a survival probe on one set of embeddings.

    As `ProbeResult`, with these differences: `classes` are [False, True], censored and event; `n` counts the
    rows of z (graphs) and `n_groups` the patients; `predictions` has one row for each patient and repeat, out
    of fold: `repeat`, `fold`, `group`, `time`, `event`, `risk` (log hazard; higher means an earlier event).

    Parameters
    ----------
    n_events
        Number of patients with an event.
    per_fold
        One row a fold and repeat: `repeat`, `fold`, `n` and `events` (patients tested), `c_index` (NaN when no
        pair can be compared); of a probe also `n_train` and `train_events` (patients fitted on) and `penalty`.

    Examples
    --------
    >>> scores = {"c_index": (0.7, 0.6, 0.8)}
    >>> SurvivalResult("survival", scores, pd.DataFrame(), pd.DataFrame(), [False, True], 80, 40, n_events=25)
    SurvivalResult(survival probe, 80 samples, 40 patients, 25 events: c_index 0.700 [0.600, 0.800])
    """

    n_events: int = 0
    per_fold: pd.DataFrame = field(default_factory=pd.DataFrame)

    def _facts(self) -> str:
        return f"{self.probe} probe, {self.n} samples, {self.n_groups} patients, {self.n_events} events"
