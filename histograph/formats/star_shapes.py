"""StarDist's polygons in and out: centres, corners along rays, probabilities."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..atomic import atomic_path
from ..entities.entities import Entities
from ..entities.rings import Rings, entities_from_rings
from .contours import type_codes, type_names
from .json_stream import check_file
from .pixels import LEVEL0, PixelFrame, keep_level0, pixel_frame
from .tables import type_words

__all__ = ["read_stardist", "star_polygons", "write_stardist"]

#: Polygons that are filled at a time.
_ROWS = 20_000

#: What there may be of each polygon beside its corners.
_EXTRA = ("prob", "class_id", "label")


def star_polygons(entities: Entities, n_rays: int = 32) -> dict[str, NDArray[Any]]:
    """Describe entities as StarDist does: a polygon whose corners lie on rays from the centre.

    A corner is where the ray from the centroid leaves the mask, so that what a ray does not see is lost: the format is
    made for convex shapes. Where the centroid is not in the mask, the pixel of the mask next to it is the centre.

    Parameters
    ----------
    entities : Entities
        With masks.
    n_rays : int
        Corners of a polygon, at least 3.

    Returns
    -------
    dict
        As StarDist's ``details``: ``coord`` (N, 2, R) float32 and ``points`` (N, 2) float32, both row then column in
        numbers of pixels, ``prob`` (N,) float32; also ``label`` (N,), ``mpp`` (), and ``class_id`` (N,) with
        ``class_names`` where the entities have types. ``prob`` is ``columns["prob"]``, 1 without.

    Raises
    ------
    ValueError
        There are no masks, or too few rays.

    Examples
    --------
    >>> square = Entities.from_instance_map(np.ones((5, 5), int), mpp=0.5)
    >>> star_polygons(square, n_rays=4)["coord"].round(4).tolist()
    [[[2.0, 4.5, 2.0, -0.5], [4.5, 2.0, -0.5, 2.0]]]
    """
    if entities.masks is None:
        raise ValueError("entities: expected masks, found rectangles; star polygons are for nuclei")
    if n_rays != int(n_rays) or n_rays < 3:
        raise ValueError(f"n_rays: expected a whole number of at least 3, found {n_rays}")
    masks = entities.masks
    centre = entities.centroid[:, ::-1] / entities.mpp
    angle = 2 * np.pi * np.arange(n_rays) / n_rays
    centre, coord = _cast(masks.bits, masks.pointers, masks.boxes, centre, np.sin(angle), np.cos(angle))
    prob = np.asarray(entities.columns.get("prob", np.ones(len(entities))))
    if prob.dtype.kind not in "biuf":
        raise ValueError(f"columns['prob']: expected numbers, found {prob.dtype}")
    prob = prob.astype(np.float32)
    result: dict[str, NDArray[Any]] = {
        "coord": coord,
        "points": (centre - 0.5).astype(np.float32),
        "prob": prob,
        "label": entities.label,
        "mpp": np.array(entities.mpp),
    }
    if "type" in entities.columns:
        codes = type_codes(entities, None)
        types = type_words(entities.columns["type"]).tolist()
        result["class_id"] = np.array([codes.get(name, 0) for name in types], np.int64)
        names = [""] * (max(codes.values(), default=0) + 1)
        for name, number in codes.items():
            names[number] = name
        result["class_names"] = np.array(names, np.str_)
    return result


def write_stardist(entities: Entities, path: str | os.PathLike[str], n_rays: int = 32) -> Path:
    """Write entities as StarDist polygons in an ``.npz`` file; see `star_polygons` for what is kept.

    Parameters
    ----------
    entities : Entities
        With masks.
    path : str or os.PathLike
        The file, ending in .npz.
    n_rays : int
        Corners of a polygon.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        The suffix is another, or as of `star_polygons`.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map(np.full((5, 5), 9), mpp=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_stardist(write_stardist(cells, Path(folder) / "a.npz")).label
    array([9])
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"path: expected a name that ends in .npz, found {path.name!r}")
    arrays = star_polygons(entities, n_rays)
    if LEVEL0 in entities.parameters:
        known = entities.parameters[LEVEL0]
        arrays[LEVEL0] = np.array([known["mpp"], known["offset_px"]], np.float64)
    with atomic_path(path) as part, part.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
    return path


def read_stardist(
    source: str | os.PathLike[str] | Mapping[str, Any],
    mpp: float | tuple[float, float] | None = None,
    *,
    offset_px: tuple[float, float] = (0.0, 0.0),
    types: Mapping[int, str] | Sequence[str] | None = None,
) -> Entities:
    """Take StarDist's polygons (``details`` of ``predict_instances``, or an ``.npz`` of it) as entities.

    A pixel belongs to a polygon when its centre lies inside. Overlaps are kept: each entity has its own mask.

    Parameters
    ----------
    source : str, os.PathLike or mapping
        ``coord`` (N, 2, R) row then column in numbers of pixels, and where there are: ``prob`` (N,), ``class_id`` (N,),
        ``label`` (N,) positive, unique.
    mpp : float or (float, float), optional
        µm per pixel of the image that StarDist saw. Needed unless `write_stardist` wrote the file.
    offset_px : (float, float)
        Where that image's corner lies on the canvas, x then y, in its pixels.
    types : mapping or sequence, optional
        Name of each ``class_id``; by default ``class_names`` of the file, else the number is the name. 0 is no type
        unless it has a name.

    Returns
    -------
    Entities
        Kind "cell"; labels as ``label``, else 1, 2, … as StarDist numbers them; ``columns["prob"]``, ``["type"]``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no such ``.npz``, arrays disagree in length, a number is not finite, or no mpp is known.

    Examples
    --------
    >>> coord = np.array([[[0, 0, 3, 3], [0, 4, 4, 0]]], float)
    >>> read_stardist({"coord": coord, "prob": [0.9]}, mpp=0.5).area
    array([3.])
    """
    arrays, where = (dict(source), "source") if isinstance(source, Mapping) else _load(check_file(source))
    if "coord" not in arrays:
        raise ValueError(f"{where}: expected an array 'coord' of StarDist, found {sorted(arrays)}")
    coord = np.asarray(arrays["coord"])
    if coord.dtype.kind not in "iuf" or coord.ndim != 3 or coord.shape[1] != 2 or coord.shape[2] < 3:
        raise ValueError(
            f"{where}: coord: expected numbers of shape (N, 2, rays), found {coord.dtype} {coord.shape}"
        )
    count = len(coord)
    for name in _EXTRA:
        if name in arrays and np.shape(arrays[name]) != (count,):
            raise ValueError(
                f"{where}: {name}: expected {count} values, one a polygon, found {np.shape(arrays[name])}"
            )
    bad = np.flatnonzero(~(np.abs(coord) < 2**40).all(axis=(1, 2)))  # NaN too
    if len(bad):
        raise ValueError(f"{where}, polygon {bad[0] + 1}: coord is not finite, or beyond any image")
    arrays |= {name: _numbers(arrays[name], name, where) for name in _EXTRA if name in arrays}
    known = arrays.get("mpp")
    frame = pixel_frame(mpp, None, offset_px, None if known is None else np.asarray(known).tolist(), where)
    label = np.asarray(arrays.get("label", np.arange(1, count + 1)))
    order = np.argsort(label, kind="stable")
    label = label[order]
    twice = np.flatnonzero(label[1:] == label[:-1])
    if len(twice):
        first, second = order[twice[0]] + 1, order[twice[0] + 1] + 1
        raise ValueError(
            f"{where}, polygon {second}: its label {label[twice[0]]} is that of polygon {first} too; give each its own"
        )
    parts = [
        _fill_polygons(coord, order[start : start + _ROWS], label[start : start + _ROWS], frame, where)
        for start in range(0, max(count, 1), _ROWS)
    ]
    found = Entities.concatenate(parts)
    if mpp is None and LEVEL0 in arrays:
        keep_level0(found.parameters, _two_pairs(arrays[LEVEL0]), where)
    if "prob" in arrays:
        found.columns["prob"] = arrays["prob"][order]
    if "class_id" in arrays:
        found.columns["type"] = _names(
            np.asarray(arrays["class_id"])[order], types, arrays.get("class_names"), where
        )
    return found


def _two_pairs(values: Any) -> Any:
    """Return the level-0 pixels as JSON has them, or what is there instead."""
    pairs = np.asarray(values)
    if pairs.shape != (2, 2) or pairs.dtype.kind != "f":
        return values
    return dict(zip(("mpp", "offset_px"), pairs.tolist(), strict=True))


def _numbers(values: Any, name: str, where: str) -> NDArray[Any]:
    """Check the numbers of polygons; labels and classes are whole."""
    found = np.asarray(values)
    if not len(found):
        return found.astype(np.float32 if name == "prob" else np.int64)
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{where}: {name}: expected numbers, found {found.dtype}")
    if name == "prob":
        return found.astype(np.float32)
    least = 1 if name == "label" else 0
    bad = np.flatnonzero(~((found >= least) & (found < 2**63) & (found == np.floor(found))))
    if len(bad):
        raise ValueError(
            f"{where}, polygon {bad[0] + 1}: {name}: expected a whole number of at least {least}, found "
            f"{found[bad[0]].item()!r}"
        )
    return found.astype(np.int64)


def _fill_polygons(
    coord: NDArray[Any], rows: NDArray[np.int64], label: NDArray[np.int64], frame: PixelFrame, where: str
) -> Entities:
    """Fill some of the polygons."""
    rays = coord.shape[2] + 1
    closed = np.concatenate([coord[rows], coord[rows][:, :, :1]], axis=2)
    points = frame.to_um(closed.transpose(0, 2, 1).reshape(-1, 2)[:, ::-1] + 0.5) / frame.mean_mpp
    each = np.arange(len(rows) + 1, dtype=np.int64)
    try:
        return entities_from_rings(
            Rings(points, rays * each, each, each),
            label,
            frame.mean_mpp,
            parameters={"finder": "stardist polygons"},
        )
    except IndexError as error:
        raise ValueError(
            f"{where}, polygon {rows[error.args[1]] + 1}: {error.args[0]}; check offset_px"
        ) from None


def _load(path: Path) -> tuple[dict[str, Any], str]:
    """Read the arrays of an .npz, never a pickle."""
    try:
        with path.open("rb") as handle:  # a handle of our own is closed even where the file is broken
            file = np.load(handle, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds one array")
            return {name: file[name] for name in file.files}, str(path)
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is not a whole .npz file of StarDist polygons ({error})") from error


def _names(numbers: NDArray[Any], types: Any, own: Any, where: str) -> NDArray[np.str_]:
    """Type of each polygon."""
    given = types if types is not None else None if own is None else np.asarray(own).tolist()
    table = {} if given is None else type_names(given)
    missing = [n for n in np.unique(numbers).tolist() if n not in table and n != 0]
    if given is not None and missing:
        raise ValueError(f"{where}: class_id {missing[0]} has no name; types has {sorted(table)}")
    return np.array([table.get(n, str(n) if n else "") for n in numbers.tolist()], np.str_)


@njit(cache=True, nogil=True)
def _cast(bits, pointers, boxes, centre, sine, cosine):  # type: ignore[no-untyped-def]
    """Follow rays from the centres to where they leave the masks: steps of a tenth of a pixel, then halves of one.

    The centres are in pixels from the corner of the canvas, the corners of polygons in numbers of pixels.
    """
    n, rays = len(boxes), len(sine)
    coord = np.empty((n, 2, rays), np.float32)
    centre = centre.copy()
    for i in range(n):
        height, width = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        mask = np.zeros((height + 2, width + 2), np.bool_)
        row_0, col_0 = boxes[i, 0] - 1, boxes[i, 1] - 1
        best, best_row, best_col = np.inf, 0, 0
        for bit in range(height * width):
            if bits[pointers[i] + (bit >> 3)] & (128 >> (bit & 7)) == 0:
                continue
            row, col = bit // width + 1, bit % width + 1
            mask[row, col] = True
            far = (row + row_0 + 0.5 - centre[i, 0]) ** 2 + (col + col_0 + 0.5 - centre[i, 1]) ** 2
            if far < best:
                best, best_row, best_col = far, row, col
        if not mask[int(np.floor(centre[i, 0])) - row_0, int(np.floor(centre[i, 1])) - col_0]:
            centre[i, 0], centre[i, 1] = best_row + row_0 + 0.5, best_col + col_0 + 0.5
        for k in range(rays):
            step = 0
            while True:
                row = int(np.floor(centre[i, 0] + 0.1 * (step + 1) * sine[k])) - row_0
                col = int(np.floor(centre[i, 1] + 0.1 * (step + 1) * cosine[k])) - col_0
                if not mask[row, col]:
                    break
                step += 1
            low, high = 0.1 * step, 0.1 * (step + 1)
            for _ in range(24):
                middle = (low + high) / 2
                row = int(np.floor(centre[i, 0] + middle * sine[k])) - row_0
                col = int(np.floor(centre[i, 1] + middle * cosine[k])) - col_0
                if mask[row, col]:
                    low = middle
                else:
                    high = middle
            coord[i, 0, k] = centre[i, 0] + high * sine[k] - 0.5
            coord[i, 1, k] = centre[i, 1] + high * cosine[k] - 0.5
    return centre, coord
