import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histograph.evaluation import class_attention, mass_mask
from histograph.nn import VisionTransformer
from histograph.plotting import plot_attention, plot_attention_heads

PATCH = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)


def _ax() -> Axes:
    return Figure().add_subplot()


def _maps(heads: int = 3) -> np.ndarray:
    return np.random.default_rng(1).gamma(0.5, size=(heads, 4, 6))


def test_a_head_lies_over_the_patch_in_multiples_of_an_even_share() -> None:
    maps = _maps()
    ax = plot_attention(maps, PATCH, ax=_ax(), head=1, title="second")
    beneath, drawn = ax.images
    assert beneath.get_extent() == drawn.get_extent() == [0.0, 48.0, 32.0, 0.0]
    assert np.allclose(drawn.get_array(), 24 * maps[1] / maps[1].sum())
    assert ax.get_ylim() == (32.0, 0.0) and ax.get_title() == "second"
    assert "head 1" in ax.figure.axes[1].get_ylabel()
    # nothing hides the patch where there is no attention, and opacity rises with it
    alpha = drawn.cmap(np.linspace(0, 1, 5))[:, 3]
    assert alpha[0] == 0 and alpha[-1] == pytest.approx(0.75) and (np.diff(alpha) > 0).all()


def test_the_mean_counts_each_head_alike() -> None:
    maps = _maps()
    maps[0] *= 100
    mean = plot_attention(maps, ax=_ax()).images[0].get_array()
    assert np.allclose(mean, 24 * (maps / maps.sum(axis=(1, 2), keepdims=True)).mean(axis=0))
    assert mean.mean() == pytest.approx(1)


def test_only_the_smallest_set_is_drawn() -> None:
    maps = _maps()
    drawn = plot_attention(maps, PATCH, ax=_ax(), head=2, mass=0.5).images[1]
    kept = mass_mask(maps, 0.5)[2]
    assert np.array_equal(~np.ma.getmaskarray(drawn.get_array()), kept)
    assert 0 < kept.sum() < kept.size
    assert drawn.cmap(np.ma.masked_array([0.5], True))[0, 3] == 0
    assert drawn.cmap(0.0)[3] > 0.2  # what is kept can be seen


def test_with_a_pixel_size_there_is_a_scale_bar_and_micrometres() -> None:
    ax = plot_attention(_maps(), PATCH, ax=_ax(), mpp=0.5)
    assert ax.images[1].get_extent() == [0.0, 24.0, 16.0, 0.0]
    assert [artist.get_gid() for artist in ax.artists] == ["scalebar"]
    assert not plot_attention(_maps(), PATCH, ax=_ax()).artists


def test_all_heads_stand_beside_the_patch_and_above_what_holds_half() -> None:
    maps = _maps(6)
    axes = plot_attention_heads(maps, PATCH, figure=Figure(), mpp=0.5, title="last block")
    assert axes.shape == (2, 8)
    assert [ax.get_title() for ax in axes[0]] == ["patch", "mean", *(f"head {h}" for h in range(6))]
    assert axes[1, 3].get_title() == "50 % of head 1" and not axes[1, 0].axison
    for head in range(6):
        above, below = (axes[row, 2 + head].images[1].get_array() for row in (0, 1))
        assert np.allclose(above, 24 * maps[head] / maps[head].sum())
        assert np.array_equal(~np.ma.getmaskarray(below), mass_mask(maps)[head])
    assert plot_attention_heads(maps, PATCH, mass=None, heads=[4], figure=Figure()).shape == (1, 3)


def test_it_takes_what_a_network_gives() -> None:
    network = VisionTransformer(image_size=16, patch_size=4, dim=12, depth=1, heads=3)
    maps = class_attention(network, torch.rand(3, 16, 24))
    ax = plot_attention(torch.from_numpy(maps), torch.rand(16, 24, 3))
    ax.figure.canvas.draw()
    assert ax.images[1].get_array().shape == (4, 6)
    plt.close(ax.figure)
    axes = plot_attention_heads(maps, np.zeros((16, 24, 3)))
    assert axes.shape[0] == 2
    axes[0, 0].figure.canvas.draw()
    plt.close(axes[0, 0].figure)


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        (np.ones((4, 4)), {}, r"\(heads, rows, columns\), found \(4, 4\)"),
        (-np.ones((1, 4, 4)), {}, "not negative"),
        (np.zeros((1, 4, 4)), {}, "0 everywhere"),
        (np.ones((2, 4, 4)), {"head": 2}, "head must be 0 to 1, found 2"),
        (np.ones((2, 4, 4)), {"head": -1}, "head must be 0 to 1"),
        (np.ones((2, 4, 4)), {"mass": 50}, "mass must be in"),
        (np.ones((2, 4, 4)), {"alpha": 2.0}, "alpha must lie"),
        (np.ones((2, 4, 4)), {"image": np.zeros((3, 8, 8))}, r"\(H, W, 3\), found \(3, 8, 8\)"),
        (np.ones((2, 4, 4)), {"image": np.full((8, 8, 3), -1.5)}, "Undo the normalisation"),
    ],
)
def test_mistakes_are_named(maps: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_attention(maps, ax=_ax(), **options)


def test_a_head_that_is_not_there_draws_nothing() -> None:
    figure = Figure()
    with pytest.raises(ValueError, match="head must be 0 to 2, found 7"):
        plot_attention_heads(_maps(), PATCH, heads=[0, 7], figure=figure)
    assert not figure.axes
