"""Settings of a StarDist network, as its ``config.json`` holds them, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}

# Our names and StarDist's, with StarDist's defaults; the rest of config.json concerns training only.
_KEYS: dict[str, tuple[str, Any]] = {
    "n_rays": ("n_rays", 32),
    "n_channel_in": ("n_channel_in", 1),
    "grid": ("grid", (1, 1)),
    "n_depth": ("unet_n_depth", 3),
    "kernel_size": ("unet_kernel_size", (3, 3)),
    "n_filter_base": ("unet_n_filter_base", 32),
    "n_conv_per_depth": ("unet_n_conv_per_depth", 2),
    "pool": ("unet_pool", (2, 2)),
    "expansion": ("unet_expansion", 2),
    "activation": ("unet_activation", "relu"),
    "last_activation": ("unet_last_activation", "relu"),
    "batch_norm": ("unet_batch_norm", False),
    "dropout": ("unet_dropout", 0.0),
    "prefix": ("unet_prefix", ""),
    "features": ("net_conv_after_unet", 128),
    "n_classes": ("n_classes", None),
}


@dataclass(frozen=True)
class StarDistConfig:
    """Shape of a StarDist network.

    Parameters
    ----------
    n_rays : int
        Directions in which the distance to the edge is predicted.
    n_channel_in : int
        Channels of the image.
    grid : (int, int)
        Rows and columns of the image for each row and column of the output; powers of 2.
    n_depth : int
        Times that the U-Net halves the image.
    kernel_size : (int, int)
        Of every convolution; odd.
    n_filter_base : int
        Channels of the first level.
    n_conv_per_depth : int
        Convolutions a level.
    pool : (int, int)
        By how much a level is coarser than the one above.
    expansion : int
        By how much it is wider.
    activation, last_activation : str
        After every convolution, and after the U-Net's last.
    batch_norm : bool
        Whether the convolutions of the U-Net are normalised.
    dropout : float
        Share of values set to 0 after each of them, in training only.
    prefix : str
        Of the names of its layers in Keras.
    features : int
        Channels of the convolution between U-Net and outputs; 0 for none.
    n_classes : int, optional
        Kinds of nuclei, if the network tells them apart.

    Raises
    ------
    ValueError
        If a setting is out of range; the message names it.

    References
    ----------
    U. Schmidt, M. Weigert, C. Broaddus, G. Myers, Cell detection with star-convex polygons, MICCAI 2018.

    Examples
    --------
    >>> config = StarDistConfig(n_channel_in=3, grid=(2, 2))
    >>> config.divisor, config.margin
    ((16, 16), (112, 112))
    """

    n_rays: int = 32
    n_channel_in: int = 1
    grid: tuple[int, int] = (1, 1)
    n_depth: int = 3
    kernel_size: tuple[int, int] = (3, 3)
    n_filter_base: int = 32
    n_conv_per_depth: int = 2
    pool: tuple[int, int] = (2, 2)
    expansion: int = 2
    activation: str = "relu"
    last_activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    prefix: str = ""
    features: int = 128
    n_classes: int | None = None

    def __post_init__(self) -> None:
        least = {
            "n_rays": 3,
            "n_channel_in": 1,
            "n_depth": 0,
            "n_filter_base": 1,
            "n_conv_per_depth": 1,
            "expansion": 1,
            "features": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}: expected a whole number of at least {low}, found {value!r}")
        pairs: dict[str, tuple[str, Callable[[int], bool]]] = {
            "grid": ("powers of 2", lambda v: v & (v - 1) == 0),
            "kernel_size": ("odd whole numbers", lambda v: v % 2 == 1),
            "pool": ("whole numbers of at least 1", lambda v: True),
        }
        for name, (wanted, fits) in pairs.items():
            value = getattr(self, name)
            whole = isinstance(value, tuple) and all(isinstance(v, int) and v > 0 for v in value)
            if not (whole and len(value) == 2 and all(fits(v) for v in value)):
                raise ValueError(f"{name}: expected two {wanted}, found {value!r}")
        for name in ("activation", "last_activation"):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in ACTIVATIONS:
                raise ValueError(
                    f"{name}: expected one of {sorted(ACTIVATIONS)}, found {getattr(self, name)!r}"
                )
        if self.n_classes is not None and not (type(self.n_classes) is int and self.n_classes >= 1):
            raise ValueError(
                f"n_classes: expected None or a whole number of at least 1, found {self.n_classes!r}"
            )
        for name, kind in (("batch_norm", bool), ("prefix", str)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name}: expected {kind.__name__}, found {getattr(self, name)!r}")
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise ValueError(f"dropout: expected a number from 0 to below 1, found {self.dropout!r}")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> StarDistConfig:
        """Read the settings of a ``config.json``; those that concern training only are passed over.

        Parameters
        ----------
        config : mapping
            Contents of the file.

        Returns
        -------
        StarDistConfig

        Raises
        ------
        ValueError
            If it is not of a two-dimensional StarDist U-Net, or a setting is out of range.

        Examples
        --------
        >>> StarDistConfig.from_dict({"n_channel_in": 3, "grid": [2, 2], "unet_n_depth": 2}).n_depth
        2
        """
        if config.get("n_dim", 2) != 2 or config.get("backbone", "unet") != "unet":
            raise ValueError(
                "config: expected a two-dimensional StarDist model with backbone 'unet', found n_dim "
                f"{config.get('n_dim', 2)!r} and backbone {config.get('backbone', 'unet')!r}"
            )
        values = {name: config.get(key, default) for name, (key, default) in _KEYS.items()}
        for name in ("grid", "kernel_size", "pool"):
            if isinstance(values[name], list):  # as JSON has them
                values[name] = tuple(values[name])
        values["last_activation"] = values["last_activation"] or values["activation"]
        values["dropout"] = values["dropout"] or 0.0
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings under StarDist's names.

        Examples
        --------
        >>> config = StarDistConfig(n_classes=2)
        >>> StarDistConfig.from_dict(config.to_dict()) == config
        True
        """
        named = {key: getattr(self, name) for name, (key, _) in _KEYS.items()}
        lists = {key: list(value) for key, value in named.items() if isinstance(value, tuple)}
        return {"n_dim": 2, "backbone": "unet", **named, **lists}

    @property
    def grid_steps(self) -> list[tuple[int, int]]:
        """The poolings that make the grid out of the image; the same number of convolutions comes before each."""
        rows, cols, steps = 1, 1, []
        while (rows, cols) != self.grid:
            steps.append((1 + (self.grid[0] > rows), 1 + (self.grid[1] > cols)))
            rows, cols = rows * steps[-1][0], cols * steps[-1][1]
        return steps

    @property
    def divisor(self) -> tuple[int, int]:
        """Height and width of an image must be multiples of these."""
        rows, cols = (g * p**self.n_depth for g, p in zip(self.grid, self.pool))
        return rows, cols

    @property
    def margin(self) -> tuple[int, int]:
        """Rows and columns around a place that the output there depends on, in whole multiples of `divisor`."""
        rows, cols = (-(-self._reach(axis) // divisor) * divisor for axis, divisor in enumerate(self.divisor))
        return rows, cols

    def _reach(self, axis: int) -> int:
        """Largest distance in pixels between an output and a pixel that it depends on, along one axis."""
        pool, half, convs = self.pool[axis], self.kernel_size[axis] // 2, self.n_conv_per_depth
        grid, farthest = self.grid[axis], 0
        for place in range(pool**self.n_depth):
            low = place - (half if self.features else 0)
            high = place + (half if self.features else 0)
            # what the way up needs of each level, then the middle, then what the way down needs for both
            needed = []
            for _ in range(self.n_depth):
                low, high = low - half * convs, high + half * convs
                needed.append((low, high))
                low, high = low // pool, high // pool
            low, high = low - half * convs, high + half * convs
            for skip_low, skip_high in reversed(needed):
                low, high = min(low * pool, skip_low), max(high * pool + pool - 1, skip_high)
                low, high = low - half * convs, high + half * convs
            for step in reversed(self.grid_steps):
                # a step that leaves this axis as it is still has its convolutions
                low, high = low * step[axis] - half * convs, high * step[axis] + step[axis] - 1 + half * convs
            farthest = max(farthest, place * grid - low, high - place * grid)
        return farthest
