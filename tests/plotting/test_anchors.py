from dataclasses import dataclass

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch_geometric.data import Data

from histograph.methods import PAMA, anchor_maps
from histograph.plotting import plot_anchor_attention
from histograph.plotting.colors import PALETTE

from .scenes import FakeSlide


@dataclass
class Maps:
    """What `anchor_maps` gives of a slide."""

    anchor_index: torch.Tensor
    weight: torch.Tensor
    slide_weight: torch.Tensor


def scene(heads: int = 2, anchors: int = 3, patches: int = 12) -> tuple[Maps, Data]:
    """A row of patches of 8 µm; attention that sums to 1 over patches, and to less than 1 over anchors."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(heads, anchors, patches, generator=generator).mul(4).softmax(-1)
    share = torch.rand(heads, anchors + 1, generator=generator).softmax(-1)[:, :anchors]
    x = torch.arange(patches) * 8.0 + 4
    graph = Data(pos=torch.stack([x, torch.full_like(x, 20.0)], dim=1))
    return Maps(torch.tensor([1, 5, 9]), weight, share), graph


def _ax() -> Axes:
    return Figure().add_subplot()


def _parts(ax: Axes) -> tuple[PathCollection | PolyCollection, PathCollection]:
    ax.figure.draw_without_rendering()
    patches, marks = ax.collections
    return patches, marks


def test_patches_are_coloured_by_what_the_slide_sees_through_its_anchors() -> None:
    maps, graph = scene()
    dots, marks = _parts(plot_anchor_attention(maps, graph, ax=_ax(), vmin=0, vmax=4, alpha=1.0))
    expected = np.zeros(12)
    for h in range(2):
        for k in range(3):
            share = float(maps.slide_weight[h, k] / maps.slide_weight[h].sum())
            expected += share * maps.weight[h, k].numpy() / 2
    assert expected.sum() == pytest.approx(1, abs=1e-6)
    assert np.allclose(dots.get_array(), 12 * expected, atol=1e-5)
    assert np.allclose(dots.get_offsets(), graph.pos)
    color = dots.get_facecolor()
    assert np.allclose(color[:, 3], 12 * expected / 4, atol=0.005)
    assert np.allclose(color[:, :3], matplotlib.colormaps["viridis"](12 * expected / 4)[:, :3], atol=0.02)
    assert isinstance(marks, PathCollection)


def test_anchors_are_marked_where_they_lie_as_large_as_the_slide_heeds_them() -> None:
    maps, graph = scene()
    marks = _parts(plot_anchor_attention(maps, graph, ax=_ax(), anchor_size=10.0))[1]
    assert np.allclose(marks.get_offsets(), graph.pos[[1, 5, 9]])
    share = maps.slide_weight.mean(0).numpy()
    assert np.allclose(marks.get_sizes(), 100 * share / share.max())
    assert np.allclose(marks.get_edgecolor(), to_rgba(PALETTE[3]))
    assert not marks.get_facecolor()[:, 3].any()


def test_one_anchor_and_one_head() -> None:
    maps, graph = scene()
    dots, marks = _parts(ax := plot_anchor_attention(maps, graph, ax=_ax(), anchor=2, head=1))
    assert np.allclose(dots.get_array(), 12 * maps.weight[1, 2].numpy())
    face = marks.get_facecolor()
    assert np.allclose(face[2], to_rgba(PALETTE[3])) and np.array_equal(face[:2, 3], [0, 0])
    assert marks.get_sizes()[2] > marks.get_sizes()[0] == marks.get_sizes()[1]
    assert ax.child_axes[0].get_ylabel() == "attention of anchor 2, head 1 (1: even)"
    dots = _parts(plot_anchor_attention(maps, graph, ax=_ax(), anchor=0))[0]
    assert np.allclose(dots.get_array(), 12 * maps.weight[:, 0].mean(0).numpy())
    ax = plot_anchor_attention(maps, graph, ax=_ax(), head=0)
    assert ax.child_axes[0].get_ylabel() == "attention of 3 anchors, head 0 (1: even)"
    seen = maps.slide_weight[0] / maps.slide_weight[0].sum() @ maps.weight[0]
    assert np.allclose(_parts(ax)[0].get_array(), 12 * seen.numpy())


def test_over_a_slide_and_with_boxes() -> None:
    maps, graph = scene()
    low = graph.pos - 4
    graph.bbox = torch.cat([low, low + 8], dim=1)
    slide = FakeSlide()
    ax = plot_anchor_attention(maps, graph, slide, _ax(), window_um=(0, 0, 40, 40), title="T", grey=False)
    boxes, marks = _parts(ax)
    assert isinstance(boxes, PolyCollection) and len(boxes.get_paths()) == 6
    assert np.allclose(boxes.get_paths()[1].vertices[2], (16, 24))
    assert len(ax.images) == 1 and slide.reads == [(0.0, 0.0, 40.0, 40.0, 0.5)]
    assert len(marks.get_offsets()) == 3 and marks.get_zorder() > boxes.get_zorder()
    assert ax.get_xlim() == (0, 40) and ax.get_title() == "T"


def test_maps_of_a_method() -> None:
    generator = torch.Generator().manual_seed(0)
    column, row = torch.arange(6.0).repeat(5), torch.arange(5.0).repeat_interleave(6)
    x = torch.randn(30, 4, generator=generator)
    graph = Data(x=x, pos=torch.stack([column, row], dim=1) * 16, anchor_index=torch.tensor([3, 8, 25]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = PAMA(4, hidden_dim=16, layers=2, heads=2, decoder_dim=16)
    maps = anchor_maps(method, graph)
    dots, marks = _parts(plot_anchor_attention(maps, graph, ax=_ax(), anchor=1, head=0))
    assert np.allclose(dots.get_array(), 30 * maps.weight[0, 1].detach().numpy(), rtol=1e-5)
    assert np.allclose(marks.get_offsets(), graph.pos[[3, 8, 25]])


def test_mistakes_are_named_before_there_is_a_figure() -> None:
    maps, graph = scene()
    before = plt.get_fignums()
    for options, message in (
        ({"anchor": 3}, "anchor must be 0 to 2, found 3"),
        ({"head": -1}, "head must be 0 to 1, found -1"),
        ({"graph": Data(pos=torch.rand(5, 2))}, r"graph of 5 patches: .* found \(2, 3, 12\)"),
        ({"maps": Maps(torch.tensor([0, 1]), maps.weight, maps.slide_weight)}, "with 2 anchors"),
        ({"maps": Maps(torch.tensor([0, 1, 12]), maps.weight, maps.slide_weight)}, "found 0 to 12"),
        ({"alpha": 2.0}, "alpha must lie"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_anchor_attention(**({"maps": maps, "graph": graph} | options))
    assert plt.get_fignums() == before
