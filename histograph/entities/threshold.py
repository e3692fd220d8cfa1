"""The global threshold of the stain, from a sample of the tissue that does not depend on tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..slides.otsu import otsu
from .nuclei_tile import UNITS, stain_amount

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask

_FIELD_UM = 256.0
_MAX_FIELDS = 48
# Paler pixels are glass: sum of the three optical densities.
_LEAST_DENSITY = 0.3
# Otsu splits anything, also an image without nuclei; below this amount of haematoxylin nothing is a nucleus.
_LEAST_LEVEL = 0.15


def sample_tissue(slide: Slide, mpp: float, mask: TissueMask | None) -> list[NDArray[np.uint8]]:
    """Read up to 48 fields of 256 µm, spread evenly over the tissue.

    Parameters
    ----------
    slide : Slide
        The slide.
    mpp : float
        Pixel size in µm.
    mask : TissueMask, optional
        Where tissue is; computed if None.

    Returns
    -------
    list of ndarray, (H, W, 3) uint8
        The fields: of a grid from the canvas origin those at least a third on tissue; if there is none, those with
        any tissue, or else all.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> [field.shape for field in sample_tissue(open_slide(np.full((9, 9, 3), 99, np.uint8), mpp=2.0), 2.0, None)]
    [(9, 9, 3)]
    """
    tissue = slide.tissue_mask() if mask is None else mask
    width, height = slide.size_um
    columns, rows = max(1, int(np.ceil(width / _FIELD_UM))), max(1, int(np.ceil(height / _FIELD_UM)))
    row, col = np.divmod(np.arange(rows * columns), columns)
    x, y = col * _FIELD_UM, row * _FIELD_UM
    w, h = np.minimum(_FIELD_UM, width - x), np.minimum(_FIELD_UM, height - y)
    big = (w >= mpp) & (h >= mpp)
    x, y, w, h = x[big], y[big], w[big], h[big]
    if not len(x):
        return []
    share = np.asarray(tissue.fraction(x, y, w, h))
    chosen = np.flatnonzero(share >= 1 / 3)
    if not len(chosen):
        chosen = np.flatnonzero(share > 0) if (share > 0).any() else np.arange(len(x))
    if len(chosen) > _MAX_FIELDS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MAX_FIELDS).round().astype(np.int64)]
    return [slide.read_region(x[i], y[i], w[i], h[i], mpp) for i in chosen]


def stain_level(
    sample: list[NDArray[np.uint8]], weights: NDArray[np.float64], smooth_um: float, mpp: float
) -> float:
    """Return Otsu's threshold of the amount of haematoxylin on stained pixels.

    The threshold maximises the variance between the two classes, ``n_0 n_1 (m_0 - m_1)²``.

    Parameters
    ----------
    sample : list of ndarray, (H, W, 3) uint8
        Fields of tissue.
    weights : ndarray, (3,) float64
        From `stain_weights`.
    smooth_um : float
        Standard deviation of the smoothing in µm.
    mpp : float
        Pixel size in µm.

    Returns
    -------
    float
        In units of 1 / 1024; at least 0.15, also of an empty sample.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979) 62-66.

    Examples
    --------
    >>> stain_level([], np.ones(3), 0.5, 0.5) / UNITS
    0.15
    """
    lowest, highest, bins = -1.0, 4.0, 1280
    counts = np.zeros(bins, np.int64)
    for field in sample:
        amount = stain_amount(field, weights, smooth_um, mpp) / UNITS
        density = -np.log((field.astype(np.float32) + 1) / 256).sum(axis=2)
        stained = amount[density > _LEAST_DENSITY]
        counts += np.histogram(np.clip(stained, lowest, highest - 1e-6), bins, (lowest, highest))[0]
    parted = otsu(counts, np.linspace(lowest, highest, bins + 1))
    return (_LEAST_LEVEL if parted is None else max(_LEAST_LEVEL, parted)) * UNITS
