"""How large a patch is and how far apart patches lie, in level-0 pixels: from arguments, or what a file says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histograph.graphs.patch_layout import PatchArrays


@dataclass(frozen=True)
class PatchScale:
    """Scale of the patches of one slide.

    Parameters
    ----------
    mpp : ndarray
        (2,) micrometres per level-0 pixel, x and y.
    corner : ndarray
        (N, 2) float64, top-left corners in level-0 pixels.
    size : ndarray
        (2,) width and height of a patch in level-0 pixels.
    step : ndarray
        (2,) distance from one patch to the next in level-0 pixels.

    Examples
    --------
    >>> PatchScale(np.array([0.5, 0.5]), np.zeros((1, 2)), np.full(2, 256.0), np.full(2, 256.0)).size_um
    array([128., 128.])
    """

    mpp: np.ndarray
    corner: np.ndarray
    size: np.ndarray
    step: np.ndarray

    @property
    def size_um(self) -> np.ndarray:
        """Width and height of a patch in micrometres."""
        return self.size * self.mpp

    @property
    def step_um(self) -> np.ndarray:
        """Distance from one patch to the next in micrometres."""
        return self.step * self.mpp


def patch_scale(
    arrays: PatchArrays, name: str, mpp: Any = None, patch_size_level0: Any = None, step_level0: Any = None
) -> PatchScale:
    """Give the content of a file its units.

    Parameters
    ----------
    arrays : PatchArrays
        The content.
    name : str
        What messages call the file.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel; overrides the file's ``level0_mpp``.
    patch_size_level0 : float or (float, float), optional
        Side of a patch in level-0 pixels; overrides what the file says.
    step_level0 : float or (float, float), optional
        Distance from one patch to the next in level-0 pixels; overrides what the file says or shows.

    Returns
    -------
    PatchScale
        With the corners in level-0 pixels.

    Raises
    ------
    ValueError
        The mpp or the size of the patches is nowhere to be found, is not positive, or the unit of the
        coordinates is unknown.

    Examples
    --------
    >>> arrays = PatchArrays(
    ...     np.zeros((2, 1), np.float32), np.array([[0.0, 0], [512, 0]]), {"patch_size": 256, "downsample": 2.0}
    ... )
    >>> patch_scale(arrays, "slide.h5", mpp=0.25).size_um
    array([128., 128.])
    """
    attributes = arrays.attributes
    pixel = _mpp(attributes, name, mpp)
    unit = str(attributes.get("unit", attributes.get("coordinate_units", "px"))).lower()
    if unit in ("um", "µm", "micron", "microns"):
        corner, scale = arrays.corner / pixel, pixel
    elif unit in ("px", "pixel", "pixels", "level0_pixels", "level0"):
        corner, scale = arrays.corner, np.ones(2)
    else:
        raise ValueError(
            f"{name}: coordinates in the unit {unit!r}; expected level-0 pixels or um: convert them first"
        )
    found = _pair(patch_size_level0, "patch_size_level0")
    size = _size(attributes, pixel, name) if found is None else found
    shown = measured_step(arrays.corner) / scale
    if size is None:
        seen = f" (the coordinates lie {shown.max():g} apart)" if np.isfinite(shown).all() else ""
        raise ValueError(
            f"{name}: the file does not say how large a patch is in level-0 pixels; give patch_size_level0="
            f"{seen}, or coords_from= the file whose coords have patch_size_level0, or patch_size and downsample"
        )
    step = _pair(step_level0, "step_level0")
    if step is None:
        step = _step(attributes, pixel, size, name)
    if step is None:
        step = np.where(shown <= size * 1.01, shown, size)
    return PatchScale(pixel, corner, size, step)


def measured_step(corner: np.ndarray) -> np.ndarray:
    """Measure how far apart patches lie: the most common gap between neighbours in a row and in a column.

    Parameters
    ----------
    corner : ndarray
        (N, 2) corners.

    Returns
    -------
    ndarray
        (2,) gap along x and along y; that of the other axis where one has no two patches in line, and
        infinity where both have none.

    Examples
    --------
    >>> measured_step(np.array([[0.0, 0], [8, 0], [16, 0], [40, 0], [3, 8]]))
    array([8., 8.])
    """
    gaps = np.full(2, np.inf)
    for axis in (0, 1):
        along, across = np.round(corner[:, axis], 2), np.round(corner[:, 1 - axis], 2)
        order = np.lexsort((along, across))
        steps = np.diff(along[order])[np.diff(across[order]) == 0]
        values, counts = np.unique(np.round(steps[steps > 0], 2), return_counts=True)
        if len(values):
            gaps[axis] = values[counts.argmax()]
    return np.where(np.isfinite(gaps), gaps, gaps.min())


def _pair(value: Any, name: str) -> np.ndarray | None:
    """Bring one positive number, or two, to an array of two."""
    if value is None:
        return None
    try:
        pair = np.broadcast_to(np.asarray(value, dtype=np.float64).ravel(), (2,)).copy()
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a positive number or a pair (x, y), found {value!r}") from None
    if not (np.isfinite(pair).all() and (pair > 0).all()):
        raise ValueError(f"{name}: expected a positive number or a pair (x, y), found {value!r}")
    return pair


def _mpp(attributes: Mapping[str, Any], name: str, given: Any) -> np.ndarray:
    """Find the micrometres per level-0 pixel; they are never worked out from a magnification."""
    pixel = _pair(given, "mpp")
    if pixel is None:
        pixel = _pair(attributes.get("level0_mpp"), f"{name}: the attribute level0_mpp")
    if pixel is not None:
        return pixel
    hints = [key for key in ("mpp", "target_mpp", "level0_magnification") if key in attributes]
    seen = (
        f"; it has {', '.join(f'{key}={attributes[key]}' for key in hints)}, from which" if hints else ", and"
    )
    raise ValueError(
        f"{name}: the file does not say how many µm a level-0 pixel spans{seen} it is not guessed. Give mpp=, e.g. "
        "that of the slide: histograph.open_slide(slide).mpp"
    )


def _size(attributes: Mapping[str, Any], pixel: np.ndarray, name: str) -> np.ndarray | None:
    """Side of a patch in level-0 pixels, from the first attribute that says it."""

    def number(key: str) -> np.ndarray | None:
        return _pair(attributes.get(key), f"{name}: the attribute {key}")

    exact, own = number("patch_size_um"), number("level0_mpp")
    if exact is not None and own is not None:
        return exact / own
    if (level0 := number("patch_size_level0")) is not None:
        return level0
    if (size := number("patch_size")) is not None:
        more = number("custom_downsample")
        size = size if more is None else size * more
        if (downsample := number("downsample")) is not None:
            return size * downsample
        if attributes.get("patch_level") == 0:
            return size
        level0, target = number("level0_magnification"), number("target_magnification")
        if (
            level0 is not None and target is not None
        ):  # a ratio of two, which is what TRIDENT takes the size from
            return size * level0 / target
    for key in ("tile_size_um", "tile_size"):  # STAMP, whose lengths are micrometres
        if attributes.get("unit") == "um" and (length := number(key)) is not None:
            return length / pixel
    return None


def _step(attributes: Mapping[str, Any], pixel: np.ndarray, size: np.ndarray, name: str) -> np.ndarray | None:
    """Distance between patches in level-0 pixels, from the attributes that say it."""
    exact, own = attributes.get("step_um"), attributes.get("level0_mpp")
    if exact is not None and own is not None:
        step, mpp = _pair(exact, f"{name}: the attribute step_um"), _pair(own, "level0_mpp")
        return None if step is None or mpp is None else step / mpp
    overlap, patch = attributes.get("overlap"), attributes.get("patch_size")
    if isinstance(overlap, (int, float)) and isinstance(patch, (int, float)) and 0 < overlap < patch:
        return size * (1 - overlap / patch)  # both in pixels of the magnification that was asked for
    return None
