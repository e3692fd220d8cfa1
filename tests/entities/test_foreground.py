import numpy as np
import pytest
from scipy import ndimage

from histograph.entities.ascent import ascend
from histograph.entities.foreground import above_threshold, fill_small_holes, near_edge_distance
from histograph.entities.nuclei_tile import stain_amount
from histograph.entities.stain import MACENKO_REFERENCE, stain_weights
from histograph.entities.threshold import sample_tissue, stain_level
from histograph.slides import open_slide


@pytest.mark.parametrize("radius", [1, 3, 9])
def test_distance_is_scipys_up_to_the_radius(radius):
    inside = ndimage.gaussian_filter(np.random.default_rng(0).random((60, 70)), 2) > 0.48
    padded = np.pad(inside, 1)
    expected = np.minimum(ndimage.distance_transform_edt(padded), radius)[1:-1, 1:-1]
    found = near_edge_distance(padded, radius)[1:-1, 1:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_threshold_is_the_blend_of_global_and_local():
    amount = np.random.default_rng(0).integers(-50, 900, (20, 25)).astype(np.int32)
    found = above_threshold(amount, 3, 400.0, 0.6, 0.4)
    for row in range(20):
        for col in range(25):
            window = amount[max(row - 3, 0) : row + 4, max(col - 3, 0) : col + 4]
            level = 0.6 * 400 + 0.4 * (window.mean() + 0.4 * window.std())
            assert found[row, col] == (amount[row, col] > level)


def test_holes_are_filled_by_area_and_extent():
    inside = np.ones((20, 30), bool)
    inside[3, 3:6] = inside[10:12, 10:12] = inside[15, 10:22] = inside[8:10, 0:2] = False
    filled = fill_small_holes(inside, max_pixels=20, max_extent=5)
    assert filled[3, 3:6].all() and filled[10:12, 10:12].all()
    assert not filled[15, 10:22].any() and not filled[8:10, 0:2].any()


def test_every_pixel_climbs_to_a_peak_of_its_basin():
    height = (1000 * ndimage.gaussian_filter(np.random.default_rng(2).random((50, 60)), 3)).astype(np.int32)
    inside = np.ones(height.shape, bool)
    peak = ascend(height, inside, 200, 1, -(10**6), 0) - 1
    at = np.unique(peak)
    highest = ndimage.maximum_filter(height, 3)
    assert (height.ravel()[at] == highest.ravel()[at]).all()
    assert (height.ravel()[peak] >= height).all()
    assert all(ndimage.label(peak == p, np.ones((3, 3)))[1] == 1 for p in at)


def test_pixels_too_far_from_a_peak_are_left_out():
    height = np.arange(30, dtype=np.int32)[None, :]
    found = ascend(height, height >= 0, max_steps=10, radius=1, depth=0, max_joins=1)
    assert (found[0, :19] == 0).all() and (found[0, 19:] == 30).all()


def test_joining_needs_a_shallow_saddle():
    height = np.array([[1, 9, 5, 8, 1]], np.int32)
    assert len(np.unique(ascend(height, height > 0, 9, 3, 2, 3))) == 2
    assert len(np.unique(ascend(height, height > 0, 9, 3, 3, 3))) == 1
    assert len(np.unique(ascend(height, height > 0, 9, 1, 3, 3))) == 2


def test_threshold_lies_between_nuclei_and_the_rest(crop):
    slide = open_slide(crop[0], mpp=crop[1])
    weights = stain_weights(MACENKO_REFERENCE)
    level = stain_level(sample_tissue(slide, 0.5, None), weights, 0.5, 0.5)
    amount = stain_amount(crop[0], weights, 0.5, 0.5)
    assert 0.02 < (amount > level).mean() < 0.5


def test_sample_is_bounded_and_deterministic():
    image = np.random.default_rng(0).integers((150, 60, 130), (220, 140, 200), (300, 300, 3)).astype(np.uint8)
    slide = open_slide(image, mpp=10.0)
    sample = sample_tissue(slide, 20.0, None)
    assert len(sample) == 48
    assert all(np.array_equal(a, b) for a, b in zip(sample, sample_tissue(slide, 20.0, None)))
