from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.evaluation import class_attention, mass_mask
from histograph.nn import VisionTransformer

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "dino" / "attention_threshold.npz"


@pytest.mark.parametrize("case", ["a0", "a1"])
def test_golden_sets_of_tokens(case: str) -> None:
    with np.load(GOLDEN) as file:
        attention, mass, expected = (file[f"{case}_{name}"] for name in ("attn", "mass", "mask"))
    maps = attention.reshape(expected.shape)
    assert np.array_equal(mass_mask(maps, float(mass)), expected)
    assert np.array_equal(mass_mask(attention, float(mass)).reshape(expected.shape), expected)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.93, 1.0])
def test_no_smaller_set_holds_as_much(mass: float) -> None:
    weight = np.random.default_rng(0).gamma(0.5, size=(20, 2, 4))
    kept = mass_mask(weight, mass)
    for row, chosen in zip(weight.reshape(20, 8), kept.reshape(20, 8)):
        needed = mass * row.sum() * (1 - 1e-12)
        assert row[chosen].sum() >= needed
        smaller = combinations(row, int(chosen.sum()) - 1)
        assert max(sum(some) for some in smaller) < needed
        assert row[chosen].min() >= row[~chosen].max(initial=0)


def test_heads_are_apart_scale_does_not_matter_and_ties_go_by_place() -> None:
    weight = np.random.default_rng(1).random((3, 9))
    assert np.array_equal(mass_mask(weight)[1:2], mass_mask(weight[1:2]))
    assert np.array_equal(mass_mask(7 * weight), mass_mask(weight))
    assert mass_mask([[0.25] * 4]).tolist() == [[True, True, False, False]]
    assert mass_mask([[0.1] * 10]).sum() == 5
    assert mass_mask([[0.0, 1.0, 0.0]], mass=1.0).tolist() == [[False, True, False]]


def test_a_map_is_the_row_of_the_class_token_without_itself() -> None:
    network = VisionTransformer(image_size=16, patch_size=4, dim=12, depth=2, heads=3).train()
    image = torch.rand(3, 16, 24)
    maps = class_attention(network, image)
    assert network.training  # left as it was
    whole = network.eval().attention(image[None])[0, :, 0].detach().numpy()
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert maps.shape == (3, 4, 6)
    assert np.allclose(maps.reshape(3, 24), whole[:, 1:], atol=1e-7)
    assert np.allclose(maps.sum(axis=(1, 2)), 1 - whole[:, 0], atol=1e-6)
    first = class_attention(network, image, block=0)
    assert not np.allclose(first, maps)
    assert np.allclose(class_attention(network, image, block=-2), first)


def test_any_module_with_tokens_beside_the_squares_will_do() -> None:
    class Mine(torch.nn.Module):
        patch_size = 2

        def attention(self, image: torch.Tensor, block: int) -> torch.Tensor:
            return torch.arange(7.0).repeat(1, 2, 7, 1)  # class token, two registers, 2 x 2 squares

    assert class_attention(Mine(), torch.zeros(3, 4, 4))[1].tolist() == [[3, 4], [5, 6]]
    with pytest.raises(ValueError, match="7 tokens for 4 x 2 squares"):
        class_attention(Mine(), torch.zeros(3, 8, 4))


def test_mistakes_are_named() -> None:
    network = VisionTransformer(image_size=16, patch_size=8, dim=8, depth=1, heads=2)
    with pytest.raises(ValueError, match="one image"):
        class_attention(network, torch.zeros(2, 3, 16, 16))
    with pytest.raises(TypeError, match="found Linear"):
        class_attention(torch.nn.Linear(2, 2), torch.zeros(3, 16, 16))
    for weight, mass, message in [
        ([[0.5, 0.5]], 0.0, "mass must be in"),
        ([[0.5, 0.5]], 50, "mass must be in"),
        ([0.5, 0.5], 0.5, "a row for each head"),
        ([[0.5, -0.5]], 0.5, "not negative"),
        ([[1.0, 2.0], [0.0, 0.0]], 0.5, "head 1 is 0 everywhere"),
    ]:
        with pytest.raises(ValueError, match=message):
            mass_mask(weight, mass)
