import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from histograph.evaluation import compare, knn_probe
from histograph.plotting import plot_comparison


def _ax() -> Axes:
    return Figure().add_subplot()


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 30)
    z = rng.normal(size=(60, 2))
    arms = {"noise": z, "signal": z + y[:, None]}
    return compare(arms, y, probe="knn", metrics=("accuracy", "auc"), n_boot=50)


def test_dots_and_intervals_are_the_numbers(frame: pd.DataFrame) -> None:
    ax = plot_comparison(frame, ax=_ax())
    for metric, lines, dots in zip(("accuracy", "auc"), ax.collections, ax.lines):
        rows = frame[frame["metric"] == metric]
        assert isinstance(lines, LineCollection) and dots.get_label() == metric
        assert np.allclose(dots.get_xdata(), rows["value"])
        assert np.allclose(np.array(lines.get_segments())[:, :, 0], rows[["low", "high"]])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["noise", "signal"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_differences_have_a_line_at_zero(frame: pd.DataFrame) -> None:
    ax = plot_comparison(frame, "auc", difference=True, ax=_ax())
    assert np.allclose(ax.lines[0].get_xdata(), frame[frame["metric"] == "auc"]["difference"])
    assert ax.get_xlabel() == "difference in auc to noise"
    assert np.allclose(ax.lines[1].get_xdata(), 0)
    assert ax.get_legend() is None


def test_the_table_of_one_result_has_a_row_a_metric() -> None:
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 20)
    table = knn_probe(rng.normal(size=(40, 2)), y, n_boot=20).to_frame()
    ax = plot_comparison(table, ax=_ax())
    assert [text.get_text() for text in ax.get_yticklabels()] == ["accuracy", "f1", "auc"]
    assert len(plot_comparison(table, "auc", ax=_ax()).get_yticklabels()) == 1


def test_mistakes_are_named(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"metric must be one of \['accuracy', 'auc'\], found 'f1'"):
        plot_comparison(frame, "f1", ax=_ax())
    with pytest.raises(ValueError, match=r"lacks the columns \['low', 'high'\]"):
        plot_comparison(frame.drop(columns=["low", "high"]), ax=_ax())
