import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from histograph.evaluation import log_rank
from histograph.plotting import plot_survival

TIME, EVENT = [2.0, 3.0, 3.0, 5.0, 8.0, 9.0], [1, 1, 0, 1, 0, 1]


def _ax() -> Axes:
    return Figure(figsize=(5, 4), layout="constrained").add_subplot()


def _kaplan_meier(time: np.ndarray, event: np.ndarray, at: float) -> float:
    """Product over event times of one minus deaths by subjects at risk, and nothing else."""
    value = 1.0
    for t in np.unique(time[event]):
        if t <= at:
            value *= 1 - (event & (time == t)).sum() / (time >= t).sum()
    return value


def _texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_gid() == "at risk"]


def test_curve_has_the_values_computed_by_hand() -> None:
    ax = plot_survival(TIME, EVENT, ax=_ax())
    curve = dict(zip(ax.lines[0].get_xdata(), ax.lines[0].get_ydata()))
    # 6 at risk at 2; 5 at 3, of whom one is censored there; 3 at 5; 1 at 9
    assert curve[0.0] == 1
    assert curve[2.0] == pytest.approx(5 / 6)
    assert curve[3.0] == pytest.approx(5 / 6 * 4 / 5)
    assert curve[5.0] == pytest.approx(5 / 6 * 4 / 5 * 2 / 3)
    assert curve[8.0] == curve[5.0] and curve[9.0] == 0
    assert ax.lines[0].get_drawstyle() == "steps-post"
    assert ax.get_legend() is None


def test_curves_of_groups_equal_the_product_and_lie_in_their_bands() -> None:
    rng = np.random.default_rng(0)
    time, event = np.ceil(rng.exponential(20, 90)), rng.random(90) < 0.6
    group = np.array(["a", "b", "c"])[np.arange(90) % 3]
    ax = plot_survival(time, event, group, ax=_ax())
    for i, name in enumerate("abc"):
        rows, line, marks, band = group == name, ax.lines[2 * i], ax.lines[2 * i + 1], ax.collections[i]
        for x, y in zip(line.get_xdata(), line.get_ydata()):
            assert y == pytest.approx(_kaplan_meier(time[rows], event[rows], x))
        assert np.array_equal(marks.get_xdata(), np.unique(time[rows & ~event]))
        for x, y in zip(marks.get_xdata(), marks.get_ydata()):
            assert y == pytest.approx(_kaplan_meier(time[rows], event[rows], x))
        inside = band.get_paths()[0].vertices[:, 1]
        assert 0 <= inside.min() <= line.get_ydata().min() and inside.max() <= 1
        assert to_hex(line.get_color()) == to_hex(marks.get_color()) == to_hex(band.get_facecolor()[0])


def test_wider_confidence_is_a_wider_band_and_none_is_no_band() -> None:
    def area(confidence: float | None) -> float:
        bands = plot_survival(TIME, EVENT, ax=_ax(), confidence=confidence).collections
        corners = [band.get_paths()[0].vertices.T for band in bands]
        return sum(0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) for x, y in corners)

    assert area(None) == 0 < area(0.5) < area(0.95)


def test_numbers_at_risk_are_counted_at_each_tick() -> None:
    group = np.array(["x", "x", "y", "y", "y", "x"])
    ax = plot_survival(TIME, EVENT, group, ax=_ax())
    ticks = [t for t in ax.get_xticks() if 0 <= t <= ax.get_xlim()[1]]
    expected = ["number at risk"]
    for name in "xy":
        expected += [name, *(str(sum(t >= tick for t in np.array(TIME)[group == name])) for tick in ticks)]
    assert _texts(ax) == expected and expected[2] == "3"
    alone = plot_survival(TIME, EVENT, ax=_ax())
    assert _texts(alone)[:2] == ["number at risk", "6"]
    assert _texts(plot_survival(TIME, EVENT, group, ax=_ax(), at_risk=False)) == []


def test_nothing_lies_outside_the_figure_or_on_top_of_each_other() -> None:
    group = ["a rather long name"] * 3 + ["b"] * 3
    ax = plot_survival(TIME, EVENT, group, ax=_ax(), title="t")
    figure = ax.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    table = [t.get_window_extent(renderer) for t in ax.texts]
    for box in table:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0
    label = ax.xaxis.label.get_window_extent(renderer)
    assert all(box.y1 <= label.y0 + 1 for box in table)
    assert not any(a.overlaps(b) for i, a in enumerate(table) for b in table[:i])


def test_legend_tells_events_and_the_test() -> None:
    rng = np.random.default_rng(1)
    time, event, group = rng.exponential(10, 40), rng.random(40) < 0.7, np.arange(40) % 2
    legend = plot_survival(time, event, group, ax=_ax()).get_legend()
    p = log_rank(time, event, group).p_value
    assert float(legend.get_title().get_text().removeprefix("log-rank p = ")) == pytest.approx(p, abs=0.006)
    found = [text.get_text() for text in legend.get_texts()]
    assert found == [f"{g} ({event[group == g].sum()} of 20 with event)" for g in (0, 1)]
    apart = plot_survival(time + 100 * group, event, group, ax=_ax()).get_legend()
    assert apart.get_title().get_text() == "log-rank p < 0.001"


def test_censored_only_groups_stay_at_one() -> None:
    ax = plot_survival(TIME, [1, 1, 1, 0, 0, 0], ["a"] * 3 + ["b"] * 3, ax=_ax())
    assert set(ax.lines[2].get_ydata()) == {1.0}
    assert "log-rank p" in ax.get_legend().get_title().get_text()
    none = plot_survival(TIME, np.zeros(6), ["a"] * 3 + ["b"] * 3, ax=_ax())
    assert none.get_legend().get_title().get_text() == ""
    plot_survival([0.0], [0], ax=_ax())


def test_order_of_groups_is_sorted_given_or_of_categories() -> None:
    group = ["low", "high", "low", "high", "low", "high"]

    def drawn(**options: object) -> list[str]:
        legend = plot_survival(TIME, EVENT, options.pop("group", group), ax=_ax(), **options).get_legend()
        return [text.get_text().split()[0] for text in legend.get_texts()]

    assert drawn() == ["high", "low"]
    assert drawn(order=["low", "high"]) == ["low", "high"]
    assert drawn(group=pd.Categorical(group, ["none", "low", "high"])) == ["low", "high"]
    first = plot_survival(TIME, EVENT, group, ax=_ax(), order=["low", "high"])
    assert len(first.lines[1].get_xdata()) == 2  # the censored among the low, not the high


def test_units_and_ticks() -> None:
    for unit in ("days", "months", "years"):
        assert plot_survival(TIME, EVENT, ax=_ax(), unit=unit).get_xlabel() == f"time ({unit})"
    years = plot_survival(np.array(TIME) * 10, EVENT, ax=_ax())
    assert np.allclose(np.diff(years.get_xticks()), 12)


def test_a_new_figure_is_made_and_settings_are_left_alone() -> None:
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    ax = plot_survival(TIME, EVENT)
    assert dict(matplotlib.rcParams) == before
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "weeks"}, 'unit must be "days"'),
        ({"confidence": 95}, "confidence must be between 0 and 1"),
        ({"event": [1, 2, 3, 4, 5, 6]}, "event must be 1"),
        ({"event": [1]}, "event must have one entry"),
        ({"group": ["a"]}, "group must have one entry for each subject: expected 6, found 1"),
        ({"group": [None] * 6}, "6 missing of 6"),
        ({"order": ["a"]}, "order needs group"),
        ({"group": list("ababab"), "order": ["a"]}, r"expected \['a', 'b'\], found \['a'\]"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_survival(**{"time": TIME, "event": EVENT, "ax": _ax(), **change})


def test_without_lifelines_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lifelines", None)
    with pytest.raises(ImportError, match=r"histograph\[survival\]"):
        plot_survival(TIME, EVENT, ax=_ax())
