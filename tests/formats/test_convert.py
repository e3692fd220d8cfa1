"""Any format to any other, in Python and in a shell."""

import copy
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

import histograph as hg
from histograph.cli import main
from histograph.entities import from_instance_map
from histograph.formats import FORMATS, convert_file, read_entities, write_entities

from .scenes import assert_same, cells


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def solid():
    """Cells that every format can hold."""
    found = cells(n=40, holes=False, typed=False)
    instance_map = np.kron(np.arange(1, 13).reshape(3, 4), np.pad(np.ones((7, 9), int), 2))
    return hg.entities.from_instance_map(instance_map, found.mpp)


@pytest.mark.parametrize(
    "first", [name for name in FORMATS if name not in ("csv", "parquet", "h5ad", "spatialdata")]
)
@pytest.mark.parametrize("second", ["geojson", "tif", "cellvit", "csv"])
def test_chains(tmp_path, first, second):
    source = solid()
    path = write_entities(source, tmp_path / f"a{FORMATS[first]}", first, mpp=0.25)
    target, count = convert_file(path, tmp_path / "out", second, mpp=0.25)
    assert count == len(source) and target.name == f"a{FORMATS[second]}"
    again = read_entities(target, None if second == "csv" else 0.25)
    np.testing.assert_array_equal(again.label, source.label)
    if first != "stardist" and second != "csv":
        assert_same(source, again, columns=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_writing_changes_nothing(tmp_path, name):
    """Field bug E.11: elsewhere the contours of the caller are overwritten by writing them."""
    for module in {"h5ad": ["anndata"], "spatialdata": ["anndata", "spatialdata"]}.get(name, []):
        pytest.importorskip(module)
    source = from_instance_map(cells(holes=False).instance_map() % 997, 0.25)
    source.columns["type"] = np.array(["b", "a", ""] * len(source))[: len(source)]
    source.columns["type_prob"] = np.linspace(0, 1, len(source))
    kept = copy.deepcopy(source)
    first = write_entities(source, tmp_path / f"a{FORMATS[name]}", name, mpp=0.25)
    assert_same(kept, source)
    assert source.parameters == kept.parameters and list(source.columns) == list(kept.columns)
    if first.is_file() and name != "h5ad":  # which holds the time
        again = write_entities(source, tmp_path / f"b{FORMATS[name]}", name, mpp=0.25)
        assert first.read_bytes() == again.read_bytes()


def test_points_stay_points(tmp_path):
    table = write_entities(cells(), tmp_path / "a.csv", "csv").read_text().splitlines()
    (tmp_path / "p.csv").write_text("\n".join(",".join(line.split(",")[:3]) for line in table))
    target, _ = convert_file(tmp_path / "p.csv", tmp_path, "geojson", mpp=0.25)
    assert json.loads(target.read_text())["features"][0]["geometry"]["type"] == "Point"
    np.testing.assert_allclose(read_entities(target).centroid, cells().centroid, atol=1e-6)
    with pytest.raises(ValueError, match="mpp"):
        convert_file(tmp_path / "p.csv", tmp_path, "geojson")


def test_shell(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_entities(solid(), tmp_path / "in" / "a.json", "hovernet")
    (tmp_path / "in" / "broken.json").write_text('{"nuc": {"1": ')
    hg.save(hg.graphs.example_graph(), tmp_path / "in" / "g.safetensors")
    assert (
        run(
            "convert", tmp_path / "in", "--to", "geojson.gz", "--out", tmp_path / "out", "--node-type", "cell"
        )
        == 1
    )
    said = capsys.readouterr().out
    assert "done     g.safetensors: 60 objects" in said and "node_type: is for graphs" in said
    assert run("convert", tmp_path / "in" / "a.json", "--to", "geojson.gz", "--out", tmp_path / "out") == 0
    words = "--to", "geojson.gz", "--out", tmp_path / "out", "--mpp", 0.25
    assert run("convert", tmp_path / "in" / "broken.json", *words) == 1
    said = capsys.readouterr().out
    assert "done     a.json: 12 objects" in said and "failed   broken.json" in said and "cut off" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.geojson.gz", "g.geojson.gz"]
    assert run("convert", tmp_path / "in" / "a.json", "--to", "geojson.gz", "--out", tmp_path / "out") == 0
    assert "skipped" in capsys.readouterr().out
    assert (
        run(
            "convert",
            tmp_path / "in" / "a.json",
            "--to",
            "geojson.gz",
            "--out",
            tmp_path / "out",
            "--overwrite",
        )
        == 0
    )
    assert_same(solid(), read_entities(tmp_path / "out" / "a.geojson.gz"))


def test_crossing_rings_in_a_shell(tmp_path, capsys):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Feature", "geometry": bow, "properties": {}}))
    words = "convert", tmp_path / "a.geojson", "--to", "tif", "--out", tmp_path / "out", "--mpp", 0.5
    assert run(*words) == 1 and "feature 1: a ring crosses itself" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*"))
    assert run(*words, "--no-check-rings") == 0
    assert len(read_entities(tmp_path / "out" / "a.tif")) == 1


def test_parts_in_a_shell(tmp_path, capsys):
    squares = [[[[x, 0], [x + 4, 0], [x + 4, 4], [x, 4], [x, 0]]] for x in range(0, 200, 10)]
    shape = {"type": "MultiPolygon", "coordinates": squares}
    (tmp_path / "a.geojson").write_text(
        json.dumps([{"type": "Feature", "geometry": shape, "properties": {}}])
    )
    words = "convert", tmp_path / "a.geojson", "--to", "tif", "--out", tmp_path / "out", "--mpp", 0.5
    assert run(*words) == 1 and "parts='apart'" in capsys.readouterr().out
    assert run(*words, "--parts", "apart") == 0
    assert len(read_entities(tmp_path / "out" / "a.tif")) == 20
    with pytest.raises(ValueError, match="parts: is for GeoJSON"):
        read_entities(tmp_path / "out" / "a.tif", parts="apart")


@pytest.mark.parametrize(
    "words, message",
    [
        (("--parts", "apart"), "is only for --to"),
        (("--to", "csv", "--parts", "all"), "must be together or apart"),
        (("--to", "xlsx"), "must be one of geojson"),
        (("--to", "csv", "--patch-size-level0", 256), "is for patch features"),
        (("--node-type", "cell"), "is only for --to"),
        (("--no-check-rings",), "is only for --to"),
        (("--object-types", "cell"), "is only for --to"),
        (("--to", "csv", "--object-types", "cell,nuclei"), "must be of detection, cell"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, message):
    path = write_entities(solid(), tmp_path / "a.json", "hovernet")
    assert run("convert", path, "--out", tmp_path / "out", *words) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_bad_input(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "a.xyz").write_text("x")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"label,x_um,y_um\n1,2,3\n"))
    for name, message in {
        "a.json": "found none of features, nuc, cells",
        "a.xyz": "expected a name that ends in",
        "a.csv.gz": "only JSON is read from .gz",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_entities(tmp_path / name)
    with pytest.raises(ValueError, match="to: expected one of"):
        write_entities(solid(), tmp_path / "b", "doc")
    with pytest.raises(ValueError, match="to: tif holds outlines"):
        write_entities(hg.graphs.example_graph(), tmp_path / "b.tif", "tif")
    path = write_entities(solid(), tmp_path / "b.json", "hovernet")
    with pytest.raises(ValueError, match="would be replaced"):
        convert_file(path, tmp_path, "cellvit")
    (tmp_path / "f.json").write_text(json.dumps({"type": "Feature", "geometry": None, "properties": {}}))
    with pytest.raises(ValueError, match="has no geometry"):
        read_entities(tmp_path / "f.json", 0.5)


def test_h5ad(tmp_path):
    anndata = pytest.importorskip("anndata")
    path = write_entities(hg.graphs.example_graph(), tmp_path / "a.h5ad", "h5ad", node_type="cell")
    assert anndata.read_h5ad(path).n_obs == 60


@pytest.mark.parametrize("through", ["geojson", "geojson.gz", "hovernet", "cellvit", "stardist", "tif"])
def test_the_pixels_of_the_slide_are_not_forgotten(tmp_path, through):
    """Masks of 0.5 µm on a slide of 0.2 µm whose scanned part begins at 30, 7: as QuPath needs them, and back."""
    source = solid()
    first = hg.formats.to_geojson(source, tmp_path / "a.geojson", (0.2, 0.1), offset_px=(30, 7))
    path, _ = convert_file(first, tmp_path / "b", through)
    again, _ = convert_file(path, tmp_path / "c", "geojson")
    own = [json.loads(file.read_text())["histograph"] for file in (first, again)]
    assert own[0]["mpp"] == own[1]["mpp"] and own[0]["offset_px"] == own[1]["offset_px"]
    if through != "stardist":
        assert_same(source, read_entities(again), columns=False)
    # pixels of another size begin at the same µm
    larger = write_entities(read_entities(path), tmp_path / "d.geojson", "geojson", mpp=0.4)
    np.testing.assert_allclose(json.loads(larger.read_text())["histograph"]["offset_px"], [15, 1.75])
    np.testing.assert_allclose(read_entities(larger).centroid, read_entities(again).centroid, atol=1e-6)
    with pytest.raises(ValueError, match="mpp: expected positive"):
        write_entities(read_entities(path), tmp_path / "d.geojson", "geojson", mpp=0)


@pytest.mark.parametrize("value", [5, {"mpp": [1, 2]}, {"mpp": ["x", 2], "offset_px": [0, 0]}])
def test_damaged_pixels_of_the_slide(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"histograph": {"mpp": 0.5, "level0": value}, "nuc": {}}))
    with pytest.raises(ValueError, match=r"a\.json: level0"):
        read_entities(path)


@pytest.mark.parametrize("to", ["geojson", "geojson.gz", "tif"])
def test_a_slide_without_nuclei_keeps_its_size(tmp_path, to):
    source = from_instance_map(np.zeros((4, 6), int), 0.5, kind="tissue")
    first = write_entities(source, tmp_path / f"a{FORMATS[to]}", to, mpp=0.25)
    found = read_entities(first)
    assert (len(found), found.kind, found.mpp, found.extent_um) == (0, "tissue", 0.5, (3.0, 2.0))
    path, count = convert_file(first, tmp_path / "b", "npy")
    assert count == 0 and np.load(path).shape == (4, 6)


def test_pieces_without_objects_before_others(tmp_path):
    table = read_entities(write_entities(cells(), tmp_path / "a.csv", "csv"))
    points = replace(table, bbox=np.tile(table.centroid, 2), kind="patch")
    path = hg.formats.to_geojson(
        iter([hg.entities.Entities.empty("patch", 0.5), points]), tmp_path / "a.geojson", 0.5
    )
    np.testing.assert_allclose(read_entities(path).centroid, points.centroid, atol=1e-6)
    nothing = hg.formats.to_geojson(hg.entities.Entities.empty("patch", 0.5), tmp_path / "b.geojson", 0.25)
    assert (len(read_entities(nothing)), read_entities(nothing).kind) == (0, "patch")


def test_no_nuclei_and_no_size(tmp_path):
    nothing = write_entities(hg.entities.Entities.empty("cell", 0.5), tmp_path / "a.json", "hovernet")
    with pytest.raises(ValueError, match="entities: there are none, and it is not known how large the slide"):
        convert_file(nothing, tmp_path / "b", "tif")


def test_all_objects_of_qupath_in_a_shell(tmp_path, capsys):
    """What QuPath exports by default: annotations beside the cells in them."""

    def square(x, size, what):
        ring = [[x, x], [x + size, x], [x + size, x + size], [x, x + size], [x, x]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "geometry": shape, "properties": {"objectType": what}}

    value = {"type": "FeatureCollection", "features": [square(0, 90, "annotation")]}
    value["features"] += [square(10, 8, "detection"), square(30, 8, "cell")]
    (tmp_path / "a.geojson").write_text(json.dumps(value))
    words = "convert", tmp_path / "a.geojson", "--to", "csv", "--out", tmp_path / "out", "--mpp", 0.5
    assert run(*words) == 1 and "choose with object_types" in capsys.readouterr().out
    assert run(*words, "--object-types", "detection, cell") == 0
    assert read_entities(tmp_path / "out" / "a.csv").area.tolist() == [16, 16]
    assert run(*words, "--object-types", "annotation", "--overwrite") == 0
    assert read_entities(tmp_path / "out" / "a.csv").area.tolist() == [2025]
    (tmp_path / "b.csv").write_text("x_um,y_um\n1,2\n")
    with pytest.raises(ValueError, match="object_types: is for GeoJSON"):
        read_entities(tmp_path / "b.csv", object_types="cell")
