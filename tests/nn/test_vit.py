"""The Vision Transformer and its positions: against torch's own layers, golden arrays and properties."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from histograph.nn import VIT_SIZES, VisionTransformer, sincos_positions, vit
from histograph.nn.vit import TokenAttention

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def small(**arguments) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 3, "heads": 4}
    network = VisionTransformer(**(sizes | arguments))
    for parameter in network.parameters():  # norms and biases too, so that nothing is trivially right
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_equals_torchs_own_encoder(image):
    """The blocks are torch's pre-norm encoder layers, the patch embedding a linear map of each square."""
    network = small()
    layer = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    x = network.tokens(image)
    squares = image.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, -1)
    wanted = squares @ network.patch_embed.proj.weight.flatten(1).t() + network.patch_embed.proj.bias
    torch.testing.assert_close(x[:, 1:], wanted + network.pos_embed[:, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(x[0, 0], network.cls_token[0, 0] + network.pos_embed[0, 0])
    for block in network.blocks:
        state = {
            "self_attn.in_proj_weight": block.attn.qkv.weight,
            "self_attn.in_proj_bias": block.attn.qkv.bias,
            "self_attn.out_proj.weight": block.attn.proj.weight,
            "self_attn.out_proj.bias": block.attn.proj.bias,
            "linear1.weight": block.mlp.fc1.weight,
            "linear1.bias": block.mlp.fc1.bias,
            "linear2.weight": block.mlp.fc2.weight,
            "linear2.bias": block.mlp.fc2.bias,
            **{
                f"norm{n}.{part}": getattr(getattr(block, f"norm{n}"), part)
                for n in (1, 2)
                for part in ("weight", "bias")
            },
        }
        layer.load_state_dict(state)
        x = layer(x)
    torch.testing.assert_close(network(image), network.norm(x), atol=1e-5, rtol=1e-4)


def test_order_of_tokens_does_not_matter(image):
    network = small()
    tokens = network.tokens(image)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(2))[:9]
    torch.testing.assert_close(
        network.run(tokens[:, order]),
        network.run(tokens[:, order.sort().values])[:, order.argsort().argsort()],
    )


def test_class_token_does_not_see_where_squares_stand_in_the_list(image):
    """Squares put in another order together with their positions leave the class token as it is."""
    network = small()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    squares = image.unfold(2, 8, 8).unfold(3, 8, 8).reshape(2, 3, 16, 8, 8)[:, :, order]
    shuffled = squares.reshape(2, 3, 4, 4, 8, 8).transpose(3, 4).reshape(2, 3, 32, 32)
    wanted = network(image)
    assert (network(shuffled) - wanted)[:, 0].abs().max() > 1e-3
    network.pos_embed.data[:, 1:] = network.pos_embed.data[:, 1 + order]
    torch.testing.assert_close(network(shuffled)[:, 0], wanted[:, 0], atol=1e-5, rtol=1e-4)


def test_removed_squares_are_not_seen(image):
    """Masking is the induced subgraph: pixels of squares that are left out change nothing."""
    network, kept = small(), [0, 1, 3, 8]
    changed = image.clone()
    changed[:, :, 8:16, 8:] = 7.0  # squares 5, 6 and 7, tokens 6, 7 and 8
    kept_tokens = network.tokens(image)[:, kept[:3]]
    torch.testing.assert_close(network.run(kept_tokens), network.run(network.tokens(changed)[:, kept[:3]]))
    seen = network.run(network.tokens(image)[:, kept]) - network.run(network.tokens(changed)[:, kept])
    assert seen[:, 0].abs().max() > 1e-3


def test_names_of_weights_are_the_fields():
    names = list(small(depth=1).state_dict())
    block = [
        f"blocks.0.{layer}.{part}"
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for part in ("weight", "bias")
    ]
    outside = [f"{layer}.{part}" for layer in ("patch_embed.proj", "norm") for part in ("weight", "bias")]
    assert sorted(names) == sorted(["cls_token", "pos_embed", *outside, *block])


@pytest.mark.parametrize(("offset", "antialias"), [(0.0, False), (0.1, False), (0.0, True), (0.1, True)])
@pytest.mark.parametrize("grid", [(2, 5), (7, 4), (6, 6), (1, 1)])
def test_positions_of_other_grids(grid, offset, antialias):
    """Against torch's bicubic interpolation of the whole table; the gradient flows to the learned table."""
    network = small(interpolation_offset=offset, antialias=antialias)
    table = network.pos_embed[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    if offset:
        factor = tuple((side + offset) / 4 for side in grid)
        wanted = interpolate(table, scale_factor=factor, mode="bicubic", antialias=antialias)
    else:
        wanted = interpolate(table, size=grid, mode="bicubic", antialias=antialias)
    found = network.positions(*grid)
    torch.testing.assert_close(found[0, 1:], wanted[0].flatten(1).t(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[0, 0], network.pos_embed[0, 0])
    found.sum().backward()
    assert network.pos_embed.grad.abs().sum() > 0


def test_interpolation_first_in_inference_mode_then_in_training():
    network = small()
    with torch.inference_mode():
        first = network(torch.zeros(1, 3, 16, 40))
    second = network.train()(torch.zeros(1, 3, 16, 40))
    second.square().sum().backward()
    torch.testing.assert_close(first, second.detach())
    kept = dict(network._stretch)
    network(torch.zeros(1, 3, 16, 40))
    assert all(network._stretch[key] is value for key, value in kept.items()) and len(kept) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_positions_are_interpolated_in_single_precision_at_least(dtype):
    network = small().to(dtype)
    found = network.positions(7, 4)
    assert found.dtype == dtype
    torch.testing.assert_close(found, network.double().positions(7, 4).to(dtype), atol=1e-6, rtol=1e-2)


def test_autocast_and_compilation_keep_the_result(image):
    network = small()
    wide = torch.cat([image, image], dim=3)[:, :, :16]
    for picture in (image, wide):
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(picture)
        torch.testing.assert_close(rough.float(), network(picture), atol=0.1, rtol=0.1)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(picture), network(picture))


def test_attention_in_bfloat16_is_that_in_float32_but_for_rounding():
    attention, x = TokenAttention(32, 4), torch.randn(2, 9, 32)
    present = torch.ones(2, 9, dtype=torch.bool)
    present[1, 5:] = False
    weight = torch.randn(2, 9, 32)
    found = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            out = attention(x, present)
        assert out.dtype == (torch.bfloat16 if mixed else torch.float32)
        found.append([out.float(), *torch.autograd.grad(out.float(), list(attention.parameters()), weight)])
    for exact, rounded in zip(*found, strict=True):
        assert (rounded - exact).norm() < 0.02 * exact.norm()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(x, present).float(), found[0][0], atol=0.03, rtol=0.03)


def test_rectangular_image_size_uses_its_table_as_it_is():
    network = small(image_size=(16, 40))
    assert network.grid == (2, 5) and network.positions(2, 5) is network.pos_embed
    assert network(torch.zeros(1, 3, 16, 40)).shape == (1, 11, 16)


def test_attention_is_what_the_block_uses(image):
    network = small()
    weights = network.attention(image, 1)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 4, 17))
    block, before = network.blocks[1], network.blocks[0](network.tokens(image))
    value = block.attn._split(block.norm1(before))[2]
    read = block.attn.proj((weights @ value).transpose(1, 2).reshape(2, 17, 16))
    torch.testing.assert_close(read, block.attn(block.norm1(before)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(network.attention(image), network.attention(image, 2))


def test_registers_stand_after_the_class_token_without_a_place(image):
    network, plain = small(registers=3), small()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k != "register_tokens"})
    tokens = network.tokens(image)
    assert network.first == 4 and plain.first == 1 and tokens.shape == (2, 20, 16)
    torch.testing.assert_close(tokens[:, [0, *range(4, 20)]], plain.tokens(image))
    torch.testing.assert_close(tokens[:, 1:4], network.register_tokens.expand(2, -1, -1))
    tokens = plain.tokens(image)
    joined = torch.cat([tokens[:, :1], network.register_tokens.expand(2, -1, -1), tokens[:, 1:]], dim=1)
    torch.testing.assert_close(network(image), plain.run(joined))


def test_layer_scale_is_a_factor_of_each_branch(image):
    """Scaling the last layer of a branch does the same; scales of 0 leave the tokens alone."""
    network, plain = small(layer_scale=0.5), small()
    state = dict(network.state_dict())
    for number in range(3):
        for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = state.pop(f"blocks.{number}.{scale}.gamma")
            state[f"blocks.{number}.{layer}.weight"] = (
                gamma[:, None] * state[f"blocks.{number}.{layer}.weight"]
            )
            state[f"blocks.{number}.{layer}.bias"] = gamma * state[f"blocks.{number}.{layer}.bias"]
    plain.load_state_dict(state)
    torch.testing.assert_close(network(image), plain(image), atol=1e-5, rtol=1e-4)
    still = VisionTransformer(32, 8, 16, 2, 4, layer_scale=0.0)
    torch.testing.assert_close(still(image), still.norm(still.tokens(image)))


def test_pooled_vectors(image):
    network = small(registers=2)
    torch.testing.assert_close(network.pooled(image), network(image)[:, 0])
    network.norm = torch.nn.Identity()
    torch.testing.assert_close(network.pooled(image, "mean"), network(image)[:, 3:].mean(1))
    with pytest.raises(ValueError, match="pooling must be one of cls, mean; found 'max'"):
        network.pooled(image, "max")


def test_the_class_token_alone_has_the_same_vector_and_gradients(image):
    network = small(drop_path=0.5)
    found = {}
    for name, vectors in (("alone", network.pooled), ("all", lambda picture: network(picture)[:, 0])):
        network.zero_grad()
        torch.manual_seed(0)
        out = vectors(image)
        out.square().sum().backward()
        found[name] = [out, *(weight.grad for weight in network.parameters())]
    for alone, everything in zip(found["alone"], found["all"], strict=True):
        torch.testing.assert_close(alone, everything, atol=1e-5, rtol=1e-4)


def test_intermediate_tokens_come_in_the_order_asked_for(image):
    network = small()
    last, first = network.intermediate(image, [-1, 0])
    torch.testing.assert_close(last, network(image))
    torch.testing.assert_close(first, network.norm(network.blocks[0](network.tokens(image))))
    assert network.intermediate(image, []) == []


def test_drop_path_rises_and_keeps_the_mean():
    network = small(drop_path=0.3)
    assert [round(block.drop_path, 3) for block in network.blocks] == [0.0, 0.15, 0.3]
    block, x = network.blocks[2], torch.ones(4000, 1, 16)
    change = block.train()._dropped(x)[:, 0, 0]
    assert sorted(set(change.tolist())) == pytest.approx([0.0, 1 / 0.7])
    assert abs(float((change == 0).float().mean()) - 0.3) < 3 * math.sqrt(0.21 / 4000)
    torch.testing.assert_close(block.eval()._dropped(x), x)


def test_fixed_positions_are_not_trained():
    network = small(positions="sincos")
    assert "pos_embed" not in dict(network.named_parameters()) and "pos_embed" in network.state_dict()
    torch.testing.assert_close(network.pos_embed[0], sincos_positions(16, (4, 4)).float())


def test_positions_equal_the_released_tables():
    with np.load(GOLDEN / "gcmae" / "pos_embed.npz") as file:
        tables = {name: file[name] for name in file.files}
    assert len(tables) >= 3
    for name, table in tables.items():
        dim, grid, cls = (int(part.lstrip("dgcls")) for part in name.split("_"))
        np.testing.assert_allclose(sincos_positions(dim, (grid, grid), bool(cls)).numpy(), table, atol=1e-12)


def test_positions_of_a_rectangle_are_cut_from_those_of_a_square():
    square = sincos_positions(8, (5, 5), cls=False).view(5, 5, 8)
    assert torch.equal(sincos_positions(8, (2, 5), cls=False).view(2, 5, 8), square[:2])
    assert torch.equal(sincos_positions(8, (5, 3), cls=False).view(5, 3, 8), square[:, :3])


@pytest.mark.parametrize(("name", "millions"), [("tiny", 5.5), ("small", 21.7), ("base", 85.8)])
def test_sizes_have_the_known_numbers_of_weights(name, millions):
    dim, depth, heads = VIT_SIZES[name]
    with torch.device("meta"):
        network = vit(name)
    assert (network.dim, len(network.blocks), network.blocks[0].attn.heads) == (dim, depth, heads)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"heads": 3}, "heads"),
        ({"image_size": 30}, "image_size"),
        ({"image_size": (32, 4)}, "image_size"),
        ({"depth": 0}, "depth"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"positions": "none"}, "positions"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"interpolation_offset": -1}, "interpolation_offset"),
        ({"layer_scale": -1}, "layer_scale"),
        ({"registers": -1}, "registers"),
        ({"dim": 18, "heads": 2, "positions": "sincos"}, "dim"),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        small(**arguments)


def test_wrong_inputs_are_named():
    network = small()
    with pytest.raises(ValueError, match=r"image must have shape \(B, 3, H, W\)"):
        network(torch.zeros(1, 32, 32, 3))
    with pytest.raises(ValueError, match=r"multiples of patch_size 8, found 20 x 32"):
        network(torch.zeros(1, 3, 20, 32))
    with pytest.raises(ValueError, match="block: there are 3 blocks"):
        network.attention(torch.zeros(1, 3, 32, 32), 3)
    with pytest.raises(ValueError, match="size must be one of tiny"):
        vit("giant")
    with pytest.raises(ValueError, match="grid"):
        sincos_positions(8, (0, 3))
