"""One feature of QuPath's GeoJSON: what it holds, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: Object types of QuPath, and the names that its version 0.2 kept in ``id``.
OBJECT_TYPES = ("detection", "cell", "annotation", "tile", "tmaCore", "unknown")
_OLD_NAMES = {
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathAnnotationObject": "annotation",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
    "tma_core": "tmaCore",
}
_UNIT = re.compile(r"^(.*?)[\s:_\[(]*(µm|um|μm|px|pixels?)(\^?[23²³])?[\])]?$")


class BadFeature(ValueError):
    """What is wrong with a feature, without its place."""


@dataclass(frozen=True)
class Feature:
    """What `histograph` takes from one feature.

    Parameters
    ----------
    identity : object
        Its id, or None.
    object_type : str
        One of `OBJECT_TYPES`.
    polygons : list
        Polygons as lists of rings.
    points : bool
        Its geometry is a point, or several, each a ring of one corner.
    type_name : str, optional
        Name of its class.
    color : tuple of int, optional
        RGB of its class.
    values, texts : dict
        Measurements; name and metadata.

    Examples
    --------
    >>> feature = parse_feature({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}, "cell")
    >>> feature.object_type, feature.polygons
    ('unknown', [[[[1, 2], [1, 2], [1, 2], [1, 2]]]])
    """

    identity: Any
    object_type: str
    polygons: list[Any]
    points: bool = False
    type_name: str | None = None
    color: tuple[int, ...] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def object_type(feature: Any) -> str:
    """Return the object type of a feature, wherever its QuPath version keeps it.

    Parameters
    ----------
    feature : dict
        The feature as JSON has it.

    Returns
    -------
    str
        "unknown" where it says nothing.

    Raises
    ------
    BadFeature
        It is no feature.

    Examples
    --------
    >>> object_type({"type": "Feature", "properties": {"objectType": "cell"}})
    'cell'
    >>> object_type({"type": "Feature", "id": "PathDetectionObject", "properties": {}})
    'detection'
    """
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        found = feature.get("type") if isinstance(feature, dict) else feature
        raise BadFeature(f"expected an object of type 'Feature', found {str(found)[:60]!r}")
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise BadFeature(f"properties: expected an object, found {str(properties)[:60]!r}")
    found = properties.get("objectType") or properties.get("object_type") or feature.get("objectType")
    if found is None and isinstance(feature.get("id"), str):
        found = _OLD_NAMES.get(feature["id"])
    return _OLD_NAMES.get(str(found), str(found)) if found is not None else "unknown"


def children(feature: dict[str, Any]) -> Iterator[Any]:
    """Yield a feature and all that QuPath has nested in it, parents first.

    Parameters
    ----------
    feature : dict
        The feature.

    Yields
    ------
    dict

    Examples
    --------
    >>> inner = {"type": "Feature", "properties": {}}
    >>> len(list(children({"type": "Feature", "properties": {"childObjects": [inner, inner]}})))
    3
    """
    yield feature
    properties = feature.get("properties") if isinstance(feature, dict) else None
    if isinstance(properties, dict):
        nested = properties.get("childObjects") or ()
        if not isinstance(nested, list | tuple):
            raise BadFeature(f"childObjects: expected a list of features, found {str(nested)[:40]!r}")
        for child in nested:
            yield from children(child)


def parse_feature(feature: dict[str, Any], outline: str, measurements: bool = True) -> Feature:
    """Take apart one feature.

    Parameters
    ----------
    feature : dict
        The feature as JSON has it.
    outline : {"cell", "nucleus"}
        Whether to take ``geometry`` or ``nucleusGeometry``.
    measurements : bool
        Whether to take the measurements.

    Returns
    -------
    Feature

    Raises
    ------
    BadFeature
        Something is missing or of the wrong kind; rings are open or too short.

    Examples
    --------
    >>> parse_feature({"type": "Feature", "geometry": None}, "cell")
    Traceback (most recent call last):
    ...
    histograph.formats.geojson_feature.BadFeature: has no geometry
    """
    what = object_type(feature)
    key = "geometry" if outline == "cell" else "nucleusGeometry"
    geometry = feature.get(key)
    if not isinstance(geometry, dict):
        raise BadFeature(f"has no {key}")
    polygons, points = _polygons(geometry)
    properties = feature.get("properties") or {}
    name, color = _classification(properties.get("classification"))
    identity = feature.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
        raise BadFeature(f"id: expected words or a number, found {str(identity)[:40]!r}")
    texts = _texts(properties)
    return Feature(
        None if identity in _OLD_NAMES or identity == "" else identity,
        what,
        polygons,
        points,
        name,
        color,
        _measurements(properties.get("measurements")) if measurements else {},
        texts,
    )


def _polygons(geometry: dict[str, Any]) -> tuple[list[Any], bool]:
    """Polygons of a geometry with rings that are closed."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Point":
        return [[[coordinates] * 4]], True
    if kind == "MultiPoint" and isinstance(coordinates, list) and coordinates:
        return [[[point] * 4] for point in coordinates], True
    if kind not in ("Polygon", "MultiPolygon", "MultiPoint"):
        raise BadFeature(f"geometry: expected a Polygon, MultiPolygon, Point or MultiPoint, found {kind!r}")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise BadFeature(f"geometry: expected coordinates of a {kind}, found {str(coordinates)[:40]!r}")
    for rings in polygons:
        if not isinstance(rings, list) or not rings:
            raise BadFeature(
                "geometry: expected coordinates of a polygon with rings, found a polygon without"
            )
        for ring in rings:
            if not isinstance(ring, list) or len(ring) < 4:
                size = len(ring) if isinstance(ring, list) else 0
                raise BadFeature(
                    f"geometry: a ring has {size} positions, expected at least 4, the first again at the end"
                )
            if ring[0] != ring[-1]:
                raise BadFeature(f"geometry: a ring is open: it starts at {ring[0]} and ends at {ring[-1]}")
    return polygons, False


def _classification(value: Any) -> tuple[str | None, tuple[int, ...] | None]:
    """Name and colour of a class; derived classes are joined by ': ' as QuPath shows them."""
    if value is None:
        return None, None
    if isinstance(value, str):
        return value, None
    if not isinstance(value, dict):
        raise BadFeature(f"classification: expected an object, found {str(value)[:40]!r}")
    names = value.get("names")
    name = ": ".join(map(str, names)) if isinstance(names, list) else value.get("name")
    color = value.get("color")
    if color is None and isinstance(value.get("colorRGB"), int):  # before 0.4: one number, alpha first
        color = [value["colorRGB"] >> shift & 255 for shift in (16, 8, 0)]
    if not (isinstance(color, list) and len(color) == 3 and all(isinstance(c, int) for c in color)):
        color = None
    return None if name is None else str(name), None if color is None else tuple(color)


def _measurements(value: Any) -> dict[str, Any]:
    """Measurements by name; a list of name and value before QuPath 0.4."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value):
        found = {str(item["name"]): item.get("value") for item in value}
        if len(found) < len(value):
            names = [str(item["name"]) for item in value]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadFeature(f"measurement {twice!r} comes twice; expected each name once")
        return found
    raise BadFeature(f"measurements: expected an object, found {str(value)[:40]!r}")


def _texts(properties: dict[str, Any]) -> dict[str, str]:
    """Name and metadata; a key that is called as a column of another origin is told from it."""
    texts = {"name": str(properties["name"])} if properties.get("name") is not None else {}
    metadata = properties.get("metadata")
    if isinstance(metadata, dict):
        taken = ("id", "type", *texts)
        texts |= {f"metadata {k}" if k in taken else str(k): str(v) for k, v in metadata.items()}
    return texts


class UnitCheck:
    """Refuses measurements that are in micrometres for some objects and in pixels for others.

    Examples
    --------
    >>> check = UnitCheck()
    >>> check(["Area µm^2"])
    >>> check(["Area px^2"])
    Traceback (most recent call last):
    ...
    histograph.formats.geojson_feature.BadFeature: measurement 'Area px^2' is in pixels but 'Area µm^2' is in ...
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._units: dict[str, tuple[bool, str]] = {}

    def __call__(self, names: Any) -> None:
        """Look at the names of an object's measurements."""
        for name in names:
            if name in self._known:
                continue
            self._known.add(name)
            match = _UNIT.match(name)
            if match is None:
                continue
            pixels = match[2].startswith("p")
            other = self._units.setdefault(match[1], (pixels, name))
            if other[0] != pixels:
                units = ("pixels", "micrometres") if pixels else ("micrometres", "pixels")
                raise BadFeature(
                    f"measurement {name!r} is in {units[0]} but {other[1]!r} is in {units[1]}; "
                    "expected one unit, so set the pixel size in QuPath and measure again"
                )
