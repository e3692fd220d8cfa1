"""The Vision Transformer of regions: attention among the patches of a region, whose vectors were made before.

Nodes are the patches of a region of a slide and one class token, every pair is joined, and where a patch lies in the
region is a vector that is added to it. Where tissue ends there are places without a patch: their tokens are read by
none, so that a region is the complete graph of the patches that it has.

Chen et al., "Scaling Vision Transformers to Gigapixel Images via Hierarchical Self-Supervised Learning", CVPR 2022
(HIPT), whose second stage this is.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from .bounds import check_bounds
from .grid_positions import GridPositions
from .vit import TransformerBlock


class RegionTransformer(GridPositions):
    """Vision Transformer of grids of patch features, with the names of weights that HIPT and SLPD use.

    Parameters
    ----------
    feature_dim : int
        Width of the features of a patch.
    dim : int
        Width of the tokens.
    depth : int
        Blocks.
    heads : int
        Heads; divides `dim`.
    grid : int
        Side of the grid that the positions are made for, in patches; others are read with positions interpolated.
    mlp_ratio : float
        Width of the hidden layer of the feed-forward parts, in widths of the tokens.
    drop_path : float
        Chance that a branch of the last block is left out for a region while training; from 0 at the first block it
        rises linearly.
    interpolation_offset : float
        0 fits the positions to the grid; 0.1 scales by (rows + 0.1) / rows of the grid, as HIPT and SLPD do, whose
        weights were trained with it.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> network = RegionTransformer(feature_dim=8, dim=16, depth=2, heads=2, grid=4)
    >>> grid, present = torch.randn(3, 8, 4, 4), torch.rand(3, 4, 4) < 0.7
    >>> network(grid, present).shape, network.pooled(grid[:, :, :2, :3]).shape
    (torch.Size([3, 17, 16]), torch.Size([3, 16]))
    """

    def __init__(
        self,
        feature_dim: int = 384,
        dim: int = 192,
        depth: int = 6,
        heads: int = 6,
        grid: int = 14,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        interpolation_offset: float = 0.0,
    ) -> None:
        _check_arguments(locals())
        super().__init__((grid, grid), interpolation_offset)
        self.feature_dim, self.dim = feature_dim, dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid * grid, dim))
        self.phi = nn.Sequential(nn.Linear(feature_dim, dim), nn.GELU())
        rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, grid: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Bring the features of patches to the width of tokens and add where they lie.

        Parameters
        ----------
        grid, present : Tensor
            As in :meth:`forward`.

        Returns
        -------
        x : Tensor
            (B, 1 + rows · columns, dim), the class token first, then row after row.
        read : Tensor or None
            (B, 1 + rows · columns) bool, the tokens to be read; None for all.

        Raises
        ------
        ValueError
            If a shape does not fit, or `present` is not of booleans.
        """
        if grid.dim() != 4 or grid.shape[1] != self.feature_dim or 0 in grid.shape[2:]:
            raise ValueError(
                f"grid must have shape (B, feature_dim = {self.feature_dim}, rows, columns), found "
                f"{tuple(grid.shape)}; histograph.nn.to_grids makes grids of a batch of regions"
            )
        count, _, rows, columns = grid.shape
        squares, read = grid.flatten(2).transpose(1, 2), None
        if present is not None:
            if present.dtype != torch.bool or present.shape != (count, rows, columns):
                raise ValueError(
                    f"present must be boolean of shape {(count, rows, columns)}, a place for each of grid; found "
                    f"{present.dtype} of shape {tuple(present.shape)}"
                )
            there = present.flatten(1)
            # whatever lies where there is no patch, were it not a number, must not reach a product
            squares = squares.masked_fill(~there.unsqueeze(2), 0.0)
            read = torch.cat([there.new_ones(count, 1), there], dim=1)
        positions = self.positions(rows, columns)
        squares = self.phi(squares) + positions[:, 1:]
        special = (self.cls_token + positions[:, :1]).expand(count, -1, -1).to(squares.dtype)
        return torch.cat([special, squares], dim=1), read

    def forward(self, grid: Tensor, present: Tensor | None = None) -> Tensor:
        """Give the tokens of regions.

        Parameters
        ----------
        grid : Tensor
            (B, feature_dim, rows, columns) features of patches.
        present : Tensor, optional
            (B, rows, columns) bool, where there is a patch; everywhere by default.

        Returns
        -------
        Tensor
            (B, 1 + rows · columns, dim), the class token first, then row after row; 0 where there is no patch.

        Raises
        ------
        ValueError
            As :meth:`tokens`.
        """
        x, read = self.tokens(grid, present)
        for block in self.blocks:
            x = block(x, read)
        x = self.norm(x)
        return x if read is None else x.masked_fill(~read.unsqueeze(2), 0.0)

    def pooled(self, grid: Tensor, present: Tensor | None = None) -> Tensor:
        """Give the class token of regions, which costs one block less than all tokens do.

        Parameters
        ----------
        grid, present : Tensor
            As in :meth:`forward`.

        Returns
        -------
        Tensor
            (B, dim), as ``forward(grid, present)[:, 0]``.

        Raises
        ------
        ValueError
            As :meth:`tokens`.
        """
        x, read = self.tokens(grid, present)
        for block in self.blocks[:-1]:
            x = block(x, read)
        return self.norm(cast(TransformerBlock, self.blocks[-1]).first(x, read)[:, 0])

    def attention(self, grid: Tensor, present: Tensor | None = None) -> Tensor:
        """Give the attention of the last block.

        Parameters
        ----------
        grid, present : Tensor
            As in :meth:`forward`.

        Returns
        -------
        Tensor
            (B, heads, T, T) with T = 1 + rows · columns, rows of readers that sum to 1; row 0 is what the class token
            reads, and columns without a patch are 0.

        Raises
        ------
        ValueError
            As :meth:`tokens`.
        """
        x, read = self.tokens(grid, present)
        for block in self.blocks[:-1]:
            x = block(x, read)
        last = cast(TransformerBlock, self.blocks[-1])
        return last.attn.weights(last.norm1(x), read)


def _check_arguments(given: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    bounds = [(name, given[name] >= 1, "at least 1") for name in ("feature_dim", "dim", "depth", "grid")]
    bounds += [
        (
            "heads",
            given["heads"] >= 1 and given["dim"] % max(given["heads"], 1) == 0,
            f"a divisor of dim {given['dim']}",
        ),
        ("mlp_ratio", given["mlp_ratio"] > 0, "above 0"),
        ("drop_path", 0 <= given["drop_path"] < 1, "at least 0 and below 1"),
        ("interpolation_offset", 0 <= given["interpolation_offset"] < 1, "at least 0 and below 1"),
    ]
    check_bounds(bounds, given)
