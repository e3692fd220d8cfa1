"""What a probe found: scores with intervals, and the predictions that they come from."""

from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class ProbeResult:
    """Scores of one probe on one set of embeddings.

    Parameters
    ----------
    probe
        Name of the probe, "linear" or "knn".
    metrics
        Name of each metric -> (value, low, high).
    predictions
        One row for each sample and repeat, out of fold: `repeat`, `fold`, `row` (in z), `group`, `y`,
        `predicted`, and the probability `p_<class>` of each class.
    replicates
        (n_boot, metrics) scores of the bootstrap resamples. Those of two results on the same samples,
        groups and seed are paired, so their difference is the distribution of the difference.
    classes
        The classes, ascending.
    n
        Number of samples.
    n_groups
        Number of groups (patients, slides).
    parameters
        Settings of the run, and what was chosen in each fold.

    Examples
    --------
    >>> result = ProbeResult("knn", {"auc": (0.9, 0.8, 0.95)}, pd.DataFrame(), pd.DataFrame(), [0, 1], 40, 10)
    >>> result
    ProbeResult(knn probe, 40 samples, 10 groups, 2 classes: auc 0.900 [0.800, 0.950])
    """

    probe: str
    metrics: dict[str, tuple[float, float, float]]
    predictions: pd.DataFrame
    replicates: pd.DataFrame
    classes: list[Any]
    n: int
    n_groups: int
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return the scores as a table.

        Returns
        -------
        DataFrame
            One row a metric, with columns `metric`, `value`, `low`, `high`.

        Examples
        --------
        >>> scores = {"auc": (0.9, 0.8, 0.95)}
        >>> ProbeResult("knn", scores, pd.DataFrame(), pd.DataFrame(), [0, 1], 40, 10).to_frame()
          metric  value  low  high
        0    auc    0.9  0.8  0.95
        """
        rows = [(name, *values) for name, values in self.metrics.items()]
        return pd.DataFrame(rows, columns=["metric", "value", "low", "high"])

    def __repr__(self) -> str:
        scores = ", ".join(
            f"{k} {v:.3f} [{low:.3f}, {high:.3f}]" for k, (v, low, high) in self.metrics.items()
        )
        return f"{type(self).__name__}({self._facts()}: {scores})"

    def _repr_html_(self) -> str:
        percent = f"{100 * self.parameters.get('confidence', 0.95):g} % interval"
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{value:.3f}</td>"
            f"<td>{low:.3f} to {high:.3f}</td></tr>"
            for name, (value, low, high) in self.metrics.items()
        )
        return (
            f"<div><b>{escape(self._facts())}</b><table><thead><tr><th style='text-align:left'>metric</th>"
            f"<th>value</th><th>{percent}</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _facts(self) -> str:
        return f"{self.probe} probe, {self.n} samples, {self.n_groups} groups, {len(self.classes)} classes"
