"""Slides that OpenSlide reads: Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM, tiled TIFF."""

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import openslide

from .reader import composite, physical_mpp

__all__ = ["OpenSlideReader"]

_BLOCK = 512
_CACHED_BLOCKS = 96


class OpenSlideReader:
    """Pixels of a slide through OpenSlide, whose handle may be shared by threads.

    OpenSlide takes the corner of a region in level-0 pixels. Where the downsample is not a whole number that
    corner falls between two pixels of the level, and OpenSlide interpolates; a pixel would then depend on the
    region it was read in. Such levels are therefore read in blocks at fixed places, which are kept for a
    while.

    Parameters
    ----------
    path : pathlib.Path
        The slide.

    Raises
    ------
    openslide.OpenSlideError
        If OpenSlide does not read it.

    Examples
    --------
    >>> from importlib.resources import as_file, files
    >>> with as_file(files("histograph.bundled") / "CMU-1-Small-Region.svs") as path:
    ...     reader = OpenSlideReader(path)
    >>> reader.mpp, reader.read(0, 0, 0, 4, 3).shape
    ((0.499, 0.499), (3, 4, 3))
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = openslide.OpenSlide(path)
        self.properties = dict(self._handle.properties)
        self.level_dimensions = list(self._handle.level_dimensions)
        self._downsamples = list(self._handle.level_downsamples)
        self._background = _hex_colour(
            self.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        )
        self.mpp = self._stated_mpp()
        self._blocks: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def _stated_mpp(self) -> tuple[float, float] | None:
        x = self.properties.get(openslide.PROPERTY_NAME_MPP_X)
        y = self.properties.get(openslide.PROPERTY_NAME_MPP_Y)
        if x is None or y is None:
            return None
        try:
            return physical_mpp(float(x), float(y))
        except ValueError:
            return None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, (height, width, 3) uint8; transparent ones take the slide's background."""
        downsample = self._downsamples[level]
        if downsample == round(downsample):
            return self._direct(level, x, y, width, height)
        out = np.empty((height, width, 3), np.uint8)
        for by in range(y // _BLOCK, (y + height - 1) // _BLOCK + 1):
            for bx in range(x // _BLOCK, (x + width - 1) // _BLOCK + 1):
                block = self._block(level, bx, by)
                top, left = max(y, by * _BLOCK), max(x, bx * _BLOCK)
                piece = block[
                    top - by * _BLOCK : y + height - by * _BLOCK, left - bx * _BLOCK : x + width - bx * _BLOCK
                ]
                out[top - y : top - y + piece.shape[0], left - x : left - x + piece.shape[1]] = piece
        return out

    def _block(self, level: int, bx: int, by: int) -> np.ndarray:
        key = (level, bx, by)
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        w, h = self.level_dimensions[level]
        x, y = bx * _BLOCK, by * _BLOCK
        block = self._direct(level, x, y, min(_BLOCK, w - x), min(_BLOCK, h - y))
        with self._lock:
            self._blocks[key] = block
            while len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return block

    def _direct(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        downsample = self._downsamples[level]
        corner = (round(x * downsample), round(y * downsample))
        try:
            image = self._handle.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            raise ValueError(
                f"cannot read pixels of {self._path} at level {level}, x {x}, y {y} ({error}); "
                "the file is probably truncated or damaged, copy it again"
            ) from error
        return composite(np.asarray(image), self._background)

    def close(self) -> None:
        """Release the file and the kept blocks."""
        self._blocks.clear()
        self._handle.close()


def _hex_colour(text: str) -> tuple[int, int, int]:
    value = int(text.lstrip("#"), 16)
    return (value >> 16) & 255, (value >> 8) & 255, value & 255
