"""Slides: the image, the outline of its tissue and its tiles."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from .canvas import RASTERIZE_ABOVE, Window, choose_window, draw_slide, frame_window, new_axes
from .colors import PALETTE


def plot_slide(
    slide: Any,
    mask: Any = None,
    tiles: Iterable[Any] | None = None,
    ax: Axes | None = None,
    window_um: Window | None = None,
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    """Draw a slide, with the outline of a tissue mask and the frames of tiles when they are given.

    Parameters
    ----------
    slide
        An open slide.
    mask
        A `TissueMask` (`mask` (h, w) bool and `mpp`).
    tiles
        Tiles, for instance a `TileGrid` (each with `x_um`, `y_um`, `width_um`, `height_um`).
    ax
        Axes to draw on; None makes a new figure.
    window_um
        (x, y, width, height) in µm; None takes the whole slide.
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
        If `slide` is no open slide.
    ValueError
        If the window is malformed.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from histograph.slides import open_slide
    >>> ax = plot_slide(open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5), ax=Figure().add_subplot())
    >>> len(ax.images)
    1
    """
    if slide is None:
        raise TypeError("slide must be an open slide, found None. Use histograph.open_slide(path).")
    window = choose_window(window_um, slide)
    ax = new_axes(*window[2:]) if ax is None else ax
    draw_slide(ax, slide, window)
    if tiles is not None:
        _draw_tiles(ax, tiles)
    if mask is not None:
        _draw_outline(ax, mask)
    frame_window(ax, window, scalebar, title)
    return ax


def _draw_tiles(ax: Axes, tiles: Iterable[Any]) -> None:
    boxes = np.array([(t.x_um, t.y_um, t.width_um, t.height_um) for t in tiles], dtype=np.float64).reshape(
        -1, 4
    )
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    frames = PolyCollection(
        list(boxes[:, None, :2] + corners * boxes[:, None, 2:]),
        facecolors="none",
        edgecolors=PALETTE[0],
        linewidths=0.7,
        zorder=2,
    )
    frames.set_rasterized(len(boxes) > RASTERIZE_ABOVE)
    ax.add_collection(frames, autolim=False)


def _draw_outline(ax: Axes, mask: Any) -> None:
    # A border of background closes the outline where the tissue reaches the edge of the slide.
    inside = np.pad(np.asarray(mask.mask, dtype=np.float64), 1)
    x = (np.arange(inside.shape[1]) - 0.5) * mask.mpp
    y = (np.arange(inside.shape[0]) - 0.5) * mask.mpp
    if inside.any():
        ax.contour(x, y, inside, levels=[0.5], colors=[PALETTE[2]], linewidths=1.2, zorder=3)
