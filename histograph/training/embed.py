"""Vectors of many graphs from a trained method."""

import html
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from histograph.features.encoder import put_on
from histograph.methods import Embedding, Graphs, Method, Patches
from histograph.methods.files import read_tensors, write_tensors

from .graphs import check_graphs, collate

FORMAT = "histograph.embeddings"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Embeddings:
    """Vectors of graphs and of their nodes; as an array, the graph vectors.

    Attributes
    ----------
    graph : Tensor
        (G, D) float32, one row per graph, in the order of the data.
    node : Tensor or None
        (total N, D') float32, the nodes of graph g in rows ``ptr[g]:ptr[g + 1]``; None if the method has
        none, or they were not kept.
    ptr : Tensor
        (G + 1,) int64.
    node_id : Tensor or list of str
        (total N,) the ``id`` of each node, or its number inside its graph where graphs have no ``id``.
    slide_ids : list of str
        ``slide_id`` of each graph or name of each patch, or its number in the data where it has none.

    Examples
    --------
    >>> import torch
    >>> z = Embeddings(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([0, 3]), torch.arange(3), ["a"])
    >>> np.asarray(z).shape, len(z)
    ((1, 2), 1)
    """

    graph: Tensor
    node: Tensor | None
    ptr: Tensor
    node_id: Tensor | list[str]
    slide_ids: list[str]

    def __len__(self) -> int:
        return self.graph.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Give the graph vectors as (G, D)."""
        array = self.graph.numpy()
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"dtype: the vectors are {array.dtype}, {np.dtype(dtype)} needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def _repr_html_(self) -> str:
        slides = sorted(set(self.slide_ids))
        shown = ", ".join(html.escape(name) for name in slides[:3]) + (", …" if len(slides) > 3 else "")
        nodes = "none" if self.node is None else f"{self.node.shape[0]:,} × {self.node.shape[1]}"
        rows = {
            "graph vectors": f"{self.graph.shape[0]:,} × {self.graph.shape[1]}",
            "node vectors": nodes,
            "slides": f"{len(slides):,} ({shown})",
        }
        cells = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows.items())
        return f"<table><caption>Embeddings</caption>{cells}</table>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file; its folder must exist.

        Raises
        ------
        FileNotFoundError
            If the folder is missing.
        """
        tensors = {"graph": self.graph, "ptr": self.ptr}
        metadata = {"slide_ids": json.dumps(self.slide_ids)}
        if self.node is not None:
            tensors["node"] = self.node
        if isinstance(self.node_id, Tensor):
            tensors["node_id"] = self.node_id
        else:
            metadata["node_id"] = json.dumps(self.node_id)
        write_tensors(path, tensors, FORMAT, FORMAT_VERSION, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Embeddings":
        """Read a file of :meth:`save`.

        Parameters
        ----------
        path : path-like
            The file.

        Returns
        -------
        Embeddings
            On the CPU.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file; if it is truncated, foreign or newer.
        """
        metadata, tensors = read_tensors(path, FORMAT, FORMAT_VERSION)
        try:
            node_id = tensors["node_id"] if "node_id" in tensors else json.loads(metadata["node_id"])
            slide_ids = json.loads(metadata["slide_ids"])
            return cls(tensors["graph"], tensors.get("node"), tensors["ptr"], node_id, slide_ids)
        except KeyError as error:
            raise ValueError(f"{path} lacks {error}; save the embeddings again") from error


def embed(
    method: Method,
    data: Graphs,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = True,
    nodes: bool = True,
) -> Embeddings:
    """Embed every graph, or image patch, of a data set, in order, without masks or randomness.

    Parameters
    ----------
    method : Method
        Trained or not; its mode and place are the same afterwards.
    data : sequence of torch_geometric.data.Data, or PatchDataset
        A `GraphDataset` with a node type, or a list of graphs; patches for a method that reads images.
    batch_size : int
        Graphs, or patches, at a time.
    device : str or torch.device, optional
        Where to compute; where the weights are, by default.
    progress : bool
        Whether to show a bar.
    nodes : bool
        Whether to keep the vectors of nodes too, which take far more memory; some methods save time without.

    Returns
    -------
    Embeddings
        On the CPU.

    Raises
    ------
    TypeError, ValueError
        If the data are empty or no graphs of one node type, have other columns than the method reads, or
        ``batch_size`` is below 1.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> from histograph.methods import HMGDM
    >>> graph = Data(x=torch.randn(3, 4), edge_index=torch.tensor([[0, 1], [1, 0]]), slide_id="a")
    >>> z = embed(HMGDM(4, hidden_dim=16), [graph, graph], progress=False)
    >>> z.graph.shape, z.node.shape, z.slide_ids
    (torch.Size([2, 16]), torch.Size([6, 16]), ['a', 'a'])
    """
    check_graphs(data)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    home = next(method.parameters()).device
    training = method.training
    graph_rows: list[Tensor] = []
    node_rows: list[Tensor] = []
    counts: list[int] = []
    ids: list[Any] = []
    slide_ids: list[str] = []
    starts = tqdm(range(0, len(data), batch_size), desc="embed", unit="batch", disable=not progress)
    try:
        put_on(method.eval(), device or home)
        for start in starts:
            graphs = [data[i] for i in range(start, min(start + batch_size, len(data)))]
            batch = collate(graphs, method.reads).to(device or home)
            with torch.inference_mode():
                z = method.encode(batch) if nodes else Embedding(None, method.encode_graphs(batch))
            graph_rows.append(z.graph.float().cpu())
            if z.node is not None:
                node_rows.append(z.node.float().cpu())
            for number, item in enumerate(graphs, start):
                if isinstance(item, Patches):
                    counts.append(0 if z.node is None else z.node.shape[0] // len(graphs))
                    ids.append(None)
                    slide_ids.append(str(number) if item.names is None else item.names[0])
                else:
                    counts.append(item.num_nodes)
                    ids.append(item.get("id"))
                    slide_ids.append(str(number if item.get("slide_id") is None else item.slide_id))
    finally:
        method.train(training).to(home)
    ptr = torch.tensor([0, *counts]).cumsum(0)
    # clones, for tensors made in inference mode refuse to be used in training a probe
    node = torch.cat(node_rows).clone() if node_rows else None
    return Embeddings(torch.cat(graph_rows).clone(), node, ptr, _join_ids(ids, counts), slide_ids)


def _join_ids(ids: list[Any], counts: list[int]) -> Tensor | list[str]:
    """Join the ids of all graphs: one tensor of numbers, or one list of text if any graph has text."""
    listed = [
        list(range(count))
        if values is None
        else values.tolist()
        if hasattr(values, "tolist")
        else list(values)
        for values, count in zip(ids, counts, strict=True)
    ]
    flat = [value for values in listed for value in values]
    if all(isinstance(value, int) for value in flat):
        return torch.tensor(flat, dtype=torch.long)
    return [str(value) for value in flat]
