"""Where the tissue is: coloured against the glass, without pen, dark borders, dust and small holes."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from .otsu import otsu

if TYPE_CHECKING:
    from .slide import Slide

__all__ = ["TissueMask", "tissue_mask"]

# Limits of the threshold, in optical density (natural log). Below the lower one lies the tint of glass and
# JPEG noise, so an empty slide stays empty; above the upper one lies only tissue, so a full slide is not
# split into pale and dark.
_LEAST_DENSITY = 0.06
_MOST_DENSITY = 0.11
_DARK = 60
_GLASS_MIN = 200
_GLASS_CHROMA = 16
_INK = 0.3
_BAND_ROWS = 256


@dataclass(frozen=True, eq=False)
class TissueMask:
    """A raster that says where the tissue is; its corner lies at (0, 0) µm of the canvas.

    Parameters
    ----------
    mask : numpy.ndarray
        (h, w) bool.
    mpp : float
        Micrometres per pixel of the mask.

    Raises
    ------
    TypeError
        If the mask does not hold bool: of a picture of 0 and 255, shares of tissue would be wrong.
    ValueError
        If it is not two-dimensional, or mpp is not a positive number.

    Examples
    --------
    >>> mask = TissueMask(np.array([[True, False]]), mpp=10.0)
    >>> mask.area_um2, mask.bbox_um
    (100.0, (0.0, 0.0, 10.0, 10.0))
    """

    mask: np.ndarray
    mpp: float

    def __post_init__(self) -> None:
        if not (isinstance(self.mask, np.ndarray) and self.mask.dtype == np.bool_):
            found = getattr(self.mask, "dtype", type(self.mask).__name__)
            raise TypeError(
                f"mask: expected an array of bool, found {found}; write mask > 0 where 0 is glass"
            )
        if self.mask.ndim != 2:
            raise ValueError(f"mask: expected two axes (row, column), found shape {self.mask.shape}")
        if not (isinstance(self.mpp, Real) and math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp: expected a positive number of µm per pixel, found {self.mpp!r}")

    @property
    def area_um2(self) -> float:
        """Area of the tissue, µm²."""
        return float(np.count_nonzero(self.mask)) * self.mpp**2

    @property
    def bbox_um(self) -> tuple[float, float, float, float] | None:
        """Smallest box around the tissue (x_min, y_min, x_max, y_max), µm; None if there is no tissue."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if len(rows) == 0:
            return None
        ends = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        x0, y0, x1, y1 = (float(v) * self.mpp for v in ends)
        return x0, y0, x1, y1

    @cached_property
    def _integral(self) -> np.ndarray:
        table = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1))
        np.cumsum(np.cumsum(self.mask, axis=0, dtype=np.float64), axis=1, out=table[1:, 1:])
        return table

    def _below(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Area of tissue, in mask pixels, left of x and above y; linear inside a pixel, which is exact."""
        h, w = self.mask.shape
        x, y = np.clip(x, 0, w), np.clip(y, 0, h)
        c, r = np.minimum(x.astype(np.int64), w - 1), np.minimum(y.astype(np.int64), h - 1)
        u, v = x - c, y - r
        t = self._integral
        top = t[r, c] * (1 - u) + t[r, c + 1] * u
        return top * (1 - v) + (t[r + 1, c] * (1 - u) + t[r + 1, c + 1] * u) * v

    def fraction(
        self, x_um: ArrayLike, y_um: ArrayLike, width_um: ArrayLike, height_um: ArrayLike
    ) -> np.ndarray | float:
        """Share of rectangles that is tissue; what lies off the slide is not tissue.

        Parameters
        ----------
        x_um, y_um : float or array
            Top-left corners, µm.
        width_um, height_um : float or array
            Sizes, µm, > 0.

        Returns
        -------
        float or numpy.ndarray
            Share, 0..1, in the shape that the arguments broadcast to.

        Raises
        ------
        ValueError
            If a size is not positive.

        Examples
        --------
        >>> TissueMask(np.array([[True, False]]), mpp=10.0).fraction(5, 0, 10, 10)
        0.5
        """
        x, y, w, h = np.broadcast_arrays(
            *(np.asarray(v, np.float64) for v in (x_um, y_um, width_um, height_um))
        )
        if not (np.all(w > 0) and np.all(h > 0)):
            raise ValueError("width_um and height_um must be positive")
        x0, y0, x1, y1 = x / self.mpp, y / self.mpp, (x + w) / self.mpp, (y + h) / self.mpp
        inside = self._below(x1, y1) - self._below(x0, y1) - self._below(x1, y0) + self._below(x0, y0)
        share = np.clip(inside / (w * h / self.mpp**2), 0.0, 1.0)
        return float(share) if share.ndim == 0 else share

    def __repr__(self) -> str:
        h, w = self.mask.shape
        return f"TissueMask({w} x {h} px at mpp {self.mpp:g}, {self.area_um2 / 1e6:.3g} mm² of tissue)"


def tissue_mask(
    slide: "Slide",
    mpp: float = 8.0,
    *,
    threshold: float | None = None,
    close_um: float = 16.0,
    min_area_um2: float | None = None,
    max_hole_um2: float | None = None,
    workers: int = 2,
) -> TissueMask:
    """Find stained tissue on a slide.

    The score of a pixel is how much its optical density -ln(I / I_glass) differs between the channels, max -
    min: stains colour the light, glass and shadows do not. The threshold is Otsu's, held between 0.06 and
    0.11, so that an empty slide gives an empty mask and a full one a full mask. Grey dark pixels (pen,
    borders) and blue or green ink are left out.

    Parameters
    ----------
    slide : Slide
        The slide.
    mpp : float
        Micrometres per pixel of the mask; the slide is read at this resolution, in bands.
    threshold : float, optional
        Score above which a pixel is tissue, instead of Otsu's.
    close_um : float
        Gaps up to twice this wide are bridged, µm; 0 bridges none.
    min_area_um2 : float, optional
        Smaller pieces are removed, µm². By default 10,000, or a twentieth of the slide where that is less: a
        picture of a fraction of a millimetre may be one piece of tissue.
    max_hole_um2 : float, optional
        Holes that are smaller once the gaps are bridged are filled, µm²; the same default.
    workers : int
        Threads that read the slide.

    Returns
    -------
    TissueMask
        Where the tissue is.

    Raises
    ------
    ValueError
        If mpp or workers is not positive, or a length or area is negative.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979) 62-66.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> image = np.full((64, 64, 3), 245, np.uint8)
    >>> image[16:48, 16:48] = (200, 120, 170)
    >>> tissue_mask(open_slide(image, mpp=4.0), mpp=4.0, close_um=0.0).area_um2
    16384.0
    """
    small = min(10_000.0, slide.size_um[0] * slide.size_um[1] / 20)
    min_area_um2 = small if min_area_um2 is None else min_area_um2
    max_hole_um2 = small if max_hole_um2 is None else max_hole_um2
    lengths = {"close_um": close_um, "min_area_um2": min_area_um2, "max_hole_um2": max_hole_um2}
    for name, value in lengths.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more, found {value}")
    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp must be a positive number of micrometres per pixel, found {mpp}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    image = _overview(slide, mpp, workers)
    score, ink = _stain_score(image)
    limit = _threshold(score[~ink]) if threshold is None else threshold
    mask = (ndimage.gaussian_filter(score, 0.5, mode="nearest") > limit) & ~ink
    # dust must not be joined to a piece by the closing
    mask = _without_small(mask, min_area_um2 / 4 / mpp**2)
    mask = _closed(mask, close_um / mpp)
    mask = ~_without_small(~mask, max_hole_um2 / mpp**2)
    return TissueMask(_without_small(mask & ~ink, min_area_um2 / mpp**2), float(mpp))


def _overview(slide: "Slide", mpp: float, workers: int) -> np.ndarray:
    """Return the whole slide; the last row and column repeat their neighbour if the slide ends inside."""
    width, height = (max(1, math.ceil(side / mpp - 1e-6)) for side in slide.size_um)
    starts = range(0, height, _BAND_ROWS)

    def band(start: int) -> np.ndarray:
        rows = min(_BAND_ROWS, height - start)
        return slide.read_region(0, start * mpp, width * mpp, rows * mpp, mpp)

    with ThreadPoolExecutor(min(workers, len(starts))) as pool:
        image = np.concatenate(list(pool.map(band, starts)))
    if width > 1 and slide.size_um[0] < width * mpp * (1 - 1e-9):
        image[:, -1] = image[:, -2]
    if height > 1 and slide.size_um[1] < height * mpp * (1 - 1e-9):
        image[-1] = image[-2]
    return image


def _stain_score(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (h, w) difference of optical density between channels, and where ink or darkness is."""
    low, high = image.min(axis=2), image.max(axis=2)
    density = -np.log((image.astype(np.float32) + 1.0) / (_glass(image, low, high) + 1.0))
    np.maximum(density, 0.0, out=density)
    score = density.max(axis=2) - density.min(axis=2)
    dark = high < _DARK
    ink = density[..., 0] - density[..., 1] > _INK
    ink = ndimage.binary_opening(dark | ink, iterations=1) if min(image.shape[:2]) > 2 else dark | ink
    # One pixel around ink is a mixture of ink and glass or tissue.
    ink = ndimage.binary_dilation(ink)
    return score, ink


def _glass(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the colour of glass: the median of bright, nearly grey pixels but not unscanned pure white."""
    glass = (low >= _GLASS_MIN) & (high - low <= _GLASS_CHROMA) & (low < 254)
    if np.count_nonzero(glass) < 0.05 * glass.size:
        return np.full(3, 255.0, np.float32)
    return np.median(image[glass], axis=0).astype(np.float32)


def _threshold(score: np.ndarray) -> float:
    """Otsu's threshold of the scores, within the limits."""
    if score.size == 0:
        return _MOST_DENSITY
    counts, edges = np.histogram(score, bins=256, range=(0.0, 1.0))
    parted = otsu(counts, edges)
    return float(np.clip(_LEAST_DENSITY if parted is None else parted, _LEAST_DENSITY, _MOST_DENSITY))


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Close with a disk of `radius` pixels, by two distance transforms; the mask goes on past borders."""
    if radius < 1.0 or not mask.any() or mask.all():
        return mask
    pad = math.ceil(radius) + 1
    grown = ndimage.distance_transform_edt(~np.pad(mask, pad, mode="edge")) <= radius
    if grown.all():
        return np.ones_like(mask)
    return (ndimage.distance_transform_edt(grown) > radius)[pad:-pad, pad:-pad]


def _without_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Drop connected parts of fewer pixels."""
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) >= pixels
    keep[0] = False
    return keep[labels]
