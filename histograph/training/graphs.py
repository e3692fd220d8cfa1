"""What training takes from a data set: checks, and batches of the fields that a method reads."""

import json
import zlib
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData

from histograph.methods import Graphs, Patches

_WIDTHS = {"x": "node features", "edge_attr": "edge attributes"}


def _width(graph: Data, field: str) -> int | None:
    value = graph.get(field)
    return value.shape[1] if isinstance(value, Tensor) and value.dim() == 2 else None


def check_graphs(graphs: Graphs) -> None:
    """Refuse what no method can train on or embed.

    A list or tuple is checked in full; of another sequence, which may read each graph from disk, the first
    graph is, and the others when they are batched.

    Parameters
    ----------
    graphs : sequence of torch_geometric.data.Data, or PatchDataset
        The data.

    Raises
    ------
    TypeError
        If it is a single graph, or holds something else than graphs or patches.
    ValueError
        If it is empty, holds graphs of several node types, graphs that differ in their numbers of columns, or
        patches that differ in size.

    Examples
    --------
    >>> check_graphs([])
    Traceback (most recent call last):
    ValueError: data must hold at least one graph, found none
    """
    if isinstance(graphs, Data | HeteroData):
        raise TypeError("data must be a sequence of graphs, found one graph; give a list: [graph]")
    if len(graphs) == 0:
        raise ValueError("data must hold at least one graph, found none")
    check_items(list(graphs) if isinstance(graphs, list | tuple) else [graphs[0]])


def check_items(items: list[Any]) -> None:
    """Check graphs or patches that are at hand, one against the first.

    Parameters
    ----------
    items : list
        At least one.

    Raises
    ------
    TypeError, ValueError
        As in :func:`check_graphs`.

    Examples
    --------
    >>> import torch
    >>> check_items([Data(x=torch.zeros(1, 2)), Data(x=torch.zeros(1, 3))])
    Traceback (most recent call last):
    ValueError: data: all graphs must have the same node features (x); graph 0 has 2 columns, graph 1 has 3
    """
    for number, graph in enumerate(items):
        if isinstance(graph, Patches) and isinstance(items[0], Patches):
            expected, found = (1, *items[0].image.shape[1:]), tuple(graph.image.shape)
            if found != expected:
                raise ValueError(
                    "data: every item must be one patch, all of one size; expected an image of shape "
                    f"{expected}, found {found} at {number}"
                )
            continue
        if isinstance(graph, HeteroData):
            raise ValueError(
                f"data: graph {number} has several node types {graph.node_types}; pick one, "
                'as GraphDataset(..., node_type="tissue") or histograph.graphs.layer(graph, "tissue") do'
            )
        if not isinstance(graph, Data):
            raise TypeError(
                f"data must hold torch_geometric Data objects, or be a PatchDataset for a method of image "
                f"patches; found {type(graph).__name__} at {number}"
            )
        for field, meaning in _WIDTHS.items():
            if _width(graph, field) != _width(items[0], field):
                raise ValueError(
                    f"data: all graphs must have the same {meaning} ({field}); graph 0 has "
                    f"{_width(items[0], field)} columns, graph {number} has {_width(graph, field)}"
                )


def described(data: Graphs) -> str | None:
    """Say in a few words which graphs or patches these are, so that a run is not gone on with on others.

    Nothing is read for it: it is told by the names of slides and files, and by those of the features.

    Parameters
    ----------
    data : sequence of torch_geometric.data.Data, or PatchDataset
        The data.

    Returns
    -------
    str or None
        The first and the last name, and a number that tells all names; None where there are no names.

    Examples
    --------
    >>> described([Data(slide_id="a"), Data(slide_id="b")])
    'a … b, 061177cd'
    """
    found: Any
    if isinstance(data, list | tuple):
        found = [item.get("slide_id") if isinstance(item, Data) else None for item in data]
    else:
        found = getattr(data, "slide_ids", getattr(data, "names", None))
    names = [] if found is None else [str(name) for name in found if name is not None]
    if not names:
        return None
    features = getattr(data, "feature_names", None)
    code = zlib.crc32(json.dumps([names, features], default=str).encode())
    return f"{names[0]} … {names[-1]}, {code:08x}"


def collate(graphs: list[Any], fields: tuple[str, ...]) -> Batch | Patches:
    """Batch the fields that a method reads, and leave names, provenance and the rest behind.

    Parameters
    ----------
    graphs : list of Data or of Patches
        At least one.
    fields : tuple of str
        Fields of graphs to keep; one that graphs lack is left out.

    Returns
    -------
    torch_geometric.data.Batch or Patches
        The graphs, or patches, in order.

    Raises
    ------
    TypeError, ValueError
        As in :func:`check_graphs`.

    Examples
    --------
    >>> import torch
    >>> graph = Data(x=torch.zeros(2, 3), edge_index=torch.zeros(2, 0, dtype=torch.long), provenance={"a": 1})
    >>> collate([graph, graph], ("x", "edge_index", "edge_attr"))
    DataBatch(x=[4, 3], edge_index=[2, 0], batch=[4], ptr=[3])
    """
    check_items(graphs)
    if isinstance(graphs[0], Patches):
        if "image" not in fields:
            raise TypeError(f"data: the method reads {', '.join(fields)} of graphs, found image patches")
        rows = [item.row for item in graphs if item.row is not None]
        return Patches(
            torch.cat([item.image for item in graphs]),
            row=torch.cat(rows) if len(rows) == len(graphs) else None,
        )
    return Batch.from_data_list(
        [Data(**{name: graph[name] for name in fields if graph.get(name) is not None}) for graph in graphs]
    )
