"""What a graph holds, at a glance: counts, degrees and edge lengths, as a table."""

import pandas as pd

from histograph.graphs.order import edge_stores, node_stores
from histograph.graphs.schema import Graph


def summary(graph: Graph) -> pd.DataFrame:
    """Count nodes and edges, one row a node type and one a relation.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        The graph; a `Data` goes by the type ``node``.

    Returns
    -------
    pandas.DataFrame
        Index ``part``; columns ``nodes``, ``features`` (number of columns of x), ``edges`` (stored edges: an
        undirected edge counts twice), ``mean_degree`` (edges to a source node), ``mean_length_um``. Columns
        that do not apply are missing values.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     x=torch.zeros(2, 3), pos=torch.tensor([[0.0, 0.0], [3.0, 4.0]]),
    ...     edge_index=torch.tensor([[0, 1], [1, 0]]), edge_attr=torch.tensor([[5.0], [5.0]]),
    ... )
    >>> summary(graph).loc["node – edge – node", ["edges", "mean_length_um"]].tolist()
    [2.0, 5.0]
    """
    rows: dict[str, dict[str, float]] = {}
    counts = {}
    for name, store in node_stores(graph).items():
        counts[name] = len(store["pos"])
        rows[name] = {"nodes": counts[name], "features": store["x"].shape[1] if "x" in store else 0}
    for edge_type, store in edge_stores(graph).items():
        edges, sources = store["edge_index"].shape[1], counts[edge_type[0]]
        length = store["edge_attr"][:, 0].double() if "edge_attr" in store else None
        rows[" – ".join(edge_type)] = {
            "edges": edges,
            "mean_degree": edges / sources if sources else float("nan"),
            "mean_length_um": float(length.mean()) if length is not None and edges else float("nan"),
        }
    columns = {"nodes": "Int64", "features": "Int64", "edges": "Int64", "mean_degree": "Float64"}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "mean_length_um"])
    return table.astype({**columns, "mean_length_um": "Float64"}).rename_axis("part")
