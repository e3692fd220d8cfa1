"""Objects read from a file of polygons, gathered and filled some ten thousand at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entities.entities import Entities
from ..entities.rings import Rings, entities_from_rings
from .ids import uuid_labels
from .pixels import PixelFrame
from .ring_checks import broken_ring

#: Objects that are held as text and lists at a time: some kB each.
CHUNK = 5_000

#: Names of columns that have a place of their own in files.
RESERVED = ("id", "type")

_BROKEN = "expected positions of two finite numbers [x, y]; a ring is broken"


class PolygonBatch:
    """Polygons of some objects with what is known of each, on their way to `Entities`.

    Parameters
    ----------
    name : str
        The file, for messages.
    what : str
        What an object is called there: feature, cell, nucleus.

    Examples
    --------
    >>> batch = PolygonBatch("a.json", "cell")
    >>> batch.add(1, None, [[[[0, 0], [2, 0], [2, 1], [0, 0]]]], type_name="tumour", values={"prob": 0.5})
    >>> entities = batch.entities(PixelFrame((0.5, 0.5)), 0.5, "cell", inclusive=False)
    >>> entities.area, entities.columns["type"].tolist(), entities.columns["prob"]
    (array([0.25]), ['tumour'], array([0.5]))
    """

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what
        self.numbers: list[int] = []
        self._places: dict[int, str] = {}  # of rows whose place in the file is not their number
        self.ids: list[Any] = []
        self._types: list[str | None] = []
        self._values: list[dict[str, Any]] = []
        self._texts: list[dict[str, str]] = []
        self._points = array(
            "d"
        )  # x, y, x, y, …: a list for each corner would keep the garbage collector busy
        self._ring_start, self._polygon_start, self._entity_start = [0], [0], [0]
        self._single: list[int] = []

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.numbers)

    def add(
        self,
        number: int,
        identity: Any,
        polygons: Iterable[Any],
        type_name: str | None = None,
        values: dict[str, Any] | None = None,
        texts: dict[str, str] | None = None,
        single_point: bool = False,
        place: str | None = None,
    ) -> None:
        """Take up one object.

        Parameters
        ----------
        number : int
            Which of the file's objects it is, from 1.
        identity : object
            Its id there, or None.
        polygons : iterable of lists of rings
            Closed rings of positions ``[x, y]`` in pixels of the file; outer ring first.
        type_name : str, optional
            What type it is.
        values, texts : dict, optional
            Measurements and words by name.
        single_point : bool
            The object is a point: its centroid is kept exactly.
        place : str, optional
            What messages call it in place of its number.

        Raises
        ------
        ValueError
            A position is not two numbers.
        """
        if single_point:
            self._single.append(len(self.numbers))
        if place is not None:
            self._places[len(self.numbers)] = place
        self.numbers.append(number)
        self.ids.append(identity)
        self._types.append(type_name)
        self._values.append(values or {})
        self._texts.append(texts or {})
        for rings in polygons:
            for ring in rings:
                try:
                    pairs = set(map(len, ring)) <= {2}
                    self._points.extend(chain.from_iterable(ring))
                except (TypeError, OverflowError):
                    pairs = False
                if not pairs:
                    raise self.error(len(self.numbers) - 1, _BROKEN)
                self._ring_start.append(len(self._points) // 2)
            self._polygon_start.append(len(self._ring_start) - 1)
        self._entity_start.append(len(self._polygon_start) - 1)

    def error(self, row: int, problem: str) -> ValueError:
        """Return an error that names the file and the object.

        Parameters
        ----------
        row : int
            Row in this batch.
        problem : str
            What is wrong.

        Returns
        -------
        ValueError
        """
        identity = f" (id {self.ids[row]!r})" if self.ids[row] is not None else ""
        place = self._places.get(row, str(self.numbers[row]))
        return ValueError(f"{self.name}, {self.what} {place}{identity}: {problem}")

    def entities(
        self, frame: PixelFrame, raster_mpp: float, kind: str, inclusive: bool, check_rings: bool = False
    ) -> Entities:
        """Fill the polygons; labels are the numbers in the file.

        Parameters
        ----------
        frame : PixelFrame
            The pixels that the positions count in.
        raster_mpp : float
            Pixel size of the masks in µm.
        kind : {"cell", "tissue", "patch", "region"}
            What the objects are. Patches and regions must be rectangles, and become entities without masks.
        inclusive : bool
            Positions are numbers of border pixels rather than corners; see `entities_from_rings`.
        check_rings : bool
            Whether to refuse rings that `broken_ring` finds fault with.

        Returns
        -------
        Entities

        Raises
        ------
        ValueError
            A position is not a finite number, a ring is broken, an object lies off the canvas or is no rectangle where
            it must be.
        """
        label = np.array(self.numbers, np.int64)
        starts = [np.array(s, np.int64) for s in (self._ring_start, self._polygon_start, self._entity_start)]
        positions = self._positions()
        if check_rings:
            self._check_rings(Rings(positions, *starts))
        points_um = frame.to_um(positions + (0.5 if inclusive else 0.0))
        if kind in ("patch", "region"):
            result = self._rectangles(points_um, starts, kind, label, raster_mpp)
        else:
            points = points_um / raster_mpp
            if inclusive:  # centres of pixels, free of the rounding of µm
                points = np.floor(points) + 0.5
            rings = Rings(points, *starts)
            try:
                result = entities_from_rings(rings, label, raster_mpp, kind, inclusive)
            except IndexError as error:
                raise self.error(error.args[1], f"{error.args[0]}; check mpp and offset_px") from None
            if self._single:
                first = starts[0][starts[1][starts[2][self._single]]]
                result.centroid[self._single] = points_um[first]
        return replace(result, columns=self._columns())

    def _positions(self) -> NDArray[np.float64]:
        """All positions as one array, or an error that names the object with a wrong one."""
        points = np.array(self._points, np.float64).reshape(-1, 2)
        wrong = np.flatnonzero(~(np.abs(points) < 2**40).all(axis=1))  # NaN too
        if len(wrong):
            first = np.array(self._ring_start)[np.array(self._polygon_start)[self._entity_start]]
            raise self.error(int(np.searchsorted(first, wrong[0], side="right")) - 1, _BROKEN)
        return points

    def _check_rings(self, rings: Rings) -> None:
        """Refuse the first object with broken rings; points are rings of one corner and none."""
        whole = np.setdiff1d(np.arange(len(self)), self._single)
        if len(whole) < len(self):
            rings = _some(rings, whole)
        broken = broken_ring(rings)
        if broken is not None:
            raise self.error(
                int(whole[broken[0]]),
                f"{broken[1]}; mend it, or read with check_rings=False, which fills by the even-odd rule",
            )

    def _rectangles(
        self, points_um: NDArray[np.float64], starts: list[Any], kind: str, label: Any, raster_mpp: float
    ) -> Entities:
        """Entities without masks."""
        ring, polygon, entity = starts
        box = np.zeros((len(self), 4))
        for row in range(len(self)):
            corners = points_um[ring[polygon[entity[row]]] : ring[polygon[entity[row + 1]]]]
            low, high = corners.min(axis=0), corners.max(axis=0)
            on_sides = (np.isclose(corners, low) | np.isclose(corners, high)).all()
            if len(corners) != 5 or not on_sides or (high <= low).any():
                raise self.error(row, f"a {kind} must be an upright rectangle; read it as kind='tissue'")
            box[row] = *low, *high
        size = box[:, 2:] - box[:, :2]
        return Entities(kind, label, (box[:, :2] + box[:, 2:]) / 2, box, size.prod(axis=1), raster_mpp)

    def _columns(self) -> dict[str, NDArray[Any]]:
        """Types, measurements and words as columns."""
        columns: dict[str, NDArray[Any]] = {}
        if any(name is not None for name in self._types):
            columns["type"] = np.array([name or "" for name in self._types], np.str_)
        for row, values in enumerate(self._values):
            clash = [key for key in values if key in RESERVED or key in self._texts[row]]
            if clash:
                raise self.error(
                    row,
                    f"a measurement is called {clash[0]!r}, as another column is; read without measurements",
                )
        for name in dict.fromkeys(name for values in self._values for name in values):
            columns[name] = self._measurement(name)
        for name in dict.fromkeys(name for texts in self._texts for name in texts):
            if name in columns:
                row = next(row for row, texts in enumerate(self._texts) if name in texts)
                raise self.error(row, f"{name!r} holds words here and a number in others; expected one kind")
            columns[name] = np.array([texts.get(name, "") for texts in self._texts], np.str_)
        return columns

    def _measurement(self, name: str) -> NDArray[Any]:
        """One column of numbers, NaN where an object has none."""
        column = [values.get(name) for values in self._values]
        whole = [value for value in column if type(value) is int]
        if len(whole) == len(column):
            kinds = [(np.int64, -(2**63), 2**63), (np.uint64, 0, 2**64)]
            fits = [kind for kind, low, end in kinds if low <= min(whole) and max(whole) < end]
            return np.array(whole, fits[0] if fits else np.float64)
        try:
            return np.array([np.nan if value is None else float(value) for value in column])
        except (TypeError, ValueError):
            pass
        for row, value in enumerate(column):
            if value is not None and _number(value) is None:
                raise self.error(row, f"measurement {name!r} is {value!r}, expected a number")
        raise self.error(0, f"measurement {name!r} is not a number")


def _some(rings: Rings, rows: NDArray[np.int64]) -> Rings:
    """Return the rings of some of the objects."""
    first, last = rings.entity_start[rows], rings.entity_start[rows + 1]
    polygons = _ranges(first, last)
    parts = _ranges(rings.polygon_start[polygons], rings.polygon_start[polygons + 1])
    corners = _ranges(rings.ring_start[parts], rings.ring_start[parts + 1])
    return Rings(
        rings.points[corners],
        _starts(rings.ring_start[parts + 1] - rings.ring_start[parts]),
        _starts(rings.polygon_start[polygons + 1] - rings.polygon_start[polygons]),
        _starts(last - first),
    )


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _ranges(first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers from each first to each last, end to end."""
    sizes = last - first
    return np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def join(parts: Sequence[tuple[Entities, list[Any]]], name: str, what: str) -> Entities:
    """Put the chunks of a file together: one table, and labels from the ids where these carry them.

    Parameters
    ----------
    parts : sequence of (Entities, list)
        Chunks in the order of the file, with the ids of each; at least one.
    name, what : str
        The file and what an object is called there, for messages.

    Returns
    -------
    Entities
        Labels are those that ids carry, else the numbers in the file; then the ids are in ``columns["id"]``.

    Raises
    ------
    ValueError
        An id comes twice.
    """
    numbers = np.concatenate([part.label for part, _ in parts])
    packed = [uuid_labels(ids) if len(ids) else np.zeros(0, np.int64) for _, ids in parts]
    whole = Entities.concatenate(unify([part for part, _ in parts]))
    labels = None
    if all(p is not None for p in packed):
        labels = np.concatenate([p for p in packed if p is not None])
    ids = [] if labels is not None else [identity for _, chunk in parts for identity in chunk]
    if labels is None and not any(identity is not None for identity in ids):
        return whole
    keys = labels if labels is not None else np.array(["" if i is None else str(i) for i in ids], np.str_)
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(
        (keys[order][1:] == keys[order][:-1]) & (keys[order][1:] != ("" if labels is None else 0))
    )
    if len(twice):
        first, second = numbers[order[twice[0]]], numbers[order[twice[0] + 1]]
        identity = keys[order[twice[0]]] if labels is None else f"of label {keys[order[twice[0]]]}"
        raise ValueError(
            f"{name}, {what} {second}: its id {identity} is that of {what} {first} too; give each its own"
        )
    if labels is None:
        return replace(whole, columns={"id": keys, **whole.columns})
    return reordered(whole, labels, order)


def reordered(entities: Entities, labels: NDArray[np.int64], order: NDArray[np.int64]) -> Entities:
    """Give entities other labels, and put them in the order of these.

    Parameters
    ----------
    entities : Entities
        The entities.
    labels : ndarray, (N,) int64
        New labels, unique.
    order : ndarray, (N,) int64
        Sorts the labels.

    Returns
    -------
    Entities
    """
    if (np.diff(order) == 1).all():
        return replace(entities, label=labels)
    return replace(
        entities,
        label=labels[order],
        centroid=entities.centroid[order],
        bbox=entities.bbox[order],
        area=entities.area[order],
        masks=None if entities.masks is None else entities.masks.select(order),
        columns={name: column[order] for name, column in entities.columns.items()},
    )


def unify(parts: Sequence[Entities]) -> list[Entities]:
    """Give all parts the same columns: NaN or "" where a part has not got one.

    Parameters
    ----------
    parts : sequence of Entities
        The parts.

    Returns
    -------
    list of Entities

    Raises
    ------
    ValueError
        A column holds numbers in one part and words in another.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    text = {name: [p.columns[name].dtype.kind == "U" for p in parts if name in p.columns] for name in names}
    for name, kinds in text.items():
        if len(set(kinds)) > 1:
            raise ValueError(
                f"column {name!r} holds numbers for some objects and words for others; expected one"
            )
    return [
        replace(
            part,
            columns={
                name: part.columns[name]
                if name in part.columns
                else (np.full(len(part), "") if text[name][0] else np.full(len(part), np.nan))
                for name in names
            },
        )
        for part in parts
    ]


def finish(
    parts: Sequence[tuple[Entities, list[Any]]],
    path: Path,
    what: str,
    empty: Entities,
    parameters: dict[str, Any],
    extent_um: tuple[float, float] | None = None,
) -> Entities:
    """Join the chunks of a file and write down where they came from.

    Parameters
    ----------
    parts : sequence of (Entities, list)
        As of `join`; may be empty.
    path : Path
        The file.
    what : str
        What an object is called there.
    empty : Entities
        What an empty file gives.
    parameters : dict
        Provenance.
    extent_um : (float, float), optional
        Canvas that was searched.

    Returns
    -------
    Entities
    """
    whole = join(parts, str(path), what) if parts else empty
    return replace(whole, parameters={"file": path.name, **parameters}, extent_um=extent_um)
