"""CellViT's JSON in and out: a list of cells with contour and type."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic_path
from ..entities.entities import Entities
from .contours import ContourReader, contour_rows, type_codes, type_names
from .hovernet import labelled_by_ids
from .json_stream import open_json
from .pixels import LEVEL0, PixelFrame, keep_level0, pixel_frame
from .polygon_batch import CHUNK, PolygonBatch

if TYPE_CHECKING:
    from ..slides import Slide

__all__ = ["read_cellvit", "write_cellvit"]


def read_cellvit(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    slide: Slide | None = None,
    offset_px: tuple[float, float] | None = None,
    types: Mapping[int, str] | Sequence[str] | None = None,
) -> Entities:
    """Read the cells of CellViT (``cells.json``: ``{"wsi_metadata": …, "type_map": …, "cells": […]}``), streamed.

    Contour and centroid are level-0 pixels, x then y; the border pixels belong to the cell. What the file holds in
    rows and columns (``bbox``, ``patch_coordinates``) is not read, so that the two cannot be mixed up.

    Parameters
    ----------
    path : str or os.PathLike
        The file; may be compressed with gzip.
    mpp : float or (float, float), optional
        µm per pixel of the contours; goes before ``base_mpp`` of the file.
    slide : Slide, optional
        Gives mpp.
    offset_px : (float, float), optional
        Where the file's origin lies on the canvas, in level-0 pixels; (0, 0) by default.
    types : mapping or sequence, optional
        Name of each type's number; by default the file's ``type_map``, else the number is the name.

    Returns
    -------
    Entities
        Kind "cell". Labels are 1, 2, … in the order of the file, or the ids that `write_cellvit` has added;
        ``columns["type"]``, ``columns["type_prob"]``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is empty, cut off or no such JSON, says no mpp, or a cell has no contour or one that does not lie
        around its centroid (axes swapped, for example). The message names the file and the cell or line.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 0], [4, 0, 9]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_cellvit(cells, Path(folder) / "cells.json")
    ...     read_cellvit(file).instance_map().tolist()
    [[4, 4, 0], [4, 0, 9]]
    """
    path = Path(path)
    offset = (0.0, 0.0) if offset_px is None else offset_px
    header: dict[str, Any] = {}
    parts: list[Any] = []
    frame: PixelFrame | None = None
    with open_json(path) as reader:
        for key in reader.members():
            if key != "cells":
                header[key] = reader.value()
                if frame is not None and key == "type_map" and types is None:
                    raise reader.error("'type_map' comes after the cells whose types it names; give types=")
                continue
            if frame is not None:
                raise reader.error("'cells' comes twice; expected it once")
            frame = pixel_frame(mpp, slide, offset, _base_mpp(header), str(path))
            names = header.get("type_map") if types is None else types
            contours = ContourReader(None if names is None else type_names(names, str(path)))
            batch = PolygonBatch(str(path), "cell")
            for row in reader.elements():
                cell = reader.value()
                try:
                    polygons, type_name, values = contours.parts(cell)
                    label = cell.get("id", row + 1)
                    if type(label) is not int or not 0 < label < 2**63:
                        raise ValueError(
                            f"id: expected a positive whole number, found {label!r} (2^63 - 1 at most)"
                        )
                except ValueError as problem:
                    raise reader.error(str(problem), f"cell {row + 1}") from None
                batch.add(row + 1, label, polygons, type_name, values)
                if len(batch) >= CHUNK:
                    parts.append((batch.entities(frame, frame.mean_mpp, "cell", True), batch.ids))
                    batch = PolygonBatch(str(path), "cell")
            if len(batch):
                parts.append((batch.entities(frame, frame.mean_mpp, "cell", True), batch.ids))
        if frame is None:
            raise reader.error("found no 'cells'; expected the JSON of CellViT")
        reader.end()
    found = labelled_by_ids(parts, path, "cell", frame.mean_mpp, "cellvit")
    own = header.get("histograph")
    if mpp is None and slide is None and isinstance(own, dict):
        keep_level0(found.parameters, own.get(LEVEL0), str(path))
    return found


def _base_mpp(header: dict[str, Any]) -> Any:
    """Return µm per level-0 pixel, where the file says it."""
    metadata = header.get("wsi_metadata")
    found = metadata.get("base_mpp") if isinstance(metadata, dict) else None
    return [float(found)] * 2 if isinstance(found, int | float) else None


def write_cellvit(
    entities: Entities,
    path: str | os.PathLike[str],
    *,
    types: Mapping[int, str] | Sequence[str] | None = None,
) -> Path:
    """Write cells as CellViT does, in pixels of their masks, which should be those of level 0.

    The format has one contour for a cell: holes, and all parts but the largest, are not kept. Each cell also gets its
    label as ``id``, which CellViT's own tools pass over.

    Parameters
    ----------
    entities : Entities
        With masks. ``columns["type"]`` and ``columns["type_prob"]`` are written too.
    path : str or os.PathLike
        The file.
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
    ...     json.loads(write_cellvit(cells, Path(folder) / "a.json").read_text())["cells"][0]["centroid"]
    [0.5, 0.0]
    """
    path = Path(path)
    codes = type_codes(entities, types)
    frame = PixelFrame((entities.mpp, entities.mpp))
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as handle:
        handle.write(f'{{"wsi_metadata": {json.dumps({"base_mpp": entities.mpp})}')
        if LEVEL0 in entities.parameters:
            handle.write(f', "histograph": {json.dumps({LEVEL0: entities.parameters[LEVEL0]})}')
        if "type" in entities.columns:
            names = {str(number): name for name, number in codes.items()}
            handle.write(f', "type_map": {json.dumps(names)}')
        handle.write(', "cells": [')
        for count, (label, text) in enumerate(contour_rows(entities, frame, codes)):
            handle.write(f'{"," if count else ""}\n{{"id": {label}, {text}}}')
        handle.write("\n]}\n")
    return path
