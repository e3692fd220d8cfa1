"""StarDist over a whole slide: the network on squares at fixed places, and candidates joined over their seams."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..slides.ahead import work_ahead
from .entities import Entities, assemble
from .masks import Masks, pack
from .nuclei_bar import advance, area_bar
from .parts_on_disk import KeptParts
from .star_polygons import KEPT, UNDECIDED, StarPolygons, draw, suppress
from .stardist_files import StarDistModel
from .stardist_runtime import EDGE, Runner, candidates, scaled
from .within import points_inside

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask

_DRAW_PX = 2048  # nuclei are drawn in squares of this side
_Square = tuple[int, int]


@dataclass(frozen=True)
class SquareSearch:
    """All that decides the nuclei, and nothing about tiles.

    Parameters
    ----------
    slide : Slide
        The slide.
    mpp : float
        Pixel size of the raster in µm.
    mask : TissueMask, optional
        Where nuclei are kept.
    model : StarDistModel
        The model.
    run : callable
        Of `make_runner`.
    values : tuple of ndarray, optional
        What becomes 0 and 1; None: percentiles of each window.
    prob_thresh, nms_thresh : float
        Thresholds of probability and overlap.
    reach : float
        Largest distance from centre to edge in pixels.
    window_px : int
        Side of the squares with their margin.
    lock : Lock
        Held while the network runs, so that the memory of one run is taken once.

    Examples
    --------
    >>> from histograph.nn.stardist_net import StarDistConfig, StarDistNet
    >>> from histograph.slides import open_slide
    >>> net = StarDistNet(StarDistConfig(n_channel_in=3, n_depth=1, n_filter_base=2, features=0)).eval()
    >>> model = StarDistModel(net, 0.5, 0.4, "untrained")
    >>> slide = open_slide(np.zeros((40, 30, 3), np.uint8), mpp=0.5)
    >>> SquareSearch(slide, 0.5, None, model, None, None, 0.5, 0.4, 9.0, 36, Lock()).square
    (16, 16)
    """

    slide: Slide
    mpp: float
    mask: TissueMask | None
    model: StarDistModel
    run: Runner
    values: tuple[NDArray, NDArray] | None
    prob_thresh: float
    nms_thresh: float
    reach: float
    window_px: int
    lock: Lock

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the raster over the slide."""
        width, height = self.slide.size_um
        return max(1, round(height / self.mpp)), max(1, round(width / self.mpp))

    @property
    def square(self) -> tuple[int, int]:
        """Rows and columns of a square without its margin."""
        config = self.model.config
        rows, cols = (
            max(divisor, (self.window_px - 2 * margin) // divisor * divisor)
            for margin, divisor in zip(config.margin, config.divisor)
        )
        return rows, cols

    def tiles(self, squares: int) -> Iterator[list[list[tuple[int, int]]]]:
        """Yield each row of tiles, a tile as the squares in it (row, column) that have tissue."""
        rows, cols = (
            [range(n)[at : at + squares] for at in range(0, n, squares)]
            for n in (-(-side // step) for side, step in zip(self.shape, self.square))
        )
        for row in rows:
            yield [[(r, c) for r in row for c in col if self._wanted(r, c)] for col in cols]

    def known(self, squares: list[tuple[int, int]], whole_rows: bool) -> tuple[float, float, float, float]:
        """Return where all candidates are known after some squares; nothing lies beyond the slide.

        Parameters
        ----------
        squares : list
            All squares of a rectangle but those without tissue.
        whole_rows : bool
            Whether everything above and beside them is known too.
        """
        (height, width), (rows, cols) = self.shape, self.square
        edges = [min(r for r, _ in squares) * rows, min(c for _, c in squares) * cols]
        ends = [(max(r for r, _ in squares) + 1) * rows, (max(c for _, c in squares) + 1) * cols]
        low = [-math.inf if whole_rows or edge <= 0 else float(edge) for edge in edges]
        high = [math.inf if end >= side else float(end) for end, side in zip(ends, (height, width))]
        return low[0], low[1], high[0], math.inf if whole_rows else high[1]

    def area_um2(self, squares: list[_Square]) -> float:
        """Return how much of the slide some squares cover."""
        (height, width), (rows, cols) = self.shape, self.square
        sides = ((min(rows, height - r * rows), min(cols, width - c * cols)) for r, c in squares)
        return sum(a * b for a, b in sides) * self.mpp**2

    def tile(self, squares: list[_Square], stop: Event) -> tuple[StarPolygons, StarPolygons]:
        """Return the nuclei of a tile that are certain, and the candidates that wait for its neighbours."""
        parts = [self.nothing]
        for square in squares:
            if stop.is_set():
                raise CancelledError
            parts.append(self._candidates(*square))
        if not squares:
            return self.nothing, self.nothing
        found = StarPolygons.concatenate(parts).ranked()
        return self.decide(found, self.known(squares, whole_rows=False))

    def decide(
        self, found: StarPolygons, known: tuple[float, float, float, float]
    ) -> tuple[StarPolygons, StarPolygons]:
        """Part ranked candidates into nuclei and those that wait."""
        state = suppress(found, self.nms_thresh, known, self.reach)
        return found.select(np.flatnonzero(state == KEPT)), found.select(np.flatnonzero(state == UNDECIDED))

    @property
    def nothing(self) -> StarPolygons:
        """No polygon."""
        return StarPolygons.of(np.zeros((0, 2)), np.zeros((0, self.model.config.n_rays)), np.zeros(0))

    def _wanted(self, row: int, col: int) -> bool:
        """Whether a nucleus with its centre in the square could have its centroid on tissue."""
        if self.mask is None:
            return True
        (rows, cols), reach = self.square, self.reach * self.mpp
        x, y = col * cols * self.mpp - reach, row * rows * self.mpp - reach
        box = (cols * self.mpp + 2 * reach, rows * self.mpp + 2 * reach)
        return float(self.mask.fraction(x, y, *box)) > 0

    def _candidates(self, row: int, col: int) -> StarPolygons:
        """Run the network on one square."""
        config = self.model.config
        (rows, cols), (above, left) = self.square, config.margin
        top, start = row * rows - above, col * cols - left
        # of a square at the end of the slide no more is computed than what lies on it depends on
        ends = (
            -(-(side - first) // divisor) * divisor + margin
            for side, first, divisor, margin in zip(
                self.shape, (top, start), config.divisor, config.margin, strict=True
            )
        )
        height, width = map(min, (rows + 2 * above, cols + 2 * left), ends)
        image = self._read(top, start, (height, width))
        if (image == image[0, 0]).all():  # a nucleus differs from what is around it
            return self.nothing
        with self.lock:
            outputs = self.run(self._scaled(image))
        # as StarDist does, no nucleus has its centre in the outermost places of the whole
        valid = [
            _places(*axis) for axis in zip((top, start), (above, left), (rows, cols), self.shape, config.grid)
        ]
        return candidates(
            outputs, self.prob_thresh, config.grid, (valid[0], valid[1]), (top, start), self.reach
        )

    def _scaled(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.values is not None:
            return scaled(image, *self.values)
        return scaled(image, *np.percentile(image, self.model.percentiles or (0, 100)))

    def _read(self, top: int, left: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a window of the raster; beyond the slide the image is mirrored."""
        rows, cols = self.shape
        row_0, col_0 = max(top, 0), max(left, 0)
        row_1, col_1 = min(top + shape[0], rows), min(left + shape[1], cols)
        x, y, width, height = (side * self.mpp for side in (col_0, row_0, col_1 - col_0, row_1 - row_0))
        image = self.slide.read_region(x, y, width, height, self.mpp)
        pad = ((row_0 - top, top + shape[0] - row_1), (col_0 - left, left + shape[1] - col_1))
        return np.pad(image, (*pad, (0, 0)), mode="symmetric")


def find_polygons(
    search: SquareSearch, squares: int, workers: int, progress: bool, kept: KeptParts | None = None
) -> Generator[tuple[StarPolygons, float], None, None]:
    """Find the nuclei of one row of tiles after the other; those that wait at its end go on to the next.

    Parameters
    ----------
    search : SquareSearch
        What to do.
    squares : int
        Squares along the side of a tile.
    workers : int
        Threads.
    progress : bool
        Show a bar.
    kept : KeptParts, optional
        Where finished tiles are kept: what is certain in a tile, and what waits for its neighbours. Who of those
        stays is decided again, which takes no time beside the network.

    Yields
    ------
    StarPolygons
        Nuclei that are certain by now, with row and column on the raster of the slide.
    float
        All nuclei with their centres above this row are found.
    """
    rows = list(search.tiles(squares))
    stop, waiting, reached, found = Event(), search.nothing, 0, 0

    def work(tile: list[_Square]) -> tuple[StarPolygons, StarPolygons]:
        if kept is None or not tile:
            return search.tile(tile, stop)
        return _unpacked(kept.get(f"{tile[0][0]}-{tile[0][1]}", lambda: _packed(*search.tile(tile, stop))))

    tiles = work_ahead(work, (tile for row in rows for tile in row), workers, ahead=workers, stop=stop)
    total = sum(search.area_um2(tile) for row in rows for tile in row)
    # closed here, because nobody else stops the threads when the caller fails or is interrupted
    with closing(tiles), area_bar(total, progress) as bar:
        for row in rows:
            parts = []
            for tile in row:
                certain, late = next(tiles)
                parts.append(certain)
                waiting = StarPolygons.concatenate([waiting, late])
                found += len(certain)
                advance(bar, search.area_um2(tile), found)
            reached += squares
            below = [(reached - 1, 0)]
            certain, waiting = search.decide(waiting.ranked(), search.known(below, whole_rows=True))
            found += len(certain)
            advance(bar, 0.0, found)
            complete = reached * search.square[0] if row is not rows[-1] else math.inf
            yield (
                StarPolygons.concatenate([*parts, certain]),
                min(complete, waiting.points[:, 0].min(initial=2**62)),
            )


def draw_entities(
    found: Iterable[tuple[StarPolygons, float]], search: SquareSearch, parameters: dict[str, Any]
) -> Iterator[Entities]:
    """Draw the nuclei, a band of the slide at a time, and number them by the place of their centres.

    Parameters
    ----------
    found : iterable
        Of `find_polygons`. Only those near the band that is next are held.
    search : SquareSearch
        Where they were found.
    parameters : dict
        Provenance.

    Yields
    ------
    Entities
        With the column "probability" and, if the network tells kinds apart, "type"; labels go on from one to the
        next. There is at least one.
    """
    margin, height = math.ceil(search.reach) + 1, search.shape[0]
    near, row, first = search.nothing, 0, 1
    for nuclei, complete in found:
        near = StarPolygons.concatenate([near, nuclei])
        while row < height and min(row + _DRAW_PX + 2 * margin, height) <= complete:
            cells = _draw_band(near.ranked(), row, search, parameters, first)
            first += len(cells)
            row += _DRAW_PX
            # what reaches into a nucleus of the next band has its centre within twice the reach
            near = near.select(np.flatnonzero(near.points[:, 0] >= row - 2 * margin))
            yield cells


def _draw_band(
    found: StarPolygons, row: int, search: SquareSearch, parameters: dict[str, Any], first: int
) -> Entities:
    """Draw the nuclei with their centres in a band, square by square; `found` holds all near it, ranked."""
    (height, width), margin = search.shape, math.ceil(search.reach) + 1
    place = found.points[:, 0] * width + found.points[:, 1]
    masks, counts, totals, which = [Masks.empty()], [place[:0]], [found.points[:0]], [place[:0]]
    band = np.flatnonzero(_beyond(found.points[:, 0], row) <= 2 * margin)
    for col in range(0, width, _DRAW_PX):
        beyond = np.maximum(_beyond(found.points[band, 0], row), _beyond(found.points[band, 1], col))
        near = band[beyond <= 2 * margin]
        own = np.flatnonzero(beyond[beyond <= 2 * margin] <= 0)
        if not len(own):
            continue
        top, left = max(row - margin, 0), max(col - margin, 0)
        bottom, right = min(row + _DRAW_PX + margin, height), min(col + _DRAW_PX + margin, width)
        drawn = draw(found.select(near), (top, left, bottom - top, right - left))
        packed, count, total = pack(drawn, own + 1)
        seen = np.flatnonzero(count > 0)
        packed, offset = packed.select(seen), np.array([top, left])
        masks.append(Masks(packed.bits, packed.pointers, packed.boxes + np.tile(offset, 2)))
        counts.append(count[seen])
        totals.append(total[seen] + count[seen][:, None] * offset)
        which.append(near[own[seen]])
    order = np.argsort(place[np.concatenate(which)], kind="stable")
    count, total = np.concatenate(counts)[order], np.concatenate(totals)[order]
    if search.mask is not None:
        keep = points_inside(search.mask, (total[:, ::-1] / count[:, None] + 0.5) * search.mpp)
        order, count, total = order[keep], count[keep], total[keep]
    label = np.arange(first, first + len(order), dtype=np.int64)
    joined = Masks.concatenate(masks).select(order)
    cells = assemble("cell", label, joined, count, total, search.mpp, (0, 0), parameters, search.shape)
    chosen = np.concatenate(which)[order]
    columns: dict[str, NDArray[Any]] = {"probability": found.score[chosen]}
    if search.model.config.n_classes is not None:
        columns["type"] = np.array(("", *search.model.class_names))[found.kind[chosen]]
    return replace(cells, columns=columns)


def _packed(certain: StarPolygons, late: StarPolygons) -> dict[str, NDArray[Any]]:
    """Return the arrays of a tile under names for a file."""
    pair = {"certain": certain, "late": late}
    return {f"{name}.{key}": array for name, part in pair.items() for key, array in vars(part).items()}


def _unpacked(arrays: dict[str, NDArray[Any]]) -> tuple[StarPolygons, StarPolygons]:
    """Return a tile from its arrays."""
    keys = ("points", "dist", "score", "kind")
    certain, late = (StarPolygons(*(arrays[f"{name}.{key}"] for key in keys)) for name in ("certain", "late"))
    return certain, late


def _beyond(at: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """How far rows or columns lie beyond those of a square; not positive inside."""
    return np.maximum(first - at, at - (first + _DRAW_PX - 1))


def _places(first: int, margin: int, size: int, side: int, grid: int) -> slice:
    """Return the places of the output, along one axis, whose nuclei belong to a square."""
    low = max((first + margin) // grid, EDGE)
    high = min((first + margin + size) // grid, -(-side // grid) - EDGE)
    return slice(low - first // grid, max(high, low) - first // grid)
