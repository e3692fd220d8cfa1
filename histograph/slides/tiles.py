"""Cut a slide into equal tiles, by micrometres, and read them ahead with threads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from .ahead import work_ahead

if TYPE_CHECKING:
    from .slide import Slide
    from .tissue import TissueMask

__all__ = ["Tile", "TileGrid"]


@dataclass(frozen=True)
class Tile:
    """One tile: where it lies and at which resolution it is read.

    Parameters
    ----------
    x_um, y_um : float
        Top-left corner, µm.
    width_um, height_um : float
        Size, µm.
    mpp : float
        Micrometres per pixel of its image.
    column, row : int
        Place in the grid.

    Examples
    --------
    >>> Tile(0.0, 128.0, 128.0, 128.0, 0.5, column=0, row=1).row
    1
    """

    x_um: float
    y_um: float
    width_um: float
    height_um: float
    mpp: float
    column: int
    row: int


class TileGrid(Sequence[Tile]):
    """The tiles of a slide, row by row; a sequence that also reads their images.

    Parameters
    ----------
    slide : Slide
        The slide.
    size_um : float
        Side of a tile, µm.
    step_um : float
        Distance between neighbours, µm.
    mpp : float
        Micrometres per pixel of the images.
    place : numpy.ndarray
        (n, 2) int64, column and row of each tile.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> grid = open_slide(np.zeros((40, 60, 3), np.uint8), mpp=0.5).tiles(size=10)
    >>> len(grid), grid[4].x_um, grid[4].y_um
    (6, 10.0, 10.0)
    """

    def __init__(self, slide: "Slide", size_um: float, step_um: float, mpp: float, place: np.ndarray) -> None:
        self.slide = slide
        self.size_um = size_um
        self.step_um = step_um
        self.mpp = mpp
        self._place = place

    @classmethod
    def covering(
        cls,
        slide: "Slide",
        size_um: float,
        mpp: float,
        overlap_um: float = 0.0,
        mask: "TissueMask | None" = None,
        min_tissue: float | None = None,
    ) -> "TileGrid":
        """Return the least grid from the top-left corner that covers the slide, or the part of it on tissue.

        Parameters
        ----------
        slide : Slide
            The slide.
        size_um : float
            Side of a tile, µm.
        mpp : float
            Micrometres per pixel of the images.
        overlap_um : float
            How far neighbours overlap, µm, in [0, size_um).
        mask : TissueMask, optional
            Keep only tiles with tissue.
        min_tissue : float, optional
            Least share of a tile that the mask must cover, 0..1; 0.5 if not given.

        Returns
        -------
        TileGrid
            Tiles, row by row.

        Raises
        ------
        ValueError
            If a number is out of its range, or `min_tissue` is given without `mask`.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> slide = open_slide(np.zeros((40, 60, 3), np.uint8), mpp=0.5)
        >>> len(TileGrid.covering(slide, 12.0, 0.5, overlap_um=2.0))
        6
        """
        if not (np.isfinite(size_um) and size_um >= mpp):
            raise ValueError(f"size must be at least one pixel ({mpp} µm), found {size_um} µm")
        if not 0.0 <= overlap_um < size_um:
            raise ValueError(f"overlap must be in [0, size) = [0, {size_um}) µm, found {overlap_um}")
        if min_tissue is not None and mask is None:
            raise ValueError("min_tissue was given without a mask; pass mask=slide.tissue_mask()")
        least = 0.5 if min_tissue is None else min_tissue
        if not 0.0 <= least <= 1.0:
            raise ValueError(f"min_tissue must be in [0, 1], found {least}")
        step = size_um - overlap_um
        across, down = (max(1, int(np.ceil((side - overlap_um) / step - 1e-9))) for side in slide.size_um)
        rows, columns = np.divmod(np.arange(across * down), across)
        if mask is not None:
            share = mask.fraction(columns * step, rows * step, size_um, size_um)
            keep = share >= least - 1e-12
            rows, columns = rows[keep], columns[keep]
        return cls(slide, float(size_um), float(step), mpp, np.stack([columns, rows], axis=1))

    def __len__(self) -> int:
        return len(self._place)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> "TileGrid": ...
    def __getitem__(self, index: int | slice) -> "Tile | TileGrid":
        if isinstance(index, slice):
            return TileGrid(self.slide, self.size_um, self.step_um, self.mpp, self._place[index])
        column, row = (int(v) for v in self._place[index])
        return Tile(
            column * self.step_um, row * self.step_um, self.size_um, self.size_um, self.mpp, column, row
        )

    def read(self, tile: Tile) -> np.ndarray:
        """Pixels of one tile.

        Parameters
        ----------
        tile : Tile
            A tile of the slide.

        Returns
        -------
        numpy.ndarray
            (h, w, 3) uint8 RGB.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> grid = open_slide(np.zeros((40, 60, 3), np.uint8), mpp=0.5).tiles(size=10)
        >>> grid.read(grid[0]).shape
        (20, 20, 3)
        """
        return self.slide.read_region(tile.x_um, tile.y_um, tile.width_um, tile.height_um, tile.mpp)

    def images(self, workers: int = 2) -> Iterator[tuple[Tile, np.ndarray]]:
        """Yield every tile with its pixels, in order, reading a few tiles ahead with threads.

        Parameters
        ----------
        workers : int
            Threads; 0 reads in the calling thread.

        Yields
        ------
        tuple
            (Tile, (h, w, 3) uint8 RGB).

        Raises
        ------
        ValueError
            If workers is negative.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> slide = open_slide(np.full((40, 60, 3), 9, np.uint8), mpp=0.5)
        >>> [float(image.mean()) for tile, image in slide.tiles(size=20).images()]
        [9.0, 132.0]
        """
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, found {workers}")
        return self._images(workers)

    def _images(self, workers: int) -> Iterator[tuple[Tile, np.ndarray]]:
        if workers == 0:
            for tile in self:
                yield tile, self.read(tile)
            return
        yield from zip(self, work_ahead(self.read, self, workers, ahead=2 * workers), strict=True)

    def __repr__(self) -> str:
        return (
            f"TileGrid({len(self)} tiles of {self.size_um:g} µm at mpp {self.mpp:g}, {self.slide.slide_id!r})"
        )
