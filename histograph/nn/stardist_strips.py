"""A StarDist network on a large image, a strip of rows at a time: the same numbers in less time and memory.

On a CPU the first level of the network makes tensors of 134 MB from an image of 1024 × 1024 pixels. Each is fresh
memory, which the system clears page by page, and little of it stays in the cache until the next layer reads it. A level
looks a few rows far only, so it is done strip by strip, and what later levels read is all that is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .stardist_net import StarDistNet

STRIP_PX = 32768  # about a strip of this many pixels, at the resolution of its level, was fastest
_HALOS = 8  # a strip is at least this many times as high as the rows beside it that are computed twice

Work = Callable[..., tuple[Tensor, ...]]


def forward_in_strips(network: StarDistNet, images: Tensor, strip_px: int = STRIP_PX) -> tuple[Tensor, ...]:
    """Return what a network in evaluation mode returns, computed in strips and without gradients.

    Parameters
    ----------
    network : StarDistNet
        The network.
    images : Tensor
        (B, C, H, W), as for the network.
    strip_px : int
        Pixels of a strip, about; changes the rounding, no more.

    Returns
    -------
    tuple of Tensor
        Probability, distances and perhaps the probability of each kind, shapes as of the network.

    Raises
    ------
    ValueError
        If the images do not fit the network, the network is in training mode, or `strip_px` is not positive.

    Examples
    --------
    >>> from histograph.nn.stardist_config import StarDistConfig
    >>> net = StarDistNet(StarDistConfig(n_rays=4, n_depth=1, n_filter_base=2, features=4)).eval()
    >>> image = torch.rand(1, 1, 96, 8)
    >>> whole, strips = net(image), forward_in_strips(net, image, strip_px=64)
    >>> all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, strips))
    True
    """
    if strip_px < 1:
        raise ValueError(f"strip_px: expected a positive number of pixels, found {strip_px!r}")
    if network.training:
        raise ValueError(
            "network: expected one in evaluation mode, found one in training; call network.eval()"
        )
    network.check_images(images)
    config = network.config
    half, pool = config.kernel_size[0] // 2, config.pool
    halo = half * config.n_conv_per_depth
    with torch.inference_mode():
        x = images
        for level, step in zip(network.before, network.steps):
            (x,) = _in_strips(partial(_pooled, level, step), [x], x.shape[2] // step[0], halo, strip_px)
        skips = []
        for level in network.down:
            down = partial(_down, level, pool)
            skip, x = _in_strips(down, [x], x.shape[2] // pool[0], halo, strip_px)
            skips.append(skip)
        (x,) = _in_strips(lambda x: (network.middle(x),), [x], x.shape[2], halo, strip_px)
        for level in network.up:
            (x,) = _in_strips(partial(_up, network, level), [x, skips.pop()], x.shape[2], halo, strip_px)
        last = half if config.features else 0
        return _in_strips(lambda x: network.probabilities(*network.heads(x)), [x], x.shape[2], last, strip_px)


def _pooled(level: nn.Module, step: tuple[int, int], x: Tensor) -> tuple[Tensor, ...]:
    return (F.max_pool2d(level(x), step),)


def _down(level: nn.Module, pool: tuple[int, int], x: Tensor) -> tuple[Tensor, ...]:
    x = level(x)
    return x, F.max_pool2d(x, pool)


def _up(network: StarDistNet, level: nn.Module, coarse: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
    return (level(network.joined(coarse, skip)),)


def _in_strips(work: Work, inputs: list[Tensor], units: int, halo: int, strip_px: int) -> tuple[Tensor, ...]:
    """Do work on strips of the inputs and put its results together.

    The height of each input and output is a whole multiple of `units`, and a strip is some units high. `halo` counts
    rows of the finest input; beyond a strip as many units are computed and thrown away.
    """
    height, width = inputs[-1].shape[2:]  # the last input is the finest
    unit = height // units
    halo = -(-halo // unit)
    high = max(1, _HALOS * halo, strip_px // (width * unit))
    if high >= units:
        return work(*inputs)
    wholes: list[Tensor] = []
    for first in range(0, units, high):
        last = min(first + high, units)
        low, end = max(0, first - halo), min(units, last + halo)
        parts = work(*(_rows(x, units, low, end) for x in inputs))
        if not wholes:
            wholes = [_room_for(part, units * (part.shape[2] // (end - low))) for part in parts]
        for whole, part in zip(wholes, parts):
            _rows(whole, units, first, last).copy_(_rows(part, end - low, first - low, last - low))
    return tuple(wholes)


def _rows(x: Tensor, units: int, first: int, last: int) -> Tensor:
    """Rows of some units, of as many as x has."""
    each = x.shape[2] // units
    return x[:, :, first * each : last * each]


def _room_for(part: Tensor, height: int) -> Tensor:
    batch, channels, _, width = part.shape
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
