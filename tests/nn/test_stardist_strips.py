import pytest
import torch

from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_net import StarDistNet
from histograph.nn.stardist_strips import forward_in_strips


def network(**settings):
    torch.manual_seed(0)
    options = {"n_rays": 4, "n_filter_base": 3, "features": 4, **settings}
    return StarDistNet(StarDistConfig(**options)).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"n_depth": 2, "grid": (2, 2)},
        {"n_depth": 1, "grid": (4, 1), "kernel_size": (5, 3), "n_conv_per_depth": 3},
        {"n_depth": 2, "pool": (2, 4), "features": 0, "batch_norm": True, "activation": "elu"},
        {"n_depth": 1, "pool": (3, 2), "kernel_size": (7, 7)},
        {"n_depth": 2, "n_conv_per_depth": 1, "grid": (2, 2)},
        {"n_depth": 0, "n_classes": 2},
        {"n_depth": 1, "pool": (1, 2), "kernel_size": (1, 3)},
    ],
)
@pytest.mark.parametrize("strip_px", [1, 700, 10**9])
def test_strips_give_what_the_whole_gives(settings, strip_px):
    net = network(**settings).double()
    rows, cols = net.config.divisor
    images = torch.rand(2, 1, -(-300 // rows) * rows, 3 * cols, dtype=torch.float64)
    before = images.clone()
    with torch.no_grad():
        whole = net(images)
    strips = forward_in_strips(net, images, strip_px)
    assert len(whole) == len(strips)
    for a, b in zip(whole, strips):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    assert torch.equal(images, before)


def test_every_level_is_cut(monkeypatch):
    """Or else the test above would compare the whole with itself."""
    net, heights = network(n_depth=2, grid=(2, 2)), []
    for block in (*net.before, *net.down, net.middle, *net.up, net.features):
        block.register_forward_pre_hook(lambda _, inputs: heights.append(inputs[0].shape[2]))
    forward_in_strips(net, torch.rand(1, 1, 512, 16), 1)
    assert max(heights) < 64 and len(heights) > 30


def test_bfloat16_keeps_fine_steps_of_probability():
    net = network(n_depth=1, n_classes=2).bfloat16()
    images = torch.rand(1, 1, 64, 64).bfloat16()
    prob, _, kinds = forward_in_strips(net, images)
    assert prob.dtype == kinds.dtype == torch.float32
    assert not torch.equal(prob, prob.bfloat16().float())
    torch.testing.assert_close(kinds.sum(1), torch.ones(1, 64, 64))


def test_what_does_not_fit_is_refused():
    net, images = network(n_depth=1), torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="strip_px"):
        forward_in_strips(net, images, 0)
    with pytest.raises(ValueError, match="multiples of"):
        forward_in_strips(net, images[..., :7])
    with pytest.raises(ValueError, match="evaluation mode"):
        forward_in_strips(net.train(), images)
