"""Colour deconvolution: how much haematoxylin a pixel holds."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

# Unit optical densities (R, G, B) of haematoxylin and eosin.
RUIFROK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
MACENKO_REFERENCE = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))


def unmixing(stains: ArrayLike) -> NDArray[np.float64]:
    """Return the matrix with which ``amounts = OD @ matrix``, from the colours of two stains.

    With M the 3 x 3 matrix of the unit colours of haematoxylin, eosin and their cross product as rows, OD = c M, so
    the amounts c are OD M⁻¹.

    Parameters
    ----------
    stains : array_like, (2, 3) float
        Optical densities in red, green and blue of haematoxylin and of eosin; any length.

    Returns
    -------
    ndarray, (3, 3) float64
        Columns: haematoxylin, eosin, residual; rows: optical density in red, green and blue.

    Raises
    ------
    ValueError
        If the two are not two different colours.

    References
    ----------
    A. C. Ruifrok, D. A. Johnston, Quantification of histochemical staining by color deconvolution, Analyt Quant Cytol
    Histol 23 (2001) 291-299.

    Examples
    --------
    >>> amounts = np.array(RUIFROK[1]) @ unmixing(RUIFROK)
    >>> bool(amounts[1] > 0.9), bool(abs(amounts[0]) < 1e-12)
    (True, True)
    """
    colours = np.asarray(stains, np.float64)
    if colours.shape != (2, 3) or not np.isfinite(colours).all():
        raise ValueError(f"stains: expected a (2, 3) array of optical densities, found {stains!r}.")
    norm = np.linalg.norm(colours, axis=1, keepdims=True)
    if (norm == 0).any() or np.linalg.norm(np.cross(*(colours / np.maximum(norm, 1e-300)))) < 1e-3:
        raise ValueError(
            "stains: expected two different, non-zero colours, found (nearly) the same one twice."
        )
    unit = colours / norm
    third = np.cross(unit[0], unit[1])
    return np.linalg.inv(np.stack([unit[0], unit[1], third / np.linalg.norm(third)]))


def stain_weights(stains: ArrayLike) -> NDArray[np.float64]:
    """Return the weights w with which ``haematoxylin = w · OD``: the first column of `unmixing`.

    Parameters
    ----------
    stains : array_like, (2, 3) float
        As for `unmixing`.

    Returns
    -------
    ndarray, (3,) float64
        Weights of the optical densities in red, green and blue.

    Examples
    --------
    >>> bool(abs(stain_weights(RUIFROK) @ np.array(RUIFROK[1])) < 1e-12)
    True
    """
    return unmixing(stains)[:, 0]


def weighted_density(image: NDArray[np.uint8], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return each pixel's weighted optical density, such as its haematoxylin: ``w · OD``, ``OD = -ln((I + 1) / 256)``.

    Parameters
    ----------
    image : ndarray, (H, W, 3) uint8
        RGB image.
    weights : ndarray, (3,) float64
        Weights of red, green and blue, for example from `stain_weights`.

    Returns
    -------
    ndarray, (H, W) float32
        Each pixel is a sum of three table entries, so it does not depend on its neighbours or the image's size.

    Examples
    --------
    >>> weighted_density(np.full((1, 1, 3), 255, np.uint8), stain_weights(RUIFROK)).tolist()
    [[0.0]]
    """
    density = np.array([0.0 - math.log((value + 1) / 256) for value in range(256)])
    return _weighted(np.ascontiguousarray(image), density[None, :] * weights[:, None])


@njit(cache=True, nogil=True)
def _weighted(image, table):  # type: ignore[no-untyped-def]
    height, width = image.shape[:2]
    out = np.empty((height, width), np.float32)
    for row in range(height):
        for col in range(width):
            value = table[0, image[row, col, 0]] + table[1, image[row, col, 1]] + table[2, image[row, col, 2]]
            out[row, col] = value
    return out


def estimate_stains(pixels: NDArray[np.uint8], beta: float = 0.15, alpha: float = 1.0) -> NDArray[np.float64]:
    """Estimate the colours of haematoxylin and eosin from pixels, by Macenko's method.

    The optical densities are projected on the plane of their two largest principal directions; the colours are the
    directions at the lower and upper percentile of the angle in that plane.

    Parameters
    ----------
    pixels : ndarray, (N, 3) uint8
        RGB pixels of tissue; glass may be among them.
    beta : float
        Pixels are left out unless every channel's optical density (natural log) exceeds it.
    alpha : float
        Percentile of the angles.

    Returns
    -------
    ndarray, (2, 3) float64
        Unit optical densities of haematoxylin and eosin.

    Raises
    ------
    ValueError
        If fewer than 100 stained pixels are left.

    References
    ----------
    M. Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009, 1107-1110.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> amount = rng.random((5000, 2)) * [1.0, 0.1] + rng.random((5000, 2))[:, ::-1] * [0.1, 1.0] + 0.2
    >>> pixels = (256 * np.exp(-amount @ np.array(MACENKO_REFERENCE)) - 1).astype(np.uint8)
    >>> estimate_stains(pixels).shape
    (2, 3)
    """
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / 256)
    density = density[(density > beta).all(axis=1)]
    if len(density) < 100:
        raise ValueError(
            f"pixels: expected at least 100 stained pixels to estimate the stains, found {len(density)}; "
            "give the stain colours instead."
        )
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    across = density @ plane
    angle = np.arctan2(across[:, 1], across[:, 0])
    ends = np.percentile(angle, [alpha, 100 - alpha])
    colours = np.abs(np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T)
    # Haematoxylin takes more of the red light than eosin does.
    order = np.argsort(-colours[:, 0] / np.linalg.norm(colours, axis=1), kind="stable")
    return colours[order] / np.linalg.norm(colours[order], axis=1, keepdims=True)
