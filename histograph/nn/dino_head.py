"""The projection head of DINO: a small network, vectors of length 1, and their cosines with prototypes."""

from typing import Any

import torch
from torch import Tensor, nn


class _Products(torch.autograd.Function):
    r"""Products with rows of given lengths, :math:`y_k = g_k \, x \cdot v_k / \lVert v_k \rVert`.

    There are many more rows than columns of a batch, so the products are scaled and not the rows: nothing of the
    rows' size is written but their gradient, once, where :math:`s_k = g_k / \lVert v_k \rVert`:

    .. math::

        \frac{\partial L}{\partial v_k} = s_k \sum_b \frac{\partial L}{\partial y_{bk}} x_b
        - \frac{v_k}{\lVert v_k \rVert^2} \sum_b \frac{\partial L}{\partial y_{bk}} y_{bk}
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, gain: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=1)
        y = nn.functional.linear(x, rows)
        y *= gain[:, 0] / length
        ctx.save_for_backward(x, rows, gain, length, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, rows, gain, length, y = ctx.saved_tensors
        (out,) = gradients
        grad_x = grad_rows = grad_gain = None
        scaled = out * (gain[:, 0] / length).to(out.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = (scaled @ rows.to(out.dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            pull = (out * y).sum(0, dtype=rows.dtype) / length**2
            grad_rows = (scaled.T @ x.to(out.dtype)).to(rows.dtype)
            grad_rows.addcmul_(rows, pull[:, None], value=-1)
        if ctx.needs_input_grad[2]:
            plain = nn.functional.linear(x.to(out.dtype), rows.to(out.dtype))
            grad_gain = ((out * plain).sum(0, dtype=gain.dtype) / length)[:, None]
        return grad_x, grad_rows, grad_gain


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
        return _Products.apply(x, self.weight_v, self.weight_g)


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
