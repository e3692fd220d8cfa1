"""Who lies in whom, against a direct look at the raster; and who touches, whatever the strips."""

import numpy as np
import pytest

from histograph.entities import Entities, patches, regions
from histograph.graphs import contact_edges
from histograph.graphs.hierarchy import parent_of
from histograph.graphs.touching import touching_pairs
from histograph.slides import open_slide


@pytest.fixture
def labels():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 9, (12, 15)) * 7
    return np.kron(coarse, np.ones((5, 4), dtype=int))


def test_points_on_a_raster(labels, monkeypatch):
    monkeypatch.setattr("histograph.graphs.hierarchy._TILE_PX", 16)
    parents = Entities.from_instance_map(labels, mpp=0.5, kind="tissue")
    pos = np.random.default_rng(1).uniform(-3, 33, (500, 2))
    found = parent_of(pos, parents)
    column, row = np.floor(pos / 0.5).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < labels.shape[1]) & (row < labels.shape[0])
    expected = np.where(inside, labels[np.where(inside, row, 0), np.where(inside, column, 0)], 0)
    assert np.array_equal(np.where(found >= 0, parents.label[found], 0), expected)
    assert (found[~inside] == -1).all() and (found == -1).sum() > 50


def test_a_point_on_background_has_no_parent_not_the_last():
    # field bug E.8: elsewhere a cell on background is assigned to the last tissue
    parents = Entities.from_instance_map(np.array([[3, 0], [0, 8]]), mpp=1.0, kind="tissue")
    assert parent_of(np.array([[1.5, 0.5], [0.5, 0.5], [1.5, 1.5]]), parents).tolist() == [-1, 0, 1]


def test_points_in_squares():
    slide = open_slide(np.full((100, 130, 3), 120, np.uint8), mpp=1.0)
    grid = patches(slide, size_um=25.0, mask=None)
    pos = np.concatenate(
        [np.random.default_rng(2).uniform(-5, 140, (400, 2)), [[25, 25], [50, 0], [125, 10]]]
    )
    found = parent_of(pos, grid)
    for point, row in zip(pos, found, strict=True):
        holds = ((point >= grid.bbox[:, :2]) & (point < grid.bbox[:, 2:])).all(axis=1)
        assert (np.flatnonzero(holds).tolist() or [-1]) == [row]


def test_points_in_overlapping_squares_go_to_the_nearest_centre():
    slide = open_slide(np.full((100, 100, 3), 120, np.uint8), mpp=1.0)
    grid = patches(slide, size_um=40.0, overlap_um=20.0, mask=None)
    pos = np.random.default_rng(3).uniform(0, 100, (300, 2))
    found = parent_of(pos, grid)
    distance = np.abs(pos[:, None] - grid.centroid[None]).max(axis=2)
    assert (found >= 0).all() and np.allclose(distance[np.arange(300), found], distance.min(axis=1))
    assert parent_of(np.array([[30.0, 30.0]]), grid).tolist() == [0]  # four centres are equally near


def test_every_patch_lies_in_a_region():
    slide = open_slide(np.full((300, 410, 3), 120, np.uint8), mpp=1.0)
    inside = parent_of(patches(slide, 30.0, mask=None).centroid, regions(slide, 128.0, mask=None))
    assert (inside >= 0).all()


def test_squares_of_several_sizes():
    boxes = np.array([[0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 14.0, 4.0]])
    parents = Entities("region", np.array([1, 2]), boxes[:, :2] + 1, boxes, np.array([100.0, 16.0]), 1.0)
    assert parent_of(np.array([[5.0, 5.0], [11.0, 1.0], [11.0, 8.0]]), parents).tolist() == [0, 1, -1]


def test_without_points_or_parents():
    empty = Entities.empty("tissue")
    assert parent_of(np.zeros((3, 2)), empty).tolist() == [-1, -1, -1]
    assert parent_of(np.zeros((0, 2)), empty).tolist() == []


@pytest.mark.parametrize("gap_um", [0.0, 1.0, 2.2])
@pytest.mark.parametrize("strip_px", [1, 300, 10**9])
def test_strips_do_not_change_who_touches(labels, gap_um, strip_px):
    labels = np.where(np.random.default_rng(4).random(labels.shape) < 0.2, 0, labels)
    cells = Entities.from_instance_map(labels, mpp=0.5)
    pairs, contact = touching_pairs(cells, gap_um, strip_px)
    ends, attributes = contact_edges(labels, 0.5, gap_um, attributes=("length", "contact_um"))
    once = (ends[0] < ends[1]).numpy()
    assert np.array_equal(pairs, ends.numpy()[:, once].T)
    assert np.allclose(contact, attributes.numpy()[once, 1], atol=1e-4)


def test_nobody_touches_nobody():
    assert touching_pairs(Entities.empty("cell"))[0].shape == (0, 2)
    assert touching_pairs(Entities.from_instance_map(np.eye(1, dtype=int), mpp=1.0))[0].shape == (0, 2)
