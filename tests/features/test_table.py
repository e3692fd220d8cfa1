import numpy as np
import pytest

from histograph.features import FeatureTable


def table(label=(3, 1)):
    return FeatureTable(np.arange(6.0).reshape(2, 3), ["a", "b", "c"], ["µm", "1", "OD"], np.array(label))


def test_types_and_columns():
    t = table()
    assert t.values.dtype == np.float32 and t.label.dtype == np.int64 and len(t) == 2
    assert t["b"].tolist() == [1, 4]
    assert t.select(["c", "a"]).values.tolist() == [[2, 0], [5, 3]]
    assert t.select([]).values.shape == (2, 0)


def test_frame_keeps_labels_and_units():
    frame = table().to_frame()
    assert frame.index.tolist() == [3, 1] and frame.index.name == "label"
    assert frame.loc[1, "c"] == 5 and frame.attrs["units"] == {"a": "µm", "b": "1", "c": "OD"}
    frame.loc[1, "c"] = 9
    assert table()["c"][1] == 5


def test_concatenate_rows_and_columns():
    rows = FeatureTable.concatenate([table(), table((7, 8))])
    assert rows.label.tolist() == [3, 1, 7, 8] and rows.values.shape == (4, 3)
    other = FeatureTable([[1], [2]], ["d"], ["1"], [3, 1])
    columns = FeatureTable.concatenate([table(), other], axis=1)
    assert columns.names == ["a", "b", "c", "d"] and columns.units[-1] == "1"
    with pytest.raises(ValueError, match="unique"):
        FeatureTable.concatenate([table(), table()])
    with pytest.raises(ValueError, match="same label"):
        FeatureTable.concatenate([table(), table((1, 3))], axis=1)
    with pytest.raises(ValueError, match="same names"):
        FeatureTable.concatenate([table(), other])
    with pytest.raises(ValueError, match="at least one"):
        FeatureTable.concatenate([])
    with pytest.raises(ValueError, match="axis"):
        FeatureTable.concatenate([table()], axis=2)


@pytest.mark.parametrize(
    ("values", "names", "units", "label", "message"),
    [
        (np.zeros(3), ["a"], ["1"], [1, 2, 3], "shape"),
        (np.zeros((2, 1)), ["a"], ["1"], [1], "label"),
        (np.zeros((2, 1)), ["a", "b"], ["1"], [1, 2], "names and units"),
        (np.zeros((2, 2)), ["a", "a"], ["1", "1"], [1, 2], "unique"),
        (np.zeros((2, 1)), ["a"], ["1"], [1, 1], "unique"),
        (np.array([[0.0], [np.nan]]), ["a"], ["1"], [4, 5], "column 'a' of entity 5"),
        (np.array([[1e300]]), ["a"], ["1"], [4], "finite"),
    ],
)
def test_wrong_tables_are_refused(values, names, units, label, message):
    with pytest.raises(ValueError, match=message):
        FeatureTable(values, names, units, label)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="real"):
        FeatureTable([["x"]], ["a"], ["1"], [1])
    with pytest.raises(TypeError, match="integers"):
        FeatureTable([[1.0]], ["a"], ["1"], [1.5])
    with pytest.raises(ValueError, match="not in this table"):
        table().select(["z"])
    with pytest.raises(ValueError, match="sequence"):
        table().select("a")


def test_html_of_full_and_empty_tables():
    assert "2 entities" in table()._repr_html_() and "µm" in table()._repr_html_()
    assert "0 entities" in FeatureTable(np.zeros((0, 1)), ["<a>"], ["1"], [])._repr_html_()
