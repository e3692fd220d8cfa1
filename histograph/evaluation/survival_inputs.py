"""Checks of follow-up data: times, events, and one row for each patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import _column, as_groups


@dataclass(frozen=True)
class FollowUp:
    """Follow-up of n subjects.

    Parameters
    ----------
    time
        (n,) float64, time to the event or to the end of observation, any one unit.
    event
        (n,) bool, whether the event was seen; False: censored.
    """

    time: NDArray[np.float64]
    event: NDArray[np.bool_]


def as_follow_up(time: ArrayLike, event: ArrayLike, n: int | None = None) -> FollowUp:
    """Check times and events.

    Parameters
    ----------
    time
        (n,) follow-up times, not negative.
    event
        (n,) 1 or True where the event was seen, 0 or False where the subject was censored.
    n
        Expected number of subjects; None takes that of `time`.

    Returns
    -------
    FollowUp
        The checked columns.

    Raises
    ------
    ValueError
        If lengths differ, a value is missing or out of range, or there is no subject.

    Examples
    --------
    >>> as_follow_up([5, 7.5], [1, 0]).event
    array([ True, False])
    """
    n = len(np.atleast_1d(np.asarray(time))) if n is None else n
    times, events = _column(time, n, "time"), _column(event, n, "event")
    if not n:
        raise ValueError("time must hold at least one subject, found none.")
    for name, column in (("time", times), ("event", events)):
        if column.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be numeric, found dtype {column.dtype}. Convert the column first.")
    times = times.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(times) | (times < 0))
    if len(bad):
        raise ValueError(
            f"time must be finite and not negative, found {times[bad[0]]} at row {bad[0]} ({len(bad)} such rows)."
        )
    codes = np.unique(events)
    if not np.isin(codes, [0, 1]).all():
        raise ValueError(
            f"event must be 1 (seen) or 0 (censored), found {codes[:5].tolist()}. "
            "A column `censorship` with 1 for censored becomes 1 - censorship."
        )
    return FollowUp(times, events.astype(bool))


@dataclass(frozen=True)
class Patients:
    """Rows of graphs put together to one row a patient.

    Parameters
    ----------
    z
        (P, D) float64 mean vector of each patient's rows.
    follow_up
        Of the P patients.
    first
        (P,) int64, a row of each patient, for his name.
    """

    z: NDArray[np.float64]
    follow_up: FollowUp
    first: NDArray[np.int64]


def one_row_a_patient(
    z: NDArray[np.float64], follow_up: FollowUp, groups: ArrayLike | None = None
) -> Patients:
    """Average the vectors of each patient, in order of first appearance.

    Parameters
    ----------
    z
        (n, D) vectors.
    follow_up
        Of the n rows; equal for the rows of one patient.
    groups
        (n,) patient of each row; None: each row is a patient.

    Returns
    -------
    Patients
        One row a patient.

    Raises
    ------
    ValueError
        If the rows of a patient disagree about his follow-up.

    Examples
    --------
    >>> rows = as_follow_up([3, 3, 8], [1, 1, 0])
    >>> one_row_a_patient(np.array([[1.0], [3.0], [5.0]]), rows, ["a", "a", "b"]).z.tolist()
    [[2.0], [5.0]]
    """
    code = as_groups(groups, len(z))
    _, first = np.unique(code, return_index=True)
    time, event = follow_up.time[first], follow_up.event[first]
    differs = np.flatnonzero((time[code] != follow_up.time) | (event[code] != follow_up.event))
    if len(differs):
        row = differs[0]
        here, there = (
            f"({t:g}, {int(e)})"
            for t, e in zip((time[code[row]], follow_up.time[row]), (event[code[row]], follow_up.event[row]))
        )
        raise ValueError(
            f"rows of one group must have the same time and event, found group {np.asarray(groups)[row]} with "
            f"{here} and {there}. groups are patients: check the join."
        )
    mean = np.zeros((len(first), z.shape[1]))
    np.add.at(mean, code, z)
    return Patients(mean / np.bincount(code)[:, None], FollowUp(time, event), first)
