"""One layer of a graph as plain arrays: the nodes of one type and the edges of one relation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_array

NODE_TYPES = ("cell", "tissue", "patch", "region")


@dataclass(frozen=True)
class Layer:
    """Arrays of one layer.

    Parameters
    ----------
    node_type
        Name of the node type; "node" for a homogeneous graph.
    pos
        (N, 2) float64 µm, x then y.
    target_type
        Node type at the other end of the edges, when it is another one.
    target_pos
        (M, 2) float64 µm of that type; `pos` itself when it is the same.
    edge_index
        (2, E) int64 as stored; (2, 0) when there is no relation.
    edge_attr
        Name -> (E,) values.
    features
        Name -> column of `x`.
    x
        (N, F) features; (N, 0) when there are none.
    id
        (N,) ids; None when there are none.
    bbox
        (N, 4) float64 µm x_min, y_min, x_max, y_max; None when there are none.
    """

    node_type: str
    pos: NDArray[np.float64]
    target_type: str | None
    target_pos: NDArray[np.float64]
    edge_index: NDArray[np.int64]
    edge_attr: dict[str, NDArray[Any]]
    features: dict[str, int]
    x: NDArray[Any]
    id: NDArray[Any] | None
    bbox: NDArray[np.float64] | None

    def segments(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return each undirected edge once.

        Returns
        -------
        segments : ndarray
            (U, 2, 2) float64 µm, end by coordinate. Loops are left out.
        column : ndarray
            (U,) int64, the first column of `edge_index` with these ends.

        Examples
        --------
        >>> from torch_geometric.data import Data
        >>> import torch
        >>> graph = Data(pos=torch.rand(2, 2), edge_index=torch.tensor([[0, 1], [1, 0]]))
        >>> take_layer(graph).segments()[0].shape
        (1, 2, 2)
        """
        source, target = self.edge_index
        column = np.arange(len(source))
        if self.target_type is None and len(source):
            column = column[source != target]
            low = np.minimum(source[column], target[column])
            high = np.maximum(source[column], target[column])
            _, first = np.unique(low * len(self.pos) + high, return_index=True)
            column = column[np.sort(first)]
        return np.stack([self.pos[source[column]], self.target_pos[target[column]]], axis=1), column


def take_layer(
    graph: Any, node_type: str | None = None, relation: str | tuple[str, str, str] | None = None
) -> Layer:
    """Take the arrays of one layer out of a graph.

    Parameters
    ----------
    graph
        A `torch_geometric.data.Data` or `HeteroData` with `pos` in µm.
    node_type
        Node type of a `HeteroData`; None takes the finest that is present (cell, tissue, patch, region,
        then others).
    relation
        Name such as "near", or the full triple, starting at `node_type`; None takes the first relation
        between nodes of that type, and none at all when there is no such relation.

    Returns
    -------
    Layer
        The arrays.

    Raises
    ------
    TypeError
        If `graph` is no PyG graph.
    ValueError
        If the node type or relation is not in the graph, or positions are missing or not finite.

    Examples
    --------
    >>> from torch_geometric.data import HeteroData
    >>> import torch
    >>> graph = HeteroData()
    >>> graph["cell"].pos = torch.rand(3, 2)
    >>> take_layer(graph).node_type
    'cell'
    """
    if not hasattr(graph, "edge_index") and not hasattr(graph, "node_types"):
        raise TypeError(
            f"graph must be a torch_geometric Data or HeteroData, found {type(graph).__name__}. "
            "Load a file with histograph.load(path) first."
        )
    if not hasattr(graph, "node_types"):
        if node_type is not None or relation is not None:
            raise ValueError(
                f"node_type and relation choose a layer of a HeteroData; this graph is a Data with one layer "
                f"(found node_type={node_type!r}, relation={relation!r}). Leave them out."
            )
        return _layer("node", graph, None, graph, graph)
    name = _pick_type(list(graph.node_types), node_type)
    key = _pick_relation(list(graph.edge_types), name, relation)
    if key is None:
        return _layer(name, graph[name], None, graph[name], None)
    return _layer(name, graph[name], None if key[2] == name else key[2], graph[key[2]], graph[key])


def _pick_type(types: list[str], node_type: str | None) -> str:
    if node_type is None:
        if not types:
            raise ValueError("graph has no nodes of any type.")
        return next((name for name in NODE_TYPES if name in types), types[0])
    if node_type not in types:
        raise ValueError(f"node_type must be one of {types}, found {node_type!r}.")
    return node_type


def _pick_relation(
    relations: list[tuple[str, str, str]], node_type: str, relation: str | tuple[str, str, str] | None
) -> tuple[str, str, str] | None:
    from_here = [key for key in relations if key[0] == node_type]
    if relation is None:
        return next((key for key in from_here if key[2] == node_type), None)
    wanted = relation if isinstance(relation, str) else tuple(relation)
    found = [key for key in from_here if wanted in (key, key[1])]
    if len(found) != 1:
        problem = "is ambiguous; give the full triple" if found else "is not in the graph"
        raise ValueError(
            f"relation {relation!r} from node type {node_type!r} {problem}. Present: {from_here or 'none'}."
        )
    return found[0]


def _layer(name: str, store: Any, target_type: str | None, target: Any, edges: Any) -> Layer:
    pos = _positions(store, name)
    columns = list(_get(store, "feature_names", []))
    x = as_array(_get(store, "x", np.zeros((len(pos), 0))))
    edge_index = _get(edges, "edge_index", None) if edges is not None else None
    attributes = _get(edges, "edge_attr", None) if edge_index is not None else None
    names = list(_get(edges, "edge_attr_names", [])) if attributes is not None else []
    identity, bbox = _get(store, "id", None), _get(store, "bbox", None)
    return Layer(
        node_type=name,
        pos=pos,
        target_type=target_type,
        target_pos=pos if target_type is None else _positions(target, target_type),
        edge_index=np.zeros((2, 0), np.int64)
        if edge_index is None
        else as_array(edge_index).astype(np.int64),
        edge_attr={key: as_array(attributes)[:, i] for i, key in enumerate(names)},
        features={key: i for i, key in enumerate(columns)},
        x=x,
        id=None if identity is None else as_array(identity),
        bbox=None if bbox is None else as_array(bbox).astype(np.float64),
    )


def _positions(store: Any, name: str) -> NDArray[np.float64]:
    pos = _get(store, "pos", None)
    if pos is None:
        raise ValueError(f"nodes of type {name!r} have no pos; plotting needs (N, 2) positions in µm.")
    array = as_array(pos).astype(np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"pos of {name!r} must have shape (N, 2), found {array.shape}.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"pos of {name!r} must be finite, found NaN or infinity at node {bad[0]}.")
    return array


def _get(store: Any, name: str, default: Any) -> Any:
    # PyG stores answer `get`; a Data answers through attributes only, with None for the fields it knows of.
    value = getattr(store, name, None)
    return default if value is None else value
