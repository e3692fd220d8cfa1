"""`superpixels`: tissue as regions of even colour, by SLIC and merging."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic
from tqdm.auto import tqdm

from ..slides.ahead import work_ahead
from .entities import Entities, assemble
from .masks import Masks, pack, unique_labels
from .merging import merge_by_colour, touching_pairs, unique_pairs
from .within import check_workers, mask_at, resolve_mask

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask


def superpixels(
    slide: Slide,
    size_um: float = 20.0,
    mpp: float = 1.0,
    mask: TissueMask | Literal["auto"] | None = "auto",
    *,
    compactness: float = 20.0,
    smooth_um: float = 2.0,
    merge_threshold: float = 10.0,
    max_area_um2: float | None = None,
    block_um: float = 1024.0,
    workers: int = 2,
    progress: bool = False,
) -> Entities:
    """Cut the tissue into superpixels of similar colour (SLIC) and merge touching ones of similar mean colour.

    SLIC runs in blocks on a grid from the canvas origin, which bounds memory; a border of blocks is one of superpixels
    unless merging, which acts across blocks, removes it. Pieces below a quarter of ``size_um²`` join their most similar
    neighbour, then the most similar pair merges until no touching pair is below `merge_threshold`.

    Parameters
    ----------
    slide : Slide
        The slide.
    size_um : float
        Side of a superpixel before merging, in µm.
    mpp : float
        Pixel size of the image and of the masks in µm.
    mask : TissueMask, "auto" or None
        Superpixels lie within it; "auto" computes it with ``slide.tissue_mask()``, None takes the whole slide.
    compactness : float
        SLIC's balance of space against colour; larger is squarer.
    smooth_um : float
        Standard deviation of the smoothing before SLIC in µm, so that regions follow tissue and not single nuclei.
    merge_threshold : float
        Difference of mean RGB (each 0 … 255) below which touching superpixels are merged; 0 merges none.
    max_area_um2 : float, optional
        No merged superpixel is larger, in µm²; by default 25 times the square of `size_um`, so that even a field of
        one colour stays a graph. Infinity sets no limit.
    block_um : float
        Side of the blocks in µm.
    workers : int
        Threads that read and segment blocks.
    progress : bool
        Show a bar.

    Returns
    -------
    Entities
        Kind "tissue", labelled 1 … N by block and place; each is connected.

    Raises
    ------
    ValueError
        If a length, the compactness, the threshold or the number of workers is out of range.

    References
    ----------
    R. Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, IEEE TPAMI 34 (2012) 2274-2282.
    P. Pati et al., Hierarchical graph representations in digital pathology, Med Image Anal 75 (2022) 102264 (merging).

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> image = np.full((40, 60, 3), (220, 160, 200), np.uint8)
    >>> image[:, 30:] = (140, 80, 150)
    >>> superpixels(open_slide(image, mpp=1.0), size_um=10.0, mask=None, max_area_um2=np.inf).area.tolist()
    [1200.0, 1200.0]
    """
    parameters: dict[str, Any] = {
        "size_um": size_um,
        "mpp": mpp,
        "compactness": compactness,
        "smooth_um": smooth_um,
        "merge_threshold": merge_threshold,
        "max_area_um2": 25 * size_um**2 if max_area_um2 is None else max_area_um2,
        "block_um": block_um,
    }
    _check(parameters, workers)
    found = resolve_mask(slide, mask)
    parameters = {"finder": "superpixels", **parameters, "masked": found is not None}
    cutter = _Cutter(slide, size_um, mpp, compactness, smooth_um, found, round(block_um / mpp))
    return _merged(_blocks(cutter, workers, progress), cutter, parameters)


@dataclass(frozen=True)
class _Block:
    """Superpixels of one block: numbered from 0 within it, -1 is off the tissue."""

    place: tuple[int, int]
    masks: Masks
    colour: NDArray[np.float64]
    count: NDArray[np.int64]
    total: NDArray[np.int64]
    pairs: NDArray[np.int64]
    first_row: NDArray[np.int64]
    last_row: NDArray[np.int64]
    first_col: NDArray[np.int64]
    last_col: NDArray[np.int64]


@dataclass(frozen=True)
class _Cutter:
    """Cuts one block of the raster into superpixels."""

    slide: Slide
    size_um: float
    mpp: float
    compactness: float
    smooth_um: float
    mask: TissueMask | None
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the raster over the slide."""
        width, height = self.slide.size_um
        return max(1, round(height / self.mpp)), max(1, round(width / self.mpp))

    def places(self) -> list[tuple[int, int]]:
        """Row and column of the blocks that hold tissue, in reading order."""
        rows, cols = (math.ceil(length / self.side) for length in self.shape)
        places = [(row, col) for row in range(rows) for col in range(cols)]
        if self.mask is None:
            return places
        side_um = self.side * self.mpp
        row, col = np.array(places).T
        share = np.asarray(self.mask.fraction(col * side_um, row * side_um, side_um, side_um))
        return [place for place, part in zip(places, share) if part > 0]

    def cut(self, place: tuple[int, int]) -> _Block:
        """Read and cut one block."""
        row, col = place[0] * self.side, place[1] * self.side
        height, width = min(self.side, self.shape[0] - row), min(self.side, self.shape[1] - col)
        mpp = self.mpp
        image = self.slide.read_region(col * mpp, row * mpp, width * mpp, height * mpp, mpp)
        n_segments = round(height * width * mpp**2 / self.size_um**2)
        label = np.ones((height, width), np.int64)
        if n_segments > 1:
            sigma = self.smooth_um / mpp
            label = slic(image, n_segments, self.compactness, sigma=sigma, start_label=1).astype(np.int64)
        if self.mask is not None:
            x, y = (col + np.arange(width) + 0.5) * mpp, (row + np.arange(height) + 0.5) * mpp
            label *= mask_at(self.mask, x[None, :], y[:, None])
            label = _connected(label)
        label = np.ascontiguousarray(label)
        masks, count, total = pack(label, unique_labels(label))
        masks = Masks(masks.bits, masks.pointers, masks.boxes + np.array([row, col, row, col]))
        local = np.unique(label, return_inverse=True)[1].reshape(label.shape)
        local = local - 1 if (label == 0).any() else local
        on = local >= 0
        colour = [np.bincount(local[on], image[..., channel][on], len(count)) for channel in range(3)]
        return _Block(
            place,
            masks,
            np.stack(colour, axis=1),
            count,
            total + count[:, None] * np.array([row, col]),
            touching_pairs(local),
            *(border.copy() for border in (local[0], local[-1], local[:, 0], local[:, -1])),
        )


def _connected(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the pieces into which the mask cuts a superpixel labels of their own."""
    from skimage.measure import label as components

    return components(label, background=0, connectivity=1).astype(np.int64)


def _blocks(cutter: _Cutter, workers: int, progress: bool) -> list[_Block]:
    """Cut all blocks, in order, with few images in memory at a time."""
    places = cutter.places()
    blocks = work_ahead(cutter.cut, places, workers, ahead=workers)
    return list(tqdm(blocks, "superpixels", len(places), unit="block", disable=not progress))


def _merged(blocks: list[_Block], cutter: _Cutter, parameters: dict[str, Any]) -> Entities:
    """Merge the superpixels of all blocks and pack the result."""
    pairs, colour, count, total = _gather(blocks)
    pixel = cutter.mpp**2
    limit = parameters["max_area_um2"] / pixel
    group = merge_by_colour(
        pairs, colour, count, parameters["merge_threshold"], cutter.size_um**2 / pixel / 4, limit
    )
    n = int(group.max()) + 1 if len(group) else 0
    masks = Masks.concatenate([block.masks for block in blocks]).union(group, n)
    # Whole numbers below 2^53 are exact as weights of bincount.
    sums = np.stack([np.bincount(group, total[:, axis], n) for axis in range(2)], axis=1).astype(np.int64)
    size = np.bincount(group, count, n).astype(np.int64)
    label = np.arange(1, n + 1, dtype=np.int64)
    return assemble("tissue", label, masks, size, sums, cutter.mpp, (0, 0), parameters, cutter.shape)


def _gather(
    blocks: list[_Block],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which superpixels of all blocks touch, also across blocks, and their sums; numbered in order."""
    if not blocks:
        return np.zeros((0, 2), np.int64), np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    start = np.cumsum([0] + [len(block.count) for block in blocks])
    at = {block.place: i for i, block in enumerate(blocks)}
    pairs = [block.pairs + start[i] for i, block in enumerate(blocks)]
    for i, block in enumerate(blocks):
        row, col = block.place
        right, below = at.get((row, col + 1)), at.get((row + 1, col))
        if right is not None:
            pairs.append(_facing(block.last_col, blocks[right].first_col, start[i], start[right]))
        if below is not None:
            pairs.append(_facing(block.last_row, blocks[below].first_row, start[i], start[below]))
    return (
        unique_pairs(np.concatenate(pairs)),
        np.concatenate([block.colour for block in blocks]),
        np.concatenate([block.count for block in blocks]),
        np.concatenate([block.total for block in blocks]),
    )


def _facing(
    one: NDArray[np.int64], other: NDArray[np.int64], start: int, other_start: int
) -> NDArray[np.int64]:
    """Pairs of superpixels that face each other across the border of two blocks."""
    both = (one >= 0) & (other >= 0)
    return np.stack([one[both] + start, other[both] + other_start], axis=1)


def _check(parameters: dict[str, Any], workers: int) -> None:
    """Check the arguments of `superpixels`."""
    for name, value in parameters.items():
        zero = name in ("smooth_um", "merge_threshold")
        if name == "max_area_um2" and value == math.inf:
            continue
        if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise ValueError(
                f"{name}: expected a number {'of at least' if zero else 'above'} 0, found {value}."
            )
    size_um, mpp, block_um = parameters["size_um"], parameters["mpp"], parameters["block_um"]
    if size_um < mpp:
        raise ValueError(f"size_um: expected at least one pixel of {mpp} µm, found {size_um}; lower mpp.")
    if block_um < 2 * size_um:
        raise ValueError(f"block_um: expected at least two superpixels of {size_um} µm, found {block_um}.")
    check_workers(workers)
