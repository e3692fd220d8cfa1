import numpy as np
import pandas as pd
import pytest

from histograph.evaluation import bootstrap_interval, concordance_index, score_risks, survival_probe


def _table(n: int = 50, repeats: int = 1, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    trait, event = rng.normal(size=n), rng.random(n) < 0.7
    time = rng.exponential(np.exp(-trait))
    parts = [
        pd.DataFrame(
            {
                "repeat": r,
                "fold": rng.integers(0, 3, n),
                "group": [f"p{i}" for i in range(n)],
                "time": time,
                "event": event,
                "risk": trait + rng.normal(size=n),
            }
        )
        for r in range(repeats)
    ]
    return pd.concat(parts, ignore_index=True)


def test_score_and_interval_are_those_of_the_library_over_resampled_patients() -> None:
    table = _table()
    result = score_risks(table.drop(columns=["repeat", "fold"]), n_boot=400)
    columns = table["risk"], table["time"], table["event"]
    value, low, high = bootstrap_interval(concordance_index, *columns, n_boot=400)
    assert result.metrics["c_index"] == result.metrics["c_index_pooled"]
    # the same draws; only a patient drawn twice could make a difference, and he is no pair with himself
    assert result.metrics["c_index"] == pytest.approx((value, low, high))
    assert (result.n, result.n_groups, result.n_events) == (50, 50, int(table["event"].sum()))


def test_repeats_are_averaged_on_the_same_draws() -> None:
    table = _table(repeats=3)
    singles = [score_risks(part.drop(columns="repeat"), n_boot=60) for _, part in table.groupby("repeat")]
    both = score_risks(table, n_boot=60)
    for name in ("c_index", "c_index_pooled"):
        assert both.metrics[name][0] == pytest.approx(np.mean([s.metrics[name][0] for s in singles]))
        mean = np.mean([s.replicates[name] for s in singles], axis=0)
        assert np.allclose(both.replicates[name], mean)


def test_the_order_of_rows_does_not_matter_inside_a_repeat() -> None:
    table = _table(repeats=2)
    second = table[table["repeat"] == 1].sample(frac=1, random_state=0)
    moved = pd.concat([second, table[table["repeat"] == 0]])
    # patients are drawn by their place in the first repeat, which stays
    assert (
        score_risks(moved, n_boot=50).metrics["c_index"][0]
        == score_risks(table, n_boot=50).metrics["c_index"][0]
    )
    again = pd.concat([table[table["repeat"] == 0], second])
    assert score_risks(again, n_boot=50).metrics == score_risks(table, n_boot=50).metrics


def test_folds_share_no_scale() -> None:
    table = _table()
    shifted = table.assign(risk=table["risk"] + 100 * table["fold"])
    plain, moved = (score_risks(t, n_boot=30) for t in (table, shifted))
    assert moved.metrics["c_index"] == plain.metrics["c_index"]
    assert abs(moved.metrics["c_index_pooled"][0] - plain.metrics["c_index_pooled"][0]) > 0.05
    expected = [concordance_index(t["risk"], t["time"], t["event"]) for _, t in table.groupby("fold")]
    assert moved.per_fold["c_index"].tolist() == pytest.approx(expected)


def test_the_risks_of_a_probe_score_as_the_probe() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 2))
    time, event = rng.exponential(np.exp(-z[:, 0])), rng.random(60) < 0.7
    probe = survival_probe(z, time, event, repeats=2, n_boot=80, seed=5)
    assert score_risks(probe.predictions, n_boot=80, seed=5).metrics == probe.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="risk"), r"lack the columns \['risk'\]"),
        (lambda t: t.assign(risk=np.nan), "risk must be complete"),
        (lambda t: t.assign(event=2), "event must be 1"),
        (lambda t: t.assign(group=None), "found 40 rows with a gap"),
        (lambda t: t.iloc[1:], r"once in each of 2 repeats, found 1 rows of group p0 \(1 such groups\)"),
        (lambda t: t.assign(group="p"), "once in each of 2 repeats, found 40 rows of group p"),
        (lambda t: t.assign(repeat=0), "once in each of 1 repeats, found 2 rows"),
        (lambda t: t.assign(time=np.arange(40)), "must be the same in all repeats, found group p0"),
    ],
)
def test_mistakes_are_named(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_risks(change(_table(n=20, repeats=2)))
    with pytest.raises(ValueError, match="n_boot"):
        score_risks(_table(), n_boot=0)
