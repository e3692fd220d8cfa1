import sys
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2

from histograph.evaluation import concordance_index, log_rank, median_split
from histograph.evaluation.survival_inputs import as_follow_up
from histograph.evaluation.survival_metrics import weighted_concordance


def _cohort(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks, times and events with many ties in all three."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 8, n).astype(float), rng.integers(1, 12, n).astype(float), rng.random(n) < 0.6


def _brute_force(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    good, pairs = 0.0, 0
    for i, j in combinations(range(len(risk)), 2):
        if time[i] == time[j] and event[i] == event[j]:
            continue
        first, second = (i, j) if (time[i], not event[i]) < (time[j], not event[j]) else (j, i)
        if event[first]:
            pairs += 1
            good += 1.0 if risk[first] > risk[second] else 0.5 if risk[first] == risk[second] else 0.0
    return good / pairs


@pytest.mark.parametrize("seed", range(5))
def test_index_equals_brute_force_over_pairs(seed: int) -> None:
    risk, time, event = _cohort(seed=seed)
    expected = _brute_force(risk, time, event)
    assert concordance_index(risk, time, event) == pytest.approx(expected, abs=1e-12)
    ours = weighted_concordance(risk, as_follow_up(time, event), np.zeros(40, int), np.ones((1, 40)))
    assert ours[0] == pytest.approx(expected, abs=1e-12)


def test_a_higher_risk_means_an_earlier_event() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 1, 0, 1])
    assert concordance_index(-time, time, event) == 1
    assert concordance_index(time, time, event) == 0
    assert concordance_index(np.zeros(4), time, event) == 0.5
    risk, time, event = _cohort(1)[0], *_cohort(30)[1:]
    risk = np.random.default_rng(2).normal(size=30)
    assert concordance_index(-risk, time, event) == pytest.approx(1 - concordance_index(risk, time, event))


def test_weights_are_repeated_patients_without_pairs_of_themselves() -> None:
    risk, time, event = _cohort(25, seed=3)
    count = np.random.default_rng(0).integers(0, 4, size=(6, 25))
    found = weighted_concordance(risk, as_follow_up(time, event), np.zeros(25, int), count.astype(float))
    for value, row in zip(found, count):
        again = np.repeat(np.arange(25), row)
        # copies of one patient tie in time and event, so that brute force leaves them out as well
        assert value == pytest.approx(_brute_force(risk[again], time[again], event[again]), abs=1e-12)


def test_strata_are_compared_within(monkeypatch: pytest.MonkeyPatch) -> None:
    risk, time, event = _cohort(40, seed=4)
    fold = np.arange(40) % 3
    shifted = risk + 1000.0 * fold
    weight = np.random.default_rng(0).random((4, 40))
    rows = as_follow_up(time, event)
    found = weighted_concordance(shifted, rows, fold, weight)
    assert np.allclose(found, weighted_concordance(risk, rows, fold, weight))
    assert not np.allclose(found, weighted_concordance(shifted, rows, np.zeros(40, int), weight))
    monkeypatch.setattr("histograph.evaluation.survival_metrics._BLOCK", 1)
    assert np.allclose(found, weighted_concordance(risk, rows, fold, weight))


def test_no_pair_is_said_to_be_none() -> None:
    rows = as_follow_up([1.0, 2.0], [0, 0])
    assert np.isnan(weighted_concordance(np.zeros(2), rows, np.zeros(2, int), np.ones((1, 2)))[0])
    with pytest.raises(ValueError, match="no pair of the 2 subjects can be compared: 0 events"):
        concordance_index([1, 2], [1, 2], [0, 0])


def test_log_rank_equals_the_sum_over_event_times() -> None:
    risk, time, event = _cohort(60, seed=5)
    high = risk > 3
    observed = expected = variance = 0.0
    for t in np.unique(time[event]):
        n, n1 = (time >= t).sum(), ((time >= t) & high).sum()
        d, d1 = (event & (time == t)).sum(), (event & (time == t) & high).sum()
        observed, expected = observed + d1, expected + d * n1 / n
        if n > 1:
            variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    result = log_rank(time, event, np.where(high, "high", "low"))
    assert result.statistic == pytest.approx((observed - expected) ** 2 / variance)
    assert result.p_value == pytest.approx(chi2.sf(result.statistic, 1))
    assert result.degrees == 1


def test_log_rank_of_three_groups_and_its_limits() -> None:
    _, time, event = _cohort(60, seed=6)
    group = np.arange(60) % 3
    result = log_rank(time, event, group)
    assert result.degrees == 2 and 0.001 < result.p_value <= 1
    assert log_rank(time + 20 * group, event, group).p_value < 1e-6
    assert log_rank(time, event, np.array(list("abc"), dtype=object)[group]) == result
    # a group of censored subjects only still is compared with the rest
    assert log_rank(time, event & (group > 0), group).p_value < 0.05
    with pytest.raises(ValueError, match="at least two values, found only a"):
        log_rank(time, event, ["a"] * 60)
    with pytest.raises(ValueError, match="no event among 60"):
        log_rank(time, np.zeros(60), group)
    with pytest.raises(ValueError, match="group must have one entry"):
        log_rank(time, event, group[:3])


def test_median_split_is_of_each_fold() -> None:
    risk = np.arange(10.0)
    assert (median_split(risk) == "high risk").tolist() == [False] * 5 + [True] * 5
    fold = np.repeat([0, 1], 5)
    assert (median_split(risk, fold) == "high risk").tolist() == [False, False, False, True, True] * 2
    assert set(median_split(np.zeros(4))) == {"low risk"}
    with pytest.raises(ValueError, match="risk must hold finite numbers"):
        median_split([1.0, np.inf])
    with pytest.raises(ValueError, match="strata must have one entry"):
        median_split(risk, fold[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": [1, 2]}, "risk must have one entry for each sample: expected 3"),
        ({"risk": [1, 2, np.inf]}, "risk must hold finite"),
        ({"time": [1, -2, 3]}, "time must be finite and not negative, found -2.0 at row 1"),
        ({"time": [1, np.nan, 3]}, "time must be complete"),
        ({"time": ["a", "b", "c"]}, "time must be numeric"),
        ({"event": [0, 1, 2]}, r"event must be 1 \(seen\) or 0 \(censored\), found \[0, 1, 2\]"),
        ({"time": [], "event": [], "risk": []}, "at least one subject"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    arguments = {"risk": [1.0, 2.0, 3.0], "time": [1, 2, 3], "event": [1, 1, 0], **change}
    with pytest.raises(ValueError, match=message):
        concordance_index(**arguments)


def test_without_lifelines_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lifelines.utils", None)
    with pytest.raises(ImportError, match=r'pip install "histograph\[survival\]"'):
        concordance_index([2.0, 1.0], [1, 2], [1, 1])
