"""The one way in which arguments out of range are refused."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

#: Name of an argument, whether it is as expected, and what is expected.
Bound = tuple[str, bool, str]


def check_bounds(bounds: Iterable[Bound], given: Mapping[str, Any], where: str = "") -> None:
    """Refuse the first argument that is not as expected.

    Parameters
    ----------
    bounds : iterable of (str, bool, str)
        Name of an argument, whether it is as expected, and what is expected.
    given : mapping
        The arguments by name.
    where : str
        Said after what is expected, with a space before it.

    Raises
    ------
    ValueError
        If one is not as expected; names it, what was expected and what was found.

    Examples
    --------
    >>> check_bounds([("dim", True, "at least 1"), ("heads", False, "at least 1")], {"dim": 8, "heads": 0})
    Traceback (most recent call last):
    ValueError: heads must be at least 1; found 0
    """
    for name, fine, expected in bounds:
        if not fine:
            raise ValueError(f"{name} must be {expected}{where}; found {given[name]!r}")


def are_numbers(values: Any, count: int) -> bool:
    """Say whether an argument holds so many finite numbers, and not one number or text.

    Parameters
    ----------
    values : object
        What was given.
    count : int
        How many there must be.

    Returns
    -------
    bool
        Whether it does.

    Examples
    --------
    >>> are_numbers((0.4, 1), 2), are_numbers(0.4, 2), are_numbers((0.4, float("nan")), 2)
    (True, False, False)
    """
    if not hasattr(values, "__len__") or isinstance(values, str) or len(values) != count:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
