"""One layer of a slide's graph, one node type with one relation, as a plain homogeneous `Data`."""

import torch
from torch_geometric.data import Data, HeteroData

from histograph.graphs.schema import RELATIONS, EdgeType, Graph


def layer(graph: Graph, node_type: str | None = None, relation: str | EdgeType | None = None) -> Data:
    """Take one node type and one relation within it out of a graph; a `Data` passes through as it is.

    Parameters
    ----------
    graph : torch_geometric.data.HeteroData or torch_geometric.data.Data
        The graph. Its tensors are shared with the result, not copied.
    node_type : str, optional
        For example ``"cell"``; may be left out where the graph has one node type.
    relation : str or tuple of str, optional
        For example ``"near"`` or ``("cell", "near", "cell")``. Left out, it is the first relation of the
        schema's table that the graph has: for cells ``near``, then ``touches``. A node type without any
        gets no edges.

    Returns
    -------
    Data
        With the fields of the nodes and edges and those of the graph (slide_id, mpp, provenance, …). Where
        a node field and a graph field have one name, the node field is kept.

    Raises
    ------
    ValueError
        The type or relation is not in the graph, or no type is given and the graph has several.
    TypeError
        `graph` is neither a `Data` nor a `HeteroData`.

    Examples
    --------
    >>> graph = HeteroData()
    >>> graph["cell"].pos = torch.zeros(2, 2)
    >>> graph["cell", "near", "cell"].edge_index = torch.tensor([[0, 1], [1, 0]])
    >>> graph["patch"].pos = torch.zeros(1, 2)
    >>> layer(graph, "cell").edge_index.tolist()
    [[0, 1], [1, 0]]
    """
    if isinstance(graph, Data):
        return graph
    if not isinstance(graph, HeteroData):
        raise TypeError(f"graph: expected a torch_geometric Data or HeteroData, found {type(graph).__name__}")
    node_type = pick_node_type(graph.node_types, node_type)
    edge_type = pick_relation(graph.edge_types, node_type, relation)
    data = Data()
    for name, value in graph.stores[0].items():
        data[name] = value
    if edge_type is None:
        data.edge_index, data.edge_attr = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 1)
        data.edge_attr_names = ["length"]
    else:
        for name, value in graph[edge_type].items():
            data[name] = value
    for name, value in graph[node_type].items():
        data[name] = value
    return data


def pick_node_type(node_types: list[str], node_type: str | None) -> str:
    """Check a node type, or take the only one there is.

    Parameters
    ----------
    node_types : list of str
        Types of the graph.
    node_type : str, optional
        The one asked for.

    Returns
    -------
    str
        The type.

    Raises
    ------
    ValueError
        It is not there, or none is given and there are several.

    Examples
    --------
    >>> pick_node_type(["cell"], None)
    'cell'
    """
    if node_type is None and len(node_types) == 1:
        return node_types[0]
    if node_type is None:
        raise ValueError(f"node_type: the graph has {node_types}; say which one, e.g. node_type='cell'")
    if node_type not in node_types:
        raise ValueError(f"node_type: no {node_type!r} in the graph; it has {node_types}")
    return node_type


def pick_relation(
    edge_types: list[EdgeType], node_type: str, relation: str | EdgeType | None
) -> EdgeType | None:
    """Check a relation within one node type, or take the first in the order of the schema's table.

    Parameters
    ----------
    edge_types : list of tuple of str
        Relations of the graph.
    node_type : str
        Both ends of the relation.
    relation : str or tuple of str, optional
        The one asked for.

    Returns
    -------
    tuple of str or None
        The relation; None where none is asked for and there is none.

    Raises
    ------
    ValueError
        It is not there.

    Examples
    --------
    >>> pick_relation([("cell", "touches", "cell"), ("cell", "near", "cell")], "cell", None)
    ('cell', 'near', 'cell')
    """
    within = [edge_type for edge_type in edge_types if edge_type[0] == edge_type[2] == node_type]
    if relation is None:
        ranked = [edge_type for edge_type in RELATIONS if edge_type in within] + within
        return ranked[0] if ranked else None
    wanted = (node_type, relation, node_type) if isinstance(relation, str) else tuple(relation)
    for edge_type in within:
        if edge_type == wanted:
            return edge_type
    raise ValueError(
        f"relation: no {relation!r} within {node_type!r} in the graph; it has "
        f"{[name for _, name, _ in within] or 'none'}"
    )
