"""Fixed sine and cosine codes of the places of a grid, for tokens of an image."""

import torch
from torch import Tensor


def sincos_positions(dim: int, grid: tuple[int, int], cls: bool = True) -> Tensor:
    r"""Write column and row of every place of a grid as sines and cosines of falling frequency.

    .. math::

        p(r, c) = [\sin c\omega, \cos c\omega, \sin r\omega, \cos r\omega], \quad
        \omega_k = 10000^{-k / (d / 4)}, \quad k = 0, \dots, d / 4 - 1

    Parameters
    ----------
    dim : int
        Width d of the codes; a multiple of 4.
    grid : (int, int)
        Rows and columns.
    cls : bool
        Whether to put a row of zeros first, the place of the class token.

    Returns
    -------
    Tensor
        (rows · columns, dim) float64, one more row with `cls`; row after row of the grid.

    Raises
    ------
    ValueError
        If `dim` is no multiple of 4 or the grid is empty.

    References
    ----------
    Vaswani et al., "Attention is all you need", NeurIPS 2017, in two dimensions as in He et al., "Masked Autoencoders
    Are Scalable Vision Learners", CVPR 2022.

    Examples
    --------
    >>> sincos_positions(4, (1, 2))
    tensor([[0.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0000, 1.0000]], dtype=torch.float64)
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"dim must be a multiple of 4 (sine and cosine of row and column); found {dim}")
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid must have at least one row and one column; found {grid}")
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in (column, row)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([table.new_zeros(1, dim), table]) if cls else table
