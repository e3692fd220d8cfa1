"""Entities to SpatialData and back: shapes, labels and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..entities.entities import Entities, from_instance_map
from ..entities.rings import Rings, entities_from_rings, mask_rings
from .ann_data import to_anndata

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from ..graphs.schema import Graph

__all__ = ["from_spatialdata", "to_spatialdata"]

_KEY = "histograph"


def _spatialdata() -> Any:
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
        The graph's ids are not the labels of the entities.

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
    spatialdata = _spatialdata()
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
    return spatialdata.SpatialData(
        shapes={name: shapes},
        labels=raster,
        tables={
            "table": TableModel.parse(table, region=name, region_key="region", instance_key="instance_id")
        },
        attrs={_KEY: {name: own, f"{name}_labels": own}},
    )


def _kind(graph: Graph, entities: Entities) -> str | None:
    from torch_geometric.data import HeteroData

    return entities.kind if isinstance(graph, HeteroData) else None


def _shapes(entities: Entities) -> list[Any]:
    """Outlines in micrometres."""
    import shapely

    rings = mask_rings(entities)
    found = []
    for i in range(len(rings)):
        parts = [
            shapely.Polygon(polygon[0] * entities.mpp, [hole * entities.mpp for hole in polygon[1:]])
            for polygon in rings.geometry(i)
        ]
        found.append(parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts))
    return found


def from_spatialdata(
    data: SpatialData,
    element: str | None = None,
    unit_um: float | None = None,
    raster_mpp: float | None = None,
    kind: str | None = None,
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
        There is no such element, or the unit is not known.

    Examples
    --------
    >>> try:
    ...     from_spatialdata(_spatialdata().SpatialData())
    ... except (ImportError, ValueError) as error:
    ...     print(type(error).__name__ in ("ImportError", "ValueError"))
    True
    """
    spatialdata = _spatialdata()
    names = [*data.shapes, *data.labels]
    alone = next(iter(data.shapes)) if len(data.shapes) == 1 else names[0] if len(names) == 1 else ""
    chosen = str(element or alone)
    if chosen not in names:
        raise ValueError(f"element: expected one of {names}, found {element!r}")
    own = dict(data.attrs.get(_KEY, {}).get(chosen, {}))
    unit = unit_um if unit_um is not None else 1.0 if own.get("unit") == "um" else None
    if unit is None:
        raise ValueError(f"unit_um: the data do not say how long a unit of {chosen!r} is; give it in µm")
    kind = kind or own.get("kind", "cell")
    if chosen in data.labels:
        if raster_mpp is not None:
            raise ValueError("raster_mpp: labels lie on pixels of their own; leave it out")
        return _from_labels(spatialdata, data.labels[chosen], unit, kind)
    frame = spatialdata.transform(data.shapes[chosen], to_coordinate_system="global")
    raster = float(raster_mpp or own.get("mpp") or unit)
    index = frame.index.to_numpy()
    whole = index.dtype.kind in "iu" and (index > 0).all()
    label = index.astype(np.int64) if whole else np.arange(1, len(index) + 1)
    if len(np.unique(index)) < len(index):
        raise ValueError(f"element {chosen!r}: an id comes twice in the index")
    order = np.argsort(label, kind="stable")
    rings = _rings([frame.geometry.iloc[i] for i in order.tolist()], unit, chosen)
    if own.get("masks", True):
        pixels = Rings(rings.points / raster, rings.ring_start, rings.polygon_start, rings.entity_start)
        try:
            found = entities_from_rings(pixels, label[order], raster, kind)
        except IndexError as error:
            raise ValueError(
                f"element {chosen!r}, id {index[order][error.args[1]]}: {error.args[0]}"
            ) from None
    else:
        found = _rectangles(rings, label[order], raster, kind)
    found.columns.update(_table_columns(data, chosen, index[order]))
    if not whole:
        found.columns["id"] = index[order].astype(np.str_)
    found.parameters["finder"] = "spatialdata"
    return found


def _rectangles(rings: Rings, label: Any, raster: float, kind: str) -> Entities:
    low = np.minimum.reduceat(rings.points, rings.ring_start[:-1]) if len(label) else np.zeros((0, 2))
    high = np.maximum.reduceat(rings.points, rings.ring_start[:-1]) if len(label) else np.zeros((0, 2))
    box = np.concatenate([low, high], axis=1)
    return Entities(kind, label, (low + high) / 2, box, (high - low).prod(axis=1), raster)


def _rings(shapes: list[Any], unit: float, name: str) -> Rings:
    """Corners of shapely polygons in micrometres."""
    points: list[Any] = [np.zeros((0, 2))]
    ring, polygon, entity = [0], [0], [0]
    for number, shape in enumerate(shapes, start=1):
        if shape.geom_type not in ("Polygon", "MultiPolygon") or shape.is_empty:
            raise ValueError(f"element {name!r}, shape {number}: expected a polygon, found {shape.geom_type}")
        for part in shape.geoms if shape.geom_type == "MultiPolygon" else [shape]:
            for line in (part.exterior, *part.interiors):
                points.append(np.asarray(line.coords)[:, :2] * unit)
                ring.append(ring[-1] + len(points[-1]))
            polygon.append(len(ring) - 1)
        entity.append(len(polygon) - 1)
    return Rings(np.concatenate(points), np.array(ring), np.array(polygon), np.array(entity))


def _from_labels(spatialdata: Any, element: Any, unit: float, kind: str) -> Entities:
    """Entities of a raster whose pixels are square in "global" and begin at its origin."""
    matrix = spatialdata.transformations.get_transformation(element, "global").to_affine_matrix(
        ("x", "y"), ("x", "y")
    )
    if not np.allclose(matrix, np.diag([matrix[0, 0], matrix[0, 0], 1.0])):
        raise ValueError(
            f"element: expected labels scaled alike in x and y from the origin, found {matrix.tolist()}"
        )
    return from_instance_map(np.asarray(element.data), float(matrix[0, 0]) * unit, kind)


def _table_columns(data: SpatialData, name: str, index: Any) -> dict[str, Any]:
    """Return what the table that annotates an element holds, in the order of its index."""
    for table in data.tables.values():
        facts = table.uns.get("spatialdata_attrs", {})
        region = facts.get("region")
        if name != region and not (isinstance(region, list) and name in region):
            continue
        rows = table[(table.obs[facts["region_key"]] == name).to_numpy()]
        place = {key: row for row, key in enumerate(rows.obs[facts["instance_key"]].tolist())}
        missing = [key for key in index.tolist() if key not in place]
        if missing:
            raise ValueError(
                f"table: no row for {len(missing)} of {len(index)} ids of {name!r}, first {missing[0]}"
            )
        order = [place[key] for key in index.tolist()]
        values = rows.X.toarray() if hasattr(rows.X, "toarray") else np.asarray(rows.X)
        columns = {str(n): values[order, k].copy() for k, n in enumerate(rows.var_names)}
        if "type" in rows.obs:
            types = rows.obs["type"].astype(object).where(rows.obs["type"].notna(), "")
            columns["type"] = types.to_numpy()[order].astype(np.str_)
        return columns
    return {}
