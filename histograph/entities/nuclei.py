"""`nuclei`: cells by the colour of their nuclei, without trained weights, the same whatever the tile size."""

from __future__ import annotations

import inspect
import itertools
import math
import os
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..slides.ahead import work_ahead
from .collect import collect
from .entities import Entities, assemble
from .masks import Masks, pack, unique_labels
from .nuclei_bar import advance, area_bar
from .nuclei_tile import UNITS, NucleusSettings, segment
from .parts_on_disk import KeptParts, keep_parts
from .stain import MACENKO_REFERENCE, RUIFROK, estimate_stains, stain_weights
from .threshold import sample_tissue, stain_level
from .within import check_slide, check_workers, points_inside, resolve_mask

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask

STAINS = {"reference": MACENKO_REFERENCE, "ruifrok": RUIFROK}


def nuclei(
    slide: Slide,
    mpp: float | None = None,
    mask: TissueMask | Literal["auto"] | None = None,
    *,
    segment: Literal["classical", "stardist", "stardist-torch", "stardist-openvino"] = "classical",
    stains: Literal["reference", "ruifrok", "estimate"] | ArrayLike = "reference",
    threshold: float | None = None,
    tile_um: float = 1024.0,
    workers: int = 2,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Entities:
    """Find nuclei by the amount of haematoxylin and split touching ones by shape, or with a StarDist network.

    With ``segment="classical"``, the default, no trained weights are needed. The amount of haematoxylin (colour
    deconvolution, smoothed) is compared with a blend of a global threshold (Otsu's, over a fixed sample of the
    tissue) and the mean of the surrounding. On the foreground the distance to the edge and the blob response of the
    stain make a landscape; pixels climb to its peaks, and peaks without a real saddle between them are one nucleus.
    Every step looks a bounded distance away, tiles are read with a margin of all these distances, and a nucleus
    belongs to the tile that holds its peak: the result is the same, bit by bit, for every tile size and number of
    workers. Memory is that of `workers` tiles, of a row of tiles' nuclei, and of the result; only the tissue mask,
    at 8 µm a pixel, is of the size of the slide.

    Parameters
    ----------
    slide : Slide
        The slide.
    mpp : float, optional
        Pixel size at which nuclei are sought, and of the masks, in µm. Default: 0.5; with StarDist what the model's
        file says.
    mask : TissueMask, "auto" or None
        Keep nuclei whose centroid lies on tissue; "auto" computes ``slide.tissue_mask()``, None keeps all. Tiles
        without tissue are not read.
    segment : {"classical", "stardist", "stardist-torch", "stardist-openvino"}
        What finds the nuclei. "stardist-torch" runs a StarDist model without TensorFlow, "stardist-openvino" with
        OpenVINO, and "stardist" with the stardist package and TensorFlow; for all see
        `histograph.entities.stardist.stardist_nuclei`.
    stains : {"reference", "ruifrok", "estimate"} or array_like, (2, 3)
        Optical densities in red, green and blue of haematoxylin and eosin: Macenko's reference colours, those of
        Ruifrok and Johnston, estimated once from the slide's tissue, or given.
    threshold : float, optional
        Global threshold on the amount of haematoxylin (natural optical density); by default Otsu's.
    tile_um : float
        Side of a tile in µm; bounds the memory, does not change the result.
    workers : int
        Threads that read and segment tiles.
    progress : bool
        Show a bar: the nuclei found so far, and the area done.
    resume : str or os.PathLike, optional
        Folder for finished tiles. They are kept there, in a folder named after the slide, until the slide is done;
        a run that was stopped, by Ctrl-C or in any other way, goes on with them when it is called again with the
        same arguments (`workers` and `progress` may differ), and gives the same result. Tiles of other settings or
        of another slide are refused, never mixed in.
    **settings
        Any field of `NucleusSettings`, for example ``min_area_um2=20``; with StarDist any argument of
        `stardist_nuclei` but the backend, for example ``model="2D_versatile_he"``.

    Returns
    -------
    Entities
        Kind "cell", labelled 1 … N by the row, then the column, of their peaks. The whole slide is one raster.

    Raises
    ------
    ValueError
        If a length, the stains or the number of workers is out of range, an argument is of another `segment`, or
        `resume` holds tiles that were made with other arguments.
    TypeError
        If a setting is unknown, or `slide` is no open slide.
    FileNotFoundError, ImportError
        If StarDist's model or a package is missing.

    References
    ----------
    A. C. Ruifrok, D. A. Johnston, Analyt Quant Cytol Histol 23 (2001) 291-299 (colour deconvolution). N. Otsu, IEEE
    Trans. SMC 9 (1979) 62-66 (threshold).

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> image = np.full((64, 64, 3), (240, 200, 220), np.uint8)
    >>> row, col = np.ogrid[:64, :64]
    >>> image[(row - 30) ** 2 + (col - 20) ** 2 < 60] = (90, 60, 140)
    >>> cells = nuclei(open_slide(image, mpp=0.5))
    >>> len(cells), cells.centroid.round()
    (1, array([[10., 15.]]))
    """
    check_slide(slide)
    if segment != "classical":
        if not (isinstance(stains, str) and stains == "reference" and threshold is None):
            raise ValueError(f"stains, threshold: only with segment 'classical', not with {segment!r}.")
        return _stardist(
            segment,
            settings,
            slide=slide,
            mpp=mpp,
            mask=mask,
            tile_um=tile_um,
            workers=workers,
            progress=progress,
            resume=resume,
        )
    mpp = 0.5 if mpp is None else mpp
    chosen = _settings(settings)
    _check(mpp, tile_um, workers)
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: expected an amount of stain of at least 0, found {threshold}.")
    search = _search(slide, mpp, resolve_mask(slide, mask), stains, threshold, chosen)
    about = {**search.parameters, "tile_um": float(tile_um)}
    kept = keep_parts(resume, slide, search.mask, about)
    with closing(_rows(search, tile_um, workers, progress, kept)) as rows:
        cells = collect(rows)
    if kept is not None:
        kept.remove()
    return cells


@dataclass(frozen=True)
class _Part:
    """Nuclei of one tile, on the raster of the slide; the masks as in `Masks`."""

    peak: NDArray[np.int64]
    bits: NDArray[np.uint8]
    pointers: NDArray[np.int64]
    boxes: NDArray[np.int64]
    count: NDArray[np.int64]
    total: NDArray[np.int64]

    @classmethod
    def empty(cls) -> _Part:
        masks, none = Masks.empty(), np.zeros(0, np.int64)
        return cls(none, masks.bits, masks.pointers, masks.boxes, none, np.zeros((0, 2), np.int64))

    @property
    def masks(self) -> Masks:
        return Masks(self.bits, self.pointers, self.boxes)


@dataclass(frozen=True)
class _Search:
    """All that decides the nuclei, and nothing about tiles."""

    slide: Slide
    mpp: float
    weights: NDArray[np.float64]
    level: float
    settings: NucleusSettings
    mask: TissueMask | None
    parameters: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the raster over the slide."""
        width, height = self.slide.size_um
        return max(1, round(height / self.mpp)), max(1, round(width / self.mpp))

    def wanted(self, window: tuple[int, int, int, int]) -> bool:
        """Whether a nucleus with its peak in the window could have its centroid on tissue."""
        if self.mask is None:
            return True
        halo = self.settings.halo(self.mpp)
        row, col, height, width = window
        x, y = (col - halo) * self.mpp, (row - halo) * self.mpp
        box = ((width + 2 * halo) * self.mpp, (height + 2 * halo) * self.mpp)
        return float(self.mask.fraction(x, y, *box)) > 0

    def tile(self, window: tuple[int, int, int, int], stop: Event) -> _Part:
        """Find the nuclei whose peaks lie in a window (row, column, height, width) and that lie on tissue."""
        if stop.is_set():
            raise CancelledError
        halo = self.settings.halo(self.mpp)
        row, col, height, width = window
        top, left = row - halo, col - halo
        shape = (height + 2 * halo, width + 2 * halo)
        image, canvas = self._read(top, left, shape)
        if stop.is_set():
            raise CancelledError
        peaks = segment(image, canvas, self.weights, self.level, self.settings, self.mpp)
        # The pixel's value names the peak inside this window; turn it into the peak's place on the slide.
        place = unique_labels(peaks)
        at_row, at_col = np.divmod(place - 1, shape[1])
        own = (at_row >= halo) & (at_row < halo + height) & (at_col >= halo) & (at_col < halo + width)
        masks, count, total = pack(peaks, place[own])
        area = count * self.mpp**2
        keep = (area >= self.settings.min_area_um2) & (area <= self.settings.max_area_um2)
        peak = (at_row[own] + top) * self.shape[1] + at_col[own] + left
        total = total + count[:, None] * np.array([top, left])
        if self.mask is not None:
            keep &= points_inside(self.mask, (total[:, ::-1] / count[:, None] + 0.5) * self.mpp)
        chosen = np.flatnonzero(keep)
        masks = masks.select(chosen)
        boxes = masks.boxes + np.array([top, left, top, left])
        return _Part(peak[chosen], masks.bits, masks.pointers, boxes, count[chosen], total[chosen])

    def _read(self, top: int, left: int, shape: tuple[int, int]) -> tuple[NDArray, NDArray | None]:
        """Read a window of the raster; beyond the slide the image is mirrored and the canvas is False."""
        rows, cols = self.shape
        row_0, col_0 = max(top, 0), max(left, 0)
        row_1, col_1 = min(top + shape[0], rows), min(left + shape[1], cols)
        image = self.slide.read_region(
            col_0 * self.mpp,
            row_0 * self.mpp,
            (col_1 - col_0) * self.mpp,
            (row_1 - row_0) * self.mpp,
            self.mpp,
        )
        if image.shape[:2] == shape:
            return image, None
        pad = ((row_0 - top, top + shape[0] - row_1), (col_0 - left, left + shape[1] - col_1))
        canvas = np.pad(np.ones(image.shape[:2], bool), pad)
        return np.pad(image, (*pad, (0, 0)), mode="symmetric"), canvas


def _stardist(segment: str, settings: dict[str, Any], **arguments: Any) -> Entities:
    """Hand over to StarDist, whose network needs torch, which the classical method does not."""
    from .stardist import stardist_nuclei

    backends = {"stardist": "keras", "stardist-torch": "torch", "stardist-openvino": "openvino"}
    if segment not in backends:
        raise ValueError(f"segment: expected one of classical, {', '.join(backends)}, found {segment!r}.")
    known = [name for name in inspect.signature(stardist_nuclei).parameters if name not in arguments]
    known.remove("backend")
    for name in settings:
        if name not in known:
            raise TypeError(
                f"{name}: no such setting of nuclei with segment {segment!r}; expected one of {', '.join(known)}."
            )
    return stardist_nuclei(**arguments, **settings, backend=backends[segment])  # type: ignore[arg-type]


def _search(
    slide: Slide,
    mpp: float,
    mask: TissueMask | None,
    stains: str | ArrayLike,
    threshold: float | None,
    settings: NucleusSettings,
) -> _Search:
    """Settle the stains and the global threshold, once for the slide."""
    estimated = isinstance(stains, str) and stains == "estimate"
    sample = sample_tissue(slide, mpp, mask) if threshold is None or estimated else []
    colours = _stains(stains, sample)
    weights = stain_weights(colours)
    level = stain_level(sample, weights, settings.smooth_um, mpp) if threshold is None else threshold * UNITS
    parameters = {
        "finder": "nuclei",
        "mpp": float(mpp),
        "stains": np.asarray(colours, np.float64).tolist(),
        "threshold": float(level) / UNITS,
        "masked": mask is not None,
        **asdict(settings),
    }
    return _Search(slide, mpp, weights, float(level), settings, mask, parameters)


def _windows(shape: tuple[int, int], tile_um: float, mpp: float) -> Iterator[tuple[int, int, int, int]]:
    """Yield the tiles of a raster as row, column, height, width."""
    size = max(1, round(tile_um / mpp))
    for row in range(0, shape[0], size):
        for col in range(0, shape[1], size):
            yield row, col, min(size, shape[0] - row), min(size, shape[1] - col)


def _rows(
    search: _Search, tile_um: float, workers: int, progress: bool, kept: KeptParts | None
) -> Generator[Entities, None, None]:
    """Yield the nuclei of one row of tiles after the other, numbered by the place of their peaks."""
    windows = [window for window in _windows(search.shape, tile_um, search.mpp) if search.wanted(window)]
    stop, first = Event(), 1

    def work(window: tuple[int, int, int, int]) -> _Part:
        if kept is None:
            return search.tile(window, stop)
        return _Part(**kept.get(f"{window[0]}-{window[1]}", lambda: vars(search.tile(window, stop))))

    def area(window: tuple[int, int, int, int]) -> float:
        return window[2] * window[3] * search.mpp**2

    yield _join([], search, first)
    tiles = work_ahead(work, windows, workers, ahead=workers, stop=stop)
    # closed here, because nobody else stops the threads when the caller fails or is interrupted
    with closing(tiles), area_bar(sum(map(area, windows)), progress) as bar:
        for _, row in itertools.groupby(windows, key=lambda window: window[0]):
            parts: list[_Part] = []
            found = first - 1
            for window in row:
                parts.append(next(tiles))
                found += len(parts[-1].peak)
                advance(bar, area(window), found)
            yield _join(parts, search, first)
            first = found + 1


def _join(parts: list[_Part], search: _Search, first: int) -> Entities:
    """Join the nuclei of the tiles of a row and number them by the place of their peaks."""
    parts = parts or [_Part.empty()]
    order = np.argsort(np.concatenate([part.peak for part in parts]), kind="stable")
    count = np.concatenate([part.count for part in parts])[order]
    total = np.concatenate([part.total for part in parts])[order]
    masks = Masks.concatenate([part.masks for part in parts]).select(order)
    label = np.arange(first, first + len(order), dtype=np.int64)
    return assemble("cell", label, masks, count, total, search.mpp, (0, 0), search.parameters, search.shape)


def _stains(stains: str | ArrayLike, sample: list[NDArray[np.uint8]]) -> ArrayLike:
    """Return the colours of the two stains that an argument stands for."""
    if not isinstance(stains, str):
        return stains
    if stains in STAINS:
        return STAINS[stains]
    if stains != "estimate":
        raise ValueError(
            f"stains: expected 'reference', 'ruifrok', 'estimate' or a (2, 3) array, found {stains!r}."
        )
    pixels = np.concatenate([field.reshape(-1, 3) for field in sample] or [np.zeros((0, 3), np.uint8)])
    return estimate_stains(pixels)


def _settings(values: dict[str, float]) -> NucleusSettings:
    """Check the settings and fill in the rest."""
    names = [field.name for field in fields(NucleusSettings)]
    for name, value in values.items():
        if name not in names:
            raise TypeError(f"{name}: no such setting of nuclei; expected one of {', '.join(names)}.")
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a number of at least 0, found {value!r}.")
    chosen = NucleusSettings(**values)
    if chosen.min_area_um2 > chosen.max_area_um2:
        raise ValueError(
            f"min_area_um2: expected no more than max_area_um2, found {chosen.min_area_um2} and {chosen.max_area_um2}."
        )
    return chosen


def _check(mpp: float, tile_um: float, workers: int) -> None:
    for name, value in (("mpp", mpp), ("tile_um", tile_um)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: expected a positive number of µm, found {value}.")
    check_workers(workers)
