"""One slide behind one interface: sizes in µm, regions at any resolution, thumbnail, tissue, tiles."""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .levels import level_scale
from .reader import Reader
from .resample import AxisWeights, axis_weights, resample

if TYPE_CHECKING:
    from .tiles import TileGrid
    from .tissue import TissueMask

__all__ = ["Slide"]

_BLOCK_PIXELS = 4096 * 4096
_TOLERANCE = 1e-6


class Slide:
    """A slide open for reading; made by `open_slide`.

    Lengths and places are micrometres from the top-left corner of the full level-0 canvas, x then y. A slide
    may be read by several threads, and a pickled slide opens its file again where it is unpickled (an array
    travels with it).

    Parameters
    ----------
    reader : Reader
        Pixels of the levels, the largest first.
    mpp : tuple of float
        Micrometres per level-0 pixel, (x, y).
    slide_id : str
        Name of the slide.
    path : pathlib.Path, optional
        The file, if there is one.
    mpp_given : tuple of float, optional
        The mpp that the caller gave instead of the file's.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5)
    >>> slide.read_region(0, 0, 4, 2, mpp=1.0).shape
    (2, 4, 3)
    """

    def __init__(
        self,
        reader: Reader,
        mpp: tuple[float, float],
        slide_id: str,
        path: Path | None = None,
        mpp_given: tuple[float, float] | None = None,
    ) -> None:
        self._reader = reader
        self._mpp_given = mpp_given
        self.mpp = mpp
        self.slide_id = slide_id
        self.path = path
        self._closed = False
        self.level_dimensions = tuple((int(w), int(h)) for w, h in reader.level_dimensions)
        self._scales = [level_scale(self.level_dimensions[0], size) for size in self.level_dimensions]

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height of level 0, pixels."""
        return self.level_dimensions[0]

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height of the canvas, µm."""
        return self.dimensions[0] * self.mpp[0], self.dimensions[1] * self.mpp[1]

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level (mean of x and y)."""
        return tuple((x + y) / 2 for x, y in self._scales)

    @property
    def offset_px(self) -> tuple[float, float]:
        """Where the scanned part begins on the canvas, (x, y) in level-0 pixels; QuPath counts from there."""
        x, y = (float(self._reader.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        return x, y

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file says about itself, as text."""
        return dict(self._reader.properties)

    def level_mpp(self, level: int) -> tuple[float, float]:
        """Micrometres per pixel of a level, (x, y).

        Parameters
        ----------
        level : int
            0 is the finest.

        Returns
        -------
        tuple of float
            Pixel size along x and y, µm.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> open_slide(np.zeros((8, 8, 3), np.uint8), mpp=(0.5, 0.25)).level_mpp(0)
        (0.5, 0.25)
        """
        scale_x, scale_y = self._scales[level]
        return self.mpp[0] * scale_x, self.mpp[1] * scale_y

    def read_region(
        self, x_um: float, y_um: float, width_um: float, height_um: float, mpp: float | None = None
    ) -> np.ndarray:
        """Pixels of a rectangle at a chosen resolution, with square pixels.

        Output pixel (r, c) covers [x_um + c mpp, x_um + (c+1) mpp) x [y_um + r mpp, y_um + (r+1) mpp). The
        coarsest level that is at least as fine as `mpp` is averaged over these areas; finer than level 0 is
        bilinear. Pixels outside the slide are white. A region cut along output pixels and put together again
        is the same, bit by bit.

        Parameters
        ----------
        x_um, y_um : float
            Top-left corner, µm; may lie outside the slide.
        width_um, height_um : float
            Size, µm; the result has round(size / mpp) pixels.
        mpp : float, optional
            Micrometres per output pixel; the mean of the level-0 mpp if not given.

        Returns
        -------
        numpy.ndarray
            (height, width, 3) uint8 RGB.

        Raises
        ------
        ValueError
            If a number is not finite, mpp is not positive, the region is smaller than half an output pixel,
            or the slide is closed or damaged.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> image = np.arange(16, dtype=np.uint8).reshape(4, 4)
        >>> open_slide(image, mpp=0.5).read_region(0, 0, 2, 2, mpp=1.0)[..., 0]
        array([[ 3,  5],
               [11, 13]], dtype=uint8)
        """
        if self._closed:
            raise ValueError(f"slide {self.slide_id!r} is closed; open it again with open_slide")
        target = self._target_mpp(mpp)
        for name, value in (("x_um", x_um), ("y_um", y_um), ("width_um", width_um), ("height_um", height_um)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number of micrometres, found {value}")
        width, height = _pixels(width_um, target), _pixels(height_um, target)
        if width < 1 or height < 1:
            raise ValueError(
                f"the region of {width_um} x {height_um} µm has {width} x {height} pixels at mpp {target}; "
                "expected at least one. Give a larger width_um and height_um, or a smaller mpp."
            )
        level = self._level_for(target)
        mpp_x, mpp_y = self.level_mpp(level)
        w, h = self.level_dimensions[level]
        x = axis_weights(x_um / target, width, target / mpp_x, w)
        y = axis_weights(y_um / target, height, target / mpp_y, h)
        return self._resampled(level, x, y)

    def _target_mpp(self, mpp: float | None) -> float:
        if mpp is None:
            return self.mpp[0] if self.mpp[0] == self.mpp[1] else (self.mpp[0] + self.mpp[1]) / 2
        if not (math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"mpp must be a positive number of micrometres per pixel, found {mpp}")
        return float(mpp)

    def _level_for(self, target: float) -> int:
        """Return the coarsest level whose pixels are no larger than the target's; level 0 if none is."""
        fitting = [i for i in range(len(self._scales)) if max(self.level_mpp(i)) <= target * (1 + _TOLERANCE)]
        return max(
            fitting, key=lambda i: self.level_dimensions[0][0] / self.level_dimensions[i][0], default=0
        )

    def _resampled(self, level: int, x: AxisWeights, y: AxisWeights) -> np.ndarray:
        """Read and resample, in blocks when the source pixels are too many to hold at once."""
        (x0, x1), (y0, y1) = x.span, y.span
        if (x1 - x0) * (y1 - y0) <= _BLOCK_PIXELS or len(x.first) * len(y.first) == 1:
            return resample(self._padded(level, x0, y0, x1, y1), (x0, y0), x, y)
        if (x1 - x0 > y1 - y0 and len(x.first) > 1) or len(y.first) == 1:
            left, right = x.halves()
            return np.concatenate([self._resampled(level, left, y), self._resampled(level, right, y)], axis=1)
        upper, lower = y.halves()
        return np.concatenate([self._resampled(level, x, upper), self._resampled(level, x, lower)], axis=0)

    def _padded(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Read pixels of a level: white off the canvas, the border repeated where the level stops short."""
        w, h = self.level_dimensions[level]
        a, b, c, d = max(x0, 0), max(y0, 0), min(x1, w), min(y1, h)
        if (a, b, c, d) == (x0, y0, x1, y1):
            return self._reader.read(level, x0, y0, x1 - x0, y1 - y0)
        out = np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
        full_w, full_h = self._canvas(level)
        a, b, c, d = min(a, w - 1), min(b, h - 1), min(x1, full_w), min(y1, full_h)
        if max(x0, 0) >= c or max(y0, 0) >= d:
            return out
        inside = self._reader.read(level, a, b, max(min(c, w) - a, 1), max(min(d, h) - b, 1))
        columns = np.minimum(np.arange(max(x0, 0), c), w - 1) - a
        rows = np.minimum(np.arange(max(y0, 0), d), h - 1) - b
        piece = inside if (len(rows), len(columns)) == inside.shape[:2] else inside[rows[:, None], columns]
        out[max(y0, 0) - y0 : d - y0, max(x0, 0) - x0 : c - x0] = piece
        return out

    def _canvas(self, level: int) -> tuple[int, int]:
        """Pixels of a level that the canvas would fill: a level rounded down stops short of it."""
        (w, h), (sx, sy) = self.level_dimensions[level], self._scales[level]
        return max(w, math.ceil(self.dimensions[0] / sx)), max(h, math.ceil(self.dimensions[1] / sy))

    def thumbnail(self, max_px: int = 512) -> np.ndarray:
        """Return the whole slide in a small image with square pixels.

        Parameters
        ----------
        max_px : int
            Length of the longer side, pixels, at least 1.

        Returns
        -------
        numpy.ndarray
            (h, w, 3) uint8 RGB.

        Raises
        ------
        ValueError
            If max_px is below 1.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> open_slide(np.zeros((50, 100, 3), np.uint8), mpp=0.5).thumbnail(20).shape
        (10, 20, 3)
        """
        if max_px < 1:
            raise ValueError(f"max_px must be at least 1, found {max_px}")
        width, height = self.size_um
        mpp = max(width, height) / max_px
        return self.read_region(0, 0, max(width, mpp), max(height, mpp), mpp)

    def tissue_mask(self, mpp: float = 8.0, **options: Any) -> "TissueMask":
        """Find the tissue; see `histograph.slides.tissue_mask` for the options.

        Parameters
        ----------
        mpp : float
            Micrometres per pixel of the mask.
        **options
            Passed on.

        Returns
        -------
        TissueMask
            Where the tissue is.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> open_slide(np.full((64, 64, 3), 255, np.uint8), mpp=4.0).tissue_mask().area_um2
        0.0
        """
        from .tissue import tissue_mask

        return tissue_mask(self, mpp=mpp, **options)

    def tiles(
        self,
        size: float,
        mpp: float | None = None,
        overlap: float = 0.0,
        mask: "TissueMask | None" = None,
        min_tissue: float | None = None,
    ) -> "TileGrid":
        """Cut the slide into equal squares.

        Parameters
        ----------
        size : float
            Side of a tile, µm.
        mpp : float, optional
            Micrometres per pixel of the images; the mean of the level-0 mpp if not given.
        overlap : float
            How far neighbours overlap, µm, in [0, size).
        mask : TissueMask, optional
            Keep only tiles with tissue.
        min_tissue : float, optional
            Least share of a tile that the mask must cover, 0..1; 0.5 if not given. Only with `mask`.

        Returns
        -------
        TileGrid
            Tiles, row by row.

        Raises
        ------
        ValueError
            If a number is out of its range, or `min_tissue` is given without `mask`.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> len(open_slide(np.zeros((100, 100, 3), np.uint8), mpp=0.5).tiles(size=20))
        9
        """
        from .tiles import TileGrid

        return TileGrid.covering(self, size, self._target_mpp(mpp), overlap, mask, min_tissue)

    def close(self) -> None:
        """Release the file; reading afterwards is an error."""
        self._closed = True
        self._reader.close()

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., "Slide"], tuple[Any, ...]]:
        if self.path is not None:
            return _reopen, (str(self.path.absolute()), self._mpp_given, self.slide_id)
        return Slide, (self._reader, self.mpp, self.slide_id)

    def __repr__(self) -> str:
        (w, h), (x, y) = self.dimensions, self.mpp
        levels = len(self.level_dimensions)
        return f"Slide({self.slide_id!r}, {w} x {h} px, mpp ({x:g}, {y:g}), {levels} level(s))"

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        Image.fromarray(self.thumbnail(256)).save(buffer, "JPEG", quality=80)
        picture = base64.b64encode(buffer.getvalue()).decode()
        (w, h), (w_um, h_um) = self.dimensions, self.size_um
        levels = ", ".join(f"{d:.4g}" for d in self.level_downsamples)
        facts = {
            "slide": self.slide_id,
            "file": str(self.path) if self.path is not None else "in memory",
            "size": f"{w} x {h} px, {w_um / 1000:.3g} x {h_um / 1000:.3g} mm",
            "mpp": f"{self.mpp[0]:.4g} x {self.mpp[1]:.4g} µm" + (" (given)" if self._mpp_given else ""),
            "downsamples": levels,
            "format": self.properties.get("openslide.vendor") or self.properties.get("histograph.reader", ""),
        }
        rows = "".join(
            f"<tr><th style='text-align:left'>{k}</th><td>{html.escape(v)}</td></tr>"
            for k, v in facts.items()
        )
        return (
            "<div style='display:flex;gap:1em;align-items:center'>"
            f"<img alt='thumbnail' src='data:image/jpeg;base64,{picture}'/><table>{rows}</table></div>"
        )


def _reopen(path: str, mpp: tuple[float, float] | None, slide_id: str) -> Slide:
    from .open import open_slide

    return open_slide(path, mpp, slide_id=slide_id)


def _pixels(length_um: float, mpp: float) -> int:
    """round(length / mpp), halves up, with no other answer when the quotient is off by rounding."""
    return math.floor(length_um / mpp + 0.5 + 1e-9)
