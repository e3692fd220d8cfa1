"""Contours as HoVer-Net and CellViT keep them: the numbers of the border pixels, x then y, as OpenCV finds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..entities.entities import Entities
from ..entities.rings import mask_rings
from .pixels import PixelFrame
from .tables import type_words

_ROWS = 5_000


def pixel_chain(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the border pixels along a ring of cracks, corners of the chain only.

    Parameters
    ----------
    ring : ndarray, (P, 2) int64
        Closed, clockwise as seen on the image, along pixel cracks.

    Returns
    -------
    ndarray, (C, 2) int64
        Column and row of pixels; from each to the next the chain runs straight or diagonally. Not closed.

    Examples
    --------
    >>> pixel_chain(np.array([[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]])).tolist()
    [[2, 1], [4, 1], [4, 2], [2, 2]]
    """
    step = np.abs(np.diff(ring, axis=0)).sum()
    chain = np.empty((step, 2), np.int64)
    return chain[: _chain(np.asarray(ring, np.int64), 0, len(ring), chain, np.empty_like(chain), 0)]


@njit(cache=True, nogil=True)
def _chain(points, first, last, out, work, used):  # type: ignore[no-untyped-def]
    """Write the chain of the ring `first` … `last` - 1 to `out` from `used` on; return where it ends."""
    n = 0
    for k in range(first, last - 1):
        dx, dy = np.sign(points[k + 1, 0] - points[k, 0]), np.sign(points[k + 1, 1] - points[k, 1])
        # The pixel on the right hand of a step: below one to the right, left of one downwards, and so on.
        x, y = points[k, 0] - (dy > 0 or dx < 0), points[k, 1] - (dx < 0 or dy < 0)
        for _ in range(abs(points[k + 1, 0] - points[k, 0]) + abs(points[k + 1, 1] - points[k, 1])):
            if n == 0 or work[n - 1, 0] != x or work[n - 1, 1] != y:
                work[n, 0], work[n, 1] = x, y
                n += 1
            x, y = x + dx, y + dy
    while n > 1 and work[n - 1, 0] == work[0, 0] and work[n - 1, 1] == work[0, 1]:
        n -= 1
    for k in range(n):
        before, after = (k - 1) % n, (k + 1) % n
        bend = n < 3
        for axis in range(2):
            bend |= 2 * work[k, axis] != work[before, axis] + work[after, axis]
        if bend:
            out[used] = work[k]
            used += 1
    return used


@njit(cache=True, nogil=True)
def _chains(points, ring_start, polygon_start, entity_start):  # type: ignore[no-untyped-def]
    """Return the chains around the largest part of each entity, end to end, and where each starts."""
    n = len(entity_start) - 1
    starts = np.zeros(n + 1, np.int64)
    total, longest = 0, 0
    outer = np.empty(n, np.int64)
    for i in range(n):
        best, length = -1.0, 0
        for polygon in range(entity_start[i], entity_start[i + 1]):
            ring = polygon_start[polygon]
            area, steps = 0.0, 0
            for k in range(ring_start[ring], ring_start[ring + 1] - 1):
                area += points[k, 0] * points[k + 1, 1] - points[k + 1, 0] * points[k, 1]
                steps += abs(points[k + 1, 0] - points[k, 0]) + abs(points[k + 1, 1] - points[k, 1])
            if abs(area) > best:
                best, length, outer[i] = abs(area), steps, ring
        total, longest = total + length, max(longest, length)
    out, work, used = np.empty((total, 2), np.int64), np.empty((longest, 2), np.int64), 0
    for i in range(n):
        used = _chain(points, ring_start[outer[i]], ring_start[outer[i] + 1], out, work, used)
        starts[i + 1] = used
    return out[:used].copy(), starts


def contour_rows(
    entities: Entities, frame: PixelFrame, codes: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    """Yield each entity as HoVer-Net's and CellViT's files know it.

    Parameters
    ----------
    entities : Entities
        With masks on the pixels of the file.
    frame : PixelFrame
        The pixels of the file.
    codes : mapping
        Number of each type.

    Yields
    ------
    label : int
        Its id.
    text : str
        Members of a JSON object: ``bbox`` [[row, column], [row, column]], ``centroid`` [x, y], ``contour`` [[x, y], …],
        ``type_prob`` and ``type``. Of an entity in parts the largest is outlined, and holes are left out: the format
        has one contour.

    Raises
    ------
    ValueError
        The entities have no masks, or these lie on other pixels.
    """
    if entities.masks is None:
        raise ValueError("entities: expected masks, found rectangles; these formats hold contours of nuclei")
    if not np.allclose(frame.mpp, entities.mpp, rtol=1e-6):
        raise ValueError(
            f"mpp: expected that of the masks, {entities.mpp} µm, as contours are numbers of whole pixels; "
            f"found {frame.mpp}"
        )
    shift = np.round(frame.offset_px).astype(np.int64)
    if not np.allclose(shift, frame.offset_px, atol=1e-6):
        raise ValueError(f"offset_px: expected whole pixels, found {frame.offset_px}")
    types = type_words(entities.columns["type"]) if "type" in entities.columns else None
    numbers = {"": "null", **{name: str(number) for name, number in codes.items()}}
    probs = np.asarray(entities.columns.get("type_prob", np.full(len(entities), np.nan)))
    if probs.dtype.kind not in "biuf":
        raise ValueError(f"columns['type_prob']: expected numbers, found {probs.dtype}")
    probs = probs.astype(np.float64)
    if np.isinf(probs).any():
        row = int(np.flatnonzero(np.isinf(probs))[0])
        raise ValueError(
            f"columns['type_prob']: JSON has no infinite numbers, found one at label {entities.label[row]}"
        )
    for start in range(0, len(entities), _ROWS):
        piece = slice(start, start + _ROWS)
        labels, chances = entities.label[piece].tolist(), probs[piece].tolist()
        centroid = (frame.to_px(entities.centroid[piece]) - 0.5).tolist()  # of pixel numbers, as the contour
        boxes = (entities.masks.boxes[piece] - shift[[1, 0, 1, 0]]).tolist()
        kinds = None if types is None else types[piece].tolist()
        rings = mask_rings(entities, start, start + _ROWS)
        chain, starts = _chains(rings.points, rings.ring_start, rings.polygon_start, rings.entity_start)
        flat, ends = (chain - shift).ravel().tolist(), starts.tolist()
        for k in range(len(rings)):
            first, last = ends[k], ends[k + 1]
            corners = ("[%d, %d], " * (last - first))[:-2] % tuple(flat[2 * first : 2 * last])
            (top, left, bottom, right), (x, y) = boxes[k], centroid[k]
            prob = repr(chances[k]) if chances[k] == chances[k] else "null"
            kind = "null" if kinds is None else numbers[kinds[k]]
            yield (
                labels[k],
                f'"bbox": [[{top}, {left}], [{bottom}, {right}]], "centroid": [{x!r}, {y!r}], '
                f'"contour": [{corners}], "type_prob": {prob}, "type": {kind}',
            )


def type_codes(entities: Entities, types: Mapping[int, str] | Sequence[str] | None) -> dict[str, int]:
    """Settle which number stands for which type.

    Parameters
    ----------
    entities : Entities
        Their types.
    types : mapping or sequence, optional
        Name of each number; by default 1, 2, … in alphabetical order, and the numbers themselves where the names are
        numbers (below 65,536, as lists of names are written).

    Returns
    -------
    dict
        Number of each name.

    Raises
    ------
    ValueError
        A name has no number, or two.

    Examples
    --------
    >>> cells = Entities.from_instance_map([[1, 2]], mpp=0.5)
    >>> cells.columns["type"] = np.array(["tumour", "stroma"])
    >>> type_codes(cells, None)
    {'stroma': 1, 'tumour': 2}
    """
    names = (
        sorted(set(type_words(entities.columns["type"]).tolist()) - {""})
        if "type" in entities.columns
        else []
    )
    if types is None:
        if names and all(name.isdecimal() and str(int(name)) == name and int(name) < 2**16 for name in names):
            return {name: int(name) for name in names}
        return {name: number for number, name in enumerate(names, start=1)}
    given = type_names(types)
    codes = {name: number for number, name in given.items()}
    if len(codes) < len(given):
        raise ValueError(f"types: expected every name once, found {sorted(given.values())}")
    missing = [name for name in names if name not in codes]
    if missing:
        raise ValueError(f"types: no number for {missing[0]!r}; it has {sorted(codes)}")
    return codes


def type_names(types: Any, where: str = "") -> dict[int, str]:
    """Return the name of each number, from a mapping or a sequence whose places are the numbers.

    Parameters
    ----------
    types : mapping or sequence
        As HoVer-Net's ``type_info.json`` has it too: values may be lists that begin with the name. Or the number of
        each name, as in files of the first CellViT.
    where : str
        The file, for messages.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        It is neither, or two names have one number.

    Examples
    --------
    >>> type_names({"0": ["nolabel", [0, 0, 0]], "1": ["tumour", [255, 0, 0]]})
    {0: 'nolabel', 1: 'tumour'}
    >>> type_names({"Background": 0, "Neoplastic": 1})
    {0: 'Background', 1: 'Neoplastic'}
    """
    if isinstance(types, Mapping) and types and all(_is_code(name, number) for name, number in types.items()):
        if len(set(types.values())) < len(types):
            raise ValueError(f"{where + ': ' if where else ''}types: two names have one number in {types!r}")
        return {number: name for name, number in types.items()}
    try:
        pairs = types.items() if isinstance(types, Mapping) else enumerate(types)
        return {int(key): str(value[0] if isinstance(value, list | tuple) else value) for key, value in pairs}
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{where + ': ' if where else ''}types: expected a name for each number, e.g. {{1: 'tumour'}}, found "
            f"{types!r}"
        ) from error


def _is_code(name: Any, number: Any) -> bool:
    """Tell whether a member of a table of types is a name with its number, and not the other way round."""
    return isinstance(name, str) and not name.strip().isdecimal() and type(number) is int


class ContourReader:
    """Checks one nucleus after the other, and takes it apart.

    Parameters
    ----------
    names : dict, optional
        Name of each type's number.

    Examples
    --------
    >>> reader = ContourReader({1: "tumour"})
    >>> reader.parts({"contour": [[4, 1], [6, 1], [6, 3]], "centroid": [5.3, 1.7], "type": 1, "type_prob": 0.5})
    ([[[[4, 1], [6, 1], [6, 3], [4, 1]]]], 'tumour', {'type_prob': 0.5})
    """

    def __init__(self, names: dict[int, str] | None) -> None:
        self._names = names

    def parts(self, nucleus: Any) -> tuple[list[Any], str | None, dict[str, Any]]:
        """Return polygons, type and measurements.

        Parameters
        ----------
        nucleus : dict
            As the file has it.

        Returns
        -------
        polygons : list
            One with one closed ring.
        type_name : str or None
            Its type.
        values : dict
            ``type_prob`` where there is one.

        Raises
        ------
        ValueError
            Without place: the contour is missing or broken, or does not lie around the centroid.
        """
        if not isinstance(nucleus, dict):
            raise ValueError(f"expected an object, found {str(nucleus)[:40]!r}")
        contour = nucleus.get("contour")
        if not isinstance(contour, list) or not contour:
            raise ValueError(
                "has no contour, as in CellViT's cell_detection.json; give the file with outlines (cells.json), or "
                "write the centroids to a table with columns x_px and y_px for histograph.read_table"
            )
        self._check_axes(contour, nucleus.get("centroid"))
        prob = nucleus.get("type_prob")
        return (
            [[[*contour, contour[0]]]],
            self._type(nucleus.get("type")),
            {} if prob is None else {"type_prob": prob},
        )

    def _type(self, number: Any) -> str | None:
        if number is None:
            return None
        if isinstance(number, str) and number.isdecimal():  # as some programs write all that is a label
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"type: expected a whole number, found {number!r}")
        if self._names is None:
            return str(number)
        if number not in self._names:
            raise ValueError(f"type {number} has no name; types has {sorted(self._names)}")
        return self._names[number]

    @staticmethod
    def _check_axes(contour: list[Any], centroid: Any) -> None:
        """Compare contour and centroid: rows for columns, or pixels of two sizes, would go unnoticed otherwise."""
        if centroid is None:
            return
        try:
            (x, y), (columns, rows) = map(float, centroid), zip(*contour, strict=False)
            boxes = (min(columns) - 2, max(columns) + 2), (min(rows) - 2, max(rows) + 2)
        except (TypeError, ValueError, IndexError):
            raise ValueError("expected contour and centroid of numbers [x, y]; one is broken") from None
        if boxes[0][0] <= x <= boxes[0][1] and boxes[1][0] <= y <= boxes[1][1]:
            return
        if boxes[0][0] <= y <= boxes[0][1] and boxes[1][0] <= x <= boxes[1][1]:
            raise ValueError(
                f"its centroid {centroid} fits its contour with the axes swapped; expected x then y in both, swap one"
            )
        raise ValueError(
            f"its centroid {centroid} lies outside its contour (x {boxes[0][0] + 2} … {boxes[0][1] - 2}, y "
            f"{boxes[1][0] + 2} … {boxes[1][1] - 2}); expected both in the same pixels"
        )
