import numpy as np
import pytest

from histograph.features.runs import runs_of_instance_map

from .scenes import blobs


def paint(runs, shape):
    out = np.zeros(shape, np.int64)
    for i, label in enumerate(runs.label):
        for k in range(runs.ptr[i], runs.ptr[i + 1]):
            out[runs.row[k], runs.start[k] : runs.stop[k]] = label
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("workers", [1, 3])
def test_runs_are_the_map(dtype, workers):
    m = blobs()[0].astype(dtype)
    runs = runs_of_instance_map(m, workers)
    assert (paint(runs, m.shape) == m).all()
    assert (runs.label == np.unique(m)[1:]).all()
    assert (runs.area == np.unique(m, return_counts=True)[1][1:]).all()


def test_boxes_and_centroids():
    from skimage.measure import regionprops

    m = blobs(seed=3)[0]
    runs = runs_of_instance_map(m)
    props = regionprops(m)
    assert (runs.bbox == [p.bbox for p in props]).all()
    np.testing.assert_allclose(runs.centroid, [p.centroid for p in props], rtol=1e-13)


def test_noise_has_a_run_a_pixel():
    m = np.random.default_rng(1).integers(0, 2**62, (20, 31))
    assert (paint(runs_of_instance_map(m), m.shape) == m).all()


def test_views_and_huge_labels():
    m = blobs()[0].astype(np.int64)
    far = np.where(m > 0, m + 2**40, 0)
    assert (runs_of_instance_map(far[::-1, ::2]).label == np.unique(far[::-1, ::2])[1:]).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 4)])
def test_empty(shape):
    runs = runs_of_instance_map(np.zeros(shape, np.int32), 2)
    assert len(runs) == 0 and runs.bbox.shape == (0, 4) and runs.centroid.shape == (0, 2)
    assert runs.area.shape == (0,) and runs.chunks(4) == []


def test_chunks_cover_every_entity_once():
    runs = runs_of_instance_map(blobs()[0])
    for count in (1, 3, 100):
        chunks = runs.chunks(count)
        assert [i for a, b in chunks for i in range(a, b)] == list(range(len(runs)))


def test_wrong_maps_are_refused():
    with pytest.raises(ValueError, match=r"shape \(H, W\)"):
        runs_of_instance_map(np.zeros((2, 2, 2), int))
    for dtype in (float, bool):
        with pytest.raises(ValueError, match="integer"):
            runs_of_instance_map(np.zeros((2, 2), dtype))
    for place in ((0, 0), (1, 1)):
        m = np.zeros((2, 3), int)
        m[place] = -4
        with pytest.raises(ValueError, match="found -4"):
            runs_of_instance_map(m)
    with pytest.raises(ValueError, match=r"2\*\*63"):
        runs_of_instance_map(np.array([[2**63]], np.uint64))
