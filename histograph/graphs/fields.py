"""Fields of a layer side by side: features, latents and others as the one matrix that a method reads."""

from collections.abc import Sequence

import torch
from torch_geometric.data.storage import BaseStorage

from histograph.graphs.order import edge_fields, node_fields

NODE_DEFAULT = ("x",)
EDGE_DEFAULT = ("edge_attr",)


def as_fields(fields: Sequence[str], name: str) -> tuple[str, ...]:
    """Check a list of fields.

    Parameters
    ----------
    fields : sequence of str
        At least one, none twice.
    name : str
        The argument, for the message.

    Returns
    -------
    tuple of str
        The same.

    Raises
    ------
    ValueError
        Anything else.

    Examples
    --------
    >>> as_fields("latent", "node_fields")
    Traceback (most recent call last):
    ValueError: node_fields: expected names of fields, such as ("x", "latent"), each once; found 'latent'
    """
    listed = () if isinstance(fields, str) else tuple(fields)
    if not listed or len(set(listed)) < len(listed) or not all(isinstance(item, str) for item in listed):
        example = ("x", "latent") if name == "node_fields" else ("edge_attr", "edge_latent")
        shown = str(example).replace("'", '"')
        raise ValueError(f"{name}: expected names of fields, such as {shown}, each once; found {fields!r}")
    return listed


def store_columns(store: BaseStorage, count: int, of: str) -> dict[str, int]:
    """Count the columns of each field with a row a node or edge.

    Parameters
    ----------
    store : torch_geometric.data.storage.BaseStorage
        A node store or an edge store.
    count : int
        Number of nodes or edges.
    of : {"node", "edge"}
        Whose fields to list.

    Returns
    -------
    dict of str to int
        By field; 1 for a field with one number a row. Ids that are strings are left out.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> store_columns(Data(x=torch.zeros(3, 2), area=torch.zeros(3)).stores[0], 3, "node")
    {'x': 2, 'area': 1}
    """
    names = node_fields(store, count) if of == "node" else edge_fields(store, count)
    return {name: store[name].shape[1:].numel() for name in names if isinstance(store[name], torch.Tensor)}


def column_names(
    fields: Sequence[str], columns: dict[str, int], own: dict[str, list[str]], where: str
) -> list[str]:
    """Name the columns of fields side by side.

    Parameters
    ----------
    fields : sequence of str
        The fields.
    columns : dict of str to int
        Fields that there are, and their numbers of columns.
    own : dict of str to list of str
        Names that the graph gives the columns of some fields.
    where : str
        The argument and the slide, for the message.

    Returns
    -------
    list of str
        One a column: those in `own`, ``area`` for a single one, else ``latent_0``, ``latent_1``, …

    Raises
    ------
    ValueError
        A field is not there.

    Examples
    --------
    >>> column_names(["x", "area", "latent"], {"x": 1, "area": 1, "latent": 2}, {"x": ["red"]}, "a slide")
    ['red', 'area', 'latent_0', 'latent_1']
    """
    names: list[str] = []
    for field in fields:
        if field not in columns:
            raise ValueError(
                f"{where}: no field {field!r}, there are {sorted(columns)}; histograph.add_latents makes latents "
                "(then save the graph again), or leave the field out"
            )
        several = [f"{field}_{column}" for column in range(columns[field])]
        names += own.get(field) or ([field] if columns[field] == 1 else several)
    return names


def join_fields(store: BaseStorage, fields: Sequence[str]) -> torch.Tensor:
    """Put fields side by side.

    Parameters
    ----------
    store : torch_geometric.data.storage.BaseStorage
        Holds the fields, each with the same number of rows.
    fields : sequence of str
        Their names.

    Returns
    -------
    Tensor
        (rows, columns of all) float32.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> store = Data(x=torch.zeros(2, 1), latent=torch.ones(2, 2, dtype=torch.float16)).stores[0]
    >>> join_fields(store, ["x", "latent"]).tolist()
    [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    parts = [store[field].float() for field in fields]
    return torch.cat([part.reshape(part.shape[0], part.shape[1:].numel()) for part in parts], dim=1)
