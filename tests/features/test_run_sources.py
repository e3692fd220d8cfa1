import numpy as np
import pytest

from histograph.entities.masks import Masks, pack
from histograph.features.run_sources import resample_runs, runs_of_masks, runs_of_rectangles
from histograph.features.runs import runs_of_instance_map

from .scenes import blobs


def same(a, b):
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("label", "ptr", "row", "start", "stop"))


def test_masks_give_the_runs_of_their_map():
    m = blobs()[0].astype(np.int64)
    label = np.unique(m)[1:]
    assert same(runs_of_masks(label, pack(m, label)[0]), runs_of_instance_map(m))


def test_rectangles_give_the_runs_of_their_map():
    m = np.zeros((9, 9), int)
    m[1:4, 2:7] = 1
    m[5:9, 0:1] = 2
    assert same(runs_of_rectangles([1, 2], [[1, 2, 4, 7], [5, 0, 9, 1]]), runs_of_instance_map(m))


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7, 2.0])
def test_resampling_samples_pixel_centres(ratio):
    m = blobs(count=12)[0]
    n = int(np.ceil(len(m) / ratio - 0.5))
    at = np.floor((np.arange(n) + 0.5) * ratio).astype(int)
    sampled = m[np.ix_(at, at)]
    keep = np.isin(m, np.unique(sampled)) * m
    assert same(resample_runs(runs_of_instance_map(keep), ratio), runs_of_instance_map(sampled))


def test_moving():
    moved = runs_of_rectangles([1], [[0, 0, 2, 2]]).shift(3, -1)
    assert moved.bbox.tolist() == [[3, -1, 5, 1]]


def test_entities_without_pixels_are_refused():
    with pytest.raises(ValueError, match="entity 5"):
        runs_of_rectangles([4, 5], [[0, 0, 1, 1], [2, 2, 2, 3]])
    with pytest.raises(ValueError, match="entity 9"):
        runs_of_masks([9], Masks(np.zeros(1, np.uint8), np.array([0, 1]), np.array([[0, 0, 1, 1]])))
    with pytest.raises(ValueError, match="smaller mpp"):
        resample_runs(runs_of_rectangles([4], [[0, 0, 1, 1]]), 4.0)
