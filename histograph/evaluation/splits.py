"""Folds and splits in which no group is on both sides, the check of a given one, and subsets of whole groups."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from .inputs import Labels, as_groups, as_labels


class Fold(NamedTuple):
    """Row numbers of the two sides of one fold.

    Parameters
    ----------
    train
        (n_train,) int64, ascending.
    test
        (n_test,) int64, ascending.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def grouped_split(groups: ArrayLike, y: ArrayLike | None = None, folds: int = 5, seed: int = 0) -> list[Fold]:
    """Split samples into folds so that no group (patient, slide) is on both sides of any fold.

    Every sample is in the test part of exactly one fold. Both facts are checked on the folds that are
    returned, so a split that leaks cannot leave this function. For one training and one test part of 20 %,
    take the first of five folds.

    Parameters
    ----------
    groups
        (n,) group of each sample, of any hashable type.
    y
        (n,) class labels; when given, the folds have class frequencies as equal as whole groups allow.
    folds
        Number of folds, at least 2 and at most the number of groups.
    seed
        Seed of the shuffling of groups.

    Returns
    -------
    list of Fold
        `folds` pairs (train, test) of row numbers.

    Raises
    ------
    ValueError
        If there are fewer groups than folds, or (with `y`) a class is too rare to be in every training part.

    Examples
    --------
    >>> patients = ["a", "a", "b", "b", "c", "d"]
    >>> for train, test in grouped_split(patients, folds=2):
    ...     print({patients[i] for i in train} & {patients[i] for i in test})
    set()
    set()
    """
    n = len(np.asarray(groups))
    code = as_groups(groups, n)
    return split_codes(None if y is None else as_labels(y, n), code, folds, seed)


def split_codes(
    labels: Labels | None, groups: NDArray[np.int64], folds: int, seed: int, complete: bool = True
) -> list[Fold]:
    """Do the work of `grouped_split` on integer codes.

    Parameters
    ----------
    labels
        (n,) encoded labels, or None for folds that ignore them.
    groups
        (n,) group codes.
    folds
        Number of folds.
    seed
        Seed of the shuffling.
    complete
        Whether a training part that lacks a class is an error.

    Returns
    -------
    list of Fold
        The folds.

    Raises
    ------
    ValueError
        As `grouped_split`.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(fold.test.tolist() for fold in split_codes(None, np.array([0, 0, 1]), 2, seed=0))
    [[0, 1], [2]]
    """
    _check_counts(labels, groups, folds)
    rows = np.zeros(len(groups))
    single = len(np.unique(groups)) == len(groups)
    if labels is None:
        splitter = (KFold if single else GroupKFold)(folds, shuffle=True, random_state=seed)
    else:
        # The group-aware splitter takes a Python step a group; the plain one does the same at once.
        splitter = (StratifiedKFold if single else StratifiedGroupKFold)(
            folds, shuffle=True, random_state=seed
        )
    target = rows if labels is None else labels.code
    # A plain splitter warns when it is handed groups that it will not use.
    pairs = splitter.split(rows, target) if single else splitter.split(rows, target, groups)
    result = [Fold(np.sort(train), np.sort(test)) for train, test in pairs]
    _prove(result, groups)
    if labels is not None and complete:
        _check_classes(result, labels)
    return result


def check_split(train: ArrayLike, test: ArrayLike, patients: ArrayLike | None = None) -> None:
    """Refuse a split in which a patient is on both sides: a score on it says how well patients are recognised.

    Parameters
    ----------
    train, test
        Patient of each sample of the two sides, of any hashable type; or, with `patients`, their row numbers.
    patients
        (n,) patient of each row.

    Raises
    ------
    ValueError
        If a side is empty, a patient is missing, or patients are shared: how many, and a few of them.

    Examples
    --------
    >>> check_split(["a", "a", "b"], ["c"])
    >>> check_split([0, 1], [2, 3], patients=["a", "b", "b", "c"])
    Traceback (most recent call last):
    ValueError: train and test share 1 patient (of 2 and 2), whose samples are 1 of 2 in test and 1 of 2 in train: 'b'.
    Split by patient, as patient_split does.
    """
    sides = [np.asarray(side) for side in (train, test)]
    if patients is not None:
        sides = [np.asarray(patients)[side] for side in sides]
    for name, side in zip(("train", "test"), sides):
        if not len(side):
            raise ValueError(f"{name} must hold at least one sample, found none.")
    code = as_groups(
        np.concatenate([side.astype(object) for side in sides]), sum(map(len, sides)), "patients"
    )
    left, right = code[: len(sides[0])], code[len(sides[0]) :]
    shared, first = np.unique(right[np.isin(right, left)], return_index=True)
    if not len(shared):
        return
    named = sides[1][np.isin(right, left)][np.sort(first)[:3]].tolist()
    raise ValueError(
        f"train and test share {len(shared)} patient{'s' * (len(shared) > 1)} (of {len(np.unique(left))} and "
        f"{len(np.unique(right))}), whose samples are {np.isin(right, left).sum()} of {len(right)} in test and "
        f"{np.isin(left, right).sum()} of {len(left)} in train: {', '.join(map(repr, named))}"
        f"{', …' if len(shared) > len(named) else ''}. Split by patient, as patient_split does."
    )


def patient_split(y: ArrayLike, patients: ArrayLike, test_size: float = 0.2, seed: int = 0) -> Fold:
    """Split samples once, by patient, with every class on both sides and its share of patients alike.

    Patients are drawn within strata of their most frequent class. For folds, take `grouped_split`.

    Parameters
    ----------
    y
        (n,) class labels.
    patients
        (n,) patient of each sample, of any hashable type.
    test_size
        Share of the patients in the test part, in (0, 1); at least one of each stratum.
    seed
        Seed of the drawing.

    Returns
    -------
    Fold
        Row numbers of the two parts.

    Raises
    ------
    ValueError
        If `test_size` is out of range, a length differs, or a class has too few patients to be on both sides.

    Examples
    --------
    >>> patients = ["a", "a", "b", "b", "c", "d"]
    >>> train, test = patient_split([0, 0, 0, 0, 1, 1], patients, test_size=0.5)
    >>> {patients[i] for i in train} & {patients[i] for i in test}
    set()
    """
    if not 0 < test_size < 1:
        raise ValueError(f"test_size must lie between 0 and 1, found {test_size}.")
    labels = as_labels(y, len(np.asarray(y)))
    groups = as_groups(patients, len(labels.code), "patients")
    rng = np.random.default_rng(seed)
    for _ in range(20):  # the few patients of a rare class may all be drawn, which another drawing mends
        test = subsample_groups(labels.code, groups, test_size, rng)
        train = np.setdiff1d(np.arange(len(groups)), test)
        missing = np.setdiff1d(labels.code, labels.code[train])
        if not len(missing):
            break
    else:
        raise ValueError(
            f"no split has class {labels.classes[missing].tolist()} on both sides: it is in too few patients. "
            "Use more patients, a smaller test_size, or merge or drop the class."
        )
    check_split(train, test, groups)
    return Fold(train, test)


def subsample_groups(
    y: NDArray[np.int64], groups: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Keep a fraction of the groups, with every class still present (the few-labels setting).

    Groups are shuffled within strata of their most frequent class and the first of each stratum are kept,
    so for the same generator state a smaller fraction keeps a subset of the groups of a larger one (up to
    groups added to keep a rare class).

    Parameters
    ----------
    y
        (n,) class codes of the training part.
    groups
        (n,) group codes of the training part.
    fraction
        Fraction of the groups to keep, in (0, 1].
    rng
        Source of the shuffling.

    Returns
    -------
    ndarray
        Row numbers that are kept, ascending.

    Raises
    ------
    ValueError
        If the fraction is outside (0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> y, groups = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 3])
    >>> len(subsample_groups(y, groups, 0.5, np.random.default_rng(0)))
    3
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"train_fraction must be in (0, 1], found {fraction}.")
    unique, code = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(unique), int(y.max()) + 1), dtype=np.int64)
    np.add.at(counts, (code, y), 1)
    order = rng.permutation(len(unique))
    majority = counts.argmax(axis=1)[order]
    kept = np.zeros(len(unique), dtype=bool)
    for label in np.unique(majority):
        stratum = order[majority == label]
        kept[stratum[: max(1, round(fraction * len(stratum)))]] = True
    for label in np.flatnonzero(counts.any(axis=0)):
        if not counts[kept, label].any():
            kept[order[counts[order, label] > 0][0]] = True
    return np.flatnonzero(kept[code])


def _check_counts(labels: Labels | None, groups: NDArray[np.int64], folds: int) -> None:
    n_groups = len(np.unique(groups))
    if folds < 2:
        raise ValueError(f"folds must be at least 2, found {folds}.")
    if n_groups < folds:
        raise ValueError(
            f"folds={folds} needs at least {folds} groups, found {n_groups} among {len(groups)} samples. "
            "Use fewer folds or more patients."
        )
    if labels is None:
        return
    for label, name in enumerate(labels.classes.tolist()):
        rows = labels.code == label
        if rows.sum() < folds:
            raise ValueError(
                f"each class needs at least folds={folds} samples, found {rows.sum()} of class {name!r}. "
                "Use fewer folds, or merge or drop the class."
            )
        if len(np.unique(groups[rows])) < 2:
            raise ValueError(
                f"each class must occur in at least two groups, found class {name!r} in one group only: "
                "no fold could both train and test on it. Merge or drop the class."
            )


def _prove(folds: list[Fold], groups: NDArray[np.int64]) -> None:
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    if not np.array_equal(tested, np.arange(len(groups))):
        raise RuntimeError("a sample is not in exactly one test part; this is a bug in the splitter.")
    for number, fold in enumerate(folds):
        if len(np.intersect1d(groups[fold.train], groups[fold.test])):
            raise RuntimeError(
                f"fold {number} shares a group between its parts; this is a bug in the splitter."
            )
        if len(fold.test) == 0:
            raise ValueError(f"fold {number} has no test sample: groups are too unequal. Use fewer folds.")


def _check_classes(folds: list[Fold], labels: Labels) -> None:
    for number, fold in enumerate(folds):
        missing = np.setdiff1d(np.arange(len(labels.classes)), labels.code[fold.train])
        if len(missing):
            raise ValueError(
                f"fold {number} would train without class {labels.classes[missing].tolist()}: it is in too "
                "few groups. Use fewer folds, another seed, or merge the class."
            )
