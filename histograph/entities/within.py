"""Arguments that all finders share: the slide, which part of it is looked at (`mask`), and threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask


def check_slide(slide: Any) -> None:
    """Refuse a path or an image in place of an open slide.

    Parameters
    ----------
    slide : object
        The argument.

    Raises
    ------
    TypeError
        If it is no slide; the message says how to open one.

    Examples
    --------
    >>> check_slide(np.zeros((4, 4, 3), np.uint8))
    Traceback (most recent call last):
    ...
    TypeError: slide: expected an open slide, found an array; open it first: histograph.open_slide(array, mpp=0.5).
    """
    if hasattr(slide, "read_region"):
        return
    if isinstance(slide, np.ndarray):
        found, call = "an array", "open_slide(array, mpp=0.5)"
    else:
        found, call = (
            repr(slide) if isinstance(slide, (str, os.PathLike)) else type(slide).__name__,
            "open_slide(path)",
        )
    raise TypeError(f"slide: expected an open slide, found {found}; open it first: histograph.{call}.")


def check_workers(workers: int) -> None:
    """Refuse what is no number of threads.

    Parameters
    ----------
    workers : int
        The argument.

    Raises
    ------
    ValueError
        If it is not whole, or less than 1.

    Examples
    --------
    >>> check_workers(0)
    Traceback (most recent call last):
    ...
    ValueError: workers: expected a whole number of threads, at least 1, found 0.
    """
    if workers != int(workers) or workers < 1:
        raise ValueError(f"workers: expected a whole number of threads, at least 1, found {workers}.")


def resolve_mask(slide: Slide, mask: TissueMask | Literal["auto"] | None) -> TissueMask | None:
    """Return the tissue mask that an argument stands for, or None for the whole slide.

    Parameters
    ----------
    slide : Slide
        The slide, asked for its mask if `mask` is "auto".
    mask : TissueMask, "auto" or None
        The argument.

    Returns
    -------
    TissueMask or None

    Raises
    ------
    TypeError
        If the argument is none of the three.

    Examples
    --------
    >>> resolve_mask(None, None) is None
    True
    """
    if isinstance(mask, str) and mask == "auto":
        return slide.tissue_mask()
    if mask is None or hasattr(mask, "fraction"):
        return mask
    raise TypeError(
        f"mask: expected a TissueMask, 'auto' or None, found {mask!r}; make one with slide.tissue_mask()."
    )


def points_inside(mask: TissueMask, pos_um: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points lie on tissue.

    Parameters
    ----------
    mask : TissueMask
        Where tissue is.
    pos_um : ndarray, (N, 2) float64
        Points ``x, y`` in µm.

    Returns
    -------
    ndarray, (N,) bool
        False outside the mask's raster.
    """
    return mask_at(mask, pos_um[:, 0], pos_um[:, 1])


def mask_at(mask: TissueMask, x_um: NDArray[np.floating], y_um: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return the mask's value at points given by broadcastable coordinates.

    Parameters
    ----------
    mask : TissueMask
        Where tissue is.
    x_um, y_um : ndarray
        Coordinates in µm.

    Returns
    -------
    ndarray of bool
        Shape of the broadcast coordinates; False outside the mask's raster.
    """
    mpp_x, mpp_y = np.broadcast_to(np.asarray(mask.mpp, np.float64), (2,))
    height, width = mask.mask.shape
    row = np.floor(y_um / mpp_y).astype(np.int64)
    col = np.floor(x_um / mpp_x).astype(np.int64)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    return inside & mask.mask[np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)]
