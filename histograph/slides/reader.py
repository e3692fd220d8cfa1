"""What every reader of a file offers to Slide: sizes, levels and exact RGB pixels of a level."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

__all__ = ["Reader", "composite", "physical_mpp", "to_uint8"]


class Reader(Protocol):
    """Pixels of one slide, level by level; a reader may be used by several threads at once."""

    @property
    def level_dimensions(self) -> Sequence[tuple[int, int]]:
        """Width and height of each level, pixels."""
        ...

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Micrometres per level-0 pixel that the file states, (x, y)."""
        ...

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file says about itself."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels [y, y+height) x [x, x+width) of a level, all inside it, as (height, width, 3) uint8."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def physical_mpp(mpp_x: float, mpp_y: float) -> tuple[float, float] | None:
    """Return (mpp_x, mpp_y) if both can be the pixel size of a microscope image, else None.

    A resolution tag of 72, 96 or 300 dots per inch is a printing default (353, 265 or 85 µm per pixel), not a
    measurement. Only sizes from 0.01 to 20 µm per pixel are taken as physical.

    Parameters
    ----------
    mpp_x, mpp_y : float
        Micrometres per pixel that a file states.

    Returns
    -------
    tuple of float or None
        The pair, or None if it is not credible.

    Examples
    --------
    >>> physical_mpp(0.5, 0.5), physical_mpp(25400 / 72, 25400 / 72)
    ((0.5, 0.5), None)
    """
    if all(math.isfinite(v) and 0.01 <= v <= 20.0 for v in (mpp_x, mpp_y)):
        return float(mpp_x), float(mpp_y)
    return None


def to_uint8(image: np.ndarray, name: str) -> np.ndarray:
    """Convert bool, uint8 or uint16 values to uint8: False/True to 0/255, 16 bit to round(v / 257).

    Parameters
    ----------
    image : numpy.ndarray
        Any shape; bool, uint8 or uint16.
    name : str
        What the image is called in an error.

    Returns
    -------
    numpy.ndarray
        Same shape, uint8.

    Raises
    ------
    ValueError
        If the dtype is another: floats have no defined white.

    Examples
    --------
    >>> to_uint8(np.array([0, 257, 65535], np.uint16), "image")
    array([  0,   1, 255], dtype=uint8)
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    if image.dtype.newbyteorder("=") == np.uint16:  # either order of bytes, as tifffile reads them
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise ValueError(
        f"{name} holds {image.dtype} pixels; expected uint8, uint16 or bool. Convert it to uint8 first, for example "
        "(image * 255).round().astype('uint8') if its values run from 0 to 1."
    )


def composite(
    rgba: np.ndarray, background: tuple[int, int, int] = (255, 255, 255), premultiplied: bool = False
) -> np.ndarray:
    """Lay an RGBA image over a plain background: rgb * a + background * (1 - a).

    Parameters
    ----------
    rgba : numpy.ndarray
        (h, w, 4) uint8.
    background : tuple of int
        Red, green, blue of the background, 0..255.
    premultiplied : bool
        True if the colours are already multiplied by alpha.

    Returns
    -------
    numpy.ndarray
        (h, w, 3) uint8.

    Examples
    --------
    >>> composite(np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8))
    array([[[255, 255, 255],
            [ 10,  20,  30]]], dtype=uint8)
    """
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(rgb)
    a = alpha.astype(np.uint32)
    ground = np.asarray(background, np.uint32) * (255 - a)
    colour = rgb.astype(np.uint32) * (255 if premultiplied else a)
    return np.minimum((colour + ground + 127) // 255, 255).astype(np.uint8)
