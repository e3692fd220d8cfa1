"""The projection head of DINO: a small network, vectors of length 1, and their cosines with prototypes."""

import torch
from torch import Tensor, nn


class UnitRows(nn.Module):
    r"""A linear map without bias whose rows have a length of their own, :math:`W = g \, v / \lVert v \rVert`.

    Weight normalisation with the names of weights that the field uses.

    Parameters
    ----------
    in_dim, out_dim : int
        Columns and rows.
    train_gain : bool
        Whether the lengths g are trained; otherwise they stay 1.

    References
    ----------
    Salimans and Kingma, "Weight Normalization", NeurIPS 2016.

    Examples
    --------
    >>> layer = UnitRows(3, 5)
    >>> torch.allclose(layer.weight.norm(dim=1), torch.ones(5))
    True
    """

    def __init__(self, in_dim: int, out_dim: int, train_gain: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=train_gain)
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The rows as they are used, (out_dim, in_dim)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_dim) to (B, out_dim)."""
        return nn.functional.linear(x, self.weight)


class DINOHead(nn.Module):
    """Layers, a bottleneck of length 1, and its products with rows of length 1: cosines in [-1, 1].

    Parameters
    ----------
    in_dim : int
        Width of what comes in.
    out_dim : int
        Number of prototypes.
    hidden_dim : int
        Width of the hidden layers.
    bottleneck_dim : int
        Width of the vectors that are compared with the prototypes.
    layers : int
        Linear layers up to the bottleneck; 1 has no hidden layer.
    batch_norm : bool
        Whether a batch norm follows each hidden layer.
    train_gain : bool
        Whether the lengths of the prototypes are trained; otherwise they stay 1.
    init_std : float, optional
        Standard deviation of the weights at the start; 0.02 as released, which suits 2,048 columns. By default the
        inverse root of the number of columns: in a narrow head weights of 0.02 make vectors before the bottleneck so
        short, and gradients of the last bias so long, that its first steps outweigh the image.

    Raises
    ------
    ValueError
        If a size is below 1 or `init_std` not above 0.

    References
    ----------
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, section 3.1 and appendix C.

    Examples
    --------
    >>> head = DINOHead(8, out_dim=32, hidden_dim=16, bottleneck_dim=4)
    >>> out = head(torch.randn(3, 8))
    >>> out.shape, bool(out.abs().max() <= 1)
    (torch.Size([3, 32]), True)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
        batch_norm: bool = False,
        train_gain: bool = False,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        if init_std is not None and not init_std > 0:
            raise ValueError(f"init_std must be above 0; found {init_std}")
        for name, value in (
            ("in_dim", in_dim),
            ("out_dim", out_dim),
            ("hidden_dim", hidden_dim),
            ("bottleneck_dim", bottleneck_dim),
            ("layers", layers),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; found {value}")
        parts: list[nn.Module] = []
        width = in_dim
        for _ in range(layers - 1):
            norm = [nn.BatchNorm1d(hidden_dim)] if batch_norm else []
            parts += [nn.Linear(width, hidden_dim), *norm, nn.GELU()]
            width = hidden_dim
        last = nn.Linear(width, bottleneck_dim)
        self.mlp = nn.Sequential(*parts, last) if parts else last
        self.last_layer = UnitRows(bottleneck_dim, out_dim, train_gain)
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5 if init_std is None else init_std
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Give the vectors of length 1 that meet the prototypes.

        Parameters
        ----------
        x : Tensor
            (B, in_dim).

        Returns
        -------
        Tensor
            (B, bottleneck_dim).
        """
        return nn.functional.normalize(self.mlp(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Give the cosines of (B, in_dim) with the prototypes, (B, out_dim)."""
        return self.last_layer(self.bottleneck(x))
