"""Entities to SpatialData and back: shapes, labels and a table."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..entities.entities import Entities, from_instance_map
from ..entities.rings import Rings, entities_from_rings, mask_rings
from .ann_data import to_anndata
from .ann_entities import KEY, table_columns, type_colors
from .ring_checks import broken_ring

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from ..graphs.schema import Graph

#: Shapes that are taken apart at a time.
_ROWS = 20_000

__all__ = ["from_spatialdata", "read_spatialdata", "to_spatialdata", "write_spatialdata"]


def spatialdata_module() -> Any:
    """Import spatialdata, or say how to install it."""
    try:
        import spatialdata
    except ImportError as error:
        raise ImportError(
            'SpatialData needs the spatialdata package: pip install "histograph[interop]"'
        ) from error
    return spatialdata


def to_spatialdata(
    entities: Entities,
    graph: Graph | None = None,
    name: str = "cells",
    labels: bool = False,
) -> SpatialData:
    """Copy entities to a `spatialdata.SpatialData`: outlines as shapes, and a table that annotates them.

    Coordinates of the system "global" are micrometres.

    Parameters
    ----------
    entities : Entities
        Outlines, exact, with holes and parts.
    graph : Data or HeteroData, optional
        The graph of these entities, joined on ids: its features and edges make the table. Without it the columns of the
        entities do.
    name : str
        Of the shapes; labels are ``<name>_labels``.
    labels : bool
        Whether to add the instance map too. It is held whole, so not for large slides.

    Returns
    -------
    spatialdata.SpatialData
        ``shapes[name]`` indexed by label, ``tables["table"]`` as of `histograph.to_anndata`, ``labels`` if asked for.

    Raises
    ------
    ImportError
        spatialdata is not installed.
    ValueError
        There are no entities, the graph's ids are not their labels, an entity is a point, or a column is called
        "region" or "instance_id", which are SpatialData's.

    Examples
    --------
    >>> cells = Entities.from_instance_map([[4, 4, 9]], mpp=0.5)
    >>> try:
    ...     found = from_spatialdata(to_spatialdata(cells)).instance_map().tolist()
    ... except ImportError:
    ...     found = [[4, 4, 9]]  # pip install "histograph[interop]"
    >>> found
    [[4, 4, 9]]
    """
    spatialdata = spatialdata_module()
    if not len(entities):
        raise ValueError(
            "entities: expected at least one, for SpatialData has no shapes without any; found none"
        )
    flat = np.flatnonzero((entities.bbox[:, 2:] <= entities.bbox[:, :2]).any(axis=1))
    if len(flat):
        raise ValueError(
            f"entities: {len(flat)} of {len(entities)} have no extent, first label {entities.label[flat[0]]}; shapes "
            "need outlines, so keep points as AnnData"
        )
    import geopandas
    from spatialdata.models import Labels2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    table = to_anndata(
        entities if graph is None else graph, None if graph is None else _kind(graph, entities)
    )
    ids = entities.label if graph is None else np.array([int(i) for i in table.obs_names], np.int64)
    if graph is not None and not np.array_equal(np.sort(ids), entities.label):
        raise ValueError(
            "graph: its ids are not the labels of the entities; give the entities it was built from"
        )
    taken = [key for key in ("region", "instance_id") if key in table.obs or key in table.var_names]
    if taken:
        raise ValueError(f"columns: {taken[0]!r} would come twice, for SpatialData has one; rename it")
    table.obs["region"] = np.full(len(ids), name, object)
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["instance_id"] = ids
    table.obsm["spatial"] = np.asarray(table.obsm["spatial"], np.float64)
    frame = geopandas.GeoDataFrame(geometry=_shapes(entities), index=entities.label)
    shapes = ShapesModel.parse(frame, transformations={"global": Identity()})
    raster: dict[str, Any] = {}
    if labels:
        scale = Scale([entities.mpp, entities.mpp], axes=("x", "y"))
        raster[f"{name}_labels"] = Labels2DModel.parse(
            entities.instance_map(), dims=("y", "x"), transformations={"global": scale}
        )
    own = {"unit": "um", "mpp": entities.mpp, "kind": entities.kind, "masks": entities.masks is not None}
    if entities.extent_um is not None:
        own["extent_um"] = list(entities.extent_um)
    return spatialdata.SpatialData(
        shapes={name: shapes},
        labels=raster,
        tables={
            "table": TableModel.parse(table, region=name, region_key="region", instance_key="instance_id")
        },
        attrs={KEY: {name: own, f"{name}_labels": own}},
    )


def _kind(graph: Graph, entities: Entities) -> str | None:
    from torch_geometric.data import HeteroData

    return entities.kind if isinstance(graph, HeteroData) else None


def _shapes(entities: Entities) -> Any:
    """Outlines in micrometres: polygons where an entity has one part, else multi-polygons."""
    import shapely

    found = np.empty(len(entities), object)
    for start in range(0, len(entities), _ROWS):
        rings = mask_rings(entities, start, start + _ROWS)
        ends = (rings.ring_start, rings.polygon_start)
        parts = shapely.from_ragged_array(shapely.GeometryType.POLYGON, rings.points * entities.mpp, ends)
        first, last = rings.entity_start[:-1], rings.entity_start[1:]
        single = np.flatnonzero(last - first == 1)
        found[start + single] = parts[first[single]]
        for i in np.flatnonzero(last - first != 1).tolist():
            found[start + i] = shapely.MultiPolygon(list(parts[first[i] : last[i]]))
    return found


def from_spatialdata(
    data: SpatialData,
    element: str | None = None,
    unit_um: float | None = None,
    raster_mpp: float | None = None,
    kind: str | None = None,
    check_rings: bool = True,
) -> Entities:
    """Take the shapes or labels of a SpatialData as entities.

    Parameters
    ----------
    data : spatialdata.SpatialData
        With shapes of polygons, or labels of two dimensions.
    element : str, optional
        Which shapes or labels; may be left out where there is one.
    unit_um : float, optional
        µm per unit of the coordinate system "global". Needed unless `to_spatialdata` made the data.
    raster_mpp : float, optional
        µm per pixel of the masks of shapes; by default that of the entities they were made from, else `unit_um`.
    kind : {"cell", "tissue", "patch", "region"}, optional
        What the objects are; by default what the data say, else "cell".
    check_rings : bool
        Whether to refuse shapes that cross themselves, as of `read_geojson`.

    Returns
    -------
    Entities
        Labels are the index where it holds positive whole numbers, else 1, 2, … with ``columns["id"]``. What the table
        holds of each is a column.

    Raises
    ------
    ImportError
        spatialdata is not installed.
    ValueError
        There is no such element, the unit is not known, or a shape is no polygon or crosses itself.

    Examples
    --------
    >>> try:
    ...     from_spatialdata(spatialdata_module().SpatialData())
    ... except (ImportError, ValueError) as error:
    ...     print(type(error).__name__ in ("ImportError", "ValueError"))
    True
    """
    spatialdata = spatialdata_module()
    names = [*data.shapes, *data.labels]
    alone = next(iter(data.shapes)) if len(data.shapes) == 1 else names[0] if len(names) == 1 else ""
    chosen = str(element or alone)
    if chosen not in names:
        raise ValueError(f"element: expected one of {names}, found {element!r}")
    own = dict(data.attrs.get(KEY, {}).get(chosen, {}))
    unit = unit_um if unit_um is not None else 1.0 if own.get("unit") == "um" else None
    if unit is None:
        raise ValueError(f"unit_um: the data do not say how long a unit of {chosen!r} is; give it in µm")
    for name, value in (("unit_um", unit), ("raster_mpp", raster_mpp)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}: expected a positive number of µm, found {value}")
    kind = kind or own.get("kind", "cell")
    if chosen in data.labels:
        if raster_mpp is not None:
            raise ValueError("raster_mpp: labels lie on pixels of their own; leave it out")
        found = _from_labels(spatialdata, data.labels[chosen], unit, kind)
        return _annotate(found, data, chosen, found.label)
    frame = data.shapes[chosen]
    identity = spatialdata.transformations.Identity
    if not isinstance(spatialdata.transformations.get_transformation(frame, "global"), identity):
        frame = spatialdata.transform(frame, to_coordinate_system="global")
    raster = float(raster_mpp or own.get("mpp") or unit)
    index = frame.index.to_numpy()
    whole = index.dtype.kind in "iu" and (index > 0).all()
    label = index.astype(np.int64) if whole else np.arange(1, len(index) + 1)
    if len(np.unique(index)) < len(index):
        raise ValueError(f"element {chosen!r}: an id comes twice in the index")
    order = np.argsort(label, kind="stable")
    shapes = frame.geometry.to_numpy()
    _check_areas(shapes, chosen)
    parts = []
    for start in range(0, max(len(order), 1), _ROWS):
        rows = order[start : start + _ROWS]
        rings = _rings(shapes[rows], unit)
        if not own.get("masks", True):
            parts.append(_rectangles(rings, label[rows], raster, kind))
            continue
        pixels = Rings(rings.points / raster, rings.ring_start, rings.polygon_start, rings.entity_start)
        broken = broken_ring(pixels) if check_rings and not own else None  # ours come from masks
        if broken is not None:
            raise ValueError(
                f"element {chosen!r}, id {index[rows][broken[0]]}: {broken[1]} (pixels of {raster:g} µm); mend it, or "
                "read with check_rings=False, which fills by the even-odd rule"
            )
        try:
            parts.append(entities_from_rings(pixels, label[rows], raster, kind))
        except IndexError as error:
            raise ValueError(
                f"element {chosen!r}, id {index[rows][error.args[1]]}: {error.args[0]}"
            ) from None
    found = Entities.concatenate(parts)
    if not whole:
        found.columns["id"] = index[order].astype(np.str_)
    found.parameters["finder"] = "spatialdata"
    extent = own.get("extent_um")
    found = found if extent is None else replace(found, extent_um=(float(extent[0]), float(extent[1])))
    return _annotate(found, data, chosen, index[order])


def _rectangles(rings: Rings, label: Any, raster: float, kind: str) -> Entities:
    low = np.minimum.reduceat(rings.points, rings.ring_start[:-1]) if len(label) else np.zeros((0, 2))
    high = np.maximum.reduceat(rings.points, rings.ring_start[:-1]) if len(label) else np.zeros((0, 2))
    box = np.concatenate([low, high], axis=1)
    return Entities(kind, label, (low + high) / 2, box, (high - low).prod(axis=1), raster)


def _check_areas(shapes: Any, name: str) -> None:
    """Refuse shapes that are no polygons."""
    import shapely

    area = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    wrong = np.flatnonzero(~np.isin(shapely.get_type_id(shapes), area) | shapely.is_empty(shapes))
    if len(wrong):
        found = "none" if shapes[wrong[0]] is None else shapes[wrong[0]].geom_type
        raise ValueError(f"element {name!r}, shape {wrong[0] + 1}: expected a polygon, found {found}")


def _rings(shapes: Any, unit: float) -> Rings:
    """Corners of shapely polygons in micrometres."""
    import shapely

    parts, owner = shapely.get_parts(shapes, return_index=True)
    if not len(parts):
        one = np.zeros(1, np.int64)
        return Rings(np.zeros((0, 2)), one, one, one)
    _, points, (ring, polygon) = shapely.to_ragged_array(parts, include_z=False)
    entity = np.searchsorted(owner, np.arange(len(shapes) + 1))
    ring, polygon = np.asarray(ring, np.int64), np.asarray(polygon, np.int64)
    return Rings(np.asarray(points, np.float64) * unit, ring, polygon, entity.astype(np.int64))


def _from_labels(spatialdata: Any, element: Any, unit: float, kind: str) -> Entities:
    """Entities of a raster whose pixels are square in "global" and begin at its origin."""
    matrix = spatialdata.transformations.get_transformation(element, "global").to_affine_matrix(
        ("x", "y"), ("x", "y")
    )
    if not np.allclose(matrix, np.diag([matrix[0, 0], matrix[0, 0], 1.0])):
        raise ValueError(
            f"element: expected labels scaled alike in x and y from the origin, found {matrix.tolist()}"
        )
    # of several scales the finest
    pixels = element["scale0"]["image"] if hasattr(element, "children") else element
    return from_instance_map(np.asarray(pixels.data), float(matrix[0, 0]) * unit, kind)


def write_spatialdata(entities: Entities, path: Path) -> Path:
    """Write entities as a SpatialData folder (.zarr) of shapes and a table.

    The folder is written beside its place and then renamed, so that what exists is whole.

    Parameters
    ----------
    entities : Entities
        As of `to_spatialdata`.
    path : Path
        The folder; an older one is replaced.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ImportError, ValueError
        As of `to_spatialdata`.
    OSError
        There is a file in its place, or it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"cannot write {path}: it is a file, expected a folder or nothing")
    data = to_spatialdata(entities)
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    part, old = (path.with_name(f".{path.name}.{token}.{end}") for end in ("tmp.zarr", "old.zarr"))
    try:
        data.write(part)
        if path.exists():
            path.rename(old)
        part.rename(path)
    except OSError:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return path


def read_spatialdata(path: Path, unit_um: float | None = None, check_rings: bool = True) -> Entities:
    """Read the one element of a SpatialData folder (.zarr) as entities; see `from_spatialdata`.

    Parameters
    ----------
    path : Path
        The folder.
    unit_um : float, optional
        µm per unit of the coordinate system "global", where the data do not say it.
    check_rings : bool
        As of `from_spatialdata`.

    Returns
    -------
    Entities

    Raises
    ------
    ImportError
        spatialdata is not installed.
    FileNotFoundError
        There is no such folder.
    ValueError
        It is no SpatialData, or as of `from_spatialdata`.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    try:
        data = spatialdata_module().read_zarr(path)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no SpatialData: {error}") from error
    try:
        unit_um = None if KEY in data.attrs else unit_um
        return from_spatialdata(data, unit_um=unit_um, check_rings=check_rings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _annotate(found: Entities, data: SpatialData, name: str, index: Any) -> Entities:
    """Add what the table that annotates an element holds, joined on its ids, in the order of `index`."""
    for table in data.tables.values():
        facts = table.uns.get("spatialdata_attrs", {})
        region = facts.get("region")
        if name not in ([region] if isinstance(region, str) or region is None else list(region)):
            continue
        keys = facts["region_key"], facts["instance_key"]
        rows = table[(table.obs[keys[0]].astype(str) == name).to_numpy()]
        place = {key: row for row, key in enumerate(rows.obs[keys[1]].tolist())}
        if len(place) < rows.n_obs:
            raise ValueError(f"table: an id of {name!r} has more than one row; give each its own")
        missing = [key for key in index.tolist() if key not in place]
        if missing:
            raise ValueError(
                f"table: no row for {len(missing)} of {len(index)} ids of {name!r}, first {missing[0]}"
            )
        order = [place[key] for key in index.tolist()]
        columns = {key: column[order] for key, column in table_columns(rows, keys).items()}
        own = rows.uns.get(KEY, {})
        if not own.get("integer_ids", True):  # words; the labels of the entities are the instance ids
            columns = {"id": np.array(rows.obs_names, np.str_)[order], **columns}
        colors = type_colors(rows)
        parameters = {**found.parameters, **({"type_colors": colors} if colors else {})}
        return replace(found, columns={**columns, **found.columns}, parameters=parameters)
    return found
