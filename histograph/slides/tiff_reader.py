"""TIFF files that OpenSlide refuses: flat TIFF, OME-TIFF with its pyramids, unusual compressions, 16 bit.

Only the tiles or strips that a region touches are read and decoded. The file is read behind a lock, the
decoding is not.
"""

import threading
import weakref
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from .reader import composite, physical_mpp, to_uint8
from .tiff_planes import check_one_plane, check_pixels, plane_size

__all__ = ["TiffReader"]

_CACHE_BYTES = 128 * 2**20
_UM = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "\\u00b5m": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
}


class TiffReader:
    """Pixels of the largest image series of a TIFF file, with its pyramid levels.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If the file is truncated, or its pixels are not grey, RGB or RGBA of 8 or 16 bits in a single plane.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "flat.tif"
    ...     tifffile.imwrite(path, np.zeros((2, 3, 3), np.uint8), photometric="rgb")
    ...     reader = TiffReader(path)
    ...     reader.level_dimensions, reader.read(0, 1, 0, 2, 2).shape
    ...     reader.close()
    ([(3, 2)], (2, 2, 3))
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, ValueError, OSError, KeyError, IndexError) as error:
            raise ValueError(
                f"{path} is not a readable TIFF ({error}); it is damaged or truncated"
            ) from error
        with ExitStack() as stack:  # a file that is refused is closed again
            stack.callback(self._file.close)
            self._open_levels()
            stack.pop_all()
        # A slide that is dropped without being closed must not leave its file open.
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._segments: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0
        self._maps: dict[tuple[int, int], np.ndarray] = {}

    def _open_levels(self) -> None:
        if not self._file.pages:
            raise ValueError(f"{self._path} holds no image; it is damaged or truncated")
        images = [s for s in self._file.series if not s.keyframe.is_mask] or self._file.series
        series = max(images, key=lambda s: plane_size(s)[0] * plane_size(s)[1])
        check_one_plane(self._file, self._path, series, images)
        self._levels = [[p.aspage() for p in level.pages if p is not None] for level in series.levels]
        self.level_dimensions = [plane_size(level) for level in series.levels]
        self._check()
        order = np.argsort([-w for w, _ in self.level_dimensions], kind="stable")
        self._levels = [self._levels[i] for i in order]
        self.level_dimensions = [self.level_dimensions[i] for i in order]
        page = self._levels[0][0]
        self.properties = {
            "histograph.reader": "tifffile",
            "tiff.compression": tifffile.COMPRESSION(page.compression).name,
            "tiff.photometric": tifffile.PHOTOMETRIC(page.photometric).name,
            "tiff.bits": str(page.bitspersample),
            "tiff.axes": series.axes,
        }
        if page.description:
            self.properties["tiff.ImageDescription"] = page.description
        self.mpp = _ome_mpp(self._file, series) or _tag_mpp(self._file, page)

    def _check(self) -> None:
        for pages in self._levels:
            check_pixels(pages, self._path)
            end = max((o + n for p in pages for o, n in zip(p.dataoffsets, p.databytecounts)), default=0)
            if end > self._file.filehandle.size:
                raise ValueError(
                    f"{self._path} is truncated: its pixels reach to byte {end}, the file has "
                    f"{self._file.filehandle.size}. Copy it again."
                )

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, (height, width, 3) uint8; transparent ones become white."""
        pages = self._levels[level]
        planes = [self._read_page(level, k, x, y, width, height) for k in range(len(pages))]
        return self._to_rgb(np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0], pages[0])

    def _read_page(self, level: int, index: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        page = self._levels[level][index]
        if page.is_memmappable:
            return self._mapped(level, index)[y : y + height, x : x + width].astype(
                np.dtype(page.dtype).newbyteorder("=")
            )
        tile_w = page.tilewidth if page.is_tiled else page.imagewidth
        tile_h = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        across, down = -(-page.imagewidth // tile_w), -(-page.imagelength // tile_h)
        separate = page.planarconfig is not None and page.planarconfig == 2 and page.samplesperpixel > 1
        samples = page.samplesperpixel
        out = np.zeros((height, width, samples), page.dtype)
        for plane in range(samples if separate else 1):
            target = out[..., plane : plane + 1] if separate else out
            for ty in range(y // tile_h, (y + height - 1) // tile_h + 1):
                for tx in range(x // tile_w, (x + width - 1) // tile_w + 1):
                    segment = self._segment(level, index, plane * across * down + ty * across + tx)
                    top, left = max(y, ty * tile_h), max(x, tx * tile_w)
                    piece = segment[
                        top - ty * tile_h : y + height - ty * tile_h,
                        left - tx * tile_w : x + width - tx * tile_w,
                    ]
                    target[top - y : top - y + piece.shape[0], left - x : left - x + piece.shape[1]] = piece
        return out

    def _mapped(self, level: int, index: int) -> np.ndarray:
        """Map an uncompressed page, (h, w, samples), so that a strip of gigabytes is never read whole."""
        page = self._levels[level][index]
        with self._lock:
            if (level, index) not in self._maps:
                separate, _, height, width, samples = page.shaped[-5:]
                flat = page.asarray(out="memmap").reshape(separate, height, width, samples)
                self._maps[level, index] = np.moveaxis(flat[..., 0], 0, -1) if separate > 1 else flat[0]
            return self._maps[level, index]

    def _segment(self, level: int, index: int, number: int) -> np.ndarray:
        key = (level, index, number)
        page = self._levels[level][index]
        with self._lock:
            if key in self._segments:
                self._segments.move_to_end(key)
                return self._segments[key]
            offset, count = page.dataoffsets[number], page.databytecounts[number]
            data = None
            if count > 0:
                self._file.filehandle.seek(offset)
                data = self._file.filehandle.read(count)
        try:
            decoded, _, shape = page.decode(
                data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader
            )
        except (ValueError, RuntimeError, OSError, tifffile.TiffFileError) as error:
            raise ValueError(
                f"cannot decode tile {number} of level {level} of {self._path} ({error}); the file is damaged"
            ) from error
        if decoded is None:  # a sparse file: the tile was never written
            decoded = np.full(shape, page.nodata, page.dtype)
        segment = decoded[0]
        with self._lock:
            if key not in self._segments:
                self._segments[key] = segment
                self._kept_bytes += segment.nbytes
            while self._kept_bytes > _CACHE_BYTES and len(self._segments) > 1:
                self._kept_bytes -= self._segments.popitem(last=False)[1].nbytes
        return segment

    def _to_rgb(self, image: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
        if tifffile.PHOTOMETRIC(page.photometric).name == "PALETTE" and page.colormap is not None:
            return to_uint8(np.moveaxis(page.colormap, 0, -1)[image[..., 0]], str(self._path))
        image = to_uint8(image, str(self._path))
        if tifffile.PHOTOMETRIC(page.photometric).name == "MINISWHITE":
            image = np.uint8(255) - image
        if image.shape[2] == 1:
            return np.repeat(image, 3, axis=2)
        if image.shape[2] == 4:
            kind = tifffile.EXTRASAMPLE(page.extrasamples[0]).name if page.extrasamples else "UNSPECIFIED"
            if kind == "UNSPECIFIED":  # the fourth sample is not declared to be transparency
                return np.ascontiguousarray(image[..., :3])
            return composite(image, premultiplied=kind == "ASSOCALPHA")
        return image

    def close(self) -> None:
        """Release the file and the kept tiles."""
        with self._lock:
            self._segments.clear()
            self._maps.clear()
            self._kept_bytes = 0
            self._file.close()


def _ome_mpp(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    """Return PhysicalSizeX and PhysicalSizeY of the OME image that is the series, in µm."""
    if not file.is_ome or file.ome_metadata is None:
        return None
    root = ElementTree.fromstring(file.ome_metadata)
    width, height = plane_size(series)
    for pixels in root.iterfind(".//{*}Image/{*}Pixels"):
        if (pixels.get("SizeX"), pixels.get("SizeY")) != (str(width), str(height)):
            continue
        x, y = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")
        unit_x, unit_y = pixels.get("PhysicalSizeXUnit", "µm"), pixels.get("PhysicalSizeYUnit", "µm")
        if x and y and unit_x in _UM and unit_y in _UM:
            return physical_mpp(float(x) * _UM[unit_x], float(y) * _UM[unit_y])
    return None


def _tag_mpp(file: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return the pixel size of the resolution tags, if they are in a unit of length and credible."""
    values = [page.tags.valueof(name) for name in ("XResolution", "YResolution")]
    if any(v is None or 0 in v for v in values):
        return None
    per_unit = [v[0] / v[1] for v in values]
    unit_um = {"INCH": 25400.0, "CENTIMETER": 10000.0}.get(
        getattr(page.tags.valueof("ResolutionUnit"), "name", "INCH")
    )
    if file.is_imagej and file.imagej_metadata:
        unit_um = _UM.get(str(file.imagej_metadata.get("unit", "")).lower())
    if unit_um is None:
        return None
    return physical_mpp(unit_um / per_unit[0], unit_um / per_unit[1])
