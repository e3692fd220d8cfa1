"""Released checkpoints of SLPD and of HIPT's second stage, both ways."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import DINO, SLPD, load_released, slpd_checkpoint, to_released

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slpd" / "vit4k_dinohead.npz"
SIZES = {
    "feature_dim": 5,
    "dim": 12,
    "depth": 2,
    "heads": 3,
    "mlp_ratio": 3.0,
    "region_size": 5,
    "global_size": 4,
    "local_size": 2,
    "out_dim": 20,
    "head_dim": 10,
    "bottleneck_dim": 6,
    "min_regions": 2,
    "official_compat": True,
}
#: What no shape tells.
GIVEN = {"heads": 3, "region_size": 5, "local_size": 2, "min_regions": 2}


def method(**changes):
    torch.manual_seed(0)
    network = SLPD(**SIZES | changes)
    with torch.no_grad():
        for weight in [*network.student.parameters(), *network.teacher.parameters(), network.loss.center]:
            weight.normal_()
    return network.eval()


def regions():
    generator = torch.Generator().manual_seed(0)
    places = [torch.rand(5, 5, generator=generator).flatten().topk(n).indices for n in (25, 7)]
    return Batch.from_data_list(
        [
            Data(x=torch.randn(len(p), 5, generator=generator), place=torch.stack([p // 5, p % 5], 1))
            for p in places
        ]
    )


def same(network, other):
    pairs = zip(network.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == found and torch.equal(a, b) for (name, a), (found, b) in pairs)


def released_shapes():
    """Names and shapes of the released network at its own sizes: section 3 of the specification."""
    shapes = {
        "backbone.cls_token": (1, 1, 192),
        "backbone.pos_embed": (1, 197, 192),
        "backbone.phi.0.weight": (192, 384),
        "backbone.phi.0.bias": (192,),
        "backbone.norm.weight": (192,),
        "backbone.norm.bias": (192,),
        "head.last_layer.weight_g": (65536, 1),
        "head.last_layer.weight_v": (65536, 256),
    }
    block = {
        "norm1": (192,),
        "attn.qkv": (576, 192),
        "attn.proj": (192, 192),
        "norm2": (192,),
        "mlp.fc1": (768, 192),
        "mlp.fc2": (192, 768),
    }
    layers = {f"backbone.blocks.{n}.{name}": shape for n in range(6) for name, shape in block.items()}
    layers |= {"head.mlp.0": (2048, 192), "head.mlp.2": (2048, 2048), "head.mlp.4": (256, 2048)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def test_released_names_and_shapes_at_the_released_size():
    """Check 23: nothing is missing, nothing is more; 24,740,416 parameters."""
    with torch.device("meta"):
        network = SLPD(official_compat=True)
    for branch in (network.teacher, network.student):
        assert {name: tuple(value.shape) for name, value in branch.state_dict().items()} == released_shapes()
    assert sum(np.prod(shape) for shape in released_shapes().values()) == 24_740_416


def test_there_and_back(tmp_path):
    network = method()
    checkpoint = to_released(network)
    # what else a training run leaves in its file
    whole = checkpoint | {
        "epoch": 100,
        "args": argparse.Namespace(arch="vit4k_xs", lr=5e-4),
        "optimizer": {"state": {}, "param_groups": []},
        "fp16_scaler": {"scale": 65536.0},
    }
    torch.save(whole, tmp_path / "vit4k_xs_dino.pth")
    loaded = load_released(tmp_path / "vit4k_xs_dino.pth", **GIVEN)
    assert isinstance(loaded, SLPD) and same(network, loaded) and not loaded.training
    assert {name: loaded.config[name] for name in SIZES} == SIZES
    assert torch.equal(network.encode(regions()).graph, loaded.encode(regions()).graph)
    again = to_released(loaded)
    assert all(torch.equal(again["student"][name], value) for name, value in checkpoint["student"].items())
    assert all(
        name.startswith("module.backbone.") or name.startswith("module.head.") for name in again["student"]
    )


def test_any_prefix_and_weight_normalisation_of_any_torch():
    """Check 23: the teacher alone, with and without prefixes, and under the newer names of the gain."""
    network = method()
    teacher = to_released(network)["teacher"]
    wanted = network.encode(regions()).graph
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in teacher.items()
    }
    prefixed = {f"module.{name}": value for name, value in teacher.items()}
    for weights in (teacher, prefixed, renamed, {"teacher": prefixed}):
        loaded = load_released(weights, **GIVEN)
        assert torch.equal(loaded.encode(regions()).graph, wanted)
        for branch in (loaded.student, loaded.teacher):
            assert torch.equal(branch.head.last_layer.weight_v, network.teacher.head.last_layer.weight_v)
            assert torch.equal(branch.head.last_layer.weight_g, network.teacher.head.last_layer.weight_g)
    alone = {name: value for name, value in teacher.items() if name.startswith("backbone.")}
    bare = {name.removeprefix("backbone."): value for name, value in alone.items()}
    for weights in (alone, bare, {"teacher": bare}):
        loaded = load_released(weights, **GIVEN)
        assert torch.equal(loaded.encode(regions()).graph, wanted)
        assert same(loaded.student, loaded.teacher) and loaded.config["out_dim"] == 65536


def test_the_gain_stays_frozen():
    """Check 23: weight_g is loaded, and trained by nobody."""
    loaded = load_released(to_released(method()), **GIVEN)
    trained = {id(weight) for group in loaded.parameter_groups() for weight in group["params"]}
    gains = [value for name, value in loaded.named_parameters() if name.endswith("weight_g")]
    assert all(not gain.requires_grad and id(gain) not in trained for gain in gains)
    assert all(
        "weight_g" in branch.head.last_layer.state_dict() for branch in (loaded.student, loaded.teacher)
    )


def test_golden_weights_load_and_give_the_golden_numbers():
    """Checks 18, 19 and 23 on weights of the released code."""
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN).items()}
    weights = {name.removeprefix("sd/"): value for name, value in golden.items() if name.startswith("sd/")}
    loaded = load_released({"teacher": weights}, heads=int(golden["num_heads"]))
    assert (loaded.config["region_size"], loaded.config["global_size"], loaded.config["local_size"]) == (
        16,
        14,
        6,
    )
    crops = [golden[f"in{number}"] for number in range(3)]
    vectors = torch.cat([loaded.teacher.backbone.pooled(crop) for crop in crops])
    torch.testing.assert_close(vectors, torch.cat([golden[f"cls{n}"] for n in range(3)]), atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.teacher.head(vectors), golden["out_logits"], atol=1e-5, rtol=0)


def test_sizes_are_found():
    assert load_released(to_released(method(head_layers=1)), **GIVEN).config["head_layers"] == 1
    wide = method(dim=64, heads=2, global_size=14, region_size=16, local_size=6)
    config = load_released(to_released(wide)).config
    assert config["heads"] == 2  # 32 numbers for each
    assert (config["global_size"], config["region_size"], config["local_size"]) == (14, 16, 6)


def test_messages():
    weights = to_released(method())["teacher"]
    with pytest.raises(TypeError, match="depth is not a setting that the released SLPD"):
        load_released(weights, depth=3)
    with pytest.raises(
        ValueError, match=r"SLPD \(teacher\): missing backbone\.norm\.bias; unexpected nothing"
    ):
        load_released({n: v for n, v in weights.items() if n != "backbone.norm.bias"}, **GIVEN)
    with pytest.raises(ValueError, match=r"unexpected backbone\.extra"):
        load_released(weights | {"backbone.extra": torch.zeros(1)}, **GIVEN)
    with pytest.raises(ValueError, match=r"backbone\.norm\.bias \(3,\) instead of \(12,\)"):
        load_released(weights | {"backbone.norm.bias": torch.zeros(3)}, **GIVEN)
    with pytest.raises(ValueError, match="square grid, found 5 places"):
        load_released(weights | {"backbone.pos_embed": torch.zeros(1, 6, 12)}, **GIVEN)
    with pytest.raises(ValueError, match=r"source lacks backbone\.phi\.0\.weight"):
        slpd_checkpoint.load_released({"backbone.cls_token": torch.zeros(1, 1, 4)})
    with pytest.raises(TypeError, match="method must be an SLPD, found DINO"):
        slpd_checkpoint.to_released(
            DINO(16, 8, dim=8, depth=1, heads=2, local_size=8, out_dim=8, head_dim=4, bottleneck_dim=2)
        )
    with pytest.raises(ValueError, match="made with official_compat=True and without standardise"):
        to_released(method(official_compat=False))
