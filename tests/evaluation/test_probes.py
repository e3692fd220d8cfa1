from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histograph.evaluation import grouped_split, knn_probe, linear_probe

PROBES: list[Callable] = [linear_probe, knn_probe]


def _cohort(
    patients: int = 30, each: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Labels by patient, groups, and a generator."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"patient {i}" for i in range(patients)], each)
    y = np.repeat(rng.permutation(np.arange(patients) % 2), each)
    return y, groups, rng


@pytest.mark.parametrize("probe", PROBES)
def test_a_perfect_feature_scores_one(probe: Callable) -> None:
    y, groups, rng = _cohort()
    z = np.column_stack([10.0 * y, 0.01 * rng.normal(size=len(y))])
    result = probe(z, y, groups=groups, metrics=("accuracy", "balanced_accuracy", "f1", "f1_weighted", "auc"))
    for values in result.metrics.values():
        assert values == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_feature_has_chance_in_its_interval(probe: Callable, seed: int) -> None:
    y, groups, rng = _cohort(seed=seed)
    result = probe(rng.normal(size=(len(y), 5)), y, groups=groups, n_boot=400)
    _, low, high = result.metrics["auc"]
    assert low < 0.5 < high


@pytest.mark.parametrize("probe", PROBES)
def test_a_feature_that_encodes_the_patient_helps_only_a_leaking_split(probe: Callable) -> None:
    y, groups, _ = _cohort()
    code = pd.factorize(groups)[0]
    z = np.eye(code.max() + 1)[code]
    # The label is a property of the patient, so knowing him is worth everything if he is in training.
    leaking = probe(z, y, k=3, metrics=("auc",)) if probe is knn_probe else probe(z, y, metrics=("auc",))
    honest = probe(z, y, groups=groups, metrics=("auc",))
    assert leaking.metrics["auc"][0] > 0.95
    _, low, high = honest.metrics["auc"]
    assert low <= 0.5 <= high


def test_linear_probe_is_the_pipeline_of_sklearn() -> None:
    y, groups, rng = _cohort()
    z = rng.normal(size=(len(y), 4)) * [1, 10, 100, 0.1] + 0.7 * y[:, None] * [1, 10, 0, 0]
    result = linear_probe(z, y, groups=groups, folds=4, seed=3, c_grid=(0.5,))
    expected = np.empty(len(y))
    fold_of = np.empty(len(y), int)
    for number, (train, test) in enumerate(grouped_split(groups, y, folds=4, seed=3)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(z[train], y[train])
        expected[test] = model.predict_proba(z[test])[:, 1]
        fold_of[test] = number
    assert np.allclose(result.predictions["p_1"], expected, atol=1e-4)
    assert np.array_equal(result.predictions["fold"], fold_of)
    assert result.metrics["accuracy"][0] == pytest.approx(np.mean((expected > 0.5) == y))


def test_knn_probe_is_the_pipeline_of_sklearn() -> None:
    y, groups, rng = _cohort()
    z = rng.normal(size=(len(y), 4)) + 0.7 * y[:, None]
    for distance in ("cosine", "euclidean"):
        result = knn_probe(z, y, k=7, groups=groups, distance=distance)
        expected = np.empty(len(y))
        for train, test in grouped_split(groups, y):
            model = make_pipeline(StandardScaler(), KNeighborsClassifier(7, metric=distance))
            expected[test] = model.fit(z[train], y[train]).predict_proba(z[test])[:, 1]
        assert np.allclose(result.predictions["p_1"], expected)


def test_the_penalty_is_chosen_without_the_test_part() -> None:
    """Changing the labels of a fold's test part must not change the model of that fold."""
    y, groups, rng = _cohort()
    z = rng.normal(size=(len(y), 30)) + 0.5 * y[:, None]
    first = linear_probe(z, y, groups=groups, metrics=("accuracy",), n_boot=10)
    test = first.predictions["fold"].to_numpy() == 0
    moved = z.copy()
    moved[test] += 100.0
    second = linear_probe(moved, y, groups=groups, metrics=("accuracy",), n_boot=10)
    assert first.parameters["C"][0] == second.parameters["C"][0]
    assert len(set(first.parameters["C"])) >= 1 and set(first.parameters["C"]) <= {
        0.001,
        0.01,
        0.1,
        1.0,
        10.0,
    }


def test_noise_is_given_a_strong_penalty_and_signal_a_weak_one() -> None:
    y, groups, rng = _cohort()
    noise = linear_probe(rng.normal(size=(len(y), 40)), y, groups=groups, n_boot=10)
    signal = linear_probe(4.0 * y[:, None] + rng.normal(size=(len(y), 1)), y, groups=groups, n_boot=10)
    assert np.median(noise.parameters["C"]) < np.median(signal.parameters["C"])


@pytest.mark.parametrize("probe", PROBES)
def test_runs_are_repeatable_and_leave_the_global_generator_alone(probe: Callable) -> None:
    y, groups, rng = _cohort()
    z = rng.normal(size=(len(y), 3)) + y[:, None]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (probe(z, y, groups=groups, seed=4, train_fraction=0.5) for _ in range(2))
    assert first.metrics == second.metrics
    pd.testing.assert_frame_equal(first.predictions, second.predictions)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_repeats_average_over_splits() -> None:
    y, groups, rng = _cohort()
    z = rng.normal(size=(len(y), 3)) + 0.6 * y[:, None]
    options = {"groups": groups, "n_boot": 50, "metrics": ("f1", "auc")}
    both = linear_probe(z, y, seed=2, repeats=2, **options)
    singles = [linear_probe(z, y, seed=s, **options) for s in (2, 3)]
    for name in ("f1", "auc"):
        mean = np.mean([single.metrics[name][0] for single in singles])
        assert both.metrics[name][0] == pytest.approx(mean)
    assert len(both.predictions) == 2 * len(y)
    assert both.predictions.groupby("repeat")["row"].nunique().tolist() == [len(y)] * 2


def test_fewer_labels_do_not_help() -> None:
    y, groups, rng = _cohort(patients=60)
    z = rng.normal(size=(len(y), 20)) + 0.4 * y[:, None]
    score = [
        linear_probe(z, y, groups=groups, train_fraction=f, repeats=3, n_boot=10).metrics["auc"][0]
        for f in (0.05, None)
    ]
    assert score[0] < score[1]
    tiny = linear_probe(z, y, groups=groups, train_fraction=0.001, n_boot=10)
    assert tiny.parameters["C"] == [0.1] * 5


def test_many_classes_with_names() -> None:
    rng = np.random.default_rng(0)
    y = np.tile(["benign", "in situ", "invasive"], 30)
    z = rng.normal(size=(90, 2)) + 6.0 * np.column_stack([y == "benign", y == "invasive"])
    result = linear_probe(z, y, metrics=("balanced_accuracy", "auc"), class_weight="balanced", n_boot=100)
    assert result.metrics["auc"][0] > 0.98
    assert result.classes == ["benign", "in situ", "invasive"]
    columns = ["p_benign", "p_in situ", "p_invasive"]
    assert np.allclose(result.predictions[columns].sum(axis=1), 1)
    assert (result.predictions["predicted"] == result.predictions["y"]).mean() > 0.9
    assert result.n == 90 and result.n_groups == 90


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 1]}, "y must have one entry for each sample: expected 24, found 2"),
        ({"y": np.zeros(24)}, "at least two classes"),
        ({"z": np.full((24, 2), np.nan)}, "z must be finite"),
        ({"groups": np.arange(24) // 8}, "folds=5 needs at least 5 groups, found 3"),
        ({"groups": np.arange(3)}, "groups must have one entry"),
        ({"metrics": ("roc",)}, "metrics must be distinct names among accuracy"),
        ({"repeats": 0}, "repeats"),
        ({"train_fraction": 2.0}, "train_fraction"),
        ({"n_boot": 0}, "n_boot"),
    ],
)
def test_mistakes_are_named(probe: Callable, change: dict, message: str) -> None:
    arguments = {"z": np.random.default_rng(0).normal(size=(24, 2)), "y": np.tile([0, 1], 12), **change}
    with pytest.raises(ValueError, match=message):
        probe(**arguments)


def test_mistakes_of_one_probe() -> None:
    z, y = np.random.default_rng(0).normal(size=(20, 2)), np.tile([0, 1], 10)
    with pytest.raises(ValueError, match="k=17 neighbours exceed a training part of 16 rows"):
        knn_probe(z, y, k=17)
    with pytest.raises(ValueError, match="k must be"):
        knn_probe(z, y, k=0)
    with pytest.raises(ValueError, match="distance must be"):
        knn_probe(z, y, distance="manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="c_grid"):
        linear_probe(z, y, c_grid=())
    with pytest.raises(ValueError, match="class_weight"):
        linear_probe(z, y, class_weight="even")  # type: ignore[arg-type]
