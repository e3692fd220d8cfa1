"""Nuclei of one window: every step looks a bounded distance away, so the window may be any that is wide enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .ascent import ascend
from .foreground import above_threshold, fill_small_holes, near_edge_distance
from .stain import weighted_density

# Stain amounts and landscapes are compared as whole numbers, this many to a unit.
UNITS = 1024
_TRUNCATE = 3.0
_MAX_JOINS = 3
_RED_OVER_GREEN = np.array([1.0, -1.0, 0.0])


@dataclass(frozen=True)
class NucleusSettings:
    """Parameters of the classical method; lengths in µm, areas in µm².

    Parameters
    ----------
    smooth_um : float
        Standard deviation of the smoothing of the stain.
    local_um : float
        Half the side of the square of the local threshold.
    global_weight, spread : float
        Blend of the global and the local threshold, see `above_threshold`.
    max_ink : float
        Pixels whose optical density in red exceeds that in green by more are ink (blue, green, black-green pens and
        tissue dyes absorb red most, haematoxylin about as much green), not nucleus; natural logarithm.
    max_hole_um2, max_hole_um : float
        Largest area and extent of a hole that is filled.
    edge_smooth_um : float
        Standard deviation of the smoothing of the outlines.
    max_radius_um : float
        Distance from the edge beyond which a nucleus has no deeper inside.
    shape_smooth_um : float
        Standard deviation of the smoothing of the distance to the edge.
    blob_um : float
        Standard deviation of the finer Gaussian of the blob response; the coarser is twice as wide.
    blob_weight : float
        Micrometres of landscape height for one unit of blob response.
    join_um, join_depth_um : float
        Peaks this close are one nucleus, unless a saddle this deep parts them.
    max_reach_um : float
        Longest way from a pixel to its peak.
    min_area_um2, max_area_um2 : float
        Sizes of nuclei that are kept.

    Examples
    --------
    >>> NucleusSettings().halo(0.5) > 0
    True
    """

    smooth_um: float = 0.3
    local_um: float = 7.5
    global_weight: float = 0.5
    spread: float = 0.3
    max_ink: float = 0.3
    max_hole_um2: float = 30.0
    max_hole_um: float = 10.0
    edge_smooth_um: float = 0.45
    max_radius_um: float = 5.0
    shape_smooth_um: float = 0.65
    blob_um: float = 1.6
    blob_weight: float = 2.0
    join_um: float = 4.0
    join_depth_um: float = 0.4
    max_reach_um: float = 15.0
    min_area_um2: float = 12.0
    max_area_um2: float = 400.0

    def pixels(self, length_um: float, mpp: float) -> int:
        """Return a length in whole pixels, at least 1.

        Examples
        --------
        >>> NucleusSettings().pixels(4.0, 0.5)
        8
        """
        return max(1, round(length_um / mpp))

    def halo(self, mpp: float) -> int:
        """Return how far, in pixels, the result at a peak depends on the image.

        Parameters
        ----------
        mpp : float
            Pixel size in µm.

        Returns
        -------
        int
            Sum of the reach of every step; a window this much wider than a tile gives the tile's exact nuclei.

        Examples
        --------
        >>> NucleusSettings().halo(1.0) < NucleusSettings().halo(0.5)
        True
        """
        join = self.pixels(self.join_um, mpp)
        ascent = self.pixels(self.max_reach_um, mpp) + (_MAX_JOINS + 1) * join + 1
        depth = _reach(self.shape_smooth_um, mpp) + self.pixels(self.max_radius_um, mpp) + 1
        outline = _reach(self.edge_smooth_um, mpp) + self.pixels(self.max_hole_um, mpp) + 1
        threshold = self.pixels(self.local_um, mpp) + _reach(self.smooth_um, mpp)
        blob = _reach(2 * self.blob_um, mpp)
        return ascent + max(depth + outline + threshold, blob) + 2


def _reach(sigma_um: float, mpp: float) -> int:
    """Half the width of a Gaussian's window in pixels, rounded up."""
    return math.ceil(_TRUNCATE * sigma_um / mpp + 0.5)


def _smooth(image: NDArray[np.float32], sigma_um: float, mpp: float) -> NDArray[np.float32]:
    """Convolve with a Gaussian of bounded width."""
    return ndimage.gaussian_filter(image, sigma_um / mpp, mode="nearest", truncate=_TRUNCATE)


def stain_amount(
    image: NDArray[np.uint8], weights: NDArray[np.float64], smooth_um: float, mpp: float
) -> NDArray[np.int32]:
    """Return the smoothed amount of haematoxylin in whole units of 1 / 1024.

    Parameters
    ----------
    image : ndarray, (H, W, 3) uint8
        RGB image.
    weights : ndarray, (3,) float64
        From `stain_weights`.
    smooth_um : float
        Standard deviation of the smoothing in µm.
    mpp : float
        Pixel size in µm.

    Returns
    -------
    ndarray, (H, W) int32

    Examples
    --------
    >>> stain_amount(np.full((2, 2, 3), 255, np.uint8), np.ones(3), 0.5, 0.5).tolist()
    [[0, 0], [0, 0]]
    """
    return _units(_smooth(weighted_density(image, weights), smooth_um, mpp))


def _units(amount: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.rint(amount * np.float32(UNITS)).astype(np.int32)


def segment(
    image: NDArray[np.uint8],
    canvas: NDArray[np.bool_] | None,
    weights: NDArray[np.float64],
    level: float,
    settings: NucleusSettings,
    mpp: float,
) -> NDArray[np.int64]:
    """Assign the pixels of a window to nuclei.

    Parameters
    ----------
    image : ndarray, (H, W, 3) uint8
        RGB image of the window.
    canvas : ndarray, (H, W) bool, optional
        Where the window lies on the slide; elsewhere is no nucleus. None means everywhere.
    weights : ndarray, (3,) float64
        Stain weights.
    level : float
        Global threshold in units of 1 / 1024.
    settings : NucleusSettings
        Parameters.
    mpp : float
        Pixel size in µm.

    Returns
    -------
    ndarray, (H, W) int64
        1 + the flat index of the peak of the pixel's nucleus, 0 for background. Sizes are not filtered.

    Examples
    --------
    >>> image = np.full((20, 20, 3), 255, np.uint8)
    >>> int(segment(image, None, np.ones(3) / 3, 100.0, NucleusSettings(), 0.5).max())
    0
    """
    stain = weighted_density(image, weights)
    amount = _units(_smooth(stain, settings.smooth_um, mpp))
    radius = settings.pixels(settings.local_um, mpp)
    inside = above_threshold(amount, radius, level, settings.global_weight, settings.spread)
    if canvas is not None:
        inside &= canvas
    if inside.any():
        inside &= (
            _smooth(weighted_density(image, _RED_OVER_GREEN), settings.smooth_um, mpp) <= settings.max_ink
        )
    if not inside.any():
        return np.zeros(inside.shape, np.int64)
    holes = round(settings.max_hole_um2 / mpp**2)
    inside = fill_small_holes(inside, holes, settings.pixels(settings.max_hole_um, mpp))
    inside = _smooth(inside.astype(np.float32), settings.edge_smooth_um, mpp) > 0.5
    if canvas is not None:
        inside &= canvas
    depth = near_edge_distance(inside, settings.pixels(settings.max_radius_um, mpp)) * np.float32(mpp)
    blob = _smooth(stain, settings.blob_um, mpp) - _smooth(stain, 2 * settings.blob_um, mpp)
    landscape = _smooth(depth, settings.shape_smooth_um, mpp) + np.float32(settings.blob_weight) * blob
    return ascend(
        _units(landscape),
        inside,
        settings.pixels(settings.max_reach_um, mpp),
        settings.pixels(settings.join_um, mpp),
        round(settings.join_depth_um * UNITS),
        _MAX_JOINS,
    )
