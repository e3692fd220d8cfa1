import numpy as np
import pytest

from histograph.entities import patches, regions
from histograph.slides import TissueMask, open_slide


@pytest.fixture
def slide():
    return open_slide(np.full((100, 150, 3), 128, np.uint8), mpp=2.0)


def test_patches_tile_the_slide(slide):
    grid = patches(slide, 50.0, mask=None)
    assert (grid.parameters["n_columns"], grid.parameters["n_rows"]) == (6, 4)
    assert grid.label.tolist() == list(range(1, 25))
    np.testing.assert_array_equal(grid.centroid[7], [75.0, 75.0])
    np.testing.assert_array_equal(grid.bbox[7], [50.0, 50.0, 100.0, 100.0])
    assert (grid.area == 2500).all() and grid.masks is None
    labels, counts = np.unique(grid.instance_map(), return_counts=True)
    assert labels.tolist() == grid.label.tolist() and (counts == 625).all()


def test_labels_do_not_depend_on_the_mask(slide):
    tissue = np.zeros((20, 30), bool)
    tissue[:, 12:] = True
    mask = TissueMask(tissue, 10.0)
    whole = patches(slide, 40.0, None, overlap_um=10.0)
    some = patches(slide, 40.0, mask, overlap_um=10.0, min_tissue=0.5)
    assert 0 < len(some) < len(whole)
    kept = whole.select(np.isin(whole.label, some.label))
    np.testing.assert_array_equal(kept.bbox, some.bbox)
    expected = whole.bbox[:, 2] - np.maximum(whole.bbox[:, 0], 120) >= 20
    assert some.label.tolist() == whole.label[expected].tolist()


def test_min_tissue_zero_keeps_any_tissue(slide):
    tissue = np.zeros((20, 30), bool)
    tissue[0, 0] = True
    assert patches(slide, 50.0, TissueMask(tissue, 10.0), min_tissue=0.0).label.tolist() == [1]
    assert len(patches(slide, 50.0, TissueMask(tissue, 10.0))) == 0


def test_regions_cover_the_slide(slide):
    grid = regions(slide, 120.0, mask=None)
    assert len(grid) == 6
    assert grid.bbox[:, 2].max() >= 300 and grid.bbox[:, 3].max() >= 200
    assert len(regions(slide, mask=None)) == 1


def test_a_slide_smaller_than_a_patch_has_none(slide):
    grid = patches(slide, 500.0, mask=None)
    assert len(grid) == 0 and grid.centroid.shape == (0, 2)
    assert len(patches(open_slide(np.zeros((1, 1, 3), np.uint8), mpp=0.5))) == 0


@pytest.mark.parametrize("mpp,size,expected", [(0.1, 0.3, 10), (0.3, 0.9, 10)])
def test_rounding_does_not_lose_the_last_patch(mpp, size, expected):
    slide = open_slide(np.zeros((3, 30, 3), np.uint8), mpp=mpp)
    assert len(patches(slide, size, mask=None)) == expected


@pytest.mark.parametrize(
    "options,match",
    [
        ({"size_um": 0.0}, "size_um"),
        ({"overlap_um": 128.0}, "overlap_um"),
        ({"min_tissue": 1.5}, "min_tissue"),
    ],
)
def test_wrong_arguments_are_named(slide, options, match):
    with pytest.raises(ValueError, match=match):
        patches(slide, **options)
