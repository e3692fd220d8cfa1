"""Files as other programs, and accidents, leave them: what is certain is read, the rest named with file and place."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from histograph.entities import Entities, from_instance_map
from histograph.formats import (
    read_cellvit,
    read_geojson,
    read_hovernet,
    read_instance_map,
    read_stardist,
    read_table,
    star_polygons,
    to_geojson,
    write_hovernet,
    write_table,
)
from histograph.formats.convert import read_entities, write_entities

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]


def feature(x=0, **members):
    ring = [[a + x, b] for a, b in SQUARE]
    properties = {"objectType": "detection", **members.pop("properties", {})}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


def nucleus(x=0, **members):
    return {"contour": [[a + x, b] for a, b in SQUARE[:4]], **members}


def four():
    return from_instance_map(np.kron(np.arange(1, 5).reshape(2, 2), np.ones((3, 3), int)), 0.5)


def refused(path, content, read, message, **options):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"{path.name}.*{message}"):
        read(path, **options)


@pytest.mark.parametrize(
    "features,message",
    [
        ([feature(id=[1])], r"feature 1 .*id: expected words or a number, found '\[1\]'"),
        ([feature(id=True)], "feature 1 .*id: expected"),
        ([feature(properties={"childObjects": 5})], "feature 1 .*childObjects: expected a list"),
        (
            [feature(), feature(9, properties={"measurements": [{"name": "a", "value": v} for v in (1, 2)]})],
            "feature 2 .*measurement 'a' comes twice",
        ),
        (
            [feature(properties={"measurements": {"k": 5}}), feature(9, properties={"metadata": {"k": "w"}})],
            "feature 2.*'k' holds words here and a number",
        ),
    ],
)
def test_features_that_cannot_be_told_apart(tmp_path, features, message):
    content = {"type": "FeatureCollection", "features": features}
    refused(tmp_path / "a.geojson", content, read_geojson, message, mpp=0.5)


@pytest.mark.parametrize(
    "own",
    [
        {"mpp": "x"},
        {"mpp": 0.5, "kind": "blob"},
        {"mpp": 0.5, "extent_um": [1]},
        {"mpp": 0.5, "extent_um": 5},
        {"mpp": 0.5, "raster_mpp": "x"},
        {"mpp": 0.5, "offset_px": [1, None]},
    ],
)
def test_a_damaged_head_of_ours_is_named(tmp_path, own):
    content = {"type": "FeatureCollection", "histograph": own, "features": [feature()]}
    member = list(own)[-1]
    refused(tmp_path / "a.geojson", content, read_geojson, rf"line 1, .*histograph\.{member}: expected")


def test_a_head_that_comes_late_is_used_or_refused(tmp_path, monkeypatch):
    from histograph.formats import geojson

    monkeypatch.setattr(geojson, "CHUNK", 2)
    path = tmp_path / "a.geojson"
    own = {"mpp": [0.5, 0.5], "offset_px": [10, 20]}
    for count in (1, 3):  # with three, the first two are placed before it is known where they lie
        content = {"features": [feature(9 * k) for k in range(count)], "histograph": own}
        path.write_text(json.dumps(content))
        if count == 1:
            assert read_geojson(path).centroid.tolist() == [[6.0, 11.0]]
        else:
            refused(path, content, read_geojson, "'histograph' comes after the features", mpp=0.5)
    late = {"nuc": {"1": nucleus(type=1)}, "histograph": {"mpp": 0.5, "types": {"1": "tumour"}}}
    refused(tmp_path / "h.json", late, read_hovernet, "'histograph' comes after the nuclei", mpp=0.5)
    late = {"cells": [nucleus(type=1)], "type_map": {"1": "tumour"}}
    refused(tmp_path / "c.json", late, read_cellvit, "'type_map' comes after the cells", mpp=0.5)
    assert read_cellvit(tmp_path / "c.json", 0.5, types={1: "t"}).columns["type"].tolist() == ["t"]


def test_members_that_come_twice(tmp_path):
    one = json.dumps([feature()])
    refused(
        tmp_path / "a.geojson",
        f'{{"features": {one}, "features": {one}}}',
        read_geojson,
        "'features' comes twice",
        mpp=0.5,
    )
    one = json.dumps({"1": nucleus()})
    refused(
        tmp_path / "h.json", f'{{"nuc": {one}, "nuc": {one}}}', read_hovernet, "'nuc' comes twice", mpp=0.5
    )
    one = json.dumps([nucleus()])
    refused(
        tmp_path / "c.json",
        f'{{"cells": {one}, "cells": {one}}}',
        read_cellvit,
        "'cells' comes twice",
        mpp=0.5,
    )


def test_metadata_never_takes_the_place_of_ids_and_types(tmp_path):
    path = tmp_path / "a.geojson"
    properties = {
        "metadata": {"id": "m", "type": "z", "name": "n"},
        "name": "x",
        "classification": {"name": "T"},
    }
    path.write_text(json.dumps([feature(id="a", properties=properties)]))
    found = read_geojson(path, 0.5)
    expected = {"id": "a", "type": "T", "name": "x"} | {
        f"metadata {k}": v for k, v in properties["metadata"].items()
    }
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        k: [v] for k, v in expected.items()
    }
    again = read_geojson(to_geojson(found, tmp_path / "b.geojson", 0.5))
    assert {name: column.tolist() for name, column in again.columns.items()} == {
        k: [v] for k, v in expected.items()
    }


def test_types_and_ids_of_contours(tmp_path):
    path = tmp_path / "a.json"
    for value, message in (
        (True, "type: expected a whole number"),
        (1.5, "type: expected a whole"),
        ("x", "type: "),
    ):
        refused(path, {"nuc": {"1": nucleus(type=value)}}, read_hovernet, f"nucleus 1 .*{message}", mpp=0.5)
    path.write_text(json.dumps({"nuc": {"3": nucleus(type="2"), "1": nucleus(9, type=2)}}))
    assert read_hovernet(path, 0.5, types=["a", "b", "c"]).columns["type"].tolist() == ["c", "c"]
    large = {"nuc": {str(2**63): nucleus()}}
    refused(path, large, read_hovernet, "id: expected a positive whole number", mpp=0.5)
    for identity in (2**63, True, "5"):
        content = {"cells": [nucleus(id=identity)]}
        refused(path, content, read_cellvit, "cell 1 .*id: expected a positive whole number", mpp=0.5)
    refused(
        path, {"type_map": {"a": "b"}, "cells": [nucleus()]}, read_cellvit, "types: expected a name", mpp=0.5
    )


@pytest.mark.parametrize("to", ["geojson", "hovernet", "cellvit", "stardist", "csv", "parquet", "h5ad"])
@pytest.mark.parametrize("types", [np.array([3, 1, 2, 1]), np.array([3.0, np.nan, 2.0, 1.0])])
def test_types_that_are_numbers_are_written_as_words(tmp_path, to, types):
    if to == "h5ad":
        pytest.importorskip("anndata")
    suffix = {"hovernet": "json", "cellvit": "json", "stardist": "npz"}.get(to, to)
    path = write_entities(replace(four(), columns={"type": types}), tmp_path / f"a.{suffix}", to, 0.5)
    words = ["" if value != value else str(int(value)) for value in types.tolist()]
    assert read_entities(path).columns["type"].tolist() == words


def test_names_that_look_like_one_number_stay_two(tmp_path):
    source = replace(four(), columns={"type": np.array(["01", "1", "1", "70000"])})
    found = read_hovernet(write_hovernet(source, tmp_path / "a.json"))
    assert found.columns["type"].tolist() == ["01", "1", "1", "70000"]
    assert len(star_polygons(source)["class_names"]) == 4  # no list of 70,000 names for one number


def test_ids_are_whole_and_single_before_anything_is_written(tmp_path):
    some = replace(four(), columns={"id": np.array(["b", "", "a", ""])})
    twice = replace(four(), columns={"id": np.array(["b", "c", "b", ""])})
    for to in ("csv", "parquet", "geojson"):
        path = tmp_path / f"a.{to}"
        ids = read_entities(write_entities(some, path, to, 0.5)).columns["id"]
        assert ids[[0, 2]].tolist() == ["b", "a"] and len(set(ids)) == 4 and all(ids)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="'b' is that of labels 1 and 3"):
            write_entities(twice, path, to, 0.5)
        assert path.read_bytes() == before


def test_large_numbers_are_exact(tmp_path):
    values = np.array([2**63 + 1, 1, 2**64 - 1, 0], np.uint64)
    found = read_geojson(to_geojson(replace(four(), columns={"n": values}), tmp_path / "a.geojson", 0.5))
    assert found.columns["n"].tolist() == values.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits(tmp_path, bits):
    from PIL import Image

    path, labels = tmp_path / "a.png", np.array([[0, 1], [2, 3]]) % 2**bits
    picture = Image.fromarray(labels > 0) if bits == 1 else png(labels, bits, path)
    if bits == 1:
        picture.save(path)
        with pytest.raises(TypeError, match=r"a\.png holds yes and no"):
            read_instance_map(path, 0.5)
    else:
        np.testing.assert_array_equal(read_instance_map(path, 0.5).instance_map(), labels)


def png(labels, bits, path):
    """Write a grey PNG of less than 8 bits, which Pillow does not."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = labels.shape
    rows = b""
    for row in labels.tolist():
        text = "".join(f"{value:0{bits}b}" for value in row).ljust(-(-width * bits // 8) * 8, "0")
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def test_maps_that_cannot_hold_labels(tmp_path):
    labels = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((16, 16), np.uint8)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", labels, compression="jpeg", tile=(16, 16), photometric="minisblack")
    with pytest.raises(ValueError, match=r"a\.tif is compressed as a picture"):
        read_instance_map(tmp_path / "a.tif", 0.5)
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, labels)
    with pytest.raises(ValueError, match=r"a\.npy is an NPZ file"):
        read_instance_map(tmp_path / "a.npy", 0.5)
    np.save(tmp_path / "b.npy", labels.astype(float))
    with pytest.raises(TypeError, match=r"b\.npy.*found float64.*astype"):
        read_instance_map(tmp_path / "b.npy", 0.5)


@pytest.mark.parametrize(
    "extra,message",
    [
        ({"label": [1.5, 2.5]}, "polygon 1: label: expected a whole number of at least 1, found 1.5"),
        ({"label": [1, 0]}, "polygon 2: label: expected a whole number of at least 1, found 0"),
        ({"label": ["a", "b"]}, "label: expected numbers, found <U1"),
        ({"class_id": [1, np.nan]}, "polygon 2: class_id: expected a whole number of at least 0, found nan"),
        ({"prob": ["a", "b"]}, "prob: expected numbers"),
        ({"coord": np.full((2, 2, 4), 1e300)}, "polygon 1: coord is not finite, or beyond any image"),
    ],
)
def test_numbers_of_star_polygons(extra, message):
    coord = np.array([[[0, 0, 3, 3], [0, 4, 4, 0]]] * 2, float)
    with pytest.raises(ValueError, match=f"source.*{message}"):
        read_stardist({"coord": coord, **extra}, 0.5)
    assert read_stardist({"coord": coord, "class_id": [1.0, 2.0]}, 0.5).columns["type"].tolist() == ["1", "2"]


def test_a_column_may_change_its_kind_late(tmp_path):
    # pieces of the file are typed by all of it: whole numbers and gaps first, fractions and words at the end
    count = 30_000
    last = np.arange(count) == count - 1
    values = np.where(last, 0.5, 0.0)
    words = np.where(last, "abc", "1")
    pos = np.tile(np.arange(1.0, count + 1)[:, None], 2)
    columns = {"first": values, "word": words, "late": np.where(last, 2.5, np.nan)}
    label, area = np.arange(1, count + 1), np.zeros(count)
    source = Entities("cell", label, pos, np.tile(pos, 2), area, 0.5, columns=columns)
    path = write_table(source, tmp_path / "a.csv")
    assert path.stat().st_size > 2**20  # several pieces
    found = read_table(path)
    for name, column in columns.items():
        np.testing.assert_array_equal(found.columns[name], column)


@pytest.mark.parametrize(
    "content,message",
    [
        (gzip.compress(b"x_um,y_um\n1,2\n", mtime=0), "is not UTF-8 text"),
        ("x_um,y_um,n\n1,2,é\n".encode("latin-1"), "column 'n' .*no UTF-8 text"),
        (b"x_um,y_um,area_um2\n1,2,-5\n", "row 1: area_um2 is -5"),
        (
            b"x_um,y_um,x_min_um,y_min_um,x_max_um,y_max_um\n1,2,0,0,2,2\n1,2,0,5,2,2\n",
            "row 2: y_max_um is less than y_min_um",
        ),
    ],
)
def test_tables_that_cannot_be(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.csv.*{message}"):
        read_table(tmp_path / "a.csv")


def test_parquet_of_others(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    at = {"x_um": [1.0, 2.0], "y_um": [3.0, 4.0]}
    words = pa.array(["a", "b"], pa.string_view())
    pa.parquet.write_table(pa.table({**at, "type": words}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").columns["type"].tolist() == ["a", "b"]
    pa.parquet.write_table(pa.table({**at, "n": pa.array([2**60 + 1, None])}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: column 'n' has gaps"):
        read_table(tmp_path / "b.parquet")


def test_anndata_of_others(tmp_path):
    anndata = pytest.importorskip("anndata")
    import pandas as pd

    from histograph.formats.ann_entities import entities_from_anndata

    def table(**obs):
        names = ["c", "a", "b"]
        found = anndata.AnnData(
            X=np.arange(3, dtype=np.float32)[:, None],
            obs=pd.DataFrame(obs, index=names),
            var=pd.DataFrame(index=["g"]),
        )
        found.obsm["spatial"] = np.arange(6.0).reshape(3, 2)
        return found

    found = entities_from_anndata(table(id=["x", "y", "z"], type=[1, 2, 1]), unit="um")
    assert found.columns["id"].tolist() == ["c", "a", "b"] and found.columns["obs id"].tolist() == [
        "x",
        "y",
        "z",
    ]
    assert found.columns["type"].tolist() == ["1", "2", "1"]
    for mpp in (-0.5, np.nan, "x"):
        with pytest.raises(ValueError, match="mpp: expected"):
            entities_from_anndata(table(), mpp, unit="px")
    with pytest.raises(ValueError, match=r"area_um2'.: expected numbers"):
        entities_from_anndata(table(area_um2=["1", "2", "x"]), unit="um")
    empty, odd = table(), table(type=pd.Categorical(["s", "t", "s"]))
    empty.X, odd.uns["type_colors"] = None, ["#zzzzzz", "#00ff00"]
    assert list(entities_from_anndata(empty, unit="um").columns) == ["id"]
    assert entities_from_anndata(odd, unit="um").parameters["type_colors"] == {"t": [0, 255, 0]}
    table().write_h5ad(tmp_path / "a.h5ad")  # pixels, where their size is given
    assert read_entities(tmp_path / "a.h5ad", 0.5).centroid.tolist() == [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    with pytest.raises(ValueError, match=r"a\.h5ad: unit: expected"):
        read_entities(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="'area_um2' would come twice"):
        write_entities(replace(four(), columns={"area_um2": np.ones(4)}), tmp_path / "b.h5ad", "h5ad")
    assert not (tmp_path / "b.h5ad").exists()
