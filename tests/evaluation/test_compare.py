import numpy as np
import pandas as pd
import pytest

from histograph.evaluation import compare, linear_probe


@pytest.fixture(scope="module")
def cohort() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = np.arange(120) // 3
    y = np.repeat(rng.permutation(np.arange(40) % 2), 3)
    noise = rng.normal(size=(120, 4))
    return {"weak": noise + 0.3 * y[:, None], "strong": noise + 2.0 * y[:, None], "none": noise}, y, groups


def test_signs_and_intervals_of_differences(cohort: tuple) -> None:
    z, y, groups = cohort
    frame = compare(z, y, groups, baseline="weak", metrics=("accuracy", "auc"), n_boot=300)
    auc = frame[frame["metric"] == "auc"].set_index("name")
    assert auc.loc["strong", "difference_low"] > 0
    assert auc.loc["none", "difference"] < 0
    assert auc.loc["weak", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert np.allclose(frame["difference"], frame["value"] - np.tile(frame["value"][:2], 3))
    assert len(frame) == 6 and set(frame["baseline"]) == {"weak"}


def test_the_other_baseline_turns_the_differences_round(cohort: tuple) -> None:
    z, y, groups = cohort
    pair = {name: z[name] for name in ("weak", "strong")}
    forth = compare(pair, y, groups, baseline="weak", metrics=("auc",), n_boot=200).iloc[1]
    back = compare(pair, y, groups, baseline="strong", metrics=("auc",), n_boot=200).iloc[0]
    assert forth["difference"] == pytest.approx(-back["difference"])
    assert forth["difference_low"] == pytest.approx(-back["difference_high"])


def test_pairing_narrows_the_interval_of_near_equals(cohort: tuple) -> None:
    z, y, groups = cohort
    near = z["weak"] + 0.01 * np.random.default_rng(1).normal(size=z["weak"].shape)
    row = compare({"a": z["weak"], "b": near}, y, groups, metrics=("auc",), n_boot=300).iloc[1]
    assert row["difference_high"] - row["difference_low"] < 0.3 * (row["high"] - row["low"])
    assert row["difference_low"] <= 0 <= row["difference_high"]


def test_several_baselines_are_one_after_the_other(cohort: tuple) -> None:
    z, y, groups = cohort
    options = {"metrics": ("auc",), "n_boot": 50}
    both = compare(z, y, groups, baseline=("weak", "strong"), **options)
    singles = [compare(z, y, groups, baseline=name, **options) for name in ("weak", "strong")]
    assert both.equals(pd.concat(singles, ignore_index=True))
    with pytest.raises(ValueError, match="found 'best'"):
        compare(z, y, groups, baseline=("weak", "best"))


def test_values_are_those_of_the_probe(cohort: tuple) -> None:
    z, y, groups = cohort
    frame = compare({"weak": z["weak"]}, y, groups, seed=2, folds=4)
    single = linear_probe(z["weak"], y, groups, seed=2, folds=4).to_frame()
    assert np.allclose(frame[["value", "low", "high"]], single[["value", "low", "high"]])
    knn = compare({"weak": z["weak"]}, y, groups, probe="knn", k=5, distance="euclidean", n_boot=50)
    assert knn["metric"].tolist() == ["accuracy", "f1", "auc"]


def test_mistakes_are_named(cohort: tuple) -> None:
    z, y, groups = cohort
    with pytest.raises(
        ValueError, match=r"baseline must be one of \['weak', 'strong', 'none'\], found 'best'"
    ):
        compare(z, y, groups, baseline="best")
    with pytest.raises(ValueError, match="embedding 'short': y must have one entry"):
        compare({"short": z["weak"][:-1]}, y, groups)
    with pytest.raises(ValueError, match="at least one"):
        compare({}, y)
    with pytest.raises(ValueError, match="probe must be"):
        compare(z, y, groups, probe="svm")  # type: ignore[arg-type]
