"""Patch features that people already have, from CLAM, TRIDENT, STAMP and their kin, as graphs of patches."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from histograph.graphs.patch_edges import patch_edges
from histograph.graphs.patch_layout import PatchArrays, read_arrays
from histograph.graphs.patch_scale import PatchScale, patch_scale
from histograph.graphs.provenance import describe, provenance
from histograph.graphs.schema import validate

_ATTRIBUTES = ("length", "sin", "cos")  # as build_graph's patches have them


def read_patch_features(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    patch_size_level0: float | tuple[float, float] | None = None,
    step_level0: float | tuple[float, float] | None = None,
    coords_from: str | os.PathLike[str] | None = None,
    features_key: str | None = None,
    coords_key: str | None = None,
    feature_names: Sequence[str] | None = None,
    slide_id: str | None = None,
) -> Data:
    """Read an HDF5 file of patch features as a graph of patches.

    Understood are the files of TRIDENT, CLAM (with the attributes in the file or in `coords_from`) and STAMP
    (``feats``; in micrometres where the file says so), features of shape (N, F) or (1, N, F) in any float
    type, and files whose tile names end in ``(x,y)``. Coordinates are top-left corners in level-0 pixels, and
    ``pos`` is the centre, ``(corner + size / 2) · mpp``. The mpp is never worked out from a magnification.

    Parameters
    ----------
    path : str or os.PathLike
        The ``.h5`` file.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel, or (x, y). Required unless the file has an attribute ``level0_mpp``,
        which it overrides.
    patch_size_level0 : float or (float, float), optional
        Side of a patch in level-0 pixels. Required unless the file says it: ``patch_size_level0``, or
        ``patch_size`` with ``downsample``, ``patch_level`` 0 or two magnifications, or STAMP's tile size.
    step_level0 : float or (float, float), optional
        Distance from one patch to the next in level-0 pixels, for the edges. Left out, it is what the file
        says of the overlap, or the most common gap between patches in line, but no more than a patch.
    coords_from : str or os.PathLike, optional
        A second file for coordinates and attributes that the first lacks, e.g. CLAM's ``patches/slide.h5``.
        Where both hold coordinates these must be equal.
    features_key, coords_key : str, optional
        Names of the datasets, where they are unusual or ambiguous.
    feature_names : sequence of str, optional
        Names of the columns; by default those in the file, or ``f0``, ``f1``, …
    slide_id : str, optional
        Name of the slide; by default the stem of the file name.

    Returns
    -------
    Data
        A valid graph (see `validate`) of node type patch: ``x`` (N, F), ``pos`` (N, 2), ``area_um2``,
        ``bbox``, ``id``, edges between neighbours with length, sin and cos, ``slide_id``, ``mpp``,
        ``provenance``. Row ``i`` is row ``i`` of the file, and ``id`` is that number unless the file has ids, each
        once. A patch is joined with those less than one and a half steps away along both axes: the eight
        neighbours on a grid. Patches at one position are kept, as nodes joined by an edge of length 0. A
        file without patches gives an empty graph.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The mpp or patch size is missing; features and coordinates differ in length; a feature is NaN or
        infinite (the first row is named); coords are not (N, 2); the file is not HDF5, cut off, has no or
        several candidate datasets, or holds one vector for the whole slide.
    ImportError
        h5py is not installed.

    Examples
    --------
    >>> import tempfile, h5py
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "slide.h5"
    ...     with h5py.File(file, "w") as h5:
    ...         h5["features"] = np.ones((2, 3))
    ...         h5["coords"] = [[0, 512], [512, 512]]
    ...         h5["coords"].attrs["patch_size_level0"] = 512
    ...     graph = read_patch_features(file, mpp=0.25)
    >>> graph.pos.tolist(), graph.edge_index.tolist(), graph.feature_names
    ([[64.0, 192.0], [192.0, 192.0]], [[0, 1], [1, 0]], ['f0', 'f1', 'f2'])
    """
    path = Path(path)
    arrays = read_arrays(path, coords_from, features_key, coords_key)
    scale = patch_scale(arrays, str(path), mpp, patch_size_level0, step_level0)
    asked = reading_options(
        mpp, patch_size_level0, step_level0, coords_from, features_key, coords_key, feature_names
    )
    names = arrays.feature_names if feature_names is None else list(feature_names)
    if names is None:
        names = [f"f{number}" for number in range(arrays.features.shape[1])]
    if len(names) != arrays.features.shape[1]:
        raise ValueError(
            f"feature_names: expected {arrays.features.shape[1]} names, one for each column of the features in "
            f"{path}, found {len(names)}"
        )
    return _graph(path, arrays, scale, names, path.stem if slide_id is None else slide_id, asked)


def reading_options(
    mpp: Any = None,
    patch_size_level0: Any = None,
    step_level0: Any = None,
    coords_from: Any = None,
    features_key: str | None = None,
    coords_key: str | None = None,
    feature_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Describe how a file is read as plain JSON data, for the provenance and its hash.

    Parameters
    ----------
    mpp, patch_size_level0, step_level0, coords_from, features_key, coords_key, feature_names
        As of `read_patch_features`.

    Returns
    -------
    dict
        By argument.

    Examples
    --------
    >>> reading_options(mpp=0.25)["mpp"]
    0.25
    """
    return describe(
        {
            "read": "patch features",
            "mpp": mpp,
            "patch_size_level0": patch_size_level0,
            "step_level0": step_level0,
            "coords_from": None if coords_from is None else str(coords_from),
            "features_key": features_key,
            "coords_key": coords_key,
            "feature_names": None if feature_names is None else list(feature_names),
        }
    )


def read_trident(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    feature_names: Sequence[str] | None = None,
    slide_id: str | None = None,
) -> Data:
    """Read the patch features of one slide from TRIDENT (``features_<encoder>/<slide>.h5``).

    TRIDENT's files say how large a patch is but most do not say the mpp, only a rounded magnification. See
    `read_patch_features` for files that lack attributes.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel; required unless the file has ``level0_mpp``.
    feature_names, slide_id
        As of `read_patch_features`.

    Returns
    -------
    Data
        As of `read_patch_features`.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As of `read_patch_features`.

    Examples
    --------
    >>> read_trident("nowhere.h5", mpp=0.25)
    Traceback (most recent call last):
    ...
    FileNotFoundError: nowhere.h5: no such file
    """
    return read_patch_features(path, mpp, feature_names=feature_names, slide_id=slide_id)


def read_clam(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    patches: str | os.PathLike[str] | None = None,
    *,
    patch_size_level0: float | tuple[float, float] | None = None,
    step_level0: float | tuple[float, float] | None = None,
    feature_names: Sequence[str] | None = None,
    slide_id: str | None = None,
) -> Data:
    """Read the patch features of one slide from CLAM (``h5_files/<slide>.h5``).

    CLAM's file of features has the coordinates but not the size of the patches: that is in its file of
    patches, ``patches/<slide>.h5``. Give this as `patches`, or give `patch_size_level0`.

    Parameters
    ----------
    path : str or os.PathLike
        The file of the features.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel; CLAM's files never have it.
    patches : str or os.PathLike, optional
        The file of the patches.
    patch_size_level0, step_level0, feature_names, slide_id
        As of `read_patch_features`.

    Returns
    -------
    Data
        As of `read_patch_features`.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As of `read_patch_features`.

    Examples
    --------
    >>> read_clam("nowhere.h5", mpp=0.25, patch_size_level0=256)
    Traceback (most recent call last):
    ...
    FileNotFoundError: nowhere.h5: no such file
    """
    return read_patch_features(
        path,
        mpp,
        coords_from=patches,
        patch_size_level0=patch_size_level0,
        step_level0=step_level0,
        feature_names=feature_names,
        slide_id=slide_id,
    )


@dataclass(frozen=True)
class _Source:
    """What provenance records of the file, in the place of a slide."""

    path: Path
    dimensions: tuple[int, ...]
    mpp: tuple[float, float]


def _graph(
    path: Path, arrays: PatchArrays, scale: PatchScale, names: list[str], slide_id: str, asked: dict[str, Any]
) -> Data:
    """Put the graph together."""
    centre = (scale.corner + scale.size / 2) * scale.mpp
    low, high = scale.corner * scale.mpp, (scale.corner + scale.size) * scale.mpp
    pos = torch.from_numpy(centre.astype(np.float32))
    ids = np.arange(len(pos)) if arrays.ids is None else arrays.ids
    edge_index, edge_attr = patch_edges(scale.corner, scale.step, pos, _ATTRIBUTES)
    sides = [arrays.attributes.get(f"level0_{side}") for side in ("width", "height")]
    mpp = float(scale.mpp[0]), float(scale.mpp[1])
    source = _Source(path, tuple(int(s) for s in sides if s is not None), mpp)
    entity = {
        "finder": "patch features",
        "size_um": scale.size_um.tolist(),
        "step_um": scale.step_um.tolist(),
    }
    facts = {"entities": {"patch": entity}, "patch_file": describe(arrays.attributes)}
    graph = Data(
        x=torch.from_numpy(arrays.features),
        pos=pos,
        id=torch.from_numpy(ids.astype(np.int64)),
        feature_names=names,
        area_um2=torch.full((len(pos),), float(scale.size_um.prod())),
        bbox=torch.from_numpy(np.concatenate([low, high], axis=1).astype(np.float32)),
        edge_index=edge_index,
        edge_attr=edge_attr,
        edge_attr_names=list(_ATTRIBUTES),
        slide_id=slide_id,
        mpp=mpp,
        provenance=provenance(asked, source, facts),
    )
    validate(graph)
    return graph
