"""Prototypes of slides: which region belongs to which, and what the regions nearest to each look like."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array
from .canvas import Window, add_legend, choose_window, draw_slide, frame_window, new_axes
from .colors import UNASSIGNED, Coloring, palette


def plot_prototypes(
    regions: Any,
    assignment: ArrayLike,
    slide: Any = None,
    slide_id: str | None = None,
    ax: Axes | None = None,
    region_um: float | None = None,
    window_um: Window | None = None,
    names: dict[int, str] | None = None,
    alpha: float = 0.4,
    slide_alpha: float = 1.0,
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    """Draw the regions of one slide, filled with the colour of their prototype.

    A prototype has one colour in all pictures of an assignment. Numbers mean the same in two slides only if you make
    them so, for instance by the `matching` of `histograph.nn.PrototypeGraph`.

    Parameters
    ----------
    regions
        A `RegionDataset`, or what has `pos`, `slide` and `slide_ids` as it has.
    assignment
        (N,) whole number of the prototype of each region of the data set; -1 means none and is grey.
    slide
        An open slide to draw beneath.
    slide_id
        The slide to draw; None takes that of `slide`, or the only one of the data set.
    ax
        Axes to draw on; None makes a new figure.
    region_um
        Side of a region in µm; None takes the smallest distance of two regions of the slide, for neighbours touch.
    window_um
        (x, y, width, height) in µm; None takes the whole slide, or without one its regions.
    names
        Prototype -> text of the legend.
    alpha
        Opacity of the regions, 0 to 1.
    slide_alpha
        Opacity of the slide, 0 to 1.
    title
        Title; None writes the slide's id.
    scalebar
        Draw a scale bar; False draws ticks in µm instead.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If there is not one number for each region, the slide is not in the data set, or the place or size of its
        regions is unknown.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from histograph.graphs import RegionDataset
    >>> centres = [[64.0, 64.0], [192.0, 64.0], [64.0, 192.0]]
    >>> regions = RegionDataset.from_grids([np.zeros((3, 4, 2, 2), np.float32)], ["s"], pos=[centres])
    >>> ax = plot_prototypes(regions, [0, 1, 0], ax=Figure().add_subplot())
    >>> ax.get_title(), len(ax.collections[0].get_paths())
    ('s', 3)
    """
    number = _whole(assignment, "assignment", len(regions))
    chosen = _slide_number(regions, slide, slide_id)
    rows = np.flatnonzero(as_array(regions.slide) == chosen)
    centre = _centres(regions, rows)
    half = _side(centre, region_um, regions.slide_ids[chosen]) / 2
    window = choose_window(window_um, slide, centre - half, centre + half)
    ax = new_axes(*window[2:]) if ax is None else ax
    if slide is not None:
        draw_slide(ax, slide, window, slide_alpha)
    frame_window(ax, window, scalebar, regions.slide_ids[chosen] if title is None else title)
    x, y, width, height = window
    seen = ((centre + half >= (x, y)) & (centre - half <= (x + width, y + height))).all(axis=1)
    shown = _colored(number[rows[seen]], int(number.max(initial=-1)) + 1, names)
    corners = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    faces = shown.rgba.copy()
    faces[:, 3] = alpha
    drawn = PolyCollection(
        list(centre[seen, None] + corners), facecolors=faces, edgecolors=shown.rgba, linewidths=1.0, zorder=2
    )
    ax.add_collection(drawn, autolim=False)
    if seen.any():
        add_legend(ax, shown, max(alpha, 0.8))
    return ax


def plot_prototype_regions(
    regions: Any,
    z: ArrayLike,
    prototypes: ArrayLike,
    slides: Any,
    columns: int = 6,
    per_slide: int | None = None,
    region_um: float | None = None,
    px: int = 160,
    names: Mapping[int, str] | None = None,
    figure: Figure | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """Draw the regions that are nearest to each prototype, a row for each, with their cosine to it.

    Parameters
    ----------
    regions
        A `RegionDataset`, or what has `pos`, `slide` and `slide_ids` as it has.
    z
        (N, D) vectors of all regions where prototypes are, for instance `read_regions` of a method.
    prototypes
        (K, D) prototypes, of any length, for instance those of one slide.
    slides
        Open slides: one, several, or slide_id -> slide. Regions are taken from these only.
    columns
        Regions of a row, at most.
    per_slide
        Regions of one slide in a row, at most; None for any number.
    region_um
        Side of a region in µm; None takes the smallest distance of two regions of its slide.
    px
        Side of a picture in pixels.
    names
        Prototype -> name of its row.
    figure
        Empty figure to draw on; None makes a new one.
    title
        Title of the figure.

    Returns
    -------
    ndarray of Axes
        (K, columns), a picture each; empty where there are fewer regions.

    Raises
    ------
    TypeError
        If a slide is no open slide.
    ValueError
        If shapes do not fit, no region is of a slide that is given, an argument is out of range, or the place or size
        of regions is unknown.

    Examples
    --------
    >>> from histograph.graphs import RegionDataset
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.zeros((64, 128, 3), np.uint8), mpp=0.5, slide_id="s")
    >>> grids = [np.zeros((2, 4, 2, 2), np.float32)]
    >>> regions = RegionDataset.from_grids(grids, ["s"], pos=[[[16.0, 16.0], [48.0, 16.0]]])
    >>> axes = plot_prototype_regions(regions, np.eye(2), [[0.0, 2.0]], slide, columns=2, figure=Figure())
    >>> [ax.get_title() for ax in axes[0]]
    ['1.00', '0.00']
    """
    for name, value in (("columns", columns), ("per_slide", per_slide), ("px", px)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}.")
    cosine = _cosines(z, prototypes, len(regions))
    of_slide = as_array(regions.slide)
    opened = {
        number: one
        for name, one in _by_id(slides).items()
        for number in [index for index, known in enumerate(regions.slide_ids) if known == name]
    }
    allowed = np.isin(of_slide, list(opened))
    if not allowed.any():
        raise ValueError(
            f"slides must be of the data set, whose ids begin {regions.slide_ids[:3]}; found "
            f"{list(_by_id(slides))[:3]}."
        )
    if figure is None:
        import matplotlib.pyplot as plt

        size = (1.25 * columns + 0.3, 1.4 * len(cosine) + (0.4 if title else 0.1))
        figure = plt.figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(len(cosine), columns, squeeze=False)
    colors = palette(len(cosine))
    for row, alike in enumerate(cosine):
        nearest = _nearest(np.where(allowed, alike, -np.inf), of_slide, columns, per_slide)
        for ax in axes[row]:
            ax.set(xticks=[], yticks=[], facecolor="white")
            ax.spines[:].set_visible(False)
        for ax, region in zip(axes[row], nearest):
            rows = np.flatnonzero(of_slide == of_slide[region])
            side = _side(_centres(regions, rows), region_um, regions.slide_ids[of_slide[region]])
            x, y = _centres(regions, np.array([region]))[0] - side / 2
            picture = opened[int(of_slide[region])].read_region(x, y, side, side, mpp=side / px)
            ax.imshow(picture, extent=(x, x + side, y + side, y), interpolation="antialiased")
            ax.spines[:].set(visible=True, color=colors[row], linewidth=2.5)
            ax.set_title(f"{alike[region]:.2f}", fontsize=8, pad=2)
        axes[row, 0].set_ylabel((names or {}).get(row, f"prototype {row}"), fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return axes


def _whole(values: ArrayLike, name: str, n: int) -> NDArray[np.int64]:
    found = as_array(values)
    if found.shape != (n,) or found.dtype.kind not in "iu" or (found.size and found.min() < -1):
        raise ValueError(
            f"{name} must have a whole number, at least -1, for each of {n} regions; found shape {found.shape} of "
            f"{found.dtype}"
            + (f", smallest {found.min()}." if found.size and found.dtype.kind in "iu" else ".")
        )
    return found.astype(np.int64)


def _slide_number(regions: Any, slide: Any, slide_id: str | None) -> int:
    """Find the slide to draw."""
    ids = list(regions.slide_ids)
    wanted = getattr(slide, "slide_id", None) if slide_id is None else slide_id
    if wanted is None and len(ids) == 1:
        return 0
    if wanted not in ids:
        raise ValueError(
            f"slide_id must be one of the {len(ids)} slides of the data set, whose ids begin {ids[:3]}; found "
            f"{wanted!r}."
        )
    return ids.index(wanted)


def _centres(regions: Any, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    centre = as_array(regions.pos)[rows].astype(np.float64)
    if not np.isfinite(centre).all():
        raise ValueError(
            "pos of the regions is unknown (nan); give it to RegionDataset.from_grids(..., pos=...)."
        )
    return centre


def _side(centre: NDArray[np.float64], region_um: float | None, name: str) -> float:
    """Give the side of a region; regions do not overlap, so the nearest two centres are a side apart."""
    if region_um is not None:
        if not (np.isfinite(region_um) and region_um > 0):
            raise ValueError(f"region_um must be above 0, found {region_um}.")
        return float(region_um)
    if len(centre) > 1:
        from scipy.spatial import cKDTree

        apart = float(cKDTree(centre).query(centre, k=2, p=np.inf)[0][:, 1].min())
        if apart > 0:
            return apart
    raise ValueError(
        f"region_um: the size of regions cannot be told from those of slide {name!r}; give it in µm."
    )


def _colored(number: NDArray[np.int64], count: int, names: dict[int, str] | None) -> Coloring:
    """Colour by prototype: one colour for a number, whichever are drawn; -1 comes last and is grey."""
    table = to_rgba_array([*palette(count), UNASSIGNED])
    texts = [(names or {}).get(k, str(k)) for k in range(count)] + ["none"]
    code = np.where(number < 0, count, number)
    return Coloring("categorical", table[code], code, texts, "prototype")


def _cosines(z: ArrayLike, prototypes: ArrayLike, n: int) -> NDArray[np.float64]:
    """Give (K, N) cosines; 0 for a prototype of length 0, of a slide without any."""
    vectors, wanted = (as_array(values).astype(np.float64) for values in (z, prototypes))
    if vectors.ndim != 2 or len(vectors) != n or wanted.ndim != 2 or wanted.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"z must have shape (N = {n}, D) and prototypes (K, D); found {vectors.shape} and {wanted.shape}."
        )
    for values in (vectors, wanted):
        length = np.linalg.norm(values, axis=1, keepdims=True)
        np.divide(values, length, out=values, where=length > 0)
    cosine: NDArray[np.float64] = wanted @ vectors.T
    return cosine


def _by_id(slides: Any) -> dict[str, Any]:
    found = dict(slides) if isinstance(slides, Mapping) else None
    if found is None:
        several = slides if isinstance(slides, Sequence) and not isinstance(slides, str) else [slides]
        found = {getattr(one, "slide_id", None): one for one in several}
    for one in found.values():
        if not hasattr(one, "read_region"):
            raise TypeError(
                f"slides must be open slides, found {type(one).__name__}. Use histograph.open_slide(path)."
            )
    return found


def _nearest(
    alike: NDArray[np.float64], of_slide: NDArray[np.int64], count: int, per_slide: int | None
) -> list[int]:
    """Give the most similar regions, best first, no more than `per_slide` of one slide."""
    found: list[int] = []
    taken: dict[int, int] = {}
    for region in np.argsort(-alike, kind="stable").tolist():
        slide = int(of_slide[region])
        if len(found) == count or alike[region] == -np.inf:
            break
        if per_slide is None or taken.get(slide, 0) < per_slide:
            found.append(region)
            taken[slide] = taken.get(slide, 0) + 1
    return found
