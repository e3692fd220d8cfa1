"""Entities as their outlines on the slide."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from histograph.entities import Entities

from .canvas import RASTERIZE_ABOVE, Window, add_legend, choose_window, draw_slide, frame_window, new_axes
from .colors import add_colorbar, apply_scale, color_map, read_color


def plot_outlines(
    entities: Entities,
    slide: Any = None,
    ax: Axes | None = None,
    window_um: Window | None = None,
    color: Any = None,
    cmap: Any = "viridis",
    linewidth: float = 1.0,
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    """Draw the outline of each entity, over the slide when it is given.

    Parameters
    ----------
    entities
        Nuclei, or any entities.
    slide
        An open slide to draw beneath, or None.
    ax
        Axes to draw on; None makes a new figure. The limits of given axes are kept, unless the slide is drawn too.
    window_um
        (x, y, width, height) in µm; None takes the whole slide, or the box of the entities. What lies outside is left
        out.
    color
        A matplotlib colour; the name of a column of the entities ("type", "probability") or "area"; (N,) values; or
        (N, 3) or (N, 4) colours.
    cmap
        Colour map of numbers.
    linewidth
        Width of the lines in points.
    title
        Title.
    scalebar
        Draw a scale bar; False draws ticks in µm instead.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    TypeError
        If `entities` are none, or `slide` is no open slide.
    ValueError
        If the window is malformed, or the colour is no column, no colour, or of another length.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> cells = Entities.from_instance_map([[4, 4, 0], [0, 0, 9]], mpp=0.5)
    >>> ax = plot_outlines(cells, ax=Figure().add_subplot())
    >>> len(ax.collections[0].get_paths())
    2
    """
    if not isinstance(entities, Entities):
        raise TypeError(
            f"entities must be Entities, found {type(entities).__name__}; nuclei, patches and read_entities give them"
        )
    cmap = color_map(cmap)
    columns = {name: np.asarray(values) for name, values in entities.columns.items()}
    shown = read_color(color, len(entities), columns | {"area": entities.area}, "#ffe000", what="entity")
    window = choose_window(window_um, slide, entities.bbox[:, :2], entities.bbox[:, 2:])
    x, y, width, height = window
    inside = (entities.bbox[:, :2] < (x + width, y + height)) & (entities.bbox[:, 2:] > (x, y))
    index = np.flatnonzero(inside.all(axis=1))
    new = ax is None
    ax = new_axes(width, height) if ax is None else ax
    if slide is not None:
        draw_slide(ax, slide, window)
    lines = LineCollection(
        [entities.polygon(int(i)) for i in index],
        linewidths=linewidth,
        rasterized=len(index) > RASTERIZE_ABOVE,
    )
    part = shown.take(index)
    if part.kind == "continuous":
        apply_scale(lines, part, cmap, (None, None))
        add_colorbar(ax, lines, part)
    else:
        lines.set_color(part.rgba)  # type: ignore[arg-type]
    ax.add_collection(lines, autolim=False)
    if part.kind == "categorical" and len(index):
        add_legend(ax, part)
    if new or slide is not None:
        frame_window(ax, window, scalebar, title)
    return ax
