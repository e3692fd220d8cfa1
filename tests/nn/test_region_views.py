"""Grids of regions and views of them: against loops, and never empty."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.nn import centre_crop, crop_grids, random_crop, to_grids

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slpd" / "train_step_intra_inter_r1.npz"


def region(nodes, side=6, seed=0):
    generator = np.random.default_rng(seed)
    place = np.argwhere(np.ones((side, side)))[generator.permutation(side * side)[:nodes]]
    return Data(x=torch.from_numpy(generator.normal(size=(nodes, 3))).float(), place=torch.from_numpy(place))


def grids(count=6, rows=7, columns=7, share=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(count, rows, columns, generator=generator) < share
    present[:, rows // 2, columns // 3] = True
    return torch.randn(count, 3, rows, columns, generator=generator) * present.unsqueeze(1), present


def test_nodes_come_back_from_their_places():
    regions = [region(nodes, seed=nodes) for nodes in (5, 36, 1)]
    batch = Batch.from_data_list(regions)
    grid, present = to_grids(batch, 6)
    assert grid.shape == (3, 3, 6, 6) and present.sum((1, 2)).tolist() == [5, 36, 1]
    back = grid[batch.batch, :, batch.place[:, 0], batch.place[:, 1]]
    assert torch.equal(back, batch.x) and not grid.masked_select(~present.unsqueeze(1)).any()
    alone = to_grids(regions[0], (6, 6))
    assert torch.equal(alone[0][0], grid[0]) and torch.equal(alone[1][0], present[0])


def test_order_of_nodes_does_not_matter():
    one = region(20)
    shuffle = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    other = Data(x=one.x[shuffle], place=one.place[shuffle])
    assert all(torch.equal(a, b) for a, b in zip(to_grids(one, 6), to_grids(other, 6), strict=True))


def test_gradients_pass_to_the_nodes():
    one = region(4)
    one.x.requires_grad_()
    to_grids(one, 6)[0].sum().backward()
    assert torch.equal(one.x.grad, torch.ones(4, 3))


@pytest.mark.parametrize("turn", range(8))
def test_crops_and_turns_are_those_of_numpy(turn):
    grid, present = grids()
    top, left = torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([4, 3, 0, 2, 1, 4])
    found, there = crop_grids(grid, present, top, left, 3, torch.full((6,), turn))
    for number in range(6):
        rows, columns = (slice(int(first[number]), int(first[number]) + 3) for first in (top, left))
        wanted, mask = grid[number, :, rows, columns].numpy(), present[number, rows, columns].numpy()
        for bit, change in ((1, np.fliplr), (2, np.flipud), (4, np.transpose)):
            if turn & bit:
                wanted, mask = np.stack([change(one) for one in wanted]), change(mask)
        assert np.array_equal(found[number], wanted) and np.array_equal(there[number], mask)


def test_crops_equal_the_released_ones():
    golden = np.load(GOLDEN)
    grid = torch.from_numpy(golden["regions"][golden["batch"]])
    present = torch.ones(len(grid), 16, 16, dtype=torch.bool)
    for number, crop in enumerate(golden["crop_r_c_size_flip"]):
        top, left, size, turn = (torch.full((len(grid),), int(value)) for value in crop)
        found, there = crop_grids(grid, present, top, left, int(size[0]), turn)
        assert np.array_equal(found, golden[f"crop{number}"]) and there.all()


def test_centre_is_the_centre_where_it_holds_a_patch():
    grid, present = torch.randn(2, 3, 16, 16), torch.ones(2, 16, 16, dtype=torch.bool)
    view, there = centre_crop(grid, present, 14)
    assert torch.equal(view, grid[:, :, 1:15, 1:15]) and there.all()
    assert torch.equal(centre_crop(grid, present, 16)[0], grid)


def test_centre_moves_as_little_as_it_must():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        row, column = generator.integers(0, 8, 2)
        present = torch.zeros(1, 8, 8, dtype=torch.bool)
        present[0, row, column] = True
        number = torch.arange(64.0).view(1, 1, 8, 8)
        view, there = centre_crop(number, present, 2)
        assert there.sum() == 1
        top, left = divmod(int(view[0, 0, 0, 0]), 8)
        reached = [
            (r - 3) ** 2 + (c - 3) ** 2
            for r in range(7)
            for c in range(7)
            if r <= row < r + 2 and c <= column < c + 2
        ]
        assert (top - 3) ** 2 + (left - 3) ** 2 == min(reached)


def test_random_views_are_never_empty_and_reach_all_that_hold_a_patch():
    present = torch.zeros(4000, 5, 5, dtype=torch.bool)
    present[:, 0, 1] = True
    grid = torch.arange(25.0).view(1, 1, 5, 5).expand(4000, 1, 5, 5)
    view, there = random_crop(grid, present, 2, turns=1, generator=torch.Generator().manual_seed(0))
    assert there.flatten(1).any(1).all()
    place, count = view[:, 0, 0, 0].unique(return_counts=True)
    assert place.tolist() == [0, 1]  # the two squares that hold the patch, equally often
    assert abs(int(count[0]) - 2000) < 5 * 32


def test_places_and_turns_are_uniform():
    grid, present = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    many = 9 * 8 * 200
    generator = torch.Generator().manual_seed(0)
    view, _ = random_crop(grid.expand(many, 1, 4, 4), present.expand(many, 4, 4), 2, generator=generator)
    _, count = view.flatten(1).unique(dim=0, return_counts=True)
    assert len(count) == 72 and ((count - 200).abs() < 5 * 200**0.5).all()
    mirrored, _ = random_crop(grid.expand(64, 1, 4, 4), present.expand(64, 4, 4), 4, 2, generator)
    assert len(mirrored.flatten(1).unique(dim=0)) == 2


def test_one_seed_gives_the_same_views():
    grid, present = grids(share=0.8)
    first, again = (
        random_crop(grid, present, 3, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    state = torch.get_rng_state()
    random_crop(grid, present, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(state, torch.get_rng_state())


def test_features_and_mask_stay_together():
    """What is marked is drawn with its features: features are 1 where there is a patch."""
    _, present = grids(count=50)
    grid = present.unsqueeze(1).float()
    for view, there in (random_crop(grid, present, 4), centre_crop(grid, present, 4)):
        assert torch.equal(view[:, 0], there.float())


def test_messages():
    grid, present = grids(count=2)
    present[1] = False
    with pytest.raises(ValueError, match="region 1 has no patch"):
        random_crop(grid, present, 3)
    with pytest.raises(
        ValueError, match="size must be from 1 to the 7 patches of a side of the region, found 8"
    ):
        centre_crop(grid, present, 8)
    with pytest.raises(ValueError, match=r"a place for each of the grids, \(2, 7, 7\); found \(1, 7, 7\)"):
        centre_crop(grid, present[:1], 3)
    with pytest.raises(ValueError, match="turns must be 1, 2 or 8; found 4"):
        random_crop(grid, present, 3, turns=4)
    with pytest.raises(ValueError, match=r"place must have shape \(N = 2, 2\).*found NoneType"):
        to_grids(Data(x=torch.zeros(2, 3)), 4)
    with pytest.raises(ValueError, match=r"grid of 4 x 4, found row and column \[0, 4\]"):
        to_grids(Data(x=torch.zeros(1, 3), place=torch.tensor([[0, 4]])), 4)
    with pytest.raises(ValueError, match="two patches of a region have the same row and column"):
        to_grids(Data(x=torch.zeros(2, 3), place=torch.zeros(2, 2, dtype=torch.long)), 4)
