import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histograph.evaluation import check_split, grouped_split, patient_split
from histograph.evaluation.splits import subsample_groups


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=20),
    folds=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_no_group_is_shared_and_every_row_is_tested_once(sizes: list[int], folds: int, seed: int) -> None:
    groups = np.repeat([f"p{i}" for i in range(len(sizes))], sizes)
    groups = np.random.default_rng(seed).permutation(groups)
    result = grouped_split(groups, folds=folds, seed=seed)
    assert len(result) == folds
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in result])), np.arange(len(groups)))
    for train, test in result:
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == len(groups)


def test_folds_keep_class_frequencies() -> None:
    y = np.tile([0, 0, 0, 1], 50)
    groups = np.arange(200) // 4
    for _, test in grouped_split(groups, y, folds=5):
        assert y[test].mean() == pytest.approx(0.25)
    for _, test in grouped_split(np.arange(200), y, folds=5):
        assert y[test].mean() == pytest.approx(0.25)


def test_seed_decides_and_global_state_does_not() -> None:
    groups = np.arange(40) // 2
    first = grouped_split(groups, folds=4, seed=3)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    again = grouped_split(groups, folds=4, seed=3)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, again))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    other = grouped_split(groups, folds=4, seed=4)
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(first, other))


@pytest.mark.parametrize(
    ("groups", "y", "folds", "message"),
    [
        ([1, 1, 2, 2], None, 3, "needs at least 3 groups, found 2"),
        ([1, 2, 3, 4], None, 1, "folds must be at least 2"),
        ([1, 2, 3, 4, 5, 6], ["a"] * 5 + ["b"], 2, r"found 1 of class 'b'"),
        ([1, 2, 3, 4, 5, 5], ["a"] * 4 + ["b"] * 2, 2, r"class 'b' in one group only"),
        ([1, 2, 3], [0, 1], 2, "y must have one entry"),
    ],
)
def test_impossible_splits_are_explained(groups: list, y: list | None, folds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grouped_split(groups, y, folds=folds)


def test_subsamples_are_whole_groups_nested_and_keep_every_class() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 3)
    y = np.repeat(rng.integers(0, 3, 60), 3)
    y[0] = 3
    previous: set[int] = set()
    for fraction in (0.05, 0.2, 0.5, 1.0):
        rows = subsample_groups(y, groups, fraction, np.random.default_rng(7))
        kept = set(groups[rows])
        assert set(y[rows]) == {0, 1, 2, 3}
        assert len(rows) == 3 * len(kept)
        assert abs(len(kept) - 60 * fraction) <= 3
        assert previous - {0} <= kept
        previous = kept
    assert len(previous) == 60


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="train_fraction"):
        subsample_groups(np.array([0, 1]), np.array([0, 1]), fraction, np.random.default_rng(0))


def test_shared_patients_are_counted_and_named() -> None:
    train, test = ["a", "a", "b", "c"], ["d", "b", "c", "b", "e"]
    message = r"share 2 patients \(of 3 and 4\), .* 3 of 5 in test and 2 of 4 in train: 'b', 'c'\. Split by"
    with pytest.raises(ValueError, match=message):
        check_split(train, test)
    patients = np.array(train + test)
    for rows in ((range(4), range(4, 9)), (np.arange(9) < 4, np.arange(9) >= 4)):
        with pytest.raises(ValueError, match=message):
            check_split(*map(np.asarray, rows), patients=patients)
    check_split(train, ["d", "e"])
    check_split([0, 1], [4, 8], patients)
    # 1 and "1" are two patients
    check_split([1], ["1"])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([], ["a"], "train must hold at least one"),
        (["a"], [], "test must hold"),
        (["a"], [None], "1 missing"),
    ],
)
def test_a_split_without_samples_or_patients(train: list, test: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_split(train, test)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=8, max_size=30),
    share=st.floats(0.05, 0.8),
    seed=st.integers(0, 1000),
)
def test_patient_split_shares_no_patient_and_has_every_class_on_both_sides(
    sizes: list[int], share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)) % 3, sizes)
    patients = np.repeat([f"p{i}" for i in range(len(sizes))], sizes)
    order = rng.permutation(len(y))
    y, patients = y[order], patients[order]
    try:
        train, test = patient_split(y, patients, share, seed)
    except (
        ValueError
    ) as error:  # of three classes in eight patients or more, a large share may take one whole
        assert share > 0.5
        assert "on both sides" in str(error)
        return
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(y)))
    assert not set(patients[train]) & set(patients[test])
    assert set(y[train]) == set(y[test]) == {0, 1, 2}
    assert abs(len(set(patients[test])) - share * len(sizes)) <= 3


def test_patient_split_keeps_class_frequencies_and_follows_the_seed() -> None:
    y = np.repeat([0, 0, 0, 1], 50)
    patients = np.arange(200)
    train, test = patient_split(y, patients, 0.2)
    assert len(test) == 40 and y[test].mean() == y[train].mean() == 0.25
    assert np.array_equal(test, patient_split(y, patients, 0.2).test)
    assert not np.array_equal(test, patient_split(y, patients, 0.2, seed=1).test)


def test_patients_of_two_classes() -> None:
    # normal tissue comes from patients with a tumour, so that class strata are by the commoner class
    patients = np.repeat(np.arange(10), 3)
    y = np.tile(["tumour", "tumour", "normal"], 10)
    train, test = patient_split(y, patients, 0.3)
    assert len(test) == 9 and set(y[test]) == set(y[train]) == {"tumour", "normal"}


@pytest.mark.parametrize(
    ("y", "patients", "options", "message"),
    [
        ([0, 1], [1, 2], {"test_size": 1.0}, "test_size must lie between"),
        ([0, 1], [1, 2, 3], {}, "patients must have one entry"),
        ([0, 0, 1, 1], [1, 2, 3, 3], {}, r"no split has class \[1\] on both sides"),
        ([0, 0], [1, 2], {}, "at least two classes"),
    ],
)
def test_impossible_patient_splits(y: list, patients: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patient_split(y, patients, **options)
