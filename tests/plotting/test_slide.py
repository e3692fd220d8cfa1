from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from histograph.plotting import plot_slide

from .scenes import FakeSlide


def test_tiles_and_outline_are_drawn_in_micrometres() -> None:
    mask = SimpleNamespace(mask=np.pad(np.ones((2, 3), bool), ((1, 3), (2, 5))), mpp=10.0)
    tiles = [SimpleNamespace(x_um=20.0 * i, y_um=0.0, width_um=20.0, height_um=30.0) for i in range(3)]
    ax = plot_slide(FakeSlide(), mask=mask, tiles=tiles, ax=Figure().add_subplot(), title="slide")
    frames = next(c for c in ax.collections if isinstance(c, PolyCollection))
    assert len(frames.get_paths()) == 3
    assert np.allclose(frames.get_paths()[1].get_extents().extents, (20, 0, 40, 30))
    outline = next(c for c in ax.collections if isinstance(c, ContourSet))
    # The outline runs half a mask pixel around the centres of the tissue's outer pixels.
    assert np.allclose(outline.get_paths()[0].get_extents().extents, (20, 10, 50, 30))
    assert ax.get_xlim() == (0, 100) and ax.get_ylim() == (60, 0)


def test_window_and_empty_mask() -> None:
    slide = FakeSlide()
    mask = SimpleNamespace(mask=np.zeros((6, 10), bool), mpp=10.0)
    ax = plot_slide(slide, mask=mask, tiles=[], window_um=(10, 10, 20, 20), ax=Figure().add_subplot())
    assert slide.reads == [(10, 10, 20, 20, 0.5)]
    assert ax.get_xlim() == (10, 30) and len(ax.images) == 1


@pytest.mark.parametrize("slide", [None, "slide.svs", np.zeros((3, 3, 3))])
def test_only_open_slides(slide: object) -> None:
    with pytest.raises(TypeError, match="open_slide"):
        plot_slide(slide, ax=Figure().add_subplot())
