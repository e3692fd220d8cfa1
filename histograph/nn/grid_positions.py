"""Positions of a grid of tokens: a table for one grid, and what it is for another."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class GridPositions(nn.Module):
    """A network whose tokens lie on a grid; its ``pos_embed`` has a row for the class token and one for each place.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns that the table is made for.
    interpolation_offset : float
        0 fits the table to another grid; 0.1 scales by (rows + 0.1) / rows of the table, as the released DINO and HIPT
        do, whose weights were trained with it.
    antialias : bool
        Whether the table is smoothed before it is interpolated to a smaller grid.

    Examples
    --------
    >>> network = GridPositions((2, 2))
    >>> network.pos_embed = nn.Parameter(torch.arange(5.0).view(1, 5, 1))
    >>> network.positions(2, 2) is network.pos_embed, network.positions(3, 4).shape
    (True, torch.Size([1, 13, 1]))
    """

    def __init__(
        self, grid: tuple[int, int], interpolation_offset: float = 0.0, antialias: bool = False
    ) -> None:
        super().__init__()
        self.pos_embed: Tensor
        self.grid, self.interpolation_offset, self.antialias = grid, interpolation_offset, antialias
        # weights of the interpolation of one side, by their lengths; used as a product, so that gradients pass
        self._stretch: dict[tuple[Any, ...], Tensor] = {}

    def positions(self, rows: int, columns: int) -> Tensor:
        """Give the positions of a grid, bicubically interpolated where it is another than the own.

        Parameters
        ----------
        rows, columns : int
            Of the grid.

        Returns
        -------
        Tensor
            (1, 1 + rows · columns, dim).
        """
        if (rows, columns) == self.grid:
            return self.pos_embed
        table = self.pos_embed[0, 1:].view(*self.grid, -1)
        # bicubic interpolation is a product with one matrix along each side, at least in single precision
        with torch.autocast(table.device.type, enabled=False):
            table = table.to(torch.promote_types(table.dtype, torch.float32))
            table = torch.einsum("ri,ijd->rjd", self._stretched(self.grid[0], rows, table), table)
            table = torch.einsum("cj,rjd->rcd", self._stretched(self.grid[1], columns, table), table)
        places = table.reshape(1, rows * columns, -1).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], places], dim=1)

    def _stretched(self, length: int, wanted: int, like: Tensor) -> Tensor:
        """Give the (wanted, length) weights of the interpolation along one side, kept for the next time."""
        key = (length, wanted, like.device, like.dtype)
        if key not in self._stretch:
            # an ordinary tensor even when first asked for in inference mode, for training may ask next
            with torch.inference_mode(False), torch.no_grad():
                unit = torch.eye(length, dtype=like.dtype, device="cpu").view(1, 1, length, length)
                how: dict[str, Any] = {"mode": "bicubic", "align_corners": False, "antialias": self.antialias}
                if self.interpolation_offset:
                    how["scale_factor"] = ((wanted + self.interpolation_offset) / length, 1.0)
                else:
                    how["size"] = (wanted, length)
                self._stretch[key] = interpolate(unit, **how)[0, 0, :wanted].to(like.device)
        return self._stretch[key]
