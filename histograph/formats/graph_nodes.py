"""The nodes of one layer of a graph as a table: what every format of objects needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.data import Data, HeteroData

from ..graphs.layer import layer
from ..graphs.schema import Graph
from .ids import label_uuid


@dataclass(frozen=True)
class Nodes:
    """Nodes of one layer.

    Parameters
    ----------
    kind : str
        Node type, "cell" for a graph that does not say it.
    ids : list of str
        Words as they are; whole numbers as UUIDs that carry them.
    label : ndarray, (N,) int64, optional
        Ids that are whole numbers.
    pos : ndarray, (N, 2) float64
        µm.
    bbox : ndarray, (N, 4) float64, optional
        µm.
    area : ndarray, (N,) float64, optional
        µm².
    columns : dict
        Features by name, and ``type`` where the nodes have one.
    mpp : (float, float)
        µm per level-0 pixel.
    colors : dict
        Colours of types.
    """

    kind: str
    ids: list[str]
    label: NDArray[np.int64] | None
    pos: NDArray[np.float64]
    bbox: NDArray[np.float64] | None
    area: NDArray[np.float64] | None
    columns: dict[str, NDArray[Any]]
    mpp: tuple[float, float]
    colors: dict[str, Any] = field(default_factory=dict)


def graph_nodes(graph: Graph, node_type: str | None = None) -> Nodes:
    """Take the nodes of one layer.

    Parameters
    ----------
    graph : Data or HeteroData
        The graph.
    node_type : str, optional
        Which layer of a HeteroData.

    Returns
    -------
    Nodes

    Raises
    ------
    ValueError
        The layer is not there, or a feature is called ``id`` or ``type``.

    Examples
    --------
    >>> from histograph.graphs import example_graph
    >>> nodes = graph_nodes(example_graph(), "cell")
    >>> nodes.kind, nodes.pos.shape, nodes.ids[0][:8]
    ('cell', (60, 2), '68697374')
    """
    data = layer(graph, node_type)
    kinds = list(graph.node_types) if isinstance(graph, HeteroData) else []
    kind = node_type or (kinds[0] if len(kinds) == 1 else _kind(data))
    raw = data.id
    label = raw.cpu().numpy().astype(np.int64) if isinstance(raw, torch.Tensor) else None
    ids = [str(item) for item in raw] if label is None else [node_uuid(item, kind) for item in label.tolist()]
    names = list(data.feature_names)
    clash = {"id", "type"} & set(names)
    if clash:
        raise ValueError(
            f"feature_names: {sorted(clash)} would hide another column of the file; rename the feature"
        )
    values = data.x.cpu().numpy()
    columns: dict[str, NDArray[Any]] = {}
    if data.get("label_names") is not None:
        names_of = np.array(["", *data.label_names], np.str_)
        columns["type"] = names_of[data.label.cpu().numpy() + 1]
    columns |= {name: values[:, column] for column, name in enumerate(names)}
    box, area = data.get("bbox"), data.get("area_um2")
    return Nodes(
        kind,
        ids,
        label,
        data.pos.cpu().numpy().astype(np.float64),
        None if box is None else box.cpu().numpy().astype(np.float64),
        None if area is None else area.cpu().numpy().astype(np.float64),
        columns,
        (float(data.mpp[0]), float(data.mpp[1])),
    )


def node_uuid(label: int, kind: str) -> str:
    """Return the UUID of a node; ids that a UUID cannot carry (0, negative) are written as numbers.

    Parameters
    ----------
    label : int
        The id.
    kind : str
        Node type.

    Returns
    -------
    str

    Examples
    --------
    >>> node_uuid(0, "cell"), node_uuid(1, "cell")
    ('0', '68697374-6f67-8000-8000-000000000001')
    """
    return (
        label_uuid(label, kind if kind in ("cell", "tissue", "patch", "region") else "cell")
        if label > 0
        else str(label)
    )


def _kind(data: Data) -> str:
    """Node type of a graph of one kind, from its provenance where that names one only."""
    provenance = data.get("provenance") or {}
    named = list((provenance.get("entities") or {}).keys()) if isinstance(provenance, dict) else []
    return str(named[0]) if len(named) == 1 else "cell"
