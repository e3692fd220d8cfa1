"""`stardist_nuclei`: nuclei of a whole slide by a StarDist network, the same whatever the tile size."""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import closing
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .collect import collect
from .entities import Entities
from .parts_on_disk import keep_parts
from .stardist_files import StarDistModel, load_stardist
from .stardist_image import threshold
from .stardist_runtime import Backend, make_runner
from .stardist_squares import SquareSearch, draw_entities, find_polygons
from .threshold import sample_tissue
from .within import check_slide, check_workers, resolve_mask

if TYPE_CHECKING:
    import torch

    from ..slides import Slide, TissueMask

# A slide of less contrast, in grey levels, is blank; stretched to 0 … 1 its noise would look like tissue.
_LEAST_CONTRAST = 16


def stardist_nuclei(
    slide: Slide,
    mpp: float | None = None,
    mask: TissueMask | Literal["auto"] | None = None,
    *,
    model: str | os.PathLike[str] | StarDistModel | None = None,
    backend: Backend = "torch",
    prob_thresh: float | None = None,
    nms_thresh: float | None = None,
    normalise: Literal["slide", "window"] | tuple[ArrayLike, ArrayLike] = "slide",
    max_radius_um: float = 25.0,
    mixed_precision: bool = False,
    device: str | torch.device | None = None,
    window_px: int = 1024,
    tile_um: float = 1024.0,
    workers: int = 2,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Entities:
    """Find nuclei with a StarDist network.

    The network sees squares of one size, always at the same places of the slide, with a margin as wide as its field
    of view. Its candidates suppress each other within a tile; a candidate whose fate could depend on the next tile
    waits until that is known. So every nucleus at a seam is found once, and the result is the same, bit by bit, for
    every tile size and number of workers. A square of one colour, such as an unscanned one, is not shown to the
    network and holds no nucleus. Memory is that of one run of the network, of `workers` tiles, of the candidates
    that wait in a row of tiles, and of the result.

    Parameters
    ----------
    slide : Slide
        The slide.
    mpp : float, optional
        Pixel size in µm at which the network sees the slide, and of the masks: that of its training images. Default:
        what the model's file says; StarDist's own files do not say it.
    mask : TissueMask, "auto" or None
        Keep nuclei whose centroid lies on tissue; "auto" computes ``slide.tissue_mask()``, None keeps all. Squares
        without tissue are not read.
    model : path, str or StarDistModel, optional
        As of `load_stardist`: a StarDist folder or zip, a file of ours, a released model such as
        ``"2D_versatile_he"``; default: the weights that come with the package.
    backend : {"torch", "openvino", "keras"}
        What runs the network, see `make_runner`.
    prob_thresh, nms_thresh : float, optional
        In place of the model's thresholds of probability and overlap.
    normalise : {"slide", "window"} or (low, high)
        Which values become 0 and 1. "slide": the model's percentiles over all channels of a fixed sample of the
        tissue (see `sample_tissue`), or 0 and 255 where they differ by less than 16, as of a blank slide; "window":
        of each square by itself, as StarDist does with an image, which makes a nucleus depend on its surroundings;
        or the two values, each a number or one a channel.
    max_radius_um : float
        Distances to the edge are cut to this.
    mixed_precision : bool
        Compute in bfloat16, see `make_runner`.
    device : str or torch.device, optional
        For "torch".
    window_px : int
        Side of the squares in pixels, with their margin. Another size changes the rounding of the network's
        arithmetic, no more.
    tile_um : float
        Side of a tile, rounded to whole squares; does not change the result.
    workers : int
        Threads that read squares and join candidates; the network runs for one at a time.
    progress : bool
        Show a bar: the nuclei found so far (also those that the mask removes), and the area done.
    resume : str or os.PathLike, optional
        Folder for finished tiles, so that a run that was stopped goes on, as of `nuclei`.

    Returns
    -------
    Entities
        Kind "cell", labelled 1 … N by the row, then the column, of the nuclei's centres. The masks do not overlap:
        a pixel belongs to the more probable nucleus. The column "probability" holds the network's, and "type" the
        kind of a nucleus if the network tells kinds apart.

    Raises
    ------
    FileNotFoundError, ImportError
        If the model or a package is missing; the message says what to do.
    ValueError
        If an argument is out of range, the mpp is not known, the model is not for RGB images, or `resume` holds
        tiles that were made with other arguments.
    TypeError
        If `slide` is no open slide.

    References
    ----------
    U. Schmidt, M. Weigert, C. Broaddus, G. Myers, Cell detection with star-convex polygons, MICCAI 2018.

    Examples
    --------
    >>> from histograph.nn.stardist_net import StarDistConfig, StarDistNet
    >>> from histograph.slides import open_slide
    >>> net = StarDistNet(StarDistConfig(n_channel_in=3, n_rays=8, n_depth=1, n_filter_base=2, features=0)).eval()
    >>> blank = open_slide(np.full((64, 64, 3), 255, np.uint8), mpp=0.5)
    >>> len(stardist_nuclei(blank, 0.5, model=StarDistModel(net, 1.0, 0.4, "untrained"), window_px=64))
    0
    """
    check_slide(slide)
    loaded = load_stardist(model)
    mpp = _mpp(loaded, mpp)
    _check(loaded, tile_um, workers, max_radius_um, window_px)
    probability = threshold("prob_thresh", prob_thresh, loaded.prob_thresh)
    overlap = threshold("nms_thresh", nms_thresh, loaded.nms_thresh)
    tissue = resolve_mask(slide, mask)
    values = _values(slide, mpp, tissue, loaded, normalise)
    run = make_runner(loaded, backend, mixed_precision, device)
    parameters = {
        "finder": "stardist",
        "mpp": mpp,
        "model": loaded.name,
        "views": loaded.views,
        "backend": backend,
        "prob_thresh": probability,
        "nms_thresh": overlap,
        "normalise": normalise if isinstance(normalise, str) else "given",
        "values": None if values is None else [np.asarray(value).tolist() for value in values],
        "max_radius_um": float(max_radius_um),
        "mixed_precision": bool(mixed_precision),
        "window_px": int(window_px),
        "masked": tissue is not None,
    }
    search = SquareSearch(
        slide, mpp, tissue, loaded, run, values, probability, overlap, max_radius_um / mpp, window_px, Lock()
    )
    about = {
        **parameters,
        "tile_um": float(tile_um),
        "weights": None if resume is None else _digest(loaded),
        "device": None if device is None else str(device),
    }
    kept = keep_parts(resume, slide, tissue, about)
    squares = max(1, round(tile_um / mpp / search.square[0]))
    with closing(find_polygons(search, squares, workers, progress, kept)) as found:
        cells = collect(draw_entities(found, search, parameters))
    if kept is not None:
        kept.remove()
    return cells


def _digest(model: StarDistModel) -> str:
    """Hash the weights."""
    digest = hashlib.sha256()
    for name, values in model.network.state_dict().items():
        digest.update(name.encode() + values.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _values(
    slide: Slide, mpp: float, mask: TissueMask | None, model: StarDistModel, normalise: Any
) -> tuple[NDArray, NDArray] | None:
    """Settle what becomes 0 and 1, once for the slide; None: by window."""
    if isinstance(normalise, str):
        if normalise not in ("slide", "window"):
            raise ValueError(f"normalise: expected 'slide', 'window' or two values, found {normalise!r}")
        if model.percentiles is None:
            return np.zeros(1), np.full(1, 255.0)
        if normalise == "window":
            return None
        sample = [field.ravel() for field in sample_tissue(slide, mpp, mask)]
        if not sample:
            return np.zeros(1), np.full(1, 255.0)
        low, high = np.percentile(np.concatenate(sample), model.percentiles)
        if high - low < _LEAST_CONTRAST:
            return np.zeros(1), np.full(1, 255.0)
        return np.full(1, low), np.full(1, high)
    if not isinstance(normalise, tuple | list | np.ndarray) or len(normalise) != 2:
        raise ValueError(f"normalise: expected what becomes 0 and what becomes 1, found {normalise!r}")
    low, high = (np.atleast_1d(np.asarray(value, np.float64)) for value in normalise)
    if not all(value.shape in ((1,), (3,)) for value in (low, high)) or not (high > low).all():
        raise ValueError(
            f"normalise: expected two numbers or triples, the second larger, found {normalise!r}"
        )
    return low, high


def _mpp(model: StarDistModel, mpp: float | None) -> float:
    mpp = model.mpp if mpp is None else mpp
    if mpp is None:
        raise ValueError(
            f"mpp: the files of model {model.name!r} do not say at which pixel size it was trained; give mpp=, for "
            "example 0.5 (20x) or 0.25 (40x)"
        )
    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp: expected a positive number of µm, found {mpp}.")
    return float(mpp)


def _check(model: StarDistModel, tile_um: float, workers: int, max_radius_um: float, window_px: int) -> None:
    for name, value in (("tile_um", tile_um), ("max_radius_um", max_radius_um)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: expected a positive number of µm, found {value}.")
    check_workers(workers)
    if window_px != int(window_px) or window_px < 1:
        raise ValueError(f"window_px: expected a whole number of pixels, found {window_px}.")
    if model.config.n_channel_in != 3:
        raise ValueError(
            f"model: {model.name!r} is for {model.config.n_channel_in} channel(s), slides have 3 (red, green, blue); "
            "use a model for H&E images, such as '2D_versatile_he'"
        )
