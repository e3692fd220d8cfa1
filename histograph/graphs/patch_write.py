"""A graph of patches back to an HDF5 file in the layout of TRIDENT or of CLAM."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch_geometric.data import Data

from histograph.atomic import atomic_path
from histograph.graphs.layer import layer
from histograph.graphs.patch_layout import require_h5py
from histograph.graphs.schema import Graph, validate

PatchLayout = Literal["trident", "clam"]

# Attributes of coords that are kept from the file that the graph was read from.
_KEPT: dict[str, tuple[str, ...]] = {
    "trident": ("patch_size", "level0_magnification", "target_magnification", "overlap", "savetodir"),
    "clam": ("patch_size", "patch_level", "downsample", "downsampled_level_dim", "level_dim", "save_path"),
}
# Without these two the others of the layout make no sense.
_MARK = {"trident": "patch_size_level0", "clam": "patch_level"}


def write_patch_features(
    graph: Graph,
    path: str | os.PathLike[str],
    layout: PatchLayout = "trident",
    patch_size_um: float | tuple[float, float] | None = None,
) -> Path:
    """Write the patches of a graph to an HDF5 file as CLAM and TRIDENT do, whole or not at all.

    The file holds ``features`` (N, F) float32 and ``coords`` (N, 2) int64, the top-left corners in level-0
    pixels, ``round(pos / mpp - size / 2)``; rows are in ascending order of whole-number ids, so that a graph
    that was read from such a file, and perhaps saved and loaded, gives that file's rows again. Attributes of
    ``coords`` have the usual names, and ``level0_mpp``, ``patch_size_um`` and ``step_um`` besides, with which
    `read_patch_features` needs no arguments. ``id`` and ``feature_names`` are written where they say
    something. Magnifications are written only where the graph was read from a file that had them.

    Parameters
    ----------
    graph : Data or HeteroData
        A graph of patches, or one with node type patch.
    path : str or os.PathLike
        The file; its folder must exist. An existing file is replaced.
    layout : {"trident", "clam"}
        Names of the attributes.
    patch_size_um : float or (float, float), optional
        Side of a patch in micrometres; by default what the provenance or ``bbox`` of the graph says.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        The graph is not valid or has no patches' size, or the layout is unknown.
    OSError
        The file cannot be written; the message names it.
    ImportError
        h5py is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from histograph.graphs import build_graph, read_patch_features
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.full((40, 60, 3), 120, np.uint8), mpp=0.5)
    >>> graph = build_graph(slide, {"patch": {"size_um": 10.0}}, mask=None, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_patch_features(graph, Path(folder) / "slide.h5")
    ...     again = read_patch_features(file)
    >>> again.pos[:2].tolist(), again.num_edges == graph["patch", "next_to", "patch"].num_edges
    ([[5.0, 5.0], [15.0, 5.0]], True)
    """
    if layout not in get_args(PatchLayout):
        raise ValueError(f"layout: expected one of {', '.join(get_args(PatchLayout))}, found {layout!r}")
    h5py = require_h5py()
    validate(graph)
    data = layer(graph, None if isinstance(graph, Data) else "patch")
    mpp = np.asarray(data.mpp, dtype=np.float64)
    size_um, step_um = _lengths(data, patch_size_um)
    order = (
        np.argsort(data.id.numpy(), kind="stable")
        if isinstance(data.id, torch.Tensor)
        else np.arange(len(data.id))
    )
    pos = data.pos.numpy().astype(np.float64)[order]
    attributes = {
        **_attributes(data, layout, size_um / mpp, keep=patch_size_um is None),
        "name": data.slide_id,
        "level0_mpp": mpp,
        "patch_size_um": size_um,
    }
    if step_um is not None:
        attributes["step_um"] = step_um
    path = Path(path)
    with atomic_path(path) as part, h5py.File(part, "w") as file:
        file["features"] = data.x.numpy()[order]
        file["features"].attrs["name"] = data.slide_id
        file["coords"] = np.rint(pos / mpp - size_um / mpp / 2).astype(np.int64)
        file["coords"].attrs.update(attributes)
        if isinstance(data.id, torch.Tensor) and not np.array_equal(
            data.id.numpy()[order], np.arange(len(order))
        ):
            file["id"] = data.id.numpy()[order]
        if list(data.feature_names) != [f"f{number}" for number in range(data.x.shape[1])]:
            file["feature_names"] = np.array(list(data.feature_names), dtype=h5py.string_dtype())
    return path


def _recorded(data: Data, *keys: str) -> Any:
    """Look something up in the provenance."""
    found: Any = data.get("provenance")
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _lengths(data: Data, given: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Find the side of a patch, and the distance between patches where it is recorded, in micrometres."""
    size = given if given is not None else _recorded(data, "entities", "patch", "size_um")
    if size is None and data.get("bbox") is not None and len(data.bbox):
        box = data.bbox.numpy().astype(np.float64)
        size = np.median(box[:, 2:] - box[:, :2], axis=0)
    if size is None:
        raise ValueError(
            "patch_size_um: the graph records no size of its patches (provenance, bbox); give it in micrometres"
        )
    try:
        pair = np.broadcast_to(np.asarray(size, dtype=np.float64), (2,)).copy()
    except (TypeError, ValueError):
        raise ValueError(f"patch_size_um: expected a length in µm or a pair (x, y), found {size!r}") from None
    if not (np.isfinite(pair).all() and (pair > 0).all()):
        raise ValueError(f"patch_size_um: expected positive lengths in µm, found {size!r}")
    step, overlap = (_recorded(data, "entities", "patch", key) for key in ("step_um", "overlap_um"))
    if step is not None:
        return pair, np.broadcast_to(np.asarray(step, dtype=np.float64), (2,)).copy()
    recorded = _recorded(data, "entities", "patch", "size_um")
    if overlap is None or recorded is None:
        return pair, None
    return pair, np.full(2, float(recorded) - float(overlap))


def _attributes(data: Data, layout: str, size: np.ndarray, keep: bool) -> dict[str, Any]:
    """Attributes of coords under the names of a layout."""
    side = round(float(size.mean()))
    dimensions = _recorded(data, "slide", "dimensions") or []
    result: dict[str, Any]
    if layout == "trident":
        result = {"patch_size": side, "patch_size_level0": side, "overlap": 0}
        if len(dimensions) == 2:
            result |= {"level0_width": int(dimensions[0]), "level0_height": int(dimensions[1])}
    else:
        result = {"patch_size": side, "patch_level": 0, "downsample": (1.0, 1.0)}
        if len(dimensions) == 2:
            result |= {"level_dim": tuple(dimensions), "downsampled_level_dim": tuple(dimensions)}
    source = _recorded(data, "patch_file") or {}
    if keep and _MARK[layout] in source:
        result |= {name: source[name] for name in _KEPT[layout] if name in source}
    return result
