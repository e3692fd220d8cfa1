from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from histograph.plotting import plot_clusters
from histograph.plotting.colors import PALETTE

from .scenes import FakeSlide, chain


def _ax() -> Axes:
    return Figure().add_subplot()


def _entities(n: int = 12, masks: object = None) -> SimpleNamespace:
    """Entities in another order of rows than the nodes, with an extra one."""
    label = np.arange(n + 1) * 2 + 1
    low = np.column_stack([10.0 * np.arange(n + 1), np.zeros(n + 1)])
    triangles = low[:, None] + np.array([(0, 0), (6, 0), (0, 6), (0, 0)])
    return SimpleNamespace(
        label=label, bbox=np.hstack([low, low + 6]), masks=masks, polygon=lambda i: triangles[i]
    )


def test_points_when_nothing_else_is_known() -> None:
    ax = plot_clusters(chain(), np.arange(12) % 3, ax=_ax(), alpha=0.5, names={1: "stroma"})
    dots = ax.collections[0]
    assert isinstance(dots, PathCollection) and len(dots.get_offsets()) == 12
    assert np.allclose(dots.get_facecolor()[:3, :3], [to_rgba(c)[:3] for c in PALETTE[:3]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "stroma", "2"]


def test_boxes_of_the_nodes_are_filled_over_the_slide() -> None:
    ax = plot_clusters(chain(), torch.tensor([5, -1]), FakeSlide(), node_type="patch", ax=_ax())
    shapes = ax.collections[0]
    assert isinstance(shapes, PolyCollection)
    assert np.allclose(shapes.get_paths()[1].get_extents().extents, (50, 0, 100, 60))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["unassigned", "5"]
    assert len(ax.images) == 1


@pytest.mark.parametrize("masks", [None, "some"])
def test_entities_are_joined_on_the_id(masks: object) -> None:
    graph = chain()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    graph["cell"].id = graph["cell"].id[order]
    ax = plot_clusters(graph, np.arange(12), entities=_entities(masks=masks), ax=_ax())
    shapes = ax.collections[0]
    corners = np.array([path.get_extents().extents for path in shapes.get_paths()])
    assert np.allclose(corners[:, 0], 10.0 * order.numpy())
    distinct = np.unique(shapes.get_paths()[0].vertices, axis=0)
    assert len(distinct) == (4 if masks is None else 3)


def test_window_keeps_shapes_that_reach_into_it() -> None:
    ax = plot_clusters(
        chain(), np.arange(12), entities=_entities(), ax=_ax(), window_um=(5.0, 0.0, 20.0, 10.0)
    )
    assert len(ax.collections[0].get_paths()) == 3
    assert len(ax.get_legend().get_texts()) == 3


def test_boxes_of_irregular_shapes_are_not_filled() -> None:
    graph = chain()
    graph["cell"].bbox = torch.rand(12, 4)
    ax = plot_clusters(graph, np.arange(12), ax=_ax())
    assert isinstance(ax.collections[0], PathCollection)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"each cell node: expected shape \(12,\), found \(5,\)"):
        plot_clusters(chain(), np.zeros(5), ax=_ax())
    with pytest.raises(ValueError, match=r"entities must hold every cell node: 8 of 12 ids.*first: 9"):
        plot_clusters(chain(), np.zeros(12), entities=_entities(3), ax=_ax())
    graph = chain()
    del graph["cell"].id
    with pytest.raises(ValueError, match="have no id"):
        plot_clusters(graph, np.zeros(12), entities=_entities(), ax=_ax())
