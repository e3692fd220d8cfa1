"""Clusters of embeddings where they lie in the tissue."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import ArrayLike

from .arrays import as_array
from .canvas import Window, add_legend, choose_window, draw_slide, frame_window, new_axes
from .colors import categorical
from .layers import take_layer
from .shapes import draw_shapes, node_boxes


def plot_clusters(
    graph: Any,
    labels: ArrayLike,
    slide: Any = None,
    node_type: str | None = None,
    entities: Any = None,
    ax: Axes | None = None,
    window_um: Window | None = None,
    names: dict[Any, str] | None = None,
    alpha: float = 0.55,
    slide_alpha: float = 1.0,
    node_size: float | None = None,
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    """Draw the cluster of each node over the slide, as filled shapes where shapes are known.

    Parameters
    ----------
    graph
        A PyG `Data` or `HeteroData` with `pos` in µm.
    labels
        (N,) cluster of each node; the integer -1, None and NaN mean unassigned and are grey.
    slide
        An open slide to draw beneath.
    node_type
        Node type; None takes the finest that is present.
    entities
        `Entities` whose outlines are filled; joined to the nodes on the id. Without them, patches
        and regions are filled by their node field `bbox`, and other nodes are dots (boxes of irregular shapes
        would overlap).
    ax
        Axes to draw on; None makes a new figure.
    window_um
        (x, y, width, height) in µm; None takes the whole slide, or without one the whole graph.
    names
        Cluster -> text of the legend.
    alpha
        Opacity of the shapes, 0 to 1.
    slide_alpha
        Opacity of the slide, 0 to 1.
    node_size
        Diameter of dots in points; None follows the density.
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
        If there is not one label for each node, or entities and nodes do not match.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from torch_geometric.data import Data
    >>> graph = Data(pos=torch.rand(4, 2))
    >>> ax = plot_clusters(graph, [0, 1, 1, 0], ax=Figure().add_subplot())
    >>> len(ax.get_legend().get_texts())
    2
    """
    layer = take_layer(graph, node_type)
    cluster = as_array(labels)
    if cluster.shape != (len(layer.pos),):
        raise ValueError(
            f"labels must have one entry for each {layer.node_type} node: expected shape "
            f"({len(layer.pos)},), found {cluster.shape}."
        )
    coloring = categorical(cluster, "cluster", names)
    window = choose_window(window_um, slide, *node_boxes(layer, entities))
    ax = new_axes(*window[2:]) if ax is None else ax
    if slide is not None:
        draw_slide(ax, slide, window, slide_alpha)
    frame_window(ax, window, scalebar, title)
    drawn, seen = draw_shapes(ax, layer, entities, window, node_size)
    shown = coloring.take(seen)
    drawn.set_facecolor(shown.rgba)
    drawn.set_alpha(alpha)
    if isinstance(drawn, PolyCollection):
        drawn.set(edgecolor="white", linewidth=0.15)
    if len(seen):
        add_legend(ax, shown, max(alpha, 0.8))
    return ax
