"""Clusters of embeddings where they lie in the tissue."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import ArrayLike, NDArray

from .canvas import (
    RASTERIZE_ABOVE,
    Window,
    add_legend,
    choose_window,
    draw_slide,
    frame_window,
    new_axes,
    points_per_um,
)
from .colors import categorical
from .layers import Layer, take_layer

# Node types whose shape is not their bounding box.
_IRREGULAR = ("cell", "tissue")


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
        (N,) cluster of each node; the integer -1 means unassigned and is grey.
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
    cluster = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if cluster.shape != (len(layer.pos),):
        raise ValueError(
            f"labels must have one entry for each {layer.node_type} node: expected shape "
            f"({len(layer.pos)},), found {cluster.shape}."
        )
    coloring = categorical(cluster, "cluster", names)
    low, high = _boxes(layer, entities)
    window = choose_window(window_um, slide, low, high)
    ax = new_axes(*window[2:]) if ax is None else ax
    if slide is not None:
        draw_slide(ax, slide, window, slide_alpha)
    frame_window(ax, window, scalebar, title)
    x, y, width, height = window
    seen = np.flatnonzero(((high >= (x, y)) & (low <= (x + width, y + height))).all(axis=1))
    shown = coloring.take(seen)
    shapes = _shapes(layer, entities, seen)
    if shapes is None:
        spacing = points_per_um(ax, window) * np.sqrt(width * height / max(len(seen), 1))
        size = float(np.clip(0.5 * spacing, 1.0, 7.0)) if node_size is None else node_size
        pos = layer.pos[seen]
        drawn: Any = ax.scatter(
            pos[:, 0], pos[:, 1], size**2, shown.rgba, alpha=alpha, linewidths=0, zorder=2
        )
    else:
        drawn = PolyCollection(shapes, facecolors=shown.rgba, edgecolors="white", linewidths=0.15, zorder=2)
        drawn.set_alpha(alpha)
        ax.add_collection(drawn, autolim=False)
    drawn.set_rasterized(len(seen) > RASTERIZE_ABOVE)
    if len(seen):
        add_legend(ax, shown, max(alpha, 0.8))
    return ax


def _boxes(layer: Layer, entities: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the (N, 2) lower and upper corners of the nodes."""
    if entities is not None:
        box = np.asarray(entities.bbox, dtype=np.float64)[_rows(layer, entities)]
    elif layer.bbox is not None and layer.node_type not in _IRREGULAR:
        box = layer.bbox
    else:
        return layer.pos, layer.pos
    return box[:, :2], box[:, 2:]


def _shapes(layer: Layer, entities: Any, seen: NDArray[np.int64]) -> list[NDArray[np.float64]] | None:
    """Return the outline of each node that is seen, or None where only positions are known."""
    if entities is not None and entities.masks is not None:
        rows = _rows(layer, entities)[seen]
        return [entities.polygon(int(row)) for row in rows]
    if entities is None and (layer.bbox is None or layer.node_type in _IRREGULAR):
        return None
    low, high = _boxes(layer, entities)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    return list(low[seen, None] + corners * (high - low)[seen, None])


def _rows(layer: Layer, entities: Any) -> NDArray[np.int64]:
    """Return the row of `entities` of each node, joined on the id."""
    if layer.id is None:
        raise ValueError(f"entities are joined on the id, but the {layer.node_type} nodes have no id.")
    label = np.asarray(entities.label)
    row = np.searchsorted(label, layer.id)
    found = label[np.minimum(row, len(label) - 1)] == layer.id if len(label) else np.zeros(len(row), bool)
    if not np.all(found):
        missing = layer.id[~found]
        raise ValueError(
            f"entities must hold every {layer.node_type} node: {len(missing)} of {len(found)} ids are not "
            f"among the {len(label)} labels (first: {missing[0]}). Pass the entities that the "
            "graph was built from."
        )
    return row
