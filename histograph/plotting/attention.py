"""What the heads of a Vision Transformer look at, drawn on the patch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array
from .canvas import frame_window, new_axes
from .colors import color_map


def plot_attention(
    attention: ArrayLike,
    image: ArrayLike | None = None,
    ax: Axes | None = None,
    head: int | None = None,
    mass: float | None = None,
    mpp: float | None = None,
    cmap: Any = "viridis",
    vmin: float | None = 0.0,
    vmax: float | None = None,
    alpha: float = 0.75,
    title: str | None = None,
    colorbar: bool = True,
) -> Axes:
    r"""Draw the attention of one head, or the mean of all, over the patch, as multiples of an even share.

    Of N squares with the weights :math:`a_i`, square i has the value :math:`N a_i / \sum_j a_j`. What has little weight
    lets the patch through.

    Parameters
    ----------
    attention
        (heads, rows, columns) weights, as of `histograph.evaluation.class_attention`.
    image
        (H, W, 3) patch to draw beneath, uint8 or from 0 to 1; None draws the map alone, without transparency.
    ax
        Axes to draw on; None makes a new figure.
    head
        Number of the head; None takes the mean of all heads, each scaled to the sum 1.
    mass
        Draw only the smallest set of squares that holds this share of the attention, for instance 0.5
        (see `histograph.evaluation.mass_mask`); None draws all.
    mpp
        Micrometres per pixel of the image: axes are then in µm, with a scale bar.
    cmap
        Colour map or its name.
    vmin, vmax
        Ends of the scale; `vmax` None takes the largest value.
    alpha
        Opacity of the largest values over an image, 0 to 1; it falls evenly to 0, or with `mass` to 40 % of it.
    title
        Title.
    colorbar
        Draw a colour bar.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the attention is no stack of maps, there is no such head, or an argument is out of range.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_attention([[[0.1, 0.1], [0.1, 0.5]]], ax=Figure().add_subplot())
    >>> float(ax.images[0].get_array().max())
    2.5
    """
    maps = _maps(attention)
    picture = None if image is None else _picture(image)
    _check(alpha, mpp)
    colors = color_map(cmap) if picture is None else _fading(cmap, alpha, 0.0 if mass is None else 0.4)
    shown = _one(maps, head)
    hidden = np.zeros(shown.shape, dtype=bool)
    if mass is not None:
        from histograph.evaluation import mass_mask

        hidden = ~mass_mask(shown[None], mass)[0]
    height, width = shown.shape if picture is None else picture.shape[:2]
    scale = 1.0 if mpp is None else mpp
    extent = (0.0, width * scale, height * scale, 0.0)
    ax = new_axes(width, height, longest=3.2) if ax is None else ax
    if picture is not None:
        ax.imshow(picture, extent=extent, interpolation="antialiased", zorder=0)
    drawn = ax.imshow(
        np.ma.masked_array(shown * shown.size, hidden),
        extent=extent,
        interpolation="nearest",
        cmap=colors,
        vmin=vmin,
        vmax=vmax,
        zorder=1,
    )
    frame_window(ax, (0.0, 0.0, extent[1], extent[2]), True, title)
    if mpp is None:
        for artist in [artist for artist in ax.artists if artist.get_gid() == "scalebar"]:
            artist.remove()
    if colorbar:
        bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.8, pad=0.02)
        bar.set_label(f"attention of {_name(head, len(maps))} (1: even)", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return ax


def plot_attention_heads(
    attention: ArrayLike,
    image: ArrayLike,
    mass: float | None = 0.5,
    heads: Sequence[int] | None = None,
    figure: Figure | None = None,
    mpp: float | None = None,
    cmap: Any = "viridis",
    alpha: float = 0.75,
    title: str | None = None,
) -> NDArray[Any]:
    """Draw the patch, the mean of all heads and each head side by side, and below what holds most of each.

    Parameters
    ----------
    attention
        (heads, rows, columns) weights, as of `histograph.evaluation.class_attention`.
    image
        (H, W, 3) patch, uint8 or from 0 to 1.
    mass
        Share of the attention that the squares of the second row hold; None leaves that row out.
    heads
        Numbers of the heads to draw; None takes all.
    figure
        Empty figure to draw on; None makes a new one.
    mpp
        Micrometres per pixel of the image, for a scale bar on the patch.
    cmap
        Colour map or its name.
    alpha
        Opacity of the largest values, 0 to 1.
    title
        Title of the figure.

    Returns
    -------
    ndarray of Axes
        (rows, 2 + heads): the patch, the mean, and the heads; one row without `mass`, else two.

    Raises
    ------
    ValueError
        As `plot_attention`.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> maps = np.random.default_rng(0).random((6, 4, 4))
    >>> plot_attention_heads(maps, np.zeros((32, 32, 3), np.uint8), figure=Figure()).shape
    (2, 8)
    """
    maps = _maps(attention)
    chosen: list[int | None] = [None, *(range(len(maps)) if heads is None else heads)]
    for head in chosen:
        _one(maps, head)
    picture = _picture(image)
    levels = [None] if mass is None else [None, mass]
    # before there is a figure, so that a mistake leaves none behind
    _check(alpha, mpp)
    color_map(cmap)
    if mass is not None:
        from histograph.evaluation import mass_mask

        mass_mask(maps[:1], mass)
    columns = 1 + len(chosen)
    if figure is None:
        import matplotlib.pyplot as plt

        size = (1.5 * columns, 1.7 * len(levels) * picture.shape[0] / picture.shape[1] + 0.4)
        figure = plt.figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(len(levels), columns, squeeze=False)
    for row, level in enumerate(levels):
        _patch(axes[row, 0], picture, mpp if row == 0 else None, "patch" if row == 0 else None)
        for ax, head in zip(axes[row, 1:], chosen):
            name = "mean" if head is None else f"head {head}"
            label = name if level is None else f"{100 * level:g} % of {name}"
            plot_attention(
                maps, picture, ax, head, level, cmap=cmap, alpha=alpha, title=label, colorbar=False
            )
            ax.title.set_fontsize(8)
    if title:
        figure.suptitle(title, fontsize=10)
    return axes


def _maps(attention: ArrayLike) -> NDArray[np.float64]:
    maps = as_array(attention).astype(np.float64)
    if maps.ndim != 3 or maps.size == 0:
        raise ValueError(f"attention must have shape (heads, rows, columns), found {maps.shape}.")
    if not np.isfinite(maps).all() or (maps < 0).any() or (maps.sum(axis=(1, 2)) == 0).any():
        raise ValueError("attention must be finite and not negative, and no map 0 everywhere.")
    return maps


def _picture(image: ArrayLike) -> NDArray[Any]:
    picture = as_array(image)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"image must have shape (H, W, 3), found {picture.shape}.")
    if picture.dtype != np.uint8 and not (picture.min() >= 0 and picture.max() <= 1):
        raise ValueError(
            f"image must be uint8, or hold numbers from 0 to 1; found {picture.dtype} from {picture.min()} to "
            f"{picture.max()}. Undo the normalisation first."
        )
    return picture


def _one(maps: NDArray[np.float64], head: int | None) -> NDArray[np.float64]:
    """Give one map with the sum 1."""
    shares: NDArray[np.float64] = maps / maps.sum(axis=(1, 2), keepdims=True)
    if head is None:
        mean: NDArray[np.float64] = shares.mean(axis=0)
        return mean
    if not isinstance(head, int | np.integer) or not 0 <= head < len(maps):
        raise ValueError(f"head must be 0 to {len(maps) - 1}, found {head}.")
    return shares[head]


def _name(head: int | None, count: int) -> str:
    return f"{count} heads" if head is None else f"head {head}"


def _patch(ax: Axes, picture: NDArray[Any], mpp: float | None, title: str | None) -> None:
    """Draw the patch alone; without a title leave the place empty."""
    if title is None:
        ax.set_axis_off()
        return
    scale = 1.0 if mpp is None else mpp
    width, height = picture.shape[1] * scale, picture.shape[0] * scale
    ax.imshow(picture, extent=(0.0, width, height, 0.0), interpolation="antialiased")
    frame_window(ax, (0.0, 0.0, width, height), True, title)
    if mpp is None:
        for artist in [artist for artist in ax.artists if artist.get_gid() == "scalebar"]:
            artist.remove()
    ax.title.set_fontsize(8)


def _check(alpha: float, mpp: float | None) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}.")
    if mpp is not None and not 0 < mpp < np.inf:
        raise ValueError(f"mpp must be above 0 µm per pixel, found {mpp}.")


def _fading(cmap: Any, alpha: float, least: float) -> Colormap:
    """Give a colour map whose opacity rises from a share of `alpha` to `alpha`; what is hidden is not drawn."""
    base = color_map(cmap)
    place = np.linspace(0, 1, 256)
    rgba = base(place)
    rgba[:, 3] = alpha * (least + (1 - least) * place)
    return ListedColormap(rgba, name=f"{base.name}, fading").with_extremes(bad=(0, 0, 0, 0))
