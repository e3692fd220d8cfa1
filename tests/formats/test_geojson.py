"""QuPath's GeoJSON: what is written comes back, what QuPath writes is read, and what is broken is named."""

import gzip
import json
import uuid

import numpy as np
import pytest
import torch

from histograph.entities import Entities, from_instance_map, patches
from histograph.formats import convert_file, iter_geojson, read_entities, read_geojson, to_geojson
from histograph.graphs import build_graph, example_graph, load, save
from histograph.slides import open_slide

from .scenes import assert_same, cells

SQUARE = [[10, 20], [14, 20], [14, 24], [10, 24], [10, 20]]


def feature(ring=SQUARE, identity=None, **properties):
    """A feature as QuPath writes it."""
    head = {} if identity is None else {"id": identity}
    shape = {"type": "Polygon", "coordinates": [ring]}
    return {
        "type": "Feature",
        **head,
        "geometry": shape,
        "properties": {"objectType": "detection", **properties},
    }


def written(folder, value, name="cells.geojson"):
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("name", ["cells.geojson", "cells.geojson.gz"])
@pytest.mark.parametrize(
    "mpp, offset", [(0.25, (0, 0)), ((0.5, 0.5), (17, 5)), (0.2465, (0.5, 3)), (0.31, (0, 0))]
)
def test_round_trip_is_exact(tmp_path, name, mpp, offset):
    source = cells()
    path = to_geojson(source, tmp_path / name, mpp=mpp, offset_px=offset)
    again = read_geojson(path)
    assert_same(source, again)
    assert again.extent_um == source.extent_um
    assert set(again.parameters["type_colors"]) == {"tumour", "stroma: α"}
    # without its head the file is as any other program's
    value = json.loads(gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_text())
    bare = written(tmp_path, value["features"], "bare.geojson")
    assert_same(source, read_geojson(bare, mpp=mpp, offset_px=offset, raster_mpp=0.25))
    assert_same(again, read_geojson(to_geojson(again, tmp_path / "twice.geojson", mpp=0.25)))


def test_what_is_written_is_what_qupath_reads(tmp_path):
    """Field bug E.13: elsewhere the object type stands beside `properties`, and ids are no UUIDs."""
    source = cells()
    value = json.loads(to_geojson(source, tmp_path / "a.geojson", mpp=0.25).read_text())
    assert value["type"] == "FeatureCollection" and len(value["features"]) == len(source)
    for row, item in enumerate(value["features"]):
        assert str(uuid.UUID(item["id"])) == item["id"]
        assert item["properties"]["objectType"] == "detection" and "objectType" not in item
        name = str(source.columns["type"][row])
        if name:
            assert item["properties"]["classification"]["name"] == name
            assert all(0 <= c <= 255 for c in item["properties"]["classification"]["color"])
        assert item["properties"]["measurements"]["count"] == source.columns["count"][row]


def test_order_and_ids_of_others_survive(tmp_path):
    rng = np.random.default_rng(0)
    ids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(7)]
    items = [feature((np.array(SQUARE) + 6 * k).tolist(), i) for k, i in enumerate(ids)]
    read = read_geojson(written(tmp_path, {"type": "FeatureCollection", "features": items}), mpp=0.5)
    assert read.label.tolist() == list(range(1, 8)) and read.columns["id"].tolist() == ids
    again = read_geojson(to_geojson(read, tmp_path / "again.geojson", mpp=0.5))
    assert_same(read, again)


def test_qupath_may_change_the_order_and_add_objects(tmp_path):
    source = cells()
    value = json.loads(to_geojson(source, tmp_path / "a.geojson", mpp=0.25).read_text())
    mixed = written(tmp_path, {**value, "features": value["features"][::-1]}, "b.geojson")
    assert_same(source, read_geojson(mixed))
    more = written(
        tmp_path,
        {**value, "features": [*value["features"], feature(identity=str(uuid.uuid4()))]},
        "c.geojson",
    )
    read = read_geojson(more)
    assert read.label.tolist() == list(range(1, len(source) + 2))
    np.testing.assert_array_equal(read.area[:-1], source.area)


def test_versions_of_qupath(tmp_path):
    old = feature(identity="PathDetectionObject", classification={"name": "Tumor", "colorRGB": -3670016})
    del old["properties"]["objectType"]
    old["properties"]["measurements"] = [{"name": "Area µm^2", "value": 4.5}, {"name": "odd", "value": "NaN"}]
    middle = feature(
        classification={"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, metadata={"note": "x"}, name="n"
    )
    plain = feature(measurements={"Area µm^2": 2})
    plain["geometry"]["type"] = "MultiPolygon"
    plain["geometry"]["coordinates"] = [[SQUARE], [(np.array(SQUARE) + 50).tolist()]]
    read = read_geojson(written(tmp_path, [old, middle, plain]), mpp=0.5)
    assert read.columns["type"].tolist() == ["Tumor", "Tumor: Positive", ""]
    assert read.parameters["type_colors"] == {"Tumor": [200, 0, 0], "Tumor: Positive": [1, 2, 3]}
    np.testing.assert_array_equal(read.columns["Area µm^2"], [4.5, np.nan, 2])
    assert np.isnan(read.columns["odd"]).all() and "id" not in read.columns
    assert read.columns["note"].tolist() == ["", "x", ""] and read.columns["name"].tolist() == ["", "n", ""]
    assert read.area.tolist() == [4, 4, 8]
    assert len(read_geojson(written(tmp_path, feature()), mpp=0.5)) == 1
    assert "Area µm^2" not in read_geojson(written(tmp_path, [plain]), mpp=0.5, measurements=False).columns


def test_children_are_read_and_types_chosen(tmp_path):
    nested = feature(objectType="annotation", childObjects=[feature(identity="a"), feature(identity="b")])
    path = written(tmp_path, [nested])
    with pytest.raises(
        ValueError, match=r"feature 1 .*'detection' while others are 'annotation'; choose with object_types"
    ):
        read_geojson(path, mpp=1.0)
    read = read_geojson(path, mpp=1.0, object_types="detection")
    assert read.columns["id"].tolist() == ["a", "b"] and read.parameters["object_type"] == "detection"
    assert len(read_geojson(path, mpp=1.0, object_types=["annotation", "cell"])) == 1


def moved(by):
    return [[x + by, y] for x, y in SQUARE]


def of_a_type(kind, coordinates, name):
    """All cells of a type in one feature, as CellViT writes them."""
    head = {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": {"type": kind, "coordinates": coordinates},
    }
    about = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
    return {**head, "properties": about}


def test_cellvit_file_with_one_feature_for_each_type(tmp_path):
    squares = [[moved(20 * i)] for i in range(40)]
    path = written(
        tmp_path,
        [
            of_a_type("MultiPolygon", squares[:30], "Neoplastic"),
            of_a_type("MultiPolygon", squares[30:], "Dead"),
        ],
    )
    with pytest.raises(
        ValueError, match=r"feature 1.*holds 30 polygons, .*parts='apart', .*parts='together'"
    ):
        read_geojson(path, mpp=0.5)
    found = read_geojson(path, mpp=0.5, parts="apart")
    assert found.label.tolist() == list(range(1, 41)) and found.area.tolist() == [4.0] * 40
    np.testing.assert_array_equal(found.centroid[:, 0], 0.5 * (12 + 20 * np.arange(40)))
    assert found.columns["type"].tolist() == ["Neoplastic"] * 30 + ["Dead"] * 10
    assert "id" not in found.columns
    pieces = list(iter_geojson(path, mpp=0.5, parts="apart", chunk=7))
    assert max(map(len, pieces)) == 7
    assert np.concatenate([piece.label for piece in pieces]).tolist() == list(range(1, 41))
    assert read_geojson(path, mpp=0.5, parts="together").area.tolist() == [120.0, 40.0]
    assert len(read_geojson(path, mpp=0.5, kind="tissue")) == 2  # areas may have many pieces
    assert_same(read_entities(path, 0.5, parts="apart"), found)
    with pytest.raises(ValueError, match="parts: expected 'together' or 'apart', found 'all'"):
        read_geojson(path, mpp=0.5, parts="all")


def test_a_cell_of_many_pieces_comes_back_as_one(tmp_path):
    dotted = np.zeros((12, 12), np.int64)
    dotted[::2, ::2] = 7
    source = Entities.from_instance_map(dotted, mpp=0.5)
    assert_same(source, read_geojson(to_geojson(source, tmp_path / "a.geojson", mpp=0.5)))


def test_points_of_a_type(tmp_path):
    places = [[3.25, 4.5], [10, 20.75], [7, 8]]
    path = written(
        tmp_path, [of_a_type("MultiPoint", places, "Dead"), of_a_type("Point", [1, 2], "Connective")]
    )
    for parts in (None, "together"):
        with pytest.raises(ValueError, match=r"feature 1.* 3 points; .*parts='apart'"):
            read_geojson(path, mpp=0.5, parts=parts)
    found = read_geojson(path, mpp=0.5, parts="apart")
    np.testing.assert_array_equal(found.centroid, 0.5 * np.array([*places, [1, 2]]))
    assert found.columns["type"].tolist() == ["Dead"] * 3 + ["Connective"]
    assert [i != "" for i in found.columns["id"].tolist()] == [False] * 3 + [True]


def test_parts_that_are_apart_have_no_measurements_and_errors_say_which(tmp_path):
    several = feature(identity="a", measurements={"Area": 8.0})
    several["geometry"] = {
        "type": "MultiPolygon",
        "coordinates": [[SQUARE], [(np.array(SQUARE) + 50).tolist()]],
    }
    path = written(tmp_path, [several, feature(identity="b", measurements={"Area": 4.0})])
    assert read_geojson(path, mpp=1.0).columns["Area"].tolist() == [8.0, 4.0]
    found = read_geojson(path, mpp=1.0, parts="apart")
    np.testing.assert_array_equal(found.columns["Area"], [np.nan, np.nan, 4.0])
    assert found.columns["id"].tolist() == ["", "", "b"]
    crossed = [[60, 60], [64, 64], [64, 60], [60, 64], [60, 60]]
    several["geometry"]["coordinates"].append([crossed])
    with pytest.raises(ValueError, match=r"feature 1, part 3: .*crosses itself"):
        read_geojson(written(tmp_path, [several]), mpp=1.0, parts="apart")


def test_many_nested_objects_before_others_keep_labels_of_their_own(tmp_path):
    inner = [feature(moved(6 * i)) for i in range(12)]
    nested = feature(objectType="annotation", childObjects=inner)
    path = written(tmp_path, [nested, feature(), feature()])
    pieces = list(iter_geojson(path, mpp=1.0, object_types="detection", chunk=5))
    assert [len(piece) for piece in pieces] == [5, 5, 4]
    labels = np.concatenate([piece.label for piece in pieces])
    assert len(set(labels.tolist())) == 14 and (np.diff(labels) > 0).all()


def test_cells_with_nuclei(tmp_path):
    body = from_instance_map(np.kron([[3, 0, 8]], np.ones((6, 6), int)), 0.5)
    inner = np.zeros((6, 18), int)
    inner[2:4, 2:4], inner[1:3, 14:16] = 3, 8
    nuclei = from_instance_map(inner, 0.5)
    path = to_geojson(body, tmp_path / "c.geojson", mpp=0.5, object_type="cell", nuclei=nuclei)
    assert_same(body, read_geojson(path))
    assert_same(nuclei, read_geojson(path, outline="nucleus"))
    with pytest.raises(ValueError, match="nuclei: no outline for 1 of 2 ids, first 3"):
        to_geojson(body, tmp_path / "d.geojson", mpp=0.5, object_type="cell", nuclei=nuclei.select([1]))
    with pytest.raises(ValueError, match="only objects of type 'cell'"):
        to_geojson(body, tmp_path / "d.geojson", mpp=0.5, nuclei=nuclei)
    assert [p.name for p in tmp_path.iterdir()] == ["c.geojson"]


def test_slide_gives_mpp_and_bounds(tmp_path):
    slide = open_slide(np.full((200, 200, 3), 90, np.uint8), mpp=0.25)
    slide._reader.properties.update({"openslide.bounds-x": "30", "openslide.bounds-y": "7"})
    source = cells(5)
    path = to_geojson(source, tmp_path / "a.geojson", slide=slide)
    value = json.loads(path.read_text())
    first = np.array(value["features"][0]["geometry"]["coordinates"][0])
    np.testing.assert_array_equal(first, source.polygon(0) / 0.25 - [30, 7])
    bare = written(tmp_path, value["features"], "bare.geojson")
    assert_same(source, read_geojson(bare, slide=slide))
    with pytest.raises(ValueError, match="give one of them"):
        read_geojson(bare, 0.25, slide=slide)


def test_a_graph_knows_where_the_scanned_part_begins(tmp_path):
    """Graphs of `build_graph`, from a file too; and with another pixel size the offset is as long."""
    slide = open_slide(np.full((100, 130, 3), 90, np.uint8), mpp=(0.5, 0.25))
    slide._reader.properties.update({"openslide.bounds-x": "30", "openslide.bounds-y": "8"})
    graph = build_graph(slide, {"patch": {"size_um": 12.5}}, mask=None)
    save(graph, tmp_path / "g.safetensors")
    wanted = json.loads(to_geojson(graph, tmp_path / "a.geojson", slide=slide).read_text())
    assert wanted["features"][0]["geometry"]["coordinates"][0][0] == [-30, -8]
    convert_file(tmp_path / "g.safetensors", tmp_path / "out", "geojson")
    assert json.loads((tmp_path / "out" / "g.geojson").read_text()) == wanted
    coarse = to_geojson(load(tmp_path / "g.safetensors"), tmp_path / "b.geojson", mpp=1.0)
    assert json.loads(coarse.read_text())["features"][0]["geometry"]["coordinates"][0][0] == [-15, -2]
    given = to_geojson(graph, tmp_path / "c.geojson", offset_px=(0, 0))
    assert json.loads(given.read_text())["features"][0]["geometry"]["coordinates"][0][0] == [0, 0]


def test_patches_are_rectangles(tmp_path):
    slide = open_slide(np.full((100, 130, 3), 90, np.uint8), mpp=0.5)
    grid = patches(slide, size_um=12.8, mask=None)
    path = to_geojson(grid, tmp_path / "p.geojson", slide=slide, object_type="tile")
    again = read_geojson(path)
    assert again.masks is None and again.kind == "patch"
    np.testing.assert_array_equal(again.label, grid.label)
    np.testing.assert_allclose(again.bbox, grid.bbox, atol=1e-6)
    np.testing.assert_allclose(again.area, grid.area)
    with pytest.raises(ValueError, match=r"feature 1.*upright rectangle"):
        read_geojson(written(tmp_path, [feature([[0, 0], [4, 1], [3, 5], [0, 0]])]), mpp=1, kind="patch")


def test_graphs(tmp_path):
    graph = example_graph()
    path = to_geojson(graph, tmp_path / "g.geojson", node_type="cell")
    read = read_geojson(path)
    order = graph["cell"].id.argsort()
    np.testing.assert_array_equal(read.label, graph["cell"].id[order])
    np.testing.assert_allclose(read.centroid, graph["cell"].pos[order], atol=1e-5)
    name = graph["cell"].feature_names[0]
    np.testing.assert_array_equal(read.columns[name], graph["cell"].x[order, 0])
    tiles = read_geojson(to_geojson(graph, tmp_path / "t.geojson", node_type="patch", object_type="tile"))
    np.testing.assert_allclose(tiles.centroid, graph["patch"].pos[graph["patch"].id.argsort()], atol=1e-4)
    slide = open_slide(np.full((100, 130, 3), 90, np.uint8), mpp=0.5)
    built = build_graph(slide, {"patch": {"size_um": 12.5}}, mask=None, progress=False)
    squares = read_geojson(to_geojson(built, tmp_path / "s.geojson", object_type="tile"))
    assert squares.kind == "patch" and squares.masks is None
    order = built["patch"].id.argsort()
    np.testing.assert_allclose(squares.bbox, built["patch"].bbox[order], atol=1e-5)
    with pytest.raises(ValueError, match="node_type"):
        to_geojson(graph, tmp_path / "no.geojson")


def test_types_reach_the_graph_and_come_back(tmp_path):
    source = cells()
    slide = open_slide(np.full((200, 200, 3), 90, np.uint8), mpp=0.25)
    read = read_geojson(to_geojson(source, tmp_path / "a.geojson", slide=slide))
    graph = build_graph(slide, {"cell": read}, features={"cell": ("shape",)}, mask=None, progress=False)
    assert graph["cell"].label_names == ["stroma: α", "tumour"]
    save(graph, tmp_path / "g.safetensors")
    graph = load(tmp_path / "g.safetensors")
    names = np.array(["", *graph["cell"].label_names])[graph["cell"].label + 1]
    by_id = dict(zip(graph["cell"].id.tolist(), names.tolist()))
    assert [by_id[i] for i in source.label.tolist()] == source.columns["type"].tolist()
    again = read_geojson(to_geojson(graph, tmp_path / "b.geojson", entities=source))
    assert_same(source, again, columns=False)
    np.testing.assert_array_equal(again.columns["type"], source.columns["type"])
    row = int(torch.nonzero(graph["cell"].id == int(source.label[0])))
    assert again.columns["area"][0] == graph["cell"].x[row, graph["cell"].feature_names.index("area")]


def test_pieces_in_and_out(tmp_path):
    source = cells()
    parts = [source.select(slice(k, k + 7)) for k in range(0, len(source), 7)]
    path = to_geojson(iter(parts), tmp_path / "a.geojson", mpp=0.25)
    assert_same(source, read_geojson(path))
    pieces = list(iter_geojson(path, chunk=9))
    assert [len(p) for p in pieces][:-1] == [9] * (len(pieces) - 1)
    np.testing.assert_array_equal(np.concatenate([p.area for p in pieces]), source.area)
    again = to_geojson(iter(pieces), tmp_path / "b.geojson", mpp=0.25)
    assert_same(source, read_geojson(again))
    assert len(read_geojson(to_geojson(Entities.empty(), tmp_path / "none.geojson", mpp=0.5))) == 0


def test_same_bytes_each_time(tmp_path):
    files = [to_geojson(cells(), tmp_path / f"{k}.geojson.gz", mpp=0.25).read_bytes() for k in range(2)]
    assert files[0] == files[1]


OPEN = [[0, 0], [4, 0], [4, 4], [0, 4]]


def with_hole(hole):
    found = feature([*OPEN, OPEN[0]])
    found["geometry"]["coordinates"].append(hole)
    return found


@pytest.mark.parametrize(
    "bad, message",
    [
        (feature(OPEN), r"a ring is open: it starts at \[0, 0\] and ends at \[0, 4\]"),
        (feature([[0, 0], [4, 0], [0, 0]]), "a ring has 3 positions"),
        (feature([[0, 0], [4, "x"], [4, 4], [0, 0]]), "two finite numbers"),
        (feature([[0, 0], [4, None], [4, 4], [0, 0]]), "two finite numbers"),
        (feature([[0, 0], [4], [4, 4], [0, 0]]), "two finite numbers"),
        (feature([[0, 0], [1e300, 0], [4, 4], [0, 0]]), "two finite numbers"),
        (feature([[-9, -9], [-5, -9], [-5, -5], [-9, -9]]), "off the canvas.*offset_px"),
        (feature([[0, 0], [1e6, 0], [1e6, 1e6], [0, 0]]), "coarser raster"),
        ({"type": "Feature", "geometry": None, "properties": {}}, "has no geometry"),
        ({"type": "Feature", "geometry": {"type": "LineString", "coordinates": OPEN}}, "found 'LineString'"),
        ({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []}}, "a polygon without"),
        ({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1]}}, "two finite numbers"),
        ({"type": "Thing"}, "expected an object of type 'Feature', found 'Thing'"),
        (7, "expected an object of type 'Feature', found '7'"),
        (
            feature(measurements={"Area px^2": 1.0}),
            "'Area px.2' is in pixels but 'Area µm.2' is in micrometres",
        ),
        (
            feature(measurements={"Perimeter px": 1.0, "Perimeter µm": 2.0}),
            "'Perimeter µm' is in micrometres but 'Perimeter px' is in pixels",
        ),
        (feature(measurements={"odd": "many"}), "measurement 'odd' is 'many'"),
        (feature([[0, 0], [4, 0], [float("nan"), 4], [0, 0]]), "two finite numbers"),
        (feature([[0, 0], [4, 0], [float("inf"), 4], [0, 0]]), "two finite numbers"),
        (feature([[0, 0], [4, 0, 1], [4, 4], [0, 0]]), "two finite numbers"),
        (feature([[0, 0], [4, 0], [4, 0], [0, 0]]), "fewer than 3 different corners, near .0, 0."),
        (
            feature([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]),
            r"crosses itself near \[2, 2\]; .*check_rings=False",
        ),
        (with_hole([[8, 8], [9, 8], [9, 9], [8, 8]]), r"hole 1 lies outside its outer ring, at \[8, 8\]"),
        (
            with_hole([[1, 1], [9, 1], [9, 2], [1, 1]]),
            r"hole 1 crosses another ring of its polygon near \[4, 1\]",
        ),
        (feature(measurements={"id": 1}), "read without measurements"),
        (feature(measurements=3), "measurements: expected an object"),
        (feature(identity="first"), "its id first is that of feature 1 too"),
    ],
)
def test_broken_features_are_named(tmp_path, bad, message):
    good = feature(identity="first", measurements={"Area µm^2": 1.0})
    path = written(tmp_path, [good, feature(identity="b"), bad, feature(identity="c")])
    with pytest.raises(ValueError, match=rf"cells\.geojson, feature 3.*{message}"):
        read_geojson(path, mpp=0.5)


def test_broken_rings_are_filled_on_demand(tmp_path):
    bow = feature([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]])
    outside = with_hole([[8, 8], [10, 8], [10, 10], [8, 10], [8, 8]])
    path = written(tmp_path, [bow, outside])
    for read in (read_geojson, lambda *a, **k: next(iter_geojson(*a, **k))):
        with pytest.raises(ValueError, match="feature 1: a ring crosses itself"):
            read(path, mpp=1.0)
        found = read(path, mpp=1.0, check_rings=False)
        assert found.area.tolist() == [8, 20]
    assert len(read_entities(path, 1.0, check_rings=False)) == 2
    with pytest.raises(ValueError, match="crosses itself"):
        read_entities(path, 1.0)


def test_points_beside_outlines(tmp_path):
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3.25, 7.5]}, "properties": {}}
    items = [point, with_hole([[1, 1], [2, 1], [2, 2], [1, 1]]), point, feature(), point]
    read = read_geojson(written(tmp_path, items), mpp=0.5)
    assert read.centroid[[0, 2, 4]].tolist() == [[1.625, 3.75]] * 3 and read.area[3] == 4
    items[3] = feature([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]])
    with pytest.raises(ValueError, match="feature 4: a ring crosses itself"):
        read_geojson(written(tmp_path, items), mpp=0.5)


def test_a_broken_child_is_named_with_its_parent(tmp_path):
    nested = feature(objectType="detection", childObjects=[feature(OPEN)])
    with pytest.raises(
        ValueError, match=r"cells\.geojson, feature 2 \(line 1, character \d+\): .*ring is open"
    ):
        read_geojson(written(tmp_path, [feature(), nested]), mpp=1.0)


@pytest.mark.parametrize(
    "text", ["null", "7", '"features"', "true", "[null]", '{"features": 3}', '{"features": null}']
)
def test_wrong_roots(tmp_path, text):
    with pytest.raises(ValueError, match=r"root\.geojson, .*(line 1|feature 1).*expected"):
        read_geojson(written(tmp_path, text, "root.geojson"), mpp=1.0)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.8, 0.99])
def test_compressed_files_cut_anywhere(tmp_path, share):
    packed = to_geojson(cells(40), tmp_path / "whole.geojson.gz", mpp=0.25).read_bytes()
    (tmp_path / "cut.geojson.gz").write_bytes(packed[: int(share * len(packed))])
    for read in (read_geojson, read_entities, lambda path: list(iter_geojson(path))):
        with pytest.raises(ValueError, match=r"cut\.geojson\.gz, .*line \d+, character \d+.*cut off"):
            read(tmp_path / "cut.geojson.gz")


def test_cut_and_foreign_files(tmp_path):
    text = to_geojson(cells(9), tmp_path / "whole.geojson", mpp=0.25).read_text()
    for share in (0.05, 0.3, 0.9, 0.999):
        with pytest.raises(ValueError, match=r"cut\.geojson, line \d+, character \d+: .*cut off"):
            read_geojson(written(tmp_path, text[: int(share * (len(text) - 3))], "cut.geojson"))
    packed = to_geojson(cells(9), tmp_path / "whole.geojson.gz", mpp=0.25).read_bytes()
    (tmp_path / "cut.geojson.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"cut\.geojson\.gz.*compressed file is cut off"):
        read_geojson(tmp_path / "cut.geojson.gz")
    for content, message in {
        "": "is empty",
        '{"a": 1}': "no 'features'",
        "[1": "feature 1",
        "hello": "expected '{'",
    }.items():
        with pytest.raises(ValueError, match=f"other.geojson.*{message}"):
            read_geojson(written(tmp_path, content, "other.geojson"), mpp=0.5)
    with pytest.raises(ValueError, match=r"bare\.geojson: mpp: pixels of a file"):
        read_geojson(written(tmp_path, [feature()], "bare.geojson"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_geojson(tmp_path / "nowhere.geojson", mpp=0.5)


def test_nothing_half_written(tmp_path):
    def parts():
        yield cells(9)
        raise RuntimeError("stopped")

    old = written(tmp_path, "old", "a.geojson")
    with pytest.raises(RuntimeError, match="stopped"):
        to_geojson(parts(), old, mpp=0.25)
    assert old.read_text() == "old" and list(tmp_path.iterdir()) == [old]
    infinite = cells(3)
    infinite.columns["prob"][1] = np.inf
    with pytest.raises(ValueError, match=r"columns\['prob'\]: JSON has no infinite"):
        to_geojson(infinite, old, mpp=0.25)
    assert old.read_text() == "old" and list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"object_type": "nucleus"}, "object_type"),
        ({"mpp": None}, "mpp"),
        ({"mpp": -1}, "positive"),
        ({"mpp": "x"}, "finite number"),
        ({"node_type": "cell"}, "are for graphs"),
    ],
)
def test_wrong_arguments_of_writing(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        to_geojson(cells(3), tmp_path / "a.geojson", **{"mpp": 0.25, **options})
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_of_reading(tmp_path):
    path = to_geojson(cells(3), tmp_path / "a.geojson", mpp=0.25)
    for options, message in [
        ({"outline": "body"}, "outline"),
        ({"object_types": "nucleus"}, "object_types"),
        ({"raster_mpp": 0.0}, "raster_mpp"),
        ({"outline": "nucleus"}, "feature 1.*has no nucleusGeometry"),
        ({"kind": "organ"}, "kind"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_geojson(path, **options)
    with pytest.raises(TypeError, match="expected Entities"):
        to_geojson(3, tmp_path / "b.geojson", mpp=0.25)
    with pytest.raises(TypeError, match="in the iterable"):
        to_geojson([3], tmp_path / "b.geojson", mpp=0.25)
