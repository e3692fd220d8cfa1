import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure

from histograph.plotting import plot_saliency

from .scenes import FakeSlide, chain
from .test_clusters import _entities

VALUES = np.linspace(0, 11, 12)


def _ax() -> Axes:
    return Figure().add_subplot()


def _drawn(ax: Axes) -> PathCollection | PolyCollection:
    ax.figure.draw_without_rendering()
    return ax.collections[0]


def test_opacity_rises_with_the_value() -> None:
    ax = plot_saliency(chain(), VALUES, ax=_ax(), vmin=0, vmax=11, alpha=0.6)
    dots = _drawn(ax)
    color = dots.get_facecolor()
    assert isinstance(dots, PathCollection) and len(dots.get_offsets()) == 12
    assert np.allclose(color[:, 3], 0.6 * VALUES / 11, atol=0.005)
    assert np.allclose(color[:, :3], matplotlib.colormaps["viridis"](VALUES / 11)[:, :3], atol=0.02)
    assert len(ax.child_axes) == 1 and ax.child_axes[0].get_ylabel() == "saliency"


def test_the_default_scales_rise_evenly_in_lightness() -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    one = matplotlib.colormaps[
        plot_saliency(chain(), VALUES, ax=_ax()).collections[0].get_cmap().name.split(",")[0]
    ]
    lightness = one(np.linspace(0, 1, 50))[:, :3] ** 2.2 @ weights
    assert (np.diff(lightness) > 0).all()
    two = plot_saliency(chain(), VALUES - 5, ax=_ax()).collections[0].get_cmap()
    alpha = two(np.linspace(0, 1, 101))[:, 3]
    assert np.allclose(alpha, alpha[::-1], atol=0.02) and alpha[50] < 0.01 < 0.7 < alpha[0]


def test_both_signs_are_centred_on_zero() -> None:
    values = np.array([-1.0] + [0.0] * 10 + [4.0])
    dots = _drawn(plot_saliency(chain(), values, ax=_ax()))
    assert dots.get_clim()[0] == -dots.get_clim()[1] and 1 < dots.get_clim()[1] <= 4
    color = dots.get_facecolor()
    assert color[0, 2] > color[0, 0] and color[11, 0] > color[11, 2]  # blue against red
    assert np.allclose(color[1:11, 3], 0, atol=0.01)
    assert _drawn(plot_saliency(chain(), values, ax=_ax(), vmax=2.0)).get_clim() == (-2.0, 2.0)
    assert _drawn(plot_saliency(chain(), values, ax=_ax(), vmin=-3.0, vmax=2.0)).get_clim() == (-3.0, 2.0)
    # of one sign, a scale from one side
    assert "viridis" in _drawn(plot_saliency(chain(), -VALUES, ax=_ax())).get_cmap().name


def test_not_finite_values_are_not_drawn() -> None:
    values = VALUES.copy()
    values[[2, 5]] = np.nan, np.inf
    color = _drawn(plot_saliency(chain(), values, FakeSlide(), ax=_ax())).get_facecolor()
    assert np.array_equal(color[[2, 5], 3], [0, 0]) and (color[8:, 3] > 0.3).all()
    nothing = _drawn(plot_saliency(chain(), np.full(12, np.nan), ax=_ax()))
    assert not nothing.get_facecolor()[:, 3].any()
    values[0] = -3.0
    assert np.isfinite(_drawn(plot_saliency(chain(), values, ax=_ax())).get_clim()).all()


def test_the_scale_is_that_of_the_window() -> None:
    ax = plot_saliency(chain(), VALUES, ax=_ax(), window_um=(0, 0, 30, 60))
    assert _drawn(ax).get_clim()[1] < 4
    signed = _drawn(plot_saliency(chain(), VALUES - 2, ax=_ax(), window_um=(0, 0, 30, 60))).get_clim()
    assert signed[0] == -signed[1] and signed[1] <= 2
    empty = _drawn(plot_saliency(chain(), VALUES - 2, ax=_ax(), window_um=(500, 500, 10, 10)))
    assert len(empty.get_offsets()) == 0


@pytest.mark.parametrize("grey", [True, False])
def test_slide_is_drawn_without_its_colours(grey: bool) -> None:
    slide = FakeSlide()
    read = slide.read_region
    pink = np.array([230, 150, 190], np.uint8)
    slide.read_region = lambda *args, **options: read(*args, **options) * 0 + pink
    ax = plot_saliency(chain(), VALUES, slide, ax=_ax(), window_um=(0, 0, 30, 60), grey=grey, slide_alpha=0.5)
    shown = np.asarray(ax.images[0].get_array())
    assert ax.images[0].get_alpha() == 0.5 and ax.get_xlim() == (0, 30) and ax.get_ylim() == (60, 0)
    assert np.array_equal(shown[0, 0], [178, 178, 178] if grey else pink)
    assert slide.reads == [(0.0, 0.0, 30.0, 60.0, 0.5)] and shown.shape == (120, 60, 3)


def test_outlines_and_boxes_are_filled() -> None:
    ax = plot_saliency(chain(), VALUES, entities=_entities(masks="yes"), ax=_ax())
    shapes = _drawn(ax)
    assert isinstance(shapes, PolyCollection) and len(shapes.get_paths()) == 12
    assert np.array_equal(shapes.get_array(), VALUES)
    assert np.allclose(shapes.get_paths()[3].vertices[:3], [(30, 0), (36, 0), (30, 6)])
    ax = plot_saliency(
        chain(), torch.tensor([0.5, 2.0]), node_type="patch", ax=_ax(), label="log odds", title="T"
    )
    assert np.allclose(_drawn(ax).get_paths()[1].vertices[2], (100, 60))
    assert ax.get_title() == "T" and ax.child_axes[0].get_ylabel() == "log odds"


def test_a_new_figure_only_when_none_is_given() -> None:
    before = plt.get_fignums()
    ax = plot_saliency(chain(), VALUES)
    assert len(plt.get_fignums()) == len(before) + 1
    plt.close(ax.figure)
    for options, message in (
        ({"values": VALUES[:3]}, r"expected shape \(12,\), found \(3,\)"),
        ({"values": VALUES, "alpha": 1.5}, "alpha must lie"),
        ({"values": VALUES, "node_type": "gland"}, "node_type must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_saliency(chain(), **options)
    assert plt.get_fignums() == before
