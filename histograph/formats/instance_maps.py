"""Instance maps: rasters in which every pixel holds the label of its object, as PNG, TIFF or NPY."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import atomic_path
from ..entities.entities import Entities, as_instance_map, assemble
from ..entities.masks import Masks, pack, unique_labels
from .json_stream import check_file
from .pixels import LEVEL0, keep_level0

__all__ = ["read_instance_map", "write_instance_map"]

MAP_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
_TILE = 256
_LOSSY = (6, 7, 34892)  # JPEG, old and new
_BAND = 1024


def read_instance_map(
    path: str | os.PathLike[str],
    mpp: float | None = None,
    kind: str | None = None,
    origin_um: tuple[float, float] = (0.0, 0.0),
) -> Entities:
    """Read a labelled raster (PNG, TIFF, NPY; 8 to 64 bits) as entities; labels are kept.

    A TIFF is read tile by tile and an NPY file band by band, so that a map of a whole slide is never held.

    Parameters
    ----------
    path : str or os.PathLike
        The file: one channel of whole numbers, 0 for background.
    mpp : float, optional
        µm per pixel. Needed unless `write_instance_map` wrote the TIFF.
    kind : {"cell", "tissue", "patch", "region"}, optional
        What the objects are; by default what the file says, else "cell".
    origin_um : (float, float)
        Where the map's corner lies on the canvas; whole pixels.

    Returns
    -------
    Entities

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        It is empty, damaged, has several channels or pages, holds no whole numbers, or has no known mpp.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 0], [4, 0, 70000]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_instance_map(cells, Path(folder) / "map.tif")
    ...     read_instance_map(file).label
    array([    4, 70000])
    """
    path = check_file(path)
    own: dict[str, Any] = {}
    if path.suffix.lower() in (".tif", ".tiff"):
        own = _own(path)
    found: dict[str, Any] = {"finder": "instance map", "file": path.name}
    if mpp is None:
        mpp = own.get("mpp")
        keep_level0(found, own.get(LEVEL0), str(path))
    if mpp is None:
        raise ValueError(f"mpp: {path} does not say how large its pixels are; give mpp=, µm per pixel")
    if not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp: expected a positive number of µm per pixel, found {mpp}")
    offset = _offset(origin_um, mpp)
    parts: list[tuple[NDArray[np.int64], Masks, NDArray[Any], NDArray[Any]]] = []
    height = width = 0
    for row, col, piece in _pieces(path):
        labelled = _labels(piece, path)
        height, width = max(height, row + labelled.shape[0]), max(width, col + labelled.shape[1])
        label = unique_labels(labelled)
        if len(label):
            masks, count, total = pack(labelled, label)
            boxes = masks.boxes + np.array([row, col, row, col])
            total = total + count[:, None] * np.array([row, col])
            parts.append((label, Masks(masks.bits, masks.pointers, boxes), count, total))
    kind = kind or str(own.get("kind", "cell"))
    return _assemble(parts, float(mpp), kind, offset, (height, width), found)


def _assemble(parts: Any, mpp: float, kind: str, offset: tuple[int, int], shape: Any, found: Any) -> Entities:
    """Put the pieces together: one entity a label, wherever its pixels lie."""
    if not parts:
        parts = [(np.zeros(0, np.int64), Masks.empty(), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))]
    label, group = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    masks = Masks.concatenate([part[1] for part in parts])
    count, total = np.zeros(len(label), np.int64), np.zeros((len(label), 2), np.int64)
    np.add.at(count, group, np.concatenate([part[2] for part in parts]))
    np.add.at(total, group, np.concatenate([part[3] for part in parts]))
    if len(label):
        masks = masks.union(group.astype(np.int64), len(label))
    return assemble(kind, label, masks, count, total, mpp, offset, found, shape)


def _offset(origin_um: tuple[float, float], mpp: float) -> tuple[int, int]:
    """Row and column of the map's corner on the raster."""
    exact = np.asarray(origin_um, np.float64)[::-1] / mpp
    whole = np.round(exact)
    if (np.abs(exact - whole) > 1e-3).any() or (whole < 0).any():
        raise ValueError(
            f"origin_um: expected x, y >= 0 and a whole number of pixels of {mpp} µm, found {origin_um}"
        )
    return int(whole[0]), int(whole[1])


def _labels(piece: Any, path: Path) -> NDArray[np.int64]:
    """Check a piece of a map."""
    try:
        return as_instance_map(piece)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


def _pieces(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Yield row, column and pixels of each piece of a map."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is not a whole NPY file ({error}); write it again") from error
        if not isinstance(values, np.ndarray):
            values.close()
            raise ValueError(f"{path} is an NPZ file, several arrays; save the map alone with numpy.save")
        if values.ndim != 2:
            raise ValueError(f"{path}: expected two axes (row, column), found shape {values.shape}")
        for row in range(0, values.shape[0], _BAND):
            yield row, 0, np.array(values[row : row + _BAND])
            values = np.load(path, mmap_mode="r", allow_pickle=False)  # anew, which gives the pages back
    elif suffix == ".png":
        yield 0, 0, _png(path)
    elif suffix in (".tif", ".tiff"):
        yield from _tiff(path)
    else:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(MAP_SUFFIXES)}")


def _png(path: Path) -> Any:
    import imagecodecs

    content = path.read_bytes()
    try:
        values = imagecodecs.png_decode(content)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole PNG file ({error}); write it again") from error
    if values.ndim != 2:
        raise ValueError(
            f"{path} has {values.shape[2]} channels; expected one, grey, whose values are the labels, not a picture"
        )
    bits = content[24]  # of the header; less than 8 are stretched to 0 … 255 by the decoder
    if bits == 1:
        raise TypeError(
            f"{path} holds yes and no, no labels; label its parts first, with skimage.measure.label"
        )
    return values // (255 // (2**bits - 1)) if bits < 8 else values


def _tiff(path: Path) -> Iterator[tuple[int, int, Any]]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = [s for s in file.series if s.kind != "thumbnail"]
            page: Any = file.pages[0]
            if (
                len(series) != 1
                or len(series[0].levels[0].pages) != 1
                or page.samplesperpixel != 1
                or page.ndim != 2
            ):
                raise ValueError(
                    f"{path} has shape {series[0].shape}; expected one page with one channel whose values are labels"
                )
            if page.compression in _LOSSY:
                raise ValueError(
                    f"{path} is compressed as a picture (JPEG), which changes labels; write it without loss, as PNG"
                )
            for values, position, shape in page.segments():
                row, col = position[-3], position[-2]
                height = min(shape[-3], page.imagelength - row)
                width = min(shape[-2], page.imagewidth - col)
                if values is None:
                    values = np.zeros((1, height, width, 1), page.dtype)
                yield row, col, values[0, :height, :width, 0]
    except (tifffile.TiffFileError, RuntimeError, OSError, IndexError) as error:
        raise ValueError(f"{path} is not a whole TIFF file ({error}); write it again") from error


def _own(path: Path) -> dict[str, Any]:
    """Return what `write_instance_map` has left in a TIFF."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            first: Any = file.pages[0]
            found = json.loads(first.description)["histograph"]
    except (ValueError, KeyError, TypeError):
        return {}
    except (tifffile.TiffFileError, OSError, IndexError) as error:
        raise ValueError(f"{path} is not a whole TIFF file ({error}); write it again") from error
    return found if isinstance(found, dict) else {}


def write_instance_map(
    entities: Entities,
    path: str | os.PathLike[str],
    window_um: tuple[float, float, float, float] | None = None,
) -> Path:
    """Write entities as a labelled raster on their own pixels: PNG, TIFF (tiled, compressed) or NPY.

    TIFF and NPY are written band by band, so that the map of a whole slide is never held. Of entities that overlap
    the larger label is drawn, as in `Entities.instance_map`.

    Parameters
    ----------
    entities : Entities
        What to draw.
    path : str or os.PathLike
        The file, ending in .png, .tif, .tiff or .npy. A TIFF also keeps the mpp.
    window_um : tuple of float, optional
        ``x, y, width, height``; by default the whole extent from the canvas origin.

    Returns
    -------
    Path
        The file: uint16, or uint32 where a label needs it; NPY holds int64 where even that is too small.

    Raises
    ------
    ValueError
        The suffix is another, or labels do not fit the format: PNG holds 65,535, TIFF 2^32 - 1.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 0, 70000]], mpp=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_instance_map(cells, Path(folder) / "map.png")
    Traceback (most recent call last):
    ...
    ValueError: label: a PNG holds labels up to 65,535, found 70,000; write a .tif or .npy
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MAP_SUFFIXES:
        raise ValueError(f"path: expected a name that ends in {', '.join(MAP_SUFFIXES)}, found {path.name!r}")
    top = int(entities.label[-1]) if len(entities) else 0
    if suffix == ".png" and top > 0xFFFF:
        raise ValueError(f"label: a PNG holds labels up to 65,535, found {top:,}; write a .tif or .npy")
    if suffix != ".npy" and top > 0xFFFFFFFF:
        raise ValueError(f"label: a TIFF holds labels up to 2^32 - 1, found {top:,}; write a .npy")
    dtype: Any = np.uint16 if top <= 0xFFFF else np.uint32 if top <= 0xFFFFFFFF else np.int64
    row, col, height, width = entities._window(window_um)
    if height < 1 or width < 1:
        if window_um is None:
            raise ValueError(
                "entities: there are none, and it is not known how large the slide is (extent_um); a map needs a size, "
                "so give window_um"
            )
        raise ValueError(
            f"window_um: expected at least one pixel, found {width} x {height}; give a larger window_um"
        )
    window = row, col, height, width
    with atomic_path(path) as part:
        if suffix == ".png":
            import imagecodecs

            part.write_bytes(imagecodecs.png_encode(next(_bands(entities, window, height)).astype(dtype)))
        elif suffix == ".npy":
            with part.open("wb") as handle:
                head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(handle, {**head, "shape": (height, width)})
                for band in _bands(entities, window, _BAND):
                    handle.write(band.astype(dtype).tobytes())
        else:
            _write_tiff(entities, part, window, dtype)
    return path


def _bands(entities: Entities, window: tuple[int, int, int, int], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the map in bands of some rows."""
    row, col, height, width = window
    for start in range(0, height, rows):
        band = min(rows, height - start)
        place = np.array([col, row + start, width, band]) * entities.mpp
        yield entities.instance_map(tuple(place.tolist()))  # type: ignore[arg-type]


def _write_tiff(entities: Entities, path: Path, window: tuple[int, int, int, int], dtype: Any) -> None:
    """Write a tiled TIFF whose tiles come from bands."""
    import tifffile

    _, _, height, width = window
    own: dict[str, Any] = {"mpp": entities.mpp, "kind": entities.kind}
    if LEVEL0 in entities.parameters:
        own[LEVEL0] = entities.parameters[LEVEL0]
    per_cm = 1e4 / entities.mpp
    with tifffile.TiffWriter(path, bigtiff=height * width * np.dtype(dtype).itemsize > 2**31) as writer:
        writer.write(
            _tiles(entities, window, dtype),
            shape=(height, width),
            dtype=dtype,
            tile=(_TILE, _TILE),
            compression="zlib",
            photometric="minisblack",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            description=json.dumps({"histograph": own}),
            metadata=None,
        )


def _tiles(entities: Entities, window: tuple[int, int, int, int], dtype: Any) -> Iterator[NDArray[Any]]:
    """Yield the tiles of a TIFF row by row."""
    for band in _bands(entities, window, _TILE):
        for col in range(0, band.shape[1], _TILE):
            tile = np.zeros((_TILE, _TILE), dtype)
            piece = band[:, col : col + _TILE]
            tile[: piece.shape[0], : piece.shape[1]] = piece
            yield tile
