import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histograph.evaluation import RegressionResult, grouped_split, regression_probe


def _slides(n: int = 24, each: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors that tell the value but for noise, and slides."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(n), each)
    z = rng.normal(size=(n * each, 5)) * [1, 10, 0.1, 3, 1] + 4
    y = z @ [0.3, -0.02, 1, 0, 0] + 0.1 * rng.normal(size=n * each)
    return z, y, groups


def _by_hand(model: object, z: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    expected = np.empty(len(y))
    for train, test in grouped_split(groups, folds=4, seed=2):
        expected[test] = model.fit(z[train], y[train]).predict(z[test])  # type: ignore[attr-defined]
    return expected


def test_least_squares_is_that_of_sklearn() -> None:
    z, y, groups = _slides()
    found = regression_probe(z, y, groups, folds=4, seed=2, model="least_squares", n_boot=20)
    assert np.allclose(found.predictions["predicted"], _by_hand(LinearRegression(), z, y, groups))
    assert found.probe == "least_squares" and found.n_groups == 24


def test_ridge_is_that_of_sklearn() -> None:
    z, y, groups = _slides()
    model = make_pipeline(StandardScaler(), Ridge(3.0))
    found = regression_probe(z, y, groups, folds=4, seed=2, penalty_grid=(3.0,), n_boot=20)
    assert np.allclose(found.predictions["predicted"], _by_hand(model, z, y, groups))


def test_more_columns_than_rows_are_no_trouble() -> None:
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(30, 80)), rng.random(30)
    z[:, 7] = 1.0  # constant
    model = make_pipeline(StandardScaler(), Ridge(10.0))
    found = regression_probe(z, y, np.arange(30), folds=4, seed=2, penalty_grid=(10.0,), n_boot=10)
    assert np.allclose(found.predictions["predicted"], _by_hand(model, z, y, np.arange(30)))
    plain = regression_probe(z, y, np.arange(30), folds=4, seed=2, model="least_squares", n_boot=10)
    assert np.allclose(plain.predictions["predicted"], _by_hand(LinearRegression(), z, y, np.arange(30)))


def test_the_penalty_fits_the_data() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(120, 10))
    clear = regression_probe(z, z[:, 0], folds=3, n_boot=5)
    noise = regression_probe(z, rng.random(120), folds=3, n_boot=5)
    assert max(clear.parameters["penalty"]) < min(noise.parameters["penalty"])
    assert clear.metrics["r2"][0] > 0.99 and noise.metrics["r2"][0] < 0.1


def test_a_slide_s_own_value_helps_only_a_leaking_split() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(20), 5)
    y = rng.random(20)[groups]
    z = np.eye(20)[groups]
    leaking = regression_probe(z, y, n_boot=50)
    honest = regression_probe(z, y, groups, n_boot=50)
    assert leaking.metrics["r2"][0] > 0.8 and honest.metrics["r2"][0] < 0.1
    low, high = honest.metrics["prediction_probability"][1:]
    assert low <= 0.5 <= high


def test_repeats_split_anew_and_average() -> None:
    z, y, groups = _slides()
    found = regression_probe(z, y, groups, repeats=2, n_boot=10)
    assert isinstance(found, RegressionResult) and len(found.predictions) == 2 * len(y)
    singles = [regression_probe(z, y, groups, seed=s, n_boot=10).metrics["mse"][0] for s in (0, 1)]
    assert found.metrics["mse"][0] == pytest.approx(np.mean(singles))
    assert "repr" not in repr(found) and "24 groups" in repr(found) and "24 groups" in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "forest"}, "model must be"),
        ({"penalty_grid": ()}, "penalty_grid"),
        ({"penalty_grid": (0.0, 1.0)}, "penalty_grid"),
        ({"repeats": 0}, "repeats"),
        ({"metrics": ()}, "metrics"),
        ({"folds": 99}, "99 needs at least 99 groups"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    z, y, groups = _slides()
    with pytest.raises(ValueError, match=message):
        regression_probe(z, y, groups, **options)


@pytest.mark.parametrize("value", [0.1, 0.3, 1000.1])
def test_a_column_that_is_constant_in_training_does_no_harm(value: float) -> None:
    rng = np.random.default_rng(1)
    z, groups = rng.normal(size=(60, 3)), np.maximum(np.arange(60) - 2, 0)
    column = np.where(np.arange(60) < 3, value + 5, value)  # differs in the rows of one patient alone
    y = z[:, 0] + 0.1 * rng.normal(size=60)
    found = regression_probe(np.column_stack([z, column]), y, groups, n_boot=10)
    assert found.metrics["r2"][0] > 0.98
