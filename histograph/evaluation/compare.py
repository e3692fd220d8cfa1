"""Several embeddings of the same samples, side by side, with paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .bootstrap import percentile_interval
from .probes import knn_probe, linear_probe
from .result import ProbeResult


def compare(
    embeddings: Mapping[str, ArrayLike],
    y: ArrayLike,
    groups: ArrayLike | None = None,
    baseline: str | Sequence[str] | None = None,
    probe: Literal["linear", "knn"] = "linear",
    **options: Any,
) -> pd.DataFrame:
    """Probe several embeddings on the same folds and resamples, and compare each with a baseline.

    All embeddings meet the same folds, and the same groups are drawn in each bootstrap resample, so the
    interval of a difference is that of paired data: narrower than two separate intervals suggest.

    Parameters
    ----------
    embeddings
        Name -> (n, D) embeddings; rows of all are the same samples in the same order.
    y
        (n,) class labels.
    groups
        (n,) patient (or slide) of each row, see `linear_probe`.
    baseline
        Name to compare with, or several names; None takes the first.
    probe
        "linear" or "knn".
    **options
        Further arguments of the probe (`folds`, `seed`, `metrics`, `n_boot`, `k`…).

    Returns
    -------
    DataFrame
        One row for each baseline, name and metric: `name`, `metric`, `value`, `low`, `high`, `baseline`, `difference`
        (value minus that of the baseline), `difference_low`, `difference_high` (zero for the baseline
        itself).

    Raises
    ------
    ValueError
        If there is no embedding, the baseline is unknown, or an embedding does not fit (its name is in the
        message).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 20)
    >>> noise = rng.normal(size=(40, 2))
    >>> frame = compare({"noise": noise, "signal": noise + 4 * y[:, None]}, y, metrics=("auc",), n_boot=100)
    >>> bool(frame.loc[1, "difference_low"] > 0)
    True
    """
    if not embeddings:
        raise ValueError("embeddings must name at least one matrix, found none.")
    references = _references(baseline, list(embeddings))
    if probe not in ("linear", "knn"):
        raise ValueError(f'probe must be "linear" or "knn", found {probe!r}.')
    run = linear_probe if probe == "linear" else knn_probe
    results: dict[str, ProbeResult] = {}
    for name, z in embeddings.items():
        try:
            results[name] = run(z, y, groups=groups, **options)
        except ValueError as error:
            raise ValueError(f"embedding {name!r}: {error}") from error
    return compare_results(results, references)


def compare_results(
    results: Mapping[str, ProbeResult], baseline: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Compare probe results that are at hand, of any probe (also `survival_probe`), with a baseline.

    Parameters
    ----------
    results
        Name -> result, all on the same samples with the same groups and settings: then the same groups
        were drawn in each bootstrap resample, and differences are paired.
    baseline
        Name to compare with, or several names; None takes the first.

    Returns
    -------
    DataFrame
        As that of `compare`.

    Raises
    ------
    ValueError
        If there is no result, the baseline is unknown, or two results are not paired.

    Examples
    --------
    >>> import numpy as np
    >>> from histograph.evaluation import survival_probe
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(40, 1))
    >>> time = rng.exponential(np.exp(-3 * z[:, 0]))
    >>> arms = {"noise": rng.normal(size=(40, 1)), "signal": z}
    >>> probes = {name: survival_probe(a, time, np.ones(40), n_boot=100) for name, a in arms.items()}
    >>> frame = compare_results(probes)
    >>> bool(frame.loc[frame["name"] == "signal", "difference_low"].iloc[0] > 0)
    True
    """
    if not results:
        raise ValueError("results must name at least one result, found none.")
    references = _references(baseline, list(results))
    first = next(iter(results))
    for name, result in results.items():
        facts, expected = _pairing(result), _pairing(results[first])
        differs = [key for key in expected if facts[key] != expected[key]]
        if differs:
            raise ValueError(
                f"results must be paired, but {name!r} and {first!r} differ in {', '.join(differs)}. "
                "Run both probes on the same samples with the same seed, folds and n_boot."
            )
    rows = [
        _row(name, metric, result, results[reference], reference)
        for reference in references
        for name, result in results.items()
        for metric in result.metrics
    ]
    return pd.DataFrame(rows)


def _references(baseline: str | Sequence[str] | None, names: list[str]) -> list[str]:
    baseline = names[0] if baseline is None else baseline
    references = [baseline] if isinstance(baseline, str) else list(baseline)
    for reference in references:
        if reference not in names:
            raise ValueError(f"baseline must be one of {names}, found {reference!r}.")
    return references


def _pairing(result: ProbeResult) -> dict[str, Any]:
    """Return what two results must share for their resamples to be the same patients."""
    table = result.predictions
    truth = [name for name in ("group", "y", "time", "event") if name in table]
    return {
        "metrics": list(result.metrics),
        "samples": [table[name].tolist() for name in truth],
        "folds": table[["repeat", "fold"]].to_numpy().tolist(),
        **{name: result.parameters[name] for name in ("seed", "n_boot", "confidence")},
    }


def _row(name: str, metric: str, result: ProbeResult, base: ProbeResult, reference: str) -> dict[str, Any]:
    value, low, high = result.metrics[metric]
    difference = np.asarray(result.replicates[metric] - base.replicates[metric])
    difference_low, difference_high = percentile_interval(difference, result.parameters["confidence"])
    return {
        "name": name,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "baseline": reference,
        "difference": value - base.metrics[metric][0],
        "difference_low": difference_low,
        "difference_high": difference_high,
    }
