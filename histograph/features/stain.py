"""Stain of entities: haematoxylin and eosin by colour deconvolution, and density and saturation of the dye.

Optical density of a channel is OD = -log10(max(I, 1) / 255). The density of a pixel is the mean of the three,
and is split into stains by OD = C M, whose rows are the unit vectors of haematoxylin, of eosin, and their
cross product (Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001).
The saturation is that of the hue-saturation-density model (van der Laak et al., Cytometry 39, 2000):
sqrt((OD_R / D - 1)² + (OD_G - OD_B)² / (3 D²)), D the mean density; 0 where D is 0.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from histograph.entities.stain import RUIFROK, unmixing

__all__ = ["STAIN_COLUMNS", "stain_kernel", "stain_table"]


STAIN_COLUMNS: tuple[tuple[str, str, int], ...] = (
    *((f"{s}_{w}", "OD", 0) for s in ("haematoxylin", "eosin") for w in ("mean", "std", "p05", "p50", "p95")),
    ("density_mean", "OD", 0),
    ("density_std", "OD", 0),
    ("saturation_mean", "1", 0),
    ("saturation_std", "1", 0),
)

# Percentiles are read off a histogram with fixed bins of 1/256 OD: exact to half a bin within this range.
_LOWEST = -0.5
_BINS = 768
_PER_OD = 256.0


def stain_table() -> np.ndarray:
    """Return what each channel value adds to a pixel's haematoxylin, eosin and optical density.

    Returns
    -------
    (3, 3, 256) float64 array
        Value v of channel c adds [0, c, v] to haematoxylin, [1, c, v] to eosin and [2, c, v], a third of its
        optical density, to the mean density.

    Examples
    --------
    >>> table = stain_table()
    >>> table.shape, bool(abs(table[:, :, 255]).max() == 0)  # white has no dye
    ((3, 3, 256), True)
    """
    unmix = unmixing(RUIFROK)
    density = -np.log10(np.maximum(np.arange(256), 1) / 255.0)
    density[255] = 0.0  # not -0.0
    weights = np.stack([unmix[:, 0], unmix[:, 1], np.full(3, 1 / 3)])
    return weights[:, :, None] * density


@njit(cache=True, nogil=True)
def _percentile(histogram, rank):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Centre of the bin that holds the value of this rank (0 is the smallest)."""
    seen = 0
    b = 0
    for b in range(len(histogram)):
        seen += histogram[b]
        if seen > rank:
            break
    return _LOWEST + (b + 0.5) / _PER_OD


@njit(cache=True, nogil=True)
def stain_kernel(ptr, row, start, stop, image, table, first, last, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the stain columns of some entities into their rows of `out`.

    Sums run over the differences to the entity's first pixel, in raster order: stable, and the same bits
    anywhere.

    Parameters
    ----------
    ptr, row, start, stop : arrays
        The fields of `Runs`, in pixels.
    image : (H, W, 3) uint8 array
        Red, green, blue.
    table : (3, 3, 256) float64 array
        From `stain_table`.
    first, last : int
        Entities to measure, `last` excluded.
    out : (N, 14) float64 array
        Where the columns of `STAIN_COLUMNS` go, lengths in pixels.
    """
    histogram = np.zeros((2, _BINS), np.int64)
    value = np.zeros(4)
    origin = np.zeros(4)
    s1 = np.zeros(4)
    s2 = np.zeros(4)
    for e in range(first, last):
        histogram[:] = 0
        s1[:] = 0
        s2[:] = 0
        n = 0
        for k in range(ptr[e], ptr[e + 1]):
            r = row[k]
            for c in range(start[k], stop[k]):
                red, green, blue = image[r, c, 0], image[r, c, 1], image[r, c, 2]
                for s in range(3):
                    value[s] = table[s, 0, red] + table[s, 1, green] + table[s, 2, blue]
                value[3] = 0.0
                if value[2] > 0:
                    cx = 3.0 * table[2, 0, red] / value[2] - 1.0
                    cy = 3.0 * (table[2, 1, green] - table[2, 2, blue]) / value[2]
                    value[3] = math.sqrt(cx * cx + cy * cy / 3.0)
                if n == 0:
                    origin[:] = value
                n += 1
                for s in range(4):
                    d = value[s] - origin[s]
                    s1[s] += d
                    s2[s] += d * d
                for s in range(2):
                    histogram[s, int(min(max((value[s] - _LOWEST) * _PER_OD, 0.0), _BINS - 1.0))] += 1
        for s in range(4):
            column = 5 * s if s < 2 else 10 + 2 * (s - 2)
            mean = s1[s] / n
            out[e, column] = origin[s] + mean
            out[e, column + 1] = math.sqrt(max(0.0, s2[s] / n - mean * mean))
            if s < 2:
                out[e, column + 2] = _percentile(histogram[s], int(0.05 * (n - 1) + 0.5))
                out[e, column + 3] = _percentile(histogram[s], int(0.50 * (n - 1) + 0.5))
                out[e, column + 4] = _percentile(histogram[s], int(0.95 * (n - 1) + 0.5))
