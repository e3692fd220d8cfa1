"""Spatial windows: the sub-graph induced by the nodes in a box."""

import copy
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from histograph.graphs.order import edge_fields, edge_stores, node_fields, node_stores
from histograph.graphs.schema import Graph

Box: TypeAlias = tuple[float, float, float, float]


def crop(graph: Graph, box: Sequence[float]) -> Graph:
    """Cut the sub-graph induced by the nodes in a box out of a graph in memory.

    A node is inside when ``x_min <= x < x_max`` and ``y_min <= y < y_max``, so that the windows of a tiling
    share no node. Edges with an end outside are left out; ids, names and the order of what remains are kept.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        The graph; `pos` in micrometres.
    box : sequence of float
        x_min, y_min, x_max, y_max in micrometres.

    Returns
    -------
    Data or HeteroData
        A new graph with ``window`` set to the box.

    Raises
    ------
    ValueError
        The box is not four finite numbers in order.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     pos=torch.tensor([[0.0, 0.0], [30.0, 40.0]]), id=torch.tensor([3, 4]),
    ...     edge_index=torch.tensor([[0, 1], [1, 0]]), edge_attr=torch.full((2, 1), 50.0),
    ... )
    >>> crop(graph, (0, 0, 10, 10)).id
    tensor([3])
    """
    limits = as_box(box)
    result = copy.copy(graph)
    inside = {
        name: torch.from_numpy(inside_box(store["pos"].cpu().numpy(), limits))
        for name, store in node_stores(graph).items()
    }
    row = {name: keep.cumsum(0) - 1 for name, keep in inside.items()}
    for (source, _, target), store in edge_stores(result).items():
        ends = store["edge_index"]
        kept = inside[source][ends[0]] & inside[target][ends[1]]
        for field in edge_fields(store, ends.shape[1]):
            store[field] = store[field][kept]
        store["edge_index"] = torch.stack([row[source][ends[0][kept]], row[target][ends[1][kept]]])
    for name, store in node_stores(result).items():
        keep = inside[name]
        for field in node_fields(store, len(keep)):
            value = store[field]
            listed = (
                [value[index] for index in keep.nonzero()[:, 0].tolist()] if isinstance(value, list) else None
            )
            store[field] = value[keep] if listed is None else listed
    result.window = limits
    return result


def as_box(box: Sequence[float]) -> Box:
    """Check a window: four finite numbers, x_min < x_max and y_min < y_max.

    Parameters
    ----------
    box : sequence of float
        x_min, y_min, x_max, y_max in micrometres.

    Returns
    -------
    tuple of float
        The same four numbers.

    Raises
    ------
    ValueError
        Anything else.

    Examples
    --------
    >>> as_box([0, 0, 10, 20])
    (0.0, 0.0, 10.0, 20.0)
    """
    values = np.asarray(box, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or (values[:2] >= values[2:]).any():
        raise ValueError(
            "window: expected (x_min, y_min, x_max, y_max) in micrometres with x_min < x_max and "
            f"y_min < y_max, found {box!r}"
        )
    x_min, y_min, x_max, y_max = values.tolist()
    return x_min, y_min, x_max, y_max


def inside_box(pos: np.ndarray, box: Box) -> np.ndarray:
    """Say which points lie in a half-open box.

    Parameters
    ----------
    pos : ndarray
        (N, 2) positions in micrometres.
    box : tuple of float
        x_min, y_min, x_max, y_max in micrometres.

    Returns
    -------
    ndarray
        (N,) bool.

    Examples
    --------
    >>> inside_box(np.array([[0.0, 0.0], [10.0, 5.0]]), (0, 0, 10, 10)).tolist()
    [True, False]
    """
    x, y = pos[:, 0].astype(np.float64), pos[:, 1].astype(np.float64)
    return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


def tiling(pos: np.ndarray, size_um: tuple[float, float], min_nodes: int = 1) -> list[Box]:
    """List the windows of a regular tiling that hold enough nodes, row by row from the top left.

    Tiles start at the canvas origin, so that the windows of one slide do not depend on where its nodes lie,
    and are half-open: every node is in exactly one.

    Parameters
    ----------
    pos : ndarray
        (N, 2) positions in micrometres.
    size_um : tuple of float
        Width and height of a tile in micrometres.
    min_nodes : int
        Leave out tiles with fewer nodes, at least 1.

    Returns
    -------
    list of tuple of float
        x_min, y_min, x_max, y_max in micrometres of each tile.

    Raises
    ------
    ValueError
        A size is not a positive number.

    Examples
    --------
    >>> tiling(np.array([[5.0, 5.0], [25.0, 5.0]]), (10, 10))
    [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]
    """
    size = np.asarray(size_um, dtype=np.float64)
    if size.shape != (2,) or not np.isfinite(size).all() or (size <= 0).any():
        raise ValueError(
            f"window_um: expected a positive width, or width and height, in micrometres, found {size_um}"
        )
    if not len(pos):
        return []
    points = np.asarray(pos, dtype=np.float64)
    first = np.floor(points.min(axis=0) / size).astype(np.int64) - 1
    count = np.floor(points.max(axis=0) / size).astype(np.int64) + 2 - first
    # Looking nodes up among the very limits that the windows get keeps rounding from losing a node between
    # two.
    limits = [np.arange(first[axis], first[axis] + count[axis] + 1) * size[axis] for axis in (0, 1)]
    column, row = (np.searchsorted(limits[axis], points[:, axis], side="right") - 1 for axis in (0, 1))
    tile, nodes = np.unique(row * count[0] + column, return_counts=True)
    x, y = limits
    return [
        (float(x[c]), float(y[r]), float(x[c + 1]), float(y[r + 1]))
        for r, c in (divmod(int(number), int(count[0])) for number in tile[nodes >= min_nodes])
    ]
