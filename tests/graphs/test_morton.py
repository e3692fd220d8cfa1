import numpy as np
import pytest
import torch

from histograph.graphs.morton import morton_order, radix_argsort


def interleaved(column: int, row: int, bits: int = 21) -> int:
    return sum(((column >> b & 1) << 2 * b) | ((row >> b & 1) << 2 * b + 1) for b in range(bits))


def test_a_full_lattice_is_in_z_order():
    rng = np.random.default_rng(0)
    pos = rng.permutation(np.stack(np.meshgrid(np.arange(16), np.arange(16)), -1).reshape(-1, 2))
    keys = [interleaved(int(x), int(y)) for x, y in pos[morton_order(pos)]]
    assert keys == sorted(keys)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_is_a_permutation(n):
    order = morton_order(np.random.default_rng(n).random((n, 2)))
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_ties_go_by_coordinates_then_index():
    # the far point makes one cell of all others
    pos = np.array([[2e-9, 0], [1e-9, 1e-9], [1e-9, 0], [2e-9, 0], [1e6, 1e6]])
    assert morton_order(pos).tolist() == [2, 1, 0, 3, 4]


def test_does_not_depend_on_the_input_order():
    rng = np.random.default_rng(1)
    pos = rng.random((500, 2))
    shuffled = pos[rng.permutation(500)]
    assert np.array_equal(pos[morton_order(pos)], shuffled[morton_order(shuffled)])


def test_neighbours_in_memory_are_neighbours_in_the_plane():
    pos = np.random.default_rng(2).random((20_000, 2))
    step = np.linalg.norm(np.diff(pos[morton_order(pos)], axis=0), axis=1)
    assert step.mean() < 3 / np.sqrt(20_000)


@pytest.mark.parametrize("value", [0.0, -7.5, 1e9])
def test_coincident_points_keep_their_order(value):
    assert morton_order(np.full((100, 2), value)).tolist() == list(range(100))


def test_tensors_and_integers_give_the_same_order():
    pos = np.random.default_rng(3).integers(0, 100, (300, 2))
    expected = morton_order(pos)
    assert np.array_equal(morton_order(torch.from_numpy(pos)), expected)
    assert np.array_equal(morton_order(pos.astype(np.float32)), expected)


def test_radix_argsort_is_a_stable_sort():
    keys = np.random.default_rng(4).integers(0, 2**40, 5000) // 2**30 * 2**30
    assert np.array_equal(radix_argsort(keys, 40, 11), np.argsort(keys, kind="stable"))


def test_nan_is_refused():
    with pytest.raises(ValueError, match=r"pos must be finite.*index 1"):
        morton_order([[0, 0], [np.nan, 0]])
