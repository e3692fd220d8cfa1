import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from histograph.evaluation import bootstrap as module
from histograph.evaluation import bootstrap_interval
from histograph.evaluation.bootstrap import percentile_interval, score_table


def _table(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    p = np.clip(0.5 + 0.3 * (y - 0.5) + 0.3 * rng.normal(size=n), 0, 1)
    columns = {
        "repeat": 0,
        "fold": 0,
        "group_code": np.arange(n) // 3,
        "y_code": y,
        "predicted_code": (p > 0.5).astype(int),
        "p_0": 1 - p,
        "p_1": p,
    }
    return pd.DataFrame(columns)


def test_fast_scores_equal_the_general_bootstrap() -> None:
    table = _table()
    y, predicted, p, group = (table[c].to_numpy() for c in ("y_code", "predicted_code", "p_1", "group_code"))
    values, replicates = score_table(
        table, [0, 1], ["accuracy", "balanced_accuracy", "f1", "auc"], n_boot=100, seed=5
    )

    def macro(t: np.ndarray, q: np.ndarray) -> float:
        return f1_score(t, q, average="macro")

    references = {"accuracy": accuracy_score, "balanced_accuracy": balanced_accuracy_score, "f1": macro}
    for name, function in references.items():
        slow = bootstrap_interval(function, y, predicted, groups=group, n_boot=100, seed=5)
        fast = (values[name], *percentile_interval(replicates[name].to_numpy(), 0.95))
        assert fast == pytest.approx(slow)
    slow = bootstrap_interval(roc_auc_score, y, p, groups=group, n_boot=100, seed=5)
    assert (values["auc"], *percentile_interval(replicates["auc"].to_numpy(), 0.95)) == pytest.approx(slow)


def test_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    _, whole = score_table(table, [0, 1], ["accuracy", "auc"], n_boot=50, seed=1)
    monkeypatch.setattr(module, "_BLOCK", 130)
    _, parts = score_table(table, [0, 1], ["accuracy", "auc"], n_boot=50, seed=1)
    assert np.allclose(whole, parts)


def test_interval_of_a_mean_has_the_known_width() -> None:
    x = np.random.default_rng(0).normal(size=400)
    value, low, high = bootstrap_interval(np.mean, x, n_boot=2000)
    error = x.std() / np.sqrt(len(x))
    assert value == pytest.approx(x.mean())
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_groups_widen_the_interval_as_theory_says() -> None:
    """Copies of a row carry no information: 50 groups of 8 equal rows are 50 observations."""
    x = np.random.default_rng(0).normal(size=50)
    copies, groups = np.repeat(x, 8), np.repeat(np.arange(50), 8)
    single = bootstrap_interval(np.mean, x, n_boot=500)
    grouped = bootstrap_interval(np.mean, copies, groups=groups, n_boot=500)
    naive = bootstrap_interval(np.mean, copies, n_boot=500)
    assert grouped == pytest.approx(single)
    assert (grouped[2] - grouped[1]) > 2 * (naive[2] - naive[1])


def test_more_confidence_is_wider_and_the_seed_fixes_it() -> None:
    x = np.arange(30.0)
    narrow = bootstrap_interval(np.median, x, confidence=0.5, n_boot=200, seed=2)
    wide = bootstrap_interval(np.median, x, confidence=0.99, n_boot=200, seed=2)
    assert wide[1] < narrow[1] <= narrow[0] <= narrow[2] < wide[2]
    assert narrow == bootstrap_interval(np.median, x, confidence=0.5, n_boot=200, seed=2)


def test_undefined_resamples_are_left_out_until_they_prevail() -> None:
    assert percentile_interval(np.array([0.0, 1.0, np.nan]), 0.5) == (0.25, 0.75)
    assert np.isnan(percentile_interval(np.array([0.0, np.nan, np.nan]), 0.5)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_boot": 0}, "n_boot"),
        ({"confidence": 95}, "confidence must be between 0 and 1.*found 95"),
        ({"groups": [1]}, "groups must"),
    ],
)
def test_bad_settings_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(np.mean, np.arange(3.0), **options)


def test_arrays_must_match() -> None:
    with pytest.raises(ValueError, match=r"same number of rows.*\[3, 2\]"):
        bootstrap_interval(np.mean, np.arange(3), np.arange(2))
