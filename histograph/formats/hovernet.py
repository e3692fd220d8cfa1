"""HoVer-Net's JSON in and out: nuclei by id, with contour and type."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import atomic_path
from ..entities.entities import Entities
from .contours import ContourReader, contour_rows, type_codes, type_names
from .json_stream import open_json
from .pixels import LEVEL0, PixelFrame, keep_level0, pixel_frame
from .polygon_batch import CHUNK, PolygonBatch, finish, reordered

if TYPE_CHECKING:
    from ..slides import Slide

__all__ = ["read_hovernet", "write_hovernet"]


def read_hovernet(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    slide: Slide | None = None,
    offset_px: tuple[float, float] | None = None,
    types: Mapping[int, str] | Sequence[str] | None = None,
) -> Entities:
    """Read the nuclei of HoVer-Net (``{"mag": …, "nuc": {id: {…}}}``), streamed.

    The contour holds the numbers of border pixels, x then y, and these pixels belong to the nucleus.

    Parameters
    ----------
    path : str or os.PathLike
        The file; may be compressed with gzip.
    mpp : float or (float, float), optional
        µm per pixel of the file, which are those that HoVer-Net ran at, not always those of level 0; its ``mag`` says
        nothing exact, so it is not used. Needed unless `write_hovernet` wrote the file, or `slide` is given whose level
        0 it ran at.
    slide : Slide, optional
        Gives mpp.
    offset_px : (float, float), optional
        Where the file's origin lies on the canvas, in its pixels; (0, 0) by default.
    types : mapping or sequence, optional
        Name of each type's number. By default what the file says, else the number is the name.

    Returns
    -------
    Entities
        Kind "cell". Labels are the ids of the file; ``columns["type"]``, ``columns["type_prob"]``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is empty, cut off or no such JSON; a nucleus has no contour, or one that does not lie around its
        centroid; an id is no positive whole number or comes twice. The message names the file and the nucleus or line.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 0], [4, 0, 9]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_hovernet(cells, Path(folder) / "cells.json")
    ...     read_hovernet(file).instance_map().tolist()
    [[4, 4, 0], [4, 0, 9]]
    """
    path = Path(path)
    offset = (0.0, 0.0) if offset_px is None else offset_px  # HoVer-Net counts from the canvas, bounds or not
    header: dict[str, Any] = {}
    batch, parts = PolygonBatch(str(path), "nucleus"), []
    state: tuple[PixelFrame, ContourReader] | None = None
    number, seen = 0, False
    with open_json(path) as reader:
        for key in reader.members():
            if key != "nuc":
                value = reader.value()
                if key == "histograph" and isinstance(value, dict):
                    if seen:
                        raise reader.error(
                            "'histograph' comes after the nuclei whose size it tells; move it up"
                        )
                    header |= value
                continue
            if seen:
                raise reader.error("'nuc' comes twice; expected it once")
            seen = True
            names = header.get("types") if types is None else types
            frame = pixel_frame(mpp, slide, offset, header.get("mpp"), str(path))
            state = frame, ContourReader(None if names is None else type_names(names, str(path)))
            for identity in reader.members():
                number += 1
                nucleus = reader.value()
                try:
                    polygons, type_name, values = state[1].parts(nucleus)
                    if not identity.isdecimal() or not 0 < int(identity) < 2**63:
                        raise ValueError(
                            f"id: expected a positive whole number, found {identity!r} (2^63 - 1 at most)"
                        )
                except ValueError as problem:
                    raise reader.error(str(problem), f"nucleus {identity}") from None
                batch.add(number, int(identity), polygons, type_name, values)
                if len(batch) >= CHUNK:
                    parts.append((batch.entities(frame, frame.mean_mpp, "cell", True), batch.ids))
                    batch = PolygonBatch(str(path), "nucleus")
        if not seen:
            raise reader.error("found no 'nuc'; expected the JSON of HoVer-Net")
        reader.end()
    frame = state[0] if state is not None else PixelFrame((1.0, 1.0))
    if len(batch):
        parts.append((batch.entities(frame, frame.mean_mpp, "cell", True), batch.ids))
    found = labelled_by_ids(parts, path, "nucleus", frame.mean_mpp, "hovernet")
    if mpp is None and slide is None:  # otherwise the caller knows it better than the file
        keep_level0(found.parameters, header.get(LEVEL0), str(path))
    return found


def labelled_by_ids(parts: list[Any], path: Path, what: str, mpp: float, finder: str) -> Entities:
    """Join chunks whose ids are positive whole numbers, and make these the labels.

    Parameters
    ----------
    parts : list of (Entities, list of int)
        Chunks.
    path, what, mpp, finder
        For messages, an empty file and the provenance.

    Returns
    -------
    Entities
    """
    whole = finish(parts, path, what, Entities.empty("cell", mpp), {"finder": finder})
    if not len(whole):
        return whole
    labels = np.array([identity for _, ids in parts for identity in ids], np.int64)
    whole.columns.pop("id", None)
    return reordered(whole, labels, np.argsort(labels, kind="stable"))


def write_hovernet(
    entities: Entities,
    path: str | os.PathLike[str],
    *,
    mag: float | None = None,
    types: Mapping[int, str] | Sequence[str] | None = None,
) -> Path:
    """Write nuclei as HoVer-Net does, in pixels of their masks from the top-left of the canvas.

    The format has one contour for a nucleus: holes, and all parts but the largest, are not kept.

    Parameters
    ----------
    entities : Entities
        With masks. ``columns["type"]`` and ``columns["type_prob"]`` are written too.
    path : str or os.PathLike
        The file.
    mag : float, optional
        Magnification to write down; null without.
    types : mapping or sequence, optional
        Name of each type's number; by default 1, 2, … in alphabetical order.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        There are no masks, or a type has no number.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     json.loads(write_hovernet(cells, Path(folder) / "a.json").read_text())["nuc"]["4"]["contour"]
    [[0, 0], [1, 0]]
    """
    path = Path(path)
    codes = type_codes(entities, types)
    frame = PixelFrame((entities.mpp, entities.mpp))
    own: dict[str, Any] = {"mpp": frame.mpp, "types": {str(number): name for name, number in codes.items()}}
    if "type" not in entities.columns:
        del own["types"]
    if LEVEL0 in entities.parameters:
        own[LEVEL0] = entities.parameters[LEVEL0]
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as handle:
        handle.write(f'{{"mag": {json.dumps(mag)}, "histograph": {json.dumps(own)}, "nuc": {{')
        for count, (label, text) in enumerate(contour_rows(entities, frame, codes)):
            handle.write(f'{"," if count else ""}\n"{label}": {{{text}}}')
        handle.write("\n}}\n")
    return path
