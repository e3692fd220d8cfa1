"""The StarDist network: a U-Net that says at every point how likely a nucleus is there and how far its edge is.

It is built from the settings of StarDist's ``config.json`` and gives what the Keras network of the same weights gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histograph.nn.stardist_config import ACTIVATIONS, StarDistConfig

_EPSILON, _MOMENTUM = (
    1e-3,
    0.01,
)  # of batch normalisation in Keras, whose momentum 0.99 is that of the old value


class ConvBlock(nn.Module):
    """A convolution that keeps the size of the image, perhaps batch normalisation, and an activation.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels.
    kernel_size : (int, int)
        Odd.
    activation : str
        Name of the activation.
    batch_norm : bool
        Whether to normalise before it.
    dropout : float
        Share of values set to 0 in training.

    Examples
    --------
    >>> ConvBlock(3, 4, (3, 3), "relu")(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 4, 8, 8])
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: tuple[int, int],
        activation: str,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size, padding=padding)
        self.norm = nn.BatchNorm2d(channels_out, _EPSILON, _MOMENTUM) if batch_norm else None
        self.activation = activation
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels_out, H, W)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation == "relu" and torch.is_inference_mode_enabled():
            x = F.relu_(x)  # x is ours alone, and fresh memory for a second one takes time
        else:
            x = ACTIVATIONS[self.activation](x)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class StarDistNet(nn.Module):
    """StarDist's U-Net.

    Parameters
    ----------
    config : StarDistConfig
        Its shape.

    Examples
    --------
    >>> net = StarDistNet(StarDistConfig(n_rays=8, n_depth=1, n_filter_base=2, features=4, grid=(2, 2)))
    >>> probability, distance = net(torch.zeros(1, 1, 16, 8))
    >>> probability.shape, distance.shape
    (torch.Size([1, 1, 8, 4]), torch.Size([1, 8, 8, 4]))
    """

    def __init__(self, config: StarDistConfig) -> None:
        super().__init__()
        self.config = config
        base, wider, depth = config.n_filter_base, config.expansion, config.n_depth
        inner = config.n_conv_per_depth - 1
        self.steps = config.grid_steps
        self.before = nn.ModuleList()
        channels = config.n_channel_in
        for _ in self.steps:
            self.before.append(self._chain(channels, [base] * (inner + 1), plain=True))
            channels = base
        self.down = nn.ModuleList()
        for n in range(depth):
            self.down.append(self._chain(channels, [base * wider**n] * (inner + 1)))
            channels = base * wider**n
        narrow = base * wider ** max(0, depth - 1)
        self.middle = self._chain(channels, [base * wider**depth] * inner + [narrow])
        channels = narrow
        self.up = nn.ModuleList()
        for n in reversed(range(depth)):
            widths = [base * wider**n] * inner + [base * wider ** max(0, n - 1)]
            last = config.activation if n > 0 else config.last_activation
            self.up.append(self._chain(channels + base * wider**n, widths, last))
            channels = widths[-1]
        self.features = self._head(channels)
        self.features_class = self._head(channels) if config.n_classes else None
        channels = config.features or channels
        self.prob = nn.Conv2d(channels, 1, 1)
        self.dist = nn.Conv2d(channels, config.n_rays, 1)
        self.prob_class = nn.Conv2d(channels, config.n_classes + 1, 1) if config.n_classes else None

    def _chain(
        self, channels: int, widths: list[int], last: str | None = None, plain: bool = False
    ) -> nn.Sequential:
        """Convolutions one after the other; plain ones are never normalised."""
        config, blocks = self.config, []
        for number, width in enumerate(widths):
            activation = last if last and number == len(widths) - 1 else config.activation
            extras = (False, 0.0) if plain else (config.batch_norm, config.dropout)
            blocks.append(ConvBlock(channels, width, config.kernel_size, activation, *extras))
            channels = width
        return nn.Sequential(*blocks)

    def _head(self, channels: int) -> ConvBlock | None:
        config = self.config
        if not config.features:
            return None
        return ConvBlock(channels, config.features, config.kernel_size, config.activation)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the outputs before sigmoid and softmax, as losses want them.

        Parameters
        ----------
        images : Tensor
            (B, C, H, W) float, scaled as in training; H and W multiples of ``config.divisor``.

        Returns
        -------
        Tensor
            (B, 1, H / grid, W / grid) logit of a nucleus being there.
        Tensor
            (B, n_rays, H / grid, W / grid) distances to its edge in pixels of the image, at angles ``2 π k / n_rays``
            from the columns towards the rows.
        Tensor or None
            (B, n_classes + 1, …) logits of the kinds, the first being none, if there are kinds.

        Raises
        ------
        ValueError
            If the images have another number of channels or a size that does not fit.
        """
        self.check_images(images)
        x = images
        for level, step in zip(self.before, self.steps):
            x = F.max_pool2d(level(x), step)
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = F.max_pool2d(x, self.config.pool)
        x = self.middle(x)
        for level in self.up:
            x = level(self.joined(x, skips.pop()))
        return self.heads(x)

    def joined(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return what a level up sees: the level below, made wider, and what the way down left there.

        Parameters
        ----------
        coarse : Tensor
            (B, C, H, W).
        skip : Tensor
            (B, D, H * pool, W * pool).

        Returns
        -------
        Tensor
            (B, C + D, H * pool, W * pool).
        """
        wider = tuple(float(p) for p in self.config.pool)
        return torch.cat([F.interpolate(coarse, scale_factor=wider), skip], dim=1)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `logits` does, from the output of the U-Net (B, C, H / grid, W / grid)."""
        seen = x if self.features is None else self.features(x)
        kinds = None
        if self.prob_class is not None:
            kinds = self.prob_class(x if self.features_class is None else self.features_class(x))
        return self.prob(seen), self.dist(seen), kinds

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return probability, distances and, if there are kinds, the probability of each; shapes as of `logits`."""
        return self.probabilities(*self.logits(images))

    @staticmethod
    def probabilities(prob: Tensor, dist: Tensor, kinds: Tensor | None) -> tuple[Tensor, ...]:
        """Return the outputs of the network from those of `logits`; of bfloat16 as float32, with its finer steps."""
        if prob.dtype is torch.bfloat16:
            prob, kinds = prob.float(), None if kinds is None else kinds.float()
        return (prob.sigmoid(), dist) if kinds is None else (prob.sigmoid(), dist, kinds.softmax(1))

    def keras_layers(self) -> Iterator[tuple[str | None, nn.Conv2d, nn.BatchNorm2d | None]]:
        """Yield each convolution in the order of Keras, with the name that StarDist gives it (None: no name).

        Yields
        ------
        str or None
            Name of the layer.
        Conv2d
            The convolution.
        BatchNorm2d or None
            The normalisation that follows it.

        Examples
        --------
        >>> net = StarDistNet(StarDistConfig(n_depth=0, n_filter_base=2, n_conv_per_depth=1, features=0))
        >>> [name for name, _, _ in net.keras_layers()]
        ['middle_1', 'prob', 'dist']
        """
        prefix, inner = self.config.prefix, self.config.n_conv_per_depth - 1
        # the last convolution of the middle and of each level up is numbered one too far
        odd = [*range(inner), inner + 1]
        levels: list[tuple[str | None, Any, list[int]]] = [(None, level, odd) for level in self.before]
        for n, level in enumerate(self.down):
            levels.append((f"{prefix}down_level_{n}_no", level, [*range(inner + 1)]))
        levels.append((f"{prefix}middle", self.middle, odd))
        for n, level in zip(reversed(range(self.config.n_depth)), self.up):
            levels.append((f"{prefix}up_level_{n}_no", level, odd))
        for name, level, numbers in levels:
            for number, block in zip(numbers, level):
                yield None if name is None else f"{name}_{number}", block.conv, block.norm
        heads = {"features": self.features, "features_class": self.features_class}
        outputs = {"prob": self.prob, "dist": self.dist, "prob_class": self.prob_class}
        for title, head in heads.items():
            if head is not None:
                yield title, head.conv, None
        for title, output in outputs.items():
            if output is not None:
                yield title, output, None

    def check_images(self, images: Tensor) -> None:
        """Raise a ValueError if images (B, C, H, W) have other channels or a size that does not fit."""
        config = self.config
        if images.ndim != 4 or images.shape[1] != config.n_channel_in:
            raise ValueError(
                f"images: expected (B, {config.n_channel_in}, H, W), a StarDist model for {config.n_channel_in} "
                f"channel(s), found {tuple(images.shape)}; choose a model for the channels of your images"
            )
        if any(side % divisor for side, divisor in zip(images.shape[2:], config.divisor)):
            raise ValueError(
                f"images: expected height and width in multiples of {config.divisor}, found "
                f"{tuple(images.shape[2:])}; pad them"
            )
