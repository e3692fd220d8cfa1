"""What methods refuse with the name of the argument, and batches that would spoil vectors in silence."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import DINO, GCMAE, HMGDM, PAMA, SLPD, GraphDINO, Patches

HEAD = {"out_dim": 16, "head_dim": 8, "bottleneck_dim": 4}
SMALL = {
    PAMA: {"node_dim": 4, "hidden_dim": 8, "layers": 2, "heads": 2, "decoder_dim": 8},
    GCMAE: {
        "image_size": 16,
        "patch_size": 8,
        "dim": 8,
        "depth": 1,
        "heads": 2,
        "decoder_dim": 8,
        "decoder_depth": 1,
    }
    | {"decoder_heads": 2},
    DINO: {"image_size": 16, "patch_size": 8, "dim": 8, "depth": 1, "heads": 2, "local_size": 8} | HEAD,
    GraphDINO: {"node_dim": 4, "dim": 8} | HEAD,
    HMGDM: {"node_dim": 4, "edge_dim": 2, "hidden_dim": 8},
    SLPD: {
        "feature_dim": 4,
        "dim": 8,
        "depth": 1,
        "heads": 2,
        "region_size": 4,
        "global_size": 3,
        "local_size": 2,
    }
    | HEAD,
}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (PAMA, {"hidden_dim": 0}),
        (PAMA, {"decoder_dim": 0}),
        (PAMA, {"decoder_heads": 0}),
        (PAMA, {"num_anchors": 2.5}),
        (PAMA, {"normalise_target": True, "node_dim": 1}),
        (GCMAE, {"crop_scale": 0.5}),
        (GCMAE, {"mean": 0.5}),
        (GCMAE, {"mean": (float("nan"), 0.5, 0.5)}),
        (GCMAE, {"std": 1.0}),
        (DINO, {"patch_size": 0}),
        (DINO, {"global_scale": 0.4}),
        (DINO, {"mean": 0.5}),
        (DINO, {"head_dim": 0}),
        (DINO, {"head_layers": 0}),
        (GraphDINO, {"local_scale": 0.3}),
    ],
)
def test_an_argument_out_of_range_is_named(kind, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        kind(**(SMALL[kind] | wrong))


def graph(nodes: int, place: bool = False) -> Data:
    index = torch.arange(nodes)
    edges = torch.stack([index, index.roll(1)])
    made = Data(
        x=torch.randn(nodes, 4), pos=torch.rand(nodes, 2), edge_index=edges, edge_attr=torch.randn(nodes, 2)
    )
    made.place = torch.stack([index // 4, index % 4], dim=1)
    return made


@pytest.mark.parametrize("kind", [HMGDM, GraphDINO, SLPD])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(kind, value):
    batch = Batch.from_data_list([graph(5), graph(6)])
    batch.x[7, 2] = value
    method = kind(**SMALL[kind]).eval()
    for run in (method.encode, method.encode_graphs, method):
        with pytest.raises(ValueError, match=r"x must be finite; found .* row 7, column 2"):
            run(batch)


@pytest.mark.parametrize("compat", [False, True])
def test_edge_features_that_are_not_finite_are_refused(compat):
    batch = graph(5)
    batch.edge_attr[3, 1] = float("nan")
    method = HMGDM(**SMALL[HMGDM], official_compat=compat)
    with pytest.raises(ValueError, match="edge_attr must be finite; found nan in row 3, column 1"):
        method.encode(batch)


@pytest.mark.parametrize("kind", [DINO, GCMAE])
def test_no_patches_and_colours_from_0_to_255_are_refused(kind):
    method = kind(**SMALL[kind]).eval()
    with pytest.raises(ValueError, match="at least one patch"):
        method.encode(Patches(torch.zeros(0, 16, 16, 3, dtype=torch.uint8)))
    for wrong in (torch.full((2, 16, 16, 3), 255.0), torch.full((2, 16, 16, 3), float("nan"))):
        with pytest.raises(ValueError, match="colours from 0 to 1"):
            method.encode(Patches(wrong))
    method.encode(Patches(torch.rand(2, 16, 16, 3) * 1.1 - 0.05))  # as resizing leaves them


def test_a_region_without_patches_has_no_vector():
    empty = Data(x=torch.zeros(0, 4), place=torch.zeros(0, 2, dtype=torch.long))
    method = SLPD(**SMALL[SLPD]).eval()
    for run in (method.encode, method.encode_graphs):
        with pytest.raises(ValueError, match="region 1 of the batch has none"):
            run(Batch.from_data_list([graph(3), empty], exclude_keys=["pos", "edge_index", "edge_attr"]))


@pytest.mark.parametrize(
    "settings", [{"representation": "decoder"}, {"official_compat": True, "embed_dim": 8}]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_hmgdm_runs_in_other_precisions(settings, dtype):
    torch.manual_seed(0)
    method, batch = HMGDM(**SMALL[HMGDM], **settings), Batch.from_data_list([graph(5), graph(9)])
    single = method.eval().encode(batch).graph
    method.to(dtype).train()(batch)["loss"].backward()
    found = method.eval().encode(batch).graph
    assert found.dtype == dtype
    assert (found - single).abs().max() < (1e-5 if dtype == torch.float64 else 0.1) * single.abs().max()


@pytest.mark.parametrize("nearest", [None, 2])
def test_pama_reads_rows_and_columns_of_a_grid(nearest):
    torch.manual_seed(0)
    place = torch.cartesian_prod(torch.arange(5), torch.arange(6))
    x = torch.randn(len(place), 4)
    method = PAMA(**SMALL[PAMA], num_anchors=3, nearest=nearest)
    assert method(Data(x=x, pos=place))["loss"].isfinite()
    found = [method.eval().encode(Data(x=x, pos=pos)).graph for pos in (place, place.float())]
    assert torch.equal(*found)


def test_windows_need_places_that_are_finite():
    batch = graph(6)
    batch.pos[4, 0] = float("nan")
    with pytest.raises(ValueError, match="pos must be finite; found nan in row 4, column 0"):
        GraphDINO(**SMALL[GraphDINO])(batch)
