"""Scores with intervals, method by method."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .canvas import clean_axes, new_axes
from .colors import palette


def plot_comparison(
    frame: pd.DataFrame,
    metric: str | None = None,
    difference: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw scores as dots with their intervals, one row a method.

    Parameters
    ----------
    frame
        As `hg.evaluation.compare` returns it: `name`, `metric`, `value`, `low`, `high` (and the
        differences). The table of one `ProbeResult`, which has no `name`, gives one row a metric.
    metric
        Metric to draw; None draws all, in different colours.
    difference
        Draw the paired differences to the baseline, with a line at zero, in place of the scores.
    ax
        Axes to draw on; None makes a new figure.
    title
        Title.

    Returns
    -------
    Axes
        The axes drawn on, the first method on top.

    Raises
    ------
    ValueError
        If columns or the metric are absent.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> frame = pd.DataFrame({"name": ["a", "b"], "metric": "auc", "value": [0.8, 0.9]})
    >>> frame = frame.assign(low=frame["value"] - 0.1, high=frame["value"] + 0.1)
    >>> ax = plot_comparison(frame, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['a', 'b']
    """
    columns = ["difference", "difference_low", "difference_high"] if difference else ["value", "low", "high"]
    table = _select(frame, metric, columns, difference)
    names, metrics = table["name"].unique().tolist(), table["metric"].unique().tolist()
    ax = (
        new_axes(4.8, 0.9 + 0.32 * len(names) * max(1.0, 0.6 * len(metrics)), longest=4.8)
        if ax is None
        else ax
    )
    step = 0.6 / max(len(metrics), 2)
    for i, (name, color) in enumerate(zip(metrics, palette(len(metrics)))):
        rows = table[table["metric"] == name]
        value, low, high = (rows[column].to_numpy(np.float64) for column in columns)
        y = np.array([names.index(n) for n in rows["name"]]) + (i - (len(metrics) - 1) / 2) * step
        ax.hlines(y, low, high, colors=color, linewidth=1.6, zorder=2)
        ax.plot(value, y, "o", color=color, markersize=5.5, markeredgecolor="white", label=name, zorder=3)
    if difference:
        ax.axvline(0.0, color="#444444", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    what = metrics[0] if len(metrics) == 1 else "score"
    ax.set_xlabel(f"difference in {what} to {_baseline(frame)}" if difference else what)
    clean_axes(ax, title)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    if len(metrics) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False, fontsize=8)
    return ax


def _select(frame: pd.DataFrame, metric: str | None, columns: list[str], difference: bool) -> pd.DataFrame:
    if "name" not in frame and "metric" in frame and not difference:
        frame = frame.assign(name=frame["metric"], metric="score")
        if metric is not None:
            frame = frame[frame["name"] == metric].assign(metric=metric)
    absent = [column for column in ["name", "metric", *columns] if column not in frame]
    if absent:
        raise ValueError(
            f"frame lacks the columns {absent}, found {list(frame.columns)}. Pass the result of "
            "evaluation.compare, or of ProbeResult.to_frame()."
        )
    chosen = frame if metric is None else frame[frame["metric"] == metric]
    if not len(chosen):
        raise ValueError(f"metric must be one of {sorted(set(frame['metric']))}, found {metric!r}.")
    return chosen


def _baseline(frame: pd.DataFrame) -> str:
    return str(frame["baseline"].iloc[0]) if "baseline" in frame else "the baseline"
