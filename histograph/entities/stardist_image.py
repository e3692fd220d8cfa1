"""`stardist_instances`: the nuclei of one image by a StarDist network, as the stardist package finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .star_polygons import KEPT, StarPolygons, draw, suppress
from .stardist_files import StarDistModel, load_stardist
from .stardist_runtime import EDGE, Backend, candidates, make_runner

if TYPE_CHECKING:
    import os

    import torch


def stardist_instances(
    image: NDArray,
    model: str | os.PathLike[str] | StarDistModel | None = None,
    *,
    prob_thresh: float | None = None,
    nms_thresh: float | None = None,
    backend: Backend = "torch",
    mixed_precision: bool = False,
    device: str | torch.device | None = None,
    suppression: Literal["own", "stardist"] = "own",
) -> tuple[NDArray[np.int32], StarPolygons]:
    """Find the nuclei of one image as ``StarDist2D.predict_instances`` does; for slides see `stardist_nuclei`.

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, C) float
        The image, scaled as in training (see `scaled`).
    model : path, str or StarDistModel, optional
        As of `load_stardist`.
    prob_thresh, nms_thresh : float, optional
        In place of the model's.
    backend, mixed_precision, device
        As of `make_runner`.
    suppression : {"own", "stardist"}
        Whose suppression of overlapping polygons is used. That of the stardist package rounds more when it measures
        overlaps, so that about one nucleus in some hundred may differ.

    Returns
    -------
    ndarray, (H, W) int32
        Label of each pixel: 1 + the row of the polygon, 0 for background.
    StarPolygons
        The nuclei by falling probability.

    Raises
    ------
    FileNotFoundError, ImportError
        If the model or a package is missing.
    ValueError
        If the image does not fit the model or an argument is out of range.

    Examples
    --------
    >>> from histograph.nn.stardist_net import StarDistConfig, StarDistNet
    >>> net = StarDistNet(StarDistConfig(n_rays=8, n_depth=1, n_filter_base=2, features=0)).eval()
    >>> labels, polygons = stardist_instances(np.zeros((9, 7)), StarDistModel(net, 1.0, 0.4, "untrained"))
    >>> labels.shape, len(polygons)
    ((9, 7), 0)
    """
    if suppression not in ("own", "stardist"):
        raise ValueError(f"suppression: expected 'own' or 'stardist', found {suppression!r}")
    loaded = load_stardist(model)
    config = loaded.config
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] != config.n_channel_in or pixels.dtype.kind != "f":
        raise ValueError(
            f"image: expected (H, W, {config.n_channel_in}) of floats, scaled as in training, found "
            f"{np.shape(image)} of {pixels.dtype}; see histograph.entities.stardist_runtime.scaled"
        )
    height, width = pixels.shape[:2]
    if not pixels.size or not np.isfinite(pixels).all():
        raise ValueError(
            f"image: expected finite values, at least one pixel; found shape {np.shape(image)}, "
            f"{pixels.size - int(np.isfinite(pixels).sum())} not finite"
        )
    pad = [(0, -side % divisor) for side, divisor in zip((height, width), config.divisor)]
    outputs = make_runner(loaded, backend, mixed_precision, device)(
        np.pad(pixels, (*pad, (0, 0)), mode="reflect")
    )
    inside = (slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    probability = threshold("prob_thresh", prob_thresh, loaded.prob_thresh)
    found = candidates(outputs, probability, config.grid, inside)
    found = found.select(np.flatnonzero((found.points < (height, width)).all(axis=1))).ranked()
    overlap = threshold("nms_thresh", nms_thresh, loaded.nms_thresh)
    kept = suppress(found, overlap) == KEPT if suppression == "own" else _theirs(found, overlap)
    found = found.select(np.flatnonzero(kept))
    return draw(found, (0, 0, height, width)).astype(np.int32), found


def _theirs(polygons: StarPolygons, threshold: float) -> NDArray[np.bool_]:
    try:
        from stardist.nms import non_maximum_suppression_inds
    except ImportError as error:
        raise ImportError(
            "suppression 'stardist' needs the stardist package: pip install stardist, or use 'own'"
        ) from error
    if not len(polygons):
        return np.zeros(0, bool)
    points = polygons.points.astype(np.float32)
    return non_maximum_suppression_inds(polygons.dist, points, polygons.score, thresh=threshold, verbose=0)


def threshold(name: str, value: float | None, default: float) -> float:
    """Return a threshold given by an argument, or the model's.

    Parameters
    ----------
    name : str
        Of the argument.
    value : float, optional
        The argument.
    default : float
        The model's.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is not from 0 to 1.

    Examples
    --------
    >>> threshold("prob_thresh", None, 0.4)
    0.4
    """
    value = default if value is None else value
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, found {value}.")
    return float(value)
