import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histograph.slides.resample import axis_weights, resample


def overlap_matrix(count, scale, size):
    """Area average as a dense matrix, written the slow way."""
    matrix = np.zeros((count, size))
    for i in range(count):
        for j in range(size):
            matrix[i, j] = max(0.0, min((i + 1) * scale, j + 1) - max(i * scale, j)) / scale
    return matrix


@pytest.mark.parametrize("scale", [1.0, 1.25, 2.0, 3.99, 7.3])
def test_area_average_is_the_overlap(noise, scale):
    image = noise(60, 80, 3)
    across, down = int(80 / scale), int(60 / scale)
    x, y = axis_weights(0, across, scale, 80), axis_weights(0, down, scale, 60)
    source = np.pad(image, ((0, 10), (0, 10), (0, 0)))
    expected = np.einsum(
        "rj,jkc,qk->rqc", overlap_matrix(down, scale, 60), image, overlap_matrix(across, scale, 80)
    )
    assert np.abs(resample(source, (0, 0), x, y).astype(float) - expected).max() <= 0.5 + 1e-9


def test_bilinear_doubles_a_ramp():
    x, y = axis_weights(0, 8, 0.5, 4), axis_weights(0, 1, 1.0, 1)
    ramp = np.repeat(np.array([[0, 40, 80, 120, 255]], np.uint8)[..., None], 3, axis=2)
    assert resample(ramp, (0, 0), x, y)[0, :, 0].tolist() == [0, 10, 30, 50, 70, 90, 110, 120]


@settings(max_examples=60, deadline=None)
@given(start=st.integers(-50, 10**6), cut=st.integers(1, 29), scale=st.floats(0.05, 40.0))
def test_weights_do_not_depend_on_the_cut(start, cut, scale):
    whole = axis_weights(start, 30, scale, 10**7)
    part = axis_weights(start + cut, 30 - cut, scale, 10**7)
    np.testing.assert_array_equal(whole.first[cut:], part.first)
    taps = min(whole.weight.shape[1], part.weight.shape[1])
    np.testing.assert_array_equal(whole.weight[cut:, :taps], part.weight[:, :taps])
    assert not whole.weight[cut:, taps:].any()
    np.testing.assert_allclose(whole.weight.sum(axis=1), 1.0)


def test_equal_and_aligned_is_exact():
    assert axis_weights(3.0, 5, 1.0 + 1e-14, 10).exact
    assert not axis_weights(3.5, 5, 1.0, 10).exact
