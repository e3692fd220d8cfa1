"""The pixels that a file counts in, and the way between them and micrometres on the canvas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..slides import Slide

#: Key of `Entities.parameters` for the level-0 pixels of the slide, whatever pixels masks and files lie on.
LEVEL0 = "level0"


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
        offset_px = slide.offset_px
    return PixelFrame(pair, _pair((0.0, 0.0) if offset_px is None else offset_px, f"{start}offset_px"))


def keep_level0(parameters: dict[str, Any], found: Any, where: str = "") -> None:
    """Remember the level-0 pixels of the slide, in which QuPath counts, beside what else is known of entities.

    Parameters
    ----------
    parameters : dict
        Those of the entities; changed.
    found : PixelFrame, mapping or None
        The pixels, or what a file of ours holds of them; None changes nothing.
    where : str
        The file, for messages.

    Raises
    ------
    ValueError
        It is damaged.

    Examples
    --------
    >>> parameters = {}
    >>> keep_level0(parameters, PixelFrame((0.25, 0.25), (30.0, 7.0)))
    >>> parameters
    {'level0': {'mpp': [0.25, 0.25], 'offset_px': [30.0, 7.0]}}
    """
    if found is None:
        return
    start = f"{where}: {LEVEL0}" if where else LEVEL0
    if isinstance(found, Mapping) and {"mpp", "offset_px"} <= set(found):
        found = pixel_frame(found["mpp"], None, found["offset_px"], None, start)
    if not isinstance(found, PixelFrame):
        raise ValueError(f"{start}: expected mpp and offset_px, found {str(found)[:60]}")
    parameters[LEVEL0] = {"mpp": list(found.mpp), "offset_px": list(found.offset_px)}


def known_level0(source: Any) -> PixelFrame | None:
    """Tell what entities, or a graph, know of the level-0 pixels of their slide.

    Parameters
    ----------
    source : Entities, Data, HeteroData or anything else
        Entities that `keep_level0` was called for, or graphs of `build_graph`; those of before, or put together from
        other files, know no offset.

    Returns
    -------
    PixelFrame or None
        None where they know nothing.

    Examples
    --------
    >>> from histograph.graphs import example_graph
    >>> known_level0(example_graph())
    PixelFrame(mpp=(0.5, 0.5), offset_px=(0.0, 0.0))
    """
    known = getattr(source, "parameters", {}).get(LEVEL0)
    if known is not None:
        return PixelFrame((*known["mpp"],), (*known["offset_px"],))
    if not hasattr(source, "stores"):
        return None
    slide = (getattr(source, "provenance", None) or {}).get("slide", {})
    x_mpp, y_mpp = source.mpp
    x, y = slide.get("offset_px", (0.0, 0.0))
    return PixelFrame((float(x_mpp), float(y_mpp)), (float(x), float(y)))


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
