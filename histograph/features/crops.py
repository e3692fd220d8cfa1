"""Square image crops around points of a slide, in batches that threads read ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from histograph.slides.ahead import work_ahead

if TYPE_CHECKING:
    from histograph.slides import Slide

__all__ = ["crops", "iter_crops"]


def _check(
    pos_um: npt.ArrayLike, size_um: float, size_px: int, batch_size: int, workers: int
) -> npt.NDArray[np.float64]:
    pos = np.asarray(pos_um, dtype=np.float64)
    if pos.size == 0 and pos.ndim < 2:
        pos = pos.reshape(0, 2)
    if pos.ndim != 2 or pos.shape[1] != 2:
        raise ValueError(f"pos_um must have shape (N, 2), x and y in micrometres, found shape {pos.shape}")
    if not np.isfinite(pos).all():
        row = int(np.argwhere(~np.isfinite(pos))[0, 0])
        raise ValueError(f"pos_um must be finite, found {pos[row].tolist()} in row {row}")
    if not np.isfinite(size_um) or size_um <= 0:
        raise ValueError(f"size_um must be a positive number of micrometres, found {size_um!r}")
    for name, value in (("size_px", size_px), ("batch_size", batch_size), ("workers", workers)):
        if value != int(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}")
    return pos


def _read(slide: Slide, pos: npt.NDArray[np.float64], size_um: float, size_px: int) -> npt.NDArray[np.uint8]:
    batch = np.empty((len(pos), size_px, size_px, 3), np.uint8)
    for i, (x, y) in enumerate(pos):
        corner = (float(x - size_um / 2), float(y - size_um / 2))
        batch[i] = slide.read_region(*corner, size_um, size_um, mpp=size_um / size_px)
    return batch


def iter_crops(
    slide: Slide, pos_um: npt.ArrayLike, size_um: float, size_px: int, batch_size: int = 256, workers: int = 2
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield crops around points in batches, in order, while threads read the next ones.

    Parameters
    ----------
    slide : Slide
        Where the pixels come from; outside it is white.
    pos_um : (N, 2) array
        Centres, x then y, in micrometres.
    size_um : float
        Side of a crop in micrometres.
    size_px : int
        Side of a crop in pixels; a pixel is `size_um / size_px` micrometres.
    batch_size : int
        Crops a batch; the last batch may be smaller.
    workers : int
        Threads; at most `workers + 1` batches are held at once.

    Returns
    -------
    iterator of (B, size_px, size_px, 3) uint8 arrays
        The batches; none when there is no point.

    Raises
    ------
    ValueError
        At the call, when a shape or number is wrong or a centre is not finite.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5)
    >>> [batch.shape for batch in iter_crops(slide, [[2, 2], [1, 1], [0, 0]], 1.0, 2, batch_size=2)]
    [(2, 2, 2, 3), (1, 2, 2, 3)]
    """
    pos = _check(pos_um, size_um, size_px, batch_size, workers)
    return _batches(slide, pos, float(size_um), int(size_px), int(batch_size), int(workers))


def _batches(
    slide: Slide, pos: npt.NDArray[np.float64], size_um: float, size_px: int, batch_size: int, workers: int
) -> Iterator[npt.NDArray[np.uint8]]:
    parts = (pos[start : start + batch_size] for start in range(0, len(pos), batch_size))
    return work_ahead(lambda part: _read(slide, part, size_um, size_px), parts, workers, ahead=workers)


def crops(
    slide: Slide, pos_um: npt.ArrayLike, size_um: float, size_px: int, workers: int = 2
) -> npt.NDArray[np.uint8]:
    """Cut square crops around points of a slide; all of them at once, see `iter_crops` for batches.

    Parameters
    ----------
    slide : Slide
        Where the pixels come from; outside it is white.
    pos_um : (N, 2) array
        Centres, x then y, in micrometres.
    size_um : float
        Side of a crop in micrometres.
    size_px : int
        Side of a crop in pixels.
    workers : int
        Threads.

    Returns
    -------
    (N, size_px, size_px, 3) uint8 array
        Red, green, blue.

    Raises
    ------
    ValueError
        When a shape or number is wrong or a centre is not finite.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5)
    >>> crops(slide, [[0, 2]], size_um=1.0, size_px=2)[0, :, :, 0]  # the left half lies outside
    array([[255,   0],
           [255,   0]], dtype=uint8)
    """
    pos = _check(pos_um, size_um, size_px, 1, workers)
    out = np.empty((len(pos), int(size_px), int(size_px), 3), np.uint8)
    at = 0
    for batch in _batches(slide, pos, float(size_um), int(size_px), 64, int(workers)):
        out[at : at + len(batch)] = batch
        at += len(batch)
    return out
