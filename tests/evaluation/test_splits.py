import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histograph.evaluation import grouped_split
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
