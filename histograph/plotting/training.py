"""Loss curves of a training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .canvas import clean_axes, new_axes
from .colors import palette

# Columns of a log that say when and how, not how well.
_NOT_LOSSES = frozenset(
    {"epoch", "step", "steps", "lr", "learning_rate", "seconds", "time", "batches", "graphs"}
)


def plot_training(
    frame: pd.DataFrame,
    columns: Sequence[str] | None = None,
    ax: Axes | None = None,
    log: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the losses of a training run against the epoch.

    Parameters
    ----------
    frame
        One row an epoch, as `hg.pretrain` returns it: `epoch` (else the index is used), `loss` and its
        named terms.
    columns
        Columns to draw; None draws every numeric column that is a loss or one of its terms (all but epoch,
        step, learning rate, times).
    ax
        Axes to draw on; None makes a new figure.
    log
        Logarithmic y axis.
    title
        Title.

    Returns
    -------
    Axes
        The axes drawn on, with one line a column.

    Raises
    ------
    ValueError
        If the frame has no row, a column is absent or not numeric, or none is left to draw.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> frame = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, 1.0], "lr": [1e-3, 1e-4]})
    >>> [line.get_label() for line in plot_training(frame, ax=Figure().add_subplot()).lines]
    ['loss']
    """
    names = _columns(frame, columns)
    ax = new_axes(4.8, 3.0, longest=4.8) if ax is None else ax
    x = frame["epoch"].to_numpy() if "epoch" in frame else frame.index.to_numpy()
    colors = iter(palette(len(names)))
    for name in names:
        y = frame[name].to_numpy(np.float64)
        style: dict[str, Any] = {"color": "black", "linewidth": 1.8, "zorder": 3}
        if name != "loss":
            style = {"color": next(colors), "linewidth": 1.2, "zorder": 2}
        # One epoch makes no line: a dot shows it.
        ax.plot(x, y, label=name, marker="o" if len(x) == 1 else None, markersize=4, **style)
    if log:
        ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel(names[0] if len(names) == 1 else "loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    ax.margins(x=0.02)
    clean_axes(ax, title)
    if len(names) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False, fontsize=8)
    return ax


def _columns(frame: pd.DataFrame, columns: Sequence[str] | None) -> list[str]:
    if not len(frame):
        raise ValueError("frame must have at least one row (epoch), found none.")
    numeric = [str(name) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]
    if columns is None:
        names = [name for name in numeric if name.lower() not in _NOT_LOSSES]
        names.sort(key=lambda name: name != "loss")
    else:
        names = [columns] if isinstance(columns, str) else list(columns)
        absent = [name for name in names if name not in numeric]
        if absent:
            raise ValueError(f"columns must be numeric columns of the frame ({numeric}), found {absent}.")
    if not names:
        raise ValueError(f"frame has no loss to draw, only {list(frame.columns)}. Name the columns to draw.")
    return names
