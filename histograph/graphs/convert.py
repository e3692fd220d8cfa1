"""Graphs for other libraries: `to_networkx`."""

from collections.abc import Iterator
from typing import Any

import networkx as nx
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.data.storage import BaseStorage

from histograph.graphs.layer import layer
from histograph.graphs.schema import Graph


def to_networkx(graph: Graph, node_type: str | None = None) -> nx.Graph:
    """Copy a graph to NetworkX, with features and edge attributes under their names.

    One layer becomes an undirected `networkx.Graph` whose nodes are the rows 0, 1, …; a slide with several
    node types becomes a `networkx.MultiDiGraph` whose nodes are pairs ``(node_type, row)`` and whose edge
    keys are the names of the relations. Order is kept. NetworkX takes about 1 kB a node: crop large graphs
    first.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        The graph, as `validate` wants it.
    node_type : str, optional
        Take one layer out of a HeteroData; see `layer`.

    Returns
    -------
    networkx.Graph or networkx.MultiDiGraph
        Node attributes ``pos`` (x, y in micrometres), ``id``, every feature by its name, and ``node_type``
        in a MultiDiGraph; edge attributes by name, ``length`` in micrometres. Of an undirected edge's two
        stored rows the first, from the smaller row to the larger, gives the attributes, so that a direction
        (sin, cos) is that of smaller to larger. Graph attributes ``slide_id`` and ``mpp``.

    Raises
    ------
    ValueError
        The type is not in the graph, or a feature is called ``pos`` or ``id``.

    Examples
    --------
    >>> graph = Data(
    ...     x=torch.tensor([[1.0], [2.0]]), pos=torch.tensor([[0.0, 0.0], [3.0, 4.0]]),
    ...     id=torch.tensor([7, 9]), edge_index=torch.tensor([[0, 1], [1, 0]]),
    ...     edge_attr=torch.tensor([[5.0], [5.0]]), feature_names=["area"], edge_attr_names=["length"],
    ...     slide_id="s", mpp=(0.5, 0.5),
    ... )
    >>> to_networkx(graph).nodes[1]
    {'pos': (3.0, 4.0), 'id': 9, 'area': 2.0}
    >>> to_networkx(graph).edges[0, 1]
    {'length': 5.0}
    """
    facts = {name: getattr(graph, name) for name in ("slide_id", "mpp") if hasattr(graph, name)}
    if isinstance(graph, Data) or node_type is not None:
        data = layer(graph, node_type)
        result = nx.Graph(**facts)
        result.add_nodes_from(enumerate(_node_attributes(data.stores[0])))
        once = data.edge_index[0] < data.edge_index[1]
        result.add_edges_from(
            (source, target, values) for source, target, values in _edge_rows(data.stores[0], once)
        )
        return result
    return _hetero(graph, nx.MultiDiGraph(**facts))


def _hetero(graph: HeteroData, result: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Fill a MultiDiGraph with all node types and relations."""
    for name, store in graph.node_items():
        result.add_nodes_from(
            ((name, row), {"node_type": name, **values}) for row, values in enumerate(_node_attributes(store))
        )
    for (source_type, relation, target_type), store in graph.edge_items():
        result.add_edges_from(
            ((source_type, source), (target_type, target), relation, values)
            for source, target, values in _edge_rows(store, None)
        )
    return result


def _node_attributes(store: BaseStorage) -> Iterator[dict[str, Any]]:
    """Attributes of each node, in order."""
    names = list(store.get("feature_names") or [])
    clash = {"pos", "id", "node_type"} & set(names)
    if clash:
        raise ValueError(f"feature_names: {sorted(clash)} would hide a node attribute; rename the feature")
    pos = store["pos"].tolist()
    ids = store.get("id")
    keys: list[Any] = list(range(len(pos)))
    if ids is not None:
        keys = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    features = store["x"].tolist() if names else [[]] * len(pos)
    for place, key, values in zip(pos, keys, features, strict=True):
        yield {"pos": tuple(place), "id": key, **dict(zip(names, values, strict=True))}


def _edge_rows(store: BaseStorage, keep: torch.Tensor | None) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Source, target and attributes of each edge that is kept, in order."""
    names = list(store.get("edge_attr_names") or [])
    ends = store["edge_index"] if keep is None else store["edge_index"][:, keep]
    values: list[list[float]] = [[]] * ends.shape[1]
    if names:
        values = (store["edge_attr"] if keep is None else store["edge_attr"][keep]).tolist()
    for source, target, row in zip(*ends.tolist(), values, strict=True):
        yield source, target, dict(zip(names, row, strict=True))
