"""Where a graph came from: parameters as plain JSON data, their hash, package versions and the time."""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from histograph.entities import Entities
from histograph.entities.stardist_files import StarDistModel
from histograph.features import CellTokens, FeatureTable, PatchEncoder
from histograph.graphs.plan import UNRECORDED, PatchVectors, Plan
from histograph.slides import TissueMask

# How much of a file is hashed: few enough places that a cluster's file system answers in a moment.
_WHOLE, _PIECES, _PIECE = 4 * 2**20, 16, 2**16
PACKAGES = ("histograph", "numpy", "scipy", "scikit-image", "torch", "torch-geometric")


def describe(value: Any) -> Any:
    """Turn an option into plain JSON data; arrays, entities, masks and encoders become a digest.

    Parameters
    ----------
    value : object
        An option, or a dict or sequence of them.

    Returns
    -------
    object
        Numbers, strings, None, lists and dicts.

    Raises
    ------
    TypeError
        A kind of value that cannot be described.

    Examples
    --------
    >>> describe({"k": np.int64(8), "attributes": ("length",)})
    {'k': 8, 'attributes': ['length']}
    """
    if isinstance(value, float) and not np.isfinite(value):  # JSON has no infinity
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, Mapping):
        return {"|".join(k) if isinstance(k, tuple) else str(k): describe(item) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.cpu().numpy()
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape), "digest": _digest(value)}
    if isinstance(value, Entities):
        columns = (np.asarray(value.columns[name]) for name in sorted(value.columns))
        parts = (value.label, value.centroid, value.bbox, value.area, *columns)
        return {"entities": value.kind, "count": len(value), "mpp": value.mpp, "digest": _digest(*parts)}
    if isinstance(value, TissueMask):
        return {"mask": list(value.mask.shape), "mpp": describe(value.mpp), "digest": _digest(value.mask)}
    if isinstance(value, FeatureTable):
        return {"table": list(value.names), "digest": _digest(value.label, value.values)}
    if isinstance(value, pd.DataFrame):
        digest = _digest(value.index.to_numpy(np.float64), value.to_numpy(np.float64))
        return {"table": [str(name) for name in value.columns], "digest": digest}
    if isinstance(value, PatchEncoder):
        weights = [item.detach().cpu().float().numpy() for item in value.module.state_dict().values()]
        facts = {key: describe(getattr(value, key)) for key in ("name", "mpp", "size_px", "mean", "std")}
        # which tokens make the vector is in no weight
        tokens = {"tokens": value.module.tokens} if hasattr(value.module, "tokens") else {}
        return {"encoder": {**facts, **describe(tokens)}, "digest": _digest(*weights)}
    if isinstance(value, StarDistModel):
        weights = [item.detach().cpu().float().numpy() for item in value.network.state_dict().values()]
        facts = {
            key: describe(getattr(value, key))
            for key in ("name", "mpp", "prob_thresh", "nms_thresh", "views")
        }
        return {
            "stardist": {**facts, "percentiles": describe(value.percentiles)},
            "digest": _digest(*weights),
        }
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, PatchVectors):  # batch size and device do not change what is meant
        return {"whole": describe(value.encoder), "mixed_precision": describe(value.mixed_precision)}
    if isinstance(value, CellTokens):
        facts = {key: describe(getattr(value, key)) for key in ("context", "margin", "mixed_precision")}
        return {"under": describe(value.encoder), **facts}
    raise TypeError(f"cannot describe a {type(value).__name__} in the provenance of a graph: {value!r}")


def parameters(plan: Plan, mask: Any, mpp: Any) -> dict[str, Any]:
    """Describe all options of a build as plain JSON data.

    Parameters
    ----------
    plan : Plan
        The complete options.
    mask : object
        The `mask` argument.
    mpp : object
        The `mpp` argument.

    Returns
    -------
    dict
        Keys entities, edges, features, mask, mpp.

    Raises
    ------
    TypeError
        The mask is none, or an option cannot be described.

    Examples
    --------
    >>> from histograph.graphs.plan import make_plan
    >>> parameters(make_plan(("patch",), None, None), "auto", None)["entities"]["patch"]["size_um"]
    128.0
    """
    if not (mask is None or isinstance(mask, TissueMask) or (isinstance(mask, str) and mask == "auto")):
        found = repr(mask) if isinstance(mask, str) else type(mask).__name__
        raise TypeError(
            f"mask: expected a TissueMask, 'auto' or None, found {found}; make one with slide.tissue_mask(), or "
            "TissueMask(array, mpp)"
        )
    entities = {
        name: {key: item for key, item in how.items() if key not in UNRECORDED}
        if isinstance(how, Mapping)
        else how
        for name, how in plan.entities.items()
    }
    described = {
        name: describe(value)
        for name, value in (("entities", entities), ("edges", plan.edges), ("features", plan.features))
    }
    return {**described, "mask": describe(mask), "mpp": describe(mpp)}


def parameters_hash(described: Mapping[str, Any]) -> str:
    """Hash options: equal exactly when a graph would be built with equal options.

    Parameters
    ----------
    described : mapping
        What `parameters` gave.

    Returns
    -------
    str
        16 hexadecimal digits of the SHA-256 of the canonical JSON.

    Examples
    --------
    >>> parameters_hash({"a": 1, "b": 2}) == parameters_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance(described: dict[str, Any], slide: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what a graph records of its making.

    Parameters
    ----------
    described : dict
        What `parameters` gave.
    slide : Slide
        The slide.
    facts : mapping
        Further entries, such as the tissue area in µm² and seconds of each stage.

    Returns
    -------
    dict
        Plain JSON data.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.zeros((4, 4, 3), np.uint8), mpp=0.5)
    >>> sorted(provenance({}, slide, {}))
    ['created_utc', 'parameters', 'parameters_hash', 'slide', 'versions']
    """
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "slide": {
            "path": None if slide.path is None else str(slide.path),
            "bytes": None if slide.path is None else slide.path.stat().st_size,
            "sample": None if slide.path is None else file_sample(slide.path),
            "dimensions": [int(side) for side in slide.dimensions],
            "mpp": [float(side) for side in slide.mpp],
        },
        "parameters": described,
        "parameters_hash": parameters_hash(described),
        "versions": {name: version(name) for name in PACKAGES},
        **facts,
    }


def file_sample(path: Path) -> str:
    """Hash a file, a large one at places spread over it, to tell another file of the same size.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        16 hexadecimal digits of the SHA-256 of all bytes up to 4 MB, else of 16 pieces of 64 kB.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "slide.h5"
    ...     _ = path.write_bytes(b"some pixels")
    ...     file_sample(path)
    '75caeec8264a68a6'
    """
    size, result = path.stat().st_size, hashlib.sha256()
    starts = [place * (size - _PIECE) // (_PIECES - 1) for place in range(_PIECES)]
    with path.open("rb") as file:
        if size <= _WHOLE:
            result.update(file.read())
        else:
            for start in starts:
                file.seek(start)
                result.update(file.read(_PIECE))
    return result.hexdigest()[:16]


def _digest(*arrays: np.ndarray) -> str:
    """Hash the content of arrays."""
    result = hashlib.sha256()
    for array in arrays:
        result.update(str((array.shape, array.dtype.str)).encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()[:16]
