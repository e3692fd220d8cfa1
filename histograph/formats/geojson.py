"""QuPath's GeoJSON in and out: one feature an object, streamed."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..entities.entities import KINDS, Entities
from .geojson_feature import (
    OBJECT_TYPES,
    BadFeature,
    Feature,
    UnitCheck,
    children,
    object_type,
    parse_feature,
)
from .geojson_rows import Rows, rows_of
from .json_stream import JsonReader, open_json
from .pixels import PixelFrame, keep_level0, known_level0, pixel_frame, raster_size
from .polygon_batch import CHUNK, PolygonBatch, finish

if TYPE_CHECKING:
    from ..graphs.schema import Graph
    from ..slides import Slide

__all__ = ["iter_geojson", "read_geojson", "to_geojson"]

_AREA_TYPES = ("annotation", "tile", "tmaCore")
# A cell of more polygons is none: QuPath's are of one, or of a few that touch.
_CELL_PARTS = 16

#: What a feature of several polygons or points is: one object, or an object each.
Parts = Literal["together", "apart"]
PARTS: tuple[Parts, ...] = get_args(Parts)


def read_geojson(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    slide: Slide | None = None,
    offset_px: tuple[float, float] | None = None,
    raster_mpp: float | None = None,
    kind: str | None = None,
    object_types: str | Sequence[str] | None = None,
    outline: str = "cell",
    measurements: bool = True,
    check_rings: bool = True,
    parts: Parts | None = None,
) -> Entities:
    """Read objects of QuPath (GeoJSON, also ``.gz``) as entities.

    A FeatureCollection, a list of features and a single feature are understood, of any QuPath version; objects nested
    in others are read too. Coordinates are level-0 pixels of the scanned part of the slide. The file is read piece by
    piece, so that memory is that of the entities.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    mpp : float or (float, float), optional
        µm per pixel of the coordinates (level 0). Needed unless `slide` is given or `to_geojson` wrote the file.
    slide : Slide, optional
        Gives mpp and, where the scanned part begins elsewhere than the canvas, the offset.
    offset_px : (float, float), optional
        Where the file's origin lies on the canvas, in level-0 pixels.
    raster_mpp : float, optional
        µm per pixel of the masks; by default what the file was written from, else `mpp`. A pixel belongs to an object
        when its centre lies inside; an object without any gets one pixel.
    kind : {"cell", "tissue", "patch", "region"}, optional
        What the objects are; by default what the file says, else "cell". Patches and regions must be rectangles.
    object_types : str or sequence of str, optional
        Take only these of detection, cell, annotation, tile, tmaCore, unknown. Needed where a file holds objects of
        cells beside areas.
    outline : {"cell", "nucleus"}
        Which outline of QuPath's cells: ``geometry`` or ``nucleusGeometry``.
    measurements : bool
        Whether to read measurements.
    check_rings : bool
        Whether to refuse rings that cross themselves or each other, and holes outside. Otherwise a pixel belongs to
        them by the even-odd rule.
    parts : {"together", "apart"}, optional
        What a feature of several polygons or points is: one object, or, as in CellViT's files with one feature for
        each type, an object each. Those get the feature's class and words, and neither its id nor its measurements.
        By default several polygons are one object, but more than 16 for a cell, if the file is not of `to_geojson`,
        are refused. Several points are refused unless apart.

    Returns
    -------
    Entities
        Labels are those that the ids carry, where `to_geojson` made these, else 1, 2, … in the order of the file with
        the ids in ``columns["id"]``. ``columns["type"]`` holds the names of classes; each measurement and each key of
        the metadata is a column (NaN or "" where an object has none; "metadata id" of a key that is called "id").
        ``parameters["type_colors"]`` are the colours.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is empty, cut off or not GeoJSON; a ring is open, too short, not made of numbers, crosses itself or
        is a hole outside its outer ring; an id comes twice;
        measurements are partly in µm and partly in pixels; cells are mixed with areas; no mpp is known. The message
        names the file and the feature or line.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 0], [4, 0, 9]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = to_geojson(cells, Path(folder) / "cells.geojson.gz", mpp=0.25)
    ...     read_geojson(file).instance_map().tolist()
    [[4, 4, 0], [4, 0, 9]]
    """
    path = Path(path)
    scan = _Scan(path, mpp, slide, offset_px, raster_mpp, kind, object_types, outline, measurements, parts)
    found = [
        (batch.entities(scan.frame, scan.raster, scan.kind, False, check_rings), batch.ids)
        for batch in scan.batches(CHUNK)
    ]
    empty = Entities.empty(scan.kind, scan.raster)
    return finish(found, path, "feature", empty, scan.parameters(), scan.extent_um)


def iter_geojson(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    slide: Slide | None = None,
    offset_px: tuple[float, float] | None = None,
    raster_mpp: float | None = None,
    kind: str | None = None,
    object_types: str | Sequence[str] | None = None,
    outline: str = "cell",
    measurements: bool = True,
    check_rings: bool = True,
    parts: Parts | None = None,
    chunk: int = CHUNK,
) -> Iterator[Entities]:
    """Read objects of QuPath some at a time, in memory that does not grow with the file.

    Parameters
    ----------
    path, mpp, slide, offset_px, raster_mpp, kind, object_types, outline, measurements, check_rings, parts
        As of `read_geojson`.
    chunk : int
        Objects at a time.

    Yields
    ------
    Entities
        Labels are the numbers of the objects in the file, from 1, and ``columns["id"]`` the ids, where there are any:
        ids that come twice are not noticed. Each chunk has the columns that its own objects have.

    Raises
    ------
    FileNotFoundError, ValueError
        As of `read_geojson`.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 0], [4, 0, 9]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = to_geojson(cells, Path(folder) / "cells.geojson", mpp=0.25)
    ...     [part.columns["id"].tolist() for part in iter_geojson(file, chunk=1)]
    [['68697374-6f67-8000-8000-000000000004'], ['68697374-6f67-8000-8000-000000000009']]
    """
    import numpy as np

    path = Path(path)
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 object at a time, found {chunk}")
    scan = _Scan(path, mpp, slide, offset_px, raster_mpp, kind, object_types, outline, measurements, parts)
    for batch in scan.batches(chunk):
        part = batch.entities(scan.frame, scan.raster, scan.kind, False, check_rings)
        columns = dict(part.columns)
        if any(identity is not None for identity in batch.ids):
            columns = {"id": np.array(["" if i is None else str(i) for i in batch.ids], np.str_), **columns}
        yield replace(part, columns=columns, parameters={"file": path.name, **scan.parameters()})


class _Scan:
    """One pass over a file: the features in order, and what the file says of itself."""

    def __init__(
        self,
        path: Path,
        mpp: Any,
        slide: Slide | None,
        offset_px: Any,
        raster_mpp: float | None,
        kind: str | None,
        object_types: str | Sequence[str] | None,
        outline: str,
        measurements: bool,
        parts: Parts | None,
    ) -> None:
        if parts not in (*PARTS, None):
            raise ValueError(f"parts: expected 'together' or 'apart', found {parts!r}")
        if outline not in ("cell", "nucleus"):
            raise ValueError(f"outline: expected 'cell' or 'nucleus', found {outline!r}")
        self.path, self._kind, self._outline, self._measurements = path, kind, outline, measurements
        self._given, self._parts, self._last = (mpp, slide, offset_px, raster_mpp), parts, 0
        self._wanted = (object_types,) if isinstance(object_types, str) else object_types
        for name in self._wanted or ():
            if name not in OBJECT_TYPES:
                raise ValueError(f"object_types: expected of {', '.join(OBJECT_TYPES)}, found {name!r}")
        self._header: dict[str, Any] = {}
        self._found: dict[str, int] = {}
        self.colors: dict[str, list[int]] = {}
        self._settled: tuple[PixelFrame, float] | None = None

    @property
    def frame(self) -> PixelFrame:
        """Pixels of the file."""
        return self._settle()[0]

    @property
    def raster(self) -> float:
        """µm per pixel of the masks."""
        return self._settle()[1]

    @property
    def kind(self) -> str:
        """What the objects are."""
        return self._kind or str(self._header.get("kind", "cell"))

    @property
    def extent_um(self) -> tuple[float, float] | None:
        """The canvas that was searched, where the file says it."""
        extent = self._header.get("extent_um")
        return (float(extent[0]), float(extent[1])) if extent else None

    def parameters(self) -> dict[str, Any]:
        """Return what is worth knowing of the file afterwards."""
        result: dict[str, Any] = {"finder": "geojson"}
        if len(self._found) == 1:
            result["object_type"] = next(iter(self._found))
        if self.colors:
            result["type_colors"] = dict(self.colors)
        if self._settled is not None:
            result["file_mpp"] = self._settled[0].mpp
            keep_level0(result, self._settled[0])
        return result

    def _settle(self) -> tuple[PixelFrame, float]:
        if self._settled is None:
            mpp, slide, offset_px, raster_mpp = self._given
            if offset_px is None and slide is None:
                offset_px = self._header.get("offset_px")
            frame = pixel_frame(mpp, slide, offset_px, self._header.get("mpp"), str(self.path))
            self._settled = frame, raster_size(raster_mpp, frame, self._header.get("raster_mpp"))
        return self._settled

    def _take_header(self, header: dict[str, Any], reader: JsonReader) -> None:
        """Check what `to_geojson` has left in the file."""
        if self._settled is not None:
            raise reader.error(
                "'histograph' comes after the features whose place and size it tells; move it before 'features'"
            )
        if header.get("kind", "cell") not in KINDS:
            raise reader.error(f"histograph.kind: expected one of {KINDS}, found {header['kind']!r}")
        for name, count in (("extent_um", (2,)), ("raster_mpp", (1,)), ("mpp", (1, 2)), ("offset_px", (2,))):
            value = header.get(name)
            numbers = value if isinstance(value, list) else [value]
            whole = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
            if value is not None and not (whole and len(numbers) in count):
                raise reader.error(f"histograph.{name}: expected {count[-1]} finite numbers, found {value!r}")
        self._header = header

    def batches(self, size: int) -> Iterator[PolygonBatch]:
        """Yield the objects some at a time."""
        units, number = UnitCheck(), 0
        batch = PolygonBatch(str(self.path), "feature")
        with open_json(self.path) as reader:
            for nested in self._features(reader):
                number += 1
                try:
                    for arguments in self._objects(nested, number, units):
                        batch.add(*arguments)
                        if len(batch) >= size:
                            yield batch
                            batch = PolygonBatch(str(self.path), "feature")
                except BadFeature as problem:
                    raise reader.error(str(problem), f"feature {number}") from None
        if len(batch):
            yield batch

    def _objects(self, nested: Any, number: int, units: UnitCheck) -> Iterator[tuple[Any, ...]]:
        """Yield what `PolygonBatch.add` takes for each object of a feature and of those in it that are wanted."""
        for feature in children(nested):
            if not self._is_wanted(feature, number):
                continue
            found = parse_feature(feature, self._outline, self._measurements)
            units(found.values)
            if found.type_name is not None and found.color is not None:
                self.colors.setdefault(found.type_name, list(found.color))
            if self._is_one(found):
                shapes, identity, values = [found.polygons], found.identity, found.values
            else:
                shapes, identity, values = [[polygon] for polygon in found.polygons], None, {}
            for part, shape in enumerate(shapes, 1):
                # what is nested or a part has a number after its feature's, and messages say where it is
                self._last = max(number, self._last + 1)
                place = None if self._last == number else str(number)
                if len(shapes) > 1:
                    place = f"{number}, part {part}"
                yield self._last, identity, shape, found.type_name, values, found.texts, found.points, place

    def _is_one(self, found: Feature) -> bool:
        """Tell whether all polygons of a feature are one object, or ask."""
        count = len(found.polygons)
        if count == 1 or self._parts == "apart":
            return count == 1
        if found.points:
            raise BadFeature(f"holds {count} points; make each an object with parts='apart'")
        if self._parts is None and not self._header and self.kind == "cell" and count > _CELL_PARTS:
            raise BadFeature(
                f"holds {count} polygons, as files with one feature for each type do; make each an object with "
                "parts='apart', or one of all with parts='together'"
            )
        return True

    def _is_wanted(self, feature: dict[str, Any], number: int) -> bool:
        """Tell whether a feature is of the wanted types, which do not go together in one table."""
        what = object_type(feature)
        if what == "root" or (self._wanted is not None and what not in self._wanted):
            return False
        if what not in self._found:
            self._found.setdefault(what, number)
            areas = [name for name in self._found if name in _AREA_TYPES]
            if areas and len(self._found) > len(areas):
                raise BadFeature(
                    f"is of type {what!r} while others are {', '.join(repr(n) for n in self._found if n != what)}; "
                    "choose with object_types="
                )
        return True

    def _features(self, reader: JsonReader) -> Iterator[Any]:
        """Yield the features of a collection, a list, or one alone."""
        if reader.peek() == "[":
            for _ in reader.elements():
                yield reader.value()
        else:
            rest: dict[str, Any] = {}
            seen = False
            for key in reader.members():
                if key == "features":
                    if seen:
                        raise reader.error("'features' comes twice; expected it once")
                    seen = True
                    for _ in reader.elements():
                        yield reader.value()
                else:
                    rest[key] = reader.value()
                    if key == "histograph" and isinstance(rest[key], dict):
                        self._take_header(rest[key], reader)
            if not seen and rest.get("type") == "Feature":
                yield rest
            elif not seen:
                raise reader.error(
                    "found no 'features'; expected a GeoJSON FeatureCollection or a list of features"
                )
        reader.end()


def to_geojson(
    source: Entities | Graph | Iterable[Entities],
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    slide: Slide | None = None,
    offset_px: tuple[float, float] | None = None,
    object_type: str = "detection",
    nuclei: Entities | None = None,
    entities: Entities | None = None,
    node_type: str | None = None,
) -> Path:
    """Write entities, or the nodes of a graph, as GeoJSON that QuPath opens.

    One feature an entity: its exact outline with holes and parts, a UUID that carries its label (or the id that it
    came with), the object type, its type as classification with a colour, numbers as measurements, words as metadata.
    Written piece by piece under a temporary name, so that a file that exists is whole.

    Parameters
    ----------
    source : Entities, Data, HeteroData, or iterable of Entities
        What to write. An iterable is written part by part, for more objects than memory holds.
    path : str or os.PathLike
        The file; with ``.gz`` at the end it is compressed.
    mpp : float or (float, float), optional
        µm per level-0 pixel. A graph knows its own, and so do entities that were read from GeoJSON or another file
        with ``level0``; others need it, or `slide`.
    slide : Slide, optional
        Gives mpp and the offset of the scanned part, from which QuPath counts pixels; graphs of `build_graph` know
        it too.
    offset_px : (float, float), optional
        The offset, where it is another.
    object_type : {"detection", "cell", "annotation", "tile"}
        What QuPath makes of an entity.
    nuclei : Entities, optional
        With ``object_type="cell"``: the nucleus of each cell, joined on labels, as ``nucleusGeometry``.
    entities : Entities, optional
        Outlines of a graph's nodes, joined on ids. Without them patches and regions are rectangles, and other nodes
        points.
    node_type : str, optional
        Which layer of a HeteroData.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        No mpp is known, an option does not fit, or a number is infinite.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = to_geojson(cells, Path(folder) / "cells.geojson", mpp=0.25).read_text()
    >>> json.loads(text)["features"][0]["geometry"]
    {'type': 'Polygon', 'coordinates': [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]}
    """
    from ..atomic import atomic_path

    path = Path(path)
    if object_type not in OBJECT_TYPES[:4]:
        raise ValueError(f"object_type: expected one of {OBJECT_TYPES[:4]}, found {object_type!r}")
    if nuclei is not None and object_type != "cell":
        raise ValueError(
            f"nuclei: only objects of type 'cell' have a nucleus, found object_type={object_type!r}"
        )
    rows = rows_of(source, entities, node_type, object_type, nuclei)
    first = next(rows, None)
    while first is not None and not first.ids and (later := next(rows, None)) is not None:
        first = later  # the head is of the first piece that holds objects, if there is any
    frame = _frame(source, mpp, slide, offset_px, path)
    with atomic_path(path) as part, part.open("wb") as plain:
        packed = gzip.GzipFile("", "wb", 4, plain, mtime=0) if path.suffix.lower() == ".gz" else None
        handle: Any = packed or plain
        handle.write(_head(first, frame).encode())
        count = 0
        while first is not None:
            for feature in first.features(frame):
                handle.write(b",\n" if count else b"\n")
                handle.write(feature.encode())
                count += 1
            first = next(rows, None)
        handle.write(b"\n]}\n")
        if packed is not None:
            packed.close()
    return path


def _frame(source: Any, mpp: Any, slide: Slide | None, offset_px: Any, path: Path) -> PixelFrame:
    """Settle the pixels of the file, from what the caller says and what the source knows."""
    known = known_level0(source)
    frame = pixel_frame(mpp, slide, offset_px, None if known is None else known.mpp, str(path))
    if known is None or slide is not None or offset_px is not None:
        return frame
    x, y = (o * was / now for o, was, now in zip(known.offset_px, known.mpp, frame.mpp, strict=True))
    return replace(frame, offset_px=(x, y))


def _head(rows: Rows | None, frame: PixelFrame) -> str:
    """Start of the file: what it needs to be read again without being asked."""
    own: dict[str, Any] = {"mpp": frame.mpp, "offset_px": frame.offset_px}
    if rows is not None:
        own |= rows.header()
    return f'{{"type":"FeatureCollection","histograph":{json.dumps(own)},"features":['
