"""The region transformer: golden arrays, masked tokens against absent ones, and positions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import RegionTransformer, TransformerBlock

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slpd" / "vit4k_dinohead.npz"


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"feature_dim": 7, "dim": 12, "depth": 3, "heads": 3, "grid": 5}
    network = RegionTransformer(**(sizes | arguments))
    for parameter in network.parameters():  # norms and biases too, so that nothing is trivially right
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def regions():
    generator = torch.Generator().manual_seed(1)
    grid = torch.randn(4, 7, 5, 5, generator=generator)
    present = torch.rand(4, 5, 5, generator=generator) < 0.5
    present[0], present[1] = True, False
    present[1, 2, 3] = True
    return grid, present


@pytest.fixture(scope="module")
def golden():
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN).items()}


@pytest.fixture(scope="module")
def released(golden):
    network = RegionTransformer(24, 32, 2, int(golden["num_heads"]), interpolation_offset=0.1).eval()
    start = "sd/backbone."
    network.load_state_dict({n.removeprefix(start): v for n, v in golden.items() if n.startswith(start)})
    return network


def test_class_tokens_equal_the_released_ones(golden, released):
    """Check 18: class tokens of global and local crops."""
    for number in range(3):
        crop, wanted = golden[f"in{number}"], golden[f"cls{number}"]
        torch.testing.assert_close(released.pooled(crop), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(released(crop)[:, 0], wanted, atol=1e-5, rtol=0)
        everywhere = torch.ones(len(crop), *crop.shape[2:], dtype=torch.bool)
        torch.testing.assert_close(released.pooled(crop, everywhere), wanted, atol=1e-5, rtol=0)
    found = released.attention(golden["in0"])[:, :, 0]
    torch.testing.assert_close(found, golden["attn_last_in0_class_token"], atol=1e-6, rtol=0)


def test_positions_equal_the_released_ones(golden, released):
    """Check 18: the table itself at 14 x 14, interpolated elsewhere."""
    assert released.positions(14, 14) is released.pos_embed
    for side in (6, 10, 16):
        found = released.positions(side, side)
        torch.testing.assert_close(found, golden[f"posenc_{side}"], atol=1e-5, rtol=0)
    exact = small(grid=14, interpolation_offset=0.0)
    assert not torch.allclose(exact.positions(6, 6), small(grid=14, interpolation_offset=0.1).positions(6, 6))


def test_positions_without_offset_leave_a_slope_as_it_is():
    network = small(grid=8, dim=3)
    line = torch.arange(8.0).view(8, 1, 1).expand(8, 8, 3)
    network.pos_embed.data[:, 1:] = line.reshape(1, 64, 3)
    found = network.positions(4, 4)[0, 1:].view(4, 4, 3)
    torch.testing.assert_close(found[1:3], (torch.arange(4.0) * 2 + 0.5).view(4, 1, 1).expand(4, 4, 3)[1:3])


def test_views_of_one_size_may_be_read_together(golden, released):
    """Check 18: a batch of several views is its parts."""
    together = released.pooled(torch.cat([golden["in0"], golden["in1"]]))
    torch.testing.assert_close(together, torch.cat([golden["cls0"], golden["cls1"]]), atol=1e-5, rtol=0)


def test_masked_tokens_are_not_there(regions):
    """With a mask: exactly the present tokens by themselves, and 0 elsewhere."""
    grid, present = regions
    network = small()
    found, pooled, attention = (one(grid, present) for one in (network, network.pooled, network.attention))
    every, _ = network.tokens(grid)
    for number, there in enumerate(present.flatten(1)):
        kept = torch.cat([torch.tensor([True]), there])
        x = every[number : number + 1, kept]
        for block in network.blocks:
            x = block(x)
        x = network.norm(x)
        torch.testing.assert_close(found[number, kept], x[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooled[number], x[0, 0], atol=1e-5, rtol=1e-5)
        assert not found[number, ~kept].any() and not attention[number, :, :, ~kept].any()
    torch.testing.assert_close(attention.sum(3), torch.ones(4, 3, 26))


@pytest.mark.parametrize("junk", [1e6, float("nan"), float("inf")])
def test_what_lies_where_no_patch_is_has_no_influence(regions, junk):
    grid, present = regions
    other = grid.masked_fill(~present.unsqueeze(1), junk).requires_grad_()
    network = small()
    found = network(other, present)
    torch.testing.assert_close(found, network(grid, present))
    (network.pooled(other, present).sum() + found.sum()).backward()
    assert bool(other.grad.isfinite().all())
    assert not other.grad.masked_select(~present.unsqueeze(1)).any()
    assert all(bool(weight.grad.isfinite().all()) for weight in network.parameters())


def test_no_mask_and_a_full_one_agree(regions):
    grid, _ = regions
    network, present = small(), torch.ones(4, 5, 5, dtype=torch.bool)
    torch.testing.assert_close(network(grid), network(grid, present), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.pooled(grid), network.pooled(grid, present), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.attention(grid), network.attention(grid, present))


def test_order_of_places_does_not_matter(regions):
    """The places of a region and their positions may be permuted together: a complete graph has no order."""
    grid, present = regions
    network, shuffle = small(), torch.randperm(25, generator=torch.Generator().manual_seed(2))
    wanted = network(grid, present)
    network.pos_embed.data[:, 1:] = network.pos_embed.data[:, 1:][:, shuffle]
    moved, there = (
        grid.flatten(2)[:, :, shuffle].view_as(grid),
        present.flatten(1)[:, shuffle].view_as(present),
    )
    torch.testing.assert_close(network.pooled(moved, there), wanted[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(moved, there)[:, 1:], wanted[:, 1:][:, shuffle], atol=1e-5, rtol=1e-5)


def test_other_grids_and_their_gradients(regions):
    grid, present = regions
    network = small()
    found = network(grid[:, :, :3, :4], present[:, :3, :4])
    assert found.shape == (4, 13, 12)
    found.sum().backward()
    assert network.pos_embed.grad.abs().sum() > 0


def test_parameters_of_the_published_size():
    """Check of section 2.1 and 3 of the released network: 2,781,504 parameters under these names."""
    with torch.device("meta"):
        network = RegionTransformer()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(value.numel() for value in network.parameters()) == 2_781_504
    assert shapes["pos_embed"] == (1, 197, 192) and shapes["phi.0.weight"] == (192, 384)
    assert shapes["blocks.5.attn.qkv.weight"] == (576, 192) and shapes["blocks.0.mlp.fc1.weight"] == (
        768,
        192,
    )
    assert len(shapes) == 2 + 2 + 6 * 12 + 2


def test_stochastic_depth_is_for_training_alone(regions):
    grid, present = regions
    network = small(drop_path=0.5)
    assert [block.drop_path for block in network.blocks] == [0.0, 0.25, 0.5]
    assert torch.equal(network(grid, present), network(grid, present))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network.pooled(grid, present), network.pooled(grid, present))


def test_blocks_with_a_mask_in_the_image_transformer():
    """The mask of nn/vit.py alone: one token of each image hidden from all."""
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, layer_scale=0.3).eval()
    x, present = torch.randn(3, 6, 8), torch.ones(3, 6, dtype=torch.bool)
    present[:, 4] = False
    torch.testing.assert_close(block(x, present)[:, :4], block(x[:, present[0]])[:, :4])
    torch.testing.assert_close(block.first(x, present), block.first(x[:, present[0]]))
    torch.testing.assert_close(block.first(x, present), block(x, present)[:, :1])


def test_messages(regions):
    grid, present = regions
    network = small()
    with pytest.raises(ValueError, match=r"feature_dim = 7, rows, columns\), found \(4, 6, 5, 5\)"):
        network(grid[:, :6])
    with pytest.raises(ValueError, match=r"boolean of shape \(4, 5, 5\).*found torch.float32"):
        network(grid, present.float())
    with pytest.raises(ValueError, match=r"of shape \(4, 4, 5\)"):
        network.pooled(grid, present[:, :4])
    with pytest.raises(ValueError, match="heads must be a divisor of dim 12; found 5"):
        small(heads=5)
    with pytest.raises(ValueError, match="heads must be a divisor of dim 12; found 0"):
        small(heads=0)
    for name in ("feature_dim", "depth", "grid"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1; found 0"):
            small(**{name: 0})
    with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1; found 1"):
        small(drop_path=1)
