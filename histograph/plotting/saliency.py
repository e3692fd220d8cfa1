"""Which entities matter, drawn where they lie in the tissue."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, ListedColormap
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array
from .canvas import Window, choose_window, draw_slide, frame_window, new_axes
from .colors import Coloring, add_colorbar, apply_scale, color_map
from .layers import take_layer
from .shapes import draw_shapes, node_boxes

# Even steps of lightness from one side, and from the middle to both sides.
_UNSIGNED, _SIGNED = "viridis", "coolwarm"


def plot_saliency(
    graph: Any,
    values: ArrayLike,
    slide: Any = None,
    ax: Axes | None = None,
    node_type: str | None = None,
    entities: Any = None,
    window_um: Window | None = None,
    cmap: Any = None,
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 0.75,
    slide_alpha: float = 0.8,
    grey: bool = True,
    node_size: float | None = None,
    label: str = "saliency",
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    """Draw how much each entity matters over the slide; what matters little lets the tissue through.

    Parameters
    ----------
    graph
        A PyG `Data` or `HeteroData` with `pos` in µm.
    values
        (N,) saliency of each node, as from `histograph.evaluation.saliency`. Values that are not finite are not drawn.
        Values of both signs get a scale around 0, transparent there.
    slide
        An open slide to draw beneath.
    ax
        Axes to draw on; None makes a new figure.
    node_type
        Node type; None takes the finest that is present.
    entities
        `Entities` whose outlines are filled; joined to the nodes on the id. Without them, patches and regions are
        filled by their node field `bbox`, and other nodes are dots.
    window_um
        (x, y, width, height) in µm; None takes the whole slide, or without one the whole graph.
    cmap
        Colour map or its name; None takes an even scale of lightness, from one side or from the middle.
    vmin, vmax
        Ends of the scale; None takes the 1st and 99th percentiles of what the window shows, and for both signs
        equal ends at the 99th percentile of the size.
    alpha
        Opacity of the largest values, 0 to 1; it falls evenly to 0 at the other end of the scale, or at 0.
    slide_alpha
        Opacity of the slide, 0 to 1.
    grey
        Draw the slide without its colours, so that every colour is a value.
    node_size
        Diameter of dots in points; None follows the density.
    label
        Text of the colour bar.
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
    ValueError
        If there is not one value for each node, `alpha` is outside [0, 1], or entities and nodes do not match.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from torch_geometric.data import Data
    >>> ax = plot_saliency(Data(pos=torch.rand(4, 2)), [0.0, 0.1, 0.2, 3.0], ax=Figure().add_subplot())
    >>> ax.child_axes[0].get_ylabel()
    'saliency'
    """
    layer = take_layer(graph, node_type)
    numbers = _numbers(values, len(layer.pos), layer.node_type)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}.")
    window = choose_window(window_um, slide, *node_boxes(layer, entities))
    signed = bool((numbers < 0).any()) and bool((numbers > 0).any())
    fading = _fading(cmap, alpha, signed)
    ax = new_axes(*window[2:]) if ax is None else ax
    if slide is not None:
        draw_slide(ax, slide, window, slide_alpha)
        if grey:
            _take_colour_out(ax)
    frame_window(ax, window, scalebar, title)
    drawn, seen = draw_shapes(ax, layer, entities, window, node_size)
    shown = Coloring("continuous", np.zeros((0, 4)), numbers[seen], [], label)
    apply_scale(drawn, shown, fading, _ends(shown.values, signed, vmin, vmax))
    # apply_scale paints what is not finite grey; here it has nothing to say
    drawn.set_cmap(fading.with_extremes(bad=(0, 0, 0, 0)))
    if isinstance(drawn, PolyCollection):
        drawn.set(edgecolor="face", linewidth=0.0)
    add_colorbar(ax, drawn, shown)
    return ax


def _numbers(values: Any, n: int, node_type: str) -> NDArray[np.float64]:
    """Read one number for each node."""
    array = as_array(values).astype(np.float64)
    if array.shape != (n,):
        raise ValueError(
            f"values must have one number for each {node_type} node: expected shape ({n},), found {array.shape}."
        )
    return array


def _take_colour_out(ax: Axes) -> None:
    """Replace the slide's image by its luma (Rec. 601)."""
    image = ax.images[-1]
    rgb = np.asarray(image.get_array(), dtype=np.float64)
    luma = np.rint(rgb @ (0.299, 0.587, 0.114)).astype(np.uint8)
    image.set_data(np.repeat(luma[..., None], 3, axis=2))


def _fading(cmap: Any, alpha: float, signed: bool) -> Colormap:
    """Give a colour map whose opacity rises from 0, at its low end or at its middle, to `alpha`."""
    name = (_SIGNED if signed else _UNSIGNED) if cmap is None else cmap
    base = color_map(name)
    place = np.linspace(0, 1, 256)
    rgba = base(place)
    rgba[:, 3] = alpha * (np.abs(2 * place - 1) if signed else place)
    return ListedColormap(rgba, name=f"{base.name}, fading")


def _ends(
    values: NDArray[np.float64], signed: bool, vmin: float | None, vmax: float | None
) -> tuple[float | None, float | None]:
    """Choose the ends of the scale; around 0 where values have both signs."""
    if not signed:
        return vmin, vmax
    given = [abs(end) for end in (vmin, vmax) if end is not None]
    finite = np.abs(values[np.isfinite(values)])
    size = max(given) if given else float(np.percentile(finite, 99)) if len(finite) else 1.0
    return (-size if vmin is None else vmin), (size if vmax is None else vmax)
