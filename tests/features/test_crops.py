import threading

import numpy as np
import pytest

from histograph.features import crops, iter_crops

from .scenes import ArraySlide, blobs


def test_centred_and_white_outside():
    image = blobs(size=60)[1]
    slide = ArraySlide(image, 0.5)
    found = crops(slide, [[10, 12], [0, 0], [-50, -50]], size_um=8, size_px=16)
    assert found.shape == (3, 16, 16, 3) and found.dtype == np.uint8
    assert np.array_equal(found[0], image[16:32, 12:28])
    assert np.array_equal(found[1, 8:, 8:], image[:8, :8]) and (found[1, :8] == 255).all()
    assert (found[2] == 255).all()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_are_the_crops_in_order(workers, batch_size):
    slide = ArraySlide(blobs(size=60)[1], 0.5)
    pos = np.random.default_rng(0).integers(5, 25, (19, 2))
    batches = list(iter_crops(slide, pos, 4, 8, batch_size, workers))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert np.array_equal(np.concatenate(batches), crops(slide, pos, 4, 8))


def test_no_point():
    slide = ArraySlide(blobs(size=60)[1], 0.5)
    assert (
        crops(slide, [], 4, 8).shape == (0, 8, 8, 3) and list(iter_crops(slide, np.zeros((0, 2)), 4, 8)) == []
    )


def test_stopping_early_leaves_no_thread_and_reads_little():
    slide = ArraySlide(blobs(size=60)[1], 0.5)
    before = threading.active_count()
    batches = iter_crops(slide, np.full((1000, 2), 10), 4, 8, batch_size=10, workers=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before and len(slide.reads) <= 40


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pos_um": np.zeros((3, 3))}, "pos_um"),
        ({"pos_um": [1.0, 2.0]}, "pos_um"),
        ({"pos_um": [[0, np.nan]]}, "finite"),
        ({"size_um": 0}, "size_um"),
        ({"size_px": 0}, "size_px"),
        ({"size_px": 2.5}, "size_px"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_arguments_fail_at_the_call(wrong, message):
    arguments = {"pos_um": [[0, 0]], "size_um": 4, "size_px": 8} | wrong
    with pytest.raises(ValueError, match=message):
        iter_crops(ArraySlide(np.zeros((4, 4, 3), np.uint8), 0.5), **arguments)
