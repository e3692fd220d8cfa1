import numpy as np
import pandas as pd
import pytest

from histograph.evaluation import compare_results, concordance_index, linear_probe, survival_probe
from histograph.evaluation.survival_cox import ridge_cox_path
from histograph.evaluation.survival_inputs import FollowUp, as_follow_up, one_row_a_patient


def _cohort(
    patients: int = 80, each: int = 3, effect: float = 1.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of several graphs a patient, times, events, patients; column 0 carries the outcome."""
    rng = np.random.default_rng(seed)
    trait = rng.normal(size=patients)
    time = rng.exponential(np.exp(-effect * trait)) + 0.01
    event = rng.random(patients) < 0.7
    groups = np.repeat(np.arange(patients), each)
    z = rng.normal(size=(patients * each, 6))
    z[:, 0] = trait[groups] + 0.3 * z[:, 0]
    order = rng.permutation(len(groups))
    names = np.array([f"patient {g}" for g in groups])
    return z[order], time[groups][order], event[groups][order], names[order]


def test_a_planted_signal_is_found() -> None:
    z, time, event, groups = _cohort()
    result = survival_probe(z, time, event, groups, n_boot=200)
    for name in ("c_index", "c_index_pooled"):
        value, low, high = result.metrics[name]
        assert value > 0.7 and 0.55 < low < value < high <= 1
    assert (result.n, result.n_groups) == (240, 80)
    assert result.n_events == result.predictions["event"].sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_has_one_half_in_its_interval(seed: int) -> None:
    z, time, event, groups = _cohort(seed=seed)
    noise = np.random.default_rng(seed + 10).normal(size=(len(z), 20))
    _, low, high = survival_probe(noise, time, event, groups, n_boot=300, repeats=2).metrics["c_index"]
    assert low < 0.5 < high


def test_noise_has_one_half_on_average() -> None:
    """No fold knows of its own patients: over many cohorts there is neither luck nor leakage."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z, time, event = rng.normal(size=(40, 4)), rng.exponential(size=40), rng.random(40) < 0.7
        result = survival_probe(z, time, event, n_boot=1, seed=seed, penalty_grid=(0.1,))
        found.append(result.metrics["c_index"][0])
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / np.sqrt(len(found))


def test_a_patient_is_on_one_side_and_counts_once() -> None:
    z, time, event, groups = _cohort(patients=30)
    result = survival_probe(z, time, event, groups, repeats=2, n_boot=10)
    table = result.predictions
    assert len(table) == 60 and table.groupby("repeat")["group"].nunique().tolist() == [30, 30]
    assert list(table.columns) == ["repeat", "fold", "group", "time", "event", "risk"]
    truth = pd.DataFrame({"group": groups, "time": time, "event": event}).drop_duplicates().set_index("group")
    assert np.array_equal(truth.loc[table["group"], ["time"]], table[["time"]])
    events = table.groupby(["repeat", "fold"])["event"].sum()
    assert events.max() - events.min() <= 1


def test_knowing_the_patient_helps_nobody() -> None:
    """A one-hot code of the patient is worth everything to a split that leaks, and nothing to an honest one."""
    _, time, event, groups = _cohort(patients=40, each=4)
    code = pd.factorize(groups)[0]
    _, low, high = survival_probe(np.eye(40)[code], time, event, groups, n_boot=200).metrics["c_index"]
    assert low <= 0.5 <= high


def test_risks_are_those_of_a_standardised_ridge_regression_on_the_other_folds() -> None:
    z, time, event, groups = _cohort(patients=50)
    result = survival_probe(z * 100 + 7, time, event, groups, folds=4, penalty_grid=(0.05,), n_boot=10)
    mean = pd.DataFrame(z).groupby(groups, sort=False).mean()
    table = result.predictions.set_index("group").loc[mean.index]
    for fold in range(4):
        train, test = (table["fold"] != fold).to_numpy(), (table["fold"] == fold).to_numpy()
        x = (mean - mean[train].mean()) / mean[train].std(ddof=0)
        rows = FollowUp(table["time"].to_numpy()[train], table["event"].to_numpy()[train])
        [beta] = ridge_cox_path(x.to_numpy()[train], rows, [0.05])
        assert np.allclose(x.to_numpy()[test] @ beta, table["risk"][test], atol=1e-4)


def test_scores_are_those_of_the_library() -> None:
    z, time, event, groups = _cohort()
    result = survival_probe(z, time, event, groups, n_boot=10, repeats=2)
    table, folds = result.predictions, result.per_fold
    pooled = [concordance_index(p["risk"], p["time"], p["event"]) for _, p in table.groupby("repeat")]
    assert result.metrics["c_index_pooled"][0] == pytest.approx(np.mean(pooled))
    for (_, part), (_, row) in zip(table.groupby(["repeat", "fold"]), folds.iterrows()):
        expected = concordance_index(part["risk"], part["time"], part["event"])
        assert row["c_index"] == pytest.approx(expected)
        assert (row["n"], row["events"]) == (len(part), part["event"].sum())
    assert (folds["n"] + folds["n_train"] == 80).all()
    assert folds["c_index"].min() < result.metrics["c_index"][0] < folds["c_index"].max()


def test_the_test_part_does_not_touch_the_model_of_its_fold() -> None:
    z, time, event, groups = _cohort(patients=40)
    first = survival_probe(z, time, event, groups, n_boot=5)
    held_out = set(first.predictions.query("fold == 0")["group"])
    moved = z.copy()
    moved[np.isin(groups, list(held_out))] += 100.0
    second = survival_probe(moved, time, event, groups, n_boot=5)
    assert first.per_fold["penalty"][0] == second.per_fold["penalty"][0]
    shift = second.predictions.query("fold == 0")["risk"] - first.predictions.query("fold == 0")["risk"]
    assert np.ptp(shift) < 1e-6


def test_noise_is_given_a_strong_penalty_and_signal_a_weak_one() -> None:
    z, time, event, groups = _cohort()
    noise = survival_probe(
        np.random.default_rng(9).normal(size=(len(z), 40)), time, event, groups, n_boot=1
    ).per_fold
    signal = survival_probe(z[:, :1], time, event, groups, n_boot=1).per_fold
    assert noise["penalty"].median() > signal["penalty"].median()


def test_runs_repeat_and_leave_the_global_generator_alone() -> None:
    z, time, event, groups = _cohort(patients=40)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"seed": 3, "train_fraction": 0.5, "n_boot": 50}
    first, second = (survival_probe(z, time, event, groups, **options) for _ in range(2))
    assert first.metrics == second.metrics
    pd.testing.assert_frame_equal(first.predictions, second.predictions)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert first.per_fold["n_train"].max() <= 17
    other = survival_probe(z, time, event, groups, **{**options, "seed": 4})
    assert not other.predictions["fold"].equals(first.predictions["fold"])


def test_few_labels_are_worse_and_too_few_are_refused() -> None:
    z, time, event, groups = _cohort()
    few, all_ = (
        survival_probe(z, time, event, groups, train_fraction=f, repeats=4, n_boot=1).metrics["c_index"][0]
        for f in (0.08, None)
    )
    assert few < all_
    with pytest.raises(ValueError, match="at least two events, found 1 among 2 patients in fold 0"):
        survival_probe(z, time, event, groups, train_fraction=0.01)
    tiny = survival_probe(z, time, event, groups, train_fraction=0.04, n_boot=1).per_fold
    assert set(tiny["penalty"]) == {1.0} and tiny["train_events"].max() < 4


def test_cohorts_without_censoring_or_almost() -> None:
    z, time, _, groups = _cohort(patients=40)
    for event in (np.ones(len(z)), groups != "patient 7"):
        assert survival_probe(z, time, event, groups, n_boot=5).metrics["c_index"][0] > 0.7


def test_differences_are_paired() -> None:
    z, time, event, groups = _cohort()
    arms = {"signal": z, "near": z + 0.01, "noise": z[:, 1:]}
    results = {name: survival_probe(a, time, event, groups, n_boot=200) for name, a in arms.items()}
    frame = compare_results(results, "noise").query("metric == 'c_index'").set_index("name")
    assert frame.loc["signal", "difference_low"] > 0
    assert frame.loc["noise", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    same = compare_results({name: results[name] for name in ("signal", "near")}).iloc[2]
    assert abs(same["difference_high"] - same["difference_low"]) < 0.02 < same["high"] - same["low"]


def test_only_paired_results_are_compared() -> None:
    z, time, event, groups = _cohort(patients=40)
    base = survival_probe(z, time, event, groups, n_boot=20)
    for other, what in (
        (survival_probe(z, time, event, groups, n_boot=20, seed=1), "folds, seed"),
        (survival_probe(z, time, event, groups, n_boot=30), "n_boot"),
        (survival_probe(z, time + 1, event, groups, n_boot=20), "samples"),
        (linear_probe(z, event, groups, n_boot=20), "metrics, samples"),
    ):
        with pytest.raises(ValueError, match=f"'other' and 'base' differ in {what}"):
            compare_results({"base": base, "other": other})
    with pytest.raises(ValueError, match="at least one result"):
        compare_results({})
    with pytest.raises(ValueError, match=r"baseline must be one of \['base'\]"):
        compare_results({"base": base}, "bese")


def test_a_result_shows_itself() -> None:
    z, time, event, groups = _cohort(patients=30)
    result = survival_probe(z, time, event, groups, n_boot=20)
    assert repr(result).startswith("SurvivalResult(survival probe, 90 samples, 30 patients, ")
    assert "c_index" in result._repr_html_() and "30 patients" in result._repr_html_()
    frame = result.to_frame()
    assert frame["metric"].tolist() == ["c_index", "c_index_pooled"]
    assert frame.loc[0, ["value", "low", "high"]].tolist() == list(result.metrics["c_index"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": [1.0]}, "time must have one entry for each sample: expected 24, found 1"),
        ({"event": np.full(24, 3)}, "event must be 1"),
        ({"event": np.zeros(24)}, "at least 5 patients with an event, found 0 among 24"),
        ({"z": np.full((24, 2), np.nan)}, "z must be finite"),
        ({"groups": np.arange(24) // 2}, r"found group 0 with \(1, 1\) and \(2, 0\)"),
        ({"groups": np.arange(3)}, "groups must have one entry"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds": 30}, "folds=30 needs at least 30 groups"),
        ({"repeats": 0}, "repeats"),
        ({"n_boot": 0}, "n_boot"),
        ({"confidence": 1.5}, "confidence"),
        ({"train_fraction": 2.0}, "train_fraction"),
        ({"penalty_grid": (0.0, 1.0)}, "penalty_grid must hold positive"),
        ({"penalty_grid": ()}, "penalty_grid"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    arguments = {
        "z": np.random.default_rng(0).normal(size=(24, 2)),
        "time": np.arange(1.0, 25.0),
        "event": np.tile([1, 0], 12),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        survival_probe(**arguments)


def test_rows_of_a_patient_are_averaged() -> None:
    rows = as_follow_up([2, 5, 2], [1, 0, 1])
    found = one_row_a_patient(np.array([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]]), rows, ["b", "a", "b"])
    assert found.z.tolist() == [[2, 1], [5, 5]]
    assert found.follow_up.time.tolist() == [2, 5] and found.first.tolist() == [0, 1]
