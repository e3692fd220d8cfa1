"""Through several formats in a row: ids, order, types, columns, colours and masks survive as far as each holds them."""

import importlib.util
import uuid

import numpy as np
import pytest

from histograph.formats import FORMATS, convert_file, read_entities, write_entities
from histograph.formats.ann_entities import entities_from_anndata

from .scenes import assert_same, cells

pytestmark = pytest.mark.filterwarnings("ignore")  # of spatialdata's own dependencies

HAS = {name: importlib.util.find_spec(name) is not None for name in ("anndata", "spatialdata")}
OUTLINES = ["geojson", "geojson.gz", *(["spatialdata"] if HAS["spatialdata"] else [])]
TABLES = [*(["h5ad"] if HAS["anndata"] else []), "parquet", "csv"]


def full(ids=False):
    """Cells with holes and parts, labels far apart, types with colours, numbers, words, and ids of another program."""
    source = cells()
    source.columns["note"] = np.array([f"n {k % 7}" if k % 3 else "" for k in range(len(source))])
    source.columns["Area µm^2"] = np.where(np.arange(len(source)) % 5, source.area, np.nan)
    source.parameters["type_colors"] = {"tumour": [200, 0, 10], "stroma: α": [0, 255, 7]}
    if not ids:
        return source
    rng = np.random.default_rng(3)
    names = np.array([str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(len(source))])
    columns = {"id": names, **source.columns}
    return type(source)(
        **{**vars(source), "columns": columns, "label": np.arange(1, len(source) + 1)}
    )  # read from a file with ids of its own, labels are the rows


def assert_table(source, found):
    for name in ("label", "centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(source, name), getattr(found, name), err_msg=name)
    assert set(found.columns) == set(source.columns)
    for name, column in source.columns.items():
        np.testing.assert_array_equal(column, found.columns[name], err_msg=name)
        assert column.dtype.kind == found.columns[name].dtype.kind, name


@pytest.mark.parametrize("ids", [False, True])
def test_outlines_then_tables(tmp_path, ids):
    source = full(ids)
    found = source
    for step, name in enumerate([*OUTLINES, OUTLINES[0], *OUTLINES[::-1]]):
        found = read_entities(write_entities(found, tmp_path / f"{step}{FORMATS[name]}", name, mpp=0.25))
        assert_same(source, found)
        assert found.extent_um == source.extent_um, name
        assert found.parameters["type_colors"] == source.parameters["type_colors"], name
        assert [c.dtype.kind for c in found.columns.values()] == [
            source.columns[c].dtype.kind for c in found.columns
        ]
    for step, name in enumerate([*TABLES, *TABLES[::-1]]):
        found = read_entities(write_entities(found, tmp_path / f"t{step}{FORMATS[name]}", name))
        assert_table(source, found)
        assert found.masks is None


@pytest.mark.parametrize("first", [*OUTLINES, *TABLES])
@pytest.mark.parametrize("second", [*OUTLINES, *TABLES])
def test_every_pair_of_files(tmp_path, first, second):
    if first in TABLES and second == "spatialdata":
        pytest.skip("rectangles: see test_spatial_data")
    source = full().select(slice(0, 9))
    path = write_entities(source, tmp_path / f"a{FORMATS[first]}", first, mpp=0.25)
    target, count = convert_file(path, tmp_path / "out", second, mpp=0.25)
    assert count == 9
    found = read_entities(target)
    if first in OUTLINES and second in OUTLINES:
        assert_same(source, found)
    elif second in TABLES:
        assert_table(source, found)
    else:  # rectangles, drawn on pixels: GeoJSON says "cell", so that they have masks again
        np.testing.assert_array_equal(found.label, source.label)
        np.testing.assert_array_equal(found.columns["type"], source.columns["type"])


def test_order_of_ids_is_that_of_the_source_in_every_table(tmp_path):
    source = full(ids=True)
    assert source.columns["id"].tolist() != sorted(source.columns["id"].tolist())
    for name in TABLES:
        found = read_entities(write_entities(source, tmp_path / f"a{FORMATS[name]}", name))
        assert found.columns["id"].tolist() == source.columns["id"].tolist(), name


def test_types_that_are_numbers_stay_words(tmp_path):
    """HoVer-Net's types are numbers; a table must not make measurements of them."""
    source = cells(9)
    source.columns["type"] = np.array(["1", "2", ""] * 3)[: len(source)]
    for name in ("csv", "parquet", "geojson"):
        found = read_entities(write_entities(source, tmp_path / f"a{FORMATS[name]}", name, mpp=0.25))
        assert found.columns["type"].tolist() == source.columns["type"].tolist(), name


def test_numbers_that_one_type_cannot_hold_are_exact(tmp_path):
    pytest.importorskip("anndata")
    source = cells(9)
    source.columns["far"] = np.arange(len(source)) + 2**60 + 1
    source.columns["third"] = np.full(len(source), 1 / 3)
    found = read_entities(write_entities(source, tmp_path / "a.h5ad", "h5ad"))
    assert_table(source, found)


def test_tables_of_others_as_entities():
    anndata = pytest.importorskip("anndata")
    table = anndata.AnnData(X=np.array([[1.5], [2.5]], np.float32))
    table.obs_names, table.var_names = ["b", "a"], ["gene"]
    with pytest.raises(ValueError, match=r"obsm\['spatial'\]"):
        entities_from_anndata(table, unit="um")
    table.obsm["spatial"] = np.array([[2, 4], [6, 8]])
    table.obs["type"] = ["x", None]
    for options, message in [
        ({}, "unit: expected 'um' or 'px'"),
        ({"unit": "px"}, "give mpp="),
        ({"unit": "um", "mpp": 0.5}, "leave it out"),
    ]:
        with pytest.raises(ValueError, match=message):
            entities_from_anndata(table, **options)
    found = entities_from_anndata(table, mpp=0.5, unit="px", kind="tissue")
    assert found.kind == "tissue" and found.centroid.tolist() == [[1, 2], [3, 4]]
    assert found.columns["id"].tolist() == ["b", "a"] and found.columns["type"].tolist() == ["x", ""]
    assert found.columns["gene"].tolist() == [1.5, 2.5]
    table.obs_names = ["7", "7"]
    with pytest.raises(ValueError, match="row 2: '7' comes twice"):
        entities_from_anndata(table, unit="um")
    table.obs_names = ["9", "7"]
    assert entities_from_anndata(table, unit="um").columns["gene"].tolist() == [2.5, 1.5]
    table.obsm["spatial"] = np.array([[np.nan, 4], [6, 8]])
    with pytest.raises(ValueError, match="row 1: expected finite"):
        entities_from_anndata(table, unit="um")
    table.obsm["spatial"] = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"shape \(N, 2\)"):
        entities_from_anndata(table, unit="um")
    table.obs["gene"] = [1, 2]
    table.obsm["spatial"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match="'gene' comes twice"):
        entities_from_anndata(table, unit="um")


def test_broken_files(tmp_path):
    pytest.importorskip("anndata")
    whole = write_entities(cells(5), tmp_path / "a.h5ad", "h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5ad is damaged"):
        read_entities(tmp_path / "cut.h5ad")
    with pytest.raises(ValueError, match="check_rings: is for GeoJSON"):
        read_entities(tmp_path / "a.h5ad", check_rings=False)
    if HAS["spatialdata"]:
        with pytest.raises(FileNotFoundError, match="no such folder"):
            read_entities(tmp_path / "a.zarr")
        (tmp_path / "a.zarr").mkdir()
        (tmp_path / "a.zarr" / "x").write_text("x")
        with pytest.raises(ValueError, match=r"a\.zarr"):
            read_entities(tmp_path / "a.zarr")
        path = write_entities(cells(5), tmp_path / "a.zarr", "spatialdata")  # replaces it
        assert len(read_entities(path)) == 5
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "a.zarr", "cut.h5ad"]
        (tmp_path / "b.zarr").write_text("x")
        with pytest.raises(FileExistsError, match="it is a file"):
            write_entities(cells(5), tmp_path / "b.zarr", "spatialdata")
