"""Checks of what a probe is given: vectors, labels and groups, each with an error that says what to do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Labels:
    """Labels as small integers, with the classes they stand for.

    Parameters
    ----------
    code
        (n,) int64, row of `classes` for each sample.
    classes
        (K,) the distinct labels, ascending.
    """

    code: NDArray[np.int64]
    classes: NDArray[Any]


def as_vectors(z: ArrayLike) -> NDArray[np.float64]:
    """Turn embeddings into a finite (n, D) float64 matrix.

    Parameters
    ----------
    z
        (n, D) anything that `numpy.asarray` takes: an array, a CPU tensor, a DataFrame, an `Embeddings`
        object.

    Returns
    -------
    ndarray
        (n, D) float64.

    Raises
    ------
    ValueError
        If it is not a numeric matrix with at least one column, or holds NaN or infinity.

    Examples
    --------
    >>> as_vectors([[1, 2], [3, 4]]).dtype
    dtype('float64')
    """
    array = np.asarray(z)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"z must be a matrix with one row a sample and at least one column, found shape {array.shape}. "
            "Reshape a single feature with z.reshape(-1, 1)."
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(f"z must hold real numbers, found dtype {array.dtype}.")
    array = array.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(
            f"z must be finite, found NaN or infinity in {len(bad)} of {len(array)} rows (first: {bad[0]})."
            " Drop these rows from z, y and groups, or impute them."
        )
    return array


def as_labels(y: ArrayLike, n: int) -> Labels:
    """Encode class labels as integers.

    Parameters
    ----------
    y
        (n,) class labels: integers, strings, booleans, or floats with whole values.
    n
        Expected number of labels, the rows of z.

    Returns
    -------
    Labels
        Codes and the classes, ascending.

    Raises
    ------
    ValueError
        If the length differs, a label is missing, the labels are continuous, or there is one class only.

    Examples
    --------
    >>> as_labels(["tumour", "normal", "tumour"], 3).code
    array([1, 0, 1])
    """
    array = as_classes(_column(y, n, "y"))
    if array.dtype.kind == "f":
        raise ValueError(
            "y must hold classes, found continuous numbers. The probes classify; bin the values first."
        )
    classes, code = np.unique(array, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y must have at least two classes, found only {classes.tolist()}.")
    return Labels(code.astype(np.int64), classes)


def as_classes(y: ArrayLike) -> NDArray[Any]:
    """Give classes one plain type: numbers that pandas keeps as objects, and floats that are whole, are integers.

    Parameters
    ----------
    y
        (n,) classes.

    Returns
    -------
    ndarray
        (n,) integers, booleans or text; floats where they are continuous.

    Examples
    --------
    >>> as_classes(pd.Series([10, 2], dtype="Int64")), as_classes([1.0, 0.0])
    (array([10,  2]), array([1, 0]))
    """
    array = np.asarray(y)
    if array.dtype.kind == "O":
        plain = np.array(array.tolist())
        array = plain if plain.shape == array.shape and plain.dtype.kind in "biufU" else array.astype(str)
    # beyond 2^53 a float does not tell one whole number from the next
    if array.dtype.kind == "f" and (np.abs(array) < 2.0**53).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    return array


def as_groups(groups: ArrayLike | None, n: int, name: str = "groups") -> NDArray[np.int64]:
    """Encode groups (patients, slides) as integers 0 … G-1 in order of appearance.

    Parameters
    ----------
    groups
        (n,) group of each sample, of any hashable type; None makes each sample its own group.
    n
        Expected number of samples.
    name
        What errors call the argument.

    Returns
    -------
    ndarray
        (n,) int64.

    Raises
    ------
    ValueError
        If the length differs or a group is missing (None, NaN).

    Examples
    --------
    >>> as_groups(["p2", "p1", "p2"], 3)
    array([0, 1, 0])
    """
    if groups is None:
        return np.arange(n, dtype=np.int64)
    code, _ = pd.factorize(_column(groups, n, name))
    return np.asarray(code, dtype=np.int64)


def as_numbers(values: ArrayLike, name: str, n: int | None = None) -> NDArray[np.float64]:
    """Turn a column of measurements into finite float64 numbers.

    Parameters
    ----------
    values
        (n,) real numbers.
    name
        What errors call the argument.
    n
        Expected number; None takes any.

    Returns
    -------
    ndarray
        (n,) float64.

    Raises
    ------
    ValueError
        If it is no column of numbers, the length differs, or a number is not finite.

    Examples
    --------
    >>> as_numbers([1, 2.5], "y")
    array([1. , 2.5])
    """
    array = _column(values, len(np.asarray(values)) if n is None else n, name)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, found dtype {array.dtype}.")
    numbers = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f"{name} must be finite, found {numbers[bad[0]]} in row {bad[0]} ({len(bad)} such rows)."
        )
    return numbers


def _column(values: ArrayLike, n: int, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, found shape {array.shape}.")
    if len(array) != n:
        raise ValueError(
            f"{name} must have one entry for each sample: expected {n}, found {len(array)}. "
            f"Join {name} to the rows on the slide or entity id."
        )
    # numpy makes the text "nan" of a missing value in a list of text
    text = array.dtype.kind in "US" and not isinstance(values, np.ndarray)
    missing = np.flatnonzero(pd.isna(np.asarray(values, dtype=object) if text else array))
    if len(missing):
        raise ValueError(
            f"{name} must be complete, found {len(missing)} missing of {n} (first: row {missing[0]}). "
            "Drop these rows everywhere first."
        )
    return array
