"""The one table of what a graph holds, and the validator that says what is wrong with one.

A graph of one kind of entity is a plain ``torch_geometric.data.Data``, a slide with several kinds a plain
``HeteroData``. This module lists the fields, node types and relations they carry as data, so that everything
that reads or writes a graph asks the same table.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch_geometric.data import Data, HeteroData
from torch_geometric.data.storage import BaseStorage

Graph: TypeAlias = Data | HeteroData
EdgeType: TypeAlias = tuple[str, str, str]

# Edges checked at once when lengths are compared with positions: bounds the memory on graphs of 10^7 edges.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Field:
    """One field of a graph: what it is called, its shape and type, and what it means.

    Parameters
    ----------
    name : str
        Attribute name on the PyG store.
    shape, dtype : str
        Shape and type in words, as printed in the documentation.
    meaning : str
        One sentence, with the unit.
    required : bool
        Whether `validate` insists on it.

    Examples
    --------
    >>> NODE_FIELDS["pos"].shape
    '(N, 2)'
    """

    name: str
    shape: str
    dtype: str
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Relation:
    """One relation of the hierarchy of entities.

    Parameters
    ----------
    source, name, target : str
        The PyG edge type ``(source, name, target)``.
    meaning : str
        One sentence.

    Examples
    --------
    >>> RELATIONS["cell", "near", "cell"].undirected, RELATIONS["cell", "in", "tissue"].undirected
    (True, False)
    """

    source: str
    name: str
    target: str
    meaning: str

    @property
    def edge_type(self) -> EdgeType:
        """The PyG key, e.g. ``("cell", "near", "cell")``."""
        return self.source, self.name, self.target

    @property
    def undirected(self) -> bool:
        """Whether both directions of every edge are stored: true within one node type."""
        return self.source == self.target


NODE_TYPES: dict[str, str] = {
    "cell": "a nucleus, at its centroid",
    "tissue": "a superpixel of similar colour, at its centroid",
    "patch": "a square of tissue, at its centre",
    "region": "a large square that holds many patches, at its centre",
}

NODE_FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("x", "(N, F)", "float32", "node features, in the order of feature_names"),
        Field("pos", "(N, 2)", "float32", "micrometres, x then y, from the top-left of the level-0 canvas"),
        Field(
            "id", "(N,)", "int64 or str", "stable, unique entity id; joins are made on it, never on position"
        ),
        Field("feature_names", "(F,)", "list of str", "one name for each column of x"),
        Field("area_um2", "(N,)", "float32", "area in square micrometres", required=False),
        Field("bbox", "(N, 4)", "float32", "x_min, y_min, x_max, y_max in micrometres", required=False),
        Field("latent", "(N, L)", "float16", "latent of the image around each node", required=False),
        Field("y", "(N,) or (1,)", "any", "supervision of the nodes, or of the whole graph", required=False),
        Field("label", "(N,)", "int64", "type of each entity, a row of label_names, or -1", required=False),
        Field("label_names", "(K,)", "list of str", "names of the types of entities", required=False),
    )
}

EDGE_FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field(
            "edge_index", "(2, E)", "int64", "source and target rows, sorted by source, without self loops"
        ),
        Field("edge_attr", "(E, D)", "float32", "edge attributes; the first is the length in micrometres"),
        Field("edge_attr_names", "(D,)", "list of str", "one name for each column of edge_attr"),
        Field(
            "edge_latent",
            "(E, L)",
            "float16",
            "latent of the image halfway along each edge, the same in both directions",
            required=False,
        ),
    )
}

GRAPH_FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("slide_id", "", "str", "the slide that the graph was built from"),
        Field("mpp", "(2,)", "float", "micrometres per level-0 pixel, x then y"),
        Field("provenance", "", "dict", "parameters, package versions and time of building", required=False),
    )
}

RELATIONS: dict[EdgeType, Relation] = {
    relation.edge_type: relation
    for relation in (
        Relation("cell", "near", "cell", "neighbours within reach: Delaunay, k nearest or radius"),
        Relation("cell", "touches", "cell", "instances whose outlines meet, or come closer than a gap"),
        Relation("tissue", "touches", "tissue", "superpixels that share a border"),
        Relation("patch", "next_to", "patch", "the eight neighbours on the grid"),
        Relation("region", "next_to", "region", "the eight neighbours on the grid"),
        Relation("cell", "in", "tissue", "the superpixel under the cell's centroid"),
        Relation("cell", "in", "patch", "the patch under the cell's centroid"),
        Relation("patch", "in", "region", "the region under the patch's centre"),
    )
}


def validate(graph: Graph) -> None:
    """Say in one sentence what is wrong with a graph, as a `ValueError`; return None when it is sound.

    Empty graphs (no tissue, no nuclei) are sound. Relations within one node type are undirected: both
    directions must be there. Relations between two types, such as ``("cell", "in", "tissue")``, are directed,
    and ``"in"`` gives each source at most one target. Types outside the table are held to the same rules.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        The graph; positions and the first edge attribute in micrometres.

    Raises
    ------
    ValueError
        The first rule that the graph breaks, where it breaks it, and what was expected.
    TypeError
        `graph` is neither a `Data` nor a `HeteroData`.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     x=torch.zeros(2, 1), pos=torch.tensor([[0.0, 0.0], [3.0, 4.0]]), id=torch.tensor([7, 9]),
    ...     edge_index=torch.tensor([[0, 1], [1, 0]]), edge_attr=torch.tensor([[5.0], [5.0]]),
    ...     feature_names=["area"], edge_attr_names=["length"], slide_id="s", mpp=(0.5, 0.5),
    ... )
    >>> validate(graph)
    >>> graph.edge_index = torch.tensor([[0], [1]])
    >>> graph.edge_attr = torch.tensor([[5.0]])
    >>> validate(graph)
    Traceback (most recent call last):
    ...
    ValueError: graph: edge 0 -> 1 has no reverse edge 1 -> 0; ...
    """
    if isinstance(graph, HeteroData):
        _check_graph_fields(graph)
        for name, store in graph.node_items():
            _check_nodes(store, name)
        for edge_type, store in graph.edge_items():
            _check_relation(graph, edge_type, store)
    elif isinstance(graph, Data):
        _check_graph_fields(graph)
        _check_nodes(graph._store, "graph")
        _check_edges(graph._store, "graph", graph.pos, graph.pos, undirected=True, single_target=False)
    else:
        raise TypeError(
            f"graph: expected a torch_geometric Data or HeteroData, found {type(graph).__name__}; "
            "histograph.graphs.load reads one from a file"
        )


def _check_graph_fields(graph: Graph) -> None:
    """Check slide_id, mpp and provenance."""
    slide_id = getattr(graph, "slide_id", None)
    if not isinstance(slide_id, str) or not slide_id:
        raise ValueError(
            f"graph: slide_id must be a non-empty string, found {slide_id!r}; set graph.slide_id"
        )
    mpp = getattr(graph, "mpp", None)
    if mpp is None:
        raise ValueError("graph: mpp is missing; set graph.mpp = (x, y) in micrometres per level-0 pixel")
    values = (
        np.asarray(mpp, dtype=np.float64)
        if isinstance(mpp, (tuple, list, np.ndarray, torch.Tensor))
        else None
    )
    if values is None or values.shape != (2,) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(
            f"graph: mpp must be two positive numbers (x, y) in micrometres per level-0 pixel, found {mpp!r}"
        )
    provenance = getattr(graph, "provenance", None)
    if provenance is not None and not isinstance(provenance, dict):
        raise ValueError(f"graph: provenance must be a dict, found {type(provenance).__name__}")


def _tensor(
    store: BaseStorage, name: str, where: str, dtype: torch.dtype, ndim: int, shape: str
) -> torch.Tensor:
    """Return one tensor field after checking that it is there, of the right type and the right rank."""
    value = store.get(name)
    if value is None:
        raise ValueError(f"{where}: {name} is missing; expected a {shape} {dtype} tensor")
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{where}: {name} must be a {shape} {dtype} tensor, found {type(value).__name__}")
    if value.dtype != dtype:
        raise ValueError(
            f"{where}: {name} must be {dtype}, found {value.dtype}; convert it with .to({dtype})"
        )
    if value.dim() != ndim:
        raise ValueError(f"{where}: {name} must have shape {shape}, found {tuple(value.shape)}")
    return value


def _check_finite(value: torch.Tensor, name: str, where: str) -> None:
    """Check that a 2-D float tensor holds no NaN and no infinity."""
    bad = ~torch.isfinite(value).all(dim=1)
    if bad.any():
        raise ValueError(
            f"{where}: {name} holds NaN or infinity in {int(bad.sum())} rows, first in row "
            f"{int(bad.nonzero()[0])}"
        )


def _check_latent(store: BaseStorage, name: str, where: str, count: int, rows: str) -> None:
    """Check the latents of nodes or edges, where there are any: one finite float16 row each."""
    if store.get(name) is None:
        return
    latent = _tensor(store, name, where, torch.float16, 2, "(rows, L)")
    if latent.shape[0] != count:
        raise ValueError(
            f"{where}: {name} has {latent.shape[0]} rows but there are {count} {rows}; "
            "make it again with histograph.add_latents"
        )
    _check_finite(latent, name, where)


def _check_names(store: BaseStorage, name: str, where: str, width: int, of: str) -> list[str]:
    """Check that a list of names exists, is unique, and has one name a column."""
    names = store.get(name)
    if not isinstance(names, (list, tuple)) or not all(isinstance(item, str) for item in names):
        raise ValueError(
            f"{where}: {name} must be a list of {width} strings, one for each column of {of}, found {names!r}"
        )
    if len(names) != width:
        raise ValueError(f"{where}: {name} has {len(names)} names but {of} has {width} columns")
    if len(set(names)) != width:
        twice = sorted({item for item in names if names.count(item) > 1})
        raise ValueError(f"{where}: {name} repeats {', '.join(twice)}; column names must be unique")
    return list(names)


def _check_nodes(store: BaseStorage, where: str) -> None:
    """Check the fields of one node type."""
    pos = _tensor(store, "pos", where, torch.float32, 2, "(N, 2)")
    if pos.shape[1] != 2:
        raise ValueError(
            f"{where}: pos must have shape (N, 2), x then y in micrometres, found {tuple(pos.shape)}"
        )
    _check_finite(pos, "pos", where)
    x = _tensor(store, "x", where, torch.float32, 2, "(N, F)")
    if x.shape[0] != pos.shape[0]:
        raise ValueError(
            f"{where}: x has {x.shape[0]} rows but pos has {pos.shape[0]}; each node needs one row of both"
        )
    _check_finite(x, "x", where)
    _check_names(store, "feature_names", where, x.shape[1], "x")
    _check_ids(store.get("id"), where, pos.shape[0])
    _check_latent(store, "latent", where, pos.shape[0], "nodes")


def _check_ids(ids: object, where: str, count: int) -> None:
    """Check that ids are int64 or strings, one a node, and unique."""
    if ids is None:
        raise ValueError(f"{where}: id is missing; give each node a unique id, e.g. torch.arange({count})")
    if isinstance(ids, torch.Tensor):
        if ids.dtype != torch.int64 or ids.dim() != 1:
            raise ValueError(
                f"{where}: id must be a (N,) int64 tensor or a list of str, found {ids.dtype} "
                f"{tuple(ids.shape)}"
            )
        distinct = int(torch.unique(ids).numel())
    elif isinstance(ids, (list, tuple)) and all(isinstance(item, str) for item in ids):
        distinct = len(set(ids))
    else:
        raise ValueError(
            f"{where}: id must be a (N,) int64 tensor or a list of str, found {type(ids).__name__}"
        )
    if len(ids) != count:
        raise ValueError(f"{where}: id has {len(ids)} entries but there are {count} nodes")
    if distinct != count:
        raise ValueError(f"{where}: id is not unique: {count} nodes share {distinct} ids")


def _check_relation(graph: HeteroData, edge_type: EdgeType, store: BaseStorage) -> None:
    """Check one relation of a HeteroData against its two node types."""
    source, name, target = edge_type
    where = "|".join(edge_type)
    for end in (source, target):
        if end not in graph.node_types or graph[end].get("pos") is None:
            raise ValueError(
                f"{where}: node type {end!r} has no nodes in the graph (there are {graph.node_types})"
            )
    _check_edges(
        store,
        where,
        graph[source].pos,
        graph[target].pos,
        undirected=source == target,
        single_target=name == "in",
    )


def _check_edges(
    store: BaseStorage,
    where: str,
    source_pos: torch.Tensor,
    target_pos: torch.Tensor,
    undirected: bool,
    single_target: bool,
) -> None:
    """Check the fields of one relation: range, order, loops, symmetry, attributes, lengths."""
    edge_index = _tensor(store, "edge_index", where, torch.int64, 2, "(2, E)")
    if edge_index.shape[0] != 2:
        raise ValueError(f"{where}: edge_index must have shape (2, E), found {tuple(edge_index.shape)}")
    edge_attr = _tensor(store, "edge_attr", where, torch.float32, 2, "(E, D)")
    if edge_attr.shape[0] != edge_index.shape[1]:
        raise ValueError(
            f"{where}: edge_attr has {edge_attr.shape[0]} rows but edge_index has {edge_index.shape[1]} edges"
        )
    names = _check_names(store, "edge_attr_names", where, edge_attr.shape[1], "edge_attr")
    if not names or names[0] != "length":
        raise ValueError(
            f"{where}: the first edge attribute must be 'length' (micrometres), found {names[:1]}"
        )
    source, target = edge_index.detach().cpu().numpy()
    _check_range(source, len(source_pos), where, "source")
    _check_range(target, len(target_pos), where, "target")
    _check_order(source, target, len(target_pos), where)
    if undirected:
        _check_symmetry(source, target, len(source_pos), where)
    if single_target and len(source) and not (np.diff(source) > 0).all():
        row = int(source[1:][np.diff(source) == 0][0])
        raise ValueError(f"{where}: node {row} has several targets; 'in' gives each source at most one")
    _check_finite(edge_attr, "edge_attr", where)
    _check_latent(store, "edge_latent", where, edge_index.shape[1], "edges")
    _check_lengths(edge_attr[:, 0], edge_index, source_pos, target_pos, where)


def _check_range(rows: np.ndarray, count: int, where: str, end: str) -> None:
    """Check that all rows are in [0, count)."""
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        bad = rows.min() if rows.min() < 0 else rows.max()
        raise ValueError(f"{where}: edge_index holds {end} {bad}, out of range for {count} nodes")


def _check_order(source: np.ndarray, target: np.ndarray, width: int, where: str) -> None:
    """Check that edges are sorted by source and that none is there twice."""
    steps = np.diff(source)
    if (steps < 0).any():
        edge = int(np.flatnonzero(steps < 0)[0]) + 1
        raise ValueError(
            f"{where}: edge_index is not sorted by source (edge {edge}: {source[edge - 1]} then "
            f"{source[edge]}); sort it with torch_geometric.utils.coalesce"
        )
    key = source * max(width, 1) + target
    if (
        np.diff(key) <= 0
    ).any():  # not sorted by target too, which is allowed: look for duplicates the long way
        key = np.sort(key)
        twice = np.flatnonzero(np.diff(key) == 0)
        if len(twice):
            first, second = divmod(int(key[twice[0]]), max(width, 1))
            raise ValueError(f"{where}: edge {first} -> {second} is stored more than once")


def _check_symmetry(source: np.ndarray, target: np.ndarray, count: int, where: str) -> None:
    """Check that there are no self loops and that every edge has its reverse, in linear time."""
    loops = np.flatnonzero(source == target)
    if len(loops):
        raise ValueError(f"{where}: {len(loops)} self loops, first at node {source[loops[0]]}; remove them")
    matrix = sparse.csr_array((np.ones(len(source), dtype=np.int8), (source, target)), shape=(count, count))
    lonely = (matrix - matrix.T.tocsr()).tocoo()
    lonely = sparse.coo_array(lonely)
    missing = np.flatnonzero(lonely.data > 0)
    if len(missing):
        row, column = int(lonely.coords[0][missing[0]]), int(lonely.coords[1][missing[0]])
        raise ValueError(
            f"{where}: edge {row} -> {column} has no reverse edge {column} -> {row}; relations within one "
            "node type store both directions (torch_geometric.utils.to_undirected)"
        )


def _check_lengths(
    length: torch.Tensor,
    edge_index: torch.Tensor,
    source_pos: torch.Tensor,
    target_pos: torch.Tensor,
    where: str,
) -> None:
    """Check that the first edge attribute is the distance of the two ends, up to float32 rounding."""
    far = max((float(pos.abs().max()) for pos in (source_pos, target_pos) if pos.numel()), default=0.0)
    tolerance = 0.01 + 8.0 * float(np.finfo(np.float32).eps) * far
    for start in range(0, edge_index.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        if (length[part] < 0).any():
            edge = start + int((length[part] < 0).nonzero()[0])
            raise ValueError(f"{where}: edge {edge} has the negative length {float(length[edge]):.6g} µm")
        steps = target_pos[edge_index[1, part]].double() - source_pos[edge_index[0, part]].double()
        distance = torch.linalg.vector_norm(steps, dim=1)
        wrong = (distance - length[part].double()).abs() > tolerance + 1e-4 * distance
        if wrong.any():
            edge = int(wrong.nonzero()[0])
            raise ValueError(
                f"{where}: edge {start + edge} has length {float(length[start + edge]):.6g} but its ends lie "
                f"{float(distance[edge]):.6g} µm apart; the first edge attribute is the length in micrometres"
            )
