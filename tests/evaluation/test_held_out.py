import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histograph.evaluation import (
    held_out_probe,
    held_out_regression,
    neighbour_vote,
    prediction_probability,
)


def _sides(classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, y_test = np.arange(90) % classes, np.arange(45) % classes
    centres = rng.normal(size=(classes, 4))
    return rng.normal(size=(90, 4)) + centres[y], y, rng.normal(size=(45, 4)) + centres[y_test], y_test


def test_the_linear_probe_is_the_pipeline_of_sklearn() -> None:
    train, y, test, y_test = _sides()
    result = held_out_probe(train, y, test, y_test, c_grid=(0.1,), n_boot=20)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(train, y)
    expected = model.predict_proba(test)
    assert np.allclose(result.predictions[["p_0", "p_1", "p_2"]], expected, atol=1e-4)
    assert result.metrics["auc"][0] == pytest.approx(
        roc_auc_score(y_test, expected, multi_class="ovr"), abs=2e-3
    )
    assert result.probe == "linear" and result.parameters["C"] == [0.1]


def test_the_penalty_is_chosen_without_the_test_set() -> None:
    train, y, test, y_test = _sides()
    first = held_out_probe(train, y, test, y_test, n_boot=5)
    other = held_out_probe(train, y, -test, y_test, n_boot=5)
    assert first.parameters["C"] == other.parameters["C"] and len(first.parameters["C"]) == 1


def test_the_vote_is_that_of_neighbours_by_name() -> None:
    train, y, test, y_test = _sides()
    names = np.array(["fat", "stroma", "tumour"])
    options = {"k": 5, "temperature": None, "distance": "euclidean"}
    result = held_out_probe(
        train, names[y], test, names[y_test], "vote", each_class=True, n_boot=20, **options
    )
    plain = neighbour_vote(train, y, test, **options)
    assert result.metrics["accuracy"][0] == pytest.approx((plain.predicted == y_test).mean())
    area = roc_auc_score(y_test == 2, plain.probability[:, 2])
    assert result.metrics["auc_tumour"][0] == pytest.approx(area)


def test_the_regression_is_that_of_sklearn() -> None:
    train, _, test, _ = _sides()
    rng = np.random.default_rng(1)
    y, y_test = train[:, 0] + rng.normal(size=90), test[:, 0] + rng.normal(size=45)
    expected = LinearRegression().fit(train, y).predict(test)
    groups = np.arange(45) // 5
    result = held_out_regression(train, y, test, y_test, "least_squares", groups_test=groups, n_boot=20)
    assert np.allclose(result.predictions["predicted"], expected)
    assert result.metrics["prediction_probability"][0] == pytest.approx(
        prediction_probability(y_test, expected)
    )
    assert result.n_groups == 9
    ridge = held_out_regression(train, y, test, y_test, groups=np.arange(90) // 3, n_boot=20)
    assert len(ridge.parameters["penalty"]) == 1 and ridge.probe == "ridge"


def test_patients_on_both_sides_are_refused() -> None:
    train, y, test, y_test = _sides()
    ours, theirs = [f"p{i // 3}" for i in range(90)], [f"q{i // 3}" for i in range(45)]
    held_out_probe(train, y, test, y_test, "vote", ours, theirs, n_boot=5)
    theirs[0] = "p4"
    with pytest.raises(ValueError, match="share 1 patient"):
        held_out_probe(train, y, test, y_test, "vote", ours, theirs, n_boot=5)
    with pytest.raises(ValueError, match="share 1 patient"):
        held_out_regression(train, y, test, y_test, "ridge", ours, theirs, n_boot=5)


def test_mistakes_are_named() -> None:
    train, y, test, y_test = _sides()
    with pytest.raises(ValueError, match='"linear" or "vote"'):
        held_out_probe(train, y, test, y_test, "forest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same number of columns"):
        held_out_probe(train, y, test[:, :2], y_test)
    with pytest.raises(ValueError, match="one class for each of 45"):
        held_out_probe(train, y, test, y_test[:3])
    with pytest.raises(ValueError, match="class 9, which is not among"):
        held_out_probe(train, y, test, np.full(45, 9))
    with pytest.raises(ValueError, match="c_grid"):
        held_out_probe(train, y, test, y_test, c_grid=())
    with pytest.raises(ValueError, match="model must be"):
        held_out_regression(train, y, test, y_test, "forest")  # type: ignore[arg-type]


def test_classes_of_both_sides_may_be_kept_as_objects() -> None:
    train, y, test, y_test = _sides()
    plain = held_out_probe(train, y, test, y_test, n_boot=5).metrics
    assert held_out_probe(train, y.astype(object), test, y_test.astype(float), n_boot=5).metrics == plain
    assert held_out_probe(train, y, test, y_test.astype(object), n_boot=5).metrics == plain
