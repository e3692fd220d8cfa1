import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch_geometric.data import Data

from histograph.plotting import graph as module
from histograph.plotting import plot, plot_graph
from histograph.plotting.colors import PALETTE

from .scenes import FakeSlide, chain


def _ax() -> Axes:
    return Figure(figsize=(4, 3)).add_subplot()


def _lines(ax: Axes) -> LineCollection:
    return next(c for c in ax.collections if isinstance(c, LineCollection))


def _dots(ax: Axes) -> PathCollection:
    return [c for c in ax.collections if isinstance(c, PathCollection)][-1]


def test_nodes_and_edges_are_drawn_where_they_are() -> None:
    graph = chain()
    ax = plot(graph, ax=_ax())
    assert np.allclose(_dots(ax).get_offsets(), graph["cell"].pos)
    segments = np.array(_lines(ax).get_segments())
    expected = graph["cell"].pos[graph["cell", "near", "cell"].edge_index[:, :11]].numpy().transpose(1, 0, 2)
    assert np.allclose(segments, expected)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert not _lines(ax).get_rasterized()


def test_slide_lies_beneath_in_micrometres() -> None:
    slide = FakeSlide()
    ax = plot(chain(), slide, ax=_ax(), slide_alpha=0.4)
    assert np.allclose(ax.images[0].get_extent(), (0, 100, 60, 0))
    assert ax.images[0].get_alpha() == 0.4
    assert ax.get_xlim() == (0, 100) and ax.get_ylim() == (60, 0)
    assert ax.images[0].get_zorder() < _lines(ax).get_zorder() < _dots(ax).get_zorder()
    assert np.allclose(_dots(ax).get_facecolor()[0], to_rgba(PALETTE[6]))


def test_slide_fades_under_many_colours_only() -> None:
    assert plot(chain(), FakeSlide(), ax=_ax()).images[0].get_alpha() == 1.0
    assert plot(chain(), FakeSlide(), ax=_ax(), color="area").images[0].get_alpha() == 0.5
    assert plot(chain(), FakeSlide(), ax=_ax(), color="area", slide_alpha=0.9).images[0].get_alpha() == 0.9


def test_window_keeps_what_it_shows() -> None:
    slide, graph = FakeSlide(), chain()
    ax = plot(graph, slide, ax=_ax(), window_um=(0.0, 0.0, 30.0, 60.0))
    x = graph["cell"].pos[:, 0]
    assert len(_dots(ax).get_offsets()) == int((x <= 30).sum())
    # The edge that leaves the window is kept: one more than the edges within.
    assert len(_lines(ax).get_segments()) == int((x <= 30).sum())
    assert slide.reads == [(0.0, 0.0, 30.0, 60.0, 0.5)]
    assert ax.get_xlim() == (0, 30)


def test_window_without_nodes_is_drawn_empty() -> None:
    ax = plot(chain(), ax=_ax(), window_um=(500, 500, 10, 10), color="area")
    assert len(_dots(ax).get_offsets()) == 0
    ax.figure.draw_without_rendering()


def test_colour_by_feature_values_categories_and_constant() -> None:
    graph = chain()
    ax = plot(graph, ax=_ax(), color="roundness", vmin=1.0)
    assert np.allclose(_dots(ax).get_array(), graph["cell"].x[:, 1])
    assert _dots(ax).get_clim()[0] == 1.0
    assert len(ax.child_axes) == 1 and ax.child_axes[0].get_ylabel() == "roundness"

    ax = plot(graph, ax=_ax(), color=np.array(["b", "a"] * 6))
    assert np.allclose(_dots(ax).get_facecolor()[:2], [to_rgba(PALETTE[1]), to_rgba(PALETTE[0])])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]

    ax = plot(graph, ax=_ax(), color="#123456", edge_color="red", edge_width=2.0, node_size=5.0)
    assert np.allclose(_dots(ax).get_facecolor(), to_rgba("#123456"))
    assert np.allclose(_lines(ax).get_color(), to_rgba("red"))
    assert _lines(ax).get_linewidth()[0] == 2.0 and _dots(ax).get_sizes()[0] == 25.0
    assert ax.get_legend() is None and not ax.child_axes


def test_not_finite_features_are_grey_and_do_not_spoil_the_scale() -> None:
    values = np.arange(12.0)
    values[3] = np.nan
    ax = plot(chain(), ax=_ax(), color=values, cmap="cividis")
    ax.figure.draw_without_rendering()
    assert np.isfinite(_dots(ax).get_clim()).all()
    assert np.allclose(_dots(ax).get_facecolor()[3], to_rgba("#BBBBBB"))


def test_edges_by_attribute_follow_their_edge() -> None:
    ax = plot(chain(), ax=_ax(), edge_color="length")
    assert np.allclose(_lines(ax).get_array(), np.arange(11))
    assert ax.child_axes[0].get_xlabel() == "length"
    with pytest.raises(ValueError, match=r"edge_color must have one value for each column of edge_index"):
        plot(chain(), ax=_ax(), edge_color=np.zeros(11))


def test_relation_to_another_type_draws_both() -> None:
    ax = plot(chain(), relation="in", ax=_ax())
    dots = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert [len(c.get_offsets()) for c in dots] == [2, 12]
    assert len(_lines(ax).get_segments()) == 12


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_graphs(n: int) -> None:
    graph = Data(pos=torch.rand(n, 2), edge_index=torch.zeros(2, 0, dtype=torch.long))
    ax = plot(graph, ax=_ax(), title="tiny")
    ax.figure.draw_without_rendering()
    assert len(_dots(ax).get_offsets()) == n and ax.get_title() == "tiny"


def test_large_graphs_are_drawn_as_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 50_001
    step = torch.arange(n)
    edges = torch.stack([step, (step + 1) % n])
    graph = Data(pos=torch.rand(n, 2), edge_index=torch.cat([edges, edges.flip(0)], dim=1))
    ax = plot(graph, ax=_ax())
    assert _dots(ax).get_rasterized() and _lines(ax).get_rasterized()
    assert len(_lines(ax).get_segments()) == n
    monkeypatch.setattr(module, "_BUNDLE_ABOVE", 1000)
    bundled = plot(graph, ax=_ax())
    assert len(_lines(bundled).get_paths()) == -(-n // 64)


def test_bundles_hold_every_segment() -> None:
    segments = np.random.default_rng(0).random((130, 2, 2))
    lines = module._bundled(segments)
    points = lines.reshape(-1, 3, 2)
    assert lines.shape == (3, 192, 2) and np.isnan(points[:, 2]).all()
    assert np.array_equal(points[:130, :2], segments) and np.isnan(points[130:]).all()


def test_only_the_given_axes_are_drawn_on() -> None:
    # field bug E.7: elsewhere nodes are drawn on the current axes, not on those given
    before = plt.get_fignums()
    figure = Figure()
    left, right = figure.subplots(1, 2)
    rc = dict(plt.rcParams)
    assert plot(chain(), FakeSlide(), ax=left, color="area") is left
    assert not right.has_data() and not right.artists and right.get_xlim() == (0, 1)
    assert figure.axes == [left, right]
    assert plt.get_fignums() == before and dict(plt.rcParams) == rc


def test_a_new_figure_is_one_the_caller_can_close() -> None:
    before = plt.get_fignums()
    ax = plot(chain())
    assert len(plt.get_fignums()) == len(before) + 1
    plt.close(ax.figure)
    assert plt.get_fignums() == before
    ax = plot_graph(chain())
    plt.close(ax.figure)
    assert plt.get_fignums() == before


def test_layers_can_be_added() -> None:
    ax = plot(chain(), FakeSlide(), ax=_ax())
    limits = ax.get_xlim(), ax.get_ylim()
    assert plot_graph(chain(), node_type="patch", ax=ax, color="red", node_size=8.0) is ax
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    assert len(_dots(ax).get_offsets()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": "perimeter"}, "neither a name in the graph nor a colour.*area, roundness"),
        ({"color": np.zeros(5)}, r"expected shape \(12,\)"),
        ({"node_type": "gland"}, "node_type must be one of"),
        ({"window_um": (0, 0, 0, 0)}, "window_um"),
    ],
)
def test_mistakes_are_named_and_leave_no_figure(options: dict, message: str) -> None:
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=message):
        plot(chain(), **options)
    assert plt.get_fignums() == before
