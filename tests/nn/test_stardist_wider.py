"""A StarDist network made wider computes the same, and its copies can part."""

import pytest
import torch

from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_net import StarDistNet
from histograph.nn.stardist_wider import widened


@pytest.mark.parametrize(
    "shape",
    [
        {"n_depth": 1, "features": 0},
        {"n_depth": 3, "features": 6, "grid": (4, 2)},
        {"n_depth": 2, "n_classes": 2, "features": 5, "batch_norm": True},
        {"n_depth": 2, "n_conv_per_depth": 3, "expansion": 1, "n_classes": 1, "features": 0},
    ],
)
@pytest.mark.parametrize("filters", [3, 4, 6, 7])
def test_without_changes_it_is_the_same_function(shape, filters) -> None:
    torch.manual_seed(0)
    small = StarDistNet(StarDistConfig(n_channel_in=3, n_rays=4, n_filter_base=3, **shape))
    image = torch.rand(2, 3, 32, 32)
    small.train()(image)  # moves the statistics of batch normalisation away from 0 and 1
    wide = widened(small.eval(), filters, unlike=0.0)
    for a, b in zip(small.logits(image), wide.logits(image), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.allclose(a, b, atol=1e-5)


def test_copies_are_made_unlike_by_the_seed() -> None:
    torch.manual_seed(0)
    small = StarDistNet(StarDistConfig(n_channel_in=3, n_rays=4, n_depth=1, n_filter_base=4, features=4))
    before = {name: value.clone() for name, value in small.state_dict().items()}
    one, same, other = (widened(small, 8, seed=seed) for seed in (3, 3, 4))
    first = one.down[0][0].conv.weight
    assert not torch.allclose(first[:4], first[4:])
    assert torch.equal(first, same.down[0][0].conv.weight)
    assert not torch.equal(first, other.down[0][0].conv.weight)
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("arguments", "words"), [((3,), "at least the 4"), ((8, -0.1), "unlike: expected")])
def test_errors_name_the_argument(arguments, words) -> None:
    small = StarDistNet(StarDistConfig(n_depth=1, n_filter_base=4, n_rays=4))
    with pytest.raises(ValueError, match=words):
        widened(small, *arguments)
