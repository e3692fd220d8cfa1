"""The pixels that a file counts in, and the way between them and micrometres on the canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..slides import Slide


@dataclass(frozen=True)
class PixelFrame:
    """How large the pixels of a file are, and where its origin lies.

    Parameters
    ----------
    mpp : (float, float)
        Micrometres per pixel of the file, x and y.
    offset_px : (float, float)
        Where the file's origin lies on the canvas, in pixels of the file, x and y.

    Examples
    --------
    >>> frame = PixelFrame((0.5, 0.5), (100.0, 0.0))
    >>> frame.to_um(np.array([[10.0, 20.0]])), frame.to_px(np.array([[55.0, 10.0]]))
    (array([[55., 10.]]), array([[10., 20.]]))
    """

    mpp: tuple[float, float]
    offset_px: tuple[float, float] = (0.0, 0.0)

    def to_um(self, points_px: NDArray[Any]) -> NDArray[np.float64]:
        """Return micrometres on the canvas.

        Parameters
        ----------
        points_px : ndarray, (P, 2)
            ``x, y`` as in the file.

        Returns
        -------
        ndarray, (P, 2) float64

        Examples
        --------
        >>> PixelFrame((0.5, 0.25)).to_um(np.array([[2, 4]]))
        array([[1., 1.]])
        """
        return (np.asarray(points_px, np.float64) + self.offset_px) * self.mpp

    def to_px(self, points_um: NDArray[Any]) -> NDArray[np.float64]:
        """Return pixels as the file counts them.

        Parameters
        ----------
        points_um : ndarray, (P, 2)
            ``x, y`` on the canvas.

        Returns
        -------
        ndarray, (P, 2) float64

        Examples
        --------
        >>> PixelFrame((0.5, 0.25)).to_px(np.array([[1, 1]]))
        array([[2., 4.]])
        """
        return np.asarray(points_um, np.float64) / self.mpp - self.offset_px

    @property
    def mean_mpp(self) -> float:
        """Mean of the two pixel sizes, the raster that polygons are filled on unless another is asked for."""
        return self.mpp[0] if self.mpp[0] == self.mpp[1] else (self.mpp[0] + self.mpp[1]) / 2


def pixel_frame(
    mpp: Any,
    slide: Slide | None,
    offset_px: tuple[float, float] | None,
    known: Any = None,
    where: str = "",
) -> PixelFrame:
    """Settle the pixel size and the offset of a file from what the caller and the file say.

    Parameters
    ----------
    mpp : float, (float, float) or None
        µm per pixel of the file, from the caller. It goes before what the file says.
    slide : Slide, optional
        Gives its mpp, and as offset its ``openslide.bounds-x`` and ``-y``, for QuPath counts pixels from there.
    offset_px : (float, float), optional
        Goes before the slide's.
    known : (float, float), optional
        The mpp that the file or graph holds.
    where : str
        The file, for messages.

    Returns
    -------
    PixelFrame

    Raises
    ------
    ValueError
        No mpp is known, mpp and slide are both given, or a number is out of range.

    Examples
    --------
    >>> pixel_frame(0.25, None, None).mpp
    (0.25, 0.25)
    >>> pixel_frame(None, None, None)
    Traceback (most recent call last):
    ...
    ValueError: mpp: pixels of a file have no size of their own; give mpp=, µm per pixel of the file, or slide=
    """
    start = f"{where}: " if where else ""
    if slide is not None and mpp is not None:
        raise ValueError(f"{start}mpp and slide: a slide has an mpp already; give one of them")
    value = slide.mpp if slide is not None else known if mpp is None else mpp
    if value is None:
        raise ValueError(
            f"{start}mpp: pixels of a file have no size of their own; give mpp=, µm per pixel of the file, or slide="
        )
    pair = _pair(value, f"{start}mpp")
    if min(pair) <= 0:
        raise ValueError(f"{start}mpp: expected positive µm per pixel, found {value!r}")
    if offset_px is None and slide is not None:
        offset_px = slide_bounds(slide)
    return PixelFrame(pair, _pair((0.0, 0.0) if offset_px is None else offset_px, f"{start}offset_px"))


def slide_bounds(slide: Slide) -> tuple[float, float]:
    """Return where the scanned part of a slide begins, in level-0 pixels; (0, 0) where the slide does not say.

    Parameters
    ----------
    slide : Slide
        The slide.

    Returns
    -------
    (float, float)
        x, y.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> slide_bounds(open_slide(np.zeros((2, 2, 3), np.uint8), mpp=0.5))
    (0.0, 0.0)
    """
    x, y = (float(slide.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    return x, y


def raster_size(raster_mpp: float | None, frame: PixelFrame, known: float | None = None) -> float:
    """Settle the pixel size of the raster on which polygons are filled.

    Parameters
    ----------
    raster_mpp : float, optional
        From the caller.
    frame : PixelFrame
        The file's pixels, taken where nothing else is known.
    known : float, optional
        What the file says.

    Returns
    -------
    float
        µm per pixel.

    Raises
    ------
    ValueError
        It is not positive.

    Examples
    --------
    >>> raster_size(None, PixelFrame((0.25, 0.25)))
    0.25
    """
    value = raster_mpp if raster_mpp is not None else known if known is not None else frame.mean_mpp
    if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"raster_mpp: expected positive µm per pixel of the masks, found {value!r}")
    return float(value)


def _pair(value: Any, name: str) -> tuple[float, float]:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape not in ((), (2,)) or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected a finite number or two (x, y), found {value!r}")
    x, y = np.broadcast_to(array, 2).tolist()
    return x, y
