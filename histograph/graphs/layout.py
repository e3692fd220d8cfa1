"""The layout of a graph in a file: tensors by name and a header of JSON strings (docs/file-format.md)."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import BaseStorage

from histograph.graphs.order import edge_fields, edge_stores, node_fields, node_stores
from histograph.graphs.schema import GRAPH_FIELDS, EdgeType, Graph

FORMAT = "histograph.graph"
FORMAT_VERSION = "1.0"
BLOCK_SIZE = 1024
GRAPH = "graph"

_PLAIN = ("format", "format_version", "kind", "slide_id")  # header entries that are not JSON
_TUPLES = ("mpp", "window")  # JSON knows lists only; these two are tuples by the schema


def edge_key(edge_type: EdgeType) -> str:
    """Name of a relation in a file: its three parts joined by ``|``.

    Parameters
    ----------
    edge_type : tuple of str
        Source type, relation, target type.

    Returns
    -------
    str
        The prefix of the relation's tensors.

    Examples
    --------
    >>> edge_key(("cell", "near", "cell"))
    'cell|near|cell'
    """
    return "|".join(edge_type)


def encode(graph: Graph) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Turn a graph in storage order into named tensors and header strings.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        A valid graph in the order of `histograph.graphs.order.canonical`.

    Returns
    -------
    tensors : dict of str to Tensor
        Contiguous, on the CPU, no two on the same memory.
    header : dict of str to str
        Plain strings and JSON.

    Raises
    ------
    TypeError
        A field is neither a dense tensor nor plain JSON data.
    ValueError
        A type has a name that tensor names could not be told apart with.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> graph = Data(
    ...     x=torch.zeros(1, 0), pos=torch.zeros(1, 2), id=torch.tensor([3]), feature_names=[], slide_id="s",
    ...     edge_index=torch.zeros(2, 0, dtype=torch.long), edge_attr=torch.zeros(0, 1),
    ...     edge_attr_names=["length"], mpp=(0.5, 0.5),
    ... )
    >>> tensors, header = encode(graph)
    >>> header["kind"], sorted(tensors)[:3]
    ('homogeneous', ['node.block_bbox', 'node.id', 'node.pos'])
    """
    hetero = isinstance(graph, HeteroData)
    shared = graph.stores[0]
    header: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": "hetero" if hetero else "homogeneous",
        "slide_id": graph.slide_id,
        "mpp": [float(value) for value in graph.mpp],
        "provenance": getattr(graph, "provenance", None),
        "block_size": BLOCK_SIZE,
    }
    for name in ("num_nodes", "num_edges", "feature_names", "edge_attr_names", "node_fields", "edge_fields"):
        header[name] = {}
    header["text_ids"], header["attributes"] = [], {}
    tensors: dict[str, torch.Tensor] = {}
    done: dict[str, set[str]] = {GRAPH: set(GRAPH_FIELDS)}
    for name, store in node_stores(graph).items():
        _check_name(name)
        done.setdefault(name if hetero else GRAPH, set()).update(_encode_nodes(name, store, tensors, header))
    for edge_type, store in edge_stores(graph).items():
        for part in edge_type:
            _check_name(part)
        count = len(graph[edge_type[0]].pos if hetero else shared["pos"])
        done.setdefault(edge_key(edge_type) if hetero else GRAPH, set()).update(
            _encode_edges(edge_key(edge_type), store, count, tensors, header)
        )
    stores = {GRAPH: shared}
    if hetero:
        stores |= node_stores(graph) | {edge_key(key): store for key, store in edge_stores(graph).items()}
    for prefix, store in stores.items():
        _encode_rest(prefix, store, done[prefix], tensors, header)
    return _separate(tensors), {
        key: value if key in _PLAIN else _to_json(value, key) for key, value in header.items()
    }


def decode_header(metadata: dict[str, str]) -> dict[str, Any]:
    """Turn the header strings of a file back into Python values.

    Parameters
    ----------
    metadata : dict of str to str
        The metadata of the safetensors file.

    Returns
    -------
    dict
        Header entries; ``mpp`` as a tuple.

    Examples
    --------
    >>> decode_header({"slide_id": "s", "mpp": "[0.5, 0.5]"})
    {'slide_id': 's', 'mpp': (0.5, 0.5)}
    """
    header: dict[str, Any] = {
        key: value if key in _PLAIN else json.loads(value) for key, value in metadata.items()
    }
    for holder in (header, *header.get("attributes", {}).values()):
        for key in _TUPLES:
            if key in holder:
                holder[key] = tuple(holder[key])
    return header


def block_bbox(pos: torch.Tensor, block_size: int = BLOCK_SIZE) -> torch.Tensor:
    """Bounding box of each run of `block_size` nodes in storage order.

    Parameters
    ----------
    pos : Tensor
        (N, 2) float32 positions in micrometres.
    block_size : int
        Nodes to a block; the last block may hold fewer.

    Returns
    -------
    Tensor
        (B, 4) float32, B = ceil(N / block_size): x_min, y_min, x_max, y_max in micrometres, ends included.

    Examples
    --------
    >>> block_bbox(torch.tensor([[1.0, 2.0], [0.0, 5.0], [9.0, 9.0]]), block_size=2).tolist()
    [[0.0, 2.0, 1.0, 5.0], [9.0, 9.0, 9.0, 9.0]]
    """
    points = pos.numpy()
    starts = np.arange(0, len(points), block_size)
    if not len(starts):
        return torch.zeros(0, 4)
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    return torch.from_numpy(np.concatenate([low, high], axis=1))


def _encode_nodes(
    name: str, store: BaseStorage, tensors: dict[str, torch.Tensor], header: dict[str, Any]
) -> set[str]:
    """Add the per-node fields of one type; return the names dealt with."""
    pos = store["pos"].detach().cpu()
    names = node_fields(store, len(pos))
    for field in names:
        if isinstance(store[field], torch.Tensor):
            tensors[f"{name}.{field}"] = store[field]
    if not isinstance(store["id"], torch.Tensor):
        text, offset = encode_text(list(store["id"]))
        tensors[f"{name}.id_text"], tensors[f"{name}.id_offset"] = text, offset
        header["text_ids"].append(name)
    tensors[f"{name}.block_bbox"] = block_bbox(pos)
    header["num_nodes"][name] = len(pos)
    header["node_fields"][name] = names
    header["feature_names"][name] = list(store["feature_names"])
    return {*names, "feature_names"}


def _encode_edges(
    name: str, store: BaseStorage, num_sources: int, tensors: dict[str, torch.Tensor], header: dict[str, Any]
) -> set[str]:
    """Add the per-edge fields of one relation and its row pointer; return the names dealt with."""
    edge_index = store["edge_index"].detach().cpu()
    names = edge_fields(store, edge_index.shape[1])
    tensors[f"{name}.edge_index"] = edge_index
    for field in names:
        tensors[f"{name}.{field}"] = store[field]
    degree = torch.bincount(edge_index[0], minlength=num_sources)
    tensors[f"{name}.edge_ptr"] = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    header["num_edges"][name] = edge_index.shape[1]
    header["edge_fields"][name] = names
    header["edge_attr_names"][name] = list(store["edge_attr_names"])
    return {*names, "edge_index", "edge_attr_names"}


def _encode_rest(
    prefix: str, store: BaseStorage, done: set[str], tensors: dict[str, torch.Tensor], header: dict[str, Any]
) -> None:
    """Add what belongs to a store as a whole: tensors as tensors, the rest as JSON."""
    for name, value in store.items():
        if name in done or value is None:
            continue
        if isinstance(value, torch.Tensor):
            tensors[f"{prefix}.{name}"] = value
            continue
        if isinstance(value, np.generic):
            value = value.item()
        _to_json(value, f"{prefix}.{name}")
        header["attributes"].setdefault(prefix, {})[name] = value


def encode_text(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pack strings into UTF-8 bytes and offsets.

    Parameters
    ----------
    texts : list of str
        N strings.

    Returns
    -------
    text : Tensor
        uint8 bytes of all strings, end to end.
    offset : Tensor
        (N + 1,) int64; string `i` is ``text[offset[i]:offset[i + 1]]``.

    Examples
    --------
    >>> encode_text(["a", "bc"])[1].tolist()
    [0, 1, 3]
    """
    parts = [item.encode() for item in texts]
    offset = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offset[1:])
    text = np.frombuffer(b"".join(parts), dtype=np.uint8).copy()
    return torch.from_numpy(text), torch.from_numpy(offset)


def decode_text(text: torch.Tensor, offset: torch.Tensor) -> list[str]:
    """Unpack what `encode_text` packed.

    Parameters
    ----------
    text : Tensor
        uint8 bytes.
    offset : Tensor
        (N + 1,) int64 offsets; the first may be other than 0, `text` then begins there.

    Returns
    -------
    list of str
        N strings.

    Examples
    --------
    >>> decode_text(*encode_text(["a", "bc"]))
    ['a', 'bc']
    """
    data = text.numpy().tobytes()
    ends = (offset - offset[0]).tolist() if len(offset) else []
    return [data[start:stop].decode() for start, stop in pairwise(ends)]


def _check_name(name: str) -> None:
    """Refuse names that would make tensor names ambiguous."""
    if name == GRAPH or not name or "." in name or "|" in name:
        raise ValueError(
            f"node types and relations in a file may not be empty, {GRAPH!r}, or hold '.' or '|'; "
            f"found {name!r}"
        )


def _to_json(value: object, name: str) -> str:
    """Write one header entry, saying which it was if it cannot be written."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} cannot be stored: {error}; use tensors, numbers, strings, lists and dicts, or remove it"
        ) from error


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Bring tensors to the CPU, contiguous, each on memory of its own."""
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        if value.layout is not torch.strided:
            raise TypeError(f"{name} cannot be stored: it is sparse; store its dense form or its indices")
        value = value.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        if value.numel() and address in seen:
            value = value.clone()
        seen.add(address)
        result[name] = value
    return result
