"""Outlines of entities on the slide."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from histograph.entities import Entities
from histograph.plotting import plot_outlines

from .scenes import FakeSlide


def cells() -> Entities:
    """Three cells in a row, with a type and a number."""
    label = np.zeros((40, 80), int)
    for number, col in enumerate((5, 30, 60)):
        label[10:20, col : col + 8] = 3 * number + 1
    found = Entities.from_instance_map(label, mpp=0.5)
    found.columns.update(type=np.array(["a", "b", "a"]), probability=np.array([0.2, 0.5, 0.9]))
    return found


def lines(ax) -> LineCollection:
    """The outlines on some axes."""
    [found] = [c for c in ax.collections if isinstance(c, LineCollection)]
    return found


def test_each_outline_is_that_of_its_entity() -> None:
    found = cells()
    ax = plot_outlines(found, ax=Figure().add_subplot())
    paths = lines(ax).get_paths()
    assert len(paths) == 3
    for i, path in enumerate(paths):
        np.testing.assert_allclose(path.get_extents().extents, found.bbox[i])
    assert len(ax.images) == 0


def test_the_slide_lies_beneath_and_the_window_cuts() -> None:
    ax = plot_outlines(cells(), FakeSlide(), ax=Figure().add_subplot(), window_um=(12, 0, 20, 20))
    assert len(ax.images) == 1
    assert ax.get_xlim() == (12, 32)
    assert len(lines(ax).get_paths()) == 2  # the first cell ends at 6.5 µm


def test_colours_by_column_area_or_value() -> None:
    by_type = plot_outlines(cells(), ax=Figure().add_subplot(), color="type")
    assert [text.get_text() for text in by_type.get_legend().get_texts()] == ["a", "b"]
    colours = lines(by_type).get_colors()
    assert (colours[0] == colours[2]).all() and (colours[0] != colours[1]).any()
    by_number = plot_outlines(cells(), ax=Figure().add_subplot(), color="probability")
    assert lines(by_number).get_array().tolist() == [0.2, 0.5, 0.9]
    assert lines(plot_outlines(cells(), ax=Figure().add_subplot(), color="area")).get_array() is not None
    red = plot_outlines(cells(), ax=Figure().add_subplot(), color="red", linewidth=2.5)
    assert lines(red).get_colors().tolist() == [list(to_rgba("red"))]
    assert lines(red).get_linewidths() == [2.5]


def test_given_axes_keep_their_limits() -> None:
    ax = Figure().add_subplot()
    ax.set_xlim(0, 3)
    assert plot_outlines(cells(), ax=ax) is ax
    assert ax.get_xlim() == (0, 3)


def test_no_entities_draw_nothing() -> None:
    ax = plot_outlines(Entities.empty("cell", 0.5), FakeSlide(), color="area")
    assert lines(ax).get_paths() == []


def test_errors_say_what_is_wanted() -> None:
    with pytest.raises(TypeError, match="entities must be Entities, found ndarray"):
        plot_outlines(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="colour"):
        plot_outlines(cells(), color="no such column")
    with pytest.raises(ValueError, match="one value for each entity"):
        plot_outlines(cells(), color=[1.0])
