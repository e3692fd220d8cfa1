"""Regions as grids of their patches, and the views of them that self-supervised learning compares.

A batch of region graphs becomes one dense grid a region, with a mask that says where there is a patch. Views are
squares of that grid. A view without any patch would say nothing, so none is drawn: a random view lies at one of the
places, all equally likely, where it holds at least one patch; the view of the centre moves as little as it must.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from .bounds import check_bounds

#: As they are; mirrored left and right, as released; all turns and mirror images, for a region has no upright.
TURNS = (1, 2, 8)


def to_grids(batch: Any, size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Lay the patches of regions out on one grid a region.

    Parameters
    ----------
    batch : torch_geometric.data.Batch or Data
        Regions: ``x`` (N, F) features and ``place`` (N, 2) int64 row and column of patches, with ``batch`` and ``ptr``
        where there are several.
    size : int or (int, int)
        Rows and columns of the grid.

    Returns
    -------
    grid : Tensor
        (B, F, rows, columns), 0 where there is no patch.
    present : Tensor
        (B, rows, columns) bool, where there is one.

    Raises
    ------
    ValueError
        If there is no place for each patch, one is outside the grid, or two patches of a region have one.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> region = Data(x=torch.tensor([[1.0], [2.0]]), place=torch.tensor([[0, 0], [1, 2]]))
    >>> grid, present = to_grids(region, (2, 3))
    >>> grid[0, 0], present.sum()
    (tensor([[1., 0., 0.],
            [0., 0., 2.]]), tensor(2))
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    x, place = batch.x, getattr(batch, "place", None)
    if not isinstance(place, Tensor) or place.shape != (len(x), 2):
        found = tuple(place.shape) if isinstance(place, Tensor) else type(place).__name__
        raise ValueError(
            f"place must have shape (N = {len(x)}, 2), the row and column of each patch in its region, found {found}; "
            "histograph.RegionDataset gives it"
        )
    index, ptr = getattr(batch, "batch", None), getattr(batch, "ptr", None)
    if index is None:
        index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    count = 1 if ptr is None else ptr.numel() - 1
    row, column = place.unbind(1)
    outside = (row < 0) | (row >= rows) | (column < 0) | (column >= columns)
    if bool(outside.any()):
        raise ValueError(
            f"place must lie in a grid of {rows} x {columns}, found row and column "
            f"{place[outside][0].tolist()}; give the size that the regions were made with"
        )
    at = (index * rows + row) * columns + column
    present = torch.zeros(count * rows * columns, dtype=torch.bool, device=x.device)
    present[at] = True
    if int(present.sum()) != len(x):
        raise ValueError("place: two patches of a region have the same row and column; each needs its own")
    # features last in memory, as tokens are read
    grid = x.new_zeros(count * rows * columns, x.shape[1]).index_copy(0, at, x)
    grid = grid.view(count, rows, columns, -1).permute(0, 3, 1, 2)
    return grid, present.view(count, rows, columns)


def crop_grids(
    grid: Tensor, present: Tensor, top: Tensor, left: Tensor, size: int, turn: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cut a square out of each grid, and mirror or turn it.

    Parameters
    ----------
    grid : Tensor
        (B, F, rows, columns).
    present : Tensor
        (B, rows, columns) bool.
    top, left : Tensor
        (B,) int64, first row and column of each square.
    size : int
        Side of the squares.
    turn : Tensor, optional
        (B,) int64 from 0 to 7: bit 1 mirrors left and right, bit 2 up and down, bit 4 then swaps rows and columns; the
        eight are all turns and mirror images of a square.

    Returns
    -------
    grid, present : Tensor
        (B, F, size, size) and (B, size, size).

    Examples
    --------
    >>> grid, zero = torch.arange(9.0).view(1, 1, 3, 3), torch.tensor([0])
    >>> crop_grids(grid, grid[:, 0] >= 0, zero, zero + 1, 2, turn=torch.tensor([1]))[0].squeeze()
    tensor([[2., 1.],
            [5., 4.]])
    """
    side = torch.arange(size, device=grid.device)
    row, column = side.view(1, -1, 1), side.view(1, 1, -1)
    if turn is not None:
        turn = turn.to(grid.device).view(-1, 1, 1)
        swap = (turn & 4).bool()
        row, column = torch.where(swap, column, row), torch.where(swap, row, column)
        row = torch.where((turn & 2).bool(), size - 1 - row, row)
        column = torch.where((turn & 1).bool(), size - 1 - column, column)
    row, column = row + top.to(grid.device).view(-1, 1, 1), column + left.to(grid.device).view(-1, 1, 1)
    number = torch.arange(len(grid), device=grid.device).view(-1, 1, 1)
    return grid.permute(0, 2, 3, 1)[number, row, column].permute(0, 3, 1, 2), present[number, row, column]


def centre_crop(grid: Tensor, present: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut the square in the middle out of each grid.

    Where it holds no patch, the nearest square that does is taken; of equally near ones the upper, then the left one.

    Parameters
    ----------
    grid : Tensor
        (B, F, rows, columns).
    present : Tensor
        (B, rows, columns) bool, True at least once in each grid.
    size : int
        Side of the squares, at most rows and columns.

    Returns
    -------
    grid, present : Tensor
        (B, F, size, size) and (B, size, size).

    Raises
    ------
    ValueError
        If the square is larger than the grid, or a grid has no patch.

    Examples
    --------
    >>> grid = torch.arange(16.0).view(1, 1, 4, 4)
    >>> centre_crop(grid, torch.ones(1, 4, 4, dtype=torch.bool), 2)[0].squeeze()
    tensor([[ 5.,  6.],
            [ 9., 10.]])
    """
    held = _held(grid, present, size)
    rows, columns = held.shape[1:]
    down = torch.arange(rows, device=grid.device) - (rows - 1) // 2
    across = torch.arange(columns, device=grid.device) - (columns - 1) // 2
    away = down.square().view(-1, 1) + across.square().view(1, -1)
    away = torch.where(held, away, away.max() + 1).flatten(1)
    # a whole number that also ranks places of one distance, so that every device takes the same one
    rank = away * away.shape[1] + torch.arange(away.shape[1], device=grid.device)
    place = rank.argmin(1)
    top = torch.div(place, columns, rounding_mode="floor")
    return crop_grids(grid, present, top, place % columns, size)


def random_crop(
    grid: Tensor, present: Tensor, size: int, turns: int = 8, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Cut a square out of each grid at a random place where it holds a patch, and mirror or turn it at random.

    Parameters
    ----------
    grid : Tensor
        (B, F, rows, columns).
    present : Tensor
        (B, rows, columns) bool, True at least once in each grid.
    size : int
        Side of the squares, at most rows and columns.
    turns : {1, 2, 8}
        How many views of a square are drawn from: itself; its mirror image left and right too, as released; all its
        turns and mirror images.
    generator : torch.Generator, optional
        Of the CPU; torch's default one otherwise.

    Returns
    -------
    grid, present : Tensor
        (B, F, size, size) and (B, size, size).

    Raises
    ------
    ValueError
        If the square is larger than the grid, a grid has no patch, or `turns` is another number.

    Examples
    --------
    >>> grid, present = torch.zeros(2, 5, 16, 16), torch.zeros(2, 16, 16, dtype=torch.bool)
    >>> present[:, 3, 12] = True
    >>> random_crop(grid, present, 6)[1].sum((1, 2))
    tensor([1, 1])
    """
    check_bounds([("turns", turns in TURNS, "1, 2 or 8")], {"turns": turns})
    held = _held(grid, present, size)
    # drawn on the CPU, so that one seed gives the same views on every device
    chance = torch.rand(len(grid), held.shape[1] * held.shape[2], generator=generator).to(grid.device)
    turn = torch.randint(turns, (len(grid),), generator=generator)
    place = chance.masked_fill(~held.flatten(1), -1.0).argmax(1)
    top = torch.div(place, held.shape[2], rounding_mode="floor")
    return crop_grids(grid, present, top, place % held.shape[2], size, turn if turns > 1 else None)


def _held(grid: Tensor, present: Tensor, size: int) -> Tensor:
    """Say at which first row and column a square holds a patch; refuse what has no such place."""
    rows, columns = present.shape[1:]
    if not 1 <= size <= min(rows, columns):
        raise ValueError(
            f"size must be from 1 to the {min(rows, columns)} patches of a side of the region, found {size}"
        )
    if grid.shape[2:] != present.shape[1:] or len(grid) != len(present):
        raise ValueError(
            f"present must have a place for each of the grids, {(len(grid), *grid.shape[2:])}; found "
            f"{tuple(present.shape)}"
        )
    held = max_pool2d(present.float().unsqueeze(1), size, stride=1).squeeze(1) > 0
    empty = ~held.flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(f"present: region {int(empty.nonzero()[0])} has no patch; leave such regions out")
    return held
