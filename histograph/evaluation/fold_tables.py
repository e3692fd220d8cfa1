"""Folds that are published as tables of slide names, in the layout of CLAM and HIPT, and folds with fewer labels."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .inputs import as_groups, as_labels
from .splits import Fold, check_split, subsample_groups
from .survival_table import slide_stem

_TABLE = re.compile(r"splits_(\d+)\.csv")


def read_folds(
    folder: str | os.PathLike[str],
    slide_ids: ArrayLike,
    patients: ArrayLike | None = None,
    shared: Literal["refuse", "drop"] = "refuse",
) -> list[Fold]:
    r"""Read the folds ``splits_0.csv``, ``splits_1.csv``, …, with the columns train, val and test of slide names.

    Slides of `val` are used on neither side. Names without a slide among `slide_ids` are left out, as are slides
    that no table names.

    Parameters
    ----------
    folder
        Folder of the tables; other files in it, also ``splits_0_bool.csv``, are not read.
    slide_ids
        (S,) names of the slides at hand, without the ending of their files.
    patients
        (S,) patient of each. None: each slide its own, so that nothing is known of shared ones.
    shared
        What is done about a fold with a patient on both sides: "refuse" it, or "drop" his slides from training.

    Returns
    -------
    list of Fold
        Row numbers in `slide_ids`, by the number of the table.

    Raises
    ------
    FileNotFoundError
        If the folder has no such table.
    ValueError
        If a table lacks a column, a name is in two columns, a side of a fold has no slide at hand, or patients are
        shared and refused.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "splits_0.csv").write_text(",train,val,test\n0,a,c,d.svs\n1,b,,\n")
    ...     read_folds(folder, ["d", "a", "b"])
    [Fold(train=array([1, 2]), test=array([0]))]
    """
    if shared not in ("refuse", "drop"):
        raise ValueError(f'shared must be "refuse" or "drop", found {shared!r}.')
    names = [str(name) for name in np.asarray(slide_ids).tolist()]
    row = {name: number for number, name in enumerate(names)}
    if len(row) < len(names):
        raise ValueError(f"slide_ids must be distinct, found {len(names) - len(row)} repeated.")
    people = np.asarray(slide_ids if patients is None else patients)
    if people.shape != (len(names),):
        raise ValueError(
            f"patients must have one entry for each of {len(names)} slides, found shape {people.shape}."
        )
    found = {
        int(match.group(1)): path
        for path in Path(folder).glob("splits_*.csv")
        if (match := _TABLE.fullmatch(path.name))
    }
    if not found:
        raise FileNotFoundError(
            f"no splits_0.csv, splits_1.csv, … in {folder}; expected tables with train, val and test."
        )
    return [_fold(found[number], row, people, shared == "drop") for number in sorted(found)]


def few_labels(
    folds: Sequence[Fold], y: ArrayLike, share: float, patients: ArrayLike | None = None, seed: int = 0
) -> list[Fold]:
    """Keep a share of the patients of each training part, by class; test parts stay as they are.

    Parameters
    ----------
    folds
        Row numbers of slides.
    y
        (S,) class of each slide.
    share
        Share of the patients to keep, in (0, 1]; at least one of each class that a training part has.
    patients
        (S,) patient of each slide; None: each slide its own.
    seed
        Of the choice. With one seed a smaller share is part of a larger one.

    Returns
    -------
    list of Fold
        As many folds.

    Raises
    ------
    ValueError
        If lengths differ, or the share is out of range.

    Examples
    --------
    >>> fold = Fold(np.arange(8), np.arange(8, 10))
    >>> [len(side) for side in few_labels([fold], [0, 1] * 5, 0.25)[0]]
    [2, 2]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], found {share}.")
    labels = as_labels(y, len(np.asarray(y)))
    code = as_groups(patients, len(labels.code), "patients")
    kept = []
    for number, (train, test) in enumerate(folds):
        rng = np.random.default_rng([seed, number])
        kept.append(Fold(train[subsample_groups(labels.code[train], code[train], share, rng)], test))
    return kept


def _fold(path: Path, row: dict[str, int], people: NDArray, drop: bool) -> Fold:
    table = pd.read_csv(path, dtype=str)
    for column in ("train", "test"):
        if column not in table:
            raise ValueError(f"{path} lacks the column {column!r}, found {table.columns.tolist()[:12]}.")
    sides = {
        name: [slide_stem(value.strip()) for value in table[name].dropna()]
        for name in ("train", "val", "test")
        if name in table
    }
    named = pd.Series([value for side in sides.values() for value in side])
    if named.duplicated().any():
        raise ValueError(f"{path} names slide {named[named.duplicated()].iloc[0]!r} twice.")
    train, test = (
        np.sort(np.array([row[value] for value in sides[name] if value in row], dtype=np.int64))
        for name in ("train", "test")
    )
    if drop:
        train = train[~np.isin(people[train], people[test])]
    for name, side in (("train", train), ("test", test)):
        if not len(side):
            raise ValueError(
                f"{path}: none of its {len(sides[name])} slides of {name} is left; the table has "
                f"{(sides[name] or ['nothing'])[0]!r}, slide_ids {next(iter(row), 'nothing')!r}."
            )
    try:
        check_split(train, test, people)
    except ValueError as error:
        raise ValueError(f'{path}: {error} Or drop them from training, by shared="drop".') from error
    return Fold(train, test)
