"""One slide, one file: `save` writes a graph whole or not at all, `load` reads it back."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from histograph.atomic import atomic_path
from histograph.graphs.graph_file import GraphFile
from histograph.graphs.layout import encode
from histograph.graphs.order import canonical
from histograph.graphs.schema import Graph, validate


def save(graph: Graph, path: str | os.PathLike[str]) -> Path:
    """Write a graph to one safetensors file, whole or not at all.

    The graph is validated first. Nodes are stored in Morton order of `pos` and edges by source, then
    target; a graph in another order is put in order in the file (the graph given stays as it is), and `id`
    keeps each node's identity. `docs/file-format.md` specifies the file.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        A graph that passes `validate`; further tensors and plain JSON values on it are stored too.
    path : str or os.PathLike
        The file, usually ``<slide_id>.safetensors``; its folder must exist. An existing file is replaced.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        The graph breaks a rule of the schema.
    TypeError
        A field is neither a dense tensor nor plain JSON data.
    OSError
        The file cannot be written; the message names it.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     x=torch.zeros(1, 1), pos=torch.zeros(1, 2), id=torch.tensor([3]), feature_names=["area"],
    ...     edge_index=torch.zeros(2, 0, dtype=torch.long), edge_attr=torch.zeros(0, 1),
    ...     edge_attr_names=["length"], slide_id="s", mpp=(0.5, 0.5),
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save(graph, Path(folder) / "s.safetensors")).id
    tensor([3])
    """
    validate(graph)
    for store in graph.stores:
        for name, value in store.items():
            if isinstance(value, torch.Tensor) and value.layout is not torch.strided:
                raise TypeError(f"{name} cannot be stored: it is sparse; store its dense form or its indices")
    tensors, header = encode(canonical(graph))
    path = Path(path)
    with atomic_path(path) as part:
        try:
            save_file(tensors, part, metadata=header)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
    return path


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a whole graph into memory.

    Parameters
    ----------
    path : str or os.PathLike
        A file written by `save`.

    Returns
    -------
    HeteroData or Data
        The kind that was saved; nothing in it depends on the file any more.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is cut off, not safetensors, not a histograph graph, or of a newer major format version.

    Examples
    --------
    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    FileNotFoundError: nowhere.safetensors: no such file
    """
    with GraphFile(path) as file:
        return file.load()
