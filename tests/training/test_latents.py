"""Latents on a graph: each of its own crop, the same in both directions, kept as float16 from file to method."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from histograph import bundled
from histograph.features import PatchEncoder
from histograph.graphs import GraphDataset, GraphFile, knn_edges, layer, load, save, validate
from histograph.graphs.example import example_graph
from histograph.methods import HMGDM, EntityAutoencoder, Patches
from histograph.slides import open_slide
from histograph.training import PatchDataset, add_latents, pretrain
from histograph.training.centres import crop_centres
from tests.methods.graphs import graph


def colour(size_px=4, mpp=0.5):
    """Mean red, green and blue of a crop, 0 to 1."""
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return PatchEncoder(pool, (0, 0, 0), (1, 1, 1), size_px, mpp, "colour")


@pytest.fixture(scope="module")
def stage1():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EntityAutoencoder(size_px=8, width=8)


@pytest.fixture
def slide():
    rng = np.random.default_rng(0)
    return open_slide(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8), mpp=0.5, slide_id="noise")


def points(count=40, seed=0, **fields):
    """A graph that `validate` accepts, inside the slide of 50 x 40 µm."""
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(count, 2, generator=generator) * torch.tensor([46.0, 36.0]) + 2
    edge_index, edge_attr = knn_edges(pos, k=3)
    return Data(
        x=torch.randn(count, 2, generator=generator),
        pos=pos,
        id=torch.arange(count) + 100,
        edge_index=edge_index,
        edge_attr=edge_attr,
        **(
            {
                "feature_names": ["a", "b"],
                "edge_attr_names": ["length"],
                "slide_id": "noise",
                "mpp": (0.5, 0.5),
            }
            | fields
        ),
    )


def test_midpoints_against_a_loop():
    g = graph(12, 20, seed=3)
    centres = crop_centres(g.pos, g.edge_index)
    assert len(centres.edge) == 20 and np.array_equal(centres.node, g.pos.double().numpy())
    for (i, j), row in zip(g.edge_index.T.tolist(), centres.edge_row.tolist(), strict=True):
        middle = (g.pos[i].double() + g.pos[j].double()) / 2
        np.testing.assert_allclose(centres.edge[row], middle.numpy())
    empty = crop_centres(torch.zeros(0, 2), torch.zeros(2, 0, dtype=torch.long))
    assert empty.edge.shape == (0, 2) and empty.edge_row.shape == (0,)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_each_latent_is_that_of_its_own_crop(slide, batch_size):
    g = points()
    add_latents(g, slide, colour(), batch_size=batch_size, progress=False)
    assert g.latent.dtype == g.edge_latent.dtype == torch.float16
    assert g.latent.shape == (40, 3) and g.edge_latent.shape == (g.num_edges, 3)
    for (x, y), latent in zip(g.pos.double().tolist(), g.latent, strict=True):
        crop = slide.read_region(x - 1, y - 1, 2, 2, mpp=0.5)
        np.testing.assert_allclose(latent.numpy(), crop.mean((0, 1)) / 255, atol=1e-3)
    middle = g.pos.double()[g.edge_index].mean(0)
    for (x, y), latent in zip(middle.tolist(), g.edge_latent, strict=True):
        crop = slide.read_region(x - 1, y - 1, 2, 2, mpp=0.5)
        np.testing.assert_allclose(latent.numpy(), crop.mean((0, 1)) / 255, atol=1e-3)


def test_directions_share_a_latent_and_each_crop_is_read_once(slide, stage1, monkeypatch):
    g, seen = points(), []
    encode = stage1.encode
    monkeypatch.setattr(stage1, "encode", lambda batch: seen.append(len(batch.image)) or encode(batch))
    add_latents(g, slide, stage1, size_um=4, progress=False, batch_size=16)
    assert sum(seen) == 40 + g.num_edges // 2 and max(seen) <= 16
    found = {tuple(ends): latent for ends, latent in zip(g.edge_index.T.tolist(), g.edge_latent, strict=True)}
    assert all(torch.equal(found[i, j], found[j, i]) for i, j in found)
    assert len({tuple(latent.tolist()) for latent in found.values()}) == g.num_edges // 2


def test_permuted_nodes_get_permuted_latents(slide, stage1):
    first = points()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    edge_index, edge_attr = knn_edges(first.pos[order], k=3)
    second = Data(pos=first.pos[order], edge_index=edge_index, edge_attr=edge_attr)
    for g in (first, second):
        add_latents(g, slide, stage1, size_um=4, progress=False)
    torch.testing.assert_close(second.latent, first.latent[order], atol=2e-3, rtol=2e-3)
    theirs = {tuple(ends): row for row, ends in enumerate(first.edge_index.T.tolist())}
    rows = [theirs[int(order[i]), int(order[j])] for i, j in second.edge_index.T.tolist()]
    torch.testing.assert_close(second.edge_latent, first.edge_latent[rows], atol=2e-3, rtol=2e-3)


def test_one_layer_of_many_is_changed_and_the_provenance_says_how(slide, stage1):
    g = example_graph(cells=30, patches=4, slide_id="noise")
    g.provenance = {"parameters": {"a": 1}}
    before = g.provenance
    add_latents(g, slide, stage1, size_um=4, node_type="cell", progress=False)
    validate(g)
    assert "latent" not in g["patch"] and "edge_latent" in g["cell", "near", "cell"]
    assert g.provenance["parameters"] == {"a": 1} and before == {"parameters": {"a": 1}}
    noted = g.provenance["latents"]["cell"]
    assert (
        noted["encoder"] == "EntityAutoencoder" and noted["size_um"] == 4 and noted["config"] == stage1.config
    )
    assert noted["relation"] == ["cell", "near", "cell"]
    add_latents(g, slide, colour(), node_type="patch", edges=False, progress=False)
    assert "edge_latent" not in g["patch", "next_to", "patch"]
    assert g.provenance["latents"]["patch"]["encoder"] == "colour" and "cell" in g.provenance["latents"]


def test_file_window_layer_and_dataset_keep_rows_and_type(slide, stage1, tmp_path):
    g = example_graph(cells=60, patches=4, slide_id="noise")
    add_latents(g, slide, stage1, size_um=4, node_type="cell", progress=False)
    path = save(g, tmp_path / "noise.safetensors")
    again = load(path)
    relation = ("cell", "near", "cell")
    assert torch.equal(again["cell"].latent, g["cell"].latent)
    assert torch.equal(again[relation].edge_latent, g[relation].edge_latent)
    assert again["cell"].latent.dtype == again[relation].edge_latent.dtype == torch.float16
    whole = layer(again, "cell")
    half = float(whole.pos[:, 0].median())
    box = (0.0, 0.0, half, 1e6)
    part = layer(GraphFile(path).window(box), "cell")
    row = {int(i): k for k, i in enumerate(whole.id)}
    rows = [row[int(i)] for i in part.id]
    assert 0 < len(rows) < 60 and torch.equal(part.latent, whole.latent[rows])
    place = {tuple(ends): k for k, ends in enumerate(whole.edge_index.T.tolist())}
    edges = [place[rows[i], rows[j]] for i, j in part.edge_index.T.tolist()]
    assert 0 < len(edges) < whole.num_edges and torch.equal(part.edge_latent, whole.edge_latent[edges])
    fields = {"node_fields": ("x", "latent"), "edge_fields": ("edge_attr", "edge_latent")}
    data = GraphDataset(path, node_type="cell", window_um=40, **fields)
    for item in data:
        rows = [row[int(i)] for i in item.id]
        assert torch.equal(item.x[:, -4:], whole.latent[rows].float())


def test_shuffled_graph_is_stored_with_its_latents(slide, tmp_path):
    g = points()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    g.pos, g.x, g.id = g.pos[order], g.x[order], g.id[order]
    g.edge_index, g.edge_attr = knn_edges(g.pos, k=3)
    add_latents(g, slide, colour(), progress=False)
    stored = load(save(g, tmp_path / "noise.safetensors"))
    assert not torch.equal(stored.id, g.id)
    row = {int(i): k for k, i in enumerate(g.id)}
    assert torch.equal(stored.latent, g.latent[[row[int(i)] for i in stored.id]])
    again = Data(pos=stored.pos, edge_index=stored.edge_index)
    add_latents(again, slide, colour(), progress=False)
    torch.testing.assert_close(stored.edge_latent, again.edge_latent, atol=1e-3, rtol=1e-3)


def test_graphs_without_nodes_or_edges(slide, stage1):
    none = torch.zeros(2, 0, dtype=torch.long)
    empty = Data(pos=torch.zeros(0, 2), edge_index=none)
    add_latents(empty, slide, stage1, size_um=4, progress=False)
    assert empty.latent.shape == empty.edge_latent.shape == (0, 4) and empty.latent.dtype == torch.float16
    lone = Data(pos=torch.ones(1, 2), edge_index=none)
    add_latents(lone, slide, stage1, size_um=4, progress=False)
    assert lone.latent.shape == (1, 4) and lone.edge_latent.shape == (0, 4)


def test_mode_of_the_encoder_is_as_before(slide, stage1):
    stage1.train()
    stage1.backbone.decoder.eval()
    add_latents(points(), slide, stage1, size_um=4, progress=False)
    assert stage1.training and not stage1.backbone.decoder.training and stage1.backbone.encoder.training
    stage1.train()


def test_wrong_arguments(slide, stage1):
    g = points(5)
    with pytest.raises(ValueError, match="size_um is missing"):
        add_latents(g, slide, stage1)
    with pytest.raises(ValueError, match="'colour' has its own, 2 µm"):
        add_latents(g, slide, colour(), size_um=4)
    with pytest.raises(TypeError, match=r"method of image patches.*found HMGDM"):
        add_latents(g, slide, HMGDM(2, hidden_dim=8), size_um=4)
    with pytest.raises(ValueError, match="'a', found slide 'noise'"):
        add_latents(points(5, slide_id="a"), slide, stage1, size_um=4)
    hetero = HeteroData(slide_id="noise")
    hetero["cell"].pos = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="no relation within 'cell'"):
        add_latents(hetero, slide, stage1, size_um=4)
    assert "latent" not in g


def test_latents_beyond_float16_are_refused(slide):
    class Loud(torch.nn.Module):
        def forward(self, x):
            return 1e6 * x.mean((2, 3))

    g = points(5)
    with pytest.raises(ValueError, match=r"crop at \(.* µm holds NaN, infinity"):
        add_latents(g, slide, PatchEncoder(Loud(), (0, 0, 0), (1, 1, 1), 4, 0.5, "loud"), progress=False)
    assert "latent" not in g


def test_from_slide_to_hmgdm(tmp_path):
    """What a user types, on the bundled slide."""
    slide = open_slide(bundled.slide_path())
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(60, 2, generator=generator) * 300 + 300
    edge_index, edge_attr = knn_edges(pos, k=3)
    g = Data(
        x=torch.randn(60, 2, generator=generator),
        pos=pos,
        id=torch.arange(60),
        edge_index=edge_index,
        edge_attr=edge_attr,
        feature_names=["a", "b"],
        edge_attr_names=["length"],
        slide_id=slide.slide_id,
        mpp=slide.mpp,
    )
    crops = PatchDataset.from_graph(g, slide, size_um=16, size_px=16)
    assert np.array_equal(
        crops[7].image[0].numpy(), slide.read_region(*(pos[7].double() - 8).tolist(), 16, 16, mpp=1.0)
    )
    torch.manual_seed(0)
    stage1 = EntityAutoencoder(size_px=16, width=8)
    pretrain(stage1, crops, epochs=1, accelerator="cpu", progress=False)
    add_latents(g, slide, stage1, size_um=16, progress=False)
    alone = stage1.encode(Patches(crops[7].image)).graph[0]
    torch.testing.assert_close(g.latent[7].float(), alone.detach(), atol=2e-3, rtol=2e-3)
    save(g, tmp_path / "a.safetensors")
    data = GraphDataset(tmp_path, node_fields=("x", "latent"), edge_fields=("edge_attr", "edge_latent"))
    assert (data.node_dim, data.edge_dim) == (2 + 16, 1 + 16)
    method = HMGDM(data.node_dim, data.edge_dim, hidden_dim=8, heads=2)
    log = pretrain(method, data, epochs=1, accelerator="cpu", progress=False)
    assert np.isfinite(log["loss"]).all()
