"""Graphs of many slides as one dataset: whole graphs, or spatial windows read from disk on demand."""

import copy
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Data, HeteroData

from histograph.graphs.fields import (
    EDGE_DEFAULT,
    NODE_DEFAULT,
    as_fields,
    column_names,
    join_fields,
    store_columns,
)
from histograph.graphs.graph_file import GraphFile
from histograph.graphs.labels import join_labels
from histograph.graphs.layer import layer, pick_node_type, pick_relation
from histograph.graphs.manifest import listed_files
from histograph.graphs.order import EDGE, NODE, edge_stores, node_stores
from histograph.graphs.schema import EdgeType, Graph, validate
from histograph.graphs.window import Box, crop, tiling

Names: TypeAlias = list[str] | dict[Any, list[str]]
# Open files kept mapped at once: far below any limit on file handles, far above what a batch touches.
_OPEN_FILES = 32
# What of a file's header decides which items a dataset has, and what they look like.
_PROMISED = ("num_nodes", "num_edges", "feature_names", "edge_attr_names")


@dataclass(frozen=True)
class _Slide:
    """One slide of a dataset: where its graph is, and what the items made from it look like."""

    source: Path | Data | HeteroData
    slide_id: str
    count: int
    node_type: str | None
    relation: EdgeType | None
    feature_names: Names
    edge_attr_names: Names

    @property
    def name(self) -> str:
        """What errors call the slide."""
        return str(self.source) if isinstance(self.source, Path) else f"the graph of slide {self.slide_id!r}"


class GraphDataset(Dataset):
    """The graphs of a folder, of files or in memory: whole slides, or the windows of a tiling of each slide.

    Items carry ``slide_id``, ``mpp``, ``window`` and, with labels, ``y`` of shape (1,). They carry no
    provenance: `torch_geometric.data.Batch` would try to batch it; `GraphFile` has it in its header.

    Files are read when an item is asked for, a window without the rest of its slide. A pickled dataset
    opens its files anew, so that torch's `DataLoader` workers can use it.

    Parameters
    ----------
    graphs : str, os.PathLike, or sequence of paths or graphs
        A folder (its graph files, but those that its ``manifest.parquet`` calls failed), one file, or a list of
        files or of graphs in memory.
    node_type : str, optional
        Hand out this layer as `Data`; left out, the graphs come as they are.
    relation : str or tuple of str, optional
        With `node_type`: the relation of the layer; see `layer` for the default.
    window_um : float or (float, float), optional
        Width and height in micrometres of the windows that tile each slide from the canvas origin; whole
        graphs if left out. A node is in exactly one window.
    min_nodes : int
        Leave out windows (or whole graphs) with fewer nodes of `node_type`, or of all types together; at
        least 1 for windows, 0 or more for whole graphs. Default 1.
    labels : mapping, pandas.DataFrame, str or os.PathLike, optional
        ``slide_id -> label``, or a table or CSV file with columns ``slide_id`` and ``label``; joined on ids.
        Strings become class numbers in the order of `classes`.
    node_fields, edge_fields : tuple of str
        Fields that make up ``x`` and ``edge_attr`` of the items, side by side as float32, for example
        ``("x", "latent")`` and ``("edge_attr", "edge_latent")``; see `histograph.add_latents`. Other than the
        defaults only for items of one layer.

    Attributes
    ----------
    left_out : list of str
        Slides without any item, for want of nodes.
    slide_ids : list of str
        Slide of each item.
    windows : list of (float, float, float, float) or None
        Window of each item, x_min, y_min, x_max, y_max in micrometres; None for whole graphs.
    y : ndarray or None
        Label of each item; without `labels`, the graphs' own ``y`` where each has one value.
    classes : list of str or None
        Names of the class numbers in `y`, where labels were strings.
    node_dim, edge_dim : int or dict
        Number of node features and of edge attributes; a dict by type for graphs of several types.
    feature_names, edge_attr_names : list of str or dict
        Their names; a dict by type for graphs of several types.

    Raises
    ------
    FileNotFoundError
        The folder or a file is missing, or the folder holds no graph.
    ValueError
        Two graphs differ in features or edge attributes, have one slide_id, or lack a label or a field.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     x=torch.zeros(2, 1), pos=torch.tensor([[10.0, 10.0], [90.0, 10.0]]), id=torch.tensor([7, 9]),
    ...     edge_index=torch.tensor([[0, 1], [1, 0]]), edge_attr=torch.tensor([[80.0], [80.0]]),
    ...     feature_names=["area"], edge_attr_names=["length"], slide_id="s", mpp=(0.5, 0.5),
    ... )
    >>> data = GraphDataset([graph], window_um=50, labels={"s": 1})
    >>> len(data), data[0].id.tolist(), data.windows[1], data.y.tolist()
    (2, [7], (50.0, 0.0, 100.0, 50.0), [1, 1])
    """

    def __init__(
        self,
        graphs: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Graph],
        node_type: str | None = None,
        relation: str | EdgeType | None = None,
        window_um: float | tuple[float, float] | None = None,
        min_nodes: int = 1,
        labels: Mapping[str, Any] | pd.DataFrame | str | os.PathLike[str] | None = None,
        node_fields: Sequence[str] = NODE_DEFAULT,
        edge_fields: Sequence[str] = EDGE_DEFAULT,
    ) -> None:
        if relation is not None and node_type is None:
            raise ValueError("relation: give node_type too, the layer that the relation belongs to")
        if min_nodes < (0 if window_um is None else 1):
            raise ValueError(f"min_nodes: expected 1 or more (0 for whole graphs), found {min_nodes}")
        self._files: OrderedDict[Path, GraphFile] = OrderedDict()
        self._codes: dict[Path, str] = {}
        self._fields = as_fields(node_fields, "node_fields"), as_fields(edge_fields, "edge_fields")
        described = (self._describe(source, node_type, relation) for source in _sources(graphs))
        self._slides = [self._with_fields(slide) for slide in described]
        _check_alike(self._slides)
        self._index: list[tuple[int, Box | None]] = []
        for number, slide in enumerate(self._slides):
            boxes: Sequence[Box | None] = [None] if slide.count >= min_nodes else []
            if window_um is not None:
                size = (window_um, window_um) if isinstance(window_um, (int, float, np.number)) else window_um
                boxes = tiling(self._pos(slide), size, min_nodes)
            self._index += [(number, box) for box in boxes]
        kept = {number for number, _ in self._index}
        self.left_out = [slide.slide_id for row, slide in enumerate(self._slides) if row not in kept]
        self.y: np.ndarray | None = None
        self.classes: list[str] | None = None
        y: np.ndarray | None
        if labels is not None:
            y, self.classes = join_labels(labels, [slide.slide_id for slide in self._slides])
        else:
            y = self._own_labels()
        if y is not None:
            self.y = y[[number for number, _ in self._index]]

    @property
    def slide_ids(self) -> list[str]:
        """Slide of each item."""
        return [self._slides[number].slide_id for number, _ in self._index]

    @property
    def windows(self) -> list[Box | None]:
        """Window of each item in micrometres, or None for whole graphs."""
        return [box for _, box in self._index]

    @property
    def paths(self) -> list[Path | None]:
        """File of each item, or None for graphs in memory."""
        found = (self._slides[number].source for number, _ in self._index)
        return [item if isinstance(item, Path) else None for item in found]

    @property
    def feature_names(self) -> Names:
        """Names of the node features, by type for graphs of several types."""
        return self._slides[0].feature_names

    @property
    def edge_attr_names(self) -> Names:
        """Names of the edge attributes, by relation for graphs of several types."""
        return self._slides[0].edge_attr_names

    @property
    def node_dim(self) -> Any:
        """Number of node features, by type for graphs of several types."""
        return _widths(self.feature_names)

    @property
    def edge_dim(self) -> Any:
        """Number of edge attributes, by relation for graphs of several types."""
        return _widths(self.edge_attr_names)

    def __len__(self) -> int:
        """Count the items."""
        return len(self._index)

    def __getitem__(self, index: Any) -> Any:
        """Give one item for a whole number, a dataset for a slice, a list of rows or a mask."""
        if isinstance(index, (int, np.integer)):
            return self._item(range(len(self))[index])
        if isinstance(index, slice):
            return self._subset(np.arange(len(self))[index])
        rows = np.asarray(index)
        whole = rows.size == 0 or rows.dtype.kind in "iub"
        if rows.ndim != 1 or not whole or (rows.dtype == bool and len(rows) != len(self)):
            raise IndexError(
                f"index: expected a number, a slice, rows or a mask of {len(self)}, found {index!r}"
            )
        return self._subset(np.arange(len(self))[rows if rows.dtype == bool else rows.astype(np.int64)])

    def __iter__(self) -> Iterator[Graph]:
        """Give the items one after another."""
        return (self._item(row) for row in range(len(self)))

    def __repr__(self) -> str:
        """Count items and slides."""
        kind = "graphs" if all(box is None for box in self.windows) else "windows"
        return f"GraphDataset({len(self)} {kind} of {len(set(self.slide_ids))} slides)"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without open files."""
        return {**self.__dict__, "_files": OrderedDict()}

    def close(self) -> None:
        """Close the files that are open; they are opened again when needed."""
        while self._files:
            self._files.popitem()[1].close()

    def _subset(self, rows: np.ndarray) -> "GraphDataset":
        """Make a dataset of some items."""
        result = object.__new__(GraphDataset)
        result.__dict__.update(self.__getstate__())
        result._index = [self._index[row] for row in rows]
        result.y = None if self.y is None else self.y[rows]
        return result

    def _open(self, path: Path) -> GraphFile:
        """Open a file, or take it from the few that are open."""
        if path not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            file = GraphFile(path)
            promised = {key: file.header[key] for key in _PROMISED}
            code = hashlib.sha256(json.dumps(promised).encode()).hexdigest()[:16]
            if self._codes.setdefault(path, code) != code:
                raise ValueError(
                    f"{path} was written anew since the dataset was made, with other nodes, edges or columns; make "
                    "the GraphDataset again"
                )
            self._files[path] = file
        self._files.move_to_end(path)
        return self._files[path]

    def _describe(
        self, source: Path | Data | HeteroData, node_type: str | None, relation: str | EdgeType | None
    ) -> _Slide:
        """Read what is needed to list the items of one slide, and check that the layer asked for is there."""
        features: dict[Any, list[str]]
        edges: dict[Any, list[str]]
        if isinstance(source, Path):
            file = self._open(source)
            hetero, slide_id, counts = file.is_hetero, file.slide_id, file.num_nodes()
            features = dict(file.header["feature_names"])
            edges = dict(zip(file.relations, file.header["edge_attr_names"].values(), strict=True))
        else:
            validate(source)
            hetero, slide_id = isinstance(source, HeteroData), source.slide_id
            counts = {name: len(store["pos"]) for name, store in node_stores(source).items()}
            features = {name: list(store["feature_names"]) for name, store in node_stores(source).items()}
            edges = {key: list(store["edge_attr_names"]) for key, store in edge_stores(source).items()}
        if not hetero:
            (names,), (attributes,) = features.values(), edges.values()
            return _Slide(source, slide_id, sum(counts.values()), None, None, names, attributes)
        if node_type is None:
            return _Slide(source, slide_id, sum(counts.values()), None, None, features, edges)
        try:
            pick_node_type(list(features), node_type)
            edge_type = pick_relation(list(edges), node_type, relation)
        except ValueError as error:
            raise ValueError(f"{source if isinstance(source, Path) else slide_id}: {error}") from error
        attributes = edges[edge_type] if edge_type else ["length"]
        return _Slide(
            source, slide_id, counts[node_type], node_type, edge_type, features[node_type], attributes
        )

    def _with_fields(self, slide: _Slide) -> _Slide:
        """Name the columns of the items' ``x`` and ``edge_attr`` where they are made up of other fields."""
        if self._fields == (NODE_DEFAULT, EDGE_DEFAULT):
            return slide
        if not isinstance(slide.feature_names, list) or not isinstance(slide.edge_attr_names, list):
            raise ValueError(f"node_fields, edge_fields: {slide.name} has several layers; give node_type too")
        relation = EDGE if slide.node_type is None else slide.relation
        nodes, edges = self._columns(slide, slide.node_type or NODE), self._columns(slide, relation)
        own = {"x": slide.feature_names, "edge_attr": slide.edge_attr_names}
        return replace(
            slide,
            feature_names=column_names(self._fields[0], nodes, own, f"node_fields: {slide.name}"),
            edge_attr_names=column_names(self._fields[1], edges, own, f"edge_fields: {slide.name}"),
        )

    def _columns(self, slide: _Slide, part: str | EdgeType | None) -> dict[str, int]:
        """Fields of a node type or relation and their numbers of columns; those of `layer` without a relation."""
        if part is None:
            return {"edge_attr": 1}
        if isinstance(slide.source, Path):
            return self._open(slide.source).columns(part)
        if isinstance(part, str):
            store = node_stores(slide.source)[part]
            return store_columns(store, len(store["pos"]), "node")
        store = edge_stores(slide.source)[part]
        return store_columns(store, store["edge_index"].shape[1], "edge")

    def _pos(self, slide: _Slide) -> np.ndarray:
        """Positions of the nodes that the items of one slide are made of."""
        if isinstance(slide.source, Path):
            file = self._open(slide.source)
            names = file.node_types if slide.node_type is None else [slide.node_type]
            return np.concatenate([file.pos(name).numpy() for name in names])
        stores = node_stores(slide.source)
        names = list(stores) if slide.node_type is None else [slide.node_type]
        return np.concatenate([stores[name]["pos"].cpu().numpy() for name in names])

    def _own_labels(self) -> np.ndarray | None:
        """Labels that the graphs carry themselves, if each carries exactly one value."""
        values = []
        for slide in self._slides:
            shell = self._open(slide.source).load([], []) if isinstance(slide.source, Path) else slide.source
            y = shell.stores[0].get("y")
            if not isinstance(y, torch.Tensor) or y.numel() != 1:
                return None
            values.append(y.item())
        return np.asarray(values)

    def _item(self, row: int) -> Graph:
        """Read one item."""
        number, box = self._index[row]
        slide = self._slides[number]
        if isinstance(slide.source, Path):
            file = self._open(slide.source)
            names = None if slide.node_type is None else [slide.node_type]
            keys = None if slide.node_type is None else [key for key in (slide.relation,) if key is not None]
            graph = file.load(names, keys) if box is None else file.window(box, names, keys)
        else:
            graph = copy.copy(slide.source) if box is None else crop(slide.source, box)
        if slide.node_type is not None:
            graph = layer(graph, slide.node_type, slide.relation)
        if self._fields != (NODE_DEFAULT, EDGE_DEFAULT):
            store = graph.stores[0]
            graph.x, graph.edge_attr = (join_fields(store, fields) for fields in self._fields)
            graph.feature_names, graph.edge_attr_names = (
                list(slide.feature_names),
                list(slide.edge_attr_names),
            )
        if "provenance" in graph.stores[0]:
            del graph.stores[0]["provenance"]
        if self.y is not None:
            _set_label(graph, self.y[row], slide)
        return graph


def _set_label(graph: Graph, value: Any, slide: _Slide) -> None:
    """Put the slide's label on an item."""
    y = graph.stores[0].get("y")
    if isinstance(graph, Data) and isinstance(y, torch.Tensor) and y.dim() and len(y) == len(graph.pos) > 1:
        raise ValueError(
            f"labels: {slide.name} already has y for each node; rename that field, or leave labels out"
        )
    graph.y = torch.tensor([value], dtype=torch.float32 if value.dtype.kind == "f" else torch.int64)


def _widths(names: Names) -> Any:
    """Count names, by type where they are by type."""
    return len(names) if isinstance(names, list) else {key: len(value) for key, value in names.items()}


def _sources(graphs: Any) -> list[Path | Data | HeteroData]:
    """List the files or graphs that a dataset is made of."""
    if isinstance(graphs, (Data, HeteroData)):
        return [graphs]
    if isinstance(graphs, (str, os.PathLike)):
        path = Path(graphs)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such folder or file")
        found: list[Any] = listed_files(path) if path.is_dir() else [path]
    else:
        found = [item if isinstance(item, (Data, HeteroData)) else Path(item) for item in graphs]
    if not found:
        raise FileNotFoundError(f"{graphs}: no graphs; histograph.build_many writes them, one file a slide")
    return found


def _check_alike(slides: list[_Slide]) -> None:
    """Check that all slides have the same columns, and each a slide_id of its own."""
    first = slides[0]
    seen: dict[str, _Slide] = {}
    for slide in slides:
        if slide.slide_id in seen:
            raise ValueError(
                f"{slide.name} and {seen[slide.slide_id].name} both have slide_id {slide.slide_id!r}; "
                "ids must be unique, labels are joined on them"
            )
        seen[slide.slide_id] = slide
        for field in ("feature_names", "edge_attr_names"):
            ours, theirs = getattr(slide, field), getattr(first, field)
            if ours != theirs:
                raise ValueError(
                    f"{slide.name} and {first.name} differ in {field}: {_difference(ours, theirs)}; build "
                    "them with the same options (patch features: with one encoder), or ask for one layer with "
                    "node_type="
                )


def _difference(ours: Names, theirs: Names) -> str:
    """Say briefly how two sets of names differ."""
    if isinstance(ours, list) and isinstance(theirs, list):
        only = [sorted(set(a) - set(b))[:3] for a, b in ((ours, theirs), (theirs, ours))]
        counts = f"{len(ours)} and {len(theirs)} columns"
        return f"{counts}, only in the first {only[0]}, only in the second {only[1]}"
    if isinstance(ours, dict) and isinstance(theirs, dict) and set(ours) == set(theirs):
        key = next(key for key in ours if ours[key] != theirs[key])
        return f"{key}: {_difference(ours[key], theirs[key])}"
    keys = [sorted(map(str, names)) if isinstance(names, dict) else "one layer" for names in (ours, theirs)]
    return f"{keys[0]} and {keys[1]}"
