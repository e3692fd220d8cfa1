import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from histograph.evaluation import (
    bootstrap_interval,
    linear_probe,
    prediction_probability,
    score_classes,
    score_values,
)
from histograph.evaluation.compare import compare_results


def _values(n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.random(n).round(2)
    return y, y + rng.normal(size=n) / 4, np.repeat(np.arange(n // 3), 3)


def test_values_are_those_of_sklearn() -> None:
    y, guess, groups = _values()
    names = ("mse", "mae", "r2", "prediction_probability", "prediction_probability_legacy")
    found = score_values(y, guess, groups, metrics=names, n_boot=20).metrics
    expected = (
        mean_squared_error(y, guess),
        mean_absolute_error(y, guess),
        r2_score(y, guess),
        prediction_probability(y, guess),
        prediction_probability(y, guess, legacy=True),
    )
    assert [found[name][0] for name in names] == pytest.approx(expected)


def test_intervals_are_those_of_the_plain_bootstrap_of_groups() -> None:
    y, guess, groups = _values()
    found = score_values(y, guess, groups, metrics=("mse", "r2", "prediction_probability"), n_boot=60, seed=3)
    for name, statistic in (
        ("mse", mean_squared_error),
        ("r2", r2_score),
        ("prediction_probability", prediction_probability),
    ):
        plain = bootstrap_interval(statistic, y, guess, groups=groups, n_boot=60, seed=3)
        assert found.metrics[name] == pytest.approx(plain)
    assert found.n_groups == 20 and len(found.predictions) == 60


def test_a_row_drawn_twice_makes_no_pair_with_itself() -> None:
    y = np.arange(30) / 30
    names = ("prediction_probability", "prediction_probability_legacy")
    found = score_values(y, y, np.arange(30) // 3, metrics=names, n_boot=50).metrics
    assert all(found[name] == (1.0, 1.0, 1.0) for name in names)


def test_pairs_of_two_models_are_not_compared() -> None:
    y = np.array([0.1, 0.2, 0.3, 0.4])
    guess = np.array([10.0, 11, 1, 2])  # right within each model, on scales of their own
    metrics = ("prediction_probability",)
    value = score_values(y, guess, fold=[0, 0, 1, 1], metrics=metrics, n_boot=10).metrics
    assert value["prediction_probability"][0] == 1.0
    value = score_values(y, guess, metrics=metrics, n_boot=10).metrics
    assert value["prediction_probability"][0] == pytest.approx(2 / 6)


def test_classes_are_scored_as_by_sklearn() -> None:
    rng = np.random.default_rng(1)
    y = np.array(["fat", "stroma", "tumour"])[rng.integers(0, 3, 90)]
    chance = rng.dirichlet(np.ones(3), 90)
    chance[np.arange(90), np.searchsorted(["fat", "stroma", "tumour"], y)] += 0.4
    chance /= chance.sum(axis=1, keepdims=True)
    result = score_classes(y, chance, metrics=("accuracy", "f1", "auc"), each_class=True, n_boot=50)
    named = np.array(result.classes)[chance.argmax(axis=1)]
    assert result.metrics["accuracy"][0] == pytest.approx((named == y).mean())
    assert result.metrics["f1"][0] == pytest.approx(f1_score(y, named, average="macro"))
    assert result.metrics["auc"][0] == pytest.approx(roc_auc_score(y, chance, multi_class="ovr"))
    for k, name in enumerate(result.classes):
        value, low, high = result.metrics[f"auc_{name}"]
        assert value == pytest.approx(roc_auc_score(y == name, chance[:, k]))
        assert low <= value <= high
    assert result.predictions["predicted"].tolist() == named.tolist()
    assert list(result.replicates) == list(result.metrics)


def test_columns_belong_to_the_classes_that_are_given() -> None:
    y, chance = ["b", "a", "b"], np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]])
    result = score_classes(y, chance, classes=["b", "a", "c"], metrics=("accuracy",), n_boot=5)
    assert result.metrics["accuracy"][0] == 1.0 and result.predictions["p_c"].tolist() == [0.0, 0.1, 0.1]


def test_a_probe_s_predictions_score_as_the_probe() -> None:
    rng = np.random.default_rng(2)
    y, groups = np.tile([0, 1], 30), np.repeat(np.arange(20), 3)
    z = rng.normal(size=(60, 3)) + y[:, None] / 2
    probe = linear_probe(z, y, groups, n_boot=40, c_grid=(0.1,))
    table = probe.predictions
    again = score_classes(
        y, table[["p_0", "p_1"]], groups=groups, fold=table["fold"], n_boot=40, classes=[0, 1]
    )
    assert again.metrics == {name: pytest.approx(values) for name, values in probe.metrics.items()}


def test_two_regressions_of_the_same_samples_are_compared_in_pairs() -> None:
    y, guess, groups = _values()
    worse = guess + np.random.default_rng(5).normal(size=60)
    arms = {name: score_values(y, arm, groups, n_boot=80) for name, arm in {"a": guess, "b": worse}.items()}
    table = compare_results(arms).set_index(["name", "metric"])
    assert table.loc[("b", "mse"), "difference_low"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": np.eye(2)}, "found shape"),
        ({"probability": np.full((3, 2), np.nan)}, "finite"),
        ({"probability": np.ones((3, 3))}, "found 3 columns"),
        ({"classes": ["a", "c"]}, "class 'b', which is not among"),
        ({"classes": ["a", "a"]}, "distinct"),
        ({"groups": [1, 2]}, "groups must have one entry"),
        ({"metrics": ("mse",)}, "metrics must be distinct names"),
        ({"n_boot": 0}, "n_boot"),
    ],
)
def test_mistakes_in_classes_are_named(options: dict, message: str) -> None:
    given = {"probability": np.ones((3, 2)), **options}
    with pytest.raises(ValueError, match=message):
        score_classes(["a", "b", "a"], **given)


def test_mistakes_in_values_are_named() -> None:
    with pytest.raises(ValueError, match="predicted must have one entry"):
        score_values([0.1, 0.2], [1.0])
    with pytest.raises(ValueError, match="predicted must be complete"):
        score_values([0.1, 0.2], [1.0, np.nan])
    with pytest.raises(ValueError, match="metrics must be distinct names among mse"):
        score_values([0.1, 0.2], [1.0, 2.0], metrics=("auc",))


@pytest.mark.parametrize(("scale", "level"), [(1e-7, 0.0), (1.0, 1e9), (1e-4, 1e3), (1e6, 0.0)])
def test_r2_does_not_depend_on_the_unit_nor_on_zero(scale: float, level: float) -> None:
    y, guess, _ = _values()
    y, guess = y * scale + level, guess * scale + level
    found, low, high = score_values(y, guess, n_boot=50).metrics["r2"]
    assert found == pytest.approx(r2_score(y, guess)) and low < found < high


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, 0.0])
def test_r2_of_equal_values_does_not_exist(value: float) -> None:
    y = np.full(20, value)
    assert np.isnan(score_values(y, y + np.arange(20.0), n_boot=20).metrics["r2"]).all()


def test_missing_classes_are_named() -> None:
    chance = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]
    for y, classes in ((["a", "b", None], ["a", "b"]), ([0.0, 1.0, np.nan], None)):
        with pytest.raises(ValueError, match=r"y must be complete, found 1 missing of 3 \(first: row 2\)"):
            score_classes(y, chance, classes, n_boot=5)
