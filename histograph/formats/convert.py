"""From any of the formats to any other, chosen by the names of files and by what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..atomic import atomic_path
from ..entities.entities import Entities
from .ann_data import anndata_module, to_anndata
from .ann_entities import KEY, entities_from_anndata
from .cellvit import read_cellvit, write_cellvit
from .geojson import Parts, read_geojson, to_geojson
from .hovernet import read_hovernet, write_hovernet
from .instance_maps import MAP_SUFFIXES, read_instance_map, write_instance_map
from .json_stream import check_file, open_json
from .pixels import LEVEL0
from .spatial_data import read_spatialdata, spatialdata_module, write_spatialdata
from .star_shapes import read_stardist, write_stardist
from .tables import TABLE_SUFFIXES, read_table, table_unit, write_table

__all__ = ["FORMATS", "convert_file", "read_entities", "write_entities"]

#: What can be written, and how the names of such files end.
FORMATS = {
    "geojson": ".geojson",
    "geojson.gz": ".geojson.gz",
    "hovernet": ".json",
    "cellvit": ".json",
    "stardist": ".npz",
    "tif": ".tif",
    "png": ".png",
    "npy": ".npy",
    "csv": ".csv",
    "parquet": ".parquet",
    "h5ad": ".h5ad",
    "spatialdata": ".zarr",
}

#: How the names of files end that `read_entities` reads.
ENTITY_SUFFIXES = (".geojson", ".json", ".gz", ".npz", ".h5ad", ".zarr", *MAP_SUFFIXES, *TABLE_SUFFIXES)

_JSON: dict[str, Callable[..., Entities]] = {
    "features": read_geojson,
    "nuc": read_hovernet,
    "cells": read_cellvit,
}


def read_entities(
    path: str | os.PathLike[str],
    mpp: float | None = None,
    check_rings: bool = True,
    parts: Parts | None = None,
    object_types: str | Sequence[str] | None = None,
) -> Entities:
    """Read a file of objects, whichever of the formats it is in.

    Parameters
    ----------
    path : str or os.PathLike
        GeoJSON of QuPath, JSON of HoVer-Net or CellViT (told apart by their keys; ``.gz`` too), an instance map
        (.png, .tif, .npy), StarDist's polygons (.npz), a table of centroids (.csv, .parquet), AnnData of `to_anndata`
        (.h5ad) or SpatialData with one element (.zarr).
    mpp : float, optional
        µm per pixel of the file, where it counts in pixels and does not say their size; µm per unit of a SpatialData
        that does not say it.
    check_rings : bool
        As of `read_geojson`; only for this and SpatialData.
    parts : {"together", "apart"}, optional
        As of `read_geojson`, and only for this.
    object_types : str or sequence of str, optional
        As of `read_geojson`, and only for this.

    Returns
    -------
    Entities
        ``parameters["file_mpp"]`` is the pixel size of the file, where it has pixels, and ``parameters["level0"]`` mpp
        and offset of the slide's level-0 pixels, where the file knows them.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is none of these, or broken.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 9]], mpp=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_entities(cells, Path(folder) / "cells.json", "cellvit")
    ...     read_entities(file).label
    array([4, 9])
    """
    path = Path(path) if Path(path).suffix.lower() == ".zarr" else check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".gz" and Path(path.stem).suffix.lower() in (
        ".npz",
        ".h5ad",
        *MAP_SUFFIXES,
        *TABLE_SUFFIXES,
    ):
        raise ValueError(f"{path}: only JSON is read from .gz; unpack it first")
    reader: Callable[..., Entities]
    if suffix in TABLE_SUFFIXES:
        reader = _read_centroids
    elif suffix in MAP_SUFFIXES:
        reader = read_instance_map
    elif suffix == ".npz":
        reader = read_stardist
    elif suffix == ".h5ad":
        reader = _read_h5ad
    elif suffix == ".zarr":
        reader = read_spatialdata
    elif suffix in (".geojson", ".json", ".gz"):
        reader = _json_reader(path)
    else:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(sorted(ENTITY_SUFFIXES))}")
    if reader is read_geojson:
        return read_geojson(path, mpp, check_rings=check_rings, parts=parts, object_types=object_types)
    for name, value in (("parts", parts), ("object_types", object_types)):
        if value is not None:
            raise ValueError(f"{name}: is for GeoJSON, and {path} is none")
    if reader is read_spatialdata:
        return read_spatialdata(path, mpp, check_rings=check_rings)
    if not check_rings:
        raise ValueError(f"check_rings: is for GeoJSON and SpatialData, and {path} is none of them")
    found = reader(path, mpp)
    if suffix in (".json", ".gz", ".npz", *MAP_SUFFIXES):
        found.parameters.setdefault("file_mpp", found.mpp)
    return found


def _read_centroids(path: Path, mpp: float | None) -> Entities:
    return read_table(path, mpp if table_unit(path) == "px" else None)


def _read_h5ad(path: Path, mpp: float | None) -> Entities:
    """Read a table of `to_anndata`; those of others do not say their unit, which is pixels where mpp is given."""
    try:
        table = anndata_module().read_h5ad(path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no AnnData: {error}") from error
    try:
        known = table.uns.get(KEY, {}).get("unit") == "um"
        return entities_from_anndata(table, None if known else mpp, None if known or mpp is None else "px")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _json_reader(path: Path) -> Callable[..., Entities]:
    """Tell by the first key that one format has alone."""
    with open_json(path) as reader:
        if reader.peek() == "[":
            return read_geojson
        for key in reader.members():
            if key in _JSON:
                return _JSON[key]
            if reader.value() == "Feature" and key == "type":
                return read_geojson
    raise ValueError(
        f"{path}: found none of {', '.join(_JSON)}; expected the JSON of QuPath, HoVer-Net or CellViT"
    )


def write_entities(
    source: Any,
    path: str | os.PathLike[str],
    to: str,
    mpp: float | None = None,
    node_type: str | None = None,
) -> Path:
    """Write entities, or the nodes of a graph, in one of `FORMATS`.

    Parameters
    ----------
    source : Entities, Data or HeteroData
        What to write. Graphs go to geojson, csv, parquet and h5ad; the others hold outlines.
    path : str or os.PathLike
        The file.
    to : str
        A key of `FORMATS`.
    mpp : float, optional
        For geojson: µm per level-0 pixel, where neither the source nor the file that it came from says it. A file
        that does not know the slide's pixels is taken to be in them.
    node_type : str, optional
        Which layer of a HeteroData.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        The format is another, or cannot hold the source.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 9]], mpp=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_entities(cells, Path(folder) / "cells.tif", "tif").name
    'cells.tif'
    """
    path = Path(path)
    if to not in FORMATS:
        raise ValueError(f"to: expected one of {', '.join(FORMATS)}, found {to!r}")
    if to in ("geojson", "geojson.gz"):
        if mpp is None and isinstance(source, Entities) and LEVEL0 not in source.parameters:
            mpp = source.parameters.get("file_mpp")
        return to_geojson(source, path, mpp, node_type=node_type)
    if to in ("csv", "parquet"):
        return write_table(source, path, node_type=node_type)
    if to == "h5ad":
        table = to_anndata(source, node_type)
        with atomic_path(path) as part:
            table.write_h5ad(part)
        return path
    if not isinstance(source, Entities):
        raise ValueError(
            f"to: {to} holds outlines, and a graph has none; write geojson, csv, parquet or h5ad"
        )
    writers: dict[str, Callable[..., Path]] = {
        "hovernet": write_hovernet,
        "cellvit": write_cellvit,
        "stardist": write_stardist,
        "spatialdata": write_spatialdata,
    }
    return writers.get(to, write_instance_map)(source, path)


def check_package(to: str) -> None:
    """Find out whether a format can be written before there is anything to write.

    Parameters
    ----------
    to : str
        A key of `FORMATS`.

    Raises
    ------
    ImportError
        The package for it is not installed.

    Examples
    --------
    >>> check_package("csv")
    """
    if to in ("h5ad", "spatialdata"):
        anndata_module()
    if to == "spatialdata":
        spatialdata_module()


def convert_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str,
    mpp: float | None = None,
    node_type: str | None = None,
    check_rings: bool = True,
    parts: Parts | None = None,
    object_types: str | Sequence[str] | None = None,
) -> tuple[Path, int]:
    """Convert one file of objects, or one of our graphs, and keep its name but for the end.

    Parameters
    ----------
    path : str or os.PathLike
        As of `read_entities`, or a graph (.safetensors).
    out : str or os.PathLike
        The folder; made when it does not exist.
    to, mpp, node_type
        As of `write_entities`.
    check_rings, parts, object_types
        As of `read_entities`.

    Returns
    -------
    Path
        The file.
    int
        Number of objects.

    Raises
    ------
    ValueError
        As of `read_entities` and `write_entities`, or the file would replace the one that is read.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 9]], mpp=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_entities(cells, Path(folder) / "cells.tif", "tif")
    ...     written, count = convert_file(file, folder, "geojson")
    >>> written.name, count
    ('cells.geojson', 2)
    """
    path, out = Path(path), Path(out)
    if path.suffix.lower() != ".zarr":
        check_file(path)
    target = converted_name(path, out, to)
    if target.exists() and target.samefile(path):
        raise ValueError(f"{path} would be replaced by what is made of it; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".safetensors":
        if parts is not None or object_types is not None or not check_rings:
            raise ValueError(
                f"parts, object_types and check_rings: are for files of objects, and {path} is a graph"
            )
        from ..graphs.layer import layer
        from ..graphs.store import load

        graph = load(path)
        return write_entities(graph, target, to, mpp, node_type), len(layer(graph, node_type).pos)
    if node_type is not None:
        raise ValueError(f"node_type: is for graphs, and {path} is none")
    source = read_entities(path, mpp, check_rings, parts, object_types)
    return write_entities(source, target, to, mpp), len(source)


def converted_name(path: Path, out: Path, to: str) -> Path:
    """Return the file that `convert_file` writes.

    Parameters
    ----------
    path, out, to
        As of `convert_file`.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        The format is none of `FORMATS`.

    Examples
    --------
    >>> converted_name(Path("a/slide.1.geojson.gz"), Path("b"), "csv").as_posix()
    'b/slide.1.csv'
    """
    if to not in FORMATS:
        raise ValueError(f"to: expected one of {', '.join(FORMATS)}, found {to!r}")
    name = path.name
    for suffix in (".gz", *ENTITY_SUFFIXES, ".safetensors"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return out / f"{name}{FORMATS[to]}"
