"""Anchors and bins: the same for every turn and order, and right at their borders."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from histograph.methods.pama_geometry import AnchorMemory, choose_anchors, edge_codes, nearest_anchors
from histograph.nn.anchor_attention import AnchorCodes

CODES = AnchorCodes(65, 8)


def turned(pos, times=1):
    for _ in range(times):
        pos = torch.stack([pos[:, 1], pos[:, 0].max() - pos[:, 0]], dim=1)
    return pos


def grid(columns, rows, kept, seed, step=127.7441):
    generator = torch.Generator().manual_seed(seed)
    full = torch.cartesian_prod(torch.arange(columns), torch.arange(rows)).float()
    return full[torch.randperm(len(full), generator=generator)[:kept]] * step + 3217.3


SETS = {
    "grid with holes": grid(20, 17, 201, 0),
    "full square": grid(9, 9, 81, 1),
    "full rectangle": grid(12, 7, 84, 2),
    "anywhere": torch.rand(150, 2, generator=torch.Generator().manual_seed(3)) * 40_000,
    "row": grid(30, 1, 30, 4),
    "two": torch.tensor([[0.0, 0.0], [5.0, 1.0]]),
    "one": torch.tensor([[7.0, 9.0]]),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_turns_and_orders_choose_the_same_patches_and_shift_all_directions_alike(name, times):
    pos = SETS[name]
    generator = torch.Generator().manual_seed(times)
    x = torch.randn(len(pos), 3, generator=generator)
    order = torch.randperm(len(pos), generator=generator)
    other = turned(pos, times)[order] + 811.7
    rows, other_rows = choose_anchors(pos, 12.0, x=x), choose_anchors(other, 12.0, x=x[order])
    assert torch.equal(rows, order[other_rows].sort().values)
    memory = AnchorMemory()
    code = edge_codes(pos[rows], pos, memory.places(pos).largest, CODES)
    back = edge_codes(
        turned(pos, times)[rows] + 811.7, turned(pos, times) + 811.7, memory.places(other).largest, CODES
    )
    assert torch.equal(code // 8, back // 8)
    directed = code < CODES.here
    assert ((back - code)[directed] % 8).unique().numel() <= 1


def test_bins_do_not_change_with_shift_and_scale_and_do_with_mirroring():
    pos = SETS["grid with holes"]
    rows = choose_anchors(pos, 20.0)
    memory = AnchorMemory()

    def codes(p):
        return edge_codes(p[rows], p, memory.places(p).largest, CODES)

    wanted = codes(pos)
    for moved in (pos + 1e4, pos * 3.7, pos.double() * 1e-3 - 5):
        assert torch.equal(choose_anchors(moved, 20.0), rows)
        assert torch.equal(codes(moved), wanted)
    mirrored = codes(pos * torch.tensor([-1.0, 1.0]))
    assert torch.equal(mirrored // 8, wanted // 8) and not torch.equal(mirrored, wanted)


def test_codes_against_the_formula_on_whole_numbers():
    pos = grid(25, 31, 300, 5, step=1.0).round().double()
    rows = choose_anchors(pos, 30.0)
    largest = pdist(pos.numpy()).max()
    assert AnchorMemory().places(pos).largest == pytest.approx(largest)
    found = edge_codes(pos[rows], pos, largest, CODES).numpy()
    for a, row in enumerate(rows.tolist()):
        for t in range(len(pos)):
            dx, dy = (pos[t] - pos[row]).tolist()
            if dx == dy == 0:
                assert found[a, t] == CODES.here
                continue
            ring = math.floor(math.hypot(dx, dy) / (largest / 64) + 1e-9)
            sector = (math.floor(math.atan2(dx, dy) / (math.pi / 4) + 1e-9) + 4) % 8
            assert found[a, t] == ring * 8 + sector
    assert (found // 8)[found < CODES.here].max() <= 64


def test_largest_distance_has_the_last_bin():
    pos = torch.tensor([[0.0, 0.0], [300.0, 400.0], [30.0, 40.0]])
    code = edge_codes(pos[:1], pos, AnchorMemory().places(pos).largest, CODES)[0]
    assert code[0] == CODES.here and code[1] // 8 == 64 and code[2] // 8 == 6


def test_numbers_of_anchors():
    pos = SETS["grid with holes"]
    for per_anchor, wanted in ((1e9, 1), (100.0, 3), (12.0, 17)):
        assert len(choose_anchors(pos, per_anchor)) == wanted
    assert 0 < len(choose_anchors(pos, num_anchors=40)) <= 40
    assert torch.equal(choose_anchors(pos, num_anchors=10_000), torch.arange(len(pos)))
    assert choose_anchors(SETS["one"]).tolist() == [0]


def test_each_anchor_is_the_patch_nearest_to_a_centre():
    pos = SETS["anywhere"]
    rows = choose_anchors(pos, 15.0)
    owner = torch.cdist(pos[rows], pos).argmin(0)
    centres = torch.stack([pos[owner == i].mean(0) for i in range(len(rows))])
    # after a few rounds of k-means a cell's centre is close to the patch that stands for it
    spread = torch.stack([(pos[owner == i] - centres[i]).norm(dim=1).mean() for i in range(len(rows))])
    assert ((pos[rows] - centres).norm(dim=1) < spread).float().mean() > 0.9


def test_copies_of_a_place_are_one_place():
    pos = SETS["anywhere"]
    doubled = torch.cat([pos, pos[:40]])
    rows = choose_anchors(doubled, num_anchors=8)
    assert len(doubled[rows].unique(dim=0)) == len(rows)
    same = torch.zeros(5, 2)
    assert len(choose_anchors(same, num_anchors=3)) == 1
    assert (edge_codes(same[:1], same, 0.0, CODES) == CODES.here).all()


def test_nearest_anchors_by_brute_force_with_ties():
    pos = SETS["anywhere"]
    near = nearest_anchors(pos[:9], pos, 4)
    distance = np.linalg.norm(pos[:9, None].numpy() - pos[None].numpy(), axis=-1)
    wanted = np.zeros_like(distance, dtype=bool)
    np.put_along_axis(wanted, np.argsort(distance, axis=0)[:4], True, axis=0)
    assert np.array_equal(near.numpy(), wanted)
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    assert nearest_anchors(cross[:4], cross, 2)[:, 4].tolist() == [True, True, True, False]
    assert nearest_anchors(cross[:4], cross, 9).all()


@pytest.mark.parametrize(
    "pos, message",
    [
        (torch.zeros(3, 3), r"pos must have shape \(P, 2\).*found \(3, 3\)"),
        (torch.zeros(0, 2), "at least one patch, found none"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]), "pos must be finite; found .* in row 1"),
    ],
)
def test_positions_that_cannot_be(pos, message):
    with pytest.raises(ValueError, match=message):
        choose_anchors(pos)


def test_numbers_that_cannot_be():
    with pytest.raises(ValueError, match="patches_per_anchor must be above 0, found 0"):
        choose_anchors(SETS["one"], 0.0)
    with pytest.raises(ValueError, match="num_anchors must be at least 1, or None; found 0"):
        choose_anchors(SETS["one"], num_anchors=0)
