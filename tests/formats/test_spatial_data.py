"""SpatialData: outlines, labels and the table come back; what is not known is asked for."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("spatialdata")
pytestmark = pytest.mark.filterwarnings("ignore")  # of spatialdata's own dependencies

from histograph.entities import patches  # noqa: E402
from histograph.formats import from_spatialdata, to_spatialdata  # noqa: E402
from histograph.graphs import build_graph  # noqa: E402
from histograph.slides import open_slide  # noqa: E402

from .scenes import assert_same, cells  # noqa: E402


def test_round_trip(tmp_path):
    import spatialdata

    source = cells()
    data = to_spatialdata(source, labels=True)
    again = from_spatialdata(data)
    assert_same(source, again, columns=False)
    np.testing.assert_array_equal(again.columns["type"], source.columns["type"])
    np.testing.assert_array_equal(again.columns["count"], source.columns["count"])
    assert_same(source, from_spatialdata(data, "cells_labels"), columns=False)
    data.write(tmp_path / "a.zarr")
    stored = from_spatialdata(spatialdata.read_zarr(tmp_path / "a.zarr"))
    assert_same(source, stored, columns=False)
    np.testing.assert_array_equal(stored.columns["type"], source.columns["type"])


def test_the_table_is_joined_on_ids():
    # field bug E.10: elsewhere nodes and features are matched by position
    source = cells()
    data = to_spatialdata(source)
    order = np.random.default_rng(0).permutation(len(source))
    table, frame = data.tables["table"], data.shapes["cells"]
    del data.tables["table"]
    data.tables["table"] = table[order].copy()
    data.shapes["cells"] = frame.iloc[order[::-1]]
    assert_same(source, from_spatialdata(data))
    del data.tables["table"]
    data.tables["table"] = table[order[1:]].copy()
    with pytest.raises(ValueError, match="no row for 1 of"):
        from_spatialdata(data)


def test_points_have_no_shapes(tmp_path):
    points = replace(cells(5), masks=None, bbox=np.tile(cells(5).centroid, 2))
    with pytest.raises(ValueError, match="5 of 5 have no extent, first label"):
        to_spatialdata(points)


def test_graph_and_patches():
    slide = open_slide(np.full((200, 200, 3), 90, np.uint8), mpp=0.25, slide_id="s1")
    source = cells()
    graph = build_graph(slide, {"cell": source}, features={"cell": ("shape",)}, mask=None, progress=False)
    data = to_spatialdata(source, graph)
    again = from_spatialdata(data)
    assert_same(source, again, columns=False)
    order = graph["cell"].id.argsort()
    column = graph["cell"].feature_names.index("area")
    np.testing.assert_array_equal(again.columns["area"], graph["cell"].x[order, column])
    with pytest.raises(ValueError, match="not the labels"):
        to_spatialdata(source.select([1, 2]), graph)
    grid = patches(slide, 12.3, mask=None)
    squares = from_spatialdata(to_spatialdata(grid, name="patches"))
    assert squares.masks is None and squares.kind == "patch"
    np.testing.assert_allclose(squares.bbox, grid.bbox)


def test_what_is_not_known_is_asked_for():
    data = to_spatialdata(cells(5))
    del data.attrs["histograph"]
    with pytest.raises(ValueError, match="unit_um"):
        from_spatialdata(data)
    assert_same(cells(5), from_spatialdata(data, unit_um=1.0, raster_mpp=0.25), columns=False)
    with pytest.raises(ValueError, match=r"element: expected one of \['cells'\]"):
        from_spatialdata(data, "nuclei")


def test_data_of_others(tmp_path):
    import pandas as pd
    import shapely
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData
    from spatialdata.models import Labels2DModel, ShapesModel, TableModel

    cross = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    data = SpatialData(
        shapes={"c": ShapesModel.parse(GeoDataFrame(geometry=[shapely.box(9, 9, 12, 12), cross]))}
    )
    with pytest.raises(ValueError, match="element 'c', id 1: a ring crosses itself"):
        from_spatialdata(data, unit_um=0.5)
    assert len(from_spatialdata(data, unit_um=0.5, check_rings=False)) == 2
    for options, name in (({"unit_um": -1}, "unit_um"), ({"unit_um": 0.5, "raster_mpp": 0}, "raster_mpp")):
        with pytest.raises(ValueError, match=f"{name}: expected a positive number"):
            from_spatialdata(data, **options)
    # labels of several scales, and what a table says of them
    labels = np.kron(np.array([[0, 5], [3, 0]]), np.ones((32, 32), np.int32)).astype(np.int32)
    obs = pd.DataFrame({"region": pd.Categorical(["l"] * 2), "at": [3, 5]}, index=["a", "b"])
    table = AnnData(X=np.array([[7.0], [8.0]], np.float32), obs=obs, var=pd.DataFrame(index=["g"]))
    table = TableModel.parse(table, region="l", region_key="region", instance_key="at")
    raster = Labels2DModel.parse(labels, dims=("y", "x"), scale_factors=[2])
    found = from_spatialdata(SpatialData(labels={"l": raster}, tables={"t": table}), unit_um=0.5)
    np.testing.assert_array_equal(found.instance_map(), labels)
    assert found.columns["g"].tolist() == [7.0, 8.0]


def test_what_cannot_be_written():
    from histograph.entities import Entities

    with pytest.raises(ValueError, match="at least one"):
        to_spatialdata(Entities.empty("cell", 0.5))
    source = cells()
    source.columns["region"] = np.arange(len(source))
    with pytest.raises(ValueError, match="'region' would come twice"):
        to_spatialdata(source)
