"""Features of entities on a slide, read block by block so that memory stays bounded on any slide."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .regions import GROUPS, check_groups, feature_names, measure_runs
from .run_sources import resample_runs, runs_of_masks, runs_of_rectangles
from .runs import Runs
from .table import FeatureTable

if TYPE_CHECKING:
    from histograph.entities import Entities
    from histograph.slides import Slide

__all__ = ["entity_features"]


def _positive(value: float, name: str) -> float:
    if np.ndim(value) or not np.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be one positive number of micrometres, found {value!r}")
    return float(value)


def _blocks(bbox: npt.NDArray[np.float64], tile_um: float) -> list[npt.NDArray[np.int64]]:
    """Rows of the entities of every block: an entity belongs to the block of its box's top-left corner."""
    if not len(bbox):
        return []
    if not np.isfinite(bbox).all():
        raise ValueError("entities.bbox must be finite micrometres, found nan or inf")
    _, block = np.unique(np.floor(bbox[:, [1, 0]] / tile_um).astype(np.int64), axis=0, return_inverse=True)
    order = np.argsort(block.reshape(-1), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(block.reshape(-1)[order])) + 1)


def _runs(entities: Entities, rows: npt.NDArray[np.int64], mpp: float) -> Runs:
    """Pixels of some entities on the grid of `mpp` from the canvas origin."""
    label = entities.label[rows]
    if entities.masks is not None:
        runs = runs_of_masks(label, entities.masks.select(rows))
        return runs if mpp == entities.mpp else resample_runs(runs, mpp / entities.mpp)
    edges = np.ceil(entities.bbox[rows] / mpp - 0.5).astype(np.int64)
    return runs_of_rectangles(label, edges[:, [1, 0, 3, 2]])


def _block_features(
    slide: Slide, entities: Entities, rows: npt.NDArray[np.int64], mpp: float, groups: tuple[str, ...]
) -> npt.NDArray[np.float32]:
    parts = []
    pixel_groups = tuple(group for group in groups if group != "shape")
    if "shape" in groups:
        parts.append(measure_runs(_runs(entities, rows, entities.mpp), None, entities.mpp, ("shape",)))
    if pixel_groups:
        runs = _runs(entities, rows, mpp)
        box = runs.bbox
        (top, left), (bottom, right) = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
        width, height = int(right - left), int(bottom - top)
        image = slide.read_region(left * mpp, top * mpp, width * mpp, height * mpp, mpp=mpp)
        if image.shape != (height, width, 3):
            raise ValueError(
                f"slide.read_region must return shape {(height, width, 3)} at {mpp} µm per pixel, "
                f"found {image.shape}"
            )
        parts.append(measure_runs(runs.shift(-int(top), -int(left)), image, mpp, pixel_groups))
    return FeatureTable.concatenate(parts, axis=1).select(feature_names(groups)).values


def entity_features(
    slide: Slide,
    entities: Entities,
    mpp: float | None = None,
    groups: Sequence[str] | None = None,
    tile_um: float = 1024.0,
    workers: int = 2,
    progress: bool = False,
) -> FeatureTable:
    """Compute features of entities of a slide from their own pixels, block by block.

    The columns are those of `region_features`. Shape is measured on the entities' own masks and raster;
    colour, stain and texture on pixels of `mpp`. Every entity is measured from its own pixels on one grid
    that starts at the canvas origin, so the values do not depend on `tile_um` or `workers`, and entities may
    overlap. Outside the slide is white.

    Parameters
    ----------
    slide : Slide
        Where the pixels come from.
    entities : Entities
        N entities; without masks each is a full rectangle.
    mpp : float, optional
        Micrometres per pixel of the image. Default: `entities.mpp`. Masks are brought to this grid by pixel
        centres.
    groups : sequence of str, optional
        Names out of "shape", "color", "stain", "texture". Default: all; without "shape" for rectangles, whose
        shape says nothing.
    tile_um : float
        Side of a block in micrometres: with the largest entity it bounds the memory of a worker.
    workers : int
        Threads.
    progress : bool
        Show a progress bar over the blocks.

    Returns
    -------
    FeatureTable
        One row an entity, in the order of `entities`.

    Raises
    ------
    ValueError
        When mpp or tile_um is not positive, workers below 1, a group unknown, or an entity holds no pixel at
        this mpp.

    Examples
    --------
    >>> import numpy as np
    >>> from histograph.entities import Entities
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.full((4, 4, 3), 200, np.uint8), mpp=0.5)
    >>> cells = Entities.from_instance_map(np.array([[3, 3, 0], [0, 8, 0]]), mpp=0.5)
    >>> entity_features(slide, cells).select(["area", "red_mean"]).values
    array([[  0.5 , 200.  ],
           [  0.25, 200.  ]], dtype=float32)
    """
    from tqdm.auto import tqdm

    if groups is None:
        groups = GROUPS if entities.masks is not None else tuple(g for g in GROUPS if g != "shape")
    asked = check_groups(groups)
    scale = _positive(entities.mpp if mpp is None else mpp, "mpp")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    empty = measure_runs(runs_of_rectangles([], []), np.zeros((1, 1, 3), np.uint8), scale, asked)
    values = np.zeros((len(entities), len(empty.names)), np.float32)
    blocks = _blocks(entities.bbox, _positive(tile_um, "tile_um"))

    def work(rows: npt.NDArray[np.int64]) -> None:
        values[rows] = _block_features(slide, entities, rows, scale, asked)

    with ThreadPoolExecutor(workers) as pool:
        for _ in tqdm(pool.map(work, blocks), total=len(blocks), desc="features", disable=not progress):
            pass
    return FeatureTable(values, empty.names, empty.units, entities.label)
