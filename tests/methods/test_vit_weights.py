"""Weights of others become the same network here: golden arrays, a forward in NumPy, and the libraries themselves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import erf

from histograph.methods import load_vit, vit_state_dict
from histograph.methods.vit_layouts import LAYOUTS
from histograph.nn import VisionTransformer, vit

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SIZES = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 4}


def made(**arguments) -> VisionTransformer:
    """Give a network in which every weight has a value of its own."""
    torch.manual_seed(0)
    network = VisionTransformer(**(SIZES | arguments))
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return network.eval()


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    return arrays, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")}


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


# --- golden arrays -----------------------------------------------------------------------------------------------


def test_released_gcmae_gives_the_golden_features():
    arrays, weights = golden("gcmae/model_m1")
    network, facts = load_vit({"model": weights, "epoch": 79, "optimizer": {"state": {0: {}}}}, heads=2)
    for pooling, name in (("cls", "cls"), ("mean", "globalpool")):
        torch.testing.assert_close(
            network.pooled(arrays["img"], pooling), arrays[f"{name}_feature_unmasked"], atol=1e-5, rtol=0
        )
    assert facts.layout == "gcmae" and facts.prefix == "model." and facts.pooling == "cls"
    assert facts.mean == (0.6790435, 0.5052883, 0.66902906)
    assert {"lemniscate", "mask_token", "decoder_embed", "decoder_pos_embed"} <= set(facts.ignored)
    assert "pos_embed" not in dict(network.named_parameters())  # fixed, as in training


def test_released_dino_gives_the_golden_features():
    """Class tokens of all sizes, a rectangle with interpolated positions, attention and tokens between blocks."""
    arrays, weights = golden("dino/vit_v1")
    student = {f"module.{key}": torch.zeros_like(value) for key, value in weights.items()}
    network, facts = load_vit({"student": student, "teacher": weights, "epoch": 100}, heads=2)
    assert (facts.layout, facts.prefix) == ("dino", "teacher.backbone.")
    assert facts.ignored == ("head", "student") and facts.mean is None
    pairs = [(network(arrays[f"crop{n}"])[:, 0], arrays[f"backbone_im{n}"]) for n in range(3)]
    pairs.append((network(arrays["big"])[:, 0], arrays["backbone_big"]))
    pairs.append((network.attention(arrays["big"]), arrays["last_attn_big"]))
    pairs.append((network.attention(arrays["crop0"]), arrays["last_attn_im0"]))
    pairs.append((network.intermediate(arrays["crop0"], [0])[0], arrays["intermediate0"]))
    pairs.append((network.positions(2, 2), arrays["pos_loc"]))
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(network.attention(arrays["big"]).sum(3), torch.ones(1, 2, 31))


def listed(name):
    lines = [line.split("\t") for line in (GOLDEN / name).read_text().splitlines() if line]
    return {key: tuple(int(n) for n in shape.strip("()").split(",") if n) for key, shape in lines}


def test_released_dino_of_full_size_needs_no_arguments():
    shapes = listed("dino/keys_dino.txt")
    assert len(shapes) == 158
    network, facts = load_vit({"teacher": {key: torch.zeros(1).expand(s) for key, s in shapes.items()}})
    assert (network.dim, len(network.blocks), network.grid, facts.layout) == (384, 12, (14, 14), "dino")
    assert network.blocks[0].attn.heads == 6 and network.interpolation_offset == 0.1
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_665_664


def test_released_gcmae_names_are_those_of_the_encoder():
    shapes = listed("gcmae/keys_gcmae.txt")
    with torch.device("meta"):
        ours = {key: tuple(value.shape) for key, value in vit("base").state_dict().items()}
    outside = "decoder", "mask_token", "lemniscate"
    assert ours == {key: shape for key, shape in shapes.items() if not key.startswith(outside)}


# --- Hugging Face, written from its documented names -------------------------------------------------------------


def written(dinov2, newer, width=16, depth=2, registers=0):
    """Random weights under the names of files (of models in memory since transformers 5: `newer`)."""
    rng = np.random.default_rng(3)

    def some(*shape):
        return 0.3 * rng.standard_normal(shape)

    def linear(name, rows, columns):
        return {f"{name}.weight": some(rows, columns), f"{name}.bias": some(rows)}

    def norm(name):
        return {f"{name}.weight": 1 + some(width), f"{name}.bias": some(width)}

    state = {
        "embeddings.cls_token": some(1, 1, width),
        "embeddings.mask_token": some(1, width),
        "embeddings.position_embeddings": some(1, 17, width),
        "embeddings.patch_embeddings.projection.weight": some(width, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": some(width),
    }
    if registers:
        state["embeddings.register_tokens"] = some(1, registers, width)
    for number in range(depth):
        start = f"layers.{number}." if newer and not dinov2 else f"encoder.layer.{number}."
        attention = "attention.{}_proj" if newer else "attention.attention.{}"
        for name in "qkv" if newer else ("query", "key", "value"):
            state |= linear(start + attention.format(name), width, width)
        state |= linear(start + ("attention.o_proj" if newer else "attention.output.dense"), width, width)
        first, second = ("mlp.fc1", "mlp.fc2") if newer or dinov2 else ("intermediate.dense", "output.dense")
        state |= linear(start + first, 24, width) | linear(start + second, width, 24)
        for name in ("norm1", "norm2") if dinov2 else ("layernorm_before", "layernorm_after"):
            state |= norm(start + name)
        if dinov2:
            state |= {f"{start}layer_scale{n}.lambda1": some(width) for n in (1, 2)}
    return state | norm("layernorm")


def numpy_forward(state, image, heads, dinov2, eps):
    """The network from its documentation alone, in double precision, with query, key and value apart."""

    def linear(x, *names):
        name = next(name for name in names if f"{name}.weight" in state)
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, *names):
        name = next(name for name in names if f"{name}.weight" in state)
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    batch = len(image)
    squares = image.reshape(batch, 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(batch, 16, -1)
    kernel = state["embeddings.patch_embeddings.projection.weight"]
    x = squares @ kernel.reshape(len(kernel), -1).T + state["embeddings.patch_embeddings.projection.bias"]
    x = np.concatenate([np.repeat(state["embeddings.cls_token"], batch, 0), x], 1)
    x = x + state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        registers = np.repeat(state["embeddings.register_tokens"], batch, 0)
        x = np.concatenate([x[:, :1], registers, x[:, 1:]], 1)
    for number in range(2):
        old, new = f"encoder.layer.{number}.", f"layers.{number}."
        a, b = f"{old}attention.", f"{new}attention."
        y = norm(x, f"{old}norm1", f"{old}layernorm_before", f"{new}layernorm_before")
        q, k, v = (
            linear(y, f"{a}attention.{long}", f"{a}{long[0]}_proj", f"{b}{long[0]}_proj")
            for long in ("query", "key", "value")
        )
        read = np.empty_like(q)
        for part in np.split(np.arange(q.shape[2]), heads):
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / math.sqrt(len(part))
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            read[..., part] = scores / scores.sum(-1, keepdims=True) @ v[..., part]
        change = linear(read, f"{a}output.dense", f"{a}o_proj", f"{b}o_proj")
        x = x + change * (state[f"{old}layer_scale1.lambda1"] if dinov2 else 1)
        y = norm(x, f"{old}norm2", f"{old}layernorm_after", f"{new}layernorm_after")
        y = linear(y, f"{old}mlp.fc1", f"{old}intermediate.dense", f"{new}mlp.fc1")
        y = y * (1 + erf(y / math.sqrt(2))) / 2
        change = linear(y, f"{old}mlp.fc2", f"{old}output.dense", f"{new}mlp.fc2")
        x = x + change * (state[f"{old}layer_scale2.lambda1"] if dinov2 else 1)
    return norm(x, "layernorm")


@pytest.mark.parametrize("newer", [False, True], ids=["files", "in memory"])
@pytest.mark.parametrize(
    ("dinov2", "registers", "prefix"),
    [(False, 0, ""), (False, 0, "vit."), (True, 0, "dinov2."), (True, 3, "")],
)
def test_hugging_face_layouts_equal_a_forward_in_numpy(dinov2, registers, prefix, newer, image):
    state = written(dinov2, newer, registers=registers)
    wanted = numpy_forward(state, image.double().numpy(), 4, dinov2, 1e-6 if dinov2 else 1e-12)
    tensors = {prefix + key: torch.from_numpy(value) for key, value in state.items()}
    tensors |= {f"{prefix}pooler.dense.weight": torch.zeros(2, 2), "classifier.bias": torch.zeros(2)}
    network, facts = load_vit(tensors, heads=4)
    assert (facts.layout, facts.prefix) == ("hf-dinov2" if dinov2 else "hf-vit", prefix)
    assert {"pooler", "classifier"} <= set(facts.ignored) and network.first == 1 + registers
    assert network.norm.eps == network.blocks[0].norm1.eps == (1e-6 if dinov2 else 1e-12)
    np.testing.assert_allclose(network(image).detach().numpy(), wanted, atol=2e-5)


def test_queries_without_bias_are_read_as_zeros(image):
    state = written(False, False)
    zeroed = {
        k: 0 * v if k.endswith(("query.bias", "key.bias", "value.bias")) else v for k, v in state.items()
    }
    bare = {
        k: torch.from_numpy(v)
        for k, v in state.items()
        if not k.endswith(("query.bias", "key.bias", "value.bias"))
    }
    wanted = numpy_forward(zeroed, image.double().numpy(), 4, False, 1e-12)
    np.testing.assert_allclose(load_vit(bare, heads=4)[0](image).detach().numpy(), wanted, atol=2e-5)


# --- both directions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_goes_out_and_comes_back(layout, image):
    family = LAYOUTS[layout]
    arguments = {
        "layer_scale": None if family.layer_scale is False else 0.5,
        "registers": 2 * family.registers,
    }
    network = made(**arguments, eps=family.eps)
    if layout == "timm":  # gives the class token no position where there are registers
        network.pos_embed.data[0, 0] = 0
    back, facts = load_vit(vit_state_dict(network, layout), layout, heads=4)
    assert facts.layout == layout
    same(back.state_dict(), network.state_dict())
    assert torch.equal(back(image), network(image))


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (lambda s: s, "vit"),
        (lambda s: s | {"head.weight": s["norm.bias"]}, "vit"),
        (lambda s: {"model": s | {"decoder_embed.weight": s["norm.bias"]}}, "mae"),
        (lambda s: {"state_dict": {f"module.encoder_q.{k}": v for k, v in s.items()}}, "vit"),
        (lambda s: {"student": {f"module.backbone.{k}": v for k, v in s.items()}}, "dino"),
        (
            lambda s: {f"backbone.{k}": v for k, v in s.items()} | {"head.mlp.0.weight": s["norm.bias"]},
            "dino",
        ),
        (lambda s: {f"_orig_mod.{k}": v for k, v in s.items()}, "vit"),
    ],
)
def test_families_are_recognised_under_any_prefix(change, layout):
    network = made()
    back, facts = load_vit(change(vit_state_dict(network)), heads=4)
    assert facts.layout == layout
    same(back.state_dict(), network.state_dict())


@pytest.mark.parametrize("registers", [0, 2])
def test_metas_dinov2_is_read_in_groups_of_blocks_too(registers, image):
    network = made(
        layer_scale=0.5,
        registers=registers,
        interpolation_offset=0.0 if registers else 0.1,
        antialias=registers > 0,
    )
    state = vit_state_dict(network, "dinov2") | {"mask_token": torch.zeros(1, 16)}
    grouped = {k.replace("blocks.", "blocks.0." if "s.0." in k else "blocks.1."): v for k, v in state.items()}
    for content in (state, {"teacher": {f"backbone.{k}": v for k, v in grouped.items()}}):
        back, facts = load_vit(content, heads=4)
        assert facts.layout == "dinov2" and "mask_token" in facts.ignored
        for picture in (image, image[..., :16, :24]):
            assert torch.equal(back(picture), network(picture))


def test_timm_positions_without_one_for_the_class_token(image):
    network = made(layer_scale=0.5, registers=2, antialias=True)
    with pytest.raises(ValueError, match="gives no position to the class token"):
        vit_state_dict(network, "timm")
    network.pos_embed.data[0, 0] = 0
    state = vit_state_dict(network, "timm")
    assert state["pos_embed"].shape[1] == 16 and "reg_token" in state
    back, facts = load_vit(state, heads=4)
    assert facts.layout == "timm" and torch.equal(back(image[..., :16, :16]), network(image[..., :16, :16]))


@pytest.mark.parametrize(
    ("layout", "offset", "antialias"), [("vit", 0.0, False), ("dino", 0.1, False), ("timm", 0.0, True)]
)
def test_families_interpolate_positions_in_their_own_ways(layout, offset, antialias):
    """A bare encoder is of the family that the caller names."""
    table = made().pos_embed.detach()[:, 1:].view(1, 4, 4, 16).permute(0, 3, 1, 2)
    how = {"scale_factor": (2.1 / 4, 3.1 / 4)} if offset else {"size": (2, 3)}
    wanted = torch.nn.functional.interpolate(table, **how, mode="bicubic", antialias=antialias)
    network, facts = load_vit(vit_state_dict(made()), layout, heads=4)
    assert facts.layout == layout
    torch.testing.assert_close(network.positions(2, 3)[0, 1:], wanted[0].flatten(1).t(), atol=1e-6, rtol=1e-5)


def test_fine_tuned_mae_pools_before_its_norm(image):
    network = made()
    state = vit_state_dict(network, "mae")
    state |= {"fc_norm.weight": state.pop("norm.weight"), "fc_norm.bias": state.pop("norm.bias")}
    state |= {"head.weight": torch.zeros(9, 16), "head.bias": torch.zeros(9)}
    back, facts = load_vit({"model": state}, heads=4)
    assert (facts.layout, facts.pooling, facts.ignored) == ("mae", "mean", ("head",))
    tokens = network.tokens(image)
    for block in network.blocks:
        tokens = block(tokens)
    wanted = torch.nn.functional.layer_norm(
        tokens[:, 1:].mean(1), (16,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6
    )
    torch.testing.assert_close(back.pooled(image, facts.pooling), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fixed_positions_are_recognised_and_kept_out_of_training(dtype):
    state = {k: v.to(dtype) for k, v in vit_state_dict(made(positions="sincos")).items()}
    network, facts = load_vit(state, heads=4)
    assert facts.layout == "mae" and "pos_embed" not in dict(network.named_parameters())
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())
    same(network.state_dict(), {k: v.float() for k, v in state.items()})
    learned = state | {"pos_embed": state["pos_embed"] + 0.1}
    assert "pos_embed" in dict(load_vit(learned, heads=4)[0].named_parameters())


def test_settings_reach_the_network():
    network = made(image_size=(16, 40))
    back, _ = load_vit(
        vit_state_dict(network), "dino", heads=2, image_size=(16, 40), eps=1e-3, drop_path=0.3, antialias=True
    )
    assert (back.grid, back.blocks[0].attn.heads, back.norm.eps) == ((2, 5), 2, 1e-3)
    assert back.interpolation_offset == 0.1 and back.antialias and back.blocks[1].drop_path == 0.3
    assert (
        load_vit(vit_state_dict(network), "dino", heads=2, image_size=(16, 40), interpolation_offset=0.0)[
            0
        ].interpolation_offset
        == 0
    )


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_are_read(name, tmp_path):
    network = made()
    write = save_file if name.endswith("s") else torch.save
    write(vit_state_dict(network), tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        same(load_vit(path, heads=4)[0].state_dict(), network.state_dict())
    content = (tmp_path / name).read_bytes()
    for part in (2, 3, 10, 100):
        (tmp_path / name).write_bytes(content[: len(content) // part])
        with pytest.raises(ValueError, match=r"source: .*a\."):
            load_vit(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match="source: no file at"):
        load_vit(tmp_path / name)


def test_folder_of_hugging_face_tells_heads_norms_and_normalisation(tmp_path):
    network = made(eps=1e-5)
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_vit(tmp_path)
    save_file(vit_state_dict(network, "hf-vit"), tmp_path / "model.safetensors")
    config = {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "image_size": 32, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    back, facts = load_vit(tmp_path)
    assert back.blocks[0].attn.heads == 4 and back.norm.eps == 1e-5
    assert facts.mean == (0.1, 0.2, 0.3) and facts.std == (0.4, 0.5, 0.6)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "quick_gelu"}))
    with pytest.raises(ValueError, match=r"config\.json says 'quick_gelu'"):
        load_vit(tmp_path)


@pytest.mark.parametrize(
    ("name", "prepared", "mean", "std"),
    [
        ("preprocessor_config.json", {"do_normalize": False, "image_mean": [9] * 3}, (0.0,) * 3, (1.0,) * 3),
        ("preprocessor_config.json", {"do_rescale": False}, (0.4,) * 3, (0.2,) * 3),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, (51.0,) * 3, (25.5,) * 3),
        ("processor_config.json", {"image_processor": {"do_rescale": False}}, (0.4,) * 3, (0.2,) * 3),
    ],
)
def test_folder_of_hugging_face_tells_normalisation_on_its_own_scale(tmp_path, name, prepared, mean, std):
    save_file(vit_state_dict(made(), "hf-vit"), tmp_path / "model.safetensors")
    told = {"image_mean": [102.0] * 3, "image_std": [51.0] * 3}
    inner = prepared.get("image_processor", prepared)
    prepared = {"image_processor": told | inner} if inner is not prepared else told | prepared
    (tmp_path / name).write_text(json.dumps(prepared))
    _, facts = load_vit(tmp_path, heads=4)
    assert facts.mean == pytest.approx(mean) and facts.std == pytest.approx(std)


def test_folder_of_timm_tells_normalisation(tmp_path):
    torch.save(vit_state_dict(made(layer_scale=0.5), "timm"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(
        '{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}'
    )
    _, facts = load_vit(tmp_path, heads=4)
    assert (facts.layout, facts.mean, facts.std) == ("timm", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_folder_of_timm_is_one_whatever_the_names_of_its_weights(tmp_path):
    torch.save(vit_state_dict(made(), "timm"), tmp_path / "pytorch_model.bin")
    assert load_vit(tmp_path, heads=4)[1].layout == "vit"
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    network, facts = load_vit(tmp_path, heads=4)
    assert facts.layout == "timm" and network.antialias
    assert load_vit(tmp_path, layout="dino", heads=4)[1].layout == "dino"


# --- what cannot be read -----------------------------------------------------------------------------------------


def test_several_networks_are_told_apart_by_branch():
    first, second = made(), made(eps=1e-3)
    second.cls_token.data += 1
    content = {"student": {f"module.{k}": v for k, v in vit_state_dict(first).items()}}
    content["teacher"] = vit_state_dict(second)
    same(load_vit(content, heads=4)[0].state_dict(), second.state_dict())
    same(load_vit(content, branch="student", heads=4)[0].state_dict(), first.state_dict())
    with pytest.raises(ValueError, match=r"source holds 2 networks, .* of which 0 fit branch 'ema'"):
        load_vit(content, branch="ema", heads=4)


@pytest.mark.parametrize(
    "name", ["w12", "w3", "weights_in", "weights_out", "gate_proj", "down_proj", "fc1_g"]
)
def test_gated_layers_are_refused(name):
    state = vit_state_dict(made(layer_scale=0.5), "dinov2")
    state[f"blocks.0.mlp.{name}.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"gated \(SwiGLU\) feed-forward layers .* run this network by"):
        load_vit(state, heads=4)


def test_gated_layers_in_one_matrix_are_refused():
    state = vit_state_dict(made())
    state["blocks.0.mlp.fc2.weight"] = torch.zeros(16, 32)
    with pytest.raises(ValueError, match=r"plain feed-forward layers; found .* layers of 64 and 32"):
        load_vit(state, heads=4)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda s: {"a": torch.zeros(1)}, {}, "source must hold a Vision Transformer.*found a"),
        (lambda s: {}, {}, "found nothing"),
        (
            lambda s: s | {"blocks.0.attn.q_norm.weight": s["norm.bias"]},
            {},
            r"unexpected blocks\.0\.attn\.q_norm",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "cls_token"}, {}, "without cls_token"),
        (lambda s: {k: v for k, v in s.items() if k != "norm.bias"}, {}, "norm.bias missing instead of"),
        (lambda s: s | {"norm.bias": torch.zeros(3)}, {}, r"norm\.bias \(3,\) instead of \(16,\)"),
        (lambda s: s, {"heads": None}, "heads must be given"),
        (lambda s: s, {"image_size": (16, 16)}, "image_size must be given"),
        (lambda s: s | {"pos_embed": torch.zeros(1, 11, 16)}, {}, "image_size must be given"),
        (lambda s: s, {"layout": "hf-vit"}, "does not hold the Vision Transformer of 'hf-vit'"),
        (lambda s: s, {"layout": "beit"}, "layout must be one of vit, gcmae"),
    ],
)
def test_what_cannot_be_read_is_explained(change, settings, message):
    given = {name: value for name, value in ({"heads": 4} | settings).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_vit(change(vit_state_dict(made())), **given)


def test_unknown_settings_and_what_a_family_cannot_hold():
    with pytest.raises(TypeError, match="load_vit has no setting depth"):
        load_vit(vit_state_dict(made()), depth=3)
    with pytest.raises(ValueError, match="network has layer scales, which files of 'hf-vit' never have"):
        vit_state_dict(made(layer_scale=1.0), "hf-vit")
    with pytest.raises(
        ValueError, match="network has no layer scales, which files of 'hf-dinov2' always have"
    ):
        vit_state_dict(made(), "hf-dinov2")
    with pytest.raises(ValueError, match="network has register tokens, which files of 'mae' never have"):
        vit_state_dict(made(registers=2), "mae")


# --- the libraries themselves, where they are installed ----------------------------------------------------------


@pytest.mark.parametrize("name", ["ViT", "ViTMSN", "Dinov2", "Dinov2WithRegisters"])
def test_networks_of_transformers_give_the_same_tokens_both_ways(name, image, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    config = getattr(transformers, f"{name}Config")(
        **sizes | ({} if "Dino" in name else {"intermediate_size": 64})
    )
    theirs = getattr(transformers, f"{name}Model")(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    theirs.save_pretrained(tmp_path)
    from_file, _ = load_vit(tmp_path)
    from_memory, facts = load_vit(theirs.state_dict(), heads=4, eps=config.layer_norm_eps)
    further = {} if name.startswith("Dino") else {"interpolate_pos_encoding": True}
    for picture in (image, torch.cat([image, image], 3)[..., :16, :40]):
        wanted = theirs(picture, **further).last_hidden_state
        for network in (from_file, from_memory):
            torch.testing.assert_close(network(picture), wanted, atol=2e-5, rtol=1e-5)
    changed = made(layer_scale=0.5 if facts.layout == "hf-dinov2" else None, registers=from_file.first - 1)
    save_file(vit_state_dict(changed, facts.layout), tmp_path / "model.safetensors", {"format": "pt"})
    back = type(theirs).from_pretrained(tmp_path).eval()
    same(load_vit(back.state_dict(), heads=4)[0].state_dict(), changed.state_dict())
