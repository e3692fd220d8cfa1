"""Released DINO checkpoints, both ways."""

import argparse
from pathlib import Path

import pytest
import torch

from histograph.methods import DINO, GraphDINO, Patches, dino_checkpoint, load_released, to_released

KEYS = Path(__file__).parents[1] / "data" / "golden" / "dino" / "keys_dino.txt"
SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "dim": 12,
    "depth": 2,
    "heads": 3,
    "mlp_ratio": 3.0,
    "local_size": 16,
    "local_views": 2,
    "out_dim": 20,
    "head_dim": 10,
    "bottleneck_dim": 6,
    "official_compat": True,
}


def method(**changes):
    torch.manual_seed(0)
    network = DINO(**SIZES | changes)
    with torch.no_grad():
        for weight in [*network.parameters(), network.loss.center]:
            weight.normal_()
    return network.eval()


def image():
    return Patches(torch.rand(2, 32, 40, 3, generator=torch.Generator().manual_seed(0)))


def same(network, other):
    pairs = zip(network.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == found and torch.equal(a, b) for (name, a), (found, b) in pairs)


def test_released_names_and_shapes_at_the_released_size():
    wanted = {}
    for line in KEYS.read_text().splitlines():
        name, shape = line.split("\t")
        wanted[name] = tuple(int(side) for side in shape.strip("()").split(",") if side.strip())
    with torch.device("meta"):
        found = {name: tuple(value.shape) for name, value in DINO().teacher.state_dict().items()}
    assert found == wanted and len(wanted) == 158


def test_there_and_back(tmp_path):
    network = method()
    checkpoint = to_released(network)
    # what else a training run leaves in its file
    whole = checkpoint | {
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4),
        "optimizer": {"state": {}, "param_groups": []},
        "fp16_scaler": {"scale": 65536.0},
    }
    torch.save(whole, tmp_path / "checkpoint.pth")
    loaded = load_released(tmp_path / "checkpoint.pth", heads=3, local_size=16, local_views=2)
    assert same(network, loaded) and not loaded.training
    assert {name: loaded.config[name] for name in SIZES} == SIZES
    assert torch.equal(network.encode(image()).graph, loaded.encode(image()).graph)
    again = to_released(loaded)
    assert all(torch.equal(again["student"][name], value) for name, value in checkpoint["student"].items())
    assert all(name.startswith("module.") for name in again["student"])


def test_weights_of_one_network_with_any_prefix():
    network = method()
    teacher = to_released(network)["teacher"]
    wanted = network.encode(image()).graph
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in teacher.items()
    }
    for weights in (teacher, {f"module.{name}": value for name, value in teacher.items()}, renamed):
        loaded = load_released(weights, heads=3)
        assert torch.equal(loaded.encode(image()).graph, wanted)
        assert torch.equal(loaded.student.head.last_layer.weight_v, network.teacher.head.last_layer.weight_v)
    alone = {name: value for name, value in teacher.items() if name.startswith("backbone.")}
    bare = {name.removeprefix("backbone."): value for name, value in alone.items()}
    for weights in (alone, bare):
        loaded = dino_checkpoint.load_released({"teacher": weights}, heads=3)
        assert torch.equal(loaded.encode(image()).graph, wanted)
        assert same(loaded.student, loaded.teacher) and loaded.config["out_dim"] == 65536


def test_normalisation_is_the_callers():
    weights = to_released(method())["teacher"]
    half = load_released(weights, heads=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    plain = load_released(weights, heads=3)
    picture = image()
    as_half = Patches((picture.image - 0.5) / 0.5 * plain.std.flatten() + plain.mean.flatten())
    torch.testing.assert_close(half.encode(picture).graph, plain.encode(as_half).graph, atol=1e-4, rtol=1e-4)


def test_sizes_are_found():
    assert load_released(to_released(method(head_layers=1))["teacher"], heads=3).config["head_layers"] == 1
    wide = method(dim=128, heads=2)
    assert load_released(to_released(wide)["teacher"]).config["heads"] == 2  # 64 numbers for each
    assert load_released(to_released(wide)["teacher"]).config["local_size"] == 16


def test_a_checkpoint_without_student_or_centre():
    checkpoint = to_released(method())
    loaded = load_released({"teacher": checkpoint["teacher"]}, heads=3)
    assert same(loaded.student, loaded.teacher) and not loaded.loss.center.any()


def test_messages():
    weights = to_released(method())["teacher"]
    with pytest.raises(TypeError, match="depth is not a setting"):
        load_released(weights, depth=3)
    with pytest.raises(ValueError, match=r"missing backbone\.norm\.bias; unexpected nothing"):
        load_released(
            {name: value for name, value in weights.items() if name != "backbone.norm.bias"}, heads=3
        )
    with pytest.raises(ValueError, match=r"unexpected backbone\.extra"):
        load_released(weights | {"backbone.extra": torch.zeros(1)}, heads=3)
    with pytest.raises(ValueError, match=r"backbone\.norm\.bias \(3,\) instead of \(12,\)"):
        load_released(weights | {"backbone.norm.bias": torch.zeros(3)}, heads=3)
    with pytest.raises(ValueError, match="square grid, found 5 places"):
        load_released(weights | {"backbone.pos_embed": torch.zeros(1, 6, 12)}, heads=3)
    with pytest.raises(ValueError, match=r"source lacks backbone\.patch_embed\.proj\.weight"):
        dino_checkpoint.load_released({"backbone.cls_token": torch.zeros(1, 1, 4)})
    with pytest.raises(ValueError, match=r"dino_loss\.center must have shape \(1, 20\)"):
        load_released({"teacher": weights, "dino_loss": {"center": torch.zeros(1, 4)}}, heads=3)
    with pytest.raises(TypeError, match="method must be a DINO, found GraphDINO"):
        dino_checkpoint.to_released(GraphDINO(4, dim=8, out_dim=8))
