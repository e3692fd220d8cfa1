"""The head of DINO: lengths, weights, names."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from histograph.nn import DINOHead, UnitRows


def test_everything_has_length_one():
    head, x = DINOHead(8, 20, 16, 4), torch.randn(5, 8)
    torch.testing.assert_close(head.bottleneck(x).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(head.last_layer.weight.norm(dim=1), torch.ones(20))
    assert head(x).abs().max() <= 1 + 1e-6
    torch.testing.assert_close(head(x), head.bottleneck(x) @ head.last_layer.weight.T)


def test_rows_are_those_of_torchs_weight_normalisation():
    layer, peer = UnitRows(4, 6, train_gain=True), nn.Linear(4, 6, bias=False)
    with torch.no_grad():
        peer.weight.copy_(layer.weight_v)
    peer = parametrizations.weight_norm(peer)
    x = torch.randn(3, 4)
    for part, other in (
        ("weight_g", peer.parametrizations.weight.original0),
        ("weight_v", peer.parametrizations.weight.original1),
    ):
        with torch.no_grad():
            value = torch.rand_like(other) + 0.5
            getattr(layer, part).copy_(value)
            other.copy_(value)
    torch.testing.assert_close(layer(x), peer(x))
    layer(x).square().sum().backward()
    peer(x).square().sum().backward()
    torch.testing.assert_close(layer.weight_v.grad, peer.parametrizations.weight.original1.grad)
    torch.testing.assert_close(layer.weight_g.grad, peer.parametrizations.weight.original0.grad)


@pytest.mark.parametrize("train_gain", [False, True])
def test_products_are_those_with_the_rows_as_they_are_used(train_gain):
    layer, x = UnitRows(4, 6, train_gain).double(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        layer.weight_g.copy_(torch.linspace(-1, 1.5, 6)[:, None])  # one of them is 0
    layer.weight_g.requires_grad_(train_gain)
    parts = [x, layer.weight_v, *([layer.weight_g] if train_gain else [])]
    found, wanted = layer(x), nn.functional.linear(x, layer.weight)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(3, 6, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(found, parts, weight), torch.autograd.grad(wanted, parts, weight), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_products_in_mixed_precision():
    layer, x = UnitRows(64, 20), torch.randn(5, 64, requires_grad=True)
    weight = torch.randn(5, 20)
    exact = torch.autograd.grad(layer(x), [x, layer.weight_v], weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        assert found.dtype == torch.bfloat16
    rounded = torch.autograd.grad(found, [x, layer.weight_v], weight.bfloat16())
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_gain_is_fixed_unless_asked_for():
    assert not DINOHead(4, 8).last_layer.weight_g.requires_grad
    assert DINOHead(4, 8, train_gain=True).last_layer.weight_g.requires_grad


def test_layers_and_batch_norm():
    assert list(DINOHead(4, 8, 6, 3, layers=1).state_dict())[:2] == ["mlp.weight", "mlp.bias"]
    kinds = [type(part).__name__ for part in DINOHead(4, 8, 6, 3, layers=3, batch_norm=True).mlp]
    assert kinds == ["Linear", "BatchNorm1d", "GELU"] * 2 + ["Linear"]
    head = DINOHead(4, 8, 6, 3)
    assert [tuple(part.weight.shape) for part in head.mlp if isinstance(part, nn.Linear)] == [
        (6, 4),
        (6, 6),
        (3, 6),
    ]
    assert not any(part.bias.any() for part in head.mlp if isinstance(part, nn.Linear))


@pytest.mark.parametrize("argument", ["in_dim", "out_dim", "hidden_dim", "bottleneck_dim", "layers"])
def test_messages(argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1; found 0"):
        DINOHead(**{"in_dim": 4} | {argument: 0})
