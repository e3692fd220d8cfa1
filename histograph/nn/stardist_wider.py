"""A StarDist network given more filters, so that it goes on learning from where a smaller one stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from histograph.nn.stardist_net import ConvBlock, StarDistNet


def widened(network: StarDistNet, n_filter_base: int, unlike: float = 0.1, seed: int = 0) -> StarDistNet:
    r"""Copy a network into one of more filters that computes (nearly) the same.

    Each new filter is a copy of an old one, the filters that read it share its weight, and every weight is then
    changed a little, since equal filters would stay equal in training:

    .. math::

        W'_{ij} = \frac{W_{o(i)\,o(j)}}{|\{k : o(k) = o(j)\}|} \, (1 + \varepsilon z_{ij}), \qquad z \sim N(0, 1)

    where :math:`o(i)` is the old filter that filter i is a copy of and :math:`\varepsilon` is `unlike`.

    Parameters
    ----------
    network : StarDistNet
        The smaller one; left as it is.
    n_filter_base : int
        Filters of the new one at its first level, at least as many as the old one's.
    unlike : float
        Spread of the changes; 0 makes the same function.
    seed : int
        Of the changes.

    Returns
    -------
    StarDistNet
        New, on the CPU, in single precision.

    Raises
    ------
    ValueError
        If it would have fewer filters, or `unlike` is negative.

    References
    ----------
    T. Chen, I. Goodfellow, J. Shlens, Net2Net: Accelerating learning via knowledge transfer, ICLR 2016, equation 5.

    Examples
    --------
    >>> from histograph.nn.stardist_config import StarDistConfig
    >>> small = StarDistNet(StarDistConfig(n_rays=8, n_depth=1, n_filter_base=2, features=4, grid=(2, 2)))
    >>> wide, image = widened(small, 5, unlike=0.0), torch.rand(1, 1, 16, 16)
    >>> wide.config.n_filter_base, bool(torch.allclose(wide(image)[1], small(image)[1], atol=1e-6))
    (5, True)
    """
    config = network.config
    if n_filter_base < config.n_filter_base:
        raise ValueError(
            f"n_filter_base: expected at least the {config.n_filter_base} filters of the network, found {n_filter_base}"
        )
    if not unlike >= 0:
        raise ValueError(f"unlike: expected a number of at least 0, found {unlike}")
    wide = StarDistNet(replace(config, n_filter_base=n_filter_base))
    wide.train(network.training)
    copy = _Copy(unlike, torch.Generator().manual_seed(seed))
    origin = torch.arange(config.n_channel_in)
    skips: list[Tensor] = []
    with torch.no_grad():
        for a, b in zip(network.before, wide.before, strict=True):
            origin = copy.chain(a, b, origin)
        for a, b in zip(network.down, wide.down, strict=True):
            origin = copy.chain(a, b, origin)
            skips.append(origin)
        origin, coarse = copy.chain(network.middle, wide.middle, origin), _width(network.middle)
        for a, b in zip(network.up, wide.up, strict=True):
            origin = copy.chain(a, b, torch.cat([origin, coarse + skips.pop()]))
            coarse = _width(a)
        seen = origin if network.features is None else copy.block(network.features, wide.features, origin)
        copy.convolution(network.prob, wide.prob, seen)
        copy.convolution(network.dist, wide.dist, seen)
        if network.prob_class is not None:
            kinds = network.features_class
            seen = origin if kinds is None else copy.block(kinds, wide.features_class, origin)
            copy.convolution(network.prob_class, wide.prob_class, seen)
    return wide


@dataclass(frozen=True)
class _Copy:
    """Copies layers; `origin` tells of each channel that comes in which old one it is a copy of."""

    unlike: float
    generator: torch.Generator

    def chain(self, old: nn.Module, new: nn.Module, origin: Tensor) -> Tensor:
        """Copy blocks one after the other."""
        for a, b in zip(old.children(), new.children(), strict=True):
            origin = self.block(a, b, origin)
        return origin

    def block(self, old: nn.Module, new: nn.Module | None, origin: Tensor) -> Tensor:
        """Copy a convolution and its normalisation."""
        old, new = cast(ConvBlock, old), cast(ConvBlock, new)
        made = self.convolution(old.conv, new.conv, origin)
        if old.norm is not None and new.norm is not None:
            for name, value in old.norm.state_dict().items():
                new.norm.state_dict()[name].copy_(value[made] if value.ndim else value)
        return made

    def convolution(self, old: nn.Conv2d, new: nn.Conv2d | None, origin: Tensor) -> Tensor:
        """Copy a convolution; return the origin of each channel that it gives."""
        new = cast(nn.Conv2d, new)
        made = torch.arange(new.out_channels) % old.out_channels
        shared = torch.bincount(origin)[origin].view(1, -1, 1, 1)
        weight = old.weight.detach().cpu().float()[made][:, origin] / shared
        new.weight.copy_(weight * (1 + self.unlike * torch.randn(weight.shape, generator=self.generator)))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias.detach().cpu().float()[made])
        return made


def _width(chain: nn.Module) -> int:
    """Channels that a chain gives."""
    return cast(ConvBlock, list(chain.children())[-1]).conv.out_channels
