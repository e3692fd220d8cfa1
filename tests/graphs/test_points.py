import numpy as np
import pytest
import torch

from histograph.graphs import points as module
from histograph.graphs.points import (
    ATTRIBUTES,
    as_points,
    attribute_names,
    check_edge_count,
    edge_attributes,
    edges_from_pairs,
    in_chunks,
    sort_range,
)


@pytest.mark.parametrize(
    "pos",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], np.int16),
        np.array([[1, 2], [3, 4]], np.float32),
        np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
    ],
)
def test_points_of_any_kind_become_float64(pos):
    points = as_points(pos)
    assert points.dtype == np.float64 and points.flags.c_contiguous
    assert points.tolist() == [[1, 2], [3, 4]]


def test_a_fitting_array_is_not_copied():
    pos = np.zeros((3, 2))
    assert as_points(pos) is pos


@pytest.mark.parametrize(
    ("pos", "error", "message"),
    [
        (np.zeros((3, 3)), ValueError, r"where must have shape \(N, 2\).*found shape \(3, 3\)"),
        (np.zeros(4), ValueError, r"found shape \(4,\)"),
        ([], ValueError, r"\(0, 2\)"),
        ([[0, 0], [0, np.inf]], ValueError, r"where must be finite.*index 1"),
        ([[1e200, 0]], ValueError, "at most 1e150"),
        ([["a", "b"]], TypeError, "where must hold real numbers"),
        (np.zeros((1, 2), complex), TypeError, "complex128"),
        (torch.zeros((1, 2), dtype=torch.complex64), TypeError, "complex64"),
    ],
)
def test_bad_points_are_named(pos, error, message):
    with pytest.raises(error, match=message):
        as_points(pos, name="where")


def test_length_always_comes_first():
    assert attribute_names(()) == ("length",)
    assert attribute_names(("cos", "length", "dx")) == ("length", "cos", "dx")
    assert attribute_names(["contact_um"], extra=("contact_um",)) == ("length", "contact_um")


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (
            ("length", "weight"),
            ValueError,
            r"unknown name 'weight'; valid names are length, dx, dy, angle, sin, cos",
        ),
        (("dx", "dx"), ValueError, "repeat"),
        ("length", TypeError, r"write \('length',\)"),
    ],
)
def test_bad_attribute_names(names, error, message):
    with pytest.raises(error, match=message):
        attribute_names(names)


def test_attributes_follow_their_formulas():
    rng = np.random.default_rng(0)
    pos = rng.normal(0, 50, (200, 2))
    edge_index = torch.from_numpy(rng.integers(0, 200, (2, 1000)))
    edge_attr = edge_attributes(pos, edge_index, ATTRIBUTES)
    assert edge_attr.dtype == torch.float32 and edge_attr.shape == (1000, 6)
    d = pos[edge_index[1]] - pos[edge_index[0]]
    length = np.hypot(*d.T)
    angle = np.arctan2(d[:, 1], d[:, 0])
    expected = np.stack([length, *d.T, angle, np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(edge_attr, expected, rtol=1e-5, atol=1e-6)


def test_an_edge_of_length_zero_points_right():
    edge_attr = edge_attributes([[0.0, -0.0], [-0.0, 0.0]], torch.tensor([[0, 1], [1, 0]]), ATTRIBUTES)
    assert edge_attr.tolist() == [[0, 0, 0, 0, 0, 1]] * 2


def test_a_level_edge_to_the_left_has_angle_plus_pi():
    edge_attr = edge_attributes([[1, 0.0], [0, -0.0]], torch.tensor([[0], [1]]), ("angle",))
    assert edge_attr[0, 1] == pytest.approx(np.pi)


def test_a_far_offset_costs_no_accuracy():
    pos = np.array([[0.0, 0.0], [0.25, 0.5]])
    edge_index = torch.tensor([[0], [1]])
    far = edge_attributes(pos + 2.0**30, edge_index, ATTRIBUTES)
    assert torch.equal(far, edge_attributes(pos, edge_index, ATTRIBUTES))


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.zeros((3, 2), dtype=torch.int64), r"edge_index must be integers of shape \(2, E\)"),
        (torch.zeros((2, 2)), "float32"),
        (torch.tensor([[0], [2]]), r"must lie in 0…1"),
        (torch.tensor([[0], [-1]]), r"found -1…0"),
    ],
)
def test_bad_edges_are_named(edge_index, message):
    with pytest.raises(ValueError, match=message):
        edge_attributes(np.zeros((2, 2)), edge_index)


@pytest.mark.parametrize("n", [10, 3000])
def test_pairs_become_sorted_symmetric_edges(n):
    rng = np.random.default_rng(n)
    pairs = np.unique(np.sort(rng.integers(0, n, (8 * n, 2)), axis=1), axis=0)
    pairs = rng.permutation(pairs[pairs[:, 0] < pairs[:, 1]])
    edge_index, edge_attr = edges_from_pairs(torch.from_numpy(pairs), rng.random((n, 2)))
    both = np.concatenate([pairs, pairs[:, ::-1]])
    expected = both[np.lexsort((both[:, 1], both[:, 0]))].T
    assert edge_index.dtype == torch.int64
    assert np.array_equal(edge_index, expected)
    assert edge_attr.shape == (len(both), 1)


def test_a_hub_with_many_edges_is_sorted():
    n = 40_000  # threads, and a row far too long for an insertion sort
    pairs = np.stack([np.random.default_rng(0).permutation(np.arange(1, n)), np.zeros(n - 1, int)], axis=1)
    edge_index, _ = edges_from_pairs(pairs, np.zeros((n, 2)))
    assert torch.equal(edge_index[1, : n - 1], torch.arange(1, n))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_no_pairs_give_no_edges(n):
    edge_index, edge_attr = edges_from_pairs(np.empty((0, 2), int), np.zeros((n, 2)), ("dx",))
    assert edge_index.shape == (2, 0) and edge_index.dtype == torch.int64
    assert edge_attr.shape == (0, 2) and edge_attr.dtype == torch.float32


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 0]], r"two different points.*\(0, 0\) at index 0"),
        ([[0, 1], [1, 3]], r"0…2, found \(1, 3\) at index 1"),
        ([[-1, 1]], r"found \(-1, 1\)"),
        ([[0, 1], [1, 0]], r"unique, found \(0, 1\)"),
        ([[0.0, 1.0]], "integers"),
        ([0, 1], r"shape \(2,\)"),
    ],
)
def test_bad_pairs_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        edges_from_pairs(pairs, np.zeros((3, 2)))


@pytest.mark.parametrize("size", [0, 1, 2, 47, 48, 49, 50, 1000])
def test_sort_range_touches_nothing_else(size):
    values = np.random.default_rng(size).integers(0, 300, size + 10)
    expected = values.copy()
    expected[5 : 5 + size].sort()
    sort_range(values, 5, 5 + size)
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("n", [0, 1, 1000, 200_003])
def test_chunks_cover_everything_once(n):
    seen = np.zeros(n, int)

    def mark(low, high):
        seen[low:high] += 1

    in_chunks(mark, n)
    assert (seen == 1).all()


def test_an_error_in_a_chunk_is_raised():
    def fail(low, high):
        raise ValueError("from a chunk")

    with pytest.raises(ValueError, match="from a chunk"):
        in_chunks(fail, 200_000)


def test_absurd_graphs_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_EDGES", 10)
    check_edge_count(10, "this", "do that.")
    with pytest.raises(ValueError, match=r"this would give about 11 directed edges.*do that\."):
        check_edge_count(11, "this", "do that.")
