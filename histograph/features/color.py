"""Colour of entities: mean, standard deviation and skewness of each channel over the entity's own pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["COLOR_COLUMNS", "color_kernel"]

# name, unit, power of mpp that turns pixels into the unit
COLOR_COLUMNS: tuple[tuple[str, str, int], ...] = tuple(
    (f"{channel}_{what}", unit, 0)
    for channel in ("red", "green", "blue")
    for what, unit in (("mean", "8-bit"), ("std", "8-bit"), ("skewness", "1"))
)


@njit(cache=True, nogil=True)
def color_kernel(ptr, row, start, stop, image, first, last, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the colour columns of some entities into their rows of `out`.

    Sums of powers are whole numbers, so they are exact and do not depend on any order.

    Parameters
    ----------
    ptr, row, start, stop : arrays
        The fields of `Runs`, in pixels.
    image : (H, W, 3) uint8 array
        Red, green, blue.
    first, last : int
        Entities to measure, `last` excluded.
    out : (N, 9) float64 array
        Where the columns of `COLOR_COLUMNS` go, lengths in pixels.
    """
    sums = np.zeros((3, 3), np.int64)  # channel, power
    for e in range(first, last):
        sums[:] = 0
        n = np.int64(0)
        for k in range(ptr[e], ptr[e + 1]):
            r = row[k]
            n += stop[k] - start[k]
            for c in range(start[k], stop[k]):
                for channel in range(3):
                    v = np.int64(image[r, c, channel])
                    sums[channel, 0] += v
                    sums[channel, 1] += v * v
                    sums[channel, 2] += v * v * v
        for channel in range(3):
            s1, s2, s3 = sums[channel]
            m = s1 // n  # moments about a whole number near the mean: no cancellation, zero for a flat entity
            rest = (s1 - m * n) / n
            u2 = (s2 - 2 * m * s1 + n * m * m) / n
            u3 = (s3 - 3 * m * s2 + 3 * m * m * s1 - n * m * m * m) / n
            variance = max(0.0, u2 - rest * rest)
            third = u3 - 3.0 * rest * u2 + 2.0 * rest**3
            out[e, 3 * channel] = s1 / n
            out[e, 3 * channel + 1] = math.sqrt(variance)
            out[e, 3 * channel + 2] = third / variance**1.5 if variance > 1e-9 else 0.0
