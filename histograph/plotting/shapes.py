"""Nodes as the shapes that they are in the tissue: outlines, boxes, or dots where only positions are known."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PolyCollection
from numpy.typing import NDArray

from .canvas import RASTERIZE_ABOVE, Window, points_per_um
from .layers import Layer

# Node types whose shape is not their bounding box.
_IRREGULAR = ("cell", "tissue")


def node_boxes(layer: Layer, entities: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the boxes of the nodes, points where only positions are known.

    Parameters
    ----------
    layer
        The nodes.
    entities
        `Entities` joined to the nodes on the id, or None.

    Returns
    -------
    low, high : ndarray
        (N, 2) corners in µm.

    Raises
    ------
    ValueError
        If a node is not among the entities.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> from .layers import take_layer
    >>> low, high = node_boxes(take_layer(Data(pos=torch.tensor([[1.0, 2.0]]))), None)
    >>> low.tolist(), high.tolist()
    ([[1.0, 2.0]], [[1.0, 2.0]])
    """
    if entities is not None:
        box = np.asarray(entities.bbox, dtype=np.float64)[_rows(layer, entities)]
    elif layer.bbox is not None and layer.node_type not in _IRREGULAR:
        box = layer.bbox
    else:
        return layer.pos, layer.pos
    return box[:, :2], box[:, 2:]


def draw_shapes(
    ax: Axes, layer: Layer, entities: Any, window: Window, node_size: float | None = None
) -> tuple[Collection, NDArray[np.int64]]:
    """Draw the nodes that a window shows, yet without their colours.

    Parameters
    ----------
    ax
        The axes.
    layer
        The nodes.
    entities
        `Entities` whose outlines are drawn, or None: then patches and regions are drawn by their field `bbox` and other
        nodes are dots.
    window
        (x, y, width, height) in µm.
    node_size
        Diameter of dots in points; None follows the density.

    Returns
    -------
    collection : matplotlib.collections.Collection
        One shape for each node that is seen, to be coloured.
    seen : ndarray
        (n,) int64 rows of these nodes.

    Raises
    ------
    ValueError
        If a node is not among the entities.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from torch_geometric.data import Data
    >>> from .layers import take_layer
    >>> layer = take_layer(Data(pos=torch.tensor([[1.0, 2.0], [90.0, 2.0]])))
    >>> draw_shapes(Figure().add_subplot(), layer, None, (0.0, 0.0, 10.0, 10.0))[1]
    array([0])
    """
    low, high = node_boxes(layer, entities)
    x, y, width, height = window
    seen = np.flatnonzero(((high >= (x, y)) & (low <= (x + width, y + height))).all(axis=1))
    shapes = _outlines(layer, entities, seen)
    drawn: Collection
    if shapes is None:
        spacing = points_per_um(ax, window) * np.sqrt(width * height / max(len(seen), 1))
        size = float(np.clip(0.5 * spacing, 1.0, 7.0)) if node_size is None else node_size
        drawn = ax.scatter(layer.pos[seen, 0], layer.pos[seen, 1], size**2, linewidths=0, zorder=2)
    else:
        drawn = PolyCollection(shapes, zorder=2)
        ax.add_collection(drawn, autolim=False)
    drawn.set_rasterized(len(seen) > RASTERIZE_ABOVE)
    return drawn, seen


def _outlines(layer: Layer, entities: Any, seen: NDArray[np.int64]) -> list[NDArray[np.float64]] | None:
    """Return the outline of each node that is seen, or None where only positions are known."""
    if entities is not None and entities.masks is not None:
        rows = _rows(layer, entities)[seen]
        return [entities.polygon(int(row)) for row in rows]
    if entities is None and (layer.bbox is None or layer.node_type in _IRREGULAR):
        return None
    low, high = node_boxes(layer, entities)
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
