"""What the released PAMA is given: its bins and its cut and padded slides, against the released code's own arrays."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from histograph.methods.pama_released_input import (
    ReleasedReader,
    ReleasedSlides,
    direction_angles,
    direction_bins,
    distance_bins,
    grid_places,
    largest_distance,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "pama"
READER = {"node_dim": 12, "max_patches": 48, "max_anchors": 8}


@pytest.fixture(scope="module")
def case():
    with np.load(GOLDEN / "case_b_padded.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def graphs_of(case, anchors=True, step=(128.0, 128.0), corner=(0.0, 0.0)):
    """Put the slides of the released arrays into graphs with positions in micrometres."""
    graphs = []
    for slide in (0, 1):
        places = case[f"slide{slide}/pos"]
        pos = places.flip(1).double() * torch.tensor(step) + torch.tensor(corner)
        graph = Data(x=case["feat"][slide, : len(places)], pos=pos.float())
        if anchors:
            graph.anchor_index = case[f"slide{slide}/kidx"]
        graphs.append(graph)
    return graphs


def grid(rows, columns, step=100.0):
    return torch.cartesian_prod(torch.arange(columns), torch.arange(rows)).float() * step


def features(count, columns=2):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(0))


# ---- against the released arrays


@pytest.mark.parametrize(
    ("step", "corner", "chosen"),
    [
        ((128.0, 128.0), (64.0, 64.0), "given"),
        ((128.0, 128.0), (64.0, 64.0), "own"),
        ((129.3056, 129.3056), (91234.5, 41987.3), "given"),  # rounded by single precision
        ((126.4, 126.9), (0.0, 5.0), "given"),  # pixels that are not square
        ((126.4, 126.9), (0.0, 5.0), "own"),
        ((1.0, 1.0), (-7.0, -9.0), "given"),
    ],
)
def test_a_batch_is_read_as_the_released_loader_does(case, step, corner, chosen):
    # floor(33 / 10) + 1 = 4 and floor(44 / 10) + 1 = 5 anchors
    reader = ReleasedReader(**READER, patches_per_anchor=10)
    slides = reader.read(Batch.from_data_list(graphs_of(case, chosen == "given", step, corner)))
    assert torch.equal(slides.feat, case["feat"])
    assert torch.equal(slides.distance, case["rd"])
    assert torch.equal(slides.direction, case["polar"])
    assert torch.equal(slides.token_mask, case["token_mask"].float())
    assert torch.equal(slides.anchor_mask, case["kernel_mask"].float())


def test_a_single_graph_is_a_batch_of_one(case):
    alone = ReleasedReader(**READER).read(graphs_of(case)[1])
    both = ReleasedReader(**READER).read(Batch.from_data_list(graphs_of(case)))
    for name in ("feat", "distance", "direction", "token_mask", "anchor_mask"):
        assert torch.equal(getattr(alone, name)[0], getattr(both, name)[1])


# ---- bins


def brute_bins(places, anchors):
    """Follow the text of the specification, one pair after the other, with Python's numbers."""
    largest = max(math.dist(a, b) for a in places for b in places)
    distance = [[math.floor(math.dist(places[a], p) / (largest / 64)) for p in places] for a in anchors]
    angle = [[math.atan2(p[1] - places[a][1], p[0] - places[a][0]) for p in places] for a in anchors]
    return distance, [[math.floor(t / (2 * math.pi / 8)) + 4 for t in row] for row in angle]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=2, max_size=25, unique=True),
    st.integers(0, 10**6),
)
@example([(0, 2), (26, 0)], 0)  # another sum of squares was one unit in the last place larger
def test_bins_equal_brute_force(cells, number):
    anchors = [number % len(cells), 0]
    places = torch.tensor(cells, dtype=torch.float64)
    distance, direction = brute_bins(cells, anchors)
    assert distance_bins(places[anchors], places, largest_distance(places)).tolist() == distance
    assert direction_bins(direction_angles(places[anchors], places)).tolist() == direction


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_largest_distance_equals_brute_force(cells):
    places = torch.tensor(cells, dtype=torch.float64)
    assert largest_distance(places) == pytest.approx(float(torch.cdist(places, places).max()), abs=1e-9)


def test_the_largest_distance_alone_is_in_the_last_bin_and_the_anchor_itself_in_the_first():
    places = grid_places(grid(7, 9))
    bins = distance_bins(places, places, largest_distance(places))
    assert int(bins.max()) == 64 and not bins.diagonal().any()
    distance = torch.cdist(places, places)
    assert torch.equal(bins == 64, distance > distance.max() - 1e-6)


def test_bins_do_not_change_with_place_and_scale():
    pos = grid(5, 6)
    reader = ReleasedReader(2, max_patches=40, max_anchors=3)
    wanted = reader.read(Data(x=features(30), pos=pos, anchor_index=torch.tensor([0, 17])))
    for other in (pos + torch.tensor([3000.0, -70.0]), pos * 0.37, pos * 64 + 11):
        found = reader.read(Data(x=features(30), pos=other, anchor_index=torch.tensor([0, 17])))
        assert torch.equal(found.distance, wanted.distance)
        assert torch.equal(found.direction, wanted.direction)


def test_straight_up_is_put_into_the_last_bin():
    reader = ReleasedReader(2, max_patches=3, max_anchors=1)
    column = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    slides = reader.read(Data(x=features(3), pos=column, anchor_index=torch.tensor([1])))
    # up, the anchor itself, down
    assert slides.direction.flatten().tolist() == [7, 4, 4]


# ---- the grid


def test_positions_on_a_grid_give_whole_numbers():
    pos = grid(6, 4, step=0.2527 * 256) + torch.tensor([812.3, 20011.7])
    keep = torch.randperm(24, generator=torch.Generator().manual_seed(1))[:15]
    wanted = torch.stack([torch.arange(24) % 6, torch.arange(24) // 6], dim=1).double()[keep]
    # 812.3 and 20011.7 are in column 12 and row 309
    assert torch.equal(grid_places(pos[keep]), wanted + torch.tensor([309.0, 12.0]))


def test_gaps_of_one_axis_alone_are_counted_in_steps_of_the_other():
    pos = torch.tensor([[0.0, 0.0], [0.0, 50.0], [150.0, 50.0]])
    assert grid_places(pos).tolist() == [[0, 0], [1, 0], [1, 3]]


def test_positions_off_the_grid_stay_as_they_are():
    pos = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * 4000
    places = grid_places(pos)
    assert not torch.equal(places, places.round())
    # the same up to place and scale, so all shares of distances and all angles are
    torch.testing.assert_close(places / places.max(), pos.double().flip(1) / pos.double().max())
    slides = ReleasedReader(2, max_patches=60, max_anchors=2).read(
        Data(x=features(60), pos=pos, anchor_index=torch.tensor([3, 8]))
    )
    distance, direction = brute_bins(pos.double().flip(1).tolist(), [3, 8])
    assert slides.distance[0].tolist() == distance
    assert slides.direction[0].tolist() == np.minimum(direction, 7).tolist()


# ---- sizes


def test_slides_are_cut_to_the_first_patches_and_anchors():
    pos = grid(5, 8)
    reader = ReleasedReader(2, max_patches=12, max_anchors=2)
    x = features(40)
    slides = reader.read(Data(x=x, pos=pos, anchor_index=torch.tensor([39, 3, 20])))
    assert torch.equal(slides.feat[0], x[:12])
    assert slides.distance.shape == (1, 2, 12) and int(slides.token_mask.sum()) == 12
    # the first anchor is a patch that was cut off, and the whole slide says what the largest distance is
    places = grid_places(pos)
    wanted = distance_bins(places[[39, 3]], places[:12], largest_distance(places))
    assert torch.equal(slides.distance[0], wanted)


def test_padding_is_zero():
    slides = ReleasedReader(2, max_patches=9, max_anchors=4).read(
        Data(x=features(6), pos=grid(2, 3), anchor_index=torch.tensor([0, 5]))
    )
    assert not slides.feat[:, 6:].any()
    for bins in (slides.distance, slides.direction):
        assert not bins[:, 2:].any() and not bins[:, :, 6:].any()
    assert slides.allowed.sum() == 12 and slides.allowed[0, :2, :6].all()


@pytest.mark.parametrize("pos", [torch.zeros(1, 2), torch.full((4, 2), 7.0)], ids=["one patch", "one place"])
def test_slides_without_extent_have_bins(pos):
    slides = ReleasedReader(2, max_patches=5, max_anchors=3).read(Data(x=features(len(pos)), pos=pos))
    assert int(slides.anchor_mask.sum()) == 1
    assert not slides.distance.any()
    assert torch.equal(slides.direction[0, 0], torch.tensor([4] * len(pos) + [0] * (5 - len(pos))))


def test_fewer_places_than_anchors():
    pos = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]])
    slides = ReleasedReader(2, max_patches=5, max_anchors=8, num_anchors=6).read(Data(x=features(3), pos=pos))
    assert int(slides.anchor_mask.sum()) == 2


def test_anchors_are_remembered_by_the_positions(monkeypatch):
    reader = ReleasedReader(2, max_patches=30, max_anchors=8, patches_per_anchor=5)
    slide, other = Data(x=features(30), pos=grid(5, 6)), Data(x=features(30), pos=grid(6, 5))
    first, differing = reader.read(slide), reader.read(other)

    def refuse(*_):
        raise RuntimeError("a second k-means")

    monkeypatch.setattr("histograph.methods.pama_released_input.anchor_centres", refuse)
    assert torch.equal(reader.read(slide).distance, first.distance)
    assert torch.equal(reader.read(other).distance, differing.distance)


# ---- errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(6, 3)}, r"x must have 2 columns for this PAMA, found \(6, 3\)"),
        ({"x": None}, "x must have 2 columns for this PAMA, found NoneType"),
        ({"pos": torch.zeros(6, 3)}, r"pos must have 2 columns for this PAMA, found \(6, 3\)"),
        ({"pos": None}, "pos must have 2 columns for this PAMA, found NoneType"),
        ({"pos": torch.zeros(5, 2)}, "a row for each patch, found 6 and 5"),
        ({"x": torch.full((6, 2), torch.nan)}, "x must be finite.*row 0"),
        ({"pos": torch.full((6, 2), torch.inf)}, "pos must be finite.*row 0"),
        ({"x": torch.zeros(0, 2), "pos": torch.zeros(0, 2)}, "at least one patch"),
        ({"anchor_index": torch.tensor([6])}, r"rows of patches, 0 .. 5; found 6 .. 6"),
        ({"anchor_index": torch.tensor([-1])}, r"found -1 .. -1"),
        ({"anchor_index": torch.tensor([0.5])}, "whole numbers"),
        (
            {"anchor_index": torch.zeros(0, dtype=torch.long)},
            "an anchor for every slide, found none for slide 0",
        ),
    ],
)
def test_what_does_not_fit_is_explained(change, words):
    slide = Data(x=features(6), pos=grid(2, 3))
    for name, value in change.items():
        slide[name] = value
    with pytest.raises(ValueError, match=words):
        ReleasedReader(2, max_patches=9, max_anchors=4).read(slide)


@pytest.mark.parametrize(
    ("name", "value"),
    [("node_dim", 0), ("max_patches", 0), ("max_anchors", 0), ("patches_per_anchor", 0), ("num_anchors", 0)],
)
def test_sizes_must_be_positive(name, value):
    with pytest.raises(ValueError, match=name):
        ReleasedReader(**({"node_dim": 2} | {name: value}))


def test_shapes_must_fit_each_other():
    bins = torch.zeros(1, 2, 5, dtype=torch.long)
    good = (torch.randn(1, 5, 3), bins, bins, torch.ones(1, 5, 1), torch.ones(1, 2, 1))
    for position, name in enumerate(("feat", "distance", "direction", "token_mask", "anchor_mask")):
        wrong = [*good]
        wrong[position] = wrong[position][0]
        with pytest.raises(ValueError, match=name):
            ReleasedSlides(*wrong)
