"""From entities and graphs to the text of GeoJSON features."""

from __future__ import annotations

import colorsys
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..entities.entities import Entities
from ..entities.rings import Rings, mask_rings
from .ids import label_uuid, row_ids
from .pixels import PixelFrame
from .polygon_batch import RESERVED
from .tables import type_words

if TYPE_CHECKING:
    from ..graphs.schema import Graph

_ROWS = 5_000
_DECIMALS = 6  # of a pixel: far below what a pixel's centre could be missed by


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def type_color(name: str) -> tuple[int, int, int]:
    """Return a colour for the name of a type, always the same one.

    Parameters
    ----------
    name : str
        The type.

    Returns
    -------
    tuple of int
        Red, green, blue.

    Examples
    --------
    >>> type_color("tumour") == type_color("tumour") != type_color("stroma")
    True
    """
    hue = zlib.crc32(name.encode()) / 2**32
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


@dataclass
class Rows:
    """Some objects that are written one after the other.

    Parameters
    ----------
    kind : str
        What they are.
    ids : list of str
        One each.
    columns : dict
        Types, numbers and words, one row each.
    object_type : str
        Of QuPath.
    outlines : Rings, optional
        In pixels of `raster_mpp`.
    points_um : ndarray, (N, 2), optional
        In place of outlines.
    raster_mpp : float, optional
        Pixel size of the outlines.
    nuclei : Rings, optional
        Of the same raster.
    colors : dict
        Colours of types.
    extent_um : (float, float), optional
        Canvas that was searched.
    """

    kind: str
    ids: list[str]
    columns: dict[str, NDArray[Any]]
    object_type: str
    outlines: Rings | None = None
    points_um: NDArray[Any] | None = None
    raster_mpp: float | None = None
    nuclei: tuple[Rings, float] | None = None
    colors: dict[str, Any] = field(default_factory=dict)
    extent_um: tuple[float, float] | None = None

    def header(self) -> dict[str, Any]:
        """Return what is kept of them in the head of a file."""
        kind = (
            None if self.outlines is None else self.kind
        )  # points are read as cells, whatever they stand for
        entries = {"kind": kind, "raster_mpp": self.raster_mpp, "extent_um": self.extent_um}
        return {key: value for key, value in entries.items() if value is not None}

    def features(self, frame: PixelFrame) -> Iterator[str]:
        """Yield the text of each feature.

        Parameters
        ----------
        frame : PixelFrame
            Pixels of the file.

        Yields
        ------
        str
        """
        geometry = self._geometry(frame)
        nuclei = iter(()) if self.nuclei is None else _ring_texts(*self.nuclei, frame)
        for identity, shape, properties in zip(self.ids, geometry, self._properties(), strict=True):
            nucleus = "" if self.nuclei is None else f',"nucleusGeometry":{next(nuclei)}'
            yield (
                f'{{"type":"Feature","id":{_dumps(identity)},"geometry":{shape}{nucleus},'
                f'"properties":{_dumps(properties)}}}'
            )

    def _geometry(self, frame: PixelFrame) -> Iterator[str]:
        if self.outlines is not None and self.raster_mpp is not None:
            yield from _ring_texts(self.outlines, self.raster_mpp, frame)
        elif self.points_um is not None:
            for point in _rounded(frame.to_px(self.points_um)).tolist():
                yield _dumps({"type": "Point", "coordinates": point})

    def _properties(self) -> Iterator[dict[str, Any]]:
        numbers, words = {}, {}
        for name, column in self.columns.items():
            if name in RESERVED:
                continue
            values = np.asarray(column)
            if values.dtype.kind == "U":
                words[name] = values.tolist()
                continue
            if values.dtype.kind == "f" and np.isinf(values).any():
                row = int(np.flatnonzero(np.isinf(values))[0])
                raise ValueError(
                    f"columns[{name!r}]: JSON has no infinite numbers, found one at id {self.ids[row]}"
                )
            numbers[name] = (values.astype(np.int64) if values.dtype.kind == "b" else values).tolist()
        types = type_words(self.columns["type"]).tolist() if "type" in self.columns else [""] * len(self.ids)
        classes = {
            name: {"name": name, "color": list(self.colors.get(name) or type_color(name))}
            for name in set(types)
        }
        for row, name in enumerate(types):
            properties: dict[str, Any] = {"objectType": self.object_type}
            texts = {key: values[row] for key, values in words.items() if values[row]}
            if "name" in texts:
                properties["name"] = texts.pop("name")
            if name:
                properties["classification"] = classes[name]
            measured = {key: values[row] for key, values in numbers.items() if values[row] == values[row]}
            if measured:
                properties["measurements"] = measured
            if texts:
                properties["metadata"] = texts
            yield properties


def _rounded(points: NDArray[np.float64]) -> NDArray[Any]:
    """Positions to some decimals, as integers where all are whole."""
    points = np.round(points, _DECIMALS) + 0.0
    return points.astype(np.int64) if (points == np.floor(points)).all() else points


def _ring_texts(rings: Rings, raster_mpp: float, frame: PixelFrame) -> Iterator[str]:
    """Yield the geometry of each object as text."""
    flat = _rounded(frame.to_px(rings.points * raster_mpp)).ravel().tolist()
    ring, polygon, entity = (s.tolist() for s in (rings.ring_start, rings.polygon_start, rings.entity_start))
    for i in range(len(rings)):
        parts = [
            "["
            + ",".join(_ring_text(flat, ring[r], ring[r + 1]) for r in range(polygon[q], polygon[q + 1]))
            + "]"
            for q in range(entity[i], entity[i + 1])
        ]
        if len(parts) == 1:
            yield f'{{"type":"Polygon","coordinates":{parts[0]}}}'
        else:
            yield f'{{"type":"MultiPolygon","coordinates":[{",".join(parts)}]}}'


def _ring_text(flat: list[Any], start: int, stop: int) -> str:
    """Return the corners of a ring as text; a list for each corner would cost more than the text."""
    corners = ("[%r,%r]," * (stop - start))[:-1] % tuple(flat[2 * start : 2 * stop])
    return f"[{corners}]"


def rows_of(
    source: Any, entities: Entities | None, node_type: str | None, object_type: str, nuclei: Entities | None
) -> Iterator[Rows]:
    """Cut what is to be written into pieces.

    Parameters
    ----------
    source, entities, node_type, object_type, nuclei
        As of `to_geojson`.

    Yields
    ------
    Rows

    Raises
    ------
    TypeError
        The source is of a kind that is not understood.
    ValueError
        An option does not fit the source, or ids have no outline.
    """
    if isinstance(source, Entities):
        source = [source]
    elif hasattr(source, "stores"):
        yield from _graph_rows(source, entities, node_type, object_type, nuclei)
        return
    elif not isinstance(source, Iterable):
        raise TypeError(
            f"source: expected Entities, a graph or an iterable of Entities, found {type(source).__name__}"
        )
    if entities is not None or node_type is not None:
        raise ValueError("entities and node_type: are for graphs; the source has outlines of its own")
    for part in source:
        if not isinstance(part, Entities):
            raise TypeError(f"source: expected Entities in the iterable, found {type(part).__name__}")
        yield from _entity_rows(part, object_type, nuclei)


def _entity_rows(part: Entities, object_type: str, nuclei: Entities | None) -> Iterator[Rows]:
    """Cut entities into pieces."""
    every = row_ids(part)
    for start in range(0, max(len(part), 1), _ROWS):  # one piece without any objects has a head too
        stop = min(start + _ROWS, len(part))
        columns = {name: np.asarray(column)[start:stop] for name, column in part.columns.items()}
        labels = part.label[start:stop]
        own = every[start:stop].tolist()
        ids = own if "id" in columns else [label_uuid(label, part.kind) for label in own]
        inner = None
        flat = (part.bbox[start:stop, 2:] <= part.bbox[start:stop, :2]).any(axis=1)
        if part.masks is None and flat.any() and not flat.all():
            raise ValueError(
                "bbox: some entities have no extent and others have; write points and areas to two files"
            )
        points = part.centroid[start:stop] if part.masks is None and flat.any() else None
        if nuclei is not None:
            chosen = nuclei.select(_places(nuclei.label, labels, "nuclei"))
            inner = mask_rings(chosen), chosen.mpp
        yield Rows(
            part.kind,
            ids,
            columns,
            object_type,
            mask_rings(part, start, stop) if points is None else None,
            points,
            part.mpp,
            inner,
            part.parameters.get("type_colors", {}),
            part.extent_um,
        )


def _places(have: NDArray[np.int64], want: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Rows of ascending labels."""
    place = np.searchsorted(have, want)
    found = place < len(have)
    found[found] = have[place[found]] == want[found]
    if not found.all():
        raise ValueError(
            f"{name}: no outline for {int((~found).sum())} of {len(want)} ids, first {want[~found][0]}"
        )
    return place


def _graph_rows(
    graph: Graph, entities: Entities | None, node_type: str | None, object_type: str, nuclei: Entities | None
) -> Iterator[Rows]:
    """Cut the nodes of a graph into pieces."""
    from .graph_nodes import graph_nodes

    nodes = graph_nodes(graph, node_type)
    if entities is not None:
        if nodes.label is None:
            raise ValueError("entities: the graph's ids are words, so that they cannot be joined with labels")
        order = np.argsort(nodes.label, kind="stable")
        chosen = entities.select(_places(entities.label, nodes.label[order], "entities"))
        columns = {name: column[order] for name, column in nodes.columns.items()}
        yield from _entity_rows(replace(chosen, columns=columns), object_type, nuclei)
        return
    if nuclei is not None:
        raise ValueError("nuclei: nodes without outlines have no nucleus either; give entities= too")
    boxes = nodes.bbox if nodes.kind in ("patch", "region") else None
    for start in range(0, len(nodes.ids), _ROWS):
        piece = slice(start, start + _ROWS)
        columns = {name: column[piece] for name, column in nodes.columns.items()}
        rows = Rows(nodes.kind, nodes.ids[piece], columns, object_type, colors=nodes.colors)
        if boxes is None:
            rows.points_um = nodes.pos[piece]
        else:
            one_each = np.arange(len(rows.ids) + 1, dtype=np.int64)
            corners = boxes[piece][:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2)
            rows.outlines, rows.raster_mpp = Rings(corners, 5 * one_each, one_each, one_each), 1.0
        yield rows
