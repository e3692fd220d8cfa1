import numpy as np
import pandas as pd
import pytest
import torch

from histograph.evaluation.inputs import as_groups, as_labels, as_vectors


class _Embeddings:
    """Stand-in for the result of hg.embed."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    "z", [_Embeddings(), torch.ones(3, 2), pd.DataFrame(np.ones((3, 2))), [[1, 1]] * 3, np.ones((3, 2), bool)]
)
def test_everything_numpy_takes_is_a_matrix(z: object) -> None:
    assert np.array_equal(as_vectors(z), np.ones((3, 2)))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.ones(3), r"found shape \(3,\).*reshape"),
        (np.ones((3, 0)), "at least one column"),
        (np.array([["a"], ["b"]]), "real numbers"),
        (np.array([[1.0], [np.nan], [np.inf]]), r"NaN or infinity in 2 of 3 rows \(first: 1\)"),
    ],
)
def test_bad_vectors_are_named(z: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_vectors(z)


@pytest.mark.parametrize(
    "y", [["b", "a", "b"], np.array(["b", "a", "b"], object), pd.Series(["b", "a", "b"])]
)
def test_labels_are_coded_in_ascending_order(y: object) -> None:
    labels = as_labels(y, 3)
    assert labels.code.tolist() == [1, 0, 1] and labels.classes.tolist() == ["a", "b"]


def test_whole_floats_and_booleans_are_classes() -> None:
    assert as_labels([2.0, 0.0], 2).classes.tolist() == [0, 2]
    assert as_labels([True, False], 2).classes.tolist() == [False, True]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1], r"expected 3, found 2"),
        ([0, 0, 0], r"at least two classes, found only \[0\]"),
        ([0.1, 0.2, 0.3], "continuous"),
        ([0.0, np.nan, 1.0], r"1 missing of 3 \(first: row 1\)"),
        (["a", None, "b"], "missing"),
        (np.zeros((3, 1)), "one-dimensional"),
    ],
)
def test_bad_labels_are_named(y: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_labels(y, 3)


def test_groups_are_coded_by_appearance() -> None:
    assert as_groups(["z", "a", "z", "b"], 4).tolist() == [0, 1, 0, 2]
    assert as_groups(None, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("groups", [["a", None, "b"], [1.0, np.nan, 2.0], ["a", "b"]])
def test_bad_groups_are_refused(groups: list) -> None:
    with pytest.raises(ValueError, match="groups must"):
        as_groups(groups, 3)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_value_in_a_list_of_text_is_no_class_and_no_patient(missing: object) -> None:
    with pytest.raises(ValueError, match=r"y must be complete, found 1 missing of 3 \(first: row 1\)"):
        as_labels(["a", missing, "b"], 3)
    with pytest.raises(ValueError, match="groups must be complete"):
        as_groups(["p1", missing, "p2"], 3)


def test_numbers_that_pandas_keeps_as_objects_are_numbers() -> None:
    labels = as_labels(pd.Series([10, 2, 10], dtype="Int64"), 3)
    assert labels.classes.tolist() == [2, 10] and labels.code.tolist() == [1, 0, 1]
    assert as_labels(pd.Series([True, False], dtype="boolean"), 2).classes.tolist() == [False, True]
    assert as_labels(np.array([1, "a"], object), 2).classes.tolist() == ["1", "a"]


@pytest.mark.parametrize("odd", [np.inf, 1e30])
def test_numbers_beyond_integers_are_no_classes(odd: float) -> None:
    with pytest.raises(ValueError, match="continuous"):
        as_labels([odd, 1.0, 2.0], 3)
