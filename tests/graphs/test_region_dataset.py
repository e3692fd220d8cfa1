"""Regions as a data set: of graphs on disk and in memory, of grids, their neighbours, subsets and workers."""

import pickle

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import histograph as hg
from histograph import RegionDataset, build_graph, bundled, open_slide
from histograph.graphs import GraphDataset, GraphFile, grid_edges, save
from histograph.nn import to_grids

SIDE = 4  # patches along a region


def slide_graph(slide_id, seed=0, share=0.6, columns=3, rows=2, cells=200):
    """A slide of gray noise with regions of 4 x 4 patches, some of them missing, and cells."""
    generator = np.random.default_rng(seed)
    tissue = np.kron(generator.random((rows * SIDE, columns * SIDE)) < share, np.ones((8, 8), bool))
    slide = open_slide(np.full((*tissue.shape, 3), 150, np.uint8), mpp=1.0, slide_id=slide_id)
    labels = np.zeros(tissue.shape, int)
    for label, (row, column) in enumerate(generator.integers(0, tissue.shape, (cells, 2)), 1):
        labels[row, column] = label
    mask = hg.slides.TissueMask(tissue, 1.0)
    graph = build_graph(
        slide,
        {"cell": labels, "patch": {"size_um": 8.0}, "region": {"size_um": 32.0}},
        features={"cell": ("shape",), "patch": ("color",), "region": ()},
        mask=mask,
        progress=False,
    )
    graph["patch"].x = torch.from_numpy(generator.normal(size=(graph["patch"].num_nodes, 5))).float()
    graph["patch"].feature_names = [f"f{number}" for number in range(5)]
    return graph


@pytest.fixture(scope="module")
def graphs():
    return [slide_graph(name, seed) for seed, name in enumerate(("b", "a", "c"))]


@pytest.fixture
def folder(graphs, tmp_path):
    for graph in graphs:
        save(graph, tmp_path / f"{graph.slide_id}.safetensors")
    return tmp_path


def fields(item):
    names = ("x", "pos", "place", "id", "edge_index", "edge_attr", "region", "slide")
    return {name: item[name] for name in names if item.get(name) is not None}


def same(one, other):
    first, second = fields(one), fields(other)
    return (
        first.keys() == second.keys()
        and all(torch.equal(value, second[name]) for name, value in first.items())
        and one.slide_id == other.slide_id
    )


def test_regions_hold_their_patches_and_no_others(graphs):
    data = RegionDataset(graphs, grid=SIDE)
    assert data.slide_ids == ["b", "a", "c"] == data.patients and data.feature_dim == 5
    seen = {name: [] for name in data.slide_ids}
    for number, item in enumerate(data):
        graph = graphs[int(data.slide[number])]
        assert (
            item.region.tolist() == [number]
            and item.slide.tolist() == data.slide[number : number + 1].tolist()
        )
        assert item.x.dtype == torch.float32 and item.place.dtype == torch.int64
        row = int((graph["region"].id == data.region_id[number]).nonzero())
        corner = graph["region"].bbox[row, :2]
        assert torch.equal(data.pos[number], graph["region"].pos[row])
        centre = (item.place.flip(1) + 0.5) * 8.0 + corner  # column to x, row to y
        assert torch.equal(centre, item.pos)
        for node, name in enumerate(item.id.tolist()):
            patch = int((graph["patch"].id == name).nonzero())
            assert torch.equal(graph["patch"].x[patch], item.x[node])
        seen[item.slide_id] += item.id.tolist()
    for graph in graphs:  # each patch of a region once
        inside = graph["patch", "in", "region"].edge_index[0]
        assert sorted(seen[graph.slide_id]) == sorted(graph["patch"].id[inside].tolist())


def test_edges_are_those_inside_the_region(graphs):
    graph, data = graphs[0], RegionDataset(graphs[:1], grid=SIDE)
    ends = graph["patch"].id[graph["patch", "next_to", "patch"].edge_index]
    attribute = dict(
        zip(map(tuple, ends.T.tolist()), graph["patch", "next_to", "patch"].edge_attr, strict=True)
    )
    for item in data:
        inside = set(item.id.tolist())
        wanted = {pair for pair in attribute if set(pair) <= inside}
        found = [tuple(pair) for pair in item.id[item.edge_index].T.tolist()]
        assert len(found) == len(set(found)) and set(found) == wanted
        for pair, value in zip(found, item.edge_attr, strict=True):
            assert torch.equal(attribute[pair], value)
    bare = RegionDataset(graphs[:1], grid=SIDE, edges=False)
    assert all(item.get("edge_index") is None for item in bare)
    assert all(torch.equal(one.x, other.x) for one, other in zip(bare, data, strict=True))


def test_files_and_memory_agree(graphs, folder):
    ordered = sorted(graphs, key=lambda graph: graph.slide_id)
    memory = RegionDataset(ordered, grid=SIDE)
    for disk in (
        RegionDataset(folder, grid=SIDE),
        RegionDataset(GraphDataset(folder), grid=SIDE, keep_bytes=0),
        RegionDataset(folder, grid=SIDE, keep_bytes=3000),
    ):
        assert len(disk) == len(memory) and disk.slide_ids == ["a", "b", "c"]
        assert torch.equal(disk.region_edges, memory.region_edges) and torch.equal(disk.pos, memory.pos)
        for _ in range(2):  # the second time some come from memory
            assert all(same(one, other) for one, other in zip(disk, memory, strict=True))


def test_what_was_read_is_kept_up_to_the_limit(folder, monkeypatch):
    reads = []
    plain = GraphFile.subset
    monkeypatch.setattr(GraphFile, "subset", lambda *given, **more: reads.append(1) or plain(*given, **more))
    for limit, again in ((2**20, 0), (0, len(RegionDataset(folder, grid=SIDE)))):
        data = RegionDataset(folder, grid=SIDE, keep_bytes=limit)
        for item in data:
            item.x = None  # an item is the caller's, what is kept is not
        reads.clear()
        assert all(item.x is not None for item in data)
        assert len(reads) == again


def test_a_region_needs_only_its_rows(folder, monkeypatch):
    """Of a file, a region reads close to its own patches, for they lie together."""
    data = RegionDataset(folder, grid=SIDE, edges=False)
    rows = []
    plain = GraphFile._take

    def take(self, name, ranges, dim=0):
        if name == "patch.x":
            rows.extend(stop - start for start, stop in ranges)
        return plain(self, name, ranges, dim)

    monkeypatch.setattr(GraphFile, "_take", take)
    item = data[0]
    assert len(item.x) <= sum(rows) <= len(item.x) + 32 * len(item.x)


def test_neighbouring_regions(graphs):
    data = RegionDataset(graphs, grid=SIDE)
    wanted = {
        (i, j)
        for i in range(len(data))
        for j in range(len(data))
        if i != j
        and data.slide[i] == data.slide[j]
        and float((data.pos[i] - data.pos[j]).abs().max()) < 1.5 * 32
    }
    found = [tuple(pair) for pair in data.region_edges.T.tolist()]
    assert found == sorted(wanted) and len(found) > 20
    for graph in graphs:  # the same from positions alone
        bare = graph.clone()
        del bare["region", "next_to", "region"]
        one, other = (RegionDataset([item], grid=SIDE).region_edges for item in (graph, bare))
        assert torch.equal(one, other)


def test_subsets_have_numbers_of_their_own(graphs):
    data = RegionDataset(graphs, patients={"a": "p", "b": "q", "c": "p"}, grid=SIDE)
    assert data.patients == ["q", "p", "p"]
    rows = [len(data) - 1, 1, int((data.slide == 2).nonzero()[0])]
    part = data[rows]
    assert len(part) == 3 and part.slide_ids == ["b", "c"] and part.patients == ["q", "p"]
    assert part.slide.tolist() == [1, 0, 1]
    for number, row in enumerate(rows):
        one, whole = part[number], data[row]
        assert one.region.tolist() == [number] and one.slide_id == whole.slide_id
        assert torch.equal(one.x, whole.x) and torch.equal(part.pos[number], data.pos[row])
        assert torch.equal(part.region_id[number], data.region_id[row])
    mask = data.slide == 1
    assert data[mask].slide_ids == ["a"] and len(data[mask]) == int(mask.sum())
    assert [item.region.item() for item in data[2:5]] == [0, 1, 2] and len(data[:0]) == 0
    chosen = set(range(1, len(data), 2))
    place = {row: number for number, row in enumerate(sorted(chosen))}
    wanted = sorted((place[i], place[j]) for i, j in data.region_edges.T.tolist() if {i, j} <= chosen)
    assert [tuple(pair) for pair in data[1::2].region_edges.T.tolist()] == wanted
    twice = data[mask][[0]]
    assert torch.equal(twice[0].x, data[int(mask.nonzero()[0])].x)


def test_pickles_and_workers(folder):
    data = RegionDataset(folder, grid=SIDE)[1:]
    wanted = list(data)
    again = pickle.loads(pickle.dumps(data))
    assert all(same(one, other) for one, other in zip(again, wanted, strict=True))
    loader = DataLoader(data, batch_size=4, num_workers=1)
    batches = list(loader)
    assert torch.equal(torch.cat([batch.x for batch in batches]), torch.cat([item.x for item in wanted]))
    assert torch.cat([batch.region for batch in batches]).tolist() == list(range(len(data)))
    assert torch.equal(torch.cat([batch.slide for batch in batches]), data.slide)


def test_grids_there_and_back(graphs):
    """A batch of regions as grids, these as a data set, and its batch as grids again."""
    data = RegionDataset(graphs, grid=SIDE)
    grid, present = to_grids(Batch.from_data_list([Data(x=i.x, place=i.place) for i in data]), SIDE)
    split = [(data.slide == number).numpy() for number in range(3)]
    again = RegionDataset.from_grids(
        [grid[rows] for rows in split],
        slide_ids=data.slide_ids,
        present=[present[rows] for rows in split],
        pos=[data.pos[rows] for rows in split],
        patch_um=8.0,
    )
    assert torch.equal(again.slide, data.slide) and torch.equal(again.region_edges, data.region_edges)
    for one, other in zip(again, data, strict=True):
        order = np.lexsort((other.place[:, 1], other.place[:, 0]))
        assert torch.equal(one.x, other.x[order]) and torch.equal(one.place, other.place[order])
        torch.testing.assert_close(one.pos, other.pos[order])
        edges, length = grid_edges(one.pos, 8.0)
        assert torch.equal(one.edge_index, edges) and torch.equal(one.edge_attr, length)
        assert one.edge_index.shape == other.edge_index.shape
    back = to_grids(Batch.from_data_list([Data(x=i.x, place=i.place) for i in again]), SIDE)
    assert torch.equal(back[0], grid) and torch.equal(back[1], present)


@pytest.mark.parametrize("layout", ["slides.npy", "slides.pt", "named.npy", "folders.pt", "old.pt"])
def test_folders_of_grids(tmp_path, layout):
    generator = np.random.default_rng(0)
    grids = {
        name: generator.normal(size=(n, 6, 3, 2)).astype(np.float32) for name, n in (("s_1", 2), ("t", 3))
    }
    kind, suffix = layout.split(".")

    def write(path, array):
        if suffix == "npy":
            np.save(path.with_name(path.name + ".npy"), array)
        else:
            new = kind != "old"
            name = path.with_name(path.name + ".pt")
            torch.save(torch.from_numpy(array), name, _use_new_zipfile_serialization=new)

    for name, array in grids.items():
        if kind in ("slides", "old"):
            write(tmp_path / name, array)
            continue
        for number, one in enumerate(array):
            where = tmp_path / f"{name}_{number}_4096"
            if kind == "folders":
                (tmp_path / name).mkdir(exist_ok=True)
                where = tmp_path / name / f"region {number}"
            write(where, one)
    data = RegionDataset.from_grids(tmp_path)
    assert data.slide_ids == ["s_1", "t"] and data.slide.tolist() == [0, 0, 1, 1, 1] and data.feature_dim == 6
    everything = np.concatenate(list(grids.values()))
    for item, wanted in zip(data, everything, strict=True):
        assert np.array_equal(to_grids(item, (3, 2))[0][0], wanted)
        assert len(item.x) == 6 and item.edge_index.shape == (2, 22)
    assert torch.isnan(data.pos).all() and data.region_edges.shape == (2, 0)


def test_regions_of_grids_have_no_invented_patches():
    present = np.zeros((2, 3, 3), bool)
    present[0, 1] = True
    grids = np.where(present[:, None], 1.0, np.nan) * np.ones((2, 4, 3, 3))
    data = RegionDataset.from_grids([grids, grids[:1]], present=[present, ~present[1:]], slide_ids=["u", "v"])
    assert len(data) == 2 and data[0].place.tolist() == [[1, 0], [1, 1], [1, 2]]
    assert data[0].x.isfinite().all() and data[0].pos.tolist() == [[64, 192], [192, 192], [320, 192]]
    empty = RegionDataset.from_grids([grids], present=[np.zeros((1 + 1, 3, 3), bool)])
    assert len(empty) == 0 and empty.left_out == ["0"] and empty.slide_ids == []


def test_cells_lie_in_the_boxes_of_regions(graphs, folder):
    data, disk = RegionDataset(graphs, node_type="cell"), RegionDataset(folder, node_type="cell")
    total = 0
    for number, item in enumerate(data):
        graph = graphs[int(data.slide[number])]
        box = graph["region"].bbox[graph["region"].id == data.region_id[number]][0]
        inside = ((graph["cell"].pos >= box[:2]) & (graph["cell"].pos < box[2:])).all(1)
        assert torch.equal(item.id, graph["cell"].id[inside]) and item.get("place") is None
        assert torch.equal(item.x, graph["cell"].x[inside])
        assert item.edge_index.numel() == 0 or int(item.edge_index.max()) < len(item.x)
        total += len(item.x)
    assert total > 300
    by_name = {(item.slide_id, int(disk.region_id[row])): item for row, item in enumerate(disk)}
    for number, item in enumerate(data):
        other = by_name[item.slide_id, int(data.region_id[number])]
        assert torch.equal(item.x, other.x) and torch.equal(item.edge_index, other.edge_index)


def test_small_regions_and_slides_without_any_are_left_out(graphs):
    everything = RegionDataset(graphs, grid=SIDE)
    count = torch.tensor([len(item.x) for item in everything])
    few = RegionDataset(graphs, grid=SIDE, min_nodes=10)
    assert 0 < len(few) == int((count >= 10).sum()) < len(everything)
    bare = slide_graph("bare", share=0.0)
    data = RegionDataset([graphs[0], bare, graphs[1]], patients=["p", "q", "r"], grid=SIDE)
    assert data.left_out == ["bare"] and data.slide_ids == ["b", "a"] and data.patients == ["p", "r"]


def test_the_default_grids_of_patches_and_regions_fit():
    """Patches of 128 µm (256 px at 0.5 µm) and regions of 2,048 µm (4,096 px) on the bundled slide."""
    with open_slide(bundled.slide_path()) as slide:
        graph = build_graph(slide, ("patch", "region"), features={"patch": ("color",)}, progress=False)
    patch, region = graph["patch"], graph["region"]
    assert (patch.bbox[:, 2:] - patch.bbox[:, :2] == 128).all()
    assert (region.bbox[:, 2:] - region.bbox[:, :2] == 2048).all()
    source, target = graph["patch", "in", "region"].edge_index
    assert source.tolist() == list(range(patch.num_nodes))
    place = (patch.bbox[source, :2] - region.bbox[target, :2]) / 128
    assert (
        torch.equal(place, place.round()) and place.min() >= 0 and place.max() <= 15
    )  # 16 x 16 whole patches
    data = RegionDataset([graph])
    assert torch.equal(data[0].place, place.flip(1).long()) and len(data) == 1
    grid, present = to_grids(data[0], 16)
    assert present.sum() == patch.num_nodes and grid.shape == (1, data.feature_dim, 16, 16)


@pytest.mark.parametrize("mpp", [0.2431, 0.499, 1.0])
def test_grids_fit_at_any_pixel_size(mpp):
    """However large a pixel is: at most 16 x 16 whole patches in each region, each at a place of its own."""
    side = round(3300 / mpp / 16)
    with open_slide(np.full((side, side, 3), 120, np.uint8), mpp=mpp * 16) as slide:
        graph = build_graph(
            slide, ("patch", "region"), features={"patch": (), "region": ()}, mask=None, progress=False
        )
    data = RegionDataset([graph])
    assert len(data) == 4 and sorted(len(item.x) for item in data) == sorted([256, 16 * 9, 9 * 16, 81])
    for item in data:
        assert len(item.place.unique(dim=0)) == len(item.x)


def test_messages(graphs, tmp_path):
    with pytest.raises(ValueError, match="'b', which lie 8 µm apart; give grid=4"):
        RegionDataset(graphs, grid=3)
    with pytest.raises(ValueError, match="'b', which lie 8 µm apart; give grid=4"):
        RegionDataset(graphs, grid=16)
    with pytest.raises(ValueError, match=r"no 'tissue' to find in regions.*\['cell', 'patch', 'region'\]"):
        RegionDataset(graphs, node_type="tissue")
    with pytest.raises(ValueError, match="make the GraphDataset without node_type"):
        RegionDataset(GraphDataset(graphs, node_type="patch"))
    with pytest.raises(ValueError, match="no patient of 2 slides, first 'b'"):
        RegionDataset(graphs, patients={"a": "p"}, grid=SIDE)
    with pytest.raises(ValueError, match="patients: expected one for each of 3 slides"):
        RegionDataset(graphs, patients=["p"], grid=SIDE)
    with pytest.raises(ValueError, match="grid must be at least 1, found 0"):
        RegionDataset(graphs, grid=0)
    bare = graphs[0].clone()
    del bare["region"], bare["patch", "in", "region"], bare["region", "next_to", "region"]
    with pytest.raises(ValueError, match=r"'b' has no regions; build it with entities=\('patch', 'region'\)"):
        RegionDataset([bare])
    with pytest.raises(ValueError, match="'b' has no regions"):
        RegionDataset([save(bare, tmp_path / "bare.safetensors")])
    boxless = graphs[0].clone()
    del boxless["region"].bbox
    with pytest.raises(ValueError, match="the regions of 'b' have no bbox"):
        RegionDataset([boxless], grid=SIDE)
    strayed = graphs[0].clone()
    ends = strayed["patch", "in", "region"]
    ends.edge_index = ends.edge_index.clone()
    ends.edge_index[1] = ends.edge_index[1].roll(5)
    ends.edge_attr = (
        strayed["patch"].pos[ends.edge_index[0]] - strayed["region"].pos[ends.edge_index[1]]
    ).norm(dim=1, keepdim=True)
    with pytest.raises(ValueError, match="a patch of 'b' lies outside the region"):
        RegionDataset([strayed], grid=SIDE)
    data = RegionDataset(graphs, grid=SIDE)
    with pytest.raises(IndexError, match="more than once"):
        data[[0, 0]]
    with pytest.raises(IndexError, match="a mask of"):
        data[np.ones(2, bool)]
    with pytest.raises(IndexError):
        data[len(data)]
    with pytest.raises(
        ValueError, match=r"shape \(regions, F, rows, columns\), found \(256, 384\) in the first"
    ):
        RegionDataset.from_grids([np.zeros((256, 384))])
    grids = [np.zeros((2, 4, 3, 3)), np.zeros((1, 4, 3, 2))]
    with pytest.raises(
        ValueError, match=r"grids\[1\]: expected shape \(regions, 4, 3, 3\).*found \(1, 4, 3, 2\)"
    ):
        RegionDataset.from_grids(grids)
    with pytest.raises(ValueError, match="slide_ids: expected one for each of 1 slides, found 2"):
        RegionDataset.from_grids(grids[:1], slide_ids=["a", "b"])
    with pytest.raises(ValueError, match="slide_ids must be unique"):
        RegionDataset.from_grids(grids[:1] * 2, slide_ids=["a", "a"])
    with pytest.raises(
        ValueError, match=r"present\[0\]: expected booleans of shape \(2, 3, 3\), found float64"
    ):
        RegionDataset.from_grids(grids[:1], present=[np.ones((2, 3, 3))])
    with pytest.raises(ValueError, match=r"pos\[0\]: expected shape \(2, 2\)"):
        RegionDataset.from_grids(grids[:1], pos=[np.ones(2)])
    with pytest.raises(ValueError, match="found none"):
        RegionDataset.from_grids([])
    with pytest.raises(FileNotFoundError, match=r"no file \.pt or \.npy"):
        RegionDataset.from_grids(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        RegionDataset.from_grids(tmp_path / "none")
    np.save(tmp_path / "a.npy", np.zeros((4, 3, 3)))
    np.save(tmp_path / "b.npy", np.zeros((4, 3, 2)))
    with pytest.raises(ValueError, match=r"shape \(4, 3, 3\) of the first, found \(4, 3, 2\) in .*b\.npy"):
        RegionDataset.from_grids(tmp_path)[1]
    torch.save({"x": torch.zeros(1)}, tmp_path / "0.pt")
    with pytest.raises(ValueError, match="must hold one tensor, found dict"):
        RegionDataset.from_grids(tmp_path)
