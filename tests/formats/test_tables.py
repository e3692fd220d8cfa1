"""Tables of centroids: every number, word and id comes back, and units are never guessed."""

import numpy as np
import pandas as pd
import pytest

from histograph.features import FeatureTable, region_features
from histograph.formats import read_table, write_table
from histograph.graphs import example_graph

from .scenes import cells


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_round_trip(tmp_path, suffix):
    source = cells()
    source.columns["type"][1] = 'a, "b"\nc'
    source.columns["prob"][2] = np.nan
    again = read_table(write_table(source, tmp_path / f"t{suffix}"), raster_mpp=0.25)
    for name in ("label", "centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(source, name), getattr(again, name))
    assert again.masks is None and set(again.columns) == set(source.columns)
    for name, column in source.columns.items():
        np.testing.assert_array_equal(column, again.columns[name])
        assert again.columns[name].dtype.kind == column.dtype.kind
    empty = read_table(write_table(source.select([]), tmp_path / f"e{suffix}"))
    assert len(empty) == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_graphs_and_features(tmp_path, suffix):
    graph = example_graph()
    again = read_table(write_table(graph, tmp_path / f"g{suffix}", node_type="cell"))
    order = graph["cell"].id.argsort()
    np.testing.assert_array_equal(again.label, graph["cell"].id[order])
    np.testing.assert_allclose(again.centroid, graph["cell"].pos[order])
    for column, name in enumerate(graph["cell"].feature_names):
        np.testing.assert_array_equal(again.columns[name].astype(np.float32), graph["cell"].x[order, column])
    source = cells(typed=False)
    table = region_features(source.instance_map(), mpp=0.25, groups=("shape",))
    shuffled = FeatureTable(table.values[::-1], table.names, table.units, table.label[::-1])
    again = read_table(write_table(source, tmp_path / f"f{suffix}", features=shuffled))
    assert "perimeter_um" in again.columns
    np.testing.assert_array_equal(again.columns["perimeter_um"].astype(np.float32), table["perimeter"])
    with pytest.raises(ValueError, match="features: some entities have no row"):
        write_table(source, tmp_path / "x.csv", features=FeatureTable([[1.0]], ["a"], ["1"], [3]))


def test_pixels_and_words_as_ids(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x_px,y_px,id,note\n10,20,b,\n30,40,a,x\n")
    read = read_table(path, mpp=(0.5, 0.25))
    assert read.centroid.tolist() == [[5, 5], [15, 10]] and read.columns["id"].tolist() == ["b", "a"]
    assert read.label.tolist() == [1, 2] and read.columns["note"].tolist() == ["", "x"]
    again = read_table(write_table(read, tmp_path / "again.csv"))
    assert again.columns["id"].tolist() == ["b", "a"]
    path.write_text("x_um,y_um,id\n1,1,9\n2,2,4\n")
    assert read_table(path).label.tolist() == [4, 9] and read_table(path).centroid[0].tolist() == [2, 2]
    path.write_text("x_um,y_um\n1,1\n2,2\n")
    assert read_table(path).label.tolist() == [1, 2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "expected centroids in columns x_um"),
        ("x,y\n1,2\n", "so that their unit is known; found x, y"),
        ("x_um,y_px\n1,2\n", "in µm and in pixels"),
        ("x_um,z\n1,2\n", "y_um is missing"),
        ("x_um,y_um\n1,2\n3\n", "damaged or no table.*#3"),
        ("x_um,y_um\n1,2\n3,\n", "row 2: y_um is missing"),
        ("x_um,y_um\n1,2\n3,far\n", "row 2: y_um is 'far'"),
        ("x_um,y_um,id\n1,2,5\n3,4,6\n3,4,5\n", "row 3: the id 5 is that of row 1 too"),
        ("x_um,y_um,a,a\n1,2,5,6\n", "'a' comes twice"),
        ("x_px,y_px\n1,2\n", "mpp"),
        ("x_um,y_um,id\n1,2,5\n3,4,\n", "row 2: the id is missing"),
        ("x_um,y_um,id\n1,2,a\n3,4,\n", "row 2: the id is missing"),
        ("x_um,y_um,area_um2\n1,2,5\n3,4,\n", "row 2: area_um2 is missing"),
        ("x_um,y_um,x_min_px,y_min_px,x_max_px,y_max_px\n1,2,0,0,3,4\n", "in µm and in pixels"),
        ("x_um,y_um,x_min_um,y_min_um,x_max_um\n1,2,0,0,3\n", "y_max_um of the bounding box is missing"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        read_table(tmp_path / "bad.csv")


def test_ids_and_types_are_what_was_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x_um,y_um,id,type\n1,1,007,1\n2,2,12,\n")
    read = read_table(path)
    assert read.columns["id"].tolist() == ["007", "12"] and read.columns["type"].tolist() == ["1", ""]
    path.write_text("x_um,y_um,id,type\n1,1,70,1\n2,2,12,2\n")
    assert read_table(path).label.tolist() == [12, 70] and "id" not in read_table(path).columns
    assert read_table(path).columns["type"].tolist() == ["2", "1"]
    frame = pd.DataFrame({"x_um": [1.0, 2], "y_um": [1.0, 2], "id": [70.0, 12.0], "type": [1.0, np.nan]})
    frame.to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read.label.tolist() == [12, 70] and read.columns["type"].tolist() == ["", "1"]
    frame.assign(id=[-1, 0.5]).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").columns["id"].tolist() == ["-1.0", "0.5"]
    path.write_text("x_px,y_px,x_min_px,y_min_px,x_max_px,y_max_px\n4,8,2,4,6,12\n")
    assert read_table(path, mpp=(0.5, 0.25)).bbox.tolist() == [[1, 1, 3, 3]]


def test_wrong_arguments(tmp_path):
    source = cells(3)
    whole = write_table(source, tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.parquet is damaged"):
        read_table(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="leave it out"):
        read_table(tmp_path / "a.parquet", mpp=0.5)
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        write_table(source, tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match="is for graphs"):
        write_table(source, tmp_path / "b.csv", node_type="cell")
    source.columns["x_um"] = np.zeros(len(source))
    with pytest.raises(ValueError, match="'x_um' would come twice"):
        write_table(source, tmp_path / "b.csv")
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("mark, name", [(";", "semicolons"), ("\t", "tabs")])
def test_columns_parted_in_another_way(tmp_path, mark, name):
    path = tmp_path / "t.csv"
    path.write_text("id,x_um,y_um\n1,1.5,2.5\n".replace(",", mark).replace(".", ","))
    with pytest.raises(ValueError, match=rf"t\.csv: its columns are parted by {name}; expected commas"):
        read_table(path)
