"""Colours: a palette that colour-blind readers can tell apart, and the reading of `color=` arguments."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import Collection
from matplotlib.colors import Colormap, is_color_like, to_rgba, to_rgba_array
from numpy.typing import NDArray

from .arrays import as_array

# Okabe & Ito 2008 without its black, then the muted scheme of P. Tol; dark and light alternate.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
    "#332288", "#882255", "#117733", "#DDCC77", "#AA4499", "#44AA99", "#661100", "#999933", "#6699CC",
)  # fmt: skip
UNASSIGNED = "#BBBBBB"


@dataclass(frozen=True)
class Coloring:
    """How n things are coloured.

    Parameters
    ----------
    kind
        "constant", "direct" (a colour each), "continuous" or "categorical".
    rgba
        (1, 4) or (n, 4) colours; for "continuous" unused and (0, 4).
    values
        (n,) numbers for "continuous", codes for "categorical".
    names
        Names of the categories.
    label
        Name of what is shown, for a colour bar or legend.
    """

    kind: Literal["constant", "direct", "continuous", "categorical"]
    rgba: Any
    values: NDArray[Any]
    names: list[str]
    label: str

    def take(self, rows: NDArray[Any]) -> "Coloring":
        """Return the colouring of some of the things.

        Parameters
        ----------
        rows
            Index or mask of the things to keep.

        Returns
        -------
        Coloring
            For these rows, with all categories kept.

        Examples
        --------
        >>> import numpy as np
        >>> categorical(np.array(["a", "b"])).take(np.array([1])).values
        array([1])
        """
        rgba = self.rgba[rows] if self.kind in ("direct", "categorical") else self.rgba
        values = self.values[rows] if self.kind in ("continuous", "categorical") else self.values
        return Coloring(self.kind, rgba, values, self.names, self.label)


def palette(n: int) -> list[str]:
    """Return n distinct colours.

    Parameters
    ----------
    n
        Number of colours; the first 16 are chosen for colour-blind readers, more are spread over a rainbow.

    Returns
    -------
    list of str
        Hexadecimal colours.

    Examples
    --------
    >>> palette(2)
    ['#0072B2', '#E69F00']
    """
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    spread = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, n))
    # Neighbouring categories get distant colours.
    order = np.argsort([(i * 7919) % n for i in range(n)], kind="stable")
    return [matplotlib.colors.to_hex(spread[i]) for i in order]


def color_map(cmap: Any) -> Colormap:
    """Read a `cmap=` argument.

    Parameters
    ----------
    cmap
        Colour map or its name.

    Returns
    -------
    Colormap
        The colour map.

    Raises
    ------
    ValueError
        If it is neither.

    Examples
    --------
    >>> color_map("viridis").name
    'viridis'
    """
    if isinstance(cmap, Colormap):
        return cmap
    if cmap not in list(matplotlib.colormaps):
        close = difflib.get_close_matches(str(cmap), list(matplotlib.colormaps), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"cmap must be a colour map of matplotlib or its name, found {cmap!r}.{hint}")
    return matplotlib.colormaps[cmap]


def categorical(labels: Any, label: str = "", names: dict[Any, str] | None = None) -> Coloring:
    """Colour by category.

    Parameters
    ----------
    labels
        (n,) categories; the integer -1, None and NaN mean unassigned and are grey.
    label
        Title of the legend.
    names
        Category -> text of the legend, where it should differ.

    Returns
    -------
    Coloring
        Of kind "categorical", categories ascending.

    Examples
    --------
    >>> categorical([2, 0, 2]).names
    ['0', '2']
    """
    given = np.asarray(labels)
    absent = np.asarray(pd.isna(given), dtype=bool)
    present = given[~absent]
    if absent.any() and present.dtype.kind == "f" and (present == np.rint(present)).all():
        present = present.astype(np.int64)  # pandas keeps whole numbers as such only where none is missing
    if present.dtype.kind == "O" and all(type(value) is int for value in present.tolist()):
        present = present.astype(np.int64)
    found, number = np.unique(present, return_inverse=True)
    code = np.full(len(given), len(found))
    code[~absent] = number
    grey = [found.dtype.kind in "i" and value == -1 for value in found]
    colors = iter(palette(len(found) - sum(grey)))
    table = to_rgba_array([*(UNASSIGNED if is_grey else next(colors) for is_grey in grey), UNASSIGNED])
    texts = ["unassigned" if is_grey else str(value) for value, is_grey in zip(found.tolist(), grey)]
    if names is not None:
        texts = [names.get(value, text) for value, text in zip(found.tolist(), texts)]
    if absent.any():
        if any(grey):
            code[absent] = grey.index(True)
        else:
            texts.append("unassigned")
    return Coloring("categorical", table.reshape(-1, 4)[code], code, texts, label)


def read_color(
    color: Any,
    n: int,
    columns: dict[str, NDArray[Any]] | None = None,
    default: str = PALETTE[0],
    argument: str = "color",
    what: str = "node",
) -> Coloring:
    """Read a `color=` argument.

    Parameters
    ----------
    color
        None, a name in `columns`, a matplotlib colour, (n,) values, or (n, 3) or (n, 4) colours. Texts,
        booleans, and integers with at most 16 distinct values are categories; other numbers are a scale.
    n
        Number of things to colour.
    columns
        Name -> (n,) values that may be named.
    default
        Colour for None.
    argument, what
        Names of the argument and of one thing, for error messages.

    Returns
    -------
    Coloring
        How to colour them.

    Raises
    ------
    ValueError
        If a name is neither a column nor a colour, or the length is not n.

    Examples
    --------
    >>> read_color("red", 5).kind, read_color([0.1, 0.2], 2).kind, read_color(["a", "b"], 2).kind
    ('constant', 'continuous', 'categorical')
    """
    known = columns or {}
    if isinstance(color, str) and color in known:
        return _from_values(known[color], color)
    if color is None or isinstance(color, str | tuple):
        wanted = default if color is None else color
        if not is_color_like(wanted):
            raise ValueError(_unknown(wanted, list(known), argument))
        return Coloring("constant", np.array([to_rgba(wanted)]), np.zeros(0), [], "")
    array = as_array(color)
    if array.ndim not in (1, 2) or len(array) != n or (array.ndim == 2 and array.shape[1] not in (3, 4)):
        raise ValueError(
            f"{argument} must have one value for each {what}: expected shape ({n},), or ({n}, 3) or ({n}, 4) "
            f"colours; found {array.shape}."
        )
    if array.ndim == 2:
        return Coloring("direct", to_rgba_array(array), np.zeros(0), [], "")
    return _from_values(array, "")


def add_colorbar(ax: Any, mappable: Any, coloring: Coloring, below: bool = False) -> None:
    """Add a slim colour bar beside or below the axes, as part of the same axes object.

    Parameters
    ----------
    ax
        The axes.
    mappable
        The collection whose colours are explained.
    coloring
        Gives the label and the values, which decide whether the ends are pointed.
    below
        Put it below the axes, lying; else standing at the right.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> add_colorbar(ax, ax.scatter([0, 1], [0, 1], c=[1, 2]), read_color([1.0, 2.0], 2))
    >>> len(ax.child_axes), len(ax.figure.axes)
    (1, 1)
    """
    values = coloring.values[np.isfinite(coloring.values)]
    low, high = mappable.get_clim()
    ends = bool((values < low).any()), bool((values > high).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[ends]
    # Ticks and the label of the x axis need room above a lying bar.
    box = (0.0, -0.18 if len(ax.get_xticks()) else -0.05, 1.0, 0.025) if below else (1.025, 0.0, 0.025, 1.0)
    side = ax.inset_axes(box)
    bar = ax.figure.colorbar(
        mappable, cax=side, extend=extend, orientation="horizontal" if below else "vertical"
    )
    bar.outline.set_visible(False)
    side.tick_params(labelsize=8, width=0.6, length=2.5)
    bar.set_label(coloring.label, fontsize=9)


def apply_scale(
    collection: Collection, coloring: Coloring, cmap: Any, limits: Sequence[float | None]
) -> None:
    """Colour a collection by a scale.

    Parameters
    ----------
    collection
        Of n elements.
    coloring
        Of kind "continuous".
    cmap
        Name of a colour map, or the map; values that are not finite are grey.
    limits
        (vmin, vmax); None takes the 1st or 99th percentile.

    Examples
    --------
    >>> from matplotlib.collections import LineCollection
    >>> lines = LineCollection([[(0, 0), (1, 1)], [(0, 1), (1, 0)]])
    >>> apply_scale(lines, read_color([1.0, 3.0], 2), "viridis", (1.0, None))
    >>> lines.get_clim()[0]
    1.0
    """
    finite = coloring.values[np.isfinite(coloring.values)]
    ends = np.percentile(finite, [1, 99]) if len(finite) else np.array([0.0, 1.0])
    low, high = (float(end if given is None else given) for end, given in zip(ends, limits))
    scale = color_map(cmap)
    collection.set_array(np.ma.masked_invalid(coloring.values.astype(np.float64)))
    collection.set_cmap(scale.with_extremes(bad=UNASSIGNED))
    collection.set_clim(low, high)


def _from_values(values: NDArray[Any], label: str) -> Coloring:
    values = _of_one_kind(values) if values.dtype.kind == "O" else values
    discrete = values.dtype.kind in "bUSO" or (values.dtype.kind in "iu" and len(np.unique(values)) <= 16)
    if discrete:
        return categorical(values.astype(str) if values.dtype.kind == "S" else values, label)
    return Coloring("continuous", np.zeros((0, 4)), values.astype(np.float64), [], label)


def _of_one_kind(values: NDArray[Any]) -> NDArray[Any]:
    """Make numbers, or texts and None, of objects, as a table with missing entries holds them."""
    absent = np.asarray(pd.isna(values), dtype=bool)
    present = values[~absent].tolist()
    if present and all(isinstance(value, Real) and not isinstance(value, bool) for value in present):
        whole = all(isinstance(value, Integral) for value in present)
        if not (whole and len(set(present)) <= 16):
            return np.array([np.nan if gone else value for value, gone in zip(values, absent)], np.float64)
        numbers = values.copy()
        numbers[absent] = None
        return numbers
    texts = values.astype(str).astype(object)
    texts[absent] = None
    return texts


def _unknown(color: Any, names: list[str], argument: str) -> str:
    close = difflib.get_close_matches(str(color), names, n=3, cutoff=0.5)
    shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return (
        f"{argument}={color!r} is neither a name in the graph nor a colour.{hint} Names: {shown or 'none'}."
    )
