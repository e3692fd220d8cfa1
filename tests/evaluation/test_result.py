import numpy as np

from histograph.evaluation import linear_probe


def test_result_shows_itself_as_a_table_and_in_jupyter() -> None:
    rng = np.random.default_rng(0)
    y = np.tile(["a<b", "c"], 15)
    z = rng.normal(size=(30, 2)) + (y == "c")[:, None]
    result = linear_probe(z, y, groups=np.arange(30) // 2, n_boot=50, confidence=0.9)
    frame = result.to_frame()
    assert frame.columns.tolist() == ["metric", "value", "low", "high"]
    assert frame["metric"].tolist() == ["accuracy", "f1", "auc"]
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).all()
    html = result._repr_html_()
    assert "90 % interval" in html and "15 groups" in html and f"{frame['value'][2]:.3f}" in html
    assert len(html) < 5000
    assert repr(result).startswith("ProbeResult(linear probe, 30 samples, 15 groups, 2 classes: accuracy")
    assert result.replicates.shape == (50, 3)
    assert result.predictions["group"].tolist() == (np.arange(30) // 2).tolist()
