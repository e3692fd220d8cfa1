"""Features of the entities of an instance map: the groups, their columns, and how they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .color import COLOR_COLUMNS, color_kernel
from .runs import Runs, runs_of_instance_map
from .shape import SHAPE_COLUMNS, shape_kernel
from .stain import STAIN_COLUMNS, stain_kernel, stain_table
from .table import FeatureTable
from .texture import TEXTURE_COLUMNS, texture_kernel

__all__ = ["GROUPS", "check_groups", "feature_names", "measure_runs", "region_features"]

_COLUMNS = {
    "shape": SHAPE_COLUMNS,
    "color": COLOR_COLUMNS,
    "stain": STAIN_COLUMNS,
    "texture": TEXTURE_COLUMNS,
}

#: Names of the feature groups; all but "shape" need the image.
GROUPS = tuple(_COLUMNS)


def check_groups(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the groups as a tuple, or say which is unknown or repeated.

    Parameters
    ----------
    groups : sequence of str
        Names out of `GROUPS`.

    Returns
    -------
    tuple of str
        The same names.

    Raises
    ------
    ValueError
        When it is a bare string, is empty, or holds an unknown or repeated name.

    Examples
    --------
    >>> check_groups(["shape"])
    ('shape',)
    """
    if isinstance(groups, str):
        raise ValueError(
            f"groups must be a sequence of names, found the string {groups!r}; use ({groups!r},)"
        )
    found = tuple(groups)
    if not found or len(set(found)) != len(found) or not set(found) <= set(GROUPS):
        raise ValueError(f"groups must be one or more of {GROUPS}, each once, found {found}")
    return found


def feature_names(groups: Sequence[str] = GROUPS) -> list[str]:
    """Return the column names of the groups, in the order `region_features` gives them.

    Parameters
    ----------
    groups : sequence of str
        Names out of `GROUPS`.

    Returns
    -------
    list of str
        Column names.

    Raises
    ------
    ValueError
        When a group is unknown.

    Examples
    --------
    >>> feature_names(["color"])[:3]
    ['red_mean', 'red_std', 'red_skewness']
    """
    return [name for group in check_groups(groups) for name, _, _ in _COLUMNS[group]]


def _check_image(image: Any, shape: tuple[int, ...] | None) -> npt.NDArray[np.uint8]:
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"image must have shape (H, W, 3), red, green, blue, found shape {pixels.shape}")
    if pixels.dtype != np.uint8:
        raise ValueError(f"image must be uint8 (0 to 255), found dtype {pixels.dtype}; convert it first")
    if shape is not None and pixels.shape[:2] != shape:
        raise ValueError(
            f"image must have the instance map's height and width {shape}, found {pixels.shape[:2]}"
        )
    return np.ascontiguousarray(pixels)


def _kernel(group: str, runs: Runs, image: npt.NDArray[np.uint8] | None) -> Callable[..., None]:
    arrays = (runs.ptr, runs.row, runs.start, runs.stop)
    if group == "shape":
        return partial(shape_kernel, *arrays)
    if group == "color":
        return partial(color_kernel, *arrays, image)
    if group == "stain":
        return partial(stain_kernel, *arrays, image, stain_table())
    return partial(texture_kernel, *arrays, image)


def measure_runs(
    runs: Runs, image: npt.NDArray[np.uint8] | None, mpp: float, groups: Sequence[str], workers: int = 1
) -> FeatureTable:
    """Compute the feature groups of entities given as pixel runs, which may overlap.

    Parameters
    ----------
    runs : Runs
        Pixels of every entity; all inside the image.
    image : (H, W, 3) uint8 array or None
        Colours; needed by every group but "shape".
    mpp : float
        Micrometres per pixel.
    groups : sequence of str
        Names out of `GROUPS`.
    workers : int
        Threads over the entities; the values do not depend on it.

    Returns
    -------
    FeatureTable
        Rows in the order of `runs`.

    Raises
    ------
    ValueError
        When a group is unknown, or needs the image and it is None or does not fit.

    Examples
    --------
    >>> from histograph.features.run_sources import runs_of_rectangles
    >>> measure_runs(runs_of_rectangles([3], [[0, 0, 2, 4]]), None, 0.5, ["shape"])["area"]
    array([2.], dtype=float32)
    """
    groups = check_groups(groups)
    if np.ndim(mpp) or not np.isfinite(mpp) or mpp <= 0:
        raise ValueError(f"mpp must be one positive number of micrometres per pixel, found {mpp!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    needed = [group for group in groups if group != "shape"]
    if needed and image is None:
        raise ValueError(
            f"groups {needed} need the image, found None; give image or ask for groups=('shape',)"
        )
    pixels = None if image is None else _check_image(image, None)
    columns = [column for group in groups for column in _COLUMNS[group]]
    outs = [
        np.zeros((len(runs), len(_COLUMNS[group]))) for group in groups
    ]  # each contiguous: one compilation
    jobs = []
    for group, out in zip(groups, outs):
        jobs += [partial(_kernel(group, runs, pixels), a, b, out) for a, b in runs.chunks(4 * workers)]
    if workers == 1:
        for job in jobs:
            job()
    else:
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()
    values = np.hstack(outs) * np.array([float(mpp) ** power for _, _, power in columns])
    return FeatureTable(values, [c[0] for c in columns], [c[1] for c in columns], runs.label)  # type: ignore[arg-type]


def region_features(
    instance_map: npt.ArrayLike,
    image: npt.ArrayLike | None = None,
    mpp: float = 1.0,
    groups: Sequence[str] | None = None,
    workers: int = 2,
) -> FeatureTable:
    """Compute shape, colour, stain and texture features of all entities of an instance map.

    Every value depends on the entity's own pixels alone: not on where it lies, on its neighbours, on its
    label, or on the rest of the image. The definitions stand in the modules `shape`, `color`, `stain` and
    `texture`; where scikit-image's `regionprops` has the same quantity, the values agree. The orientation of
    the major axis wraps at half a turn, so it is given as the sine and cosine of twice its angle (x towards
    y; both 0 when there is no direction). `convex_area` counts the pixels whose centre lies in the hull of
    the midpoints of all pixel sides, `solidity` is area over it. Undefined values are 0: spreads, perimeter,
    axes and pair measures of one pixel; the correlation of a flat texture is 1, as in scikit-image.

    Parameters
    ----------
    instance_map : (H, W) integer array
        Labels, 0 is background; neither contiguous nor small.
    image : (H, W, 3) uint8 array, optional
        Red, green, blue of the same pixels.
    mpp : float
        Micrometres per pixel.
    groups : sequence of str, optional
        Names out of "shape", "color", "stain", "texture". Default: all, or "shape" alone when there is no
        image.
    workers : int
        Threads; the values do not depend on it.

    Returns
    -------
    FeatureTable
        One row an entity, in ascending order of label.

    Raises
    ------
    ValueError
        When the map is not a 2-D integer array with labels >= 0, the image does not fit it or is missing for
        a group that was named, mpp is not positive, or a group is unknown.

    Examples
    --------
    >>> instance_map = np.array([[7, 7, 0], [7, 7, 2]])
    >>> table = region_features(instance_map, mpp=0.5)
    >>> table.label, table["area"]
    (array([2, 7]), array([0.25, 1.  ], dtype=float32))
    >>> image = np.full((2, 3, 3), 200, np.uint8)
    >>> region_features(instance_map, image, groups=["color"])["red_mean"]
    array([200., 200.], dtype=float32)
    """
    if groups is None:
        groups = GROUPS if image is not None else ("shape",)
    shape = np.shape(instance_map)
    pixels = None if image is None else _check_image(image, shape)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    return measure_runs(runs_of_instance_map(instance_map, workers), pixels, mpp, groups, workers)
