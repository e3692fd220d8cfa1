"""Values from pandas and torch: missing ones are grey and no class, and every type of tensor is read."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch_geometric.data import Data

from histograph import plotting
from histograph.plotting.colors import UNASSIGNED, categorical, read_color


def scene(n: int = 4) -> Data:
    return Data(pos=torch.rand(n, 2) * 50, edge_index=torch.zeros(2, 0, dtype=torch.long))


def legend_of(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pd.Series(["a", None, "b", np.nan]), ["a", "b", "unassigned"]),
        (pd.Series([1, None, 0, 1]), ["0", "1", "unassigned"]),
        (pd.Series(["b", "a", None, "a"], dtype="category"), ["a", "b", "unassigned"]),
        (np.array([True, None, False, True], object), ["False", "True", "unassigned"]),
        ([None] * 4, ["unassigned"]),
        ([0.0, -1.0, np.nan, 1.0], ["unassigned", "0", "1"]),
        (np.array([2, -1, None, 10], object), ["unassigned", "2", "10"]),
    ],
)
def test_missing_labels_are_grey_and_no_class(labels, names):
    ax = plotting.plot_clusters(scene(), labels, ax=Figure().add_subplot())
    assert legend_of(ax) == names
    grey = categorical(labels).rgba[np.asarray(pd.isna(np.asarray(labels)))]
    assert np.allclose(grey[:, :3], int(UNASSIGNED[1:3], 16) / 255)


def test_missing_texts_colour_nodes_grey():
    ax = plotting.plot(scene(), color=pd.Series(["tumour", None, "stroma", None]), ax=Figure().add_subplot())
    assert legend_of(ax) == ["stroma", "tumour", "unassigned"]


def test_numbers_of_a_table_with_missing_ones_are_a_scale():
    found = read_color(np.array([0.5, None, 2.5], object), 3)
    assert found.kind == "continuous" and np.array_equal(found.values, [0.5, np.nan, 2.5], equal_nan=True)


def test_tensors_of_bfloat16_are_drawn():
    graph, half = scene(), torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.bfloat16, requires_grad=True)
    maps = SimpleNamespace(
        anchor_index=torch.tensor([1]), weight=half.view(1, 1, 4), slide_weight=half[:1].view(1, 1)
    )
    for draw in (
        lambda ax: plotting.plot(graph, color=half, ax=ax),
        lambda ax: plotting.plot_saliency(graph, half, ax=ax),
        lambda ax: plotting.plot_attention(half.view(1, 2, 2), ax=ax),
        lambda ax: plotting.plot_embedding(half.view(4, 1) * torch.ones(2), ax=ax),
        lambda ax: plotting.plot_anchor_attention(maps, graph, ax=ax),
    ):
        ax = draw(Figure().add_subplot())
        assert ax.collections or ax.images


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plotting.plot(scene(), color=[0.1, 0.2, 0.3, 0.4], cmap="virdis"),
        lambda: plotting.plot_graph(scene(), color=[0.1, 0.2, 0.3, 0.4], cmap="virdis"),
        lambda: plotting.plot_saliency(scene(), [0.1, 0.2, 0.3, 0.4], cmap="virdis"),
        lambda: plotting.plot_embedding(np.eye(4), color=[0.1, 0.2, 0.3, 0.4], cmap="virdis"),
        lambda: plotting.plot_attention(np.ones((2, 2, 2)), cmap="virdis"),
        lambda: plotting.plot_attention_heads(np.ones((2, 2, 2)), np.zeros((4, 4, 3)), cmap="virdis"),
    ],
)
def test_an_unknown_colour_map_is_named_and_leaves_no_figure(draw):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=r"cmap must be .*'virdis'\. Did you mean 'viridis'"):
        draw()
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mpp": 0}, "mpp must"),
        ({"alpha": 2}, "alpha must"),
        ({"mass": 3}, "mass"),
        ({"heads": [0.5]}, "head must"),
    ],
)
def test_heads_refused_leave_no_figure(wrong, message):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=message):
        plotting.plot_attention_heads(np.ones((2, 2, 2)), np.zeros((4, 4, 3)), **wrong)
    if "mass" not in wrong and "heads" not in wrong:
        with pytest.raises(ValueError, match=message):
            plotting.plot_attention(np.ones((2, 2, 2)), **wrong)
    assert plt.get_fignums() == before


@pytest.mark.parametrize("image", [np.full((4, 4, 3), np.nan), np.zeros((0, 4, 3))])
def test_a_patch_without_colours_is_refused(image):
    with pytest.raises(ValueError, match="image must"):
        plotting.plot_attention(np.ones((2, 2, 2)), image)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": torch.full((1, 1, 4), torch.nan)}, "finite"),
        ({"slide_weight": torch.zeros(1, 1)}, "slide_weight must not be 0"),
        (
            {"anchor_index": torch.zeros(0), "weight": torch.ones(1, 0, 4), "slide_weight": torch.ones(1, 0)},
            "an anchor",
        ),
    ],
)
def test_anchor_maps_that_say_nothing_are_refused(wrong, message):
    maps = {
        "anchor_index": torch.zeros(1),
        "weight": torch.ones(1, 1, 4),
        "slide_weight": torch.ones(1, 1),
    } | wrong
    with pytest.raises(ValueError, match=message):
        plotting.plot_anchor_attention(SimpleNamespace(**maps), scene(), ax=Figure().add_subplot())
