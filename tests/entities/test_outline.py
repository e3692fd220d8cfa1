import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon2mask

from histograph.entities import from_instance_map
from histograph.entities.outline import outer_ring


def shoelace(ring):
    x, y = ring[:, 0], ring[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2


def filled_largest(mask):
    label, n = ndimage.label(mask)
    largest = 1 + int(np.argmax([np.count_nonzero(label == i) for i in range(1, n + 1)]))
    return ndimage.binary_fill_holes(label == largest)


@pytest.mark.parametrize("seed", range(5))
def test_ring_bounds_the_filled_largest_component(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.uniform(0.3, 0.9)
        if not mask.any():
            continue
        ring = outer_ring(mask)
        filled = filled_largest(mask)
        np.testing.assert_array_equal(ring[0], ring[-1])
        # Clockwise on the image, simple, corners only, along the axes.
        assert shoelace(ring) == filled.sum()
        assert len({tuple(p) for p in ring[:-1]}) == len(ring) - 1
        step = np.diff(ring, axis=0)
        assert ((step == 0).sum(axis=1) == 1).all()
        turn = np.vstack([step, step[:1]])
        assert (np.sign(turn[1:]) != np.sign(turn[:-1])).any(axis=1).all()
        inside = polygon2mask(mask.shape, ring[:, ::-1] - 0.5)
        np.testing.assert_array_equal(inside & ~filled, False)
        assert ring[:, 0].max() - ring[:, 0].min() == filled.any(axis=0).sum()


def test_outline_in_micrometres():
    instance_map = np.zeros((8, 9), int)
    instance_map[2:5, 3:8] = 4
    instance_map[3, 4] = 0
    entities = from_instance_map(instance_map, 0.5, origin_um=(10.0, 0.0))
    ring = entities.polygon(0)
    assert ring.tolist() == [[11.5, 1.0], [14.0, 1.0], [14.0, 2.5], [11.5, 2.5], [11.5, 1.0]]


def test_no_pixel_is_an_error():
    with pytest.raises(ValueError, match="at least one pixel"):
        outer_ring(np.zeros((3, 3), bool))
