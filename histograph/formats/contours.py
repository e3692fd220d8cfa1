"""Contours as HoVer-Net and CellViT keep them: the numbers of the border pixels, x then y, as OpenCV finds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entities.entities import Entities
from ..entities.rings import mask_rings
from .pixels import PixelFrame

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
    step = np.diff(ring, axis=0)
    length = np.abs(step).sum(axis=1)
    unit = step // np.maximum(length, 1)[:, None]
    along = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    unit = np.repeat(unit, length, axis=0)
    start = np.repeat(ring[:-1], length, axis=0) + unit * along[:, None]
    # The pixel on the right hand of a step: below one to the right, left of one downwards, and so on.
    x, y = unit.T
    pixels = start + np.stack(
        [np.where((y > 0) | (x < 0), -1, 0), np.where((x < 0) | (y < 0), -1, 0)], axis=1
    )
    new = (pixels != np.roll(pixels, 1, axis=0)).any(axis=1)
    if not new.any():  # one pixel alone
        return pixels[:1]
    first = 0 if new[0] else 1  # the first pixel may be the last one too
    pixels = np.roll(pixels[new], first, axis=0)
    if len(pixels) < 3:
        return pixels
    bend = (pixels - np.roll(pixels, 1, axis=0)) != (np.roll(pixels, -1, axis=0) - pixels)
    return pixels[bend.any(axis=1)]


def contour_rows(entities: Entities, frame: PixelFrame, codes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
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
    dict
        ``id``, ``bbox`` [[row, column], [row, column]], ``centroid`` [x, y], ``contour`` [[x, y], …], ``type_prob`` and
        ``type``. Of an entity in parts the largest is outlined, and holes are left out: the format has one contour.

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
    types = np.asarray(entities.columns["type"]).tolist() if "type" in entities.columns else None
    probs = np.asarray(entities.columns.get("type_prob", np.full(len(entities), np.nan)), np.float64).tolist()
    centroid = (frame.to_px(entities.centroid) - 0.5).tolist()  # of pixel numbers, as the contour
    boxes = (entities.masks.boxes - shift[[1, 0, 1, 0]]).tolist()
    for start in range(0, len(entities), _ROWS):
        rings = mask_rings(entities, start, start + _ROWS)
        for k in range(len(rings)):
            row = start + k
            outer = max((parts[0] for parts in rings.geometry(k)), key=_ring_area)
            yield {
                "id": int(entities.label[row]),
                "bbox": [boxes[row][:2], boxes[row][2:]],
                "centroid": centroid[row],
                "contour": (pixel_chain(outer) - shift).tolist(),
                "type_prob": probs[row] if probs[row] == probs[row] else None,
                "type": None if types is None or not types[row] else codes[types[row]],
            }


def _ring_area(ring: NDArray[np.int64]) -> float:
    x, y = ring.T
    return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2


def type_codes(entities: Entities, types: Mapping[int, str] | Sequence[str] | None) -> dict[str, int]:
    """Settle which number stands for which type.

    Parameters
    ----------
    entities : Entities
        Their types.
    types : mapping or sequence, optional
        Name of each number; by default 1, 2, … in alphabetical order, and the numbers themselves where the names are
        numbers.

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
        sorted(set(np.asarray(entities.columns["type"]).tolist()) - {""})
        if "type" in entities.columns
        else []
    )
    if types is None:
        if names and all(name.isdecimal() for name in names):
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


def type_names(types: Any) -> dict[int, str]:
    """Return the name of each number, from a mapping or a sequence whose places are the numbers.

    Parameters
    ----------
    types : mapping or sequence
        As HoVer-Net's ``type_info.json`` has it too: values may be lists that begin with the name.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        It is neither.

    Examples
    --------
    >>> type_names({"0": ["nolabel", [0, 0, 0]], "1": ["tumour", [255, 0, 0]]})
    {0: 'nolabel', 1: 'tumour'}
    """
    try:
        pairs = types.items() if isinstance(types, Mapping) else enumerate(types)
        return {int(key): str(value[0] if isinstance(value, list | tuple) else value) for key, value in pairs}
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"types: expected a name for each number, e.g. {{1: 'tumour'}}, found {types!r}"
        ) from error


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
            raise ValueError("has no contour; centroids alone are read with histograph.read_table")
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
        if not isinstance(number, int):
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
            (x, y), columns, rows = map(float, centroid), [p[0] for p in contour], [p[1] for p in contour]
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
