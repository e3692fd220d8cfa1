"""A graph on disk, read lazily: the header at once, tensors and spatial windows where they are asked for."""

import copy
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch_geometric.data import Data, HeteroData

from histograph.graphs.header import read_header
from histograph.graphs.layout import GRAPH, decode_header, decode_text, edge_key
from histograph.graphs.schema import EdgeType, Graph
from histograph.graphs.window import Box, as_box, inside_box

# Rows that are read in vain where that joins two ranges into one: copying a few is faster than another read.
_GAP = 32


class GraphFile:
    """A graph on disk, memory-mapped: the header is read at once, tensors only where they are asked for.

    Parameters
    ----------
    path : str or os.PathLike
        A file written by `save`.

    Attributes
    ----------
    path : Path
        The file.
    header : dict
        Format name and version, kind, slide_id, mpp, provenance, counts and names (`docs/file-format.md`).

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is cut off, not safetensors, not a histograph graph, or of a newer major format version.

    Examples
    --------
    >>> import tempfile
    >>> from histograph.graphs.store import save
    >>> pos = torch.tensor([[0.0, 0.0], [3.0, 4.0], [90.0, 90.0]])
    >>> graph = Data(
    ...     x=torch.zeros(3, 1), pos=pos, id=torch.tensor([3, 4, 5]), feature_names=["area"],
    ...     edge_index=torch.tensor([[0, 1], [1, 0]]), edge_attr=torch.full((2, 1), 5.0),
    ...     edge_attr_names=["length"], slide_id="s", mpp=(0.5, 0.5),
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = GraphFile(save(graph, folder + "/s.safetensors"))
    ...     file.node_types, file.num_nodes(), file.window((0, 0, 50, 50)).id.tolist()
    (['node'], {'node': 3}, [3, 4])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        self._file: Any = None
        self._boxes: dict[str, np.ndarray] = {}

    @property
    def slide_id(self) -> str:
        """The slide that the graph was built from."""
        return self.header["slide_id"]

    @property
    def node_types(self) -> list[str]:
        """Node types; ``["node"]`` for a graph of one kind."""
        return list(self.header["num_nodes"])

    @property
    def relations(self) -> list[EdgeType]:
        """Relations as PyG edge types; ``[("node", "edge", "node")]`` for a graph of one kind."""
        return [_edge_type(key) for key in self.header["num_edges"]]

    @property
    def is_hetero(self) -> bool:
        """Whether the file holds a HeteroData."""
        return self.header["kind"] == "hetero"

    def num_nodes(self) -> dict[str, int]:
        """Count the nodes of each type from the header alone.

        Returns
        -------
        dict of str to int
            By node type.
        """
        return dict(self.header["num_nodes"])

    def num_edges(self) -> dict[EdgeType, int]:
        """Count the stored (directed) edges of each relation from the header alone.

        Returns
        -------
        dict of tuple to int
            By relation; an undirected edge counts twice.
        """
        return {_edge_type(key): count for key, count in self.header["num_edges"].items()}

    def extent(self, node_types: Sequence[str] | None = None) -> Box | None:
        """Bounding box of the nodes in micrometres, from the block boxes alone; None without nodes.

        Parameters
        ----------
        node_types : sequence of str, optional
            Types to look at; all by default.

        Returns
        -------
        tuple of float or None
            x_min, y_min, x_max, y_max of node positions, ends included.
        """
        boxes = np.concatenate([self._block_boxes(name) for name in node_types or self.node_types])
        if not len(boxes):
            return None
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def pos(self, node_type: str) -> torch.Tensor:
        """Read the positions of one node type.

        Parameters
        ----------
        node_type : str
            A type of the file.

        Returns
        -------
        Tensor
            (N, 2) float32 micrometres, in storage order.

        Raises
        ------
        ValueError
            The type is not in the file.
        """
        self._check_types([node_type], [])
        return self._open().get_tensor(f"{node_type}.pos").clone()

    def columns(self, part: str | EdgeType) -> dict[str, int]:
        """Count the columns of each field with a row a node or edge, without reading the fields.

        Parameters
        ----------
        part : str or tuple of str
            A node type or a relation of the file.

        Returns
        -------
        dict of str to int
            By field; 1 for a field with one number a row. Ids that are strings are left out.

        Raises
        ------
        ValueError
            The type or relation is not in the file.
        """
        nodes = isinstance(part, str)
        self._check_types([part] if isinstance(part, str) else [], [] if isinstance(part, str) else [part])
        name = part if isinstance(part, str) else edge_key(part)
        text = nodes and name in self.header["text_ids"]
        fields = self.header["node_fields" if nodes else "edge_fields"][name]
        shapes = {
            field: self._open().get_slice(f"{name}.{field}").get_shape()
            for field in fields
            if not (text and field == "id")
        }
        return {field: math.prod(shape[1:]) for field, shape in shapes.items()}

    def load(
        self, node_types: Iterable[str] | None = None, relations: Iterable[EdgeType] | None = None
    ) -> Graph:
        """Read the whole graph, or all of some node types and relations.

        Parameters
        ----------
        node_types : iterable of str, optional
            Types to read; all by default.
        relations : iterable of edge types, optional
            Relations to read; by default all between the types that are read.

        Returns
        -------
        HeteroData or Data
            In memory, independent of the file.

        Raises
        ------
        ValueError
            A type or relation is not in the file.
        """
        return self._read(None, node_types, relations)

    def window(
        self,
        box: Sequence[float],
        node_types: Iterable[str] | None = None,
        relations: Iterable[EdgeType] | None = None,
    ) -> Graph:
        """Read the sub-graph induced by the nodes in a box: only the blocks that the box meets are touched.

        A node is inside when ``x_min <= x < x_max`` and ``y_min <= y < y_max``, so that the windows of a
        tiling share no node. Edges with an end outside are left out. Ids, names and the order are those of
        the whole.

        Parameters
        ----------
        box : sequence of float
            x_min, y_min, x_max, y_max in micrometres.
        node_types : iterable of str, optional
            Types to read; all by default.
        relations : iterable of edge types, optional
            Relations to read; by default all between the types that are read.

        Returns
        -------
        HeteroData or Data
            In memory, with ``window`` set to the box.

        Raises
        ------
        ValueError
            The box is not four finite numbers in order, or a type or relation is not in the file.
        """
        return self._read(as_box(box), node_types, relations)

    def subset(self, node_type: str, rows: np.ndarray, relations: Iterable[EdgeType] | None = None) -> Graph:
        """Read the sub-graph induced by some nodes of one type.

        Parameters
        ----------
        node_type : str
            A type of the file.
        rows : ndarray
            (M,) int64, the nodes by their rows in the file, ascending, each once.
        relations : iterable of edge types, optional
            Relations to read, within the type; by default all within it.

        Returns
        -------
        HeteroData or Data
            In memory; rows that lie together in the file are read together.

        Raises
        ------
        ValueError
            The type or a relation is not in the file, or `rows` are not rows of it in order.
        """
        rows, count = np.asarray(rows, dtype=np.int64), self.num_nodes().get(node_type, 0)
        if len(rows) and ((np.diff(rows) <= 0).any() or rows[0] < 0 or rows[-1] >= count):
            self._check_types([node_type], [])
            raise ValueError(
                f"rows: expected ascending rows from 0 to {count - 1} of {node_type!r}, each once"
            )
        return self._read(None, [node_type], relations, {node_type: _rows_of(rows)})

    def close(self) -> None:
        """Unmap the file; it is mapped again when it is next read."""
        if self._file is not None:
            self._file.__exit__(None, None, None)
            self._file = None

    def __enter__(self) -> "GraphFile":
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the mapping, so that worker processes open the file for themselves."""
        return {**self.__dict__, "_file": None}

    def __repr__(self) -> str:
        """Name the file and its counts."""
        nodes = ", ".join(f"{count} {name}" for name, count in self.header["num_nodes"].items())
        edges = ", ".join(f"{count} {name}" for name, count in self.header["num_edges"].items())
        return f"GraphFile({str(self.path)!r}: {nodes}; {edges})"

    def _open(self) -> Any:
        """Map the file, once."""
        if self._file is None:
            try:
                file = safe_open(self.path, framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{self.path} is not a sound safetensors file: {error}") from error
            if decode_header(file.metadata() or {}) != self.header:  # rows would be cut to the old counts
                file.__exit__(None, None, None)
                raise ValueError(f"{self.path} was written anew since it was opened; open it again")
            self._file = file
        return self._file

    def _block_boxes(self, node_type: str) -> np.ndarray:
        """Bounding boxes of the blocks of one node type, read once."""
        if node_type not in self._boxes:
            self._boxes[node_type] = self._open().get_tensor(f"{node_type}.block_bbox").numpy().copy()
        return self._boxes[node_type]

    def _check_types(self, node_types: Iterable[str], relations: Iterable[EdgeType]) -> None:
        """Check that types and relations are in the file."""
        for name in node_types:
            if name not in self.node_types:
                raise ValueError(f"{self.path}: no node type {name!r}; the file has {self.node_types}")
        for relation in relations:
            if tuple(relation) not in self.relations:
                raise ValueError(f"{self.path}: no relation {relation!r}; the file has {self.relations}")

    def _read(
        self,
        box: Box | None,
        node_types: Iterable[str] | None,
        relations: Iterable[EdgeType] | None,
        chosen: "Mapping[str, Rows] | None" = None,
    ) -> Graph:
        """Read the selected types and relations, whole, within a box, or at chosen rows."""
        names = self.node_types if node_types is None else list(node_types)
        if relations is None:
            keys = [key for key in self.relations if key[0] in names and key[2] in names]
        else:
            keys = [tuple(key) for key in relations]  # type: ignore[misc]
        self._check_types(names, keys)
        self._check_types([end for key in keys for end in (key[0], key[2])], [])
        ends = {*names, *(end for key in keys for end in (key[0], key[2]))}
        rows = {name: (chosen or {}).get(name) or self._select(name, box) for name in ends}
        graph: Graph = HeteroData() if self.is_hetero else Data()
        for name in names:
            store = graph[name] if self.is_hetero else graph
            self._read_nodes(store, name, rows[name])
        for key in keys:
            store = graph[key] if self.is_hetero else graph
            self._read_edges(store, key, rows[key[0]], rows[key[2]])
        self._read_rest(graph, names, keys)
        if box is not None:
            graph.window = box
        return graph

    def _select(self, node_type: str, box: Box | None) -> "Rows":
        """Rows of one node type inside a box."""
        count = self.header["num_nodes"][node_type]
        if box is None:
            return Rows([(0, count)], None)
        size = int(self.header["block_size"])
        boxes = self._block_boxes(node_type)
        x_min, y_min, x_max, y_max = box
        hit = (boxes[:, 2] >= x_min) & (boxes[:, 0] < x_max) & (boxes[:, 3] >= y_min) & (boxes[:, 1] < y_max)
        ranges = [(first * size, min(last * size, count)) for first, last in _runs(hit)]
        pos = self._take(f"{node_type}.pos", ranges).double().numpy()
        inside = inside_box(pos, box)
        rows = (
            np.concatenate([np.arange(*item) for item in ranges]) if ranges else np.zeros(0, dtype=np.int64)
        )
        return Rows(ranges, inside, rows[inside])

    def _take(self, name: str, ranges: list[tuple[int, int]], dim: int = 0) -> torch.Tensor:
        """Read ranges of rows (or, with ``dim=1``, of columns) of one tensor, end to end, into new memory."""
        part = self._open().get_slice(name)
        if dim == 0:
            pieces = [part[start:stop] for start, stop in ranges]
        else:
            pieces = [part[:, start:stop] for start, stop in ranges]
        return torch.cat(pieces, dim=dim) if pieces else (part[0:0] if dim == 0 else part[:, 0:0]).clone()

    def _read_nodes(self, store: Any, name: str, rows: "Rows") -> None:
        """Fill the node fields of one type."""
        for field in self.header["node_fields"][name]:
            if field == "id" and name in self.header["text_ids"]:
                value: Any = self._read_text(name, rows)
            else:
                value = self._take(f"{name}.{field}", rows.ranges)
                if rows.inside is not None:
                    value = value[torch.from_numpy(rows.inside)]
            setattr(store, field, value)
        store.feature_names = list(self.header["feature_names"][name])

    def _read_text(self, name: str, rows: "Rows") -> list[str]:
        """Read string ids."""
        ids: list[str] = []
        offsets, text = self._open().get_slice(f"{name}.id_offset"), self._open().get_slice(f"{name}.id_text")
        for start, stop in rows.ranges:
            offset = offsets[start : stop + 1]
            ids += decode_text(text[int(offset[0]) : int(offset[-1])], offset)
        return ids if rows.inside is None else [ids[row] for row in np.flatnonzero(rows.inside)]

    def _read_edges(self, store: Any, edge_type: EdgeType, source: "Rows", target: "Rows") -> None:
        """Fill the edge fields of one relation, keeping edges whose two ends are inside."""
        name = edge_key(edge_type)
        if source.inside is None:
            ranges = [(0, self.header["num_edges"][name])]
            store.edge_index = self._take(f"{name}.edge_index", ranges, dim=1)
            keep = None
        else:
            pointer = self._open().get_slice(f"{name}.edge_ptr")
            pointers = [pointer[start : stop + 1].numpy() for start, stop in source.ranges]
            ranges = [(int(item[0]), int(item[-1])) for item in pointers]
            degree = [np.diff(item) for item in pointers]
            ends = self._take(f"{name}.edge_index", ranges, dim=1)[1].numpy()
            per_row = np.concatenate(degree) if degree else np.zeros(0, dtype=np.int64)
            number = np.cumsum(source.inside) - 1  # new row of each row read, where it is inside
            local_target, found = target.find(ends)
            kept = np.repeat(source.inside, per_row) & found
            edge_index = np.stack([np.repeat(number, per_row)[kept], local_target[kept]])
            store.edge_index = torch.from_numpy(edge_index)
            keep = torch.from_numpy(kept)
        for field in self.header["edge_fields"][name]:
            value = self._take(f"{name}.{field}", ranges)
            setattr(store, field, value if keep is None else value[keep])
        store.edge_attr_names = list(self.header["edge_attr_names"][name])

    def _read_rest(self, graph: Graph, names: list[str], keys: list[EdgeType]) -> None:
        """Fill what belongs to the graph, or to a type as a whole."""
        graph.slide_id = self.header["slide_id"]
        graph.mpp = self.header["mpp"]
        if self.header["provenance"] is not None:
            graph.provenance = copy.deepcopy(self.header["provenance"])
        prefixes: dict[str, Any] = {GRAPH: graph}
        if self.is_hetero:
            prefixes |= {name: graph[name] for name in names} | {edge_key(key): graph[key] for key in keys}
        for prefix, values in self.header["attributes"].items():
            if prefix in prefixes:
                for field, value in values.items():
                    setattr(prefixes[prefix], field, value)
        done = {
            f"{name}.{field}"
            for name in self.node_types
            for field in (*self.header["node_fields"][name], "id_text", "id_offset", "block_bbox")
        } | {
            f"{name}.{field}"
            for name in self.header["num_edges"]
            for field in (*self.header["edge_fields"][name], "edge_index", "edge_ptr")
        }
        for tensor in sorted(set(self._open().keys()) - done):
            prefix, field = tensor.split(".", 1)
            if prefix in prefixes:
                setattr(prefixes[prefix], field, self._open().get_tensor(tensor).clone())


class Rows:
    """Rows of one node type: the contiguous ranges read, and which of the rows read are wanted.

    Parameters
    ----------
    ranges : list of tuple of int
        Half-open ranges of rows, ascending.
    inside : ndarray, optional
        One bool for each row read; None for all.
    rows : ndarray, optional
        The wanted rows, ascending; None for all.

    Examples
    --------
    >>> Rows([(4, 7)], np.array([True, False, True]), np.array([4, 6])).find(np.array([6, 5]))
    (array([1, 1]), array([ True, False]))
    """

    def __init__(
        self, ranges: list[tuple[int, int]], inside: np.ndarray | None, rows: np.ndarray | None = None
    ) -> None:
        self.ranges, self.inside, self.rows = ranges, inside, rows

    def find(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place of each row among the wanted rows, and whether it is one of them."""
        if self.rows is None:
            return ends, np.ones(len(ends), dtype=bool)
        if not len(self.rows):
            return np.zeros(len(ends), dtype=np.int64), np.zeros(len(ends), dtype=bool)
        place = np.minimum(np.searchsorted(self.rows, ends), len(self.rows) - 1)
        return place, self.rows[place] == ends


def _rows_of(rows: np.ndarray) -> Rows:
    """Ranges that hold some rows; those with a few other rows in between are read as one."""
    cuts = np.flatnonzero(np.diff(rows) > _GAP)
    first, last = np.append(0, cuts + 1), np.append(cuts, len(rows) - 1)
    ranges = [
        (int(rows[low]), int(rows[high]) + 1) for low, high in zip(first, last, strict=True) if len(rows)
    ]
    read = np.concatenate([np.arange(*item) for item in ranges]) if ranges else np.zeros(0, dtype=np.int64)
    return Rows(ranges, np.isin(read, rows, assume_unique=True), rows)


def _runs(hit: np.ndarray) -> list[tuple[int, int]]:
    """Half-open runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hit.astype(np.int8), [0]])))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _edge_type(key: str) -> EdgeType:
    """Turn the file's name of a relation into the PyG edge type."""
    source, name, target = key.split("|")
    return source, name, target
