"""Patches and regions: squares on a grid over the tissue."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from .entities import Entities
from .within import resolve_mask

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask


def patches(
    slide: Slide,
    size_um: float = 128.0,
    mask: TissueMask | Literal["auto"] | None = "auto",
    overlap_um: float = 0.0,
    min_tissue: float = 0.5,
) -> Entities:
    """Lay square patches over the tissue, on a grid from the top-left of the canvas.

    The grid has a patch at every multiple of ``size_um - overlap_um`` at which a whole patch fits on the slide; a slide
    smaller than a patch has none. The label is ``1 + row * n_columns + column``, with the columns of the whole grid,
    so a patch keeps its label whatever the mask. `histograph.graphs.grid_edges` joins neighbours.

    Parameters
    ----------
    slide : Slide
        The slide.
    size_um : float
        Side of a patch in µm.
    mask : TissueMask, "auto" or None
        Where tissue is; "auto" computes it with ``slide.tissue_mask()``, None takes the whole slide.
    overlap_um : float
        Overlap of neighbouring patches in µm, less than `size_um`.
    min_tissue : float
        Smallest share of tissue in a patch that is kept, 0 … 1.

    Returns
    -------
    Entities
        Kind "patch", without masks (a patch fills its bbox); `parameters` holds ``n_columns`` and ``n_rows``.

    Raises
    ------
    ValueError
        If a length or `min_tissue` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.full((40, 60, 3), 120, np.uint8), mpp=1.0)
    >>> grid = patches(slide, size_um=20.0, mask=None)
    >>> grid.label, grid.centroid[0]
    (array([1, 2, 3, 4, 5, 6]), array([10., 10.]))
    """
    return _grid("patch", slide, size_um, mask, overlap_um, min_tissue)


def regions(
    slide: Slide,
    size_um: float = 2048.0,
    mask: TissueMask | Literal["auto"] | None = "auto",
    overlap_um: float = 0.0,
    min_tissue: float = 0.1,
) -> Entities:
    """Lay large square regions over the tissue, on a grid from the top-left of the canvas.

    Unlike patches, regions cover the whole slide: those of the last row and column may reach over its edge, so that
    every patch lies in a region.

    Parameters
    ----------
    slide : Slide
        The slide.
    size_um : float
        Side of a region in µm.
    mask : TissueMask, "auto" or None
        Where tissue is; "auto" computes it with ``slide.tissue_mask()``, None takes the whole slide.
    overlap_um : float
        Overlap of neighbouring regions in µm, less than `size_um`.
    min_tissue : float
        Smallest share of tissue, of the part of a region on the slide, that is kept, 0 … 1.

    Returns
    -------
    Entities
        Kind "region", without masks; labels and `parameters` as of `patches`.

    Raises
    ------
    ValueError
        If a length or `min_tissue` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.full((40, 60, 3), 120, np.uint8), mpp=1.0)
    >>> len(regions(slide, size_um=50.0, mask=None))
    2
    """
    return _grid("region", slide, size_um, mask, overlap_um, min_tissue)


def _grid(
    kind: str,
    slide: Slide,
    size_um: float,
    mask: TissueMask | Literal["auto"] | None,
    overlap_um: float,
    min_tissue: float,
) -> Entities:
    """Lay a grid of squares and keep those on tissue."""
    if not (size_um > 0 and math.isfinite(size_um)):
        raise ValueError(f"size_um: expected a positive length in µm, found {size_um}.")
    if not 0 <= overlap_um < size_um:
        raise ValueError(
            f"overlap_um: expected at least 0 and less than size_um={size_um}, found {overlap_um}."
        )
    if not 0 <= min_tissue <= 1:
        raise ValueError(f"min_tissue: expected a share between 0 and 1, found {min_tissue}.")
    width, height = slide.size_um
    step = size_um - overlap_um
    columns, rows = (_count(length, size_um, step, over_edge=kind == "region") for length in (width, height))
    row, col = (index.ravel() for index in np.divmod(np.arange(rows * columns), max(columns, 1)))
    x, y = col * step, row * step
    found = resolve_mask(slide, mask)
    if found is not None and len(x):
        inside_width, inside_height = np.minimum(size_um, width - x), np.minimum(size_um, height - y)
        share = np.asarray(found.fraction(x, y, inside_width, inside_height))
        keep = share >= min_tissue if min_tissue > 0 else share > 0
        x, y, row, col = x[keep], y[keep], row[keep], col[keep]
    return Entities(
        kind,
        (1 + row * columns + col).astype(np.int64),
        np.stack([x, y], axis=1) + size_um / 2,
        np.stack([x, y, x + size_um, y + size_um], axis=1).astype(np.float64),
        np.full(len(x), float(size_um) ** 2),
        float(np.mean(slide.mpp)),
        None,
        {
            "finder": "patches" if kind == "patch" else "regions",
            "size_um": float(size_um),
            "overlap_um": float(overlap_um),
            "min_tissue": float(min_tissue),
            "n_columns": columns,
            "n_rows": rows,
        },
        (float(width), float(height)),
    )


def _count(length_um: float, size_um: float, step_um: float, over_edge: bool) -> int:
    """Return how many squares a side of the slide holds, forgiving rounding of a billionth."""
    steps = (length_um - size_um) / step_um
    if over_edge:
        return 1 + max(math.ceil(steps - 1e-9), 0)
    return 1 + math.floor(steps + 1e-9) if steps > -1e-9 else 0
