"""The one order in which a graph is stored: nodes along the Morton curve, edges by source, then target."""

import copy

import numpy as np
import torch
from scipy import sparse
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import BaseStorage

from histograph.graphs.morton import morton_order
from histograph.graphs.schema import GRAPH_FIELDS, EdgeType, Graph

# Fields that belong to the graph even where their length happens to equal the number of nodes.
_WHOLE = frozenset(GRAPH_FIELDS) | {"window", "feature_names", "edge_attr_names"}


# The names that a graph of one kind has in place of node types and relations.
NODE = "node"
EDGE: EdgeType = (NODE, "edge", NODE)


def node_stores(graph: Graph) -> dict[str, BaseStorage]:
    """Node stores by node type; the one store of a homogeneous graph goes by ``"node"``.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        Any graph.

    Returns
    -------
    dict of str to torch_geometric.data.storage.BaseStorage
        In the order of the graph.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> list(node_stores(Data()))
    ['node']
    """
    return dict(graph.node_items()) if isinstance(graph, HeteroData) else {NODE: graph.stores[0]}


def edge_stores(graph: Graph) -> dict[EdgeType, BaseStorage]:
    """Edge stores by relation; the one store of a homogeneous graph goes by ``("node", "edge", "node")``.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        Any graph.

    Returns
    -------
    dict of tuple to torch_geometric.data.storage.BaseStorage
        In the order of the graph.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> list(edge_stores(Data()))
    [('node', 'edge', 'node')]
    """
    return dict(graph.edge_items()) if isinstance(graph, HeteroData) else {EDGE: graph.stores[0]}


def node_fields(store: BaseStorage, count: int) -> list[str]:
    """Names of the fields with one row a node: tensors whose first dimension is the node count, and `id`.

    Parameters
    ----------
    store : torch_geometric.data.storage.BaseStorage
        A node store of a HeteroData, or the one store of a Data.
    count : int
        Number of nodes N.

    Returns
    -------
    list of str
        In the order of the store.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> data = Data(x=torch.zeros(3, 2), edge_index=torch.zeros(2, 3, dtype=torch.long), mpp=(0.5, 0.5))
    >>> node_fields(data._store, 3)
    ['x']
    """
    return [
        name
        for name, value in store.items()
        if name == "id"
        or (
            isinstance(value, torch.Tensor)
            and value.dim() > 0
            and value.shape[0] == count
            and not name.startswith("edge_")
            and name not in _WHOLE
        )
    ]


def edge_fields(store: BaseStorage, count: int) -> list[str]:
    """Names of the fields with one row an edge: ``edge_*`` tensors whose first dimension is the edge count.

    Parameters
    ----------
    store : torch_geometric.data.storage.BaseStorage
        An edge store of a HeteroData, or the one store of a Data.
    count : int
        Number of edges E.

    Returns
    -------
    list of str
        Without ``edge_index``, in the order of the store.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> data = Data(edge_index=torch.zeros(2, 3, dtype=torch.long), edge_attr=torch.zeros(3, 1))
    >>> edge_fields(data._store, 3)
    ['edge_attr']
    """
    return [
        name
        for name, value in store.items()
        if name.startswith("edge_")
        and name != "edge_index"
        and isinstance(value, torch.Tensor)
        and value.dim() > 0
        and value.shape[0] == count
    ]


def storage_order(pos: torch.Tensor, ids: torch.Tensor | list[str]) -> np.ndarray:
    """Order of the nodes along the Morton curve, ties by id, so that it does not depend on the order given.

    Parameters
    ----------
    pos : Tensor
        (N, 2) positions in micrometres.
    ids : Tensor or list of str
        (N,) unique ids.

    Returns
    -------
    ndarray
        (N,) int64: row `k` of the stored graph is row ``order[k]`` of the graph given.

    Examples
    --------
    >>> storage_order(torch.tensor([[9.0, 9.0], [0.0, 0.0]]), torch.tensor([1, 2])).tolist()
    [1, 0]
    """
    by_id = np.argsort(np.asarray(ids), kind="stable")
    along = np.asarray(morton_order(pos.detach().cpu().numpy()[by_id]))
    return by_id[along]


def edge_order(source: np.ndarray, target: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Order of edges by source, then target, in linear time (two counting sorts).

    Parameters
    ----------
    source, target : ndarray
        (E,) int64 rows; no edge twice.
    shape : tuple of int
        Number of source nodes and of target nodes.

    Returns
    -------
    ndarray
        (E,) int64 permutation.

    Examples
    --------
    >>> edge_order(np.array([1, 0, 0]), np.array([0, 2, 1]), (2, 3)).tolist()
    [2, 1, 0]
    """
    if not len(source):
        return np.zeros(0, dtype=np.int64)
    number = np.arange(len(source), dtype=np.int64)
    by_target = sparse.csr_array((number, (target, source)), shape=shape[::-1])
    return np.asarray(by_target.T.tocsr().data)


def canonical(graph: Graph) -> Graph:
    """Put nodes in Morton order (ties by id) and edges in order of source, then target.

    Ids travel with their nodes, so the identity of every node is kept. A graph already in order is returned
    as it is; otherwise the result is a new graph and the one given stays as it was.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        A graph that passes `histograph.graphs.validate`.

    Returns
    -------
    Data or HeteroData
        The same graph in storage order.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     x=torch.tensor([[9.0], [0.0]]), pos=torch.tensor([[9.0, 9.0], [0.0, 0.0]]),
    ...     id=torch.tensor([5, 6]), edge_attr=torch.full((2, 1), 12.7279),
    ...     edge_index=torch.tensor([[0, 1], [1, 0]]),
    ... )
    >>> canonical(graph).id.tolist()
    [6, 5]
    """
    rank = {name: _rank(store) for name, store in node_stores(graph).items()}
    order = {
        edge_type: _edge_order(store, rank[edge_type[0]], rank[edge_type[2]])
        for edge_type, store in edge_stores(graph).items()
    }
    if all(value is None for value in rank.values()) and all(value is None for value in order.values()):
        return graph
    result = copy.copy(graph)
    # Edges first: their fields are told apart by the edge count, which the nodes' turn does not change.
    for edge_type, store in edge_stores(result).items():
        _permute_edges(store, rank[edge_type[0]], rank[edge_type[2]], order[edge_type])
    for name, store in node_stores(result).items():
        _permute_nodes(store, rank[name])
    return result


def _rank(store: BaseStorage) -> np.ndarray | None:
    """Find the new row of each old node, or None where the nodes are in order already."""
    order = storage_order(store["pos"], store["id"])
    identity = np.arange(len(order), dtype=np.int64)
    if (order == identity).all():
        return None
    rank = np.empty_like(identity)
    rank[order] = identity
    return rank


def _relabel(store: BaseStorage, source: np.ndarray | None, target: np.ndarray | None) -> np.ndarray:
    """Give both ends of the edges their new rows, (2, E)."""
    ends = store["edge_index"].cpu().numpy()
    if source is None and target is None:
        return ends
    return np.stack(
        [ends[0] if source is None else source[ends[0]], ends[1] if target is None else target[ends[1]]]
    )


def _edge_order(
    store: BaseStorage, source: np.ndarray | None, target: np.ndarray | None
) -> np.ndarray | None:
    """Order of the edges once their ends have new rows, or None where they are in order already."""
    ends = _relabel(store, source, target)
    if not ends.shape[1]:
        return None
    shape = (int(ends[0].max()) + 1, int(ends[1].max()) + 1)
    if (np.diff(ends[0] * shape[1] + ends[1]) > 0).all():
        return None
    return edge_order(ends[0], ends[1], shape)


def _permute_edges(
    store: BaseStorage, source: np.ndarray | None, target: np.ndarray | None, order: np.ndarray | None
) -> None:
    """Relabel the ends of the edges of one store and put the edges in order."""
    ends = _relabel(store, source, target)
    names = edge_fields(store, ends.shape[1])
    if order is not None:
        ends = ends[:, order]
        for name in names:
            store[name] = store[name][torch.from_numpy(order)]
    store["edge_index"] = torch.from_numpy(np.ascontiguousarray(ends))


def _permute_nodes(store: BaseStorage, rank: np.ndarray | None) -> None:
    """Put the nodes of one store in order."""
    if rank is None:
        return
    order = torch.from_numpy(np.argsort(rank))
    for name in node_fields(store, len(rank)):
        value = store[name]
        store[name] = (
            value[order] if isinstance(value, torch.Tensor) else [value[row] for row in order.tolist()]
        )
