import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histograph.plotting import plot_training


def _ax() -> Axes:
    return Figure().add_subplot()


@pytest.fixture
def log() -> pd.DataFrame:
    epoch = np.arange(3, 13)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": epoch * 10,
            "rank": 1.0 / epoch,
            "loss": 3.0 / epoch,
            "lr": 1e-3,
            "seconds": 2.0,
        }
    )


def test_losses_are_drawn_against_the_epoch(log: pd.DataFrame) -> None:
    ax = plot_training(log, ax=_ax(), title="run")
    assert [line.get_label() for line in ax.lines] == ["loss", "rank"]
    assert np.array_equal(ax.lines[0].get_xydata(), log[["epoch", "loss"]])
    assert len(ax.get_legend().get_texts()) == 2 and ax.get_title() == "run"


def test_columns_scale_and_index(log: pd.DataFrame) -> None:
    ax = plot_training(log.drop(columns="epoch"), columns=["lr"], log=True, ax=_ax())
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "lr" and ax.get_legend() is None
    assert np.array_equal(ax.lines[0].get_xdata(), np.arange(10))


def test_one_epoch_is_a_dot(log: pd.DataFrame) -> None:
    assert plot_training(log[:1], ax=_ax()).lines[0].get_marker() == "o"


def test_new_figure_is_closed_by_the_caller(log: pd.DataFrame) -> None:
    before = plt.get_fignums()
    plt.close(plot_training(log).figure)
    assert plt.get_fignums() == before


def test_mistakes_are_named(log: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        plot_training(log[:0], ax=_ax())
    with pytest.raises(ValueError, match=r"found \['kl'\]"):
        plot_training(log, columns=["kl"], ax=_ax())
    with pytest.raises(ValueError, match="no loss to draw"):
        plot_training(log[["epoch", "lr"]], ax=_ax())
