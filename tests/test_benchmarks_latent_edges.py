"""Edges of two published baselines, right and as released, and what the benchmark of them prints."""

import doctest
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import Batch, Data

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import latent_edges
from peers import patch_gcn, slide_edges
from peers.patch_gcn import PatchGCN, fit_predict
from peers.slide_edges import patch_gcn_edges, wsi_hgnn_edges

K = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def disagreeing(width, nodes=30, seed=0):
    """Patches whose neighbours in space and in features have nothing to do with each other; no ties."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 5000, (nodes, 2)), rng.normal(size=(nodes, width))


def nearest(points, k=K):
    """What each point finds, one by one."""
    found = []
    for i, point in enumerate(points):
        away = ((points - point) ** 2).sum(1)
        away[i] = np.inf
        found.append(np.argsort(away)[:k])
    return np.array(found)


def found(edges, k=K):
    """Row i holds what patch i found, which is at the end of its edges."""
    source, target = edges.numpy().reshape(2, -1, k)
    assert (source == np.arange(len(source))[:, None]).all()
    return target


@pytest.mark.parametrize("module", [slide_edges, patch_gcn], ids=lambda module: module.__name__)
def test_examples(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_right_edges_are_of_places_and_of_features():
    pos, x = disagreeing(16)
    spatial, latent = patch_gcn_edges(pos, x, K)
    assert np.array_equal(found(spatial), nearest(pos)) and np.array_equal(found(latent), nearest(x))
    assert torch.equal(wsi_hgnn_edges(pos, x, K), spatial)
    assert slide_edges.shared(spatial, latent) < 0.3


def test_blocks_of_rows_change_nothing(monkeypatch):
    pos, x = disagreeing(5)
    whole = [*patch_gcn_edges(pos, x, K), patch_gcn_edges(pos, x, K, latent="as released")[1]]
    monkeypatch.setattr(slide_edges, "_ROWS", 7)
    parts = [*patch_gcn_edges(pos, x, K), patch_gcn_edges(pos, x, K, latent="as released")[1]]
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_wsi_hgnn_as_released_looks_for_spatial_neighbours_among_features():
    pos, x = disagreeing(7)
    released = wsi_hgnn_edges(pos, x, K, spatial="as released")
    assert torch.equal(released, patch_gcn_edges(pos, x, K)[1])
    assert torch.equal(
        released, wsi_hgnn_edges(pos[::-1], x, K, spatial="as released")
    )  # places are not read
    assert not torch.equal(released, wsi_hgnn_edges(pos, x, K))


@pytest.mark.parametrize("width", [16, 64])
def test_patch_gcn_as_released_gives_every_patch_the_same_neighbours(width):
    pos, x = disagreeing(width)
    spatial, released = patch_gcn_edges(pos, x, K, latent="as released")
    assert torch.equal(spatial, patch_gcn_edges(pos, x, K)[0])  # these are right
    lists = found(released)
    assert (lists == lists[0]).all() and len(set(lists[0])) == K
    assert any(np.array_equal(lists[0], own) for own in nearest(x))  # patches of like features, of one patch
    assert torch.equal(released, patch_gcn_edges(pos[::-1], x, K, latent="as released")[1])
    drawn = {
        tuple(found(patch_gcn_edges(pos, x, K, "as released", seed)[1])[0].tolist()) for seed in range(9)
    }
    assert len(drawn) > 3


@pytest.mark.parametrize("width", [2, 5, 17])
def test_patch_gcn_as_released_compares_places_with_the_first_two_features(width):
    pos, x = disagreeing(width)
    x[:, :2] *= 2000  # so that it matters where a patch is
    released = found(patch_gcn_edges(pos, x, K, latent="as released")[1])
    for i, place in enumerate(pos):
        away = ((x[:, :2] - place) ** 2).sum(1)
        assert np.array_equal(
            released[i], np.argsort(away)[1 : K + 1]
        )  # the first is taken for the patch itself
    other = np.hstack([x[:, :2], np.zeros((len(x), width - 2))])
    assert np.array_equal(released, found(patch_gcn_edges(pos, other, K, latent="as released")[1]))


def test_where_places_are_the_features_nothing_is_wrong():
    pos, _ = disagreeing(2)
    right, released = (patch_gcn_edges(pos, pos, K, variant) for variant in ("features", "as released"))
    assert torch.equal(right[1], released[1]) and torch.equal(right[1], right[0])
    assert torch.equal(wsi_hgnn_edges(pos, pos, K, spatial="as released"), wsi_hgnn_edges(pos, pos, K))


@pytest.mark.parametrize("width", [5, 13, 16, 1024])
def test_released_edges_are_those_of_the_library(width):
    nmslib = pytest.importorskip("nmslib")
    pos, x = disagreeing(width, nodes=150)
    index = nmslib.init(space="l2", method="hnsw")
    index.addDataPointBatch(x.astype(np.float32))
    index.createIndex({"M": 16, "post": 0, "efConstruction": 400})
    index.setQueryTimeParams({"ef": 90})
    real = np.array([index.knnQuery(place, k=K + 1)[0][1:] for place in pos])
    ours = found(patch_gcn_edges(pos, x, K, latent="as released")[1])
    if width % 16:
        same = [len({*one} & {*other}) / K for one, other in zip(real.tolist(), ours.tolist(), strict=True)]
        assert np.mean(same) > 0.95  # the library's search is not exact
    else:
        assert (real == real[0]).all() and (ours == ours[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": np.zeros((5, 3))}, r"pos must be \(N, 2\), found shape \(5, 3\)"),
        ({"x": np.zeros((4, 3))}, r"one row for each of 5 patches, found shape \(4, 3\)"),
        ({"k": 5}, "below the number of patches, 5; found 5"),
        ({"k": 0}, "at least 1"),
        ({"latent": "released"}, 'latent must be "features" or "as released"; found \'released\''),
        ({"x": np.zeros((5, 1)), "latent": "as released"}, "at least 2 columns .* found 1"),
    ],
)
def test_edges_refuse_what_cannot_work(change, message):
    options = {"pos": np.zeros((5, 2)), "x": np.zeros((5, 3)), "k": 2}
    with pytest.raises(ValueError, match=message):
        patch_gcn_edges(**(options | change))
    if "latent" not in change:
        with pytest.raises(ValueError, match=message):
            wsi_hgnn_edges(**(options | change))


def test_wsi_hgnn_refuses_an_unknown_variant():
    with pytest.raises(ValueError, match=r"spatial must be .* found 'features'"):
        wsi_hgnn_edges(np.zeros((5, 2)), np.zeros((5, 3)), 2, spatial="features")


def slide(seed=0, nodes=12, edges=30):
    draw = torch.Generator().manual_seed(seed)
    ends = torch.randint(nodes, (2, edges), generator=draw)
    return Data(x=torch.randn(nodes, 4, generator=draw), edge_index=ends)


def test_a_slide_depends_on_no_other_nor_on_the_order_of_its_patches():
    torch.manual_seed(0)
    network = PatchGCN(4, 3, hidden_dim=8).eval()
    data = slide()
    alone = network(Batch.from_data_list([data]))
    together = network(Batch.from_data_list([slide(1, nodes=5, edges=7), data]))
    torch.testing.assert_close(together[1:], alone)
    order = torch.randperm(12)
    place = order.argsort()
    moved = Data(x=data.x[order], edge_index=place[data.edge_index])
    torch.testing.assert_close(network(Batch.from_data_list([moved])), alone)
    lonely = Data(x=data.x, edge_index=torch.empty((2, 0), dtype=torch.long))
    assert not torch.allclose(network(Batch.from_data_list([lonely])), alone)


def test_messages_go_a_step_further_with_every_layer():
    torch.manual_seed(0)
    network, seen = PatchGCN(4, 2, hidden_dim=8, layers=3).eval(), []
    network.mix.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].detach()))
    chain = Data(x=slide(nodes=5).x, edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]))
    network(Batch.from_data_list([chain]))
    chain.x = chain.x.clone()
    chain.x[0] += 1
    network(Batch.from_data_list([chain]))
    changed = (seen[0] != seen[1]).reshape(5, 4, 8).any(2)  # of each patch, the embedding and three layers
    assert changed.tolist() == [[step <= layer for layer in range(4)] for step in range(5)]


@pytest.mark.parametrize("layers", [1, 3])
def test_the_network_learns_what_only_edges_tell(layers):
    def striped(i):
        kind = torch.arange(12) % 2
        x = torch.nn.functional.one_hot(kind, 2).float()
        step = 2 - i % 2  # in class 0 neighbours are of one kind
        source = torch.arange(12)
        return Data(x=x, edge_index=torch.stack([source, (source + step) % 12]))

    graphs, y = [striped(i) for i in range(16)], [i % 2 for i in range(16)]
    state = torch.get_rng_state()
    options = {"hidden_dim": 8, "layers": layers, "epochs": 15, "lr": 1e-2}
    p = fit_predict(graphs, y, graphs, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert p.shape == (16, 2) and np.allclose(p.sum(1), 1) and (p.argmax(1) == y).all()
    assert np.array_equal(p, fit_predict(graphs, y, graphs, **options))
    for graph in graphs:
        graph.edge_index = torch.empty((2, 0), dtype=torch.long)
    assert np.ptp(fit_predict(graphs, y, graphs, **options)[:, 0]) < 1e-6  # all slides are one then


def test_the_network_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="layers must be at least 1; found 0"):
        PatchGCN(4, 2, layers=0)
    with pytest.raises(ValueError, match="one class for each of 2 slides"):
        fit_predict([slide(), slide(1)], [0], [slide()])


@pytest.fixture(scope="module")
def pcam(tmp_path_factory):
    """Dark patches with tumour, light ones without; no two alike."""
    root, rng = tmp_path_factory.mktemp("pcam"), np.random.default_rng(1)
    for split in ("train", "valid"):
        for label in (0, 1):
            (root / split / str(label)).mkdir(parents=True)
            for i in range(40):
                light = int(rng.integers(150, 230)) - 100 * label
                image = rng.integers(light - 20, light + 20, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / split / str(label) / f"{i}.png")
    return root


@pytest.fixture
def pool(pcam):
    return latent_edges.Pool.read(pcam, "valid", 60, latent_edges.HAND)


def test_patches_are_read_in_step_with_their_features(pool):
    assert len(pool.x) == len(pool.y) == len(pool.color) == 60
    assert pool.color[pool.y == 1].max() < 135 < pool.color[pool.y == 0].min() + 5
    np.testing.assert_allclose(pool.x[:, 0], pool.color[:, 0], atol=0.01)  # the mean of red
    images = np.full((2, 96, 96, 3), 200, dtype=np.uint8)
    images[1] = 90
    z = latent_edges.features_of(images, "histograph-vit", "made-up")
    assert z.shape == (2, 384) and not np.allclose(z[0], z[1])


def test_slides_are_what_the_questions_say(pool):
    size, ill = latent_edges.ACROSS**2, round(latent_edges.TUMOUR_SHARE * latent_edges.FOCUS**2)
    dark = pool.x[pool.y == 1, 0].max() + 1e-3
    focus = latent_edges.FOCUS * 96

    def tumour(slides):
        return [slide.pos[slide.x[:, 0] < dark] for slide in slides]

    def spread(places):
        return max((places.max(0).values - places.min(0).values).tolist())

    for question in latent_edges.QUESTIONS:
        slides, y = latent_edges.slides_of(pool, question, 6, 3)
        assert y.tolist() == [0, 1] * 3 and all(slide.x.shape[0] == size for slide in slides)
        again, _ = latent_edges.slides_of(pool, question, 6, 3)
        assert all(torch.equal(one.x, other.x) for one, other in zip(slides, again, strict=True))
        places = tumour(slides)
        assert all(len(places[i]) == ill and spread(places[i]) < focus for i in (1, 3, 5))
        for i in (0, 2, 4):
            if question == latent_edges.TUMOUR:
                assert len(places[i]) == 0
            else:
                assert len(places[i]) == ill and spread(places[i]) >= focus


def test_scattered_patches_are_the_same_in_other_places():
    rng = np.random.default_rng(0)
    place, ill = np.arange(36).reshape(6, 6), np.zeros((6, 6), dtype=bool)
    ill[:2, :2] = True
    moved = latent_edges.scattered(place, ill, rng)
    assert sorted(moved.ravel()) == list(range(36))
    assert np.isin(np.flatnonzero(moved != place), np.flatnonzero(np.isin(moved, place[ill]) | ill)).all()
    assert (moved[:2, :2] != place[:2, :2]).any()


def test_rows_of_the_table_have_the_edges_of_their_names(pool):
    slides, _ = latent_edges.slides_of(pool, latent_edges.ARRANGED, 1, 0)
    one = slides[0]
    sets = latent_edges.edge_sets(one, 8, seed=4)
    spatial, latent = patch_gcn_edges(one.pos, one.x, 8)
    released = patch_gcn_edges(one.pos, one.x, 8, latent="as released", seed=4)[1]
    assert sets[latent_edges.NONE].shape == (2, 0)
    assert torch.equal(sets[latent_edges.SPACE], spatial)
    assert torch.equal(sets[latent_edges.FEATURES], latent)
    assert torch.equal(sets[latent_edges.LATENT_RELEASED], released)
    for name, part in ((latent_edges.BOTH, latent), (latent_edges.BOTH_RELEASED, released)):
        both = set(map(tuple, sets[name].T.tolist()))
        assert (
            both == set(map(tuple, torch.cat([spatial, part], 1).T.tolist()))
            and len(both) == sets[name].shape[1]
        )


def test_without_data_it_says_what_is_needed(capsys):
    assert latent_edges.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"of PatchCamelyon; found nothing"):
        latent_edges.main(["--data", str(tmp_path)])


def cells_of(out):
    rows = [line.strip("|").split("|") for line in out.splitlines() if line.startswith("|")]
    tables, current = [], None
    for row in ([cell.strip() for cell in row] for row in rows):
        if set("".join(row)) == {"-"}:
            continue
        if current is None or len(row) != len(current[0]) or row[0] in ("edges", "right – released"):
            tables.append(current := [])
        current.append(row)
    return tables


def test_differences_are_right_minus_released(capsys):
    y = np.arange(40) % 2
    good, bad = np.stack([1 - y, y], 1), np.stack([y, 1 - y], 1)

    def scored(p):
        return latent_edges.hg.evaluation.score_classes(y, p, metrics=latent_edges.METRICS, n_boot=50)

    rows = dict.fromkeys([latent_edges.SPACE, latent_edges.BOTH], scored(good))
    rows |= dict.fromkeys([latent_edges.FEATURES, latent_edges.BOTH_RELEASED], scored(bad))
    rows[latent_edges.LATENT_RELEASED] = scored(good)
    latent_edges.print_differences({latent_edges.TUMOUR: rows})
    (table,) = cells_of(capsys.readouterr().out)
    worse, better = "**-1.000 [-1.000, -1.000]**", "**+1.000 [+1.000, +1.000]**"
    assert [row[1:] for row in table[1:]] == [[worse] * 2, [better] * 2, [better] * 2]


def test_small_run_prints_edges_scores_and_paired_differences(pcam, capsys, monkeypatch):
    monkeypatch.setattr(latent_edges, "ACROSS", 6)
    monkeypatch.setattr(latent_edges, "FOCUS", 3)
    arguments = ["--data", str(pcam), "--encoder", "hand-made", "--seeds", "2", "--slides", "16"]
    arguments += ["--asked", "12", "--epochs", "8", "--hidden", "8", "--lr", "0.01", "--k", "4"]
    arguments += ["--questions", latent_edges.TUMOUR]
    assert latent_edges.main(arguments) == 0
    out = capsys.readouterr().out
    edges, scores, differences = cells_of(out)
    assert [row[0] for row in edges[1:]] == list(latent_edges.PAIRS)
    assert edges[1][1:3] == ["144", "144"] and edges[3][4:] and float(edges[1][3].rstrip("%")) < 60
    assert scores[0][1:] == differences[0][1:] == ["tumour, auc", "tumour, accuracy"]
    table = {row[0]: [float(cell.split()[0]) for cell in row[1:]] for row in scores[1:]}
    assert list(table) == list(latent_edges.edge_sets(Data(pos=torch.rand(9, 2), x=torch.rand(9, 3)), 4, 0))
    assert table[latent_edges.NONE][0] > 0.85  # dark patches are easy to see, without any edge
    for row in differences[1:]:
        right, released = latent_edges.PAIRS[row[0]]
        for cell, one, other in zip(row[1:], table[right], table[released], strict=True):
            assert float(cell.strip("*").split()[0]) == pytest.approx(one - other, abs=0.0011)
