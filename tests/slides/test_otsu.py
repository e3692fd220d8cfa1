"""Otsu's threshold against scikit-image and against its definition."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from histograph.slides.otsu import otsu


@pytest.mark.parametrize("seed", range(5))
def test_same_bin_as_scikit_image(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0.2, 0.05, 400), rng.normal(0.6, 0.1, 300)])
    counts, edges = np.histogram(values, 64, (0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    assert otsu(counts, edges) == pytest.approx(threshold_otsu(hist=(counts, centres)) + 0.5 / 64)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 4, 0]])
def test_one_class_has_no_threshold(counts):
    assert otsu(counts, [0.0, 1.0, 2.0, 3.0]) is None
