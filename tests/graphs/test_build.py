"""From a made-up slide to a valid graph, by every kind of entity, edge and feature."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from histograph.entities import Entities, patches
from histograph.features import PatchEncoder, entity_features, feature_names
from histograph.graphs import build_graph, knn_edges, load, save, validate
from histograph.graphs.plan import make_plan
from histograph.slides import open_slide

NEAR, TOUCHES = ("cell", "near", "cell"), ("cell", "touches", "cell")


def picture(size=512, seed=0):
    """A fake H&E image at 0.5 µm a pixel: white glass, pink tissue, purple discs; and the discs' labels."""
    random = np.random.default_rng(seed)
    image = np.full((size, size, 3), 245, np.uint8)
    image[40:-40, 40:-40] = random.normal((225, 150, 190), 6, (size - 80, size - 80, 3)).clip(0, 255)
    labels = np.zeros((size, size), np.int32)
    row, column = np.indices(labels.shape)
    centres = [(y, x) for y in range(60, size - 60, 30) for x in range(60, size - 60, 30)]
    for number, (y, x) in enumerate(centres, start=1):
        y, x = y + random.integers(-6, 7), x + random.integers(-6, 7)
        labels[(row - y) ** 2 + (column - x) ** 2 <= random.integers(6, 10) ** 2] = number
    image[labels > 0] = (90, 50, 140)
    return image, labels


@pytest.fixture(scope="module")
def made():
    image, labels = picture()
    return open_slide(image, mpp=0.5), labels


@pytest.fixture(scope="module")
def graph(made):
    slide, labels = made
    entities = {"cell": labels, "tissue": None, "patch": {"size_um": 32.0}, "region": {"size_um": 100.0}}
    return build_graph(slide, entities, progress=False)


def test_the_graph_is_complete_and_valid(graph, made):
    validate(graph)
    assert graph.node_types == ["cell", "tissue", "patch", "region"]
    assert set(graph.edge_types) == {
        NEAR, ("tissue", "touches", "tissue"), ("patch", "next_to", "patch"), ("region", "next_to", "region"),
        ("cell", "in", "tissue"), ("cell", "in", "patch"), ("patch", "in", "region"),
    }  # fmt: skip
    assert sorted(graph["cell"].id.tolist()) == np.unique(made[1])[1:].tolist()
    assert graph["cell"].feature_names == feature_names(("shape", "color", "stain", "texture"))
    assert graph["patch"].feature_names == feature_names(("color", "stain", "texture"))
    assert graph[NEAR].edge_attr_names == ["length", "sin", "cos"] and graph[NEAR].edge_attr[:, 0].max() <= 50
    assert graph["tissue", "touches", "tissue"].edge_attr_names == ["length", "sin", "cos", "contact_um"]
    assert graph["patch", "in", "region"].num_edges == graph["patch"].num_nodes
    assert 0 < graph["cell", "in", "patch"].num_edges <= graph["cell"].num_nodes


def test_features_belong_to_their_cells(graph, made):
    slide, labels = made
    cells = Entities.from_instance_map(labels, mpp=0.5)
    table = entity_features(slide, cells)
    row = np.searchsorted(table.label, graph["cell"].id.numpy())
    assert np.array_equal(graph["cell"].x.numpy(), table.values[row])
    assert np.array_equal(graph["cell"].pos.numpy(), cells.centroid[row].astype(np.float32))
    assert np.array_equal(graph["cell"].area_um2.numpy(), cells.area[row].astype(np.float32))


def test_the_file_holds_the_graph(graph, tmp_path):
    again = load(save(graph, tmp_path / "a.safetensors"))
    assert again.provenance == graph.provenance and again.mpp == graph.mpp
    for store, twin in zip(graph.node_stores, again.node_stores, strict=True):
        assert all(torch.equal(store[name], twin[name]) for name in ("x", "pos", "id", "area_um2", "bbox"))
    for key in graph.edge_types:  # in storage order from the start
        assert torch.equal(graph[key].edge_index, again[key].edge_index)
        assert torch.equal(graph[key].edge_attr, again[key].edge_attr)


def test_provenance_says_how(graph):
    facts = graph.provenance
    assert facts["parameters"]["edges"]["cell|near|cell"] == {
        "method": "delaunay", "max_length_um": 50.0, "attributes": ["length", "sin", "cos"],
    }  # fmt: skip
    assert facts["parameters"]["entities"]["patch"]["size_um"] == 32.0
    assert facts["tissue_area_um2"] > 10_000 and facts["created_utc"].endswith("+00:00")
    assert {"histograph", "torch", "numpy"} <= set(facts["versions"])
    assert "cell features" in facts["seconds"]


def test_the_order_of_the_labels_does_not_matter(made):
    slide, labels = made
    shuffle = np.random.default_rng(5).permutation(labels.max()) + 1
    other = np.concatenate([[0], shuffle])[labels]
    options = {"edges": {"cell": ["delaunay", {"method": "contact", "gap_um": 3.0}]}, "progress": False}
    first = build_graph(slide, {"cell": labels, "patch": {"size_um": 32.0}}, **options)
    second = build_graph(slide, {"cell": other, "patch": {"size_um": 32.0}}, **options)
    assert shuffle[first["cell"].id.numpy() - 1].tolist() == second["cell"].id.tolist()
    for name in ("x", "pos", "area_um2", "bbox"):
        assert torch.equal(first["cell"][name], second["cell"][name])
    for key in (NEAR, TOUCHES, ("cell", "in", "patch")):
        assert first[key].num_edges > 0
        assert torch.equal(first[key].edge_index, second[key].edge_index)
        assert torch.equal(first[key].edge_attr, second[key].edge_attr)


def test_a_path_and_default_entities(tmp_path):
    image, _ = picture(320)
    Image.fromarray(image).save(tmp_path / "fake.png")
    graph = build_graph(tmp_path / "fake.png", mpp=0.5, progress=False)
    assert (
        graph.slide_id == "fake"
        and graph.node_types == ["cell", "tissue", "patch"]
        and graph.mpp == (0.5, 0.5)
    )
    assert graph["cell"].num_nodes > 20
    with pytest.raises(ValueError, match="mpp"):
        build_graph(tmp_path / "fake.png", progress=False)
    with pytest.raises(ValueError, match="an open slide has one already"):
        build_graph(open_slide(image, mpp=0.5), mpp=0.5)


@pytest.mark.parametrize("names", [("cell", "tissue", "patch"), ("region", "cell")])
def test_a_slide_without_tissue_gives_an_empty_graph(names, tmp_path):
    blank = open_slide(np.full((200, 300, 3), 250, np.uint8), mpp=1.0)
    graph = build_graph(blank, names, progress=False)
    validate(graph)
    assert set(graph.node_types) == set(names) and graph.num_nodes == 0
    for name in names:
        assert graph[name].x.shape == (0, len(graph[name].feature_names)) and graph[name].feature_names
    for key in graph.edge_types:
        assert graph[key].edge_attr.shape == (0, len(graph[key].edge_attr_names))
    assert load(save(graph, tmp_path / "a.safetensors")).provenance["tissue_area_um2"] == 0.0


def test_edge_methods(made):
    slide, labels = made
    edges = {
        "cell": [{"method": "knn", "k": 3, "attributes": ("dx", "angle")}, {"method": "contact", "gap_um": 4}]
    }
    graph = build_graph(slide, {"cell": labels}, edges=edges, features={"cell": ()}, progress=False)
    assert graph[NEAR].edge_attr_names == ["length", "dx", "angle"]
    expected, attributes = knn_edges(graph["cell"].pos, 3, ("length", "dx", "angle"))
    assert torch.equal(graph[NEAR].edge_index, expected) and torch.equal(graph[NEAR].edge_attr, attributes)
    assert graph[TOUCHES].edge_attr.shape[1] == 4 and graph[TOUCHES].num_edges > 0
    assert graph["cell"].x.shape[1] == 0
    graph = build_graph(slide, {"cell": labels}, edges={"near": None, TOUCHES: "contact"}, progress=False)
    assert graph.edge_types == [TOUCHES]
    graph = build_graph(
        slide, {"cell": labels}, edges={"near": {"method": "radius", "radius_um": 20}}, progress=False
    )
    assert 0 < graph[NEAR].edge_attr[:, 0].max() <= 20


def test_contact_lengths_belong_to_their_edges():
    labels = np.zeros((20, 20), int)
    labels[2:6, 2:6], labels[2:6, 6:9], labels[6:9, 3:5] = 5, 2, 9
    slide = open_slide(np.full((20, 20, 3), 130, np.uint8), mpp=1.0)
    graph = build_graph(slide, {"cell": labels}, edges={"cell": "contact"}, mask=None, progress=False)
    ids = graph["cell"].id[graph[TOUCHES].edge_index].T.tolist()
    border = dict(zip(map(tuple, ids), graph[TOUCHES].edge_attr[:, 3].tolist(), strict=True))
    assert border == {(5, 2): 4.0, (2, 5): 4.0, (5, 9): 2.0, (9, 5): 2.0}


def test_cells_off_tissue_and_off_patches_have_no_parent():
    # field bug E.8
    labels = np.zeros((64, 64), int)
    labels[2:5, 2:5], labels[50:54, 50:54] = 1, 2
    tissue = np.zeros((64, 64), int)
    tissue[:20, :20], tissue[:20, 20:40] = 1, 2
    slide = open_slide(np.full((64, 64, 3), 130, np.uint8), mpp=1.0)
    graph = build_graph(slide, {"cell": labels, "tissue": tissue}, mask=None, progress=False)
    inside = graph["cell", "in", "tissue"].edge_index
    assert graph["cell"].id[inside[0]].tolist() == [1] and graph["tissue"].id[inside[1]].tolist() == [1]


def test_ready_features_are_joined_on_labels(made):
    # field bug E.10: elsewhere features are matched with nodes by position
    slide, labels = made
    cells = Entities.from_instance_map(labels, mpp=0.5)
    value = cells.label.astype(float) * 10
    frame = pd.DataFrame({"ten": value}, index=cells.label).sample(frac=1.0, random_state=0)
    table = entity_features(slide, cells, groups=("shape",))
    for features, names in (
        (frame, ["ten"]),
        (value[:, None], ["feature_0"]),
        (torch.tensor(value)[:, None], None),
    ):
        graph = build_graph(slide, {"cell": cells}, features={"cell": features}, progress=False)
        assert torch.equal(graph["cell"].x[:, 0], graph["cell"].id.float() * 10)
        assert names is None or graph["cell"].feature_names == names
    graph = build_graph(slide, {"cell": cells}, features={"cell": table}, progress=False)
    assert graph["cell"].feature_names == table.names
    with pytest.raises(ValueError, match="no row for 1 of"):
        build_graph(slide, {"cell": cells}, features={"cell": frame.drop(index=5)}, progress=False)
    with pytest.raises(ValueError, match="more than one row"):
        build_graph(slide, {"cell": cells}, features={"cell": pd.concat([frame, frame])}, progress=False)
    with pytest.raises(ValueError, match="expected an array of shape"):
        build_graph(slide, {"cell": cells}, features={"cell": value}, progress=False)


def test_patch_encoder(made):
    slide, _ = made
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    encoder = PatchEncoder(pool, mean=(0, 0, 0), std=(1, 1, 1), size_px=8, mpp=4.0, name="pool")
    graph = build_graph(slide, {"patch": patches(slide, 32.0)}, features={"patch": encoder}, progress=False)
    assert graph["patch"].feature_names == ["pool_0", "pool_1", "pool_2"]
    assert graph.provenance["parameters"]["features"]["patch"]["encoder"]["name"] == "pool"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"entities": ("cells",)}, ValueError, "unknown 'cells'; valid are cell, tissue, patch, region"),
        ({"entities": "cell"}, TypeError, "found the string"),
        ({"entities": ()}, ValueError, "none asked for"),
        ({"entities": {"patch": {"size": 3}}}, ValueError, "unknown 'size'; valid are size_um"),
        ({"entities": {"cell": Entities.empty("tissue")}}, ValueError, "found 'tissue'"),
        ({"entities": {"cell": 3}}, TypeError, "found int"),
        ({"edges": {"cell": "nearest"}}, ValueError, "unknown 'nearest'; valid are delaunay, knn, radius"),
        (
            {"edges": {"cell": {"method": "knn", "radius": 3}}},
            ValueError,
            "unknown 'radius'; valid are method, k",
        ),
        # field bug E.3: elsewhere hops is accepted, and does nothing
        ({"edges": {TOUCHES: {"method": "contact", "hops": 2}}}, ValueError, "unknown 'hops'; valid are"),
        ({"edges": {"cell": {"attributes": ("weight",)}}}, ValueError, "unknown 'weight'; valid are length"),
        ({"edges": {"far": "knn"}}, ValueError, "unknown 'far'"),
        ({"edges": {"touches": {}}}, ValueError, "name the relation in full"),
        ({"edges": {"near": "contact"}}, ValueError, "unknown 'contact'; valid are delaunay, knn, radius"),
        ({"edges": {"region": "grid"}}, ValueError, "unknown 'region'; valid are cell, tissue, patch"),
        ({"edges": {("cell", "in", "patch"): {}}}, ValueError, "expected a node type, a relation"),
        ({"features": {"cell": ("colour",)}}, ValueError, "unknown 'colour'; valid are"),
        ({"features": {"region": ("color",)}}, ValueError, "unknown 'region'"),
        ({"features": {"cell": {"resolution": 1}}}, ValueError, "valid are groups, mpp"),
        ({"edges": {"cell": ["delaunay", "knn"]}}, ValueError, "asked for twice, the second time by 'knn'"),
        ({"edges": {NEAR: "knn", "cell": "radius"}}, ValueError, "asked for twice"),
        ({"mask": "none"}, TypeError, "mask: expected a TissueMask, 'auto' or None, found 'none'"),
        ({"mask": np.ones((512, 512), bool)}, TypeError, "mask: .* found ndarray"),
        ({"features": {"cell": pd.DataFrame({"a": [1.0]}, index=["7"])}}, ValueError, "labels .* found '7'"),
        ({"features": {"cell": pd.DataFrame({"a": ["x"]}, index=[7])}}, ValueError, "numbers .* others in a"),
    ],
)
def test_unknown_options_are_named(made, arguments, error, message):
    with pytest.raises(error, match=message):
        build_graph(made[0], progress=False, **arguments)


def test_edges_between_places_do_not_depend_on_features(made):
    # field bug E.9: elsewhere neighbours in space are looked for among the features, and those of features among places
    slide, labels = made
    cells = Entities.from_instance_map(labels, mpp=0.5)
    random = np.random.default_rng(0)
    for method in ({"method": "knn", "k": 3}, {"method": "delaunay"}, {"method": "radius", "radius_um": 20}):
        graphs = [
            build_graph(
                slide, {"cell": cells}, {"cell": method}, {"cell": features}, mask=None, progress=False
            )
            for features in (random.normal(size=(len(cells), 2)), 1e4 * random.normal(size=(len(cells), 2)))
        ]
        one, two = (graph[NEAR] for graph in graphs)
        assert torch.equal(one.edge_index, two.edge_index) and torch.equal(one.edge_attr, two.edge_attr)
    place = cells.centroid[np.searchsorted(cells.label, graphs[0]["cell"].id.numpy())]
    source, target = one.edge_index.numpy()
    near = np.hypot(*(place[source] - place[target]).T)
    np.testing.assert_allclose(one.edge_attr[:, 0], near, atol=1e-3)


def test_image_and_threads_are_left_alone():
    # field bug E.6: elsewhere the image of the caller is overwritten where a mask is given, and threads are set
    image, labels = picture(128)
    before, threads = image.copy(), torch.get_num_threads()
    slide = open_slide(image, mpp=0.5)
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    encoder = PatchEncoder(pool, mean=(0, 0, 0), std=(1, 1, 1), size_px=8, mpp=0.5, name="mean")
    build_graph(slide, {"cell": None, "patch": {"size_um": 16.0}}, mask=slide.tissue_mask(), progress=False)
    build_graph(slide, {"cell": labels}, features={"cell": encoder}, mask=slide.tissue_mask(), progress=False)
    assert np.array_equal(image, before) and torch.get_num_threads() == threads


def test_an_instance_map_needs_a_scale(made):
    with pytest.raises(ValueError, match=r"must have the level-0 shape \(512, 512\)"):
        build_graph(made[0], {"cell": np.eye(9, dtype=int)}, progress=False)
    half = np.zeros((256, 256), int)
    half[100:110, 100:110] = 4
    graph = build_graph(made[0], {"cell": {"instance_map": half, "mpp": 1.0}}, progress=False)
    assert graph["cell"].pos.tolist() == [[105.0, 105.0]]


def test_edges_by_relation_where_it_is_clear():
    plan = make_plan(("tissue", "patch"), {"touches": {"gap_um": 2.0}, "next_to": {"neighbors": 4}}, None)
    assert plan.edges["tissue", "touches", "tissue"]["gap_um"] == 2.0
    assert plan.edges["patch", "next_to", "patch"]["neighbors"] == 4


def test_graphs_of_two_slides_batch_in_pyg(made):
    from torch_geometric.data import Batch

    slide, labels = made
    other = open_slide(picture(seed=3)[0], mpp=0.5)
    options = {"entities": {"cell": labels, "patch": {"size_um": 32.0}}, "progress": False}
    batch = Batch.from_data_list([build_graph(item, **options) for item in (slide, other)])
    assert batch["cell"].num_nodes == 2 * (labels.max()) and batch.mpp == [(0.5, 0.5)] * 2


@pytest.mark.parametrize("mpp", [(0.5, 0.25), "0.5"])
def test_the_mpp_of_an_instance_map_is_one_number(made, mpp):
    slide, labels = made
    with pytest.raises(ValueError, match="mpp: expected a positive number"):
        build_graph(slide, {"cell": {"instance_map": labels, "mpp": mpp}}, mask=None, progress=False)


def test_cells_off_the_slide_are_refused(made):
    slide, labels = made
    message = r"entities\['cell'\]: \d+ of 196 lie off the slide, .* of 256.0 x 256.0 µm; check .* mpp \(2\)"
    for cells in ({"instance_map": labels, "mpp": 2.0}, Entities.from_instance_map(labels, 2.0)):
        with pytest.raises(ValueError, match=message):
            build_graph(slide, {"cell": cells}, features={"cell": ("shape",)}, mask=None, progress=False)
