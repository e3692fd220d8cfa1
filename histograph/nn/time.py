"""Vectors for diffusion times."""

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(time: Tensor, dim: int) -> Tensor:
    """Turn times into ``sin(t f_k)`` then ``cos(t f_k)``, with ``f_k = 10000^(-k / (dim//2 - 1))``.

    Parameters
    ----------
    time : Tensor
        (G,) times, any number type.
    dim : int
        Width, at least 4; the last column of an odd width is 0.

    Returns
    -------
    Tensor
        (G, dim) float32.

    Raises
    ------
    ValueError
        If ``dim`` is below 4.

    References
    ----------
    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> sinusoidal_embedding(torch.tensor([0]), 4)
    tensor([[0., 0., 1., 1.]])
    """
    if dim < 4:
        raise ValueError(f"dim must be at least 4, found {dim}")
    half = dim // 2
    # the factor first, in double precision: at t = 999 another order of rounding moves the angle by 1e-4
    exponent = torch.arange(half, dtype=torch.float32, device=time.device) * (-math.log(10000.0) / (half - 1))
    angle = time.float().unsqueeze(1) * exponent.exp()
    return nn.functional.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """A learned vector for a diffusion time: two affine maps with SiLU between, on the sinusoidal embedding.

    Parameters
    ----------
    dim : int
        Width of the vector, at least 4.

    Examples
    --------
    >>> import torch
    >>> TimeEmbedding(8)(torch.tensor([0, 999])).shape
    torch.Size([2, 8])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """Embed (G,) times as (G, dim)."""
        first: Tensor = self.layers[0].weight  # type: ignore[assignment]
        return self.layers(sinusoidal_embedding(time, self.dim).to(first.dtype))
