"""Kaplan-Meier curves with their bands, the censored, the numbers at risk and the log-rank test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator
from matplotlib.transforms import blended_transform_factory, offset_copy
from numpy.typing import ArrayLike, NDArray

from histograph.evaluation import log_rank
from histograph.evaluation.survival_inputs import FollowUp, as_follow_up
from histograph.evaluation.survival_metrics import need_lifelines

from .canvas import clean_axes, new_axes
from .colors import palette

_MONTH_STEPS = (1, 2, 3, 6, 12, 24, 36, 60, 120, 240)
_ROW_PT = 12.0  # height of a row of the table
_BELOW_PT = 38.0  # from the axes to the head of the table, past tick labels and axis label


def plot_survival(
    time: ArrayLike,
    event: ArrayLike,
    group: ArrayLike | None = None,
    ax: Axes | None = None,
    at_risk: bool = True,
    unit: Literal["days", "months", "years"] = "months",
    confidence: float | None = 0.95,
    order: Sequence[Any] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the Kaplan-Meier curve of each group.

    Curves are steps that fall at events; a short vertical line marks a censored subject. With two groups or more
    the legend says the log-rank p-value; it holds for groups that were not formed from these same outcomes
    (risks out of fold, as `survival_probe` gives them).

    Parameters
    ----------
    time
        (n,) follow-up times.
    event
        (n,) 1 where the event was seen, 0 where censored.
    group
        (n,) group of each subject, for instance of `evaluation.median_split`; None draws one curve.
    ax
        Axes to draw on; None makes a new figure. The table stands below the axes: give a figure of your own
        `layout="constrained"`, or save it with `bbox_inches="tight"`.
    at_risk
        Write how many of each group are still under observation below the ticks (subjects whose time is at least
        that of the tick).
    unit
        Unit of `time`, for the axis. Months get ticks at whole years where there is room.
    confidence
        Coverage of the bands (pointwise, log-log transformed); None draws none.
    order
        All groups in the order of drawing; None sorts them (categories keep their order).
    title
        Title.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If lengths differ, a value is missing or out of range, or `unit`, `confidence` or `order` does not fit.
    ImportError
        If lifelines (extra `survival`) is not installed.

    References
    ----------
    E. L. Kaplan, P. Meier, Nonparametric estimation from incomplete observations, JASA 53, 1958.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_survival([3, 5, 8, 9], [1, 1, 0, 1], ["high", "high", "low", "low"], ax=Figure().add_subplot())
    >>> ax.get_xlabel()
    'time (months)'
    """
    if unit not in ("days", "months", "years"):
        raise ValueError(f'unit must be "days", "months" or "years", found {unit!r}.')
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, or None for no band; found {confidence}.")
    rows = as_follow_up(time, event)
    names, code = _groups(group, len(rows.time), order)
    curves = [_curve(rows, code == i, confidence) for i in range(len(names))]
    ax = new_axes(4.8, 3.4 + 0.2 * at_risk * len(names), longest=4.8) if ax is None else ax
    colors = palette(len(names))
    for name, curve, color in zip(names, curves, colors):
        _draw(ax, curve, color, None if group is None else name)
    _frame(ax, float(rows.time.max()), unit, title)
    if group is not None:
        heading = _p_value(rows, code) if len(names) > 1 and rows.event.any() else None
        # White behind the text: the bands may pass below it.
        legend = ax.legend(
            loc="best",
            framealpha=0.8,
            edgecolor="none",
            fontsize=8,
            title=heading,
            title_fontsize=8,
            handlelength=1.5,
        )
        legend.set_alignment("left")
    if at_risk:
        _write_table(ax, curves, colors, names if group is not None else [])
    return ax


@dataclass(frozen=True)
class _Curve:
    """Survival of one group: values from each time of `at` on, and its subjects."""

    at: NDArray[np.float64]
    value: NDArray[np.float64]
    band: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    time: NDArray[np.float64]
    event: NDArray[np.bool_]


def _curve(rows: FollowUp, member: NDArray[np.bool_], confidence: float | None) -> _Curve:
    time, event = rows.time[member], rows.event[member]
    fitter = need_lifelines("lifelines").KaplanMeierFitter(alpha=1 - (confidence or 0.95)).fit(time, event)
    at = fitter.survival_function_.index.to_numpy(np.float64)
    low, high = fitter.confidence_interval_.to_numpy(np.float64).T
    band = None if confidence is None else (low, high)
    return _Curve(at, fitter.survival_function_.to_numpy(np.float64)[:, 0], band, time, event)


def _groups(
    group: ArrayLike | None, n: int, order: Sequence[Any] | None
) -> tuple[list[str], NDArray[np.int64]]:
    if group is None:
        if order is not None:
            raise ValueError(f"order needs group, found order={list(order)} and no group.")
        return [""], np.zeros(n, dtype=np.int64)
    column = pd.Series(group).reset_index(drop=True)
    if len(column) != n:
        raise ValueError(f"group must have one entry for each subject: expected {n}, found {len(column)}.")
    if column.isna().any():
        raise ValueError(f"group must be complete, found {int(column.isna().sum())} missing of {n}.")
    found = column.astype("category").cat.remove_unused_categories()
    known = found.cat.categories.tolist()
    if order is not None:
        if sorted(map(str, order)) != sorted(map(str, known)):
            raise ValueError(f"order must name each group once: expected {known}, found {list(order)}.")
        found = found.cat.reorder_categories(list(order))
        known = list(order)
    return [str(name) for name in known], found.cat.codes.to_numpy(np.int64)


def _draw(ax: Axes, curve: _Curve, color: str, name: str | None) -> None:
    label = None if name is None else f"{name} ({curve.event.sum()} of {len(curve.time)} with event)"
    ax.step(curve.at, curve.value, where="post", color=color, linewidth=1.6, label=label, zorder=3)
    if curve.band is not None:
        low, high = curve.band
        ax.fill_between(curve.at, low, high, step="post", color=color, alpha=0.15, linewidth=0, zorder=1)
    censored = np.unique(curve.time[~curve.event])
    height = curve.value[np.searchsorted(curve.at, censored, side="right") - 1]
    # Hundreds of full marks would run together into a bar.
    size, width = (6.0, 1.0) if len(censored) <= 60 else (4.5, 0.6)
    ax.plot(censored, height, "|", color=color, markersize=size, markeredgewidth=width, zorder=3)


def _frame(ax: Axes, last: float, unit: str, title: str | None) -> None:
    end = last if last > 0 else 1.0
    ax.set_xlim(0.0, 1.02 * end)
    ax.set_ylim(0.0, 1.04)
    ax.set_yticks(np.linspace(0, 1, 6))
    if unit == "months":
        step = next((s for s in _MONTH_STEPS if end / s <= 9), _MONTH_STEPS[-1])
        ax.xaxis.set_major_locator(MultipleLocator(step) if end >= 2 else MaxNLocator(6))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set_xlabel(f"time ({unit})")
    ax.set_ylabel("survival probability")
    clean_axes(ax, title)


def _p_value(rows: FollowUp, code: NDArray[np.int64]) -> str:
    p = log_rank(rows.time, rows.event, code).p_value
    return (
        "log-rank p < 0.001" if p < 0.001 else f"log-rank p = {p:.2g}" if p < 0.1 else f"log-rank p = {p:.2f}"
    )


def _write_table(ax: Axes, curves: list[_Curve], colors: list[str], names: list[str]) -> None:
    """Write the numbers at risk as text in points below the axes, under the ticks."""
    low, high = ax.get_xlim()
    ticks = [float(t) for t in ax.get_xticks() if low <= t <= high]
    under_tick = blended_transform_factory(ax.transData, ax.transAxes)
    figure: Any = ax.figure
    style: dict[str, Any] = {"fontsize": 8, "va": "center", "clip_on": False, "gid": "at risk"}

    def put(x: float, row: float, text: str, transform: Any, **more: Any) -> None:
        shift = offset_copy(transform, figure, 0.0, -_BELOW_PT - row * _ROW_PT, units="points")
        ax.text(x, 0.0, text, transform=shift, **style, **more)

    put(0.0, 0.0, "number at risk", ax.transAxes, ha="left", color="#444444")
    for row, (curve, color) in enumerate(zip(curves, colors), start=1):
        if names:
            beside = offset_copy(ax.transAxes, figure, -18.0, 0.0, units="points")
            put(0.0, row, names[row - 1], beside, ha="right", color=color, fontweight="bold")
        for tick in ticks:
            put(tick, row, f"{int((curve.time >= tick).sum())}", under_tick, ha="center", color="#222222")
