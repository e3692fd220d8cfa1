"""The masked autoencoder: what it sees, in which order, and its fixed parts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import MaskedAutoencoder, hide, patchify, square_scale, unpatchify

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "gcmae"


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MaskedAutoencoder(
        24, 4, dim=16, depth=2, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2
    ).eval()


@pytest.mark.parametrize(("squares", "ratio"), [(16, 0.5), (49, 0.75), (196, 0.5), (10, 0.33), (10, 0.9)])
def test_counts(squares, ratio):
    """Spec 6.1, 6.2."""
    hiding = hide(torch.rand(5, squares), ratio)
    shown = {(16, 0.5): 8, (49, 0.75): 12, (196, 0.5): 98, (10, 0.33): 6, (10, 0.9): 1}[squares, ratio]
    assert hiding.kept.shape == (5, shown)
    assert hiding.hidden.sum(1).tolist() == [squares - shown] * 5
    for kept, hidden, place in zip(hiding.kept, hiding.hidden, hiding.place, strict=True):
        assert sorted(kept.tolist() + hidden.nonzero().flatten().tolist()) == list(range(squares))
        order = torch.cat([kept, torch.full((squares - shown,), -1)])
        assert torch.equal(order[place].clamp(min=0) * ~hidden, torch.arange(squares) * ~hidden)


@pytest.mark.parametrize(
    ("squares", "ratio", "shown"), [(25, 0.8, 4), (100, 0.9, 9), (196, 0.75, 49), (36, 0.5, 18)]
)
def test_counts_as_released(squares, ratio, shown):
    """``int(L * (1 - mask_ratio))`` of the released code, which the exact count exceeds where the product is whole."""
    assert hide(torch.rand(2, squares), ratio, official_compat=True).kept.shape == (2, shown)
    exact = {(25, 0.8): 5, (100, 0.9): 10}.get((squares, ratio), shown)
    assert hide(torch.rand(2, squares), ratio).kept.shape == (2, exact)


def test_golden_masks():
    """Spec 6.2, from the released code's noise."""
    with np.load(GOLDEN / "masking.npz") as file:
        a = {name: torch.from_numpy(np.array(file[name])) for name in file.files}
    for case in ("c0", "c1", "c2", "c3"):
        hiding = hide(a[f"{case}_noise"], float(a[f"{case}_ratio"]), official_compat=True)
        assert torch.equal(hiding.place, a[f"{case}_ids_restore"])
        assert torch.equal(hiding.hidden.float(), a[f"{case}_mask"])
        x = a[f"{case}_x"]
        assert torch.equal(
            torch.stack([row[k] for row, k in zip(x, hiding.kept, strict=True)]), a[f"{case}_x_kept"]
        )


def test_hidden_pixels_are_not_seen(network):
    """Spec 6.3."""
    image, hiding = torch.randn(2, 3, 24, 24), hide(torch.rand(2, 36), 0.5)
    squares = patchify(image, 4)
    other = torch.where(hiding.hidden.unsqueeze(2), torch.randn_like(squares), squares)
    changed = unpatchify(other, (6, 6), 4)
    assert not torch.equal(changed, image)
    assert torch.equal(network.encode_shown(image, hiding.kept), network.encode_shown(changed, hiding.kept))


def test_order_of_tokens_does_not_matter(network):
    """Spec 6.7."""
    image, kept = torch.randn(2, 3, 24, 24), hide(torch.rand(2, 36), 0.5).kept
    turn = torch.randperm(kept.shape[1])
    straight, turned = network.encode_shown(image, kept), network.encode_shown(image, kept[:, turn])
    assert torch.allclose(straight[:, 1:][:, turn], turned[:, 1:], atol=1e-5)
    assert torch.allclose(straight[:, 0], turned[:, 0], atol=1e-5)


def test_everything_shown_is_the_plain_transformer(network):
    image = torch.randn(2, 3, 24, 24)
    every = torch.arange(36).expand(2, -1)
    assert torch.allclose(network.encode_shown(image, every), network(image), atol=1e-5)


def test_squares_and_back():
    """Spec 6.5: rows, then columns, then colours, by loops."""
    image = torch.randn(2, 3, 6, 9)
    squares = patchify(image, 3)
    assert torch.equal(unpatchify(squares, (2, 3), 3), image)
    for r in range(2):
        for c in range(3):
            part = image[:, :, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3]
            assert torch.equal(squares[:, 3 * r + c], part.permute(0, 2, 3, 1).flatten(1))
    mean, spread = square_scale(squares)
    wanted = squares.numpy().var(axis=2, ddof=1, keepdims=True)
    assert np.allclose(spread.square().numpy(), wanted + 1e-6, atol=1e-5) and mean.shape == (2, 6, 1)


def test_positions_are_fixed(network):
    """Spec 6.6."""
    trained = {name for name, _ in network.named_parameters()}
    assert not trained & {"pos_embed", "decoder_pos_embed"}
    assert {"pos_embed", "decoder_pos_embed"} <= set(network.state_dict())
    assert not network.pos_embed[0, 0].any() and not network.decoder_pos_embed[0, 0].any()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"decoder_depth": 0}, "decoder_depth must be at least 1; found 0"),
        ({"decoder_heads": 3}, "decoder_heads must divide decoder_dim 8; found 3"),
        ({"patch_size": 5}, "image_size must be a multiple of patch_size 5"),
    ],
)
def test_bad_sizes(sizes, message):
    good = {"image_size": 16, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "decoder_dim": 8}
    with pytest.raises(ValueError, match=message):
        MaskedAutoencoder(**{**good, "decoder_depth": 1, "decoder_heads": 2, **sizes})
