"""Resampling on an absolute grid: area average down, bilinear up, and never a seam between tiles.

Every output pixel has an integer index on one grid that covers the whole slide. Its weights are computed from
that index alone and its sum is taken in one fixed order, so a pixel has the same value in whichever region it
is asked for.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

__all__ = ["AxisWeights", "axis_weights", "resample"]

_SNAP = 1e-9


@dataclass(frozen=True)
class AxisWeights:
    """Which source pixels make each output pixel along one axis, and with what weight.

    Parameters
    ----------
    first : numpy.ndarray
        (n,) int64, absolute index of the first source pixel of each output pixel.
    weight : numpy.ndarray
        (n, k) float64, weights of the k source pixels from `first` on; each row sums to 1.
    exact : bool
        True where every output pixel is one source pixel, so that the result is a copy.

    Examples
    --------
    >>> axis_weights(0.0, 2, 1.0, 10).exact
    True
    """

    first: np.ndarray
    weight: np.ndarray
    exact: bool

    @property
    def span(self) -> tuple[int, int]:
        """First and one-past-last source index that any output pixel needs."""
        return int(self.first[0]), int(self.first[-1]) + self.weight.shape[1]

    def halves(self) -> tuple["AxisWeights", "AxisWeights"]:
        """Split into the first and the second half of the output pixels."""
        middle = len(self.first) // 2
        return (
            AxisWeights(self.first[:middle], self.weight[:middle], self.exact),
            AxisWeights(self.first[middle:], self.weight[middle:], self.exact),
        )


def axis_weights(start: float, count: int, scale: float, size: int) -> AxisWeights:
    """Weights of `count` output pixels, each `scale` source pixels wide, from output index `start` on.

    Down (scale >= 1) the weight is the overlap |[i s, (i+1) s) ∩ [j, j+1)| / s; up it is linear between
    the two nearest source centres, clamped at the borders of the image.

    Parameters
    ----------
    start : float
        Index of the first output pixel on the absolute output grid (rounded to 2^-16 of a pixel).
    count : int
        Number of output pixels.
    scale : float
        Source pixels per output pixel, > 0.
    size : int
        Source pixels along the axis; bilinear weights do not reach past them.

    Returns
    -------
    AxisWeights
        First source index and weights of each output pixel.

    Examples
    --------
    >>> a = axis_weights(0.0, 2, 1.5, 3)
    >>> a.first, a.weight
    (array([0, 1]), array([[0.66666667, 0.33333333],
           [0.33333333, 0.66666667]]))
    """
    if abs(scale - round(scale)) < _SNAP * scale:
        scale = float(round(scale))
    start = round(start * 65536.0) / 65536.0
    index = start + np.arange(count, dtype=np.float64)
    if scale == 1.0 and start == int(start):
        return AxisWeights(index.astype(np.int64), np.ones((count, 1)), True)
    if scale >= 1.0:
        low, high = index * scale, (index + 1.0) * scale
        first = np.floor(low).astype(np.int64)
        taps = int(np.floor(scale)) + 2
        source = first[:, None] + np.arange(taps)
        weight = np.minimum(source + 1.0, high[:, None]) - np.maximum(source, low[:, None])
        weight = np.maximum(weight, 0.0) / (high - low)[:, None]
        used = np.flatnonzero(weight.max(axis=0) > 0.0)
        return AxisWeights(first, np.ascontiguousarray(weight[:, : used[-1] + 1]), False)
    centre = (index + 0.5) * scale
    inside = (centre >= 0.0) & (centre < size)
    at = np.where(inside, np.clip(centre - 0.5, 0.0, size - 1.0), centre - 0.5)
    first = np.floor(at).astype(np.int64)
    fraction = at - first
    # A centre outside the image must stay white, not be blended with the border pixel.
    first = np.where(inside, first, np.where(centre < 0.0, np.minimum(first, -2), np.maximum(first, size)))
    fraction = np.where(inside, fraction, 0.0)
    return AxisWeights(first, np.stack([1.0 - fraction, fraction], axis=1), False)


@njit(cache=True, nogil=True)
def _separable(source, rows, row_weight, columns, column_weight, out):
    height, width, channels = source.shape
    flat = source.reshape(height, width * channels)
    line = np.empty(width * channels, np.float64)
    for r in range(out.shape[0]):
        line[:] = 0.0
        for t in range(row_weight.shape[1]):
            w = row_weight[r, t]
            if w > 0.0:
                values = flat[rows[r] + t]
                for i in range(line.shape[0]):
                    line[i] += w * values[i]
        for c in range(out.shape[1]):
            for channel in range(channels):
                total = 0.0
                for t in range(column_weight.shape[1]):
                    w = column_weight[c, t]
                    if w > 0.0:
                        total += w * line[(columns[c] + t) * channels + channel]
                out[r, c, channel] = np.uint8(total + 0.5)


def resample(source: np.ndarray, origin: tuple[int, int], x: AxisWeights, y: AxisWeights) -> np.ndarray:
    """Weighted sums of an RGB image along both axes, rounded half up to uint8.

    Parameters
    ----------
    source : numpy.ndarray
        (h, w, 3) uint8, the source pixels that `x` and `y` need.
    origin : tuple of int
        Absolute (x, y) index of source[0, 0].
    x, y : AxisWeights
        Weights along each axis.

    Returns
    -------
    numpy.ndarray
        (len(y.first), len(x.first), 3) uint8.

    Examples
    --------
    >>> image = np.array([[[0, 0, 0], [10, 20, 30]]], dtype=np.uint8)
    >>> resample(image, (0, 0), axis_weights(0.0, 1, 2.0, 2), axis_weights(0.0, 1, 1.0, 1))
    array([[[ 5, 10, 15]]], dtype=uint8)
    """
    columns, rows = x.first - origin[0], y.first - origin[1]
    if x.exact and y.exact:
        return np.ascontiguousarray(source[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    out = np.empty((len(rows), len(columns), 3), np.uint8)
    _separable(np.ascontiguousarray(source), rows, y.weight, columns, x.weight, out)
    return out
