"""Axes in micrometres: a new figure, the slide beneath, the window, and a scale bar."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray

from .colors import Coloring

Window = tuple[float, float, float, float]

# Above this many shapes a vector file is slow to open: they are drawn as pixels.
RASTERIZE_ABOVE = 50_000
MAX_PX = 2048


def new_axes(width: float, height: float, longest: float = 6.0) -> Axes:
    """Make a figure with one axes of a given shape.

    Parameters
    ----------
    width, height
        Shape of what will be drawn, any unit.
    longest
        Longest side, inches.

    Returns
    -------
    Axes
        On a new pyplot figure, which a notebook shows and the caller closes.

    Examples
    --------
    >>> ax = new_axes(2.0, 1.0)
    >>> import matplotlib.pyplot as plt
    >>> plt.close(ax.figure)
    """
    import matplotlib.pyplot as plt

    scale = longest / max(width, height)
    # Very long windows keep room for their labels.
    size = (max(width * scale, 2.0) + 0.6, max(height * scale, 1.5) + 0.4)
    return plt.subplots(figsize=size, layout="constrained", facecolor="white")[1]


def check_window(window_um: Any) -> Window:
    """Check a window.

    Parameters
    ----------
    window_um
        (x, y, width, height) in µm, from the top-left of the canvas.

    Returns
    -------
    tuple of float
        The window.

    Raises
    ------
    ValueError
        If it is not four finite numbers, or the size is not positive.

    Examples
    --------
    >>> check_window((0, 0, 100, 50))
    (0.0, 0.0, 100.0, 50.0)
    """
    values = np.asarray(window_um, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or (values[2:] <= 0).any():
        raise ValueError(
            f"window_um must be (x, y, width, height) in µm with positive size, found {window_um!r}."
        )
    x, y, width, height = values.tolist()
    return x, y, width, height


def choose_window(window_um: Any, slide: Any, *positions: NDArray[np.float64]) -> Window:
    """Return the window given, else the whole slide, else the box of the positions with a margin.

    Parameters
    ----------
    window_um
        (x, y, width, height) in µm, or None.
    slide
        A slide with `size_um`, or None.
    *positions
        (N, 2) positions in µm.

    Returns
    -------
    tuple of float
        The window.

    Raises
    ------
    TypeError
        If `slide` is no slide, for instance a path.

    Examples
    --------
    >>> import numpy as np
    >>> choose_window(None, None, np.array([[0.0, 0.0], [100.0, 50.0]]))
    (-3.0, -3.0, 106.0, 56.0)
    """
    if slide is not None and not (hasattr(slide, "read_region") and hasattr(slide, "size_um")):
        raise TypeError(
            f"slide must be an open slide, found {type(slide).__name__}. Use histograph.open_slide(path)."
        )
    if window_um is not None:
        return check_window(window_um)
    if slide is not None:
        return 0.0, 0.0, float(slide.size_um[0]), float(slide.size_um[1])
    points = np.concatenate(positions) if positions else np.zeros((0, 2))
    if not len(points):
        return 0.0, 0.0, 1.0, 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    margin = max(0.03 * float((high - low).max()), 0.5)
    x, y = (low - margin).tolist()
    width, height = (high - low + 2 * margin).tolist()
    return x, y, width, height


def draw_slide(ax: Axes, slide: Any, window: Window, alpha: float = 1.0) -> None:
    """Draw the pixels of a window, at most 2,048 on the longer side.

    Parameters
    ----------
    ax
        The axes.
    slide
        A slide with `read_region` and `mpp`.
    window
        (x, y, width, height) in µm.
    alpha
        Opacity of the image; less than one lets the graph stand out.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from histograph.slides import open_slide
    >>> ax = Figure().add_subplot()
    >>> draw_slide(ax, open_slide(np.zeros((4, 8, 3), np.uint8), mpp=0.5), (0.0, 0.0, 4.0, 2.0))
    >>> [float(v) for v in ax.images[0].get_extent()]
    [0.0, 4.0, 2.0, 0.0]
    """
    x, y, width, height = window
    mpp = max(float(np.mean(slide.mpp)), max(width, height) / MAX_PX)
    image = slide.read_region(x, y, width, height, mpp=mpp)
    extent = (x, x + image.shape[1] * mpp, y + image.shape[0] * mpp, y)
    ax.imshow(image, extent=extent, alpha=alpha, interpolation="antialiased", zorder=0)


def frame_window(ax: Axes, window: Window, scalebar: bool, title: str | None) -> None:
    """Set limits in µm with y downwards, and the look: a scale bar without ticks, or ticks without a bar.

    Parameters
    ----------
    ax
        The axes.
    window
        (x, y, width, height) in µm.
    scalebar
        Draw a scale bar instead of ticks.
    title
        Title, or None.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> frame_window(ax, (0.0, 0.0, 100.0, 50.0), True, None)
    >>> [float(v) for v in ax.get_ylim()]
    [50.0, 0.0]
    """
    x, y, width, height = window
    ax.set_xlim(x, x + width)
    ax.set_ylim(y + height, y)
    ax.set_aspect("equal")
    ax.set_facecolor("white")
    for side in ax.spines.values():
        side.set_linewidth(0.6)
        side.set_color("#444444")
    if scalebar:
        ax.set_xticks([])
        ax.set_yticks([])
        _add_scalebar(ax, window)
    else:
        ax.tick_params(labelsize=8, width=0.6, length=2.5)
        ax.set_xlabel("x (µm)", fontsize=9)
        ax.set_ylabel("y (µm)", fontsize=9)
    if title:
        ax.set_title(title, fontsize=10)


def clean_axes(ax: Axes, title: str | None = None) -> None:
    """Give axes of a chart the common look: no top and right frame, readable small type.

    Parameters
    ----------
    ax
        The axes.
    title
        Title, or None.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> clean_axes(Figure().add_subplot(), "losses")
    """
    ax.set_facecolor("white")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.8)
    ax.tick_params(labelsize=8, width=0.8, length=3)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    if title:
        ax.set_title(title, fontsize=10)


def add_legend(ax: Axes, coloring: Coloring, alpha: float = 1.0) -> None:
    """Explain categories at the right of the axes, those that are drawn only.

    Parameters
    ----------
    ax
        The axes.
    coloring
        Of kind "categorical".
    alpha
        Opacity of the markers.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from histograph.plotting.colors import categorical
    >>> ax = Figure().add_subplot()
    >>> add_legend(ax, categorical(["a", "b"]))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['a', 'b']
    """
    codes, first = np.unique(coloring.values, return_index=True)
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=6, color=coloring.rgba[row, :3], alpha=alpha)
        for row in first
    ]
    legend = ax.legend(
        handles,
        [coloring.names[code] for code in codes],
        title=coloring.label or None,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=8,
        title_fontsize=9,
        handletextpad=0.3,
        ncols=1 + len(codes) // 25,
    )
    legend.set_zorder(5)


def points_per_um(ax: Axes, window: Window) -> float:
    """Return how many typographic points a micrometre will take.

    Parameters
    ----------
    ax
        The axes.
    window
        (x, y, width, height) in µm.

    Returns
    -------
    float
        Points per µm, for equal aspect.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure(figsize=(1, 1)).add_axes((0, 0, 1, 1))
    >>> points_per_um(ax, (0.0, 0.0, 36.0, 36.0))
    2.0
    """
    box = ax.get_window_extent()
    inches = box.width / ax.figure.dpi, box.height / ax.figure.dpi
    return float(72.0 * min(inches[0] / window[2], inches[1] / window[3]))


def nice_length(limit_um: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above a limit.

    Parameters
    ----------
    limit_um
        Limit, µm, positive.

    Returns
    -------
    float
        Length, µm.

    Examples
    --------
    >>> nice_length(370.0), nice_length(0.9)
    (200.0, 0.5)
    """
    power = 10.0 ** math.floor(math.log10(limit_um))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= limit_um * (1 + 1e-9))


def _add_scalebar(ax: Axes, window: Window) -> None:
    length = nice_length(window[2] / 4)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(
        ax.transData,
        length,
        text,
        loc="lower left",
        pad=0.35,
        borderpad=0.5,
        sep=3,
        frameon=True,
        size_vertical=window[3] * 0.006,
        fill_bar=True,
        color="black",
        label_top=True,
        fontproperties=FontProperties(size=8),
    )
    bar.patch.set(facecolor="white", alpha=0.85, edgecolor="none")
    bar.set_zorder(6)
    bar.set_gid("scalebar")
    ax.add_artist(bar)
