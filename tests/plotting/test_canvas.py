import numpy as np
import pytest
from matplotlib.figure import Figure

from histograph.plotting.canvas import check_window, choose_window, draw_slide, frame_window, nice_length

from .scenes import FakeSlide


def test_window_is_the_given_one_then_the_slide_then_the_points() -> None:
    pos = np.array([[10.0, 10.0], [20.0, 15.0]])
    assert choose_window((1, 2, 3, 4), FakeSlide(), pos) == (1, 2, 3, 4)
    assert choose_window(None, FakeSlide(), pos) == (0, 0, 100, 60)
    x, y, width, height = choose_window(None, None, pos)
    assert x < 10 and y < 10 and x + width > 20 and y + height > 15
    assert choose_window(None, None, np.zeros((0, 2)))[2:] == (1, 1)
    assert min(choose_window(None, None, np.ones((1, 2)))[2:]) > 0


@pytest.mark.parametrize("window", [(0, 0, 1), (0, 0, 0, 1), (0, 0, np.nan, 1), (0, 0, -1, 1)])
def test_bad_windows_are_named(window: tuple) -> None:
    with pytest.raises(ValueError, match="window_um must be"):
        check_window(window)


def test_a_path_is_no_slide() -> None:
    with pytest.raises(TypeError, match=r"found str.*open_slide"):
        choose_window(None, "slide.svs")


def test_image_lies_where_it_was_read_and_is_read_no_finer_than_needed() -> None:
    ax, slide = Figure().add_subplot(), FakeSlide()
    draw_slide(ax, slide, (10.0, 20.0, 40.25, 30.0))
    assert slide.reads[-1] == (10.0, 20.0, 40.25, 30.0, 0.5)
    assert np.allclose(ax.images[0].get_extent(), (10.0, 50.0, 50.0, 20.0))
    draw_slide(ax, slide, (0.0, 0.0, 20480.0, 1000.0))
    assert slide.reads[-1][-1] == 10.0
    assert max(ax.images[-1].get_array().shape) <= 2048


@pytest.mark.parametrize("limit", [0.3, 1.0, 4.99, 50.0, 123456.0])
def test_scale_bars_are_round(limit: float) -> None:
    length = nice_length(limit)
    assert limit / 2.5 - 1e-9 <= length <= limit
    assert f"{length:.0e}"[0] in "125"


def test_bar_or_ticks() -> None:
    for scalebar in (True, False):
        ax = Figure().add_subplot()
        frame_window(ax, (0.0, 0.0, 8000.0, 6000.0), scalebar, "slide")
        bars = [artist for artist in ax.artists if artist.get_gid() == "scalebar"]
        assert len(bars) == scalebar
        assert (len(ax.get_xticks()) > 0) != scalebar
        assert ax.get_xlabel() == ("" if scalebar else "x (µm)")
        assert ax.get_title() == "slide" and ax.get_aspect() == 1.0
        if scalebar:
            assert bars[0].txt_label.get_text() == "2 mm"
