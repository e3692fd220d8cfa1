import numpy as np
import pytest
from scipy import ndimage

from histograph.entities import superpixels
from histograph.entities.merging import merge_by_colour, touching_pairs, unique_pairs
from histograph.slides import TissueMask, open_slide


def mean_colours(image, instance_map, labels):
    return np.stack([ndimage.mean(image[..., c], instance_map, labels) for c in range(3)], axis=1)


@pytest.mark.parametrize("block_um", [1024.0, 64.0])
def test_merging_leaves_no_similar_pair_even_across_blocks(crop, block_um):
    slide = open_slide(crop[0], mpp=crop[1])
    before = superpixels(slide, mask=None, merge_threshold=0.0, block_um=block_um)
    after = superpixels(slide, mask=None, merge_threshold=12.0, block_um=block_um)
    assert 1 < len(after) < len(before)
    instance_map = after.instance_map()
    assert (instance_map > 0).all()
    image = slide.read_region(0, 0, instance_map.shape[1], instance_map.shape[0], 1.0).astype(float)
    colours = mean_colours(image, instance_map, after.label)
    pairs = touching_pairs(instance_map.astype(np.int64)) - 1
    assert (np.linalg.norm(colours[pairs[:, 0]] - colours[pairs[:, 1]], axis=1) >= 12.0 - 1e-9).all()
    # A merged region is a union of whole superpixels, and in one piece.
    fine = before.instance_map()
    assert all(len(np.unique(instance_map[fine == k])) == 1 for k in before.label)
    assert all(ndimage.label(mask)[1] == 1 for mask in (after.masks[i] for i in range(len(after))))


def test_masks_measures_and_mask(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    tissue = TissueMask(np.random.default_rng(0).random((7, 7)) < 0.7, 32.0)
    found = superpixels(slide, mask=tissue)
    instance_map = found.instance_map()
    row, col = np.indices(instance_map.shape) + 0.5
    inside = tissue.mask[(row // 32).astype(int), (col // 32).astype(int)]
    np.testing.assert_array_equal(instance_map > 0, inside)
    counts = ndimage.sum_labels(np.ones_like(instance_map), instance_map, found.label)
    np.testing.assert_array_equal(counts, found.area)
    np.testing.assert_allclose(
        found.centroid,
        np.stack(
            [ndimage.mean(col, instance_map, found.label), ndimage.mean(row, instance_map, found.label)],
            axis=1,
        ),
    )


def test_same_whatever_the_workers(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    one = superpixels(slide, mask=None, block_um=64.0, workers=1)
    two = superpixels(slide, mask=None, block_um=64.0, workers=3)
    np.testing.assert_array_equal(one.instance_map(), two.instance_map())


def test_area_limit(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    found = superpixels(slide, mask=None, merge_threshold=80.0, max_area_um2=4000.0)
    assert found.area.max() <= 4000.0
    assert len(superpixels(slide, mask=None, merge_threshold=80.0)) < len(found)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (3, 2), (96, 96)])
@pytest.mark.parametrize("mask", [None, "auto"])
def test_small_images(shape, mask):
    image = np.random.default_rng(0).integers((150, 60, 130), (220, 140, 200), (*shape, 3)).astype(np.uint8)
    found = superpixels(open_slide(image, mpp=0.97), mask=mask, merge_threshold=0.0)
    if mask is None:
        assert found.area.sum() == pytest.approx(round(shape[0] * 0.97) * round(shape[1] * 0.97))
    if shape == (96, 96):
        assert 10 <= len(found) <= 40


def test_no_tissue():
    slide = open_slide(np.full((60, 60, 3), 250, np.uint8), mpp=1.0)
    assert len(superpixels(slide)) == 0
    assert superpixels(slide).instance_map().shape == (60, 60)


def test_every_channel_counts():
    # field bug E.5: elsewhere regions are merged by red alone
    colour = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    assert merge_by_colour(pairs, colour, np.ones(4, np.int64), 8.9).tolist() == [0, 1, 2, 3]
    assert len(set(merge_by_colour(pairs, colour, np.ones(4, np.int64), 100.0))) == 1


def test_merging_weighs_by_area_and_takes_the_most_similar_first():
    pairs = np.array([[0, 1], [1, 2]])
    colour = np.array([[0.0], [6.0], [11.0]])
    # 1 joins 2 (5 < 6); their mean, 8.5, is then too far from 0.
    assert merge_by_colour(pairs, colour, np.ones(3, np.int64), 7.0).tolist() == [0, 1, 1]
    # As a large region 1 hardly moves, and 0 joins as well.
    count = np.array([1, 9, 1])
    assert merge_by_colour(pairs, colour * count[:, None], count, 7.0).tolist() == [0, 0, 0]


def test_small_regions_join_their_most_similar_neighbour():
    pairs = np.array([[0, 1], [1, 2]])
    colour = np.array([[0.0], [100.0], [150.0]]) * [[50], [2], [50]]
    assert merge_by_colour(pairs, colour, np.array([50, 2, 50]), 0.0, min_count=5).tolist() == [0, 1, 1]


def test_pairs():
    label = np.random.default_rng(0).integers(-1, 6, (9, 11))
    expected = {
        tuple(sorted((int(label[r, c]), int(label[q, d]))))
        for r in range(9)
        for c in range(11)
        for q, d in ((r, c + 1), (r + 1, c))
        if q < 9 and d < 11 and label[r, c] != label[q, d] and min(label[r, c], label[q, d]) >= 0
    }
    assert {tuple(p) for p in touching_pairs(label).tolist()} == expected
    assert unique_pairs(np.zeros((0, 2), np.int64)).shape == (0, 2)


@pytest.mark.parametrize(
    "options,match",
    [
        ({"size_um": 0.0}, "size_um"),
        ({"size_um": 0.5}, "at least one pixel"),
        ({"mpp": -1.0}, "mpp"),
        ({"merge_threshold": -1.0}, "merge_threshold"),
        ({"block_um": 30.0}, "block_um"),
        ({"max_area_um2": 0.0}, "max_area_um2"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_arguments_are_named(options, match):
    slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=1.0)
    with pytest.raises(ValueError, match=match):
        superpixels(slide, **options)


@pytest.mark.parametrize("size", [60, 100, 120, 300])
def test_a_small_image_is_tissue_or_glass_as_a_whole(size):
    tissue = (
        np.random.default_rng(0).integers((150, 60, 130), (220, 140, 200), (size, size, 3)).astype(np.uint8)
    )
    found = superpixels(open_slide(tissue, mpp=1.0))
    assert found.area.sum() > 0.9 * size**2
    assert len(superpixels(open_slide(np.full_like(tissue, 245), mpp=1.0))) == 0
