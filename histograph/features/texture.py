"""Texture of entities: grey level co-occurrence, gradient and Laplacian, over the entity's own pixels only.

Grey is the luma (299 R + 587 G + 114 B) / 1000, rounded. The co-occurrence matrix counts pairs of
8-neighbours that both lie in the entity, in the four directions and both orders, at 16 fixed grey levels
(grey // 16): nothing is scaled to the image, so an entity's texture does not depend on what else is in the
scene. The measures are those of Haralick, Shanmugam and Dinstein, "Textural features for image
classification", 1973.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["LEVELS", "TEXTURE_COLUMNS", "texture_kernel"]

#: Grey levels of the co-occurrence matrix.
LEVELS = 16

TEXTURE_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("glcm_contrast", "1", 0),
    ("glcm_dissimilarity", "1", 0),
    ("glcm_homogeneity", "1", 0),
    ("glcm_asm", "1", 0),
    ("glcm_energy", "1", 0),
    ("glcm_correlation", "1", 0),
    ("glcm_entropy", "bit", 0),
    ("gradient_mean", "8-bit/µm", -1),
    ("gradient_std", "8-bit/µm", -1),
    ("laplacian_energy", "8-bit²/µm⁴", -4),
)


@njit(cache=True, nogil=True)
def _haralick(pairs, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the seven co-occurrence measures; `pairs` holds each pair once, in either order."""
    total = 0
    mean = 0.0
    for i in range(LEVELS):
        for j in range(LEVELS):
            total += pairs[i, j]
            mean += 0.5 * pairs[i, j] * (i + j)
    if total == 0:
        out[:7] = 0.0
        return
    mean /= total
    contrast = dissimilarity = homogeneity = asm = entropy = covariance = variance = 0.0
    for i in range(LEVELS):
        for j in range(i, LEVELS):
            n = pairs[i, j] + pairs[j, i] if i != j else pairs[i, i]
            if n == 0:
                continue
            both = n / total  # the two orders together
            p = both if i == j else 0.5 * both
            d = float(j - i)
            contrast += both * d * d
            dissimilarity += both * d
            homogeneity += both / (1.0 + d * d)
            asm += both * p
            entropy -= both * math.log2(p)
            covariance += both * (i - mean) * (j - mean)
            variance += 0.5 * both * ((i - mean) ** 2 + (j - mean) ** 2)
    out[0] = contrast
    out[1] = dissimilarity
    out[2] = homogeneity
    out[3] = asm
    out[4] = math.sqrt(asm)
    out[5] = covariance / variance if variance > 1e-12 else 1.0
    out[6] = max(0.0, entropy)


@njit(cache=True, nogil=True)
def _slope(before, here, after):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Central difference, or a one-sided one where a neighbour (0) is outside the entity."""
    if before > 0 and after > 0:
        return 0.5 * (after - before)
    if after > 0:
        return float(after - here)
    if before > 0:
        return float(here - before)
    return 0.0


@njit(cache=True, nogil=True)
def _fill_grey(row, start, stop, a, b, r0, c0, w, image, grey):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write grey + 1 of the entity's pixels into the padded box, whose other places stay 0."""
    for k in range(a, b):
        r = row[k]
        base = (r - r0 + 1) * w + 1 - c0
        for c in range(start[k], stop[k]):
            luma = (
                299 * np.int64(image[r, c, 0])
                + 587 * np.int64(image[r, c, 1])
                + 114 * np.int64(image[r, c, 2])
            )
            grey[base + c] = (luma + 500) // 1000 + 1


@njit(cache=True, nogil=True)
def _measure(row, start, stop, a, b, r0, c0, w, grey, pairs, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the texture columns of one entity, whose grey + 1 stands in the padded box."""
    pairs[:] = 0
    n = 0
    origin = s1 = s2 = energy = 0.0
    for k in range(a, b):
        base = (row[k] - r0 + 1) * w + 1 - c0
        for i in range(base + start[k], base + stop[k]):
            g = grey[i]
            level = (g - 1) >> 4
            for step in (1, w - 1, w, w + 1):
                if grey[i + step] > 0:
                    pairs[level, (grey[i + step] - 1) >> 4] += 1
            x = _slope(grey[i - 1], g, grey[i + 1])
            y = _slope(grey[i - w], g, grey[i + w])
            size = math.sqrt(x * x + y * y)
            if n == 0:
                origin = size
            n += 1
            s1 += size - origin
            s2 += (size - origin) * (size - origin)
            bend = 0
            for step in (-w, -1, 1, w):
                if grey[i + step] > 0:
                    bend += np.int64(grey[i + step]) - g
            energy += float(bend * bend)
    _haralick(pairs, out)
    mean = s1 / n
    out[7] = origin + mean
    out[8] = math.sqrt(max(0.0, s2 / n - mean * mean))
    out[9] = energy / n


@njit(cache=True, nogil=True)
def texture_kernel(ptr, row, start, stop, image, first, last, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the texture columns of some entities into their rows of `out`.

    Parameters
    ----------
    ptr, row, start, stop : arrays
        The fields of `Runs`, in pixels.
    image : (H, W, 3) uint8 array
        Red, green, blue.
    first, last : int
        Entities to measure, `last` excluded.
    out : (N, 10) float64 array
        Where the columns of `TEXTURE_COLUMNS` go, lengths in pixels.
    """
    box = 1
    for e in range(first, last):
        c0, c1 = start[ptr[e]], stop[ptr[e]]
        for k in range(ptr[e], ptr[e + 1]):
            c0, c1 = min(c0, start[k]), max(c1, stop[k])
        box = max(box, (np.int64(row[ptr[e + 1] - 1]) - row[ptr[e]] + 3) * (np.int64(c1) - c0 + 2))
    grey = np.zeros(box, np.int16)
    pairs = np.zeros((LEVELS, LEVELS), np.int64)
    for e in range(first, last):
        a, b = ptr[e], ptr[e + 1]
        r0 = np.int64(row[a])
        c0, c1 = np.int64(start[a]), np.int64(stop[a])
        for k in range(a, b):
            c0, c1 = min(c0, np.int64(start[k])), max(c1, np.int64(stop[k]))
        w = c1 - c0 + 2
        _fill_grey(row, start, stop, a, b, r0, c0, w, image, grey)
        _measure(row, start, stop, a, b, r0, c0, w, grey, pairs, out[e])
        for k in range(a, b):
            base = (row[k] - r0 + 1) * w + 1 - c0
            grey[base + start[k] : base + stop[k]] = 0
