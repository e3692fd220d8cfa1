"""What the anchors of a slide attend to, drawn over the slide."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .arrays import as_array
from .canvas import Window
from .colors import PALETTE
from .layers import take_layer
from .saliency import plot_saliency


def plot_anchor_attention(
    maps: Any,
    graph: Any,
    slide: Any = None,
    ax: Axes | None = None,
    anchor: int | None = None,
    head: int | None = None,
    node_type: str | None = None,
    window_um: Window | None = None,
    cmap: Any = None,
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 0.75,
    slide_alpha: float = 0.8,
    grey: bool = True,
    node_size: float | None = None,
    anchor_size: float = 7.0,
    title: str | None = None,
    scalebar: bool = True,
) -> Axes:
    r"""Draw which patches the anchors of a slide attend to, as multiples of an even share, and where the anchors lie.

    With :math:`a_{hkp}` the attention of anchor k to patch p in head h, and :math:`s_{hk}` that of the slide node to
    the anchors, a patch of P has the value :math:`P\,\mathrm{mean}_h\, a_{hkp}` for one anchor, and
    :math:`P\,\mathrm{mean}_h \sum_k s_{hk} a_{hkp} / \sum_k s_{hk}` for all: what the slide node sees through them.

    Parameters
    ----------
    maps
        Attention of one slide, as of `histograph.methods.anchor_maps`: `anchor_index` (K,) rows of the anchors,
        `weight` (H, K, P) and `slide_weight` (H, K).
    graph
        The graph of the slide, a PyG `Data` or `HeteroData` with `pos` in µm. Patches are filled where it has
        their `bbox`, and dots elsewhere.
    slide
        An open slide to draw beneath.
    ax
        Axes to draw on; None makes a new figure.
    anchor
        Number of the anchor, 0 to K - 1, whose attention is drawn; None takes all, weighted by the slide node.
    head
        Number of the head; None takes the mean of all.
    node_type
        Node type of a `HeteroData`; None takes the finest that is present.
    window_um, cmap, vmin, vmax, alpha, slide_alpha, grey, node_size, title, scalebar
        As in `plot_saliency`.
    anchor_size
        Side of the largest mark of an anchor in points. With `anchor` None the areas of the marks follow the attention
        of the slide node; else the chosen anchor is filled, and the others are of one size.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the maps are not of this graph, or there is no such anchor or head.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from torch_geometric.data import Data
    >>> even = SimpleNamespace(anchor_index=torch.tensor([0, 3]), weight=torch.full((2, 2, 4), 0.25),
    ...                        slide_weight=torch.full((2, 2), 0.5))
    >>> ax = plot_anchor_attention(even, Data(pos=torch.rand(4, 2)), ax=Figure().add_subplot())
    >>> ax.collections[0].get_array().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    pos = take_layer(graph, node_type).pos
    index, weight, share = _read(maps, len(pos))
    heads = slice(None) if head is None else [_chosen("head", head, len(weight))]
    weight, share = weight[heads], share[heads]
    if anchor is None:
        # in the released form some of the attention goes to anchors that only pad
        through = np.einsum("hk,hkp->hp", share / share.sum(axis=1, keepdims=True), weight)
        size = np.sqrt(share.mean(axis=0) / share.mean(axis=0).max())
        of = f"{len(index)} anchors"
    else:
        chosen = _chosen("anchor", anchor, len(index))
        through, size, of = weight[:, chosen], np.full(len(index), 0.7), f"anchor {chosen}"
        size[chosen] = 1.0
    which = "" if head is None else f", head {head}"
    ax = plot_saliency(
        graph,
        len(pos) * through.mean(axis=0),
        slide,
        ax,
        node_type,
        window_um=window_um,
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
        alpha=alpha,
        slide_alpha=slide_alpha,
        grey=grey,
        node_size=node_size,
        label=f"attention of {of}{which} (1: even)",
        title=title,
        scalebar=scalebar,
    )
    marks = ax.scatter(
        pos[index, 0], pos[index, 1], (anchor_size * size) ** 2, marker="D", linewidths=1.0, zorder=4
    )
    filled = np.arange(len(index)) == (-1 if anchor is None else anchor)
    marks.set(edgecolor=PALETTE[3], facecolor=[PALETTE[3] if full else "none" for full in filled])
    return ax


def _read(maps: Any, patches: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Read anchors, weights and the shares of the slide node, checked against the number of patches."""
    index = as_array(maps.anchor_index).astype(np.int64)
    weight, share = (as_array(values).astype(np.float64) for values in (maps.weight, maps.slide_weight))
    expected = (*share.shape, patches)
    if share.ndim != 2 or share.shape[1:] != index.shape or weight.shape != expected:
        raise ValueError(
            f"maps must be of this graph of {patches} patches: expected weight (heads, anchors, {patches}) and "
            f"slide_weight (heads, anchors), found {weight.shape} and {share.shape} with {len(index)} anchors."
        )
    if not len(index) or not patches:
        raise ValueError(f"maps must hold an anchor and a patch, found {len(index)} and {patches}.")
    if not all(np.isfinite(part).all() and (part >= 0).all() for part in (weight, share)):
        raise ValueError("maps: weight and slide_weight must be finite and not negative.")
    if (share.sum(axis=1) == 0).any():
        raise ValueError("maps.slide_weight must not be 0 for all anchors of a head.")
    if index.min() < 0 or index.max() >= patches:
        raise ValueError(
            f"maps.anchor_index must be rows of {patches} patches, found {index.min()} to {index.max()}."
        )
    return index, weight, share


def _chosen(name: str, number: int, count: int) -> int:
    if not 0 <= number < count:
        raise ValueError(f"{name} must be 0 to {count - 1}, found {number}.")
    return int(number)
