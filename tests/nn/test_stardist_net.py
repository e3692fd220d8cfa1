import numpy as np
import pytest
import torch

from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_net import StarDistNet


def network(seed=0, **settings):
    torch.manual_seed(seed)
    options = {"n_rays": 4, "n_filter_base": 3, "features": 4, **settings}
    return StarDistNet(StarDistConfig(**options)).eval().double()


@pytest.mark.parametrize(
    "settings",
    [
        {"n_depth": 2, "grid": (2, 2)},
        {"n_depth": 1, "grid": (4, 1), "kernel_size": (5, 3), "n_conv_per_depth": 3},
        {"n_depth": 2, "pool": (2, 4), "features": 0, "batch_norm": True},
        {"n_depth": 0},
    ],
)
def test_margin_holds_all_that_an_output_sees(settings):
    net = network(activation="elu", last_activation="elu", **settings)
    config = net.config
    rows, cols = (2 * margin + 2 * divisor for margin, divisor in zip(config.margin, config.divisor))
    image = torch.rand(1, 1, rows, cols, dtype=torch.float64)
    top, left = config.margin
    height, width = config.divisor
    other = torch.rand_like(image)
    other[..., : 2 * top + height, : 2 * left + width] = image[..., : 2 * top + height, : 2 * left + width]
    with torch.no_grad():
        one, two = net(image), net(other)
    rows = slice(top // config.grid[0], (top + height) // config.grid[0])
    cols = slice(left // config.grid[1], (left + width) // config.grid[1])
    for a, b in zip(one, two):
        torch.testing.assert_close(a[..., rows, cols], b[..., rows, cols], rtol=0, atol=1e-14)
        assert not torch.allclose(a, b, rtol=0, atol=1e-9)


def test_shifted_image_gives_shifted_output():
    net = network(n_depth=2, grid=(2, 2))
    step = net.config.divisor[0]
    image = torch.rand(1, 1, 128 + step, 128, dtype=torch.float64)
    with torch.no_grad():
        one, two = net(image[..., :-step, :])[0], net(image[..., step:, :])[0]
    inner = slice(28, 36)
    places = slice(28 + step // 2, 36 + step // 2)
    torch.testing.assert_close(one[..., places, 28:36], two[..., inner, 28:36], rtol=0, atol=1e-12)


def test_kinds_sum_to_one_and_logits_are_before_them():
    net = network(n_classes=3, n_channel_in=3)
    image = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        prob, dist, kinds = net(image)
        logits = net.logits(image)
    assert prob.shape == (2, 1, 16, 24) and dist.shape == (2, 4, 16, 24) and kinds.shape == (2, 4, 16, 24)
    np.testing.assert_allclose(kinds.sum(1), 1)
    torch.testing.assert_close(logits[0].sigmoid(), prob)
    torch.testing.assert_close(logits[2].softmax(1), kinds)


def test_gradients_reach_every_weight():
    net = network(
        n_classes=2, batch_norm=True, dropout=0.1, last_activation="linear", activation="elu"
    ).train()
    sum(output.square().mean() for output in net.logits(torch.rand(2, 1, 32, 32).double())).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for name, p in net.named_parameters()
        if not name.endswith("conv.bias") or "features" in name
    )


@pytest.mark.parametrize(
    "shape,match",
    [
        ((1, 3, 16, 16), r"1 channel.*\(1, 3, 16, 16\)"),
        ((1, 1, 16, 20), "multiples of"),
        ((1, 16, 16), "images"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, match):
    with pytest.raises(ValueError, match=match):
        network()(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "config,match",
    [
        ({"grid": [3, 1]}, "grid: expected two powers of 2"),
        ({"unet_kernel_size": [2, 3]}, "kernel_size: expected two odd"),
        ({"unet_activation": "mish"}, "activation: expected one of"),
        ({"n_rays": 2}, "n_rays"),
        ({"n_dim": 3}, "two-dimensional"),
        ({"backbone": "resnet"}, "backbone"),
        ({"n_classes": 0}, "n_classes"),
        ({"n_classes": "two"}, "n_classes: expected None or a whole number"),
        ({"grid": 2}, "grid: expected two powers of 2, found 2"),
        ({"unet_activation": ["relu"]}, "activation: expected one of"),
        ({"unet_batch_norm": "yes"}, "batch_norm: expected bool"),
        ({"unet_prefix": 3}, "prefix: expected str"),
        ({"unet_dropout": 1.5}, "dropout: expected a number from 0"),
        ({"unet_pool": [2, 2, 2]}, "pool"),
    ],
)
def test_settings_out_of_range_are_named(config, match):
    with pytest.raises(ValueError, match=match):
        StarDistConfig.from_dict(config)


def test_empty_last_activation_means_the_usual_one():
    assert (
        StarDistConfig.from_dict({"unet_last_activation": None, "unet_activation": "elu"}).last_activation
        == "elu"
    )
