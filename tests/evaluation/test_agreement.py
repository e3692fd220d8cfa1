from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from histograph.evaluation import prediction_probability
from histograph.evaluation.agreement import PairCounts, pair_counts

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "dino" / "prediction_probability.npz"


def _brute(truth: np.ndarray, score: np.ndarray) -> PairCounts:
    i, j = np.triu_indices(len(truth), 1)
    x, y = np.sign(truth[i] - truth[j]), np.sign(score[i] - score[j])
    counts = [(x * y > 0), (x * y < 0), (x != 0) & (y == 0), (x == 0) & (y == 0)]
    return PairCounts(*(int(count.sum()) for count in counts))


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_golden_right_and_legacy(case: str) -> None:
    with np.load(GOLDEN) as file:
        truth, score = file[f"{case}_truth"], file[f"{case}_score"]
        right, legacy = float(file[f"{case}_bruteforce"]), float(file[f"{case}_tau_d"])
    assert prediction_probability(truth, score) == pytest.approx(right, abs=1e-12)
    assert prediction_probability(truth, score, legacy=True) == pytest.approx(legacy, abs=1e-12)
    assert abs(right - legacy) > 0.03  # they are different questions


@pytest.mark.parametrize("n", [1, 2, 3, 4, 17, 90])
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_pairs_are_those_of_brute_force(n: int, levels: int) -> None:
    rng = np.random.default_rng(n)
    for other in (1, 3, 1000):
        truth = rng.integers(0, levels, n).astype(float)
        score = rng.integers(0, other, n).astype(float)
        assert pair_counts(truth, score) == _brute(truth, score)


def test_two_truths_make_it_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    score = rng.integers(0, 9, 200) + truth
    assert prediction_probability(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


def test_order_is_all_that_matters_and_reversal_mirrors() -> None:
    rng = np.random.default_rng(1)
    truth, score = rng.random(60), rng.normal(size=60).round(1)
    value = prediction_probability(truth, score)
    assert prediction_probability(truth, np.exp(score)) == value
    assert prediction_probability(truth**3, score) == value
    assert prediction_probability(truth, -score) == pytest.approx(1 - value, abs=1e-12)
    assert prediction_probability(truth, np.zeros(60)) == 0.5
    assert prediction_probability(truth, truth) == 1.0


def test_the_legacy_value_flatters_and_cannot_fall_below_one_half() -> None:
    truth = np.arange(400.0)
    assert prediction_probability(truth, -truth, legacy=True) == pytest.approx(0.5)
    noise = np.random.default_rng(2).random(400)
    assert prediction_probability(truth, noise) == pytest.approx(0.5, abs=0.04)
    assert prediction_probability(truth, noise, legacy=True) == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("truth", "score", "message"),
    [
        ([0.1, 0.2], [1.0], "score must have one entry for each sample"),
        ([0.1, np.nan], [1.0, 2.0], "truth must be complete"),
        ([0.1, 0.2], [1.0, np.inf], "score must be finite"),
        ([0.3, 0.3], [1.0, 2.0], "two different values"),
        (["a", "b"], [1.0, 2.0], "truth must hold real numbers"),
    ],
)
def test_mistakes_are_named(truth: list, score: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prediction_probability(truth, score)
