"""Graphs in space: nodes and edges, over the slide when it is given."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from .canvas import (
    RASTERIZE_ABOVE,
    Window,
    add_legend,
    choose_window,
    draw_slide,
    frame_window,
    new_axes,
    points_per_um,
)
from .colors import PALETTE, Coloring, add_colorbar, apply_scale, color_map, read_color
from .layers import Layer, take_layer

_EDGE_COLOR = "#1A1A1A"
# matplotlib takes 4 µs to wrap one line: above this many edges of one colour, 64 at a time share a broken line.
_BUNDLE_ABOVE = 200_000


def plot(
    graph: Any,
    slide: Any = None,
    node_type: str | None = None,
    relation: str | tuple[str, str, str] | None = None,
    ax: Axes | None = None,
    window_um: Window | None = None,
    color: Any = None,
    node_size: float | None = None,
    edge_color: Any = None,
    edge_width: float | None = None,
    cmap: Any = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    slide_alpha: float | None = None,
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    """Draw one layer of a graph in space, over its slide when that is given.

    Each undirected edge is drawn once; more than 50,000 nodes or edges are drawn as pixels also in vector
    files.

    Parameters
    ----------
    graph
        A PyG `Data` or `HeteroData` with `pos` in µm.
    slide
        An open slide to draw beneath.
    node_type
        Node type; None takes the finest that is present (cell, tissue, patch, region).
    relation
        Name ("near") or triple of the edges to draw; None takes the first relation within the node type. A
        relation to another type, such as ("cell", "in", "patch"), draws the nodes of both.
    ax
        Axes to draw on; None makes a new figure.
    window_um
        (x, y, width, height) in µm; None takes the whole slide, or without one the whole graph.
    color
        Nodes: a feature name, (N,) values, (N, 3) colours or one colour; None is yellow over a slide, else
        blue. Texts, booleans and a few distinct integers are categories with a legend, other numbers a
        scale with a colour bar.
    node_size
        Diameter of a node in points; None follows the density.
    edge_color
        Edges: a name in `edge_attr_names`, (E,) values or one colour; None is nearly black.
    edge_width
        Width of an edge in points; None follows the density.
    cmap
        Colour map of scales.
    vmin, vmax
        Ends of the scale of the nodes; None takes the 1st and 99th percentiles (pointed ends of the bar say
        that values go on).
    slide_alpha
        Opacity of the slide, 0 to 1; None fades it to one half where the nodes have several colours.
    title
        Title.
    scalebar
        Draw a scale bar; False draws ticks in µm instead.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the node type, relation or feature is not in the graph, or lengths differ.
    TypeError
        If `graph` or `slide` is something else.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from torch_geometric.data import Data
    >>> graph = Data(pos=torch.tensor([[0.0, 0.0], [30.0, 40.0]]), edge_index=torch.tensor([[0, 1], [1, 0]]))
    >>> ax = plot(graph, ax=Figure().add_subplot())
    >>> len(ax.collections)
    2
    """
    layer = take_layer(graph, node_type, relation)
    window = choose_window(window_um, slide, layer.pos, layer.target_pos)
    # Before there is a figure, so that a mistake leaves none behind.
    cmap = color_map(cmap)
    colors = _read_colors(layer, color, edge_color, over_image=slide is not None)
    ax = new_axes(*window[2:]) if ax is None else ax
    if slide is not None:
        fade = 1.0 if colors[0].kind == "constant" else 0.5
        draw_slide(ax, slide, window, fade if slide_alpha is None else slide_alpha)
    frame_window(ax, window, scalebar, title)
    _draw(ax, layer, window, colors, (node_size, edge_width), cmap, (vmin, vmax))
    return ax


def plot_graph(
    graph: Any,
    node_type: str | None = None,
    relation: str | tuple[str, str, str] | None = None,
    ax: Axes | None = None,
    color: Any = None,
    node_size: float | None = None,
    edge_color: Any = None,
    edge_width: float | None = None,
    cmap: Any = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Axes:
    """Add the nodes and edges of one layer to axes that show their window already.

    Parameters
    ----------
    graph
        As in `plot`.
    node_type, relation
        As in `plot`.
    ax
        Axes whose limits (µm) are kept; None makes a new figure, as `plot` does.
    color, node_size, edge_color, edge_width, cmap, vmin, vmax
        As in `plot`.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        As `plot`.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from torch_geometric.data import Data
    >>> graph = Data(pos=torch.rand(5, 2), edge_index=torch.zeros(2, 0, dtype=torch.long))
    >>> ax = plot(graph, ax=Figure().add_subplot())
    >>> limits = ax.get_xlim()
    >>> plot_graph(graph, ax=ax, color="red").get_xlim() == limits
    True
    """
    layer = take_layer(graph, node_type, relation)
    cmap = color_map(cmap)
    colors = _read_colors(layer, color, edge_color, over_image=ax is not None and bool(ax.images))
    if ax is None:
        window = choose_window(None, None, layer.pos, layer.target_pos)
        ax = new_axes(*window[2:])
        frame_window(ax, window, True, None)
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    window = (left, bottom, right - left, top - bottom)
    _draw(ax, layer, window, colors, (node_size, edge_width), cmap, (vmin, vmax))
    return ax


def _read_colors(layer: Layer, color: Any, edge_color: Any, over_image: bool) -> tuple[Coloring, Coloring]:
    columns = {name: layer.x[:, i] for name, i in layer.features.items() if i < layer.x.shape[1]}
    # Yellow stands out from stained tissue, blue from paper.
    nodes = read_color(color, len(layer.pos), columns, PALETTE[6] if over_image else PALETTE[0])
    n_edges = layer.edge_index.shape[1]
    edges = read_color(
        edge_color, n_edges, layer.edge_attr, _EDGE_COLOR, "edge_color", "column of edge_index"
    )
    return nodes, edges


def _draw(
    ax: Axes,
    layer: Layer,
    window: Window,
    colors: tuple[Coloring, Coloring],
    sizes: tuple[float | None, float | None],
    cmap: Any,
    limits: tuple[float | None, float | None],
) -> None:
    inside = _inside(layer.pos, window)
    segments, column = _segments(layer, window)
    spacing = points_per_um(ax, window) * _spacing_um(layer, window, int(inside.sum()), segments)
    size = float(np.clip(0.45 * spacing, 1.2, 6.0)) if sizes[0] is None else sizes[0]
    width = float(np.clip(0.05 * spacing, 0.2, 1.0)) if sizes[1] is None else sizes[1]
    if len(segments):
        _draw_edges(ax, segments, colors[1].take(column), width, cmap)
    if layer.target_type is not None:
        target = layer.target_pos[_inside(layer.target_pos, window)]
        ax.scatter(
            target[:, 0], target[:, 1], (1.8 * size) ** 2, PALETTE[3], marker="s", linewidths=0, zorder=2
        )
    _draw_nodes(ax, layer.pos[inside], colors[0].take(inside), size, cmap, limits)


def _segments(layer: Layer, window: Window) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the undirected edges whose box meets the window, and their columns of edge_index."""
    segments, column = layer.segments()
    x, y, w, h = window
    low, high = segments.min(axis=1), segments.max(axis=1)
    seen = (high >= (x, y)).all(axis=1) & (low <= (x + w, y + h)).all(axis=1)
    return segments[seen], column[seen]


def _spacing_um(layer: Layer, window: Window, n: int, segments: NDArray[np.float64]) -> float:
    """Return the usual distance of neighbours, which decides how large dots and how thick lines may be."""
    if layer.target_type is None and len(segments):
        return float(np.median(np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)))
    return float(np.sqrt(window[2] * window[3] / max(n, 1)))


def _draw_edges(ax: Axes, segments: NDArray[np.float64], shown: Coloring, width: float, cmap: Any) -> None:
    bundle = len(segments) > _BUNDLE_ABOVE and shown.kind == "constant"
    paths = list(_bundled(segments) if bundle else segments)
    lines = LineCollection(paths, linewidths=width, zorder=1, capstyle="round")
    lines.set_rasterized(len(segments) > RASTERIZE_ABOVE)
    if shown.kind == "continuous":
        apply_scale(lines, shown, cmap, (None, None))
        add_colorbar(ax, lines, shown, below=True)
    else:
        lines.set_color(shown.rgba)
    ax.add_collection(lines, autolim=False)


def _bundled(segments: NDArray[np.float64], size: int = 64) -> NDArray[np.float64]:
    """Join (U, 2, 2) segments to lines of `size` segments, broken by NaN."""
    paths = np.full((-(-len(segments) // size) * size, 3, 2), np.nan)
    paths[: len(segments), :2] = segments
    return paths.reshape(-1, 3 * size, 2)


def _draw_nodes(
    ax: Axes,
    pos: NDArray[np.float64],
    shown: Coloring,
    size: float,
    cmap: Any,
    limits: tuple[float | None, float | None],
) -> None:
    dots = ax.scatter(pos[:, 0], pos[:, 1], size**2, zorder=3)
    dots.set_linewidth(0.08 * size if size > 2.5 else 0.0)
    dots.set_edgecolor(_EDGE_COLOR if ax.images else "white")
    dots.set_rasterized(len(pos) > RASTERIZE_ABOVE)
    if shown.kind == "continuous":
        apply_scale(dots, shown, cmap, limits)
        add_colorbar(ax, dots, shown)
        return
    dots.set_facecolor(shown.rgba)
    if shown.kind == "categorical" and len(pos):
        add_legend(ax, shown)


def _inside(pos: NDArray[np.float64], window: Window) -> NDArray[np.bool_]:
    x, y, width, height = window
    return np.asarray(((pos >= (x, y)) & (pos <= (x + width, y + height))).all(axis=1))
