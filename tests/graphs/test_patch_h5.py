"""Files of CLAM, TRIDENT and STAMP become valid patch graphs, wrong ones a clear error, and graphs go back to files."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

import histograph as hg
from histograph.cli import main
from histograph.graphs import layer
from histograph.graphs.patch_edges import is_lattice, patch_edges
from histograph.graphs.patch_scale import measured_step

REAL = Path(__file__).parent.parent / "data" / "patch_features"
MPP = 0.25
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "slide",
    "savetodir": "None",
    "level0_width": 40000,
    "level0_height": 30000,
}
CLAM = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (2.0, 2.0),
    "downsampled_level_dim": (20000, 15000),
    "level_dim": (20000, 15000),
    "name": "slide",
    "save_path": "patches",
}
# an L of five patches, two steps away from a sixth
CORNERS = np.array([[1024, 512], [1536, 512], [2048, 512], [2048, 1024], [2048, 1536], [3072, 1536]])


def features(rows=6, columns=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def write(path, x=None, corners=CORNERS, attributes=TRIDENT, names=("features", "coords"), root=()):
    """A file of patch features as other tools make it."""
    x = features(len(corners)) if x is None else x
    with h5py.File(path, "w") as file:
        file[names[0]] = x
        if corners is not None:
            file[names[1]] = corners
            file[names[1]].attrs.update(attributes)
        file.attrs.update(dict(root))
    return path


def edge_set(graph):
    """Pairs of rounded positions, which do not depend on the order of the nodes."""
    place = [tuple(np.rint(p).astype(int)) for p in graph.pos.numpy()]
    return {(place[a], place[b]) for a, b in graph.edge_index.T.tolist()}


def brute_force(corner, step):
    """Every ordered pair less than one and a half steps away along both axes."""
    away = np.abs(corner[:, None] - corner[None]) / step
    near = (away < 1.5).all(axis=2) & ~np.eye(len(corner), dtype=bool)
    return set(zip(*(index.tolist() for index in np.nonzero(near)), strict=True))


def test_trident(tmp_path):
    x = features()
    graph = hg.read_trident(write(tmp_path / "slide.h5", x), mpp=MPP)
    hg.validate(graph)
    assert isinstance(graph, Data)
    assert torch.equal(graph.x, torch.from_numpy(x)) and graph.feature_names == ["f0", "f1", "f2", "f3"]
    np.testing.assert_array_equal(graph.pos.numpy(), (CORNERS + 256) * MPP)
    np.testing.assert_array_equal(graph.bbox.numpy(), np.hstack([CORNERS, CORNERS + 512]) * MPP)
    assert graph.id.tolist() == [0, 1, 2, 3, 4, 5] and graph.slide_id == "slide" and graph.mpp == (MPP, MPP)
    assert set(map(tuple, graph.edge_index.T.tolist())) == brute_force(CORNERS, 512)
    assert graph.edge_attr_names[0] == "length" and graph.edge_attr[0, 0] == 128.0
    assert graph.provenance["slide"]["dimensions"] == [40000, 30000]
    assert graph.provenance["patch_file"]["target_magnification"] == 20
    assert "savetodir" not in graph.provenance["patch_file"]  # written as "None"


def test_edges_are_those_of_build_graph(tmp_path):
    path = write(tmp_path / "slide.h5")
    graph = hg.read_trident(path, mpp=MPP)
    edge_index, edge_attr = hg.grid_edges(graph.pos, spacing_um=128.0, attributes=("length", "sin", "cos"))
    assert torch.equal(graph.edge_index, edge_index) and torch.allclose(graph.edge_attr, edge_attr)


@pytest.mark.parametrize("corner_type", ["<i4", ">i8", "<u2", "<f4", "<f8"])
@pytest.mark.parametrize("feature_type", ["<f2", ">f4", "<f8"])
def test_types_of_other_writers(corner_type, feature_type, tmp_path):
    x = features().astype(feature_type)
    graph = hg.read_trident(write(tmp_path / "slide.h5", x, CORNERS.astype(corner_type)), mpp=MPP)
    np.testing.assert_array_equal(graph.x.numpy(), x.astype(np.float32))
    np.testing.assert_array_equal(graph.pos.numpy(), (CORNERS + 256) * MPP)


def test_leading_axis_of_one(tmp_path):
    x = features()
    graph = hg.read_trident(write(tmp_path / "slide.h5", x[None], CORNERS[None]), mpp=MPP)
    assert torch.equal(graph.x, torch.from_numpy(x)) and graph.num_nodes == 6


@pytest.mark.parametrize(
    "attributes",
    [
        {"patch_size_level0": 512},
        {"patch_size": 512, "patch_level": 0},
        {"patch_size": 256, "patch_level": 1, "downsample": 2.0},
        {"patch_size": 256, "patch_level": 1, "downsample": (2.0, 2.0)},
        {"patch_size": 128, "patch_level": 1, "downsample": 2.0, "custom_downsample": 2},
        {"patch_size": 256, "level0_magnification": 40, "target_magnification": 20},
        {"patch_size": 256, "level0_magnification": 40.0, "target_magnification": 20, "overlap": "None"},
    ],
)
def test_spellings_of_the_patch_size(attributes, tmp_path):
    graph = hg.read_patch_features(write(tmp_path / "slide.h5", attributes=attributes), mpp=MPP)
    np.testing.assert_array_equal(graph.pos.numpy(), (CORNERS + 256) * MPP)


def test_clam_takes_attributes_from_the_file_of_patches(tmp_path):
    (tmp_path / "patches").mkdir()
    path = write(tmp_path / "slide.h5", attributes={})
    with h5py.File(tmp_path / "patches" / "slide.h5", "w") as file:
        file["coords"] = CORNERS
        file["coords"].attrs.update(CLAM)
    from_file = hg.read_clam(path, MPP, tmp_path / "patches" / "slide.h5")
    given_size = hg.read_clam(path, MPP, patch_size_level0=512)
    np.testing.assert_array_equal(from_file.pos.numpy(), (CORNERS + 256) * MPP)
    assert torch.equal(from_file.pos, given_size.pos) and torch.equal(
        from_file.edge_index, given_size.edge_index
    )


def test_the_file_of_features_has_the_last_word(tmp_path):
    path = write(tmp_path / "slide.h5")
    other = write(tmp_path / "other.h5", attributes={**TRIDENT, "patch_size_level0": 1024, "level0_mpp": 0.5})
    graph = hg.read_patch_features(path, coords_from=other)
    np.testing.assert_array_equal(graph.pos.numpy(), (CORNERS + 256) * 0.5)


def test_coordinates_only_in_the_other_file(tmp_path):
    path = write(tmp_path / "slide.h5", corners=None, x=features())
    other = write(tmp_path / "other.h5", names=("unused", "coords"), attributes=CLAM)
    graph = hg.read_clam(path, MPP, other)
    np.testing.assert_array_equal(graph.pos.numpy(), (CORNERS + 256) * MPP)
    with pytest.raises(ValueError, match=r"no coordinates.*coords_from"):
        hg.read_clam(path, MPP)


def test_other_file_of_another_run(tmp_path):
    path = write(tmp_path / "slide.h5", attributes={})
    moved = CORNERS.copy()
    moved[5, 1] += 1
    for other, message in ((CORNERS[:4], "holds 4 coordinates"), (moved, "first in row 5")):
        with pytest.raises(ValueError, match=message):
            hg.read_clam(path, MPP, write(tmp_path / "other.h5", corners=other, attributes=CLAM))


def test_stamp_counts_in_micrometres(tmp_path):
    corners = (np.array([[0, 0], [1, 0], [1, 1]]) * 256.0).astype(np.float32)
    root = {"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224, "stamp_version": "2.1"}
    path = write(tmp_path / "s.h5", features(3).astype(np.float16), corners, {}, ("feats", "coords"), root)
    graph = hg.read_patch_features(path, mpp=0.23)
    np.testing.assert_allclose(graph.pos.numpy(), corners + 128, rtol=1e-6)
    assert graph.num_edges == 6 and graph.mpp == (0.23, 0.23)
    hg.write_patch_features(graph, tmp_path / "t.h5")
    again = hg.read_patch_features(tmp_path / "t.h5")
    np.testing.assert_allclose(again.pos.numpy(), graph.pos.numpy(), atol=0.23)


def test_real_file_with_coordinates():
    path = REAL / "TCGA-AD-6964-01Z-00-DX1_features.h5"
    graph = hg.read_patch_features(path, mpp=0.5, patch_size_level0=512)
    with h5py.File(path) as file:
        corners, x = file["coords"][:], file["feats"][:]
    np.testing.assert_array_equal(graph.pos.numpy(), (corners + 256) * 0.5)
    np.testing.assert_array_equal(graph.x.numpy(), x)
    assert set(map(tuple, graph.edge_index.T.tolist())) == brute_force(corners, 512)
    with pytest.raises(ValueError, match=r"patch_size_level0=.*lie 512 apart"):
        hg.read_patch_features(path, mpp=0.5)


def test_real_file_without_coordinates():
    with pytest.raises(ValueError, match=r"no coordinates.*metadata.*0_0_0_506\.jpg.*coords_from"):
        hg.read_patch_features(REAL / "TCGA-3X-AAVA-01Z-00-DX1_features.h5", mpp=0.5, patch_size_level0=512)


def test_coordinates_in_the_names_of_tiles(tmp_path):
    path = write(tmp_path / "slide.h5", features(3), None)
    with h5py.File(path, "a") as file:
        file["metadata"] = ["Tile_(16896,20480).jpg", "Tile_(17408, 20480).jpg", "Tile_(0,0).jpg"]
    graph = hg.read_patch_features(path, mpp=1.0, patch_size_level0=512)
    assert graph.pos.tolist() == [[17152, 20736], [17664, 20736], [256, 256]]
    assert graph.edge_index.tolist() == [[0, 1], [1, 0]]


def test_unequal_pixels(tmp_path):
    graph = hg.read_trident(write(tmp_path / "slide.h5"), mpp=(0.25, 0.5))
    np.testing.assert_array_equal(graph.pos.numpy(), (CORNERS + 256) * [0.25, 0.5])
    assert set(map(tuple, graph.edge_index.T.tolist())) == brute_force(CORNERS, 512)
    again = hg.read_patch_features(hg.write_patch_features(graph, tmp_path / "again.h5"))
    assert torch.equal(again.pos, graph.pos) and again.mpp == (0.25, 0.5)


def test_mpp_is_never_guessed(tmp_path):
    # field bug E.12
    path = write(tmp_path / "slide.h5", attributes={**TRIDENT, "mpp": 0.5})
    with pytest.raises(ValueError, match=r"µm a level-0 pixel.*mpp=0\.5.*not guessed.*mpp="):
        hg.read_trident(path)
    with h5py.File(path, "a") as file:
        file["coords"].attrs["level0_mpp"] = 0.2499
    assert hg.read_trident(path).mpp == (0.2499, 0.2499)
    assert hg.read_trident(path, mpp=0.3).mpp == (0.3, 0.3)


def test_overlap_makes_the_step(tmp_path):
    corners = np.array([[0, 0], [384, 0], [768, 0], [0, 384]])
    path = write(tmp_path / "slide.h5", corners=corners, attributes={**TRIDENT, "overlap": 64})
    graph = hg.read_trident(path, mpp=MPP)
    assert graph.provenance["entities"]["patch"]["step_um"] == [96.0, 96.0]
    assert set(map(tuple, graph.edge_index.T.tolist())) == brute_force(corners, 384)
    # CLAM does not record the step: it is seen in the coordinates
    seen = hg.read_clam(write(tmp_path / "c.h5", corners=corners, attributes=CLAM), MPP)
    assert torch.equal(seen.edge_index, graph.edge_index)
    wide = hg.read_clam(tmp_path / "c.h5", MPP, step_level0=768)
    assert torch.equal(wide.edge_index, hg.radius_edges(wide.pos, 768 * 1.4 * MPP)[0])


def test_scattered_patches_are_not_joined_over_gaps(tmp_path):
    corners = np.array([[0, 0], [5120, 0], [10240, 0], [10240, 5120]])
    assert hg.read_trident(write(tmp_path / "slide.h5", corners=corners), mpp=MPP).num_edges == 0


def test_a_lattice_in_each_piece_of_tissue(tmp_path):
    # as CLAM does: the second piece starts at its own bounding box
    rows, columns = np.mgrid[:4, :5]
    first = np.stack([columns.ravel(), rows.ravel()], axis=1) * 512 + [100, 40]
    second = first + np.array([5 * 512 + 77, 203])
    corners = np.concatenate([first, second])
    graph = hg.read_clam(write(tmp_path / "slide.h5", corners=corners, attributes=CLAM), MPP)
    assert set(map(tuple, graph.edge_index.T.tolist())) == brute_force(corners, 512)
    inside = (graph.edge_index < 20).all(dim=0)
    alone = hg.grid_edges(graph.pos[:20], spacing_um=128.0)[0]
    assert torch.equal(graph.edge_index[:, inside], alone)


def test_duplicate_positions_are_kept_and_joined(tmp_path):
    corners = np.concatenate([CORNERS, CORNERS[:2]])
    graph = hg.read_trident(write(tmp_path / "slide.h5", corners=corners), mpp=MPP)
    hg.validate(graph)
    assert graph.num_nodes == 8 and set(map(tuple, graph.edge_index.T.tolist())) == brute_force(corners, 512)
    twins = (graph.edge_index[0] == 0) & (graph.edge_index[1] == 6)
    assert graph.edge_attr[twins, 0].tolist() == [0.0]
    again = hg.read_patch_features(hg.write_patch_features(graph, tmp_path / "again.h5"))
    assert torch.equal(again.pos, graph.pos) and torch.equal(again.edge_index, graph.edge_index)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_edges_are_the_rule_on_any_points(data):
    count = data.draw(st.integers(0, 25))
    places = st.tuples(st.integers(0, 40), st.integers(0, 40))
    corner = np.array(data.draw(st.lists(places, min_size=count, max_size=count)), dtype=float).reshape(-1, 2)
    lattice = data.draw(st.booleans())
    corner = np.unique(corner, axis=0) * 8 if lattice else corner
    step = np.array([8.0, 8.0])
    assert not lattice or is_lattice(corner / step - (corner / step).min(axis=0, initial=1e9))
    edge_index, edge_attr = patch_edges(corner, step, torch.from_numpy(corner).float())
    assert set(map(tuple, edge_index.T.tolist())) == brute_force(corner, step)
    ends = corner[edge_index.numpy()]
    np.testing.assert_allclose(edge_attr[:, 0].numpy(), np.linalg.norm(ends[0] - ends[1], axis=1), rtol=1e-6)
    order = edge_index[0] * 100 + edge_index[1]
    assert (order[1:] > order[:-1]).all()


def test_measured_step_without_two_in_line():
    assert np.isinf(measured_step(np.array([[0.0, 0.0], [3.0, 5.0]]))).all()


@pytest.mark.parametrize("shape", [(0, 4), (0,)])
def test_no_patches_give_an_empty_graph(shape, tmp_path):
    path = write(tmp_path / "slide.h5", np.zeros(shape, np.float32), np.zeros((0, 2), np.int64))
    graph = hg.read_trident(path, mpp=MPP)
    hg.validate(graph)
    assert graph.num_nodes == 0 and graph.num_edges == 0 and graph.x.shape == (0, shape[-1])
    again = hg.read_patch_features(hg.write_patch_features(graph, tmp_path / "again.h5"))
    assert again.x.shape == graph.x.shape


def test_one_patch(tmp_path):
    graph = hg.read_trident(write(tmp_path / "slide.h5", corners=CORNERS[:1]), mpp=MPP)
    assert graph.pos.tolist() == [[320.0, 192.0]] and graph.num_edges == 0


def nan_in_row(row, value):
    x = features()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": features(5)}, "5 rows of features but 6 coordinates"),
        ({"x": nan_in_row(3, np.nan)}, r"features holds NaN or infinity in 1 of 6 rows, first in row 3"),
        ({"x": nan_in_row(2, -np.inf)}, "first in row 2"),
        ({"x": np.full((6, 2), 1e300)}, "first in row 0"),  # more than float32 holds
        ({"x": features(1, 7)[0]}, "one vector for the whole slide"),
        ({"x": np.zeros((6, 2, 3, 3), np.float32)}, r"must have shape \(N, F\)"),
        ({"x": [b"text"] * 6}, "must hold numbers"),
        ({"corners": np.zeros((6, 3))}, r"must have shape \(N, 2\)"),
        ({"corners": np.where(CORNERS == 3072, np.nan, CORNERS)}, "coords holds NaN.*first in row 5"),
        ({"corners": [b"text"] * 6, "x": features(6)}, "must hold numbers"),
        ({"names": ("vectors", "coords")}, r"no dataset called features.*vectors \(6, 4\).*features_key="),
        ({"attributes": {**TRIDENT, "unit": "furlong"}}, "furlong"),
        ({"attributes": {}}, r"how large a patch.*patch_size_level0="),
        ({"attributes": {"patch_size": 256, "patch_level": 1}}, "how large a patch"),
        ({"attributes": {"patch_size_level0": 0}}, "attribute patch_size_level0.*positive"),
        ({"attributes": {"patch_size_level0": "large"}}, "attribute patch_size_level0.*positive"),
        ({"attributes": {**TRIDENT, "level0_mpp": -1.0}}, "level0_mpp.*positive"),
    ],
)
def test_wrong_content_is_one_clear_error(options, message, tmp_path):
    path = write(tmp_path / "slide.h5", **options)
    mpp = None if "level0_mpp" in message else MPP
    with pytest.raises(ValueError, match=message) as error:
        hg.read_patch_features(path, mpp=mpp)
    assert "slide.h5" in str(error.value)


def test_several_candidates(tmp_path):
    path = write(tmp_path / "slide.h5")
    with h5py.File(path, "a") as file:
        file["feats"] = features(columns=2)
        file["deep/vectors"] = features(columns=3)
    with pytest.raises(ValueError, match=r"both features and feats.*features_key="):
        hg.read_patch_features(path, mpp=MPP)
    assert hg.read_patch_features(path, mpp=MPP, features_key="feats").x.shape == (6, 2)
    assert hg.read_patch_features(path, mpp=MPP, features_key="deep/vectors").x.shape == (6, 3)
    with pytest.raises(ValueError, match=r"coords_key: .* no dataset 'corners'"):
        hg.read_patch_features(path, mpp=MPP, features_key="feats", coords_key="corners")


def test_old_clam_bags_count_in_pixels_of_their_level(tmp_path):
    path = write(tmp_path / "slide.h5", attributes={}, corners=CORNERS // 2)
    with h5py.File(path, "a") as file:
        file["imgs"] = np.zeros((6, 1, 1, 3), np.uint8)
        file["imgs"].attrs.update({"patch_level": 1, "downsample": (2.0, 2.0)})
    with pytest.raises(ValueError, match=r"level 1.*not of level 0"):
        hg.read_clam(path, MPP, patch_size_level0=512)


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), (0.5, 0.5, 0.5), "half"])
def test_bad_mpp(mpp, tmp_path):
    with pytest.raises(ValueError, match="mpp: expected a positive number"):
        hg.read_trident(write(tmp_path / "slide.h5"), mpp=mpp)


def test_no_hdf5_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hg.read_trident(tmp_path / "nowhere.h5", mpp=MPP)
    with pytest.raises(IsADirectoryError, match="folder"):
        hg.read_trident(tmp_path, mpp=MPP)
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "empty.h5").write_bytes(b"")
    for name in ("text.h5", "empty.h5"):
        with pytest.raises(ValueError, match=f"{name}: not an HDF5 file"):
            hg.read_trident(tmp_path / name, mpp=MPP)
    whole = write(tmp_path / "slide.h5", features(6, 400)).read_bytes()
    for share in (2, 4):
        (tmp_path / "half.h5").write_bytes(whole[: len(whole) // share])
        with pytest.raises(ValueError, match=r"half\.h5: damaged or cut off"):
            hg.read_trident(tmp_path / "half.h5", mpp=MPP)


def test_without_h5py(monkeypatch, tmp_path):
    path = write(tmp_path / "slide.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install \"histograph\[interop\]\""):
        hg.read_trident(path, mpp=MPP)


def test_names_and_slide_id(tmp_path):
    path = write(tmp_path / "slide.h5")
    graph = hg.read_trident(path, MPP, feature_names=["a", "b", "c", "d"], slide_id="other")
    assert graph.feature_names == ["a", "b", "c", "d"] and graph.slide_id == "other"
    with pytest.raises(ValueError, match=r"feature_names: expected 4 names.*found 1"):
        hg.read_trident(path, MPP, feature_names=["a"])
    again = hg.read_patch_features(hg.write_patch_features(graph, tmp_path / "again.h5"))
    assert again.feature_names == graph.feature_names


@pytest.mark.parametrize("layout", ["trident", "clam"])
@pytest.mark.parametrize("attributes", [TRIDENT, CLAM], ids=["from trident", "from clam"])
def test_round_trip_is_exact(layout, attributes, tmp_path):
    path = write(tmp_path / "slide.h5", corners=CORNERS[[3, 0, 5, 1, 4, 2]], attributes=attributes)
    graph = hg.read_patch_features(path, mpp=0.2527)
    stored = hg.load(hg.save(graph, tmp_path / "slide.safetensors"))  # in another order of nodes
    assert stored.id.tolist() != graph.id.tolist()
    for source in (graph, stored):
        written = hg.write_patch_features(source, tmp_path / "again.h5", layout=layout)
        with h5py.File(path) as before, h5py.File(written) as after:
            np.testing.assert_array_equal(after["features"][:], before["features"][:])
            np.testing.assert_array_equal(after["coords"][:], before["coords"][:])
            assert after["coords"].dtype == np.int64
            if (layout == "trident") == (attributes is TRIDENT):
                kept = {name: np.asarray(value).tolist() for name, value in after["coords"].attrs.items()}
                for name, value in attributes.items():
                    assert value == "None" or kept[name] == np.asarray(value).tolist(), name
        again = hg.read_patch_features(written, slide_id="slide")
        for name in ("x", "pos", "id", "edge_index", "edge_attr", "bbox", "area_um2"):
            assert torch.equal(again[name], graph[name]), name
        assert again.mpp == graph.mpp
    assert sorted(item.name for item in tmp_path.iterdir()) == ["again.h5", "slide.h5", "slide.safetensors"]


@pytest.mark.parametrize("layout", ["trident", "clam"])
@pytest.mark.parametrize(("mpp", "options"), [
    (0.5, {"size_um": 16.0}),
    (0.499, {"size_um": 10.3}),
    ((0.5, 0.25), {"size_um": 12.0, "overlap_um": 3.0}),
])  # fmt: skip
def test_patches_of_build_graph(layout, mpp, options, tmp_path):
    slide = hg.open_slide(np.random.default_rng(0).integers(0, 255, (150, 210, 3), np.uint8), mpp=mpp)
    graph = hg.build_graph(slide, {"patch": options}, mask=None, progress=False)
    again = hg.read_patch_features(hg.write_patch_features(graph, tmp_path / "a.h5", layout=layout))
    patches = layer(graph, "patch")
    order = torch.argsort(patches.id)
    assert torch.equal(again.id, patches.id[order]) and torch.equal(again.x, patches.x[order])
    assert again.feature_names == patches.feature_names
    off = (again.pos - patches.pos[order]).abs() / torch.tensor(graph.mpp)
    assert off.max() <= 1.0
    with h5py.File(tmp_path / "a.h5") as file:
        step = options["size_um"] - options.get("overlap_um", 0.0)
        np.testing.assert_allclose(file["coords"].attrs["step_um"], step)
    rank = torch.argsort(order)
    expected = {tuple(pair) for pair in rank[patches.edge_index].T.tolist()}
    assert {tuple(pair) for pair in again.edge_index.T.tolist()} == expected


def test_written_file_is_understood_without_our_attributes(tmp_path):
    slide = hg.open_slide(np.full((400, 600, 3), 120, np.uint8), mpp=0.5)
    graph = hg.build_graph(
        slide, {"patch": {"size_um": 25.5}}, mask=None, progress=False, features={"patch": ()}
    )
    for layout in ("trident", "clam"):
        path = hg.write_patch_features(graph, tmp_path / f"{layout}.h5", layout=layout)
        with h5py.File(path, "a") as file:
            for name in ("level0_mpp", "patch_size_um", "step_um"):
                del file["coords"].attrs[name]
        again = hg.read_patch_features(path, mpp=0.5)
        assert edge_set(again) == edge_set(layer(graph, "patch"))


def test_another_mpp_or_size_than_that_of_the_file(tmp_path):
    graph = hg.read_trident(write(tmp_path / "slide.h5"), mpp=MPP)
    path = hg.write_patch_features(graph, tmp_path / "a.h5")
    twice = hg.read_patch_features(path, mpp=2 * MPP)  # the patches keep their pixels
    assert torch.equal(twice.pos, 2 * graph.pos) and torch.equal(twice.edge_index, graph.edge_index)
    path = hg.write_patch_features(graph, tmp_path / "a.h5", patch_size_um=100.0)
    with h5py.File(path) as file:
        attributes = dict(file["coords"].attrs)
    assert attributes["patch_size"] == attributes["patch_size_level0"] == 400
    assert "target_magnification" not in attributes
    assert torch.equal(hg.read_patch_features(path).pos, graph.pos)


def test_size_of_the_patches_when_provenance_is_lost(tmp_path):
    graph = hg.read_trident(write(tmp_path / "slide.h5"), mpp=MPP)
    item = hg.GraphDataset([graph])[0]
    assert "provenance" not in item
    again = hg.read_patch_features(hg.write_patch_features(item, tmp_path / "a.h5"))
    assert torch.equal(again.pos, graph.pos) and torch.equal(again.edge_index, graph.edge_index)
    del item.bbox
    with pytest.raises(ValueError, match="patch_size_um: the graph records no size"):
        hg.write_patch_features(item, tmp_path / "b.h5")
    again = hg.read_patch_features(hg.write_patch_features(item, tmp_path / "b.h5", patch_size_um=128.0))
    assert torch.equal(again.pos, graph.pos)
    with pytest.raises(ValueError, match="patch_size_um: expected positive"):
        hg.write_patch_features(item, tmp_path / "b.h5", patch_size_um=-1.0)


def test_writing_refuses_what_is_wrong_and_leaves_no_part(tmp_path):
    graph = hg.read_trident(write(tmp_path / "slide.h5"), mpp=MPP)
    with pytest.raises(ValueError, match="layout: expected one of trident, clam, found 'stamp'"):
        hg.write_patch_features(graph, tmp_path / "a.h5", layout="stamp")
    with pytest.raises(OSError, match="nowhere"):
        hg.write_patch_features(graph, tmp_path / "nowhere" / "a.h5")
    slide = hg.open_slide(np.zeros((8, 8, 3), np.uint8), mpp=1.0)
    regions = hg.build_graph(slide, {"region": {"size_um": 8.0}}, mask=None, progress=False)
    with pytest.raises(ValueError, match="no 'patch' in the graph"):
        hg.write_patch_features(regions, tmp_path / "a.h5")
    graph.x[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        hg.write_patch_features(graph, tmp_path / "a.h5")
    assert [item.name for item in tmp_path.iterdir()] == ["slide.h5"]


def folder_of(path, count=3, columns=4):
    path.mkdir()
    for number in range(count):
        write(path / f"s{number}.h5", features(6, columns, number))
    return path


def test_convert_many(tmp_path):
    source = folder_of(tmp_path / "h5")
    (source / "broken.h5").write_text("no HDF5")
    files = sorted(source.iterdir())
    table = hg.convert_many(files, tmp_path / "g", mpp={"s0": 0.25, "s1": 0.5}, progress=False)
    assert table["status"].tolist() == ["failed", "built", "built", "failed"]
    assert "not an HDF5 file" in table["error"][0] and "mpp" in table["error"][3]
    assert hg.load(tmp_path / "g" / "s1.safetensors").mpp == (0.5, 0.5)
    again = hg.convert_many(files, tmp_path / "g", mpp={"s0": 0.25, "s1": 0.3, "s2": 0.25}, progress=False)
    assert again["status"].tolist() == ["failed", "skipped", "built", "built"]
    data = hg.GraphDataset(tmp_path / "g")
    assert data.slide_ids == ["s0", "s1", "s2"] and data.node_dim == 4
    with pytest.raises(ValueError, match="not an HDF5 file"):
        hg.convert_many(files, tmp_path / "g", mpp=0.25, skip_errors=False, progress=False)
    with pytest.raises(FileNotFoundError, match="coords_from: no folder"):
        hg.convert_many(files, tmp_path / "g", mpp=0.25, coords_from=files[0], progress=False)


@pytest.mark.parametrize("name", ["{}.h5", "{}_patches.h5"])
def test_convert_many_finds_the_files_of_coordinates(name, tmp_path):
    source = folder_of(tmp_path / "h5", 2)
    (tmp_path / "patches").mkdir()
    for path in source.iterdir():
        write(path, attributes={})
        write(tmp_path / "patches" / name.format(path.stem), attributes=CLAM, names=("none", "coords"))
    table = hg.convert_many(
        sorted(source.iterdir()), tmp_path / "g", 0.25, coords_from=tmp_path / "patches", progress=False
    )
    assert table["status"].tolist() == ["built", "built"]


def test_mixed_feature_widths_are_a_clear_error(tmp_path):
    source = folder_of(tmp_path / "h5", 2)
    write(source / "s2.h5", features(6, 7))
    hg.convert_many(sorted(source.iterdir()), tmp_path / "g", mpp=0.25, progress=False)
    with pytest.raises(ValueError, match=r"s2.*differ in feature_names: 7 and 4 columns.*one encoder"):
        hg.GraphDataset(tmp_path / "g")


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def test_command(tmp_path, capsys):
    source = folder_of(tmp_path / "h5", 2)
    assert run("convert", source, "--out", tmp_path / "g", "--mpp", 0.25) == 0
    assert "6 nodes" in capsys.readouterr().out
    assert run("convert", source, "--out", tmp_path / "g", "--mpp", 0.25) == 0
    assert capsys.readouterr().out.count("skipped") == 2
    assert run("convert", source, "--out", tmp_path / "g") == 1
    assert "mpp=" in capsys.readouterr().out
    (source / "broken.h5").write_text("no HDF5")
    (tmp_path / "mpp.csv").write_text("slide_id,mpp\ns0,0.25\ns1,0.5\n")
    assert run("convert", source, "--out", tmp_path / "t", "--mpp-table", tmp_path / "mpp.csv") == 1
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        "manifest.parquet", "s0.safetensors", "s1.safetensors"
    ]  # fmt: skip
    assert hg.load(tmp_path / "t" / "s1.safetensors").mpp == (0.5, 0.5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("slide,mpp\na,1\n", "columns slide_id and mpp"),
        ("slide_id,mpp\na,x\n", "line 2: 'x' is not a number"),
    ],
)
def test_command_with_a_bad_table(table, message, tmp_path, capsys):
    source = folder_of(tmp_path / "h5", 1)
    (tmp_path / "mpp.csv").write_text(table)
    assert run("convert", source, "--out", tmp_path / "g", "--mpp-table", tmp_path / "mpp.csv") == 1
    assert message in capsys.readouterr().err


def test_command_without_files(tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    assert run("convert", tmp_path / "nothing", "--out", tmp_path / "g", "--mpp", 0.25) == 1
    assert "holds no file of patch features (.h5, .hdf5)" in capsys.readouterr().err
    assert run("convert", tmp_path / "nowhere", "--out", tmp_path / "g", "--mpp", 0.25) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, value", [("id", np.ones(6, np.int64)), ("id/x", np.arange(6)), ("feature_names", np.arange(4))]
)
def test_ids_and_names_that_are_something_else(tmp_path, name, value):
    path = write(tmp_path / "slide.h5")
    with h5py.File(path, "a") as file:
        file[name] = value
    graph = hg.read_trident(path, mpp=MPP)
    assert graph.id.tolist() == list(range(6)) and graph.feature_names == ["f0", "f1", "f2", "f3"]
