import numpy as np
import pytest
from scipy.ndimage import laplace
from skimage.feature import graycomatrix, graycoprops

from histograph.features import region_features

from .scenes import blobs


def luma(image):
    weights = np.array([299, 587, 114])
    return (image.astype(int) @ weights + 500) // 1000


def measures(pairs):
    """The seven measures of a symmetric matrix of pair counts."""
    if pairs.sum() == 0:
        return np.zeros(7)
    p = pairs / pairs.sum()
    i, j = np.mgrid[:16, :16]
    mean = (i * p).sum()
    variance = ((i - mean) ** 2 * p).sum()
    asm = (p**2).sum()
    return np.array(
        [
            ((i - j) ** 2 * p).sum(),
            (abs(i - j) * p).sum(),
            (p / (1 + (i - j) ** 2)).sum(),
            asm,
            np.sqrt(asm),
            ((i - mean) * (j - mean) * p).sum() / variance if variance > 1e-12 else 1,
            -(p[p > 0] * np.log2(p[p > 0])).sum(),
        ]
    )


def brute(mask, grey):
    """Pair counts, gradient magnitudes and Laplacian of one masked entity, pixel by pixel."""
    pairs = np.zeros((16, 16))
    sizes, bends = [], []
    inside = {(r, c): int(grey[r, c]) for r, c in zip(*np.nonzero(mask))}
    for (r, c), g in inside.items():
        for dr, dc in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if (r + dr, c + dc) in inside:
                i, j = g // 16, inside[r + dr, c + dc] // 16
                pairs[i, j] += 1
                pairs[j, i] += 1
        slopes = []
        for dr, dc in ((0, 1), (1, 0)):
            after, before = inside.get((r + dr, c + dc)), inside.get((r - dr, c - dc))
            ends = [(after, 1), (before, -1)]
            known = [(g if v is None else v, 0 if v is None else s) for v, s in ends]
            span = known[0][1] - known[1][1]
            slopes.append((known[0][0] - known[1][0]) / span if span else 0)
        sizes.append(np.hypot(*slopes))
        near = [inside.get((r + dr, c + dc)) for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        bends.append(sum(v - g for v in near if v is not None) ** 2)
    return np.array([*measures(pairs), np.mean(sizes), np.std(sizes), np.mean(bends)])


def test_masked_entities_against_brute_force():
    m, image = blobs(size=50, count=25)
    table = region_features(m, image, groups=["texture"])
    grey = luma(image)
    for i, label in enumerate(table.label):
        np.testing.assert_allclose(table.values[i], brute(m == label, grey), rtol=1e-5, atol=1e-5)


def test_rectangle_against_skimage_and_numpy():
    image = blobs(size=60)[1][:41, :53]
    table = region_features(np.ones(image.shape[:2], int), image, groups=["texture"])
    grey = luma(image)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = graycomatrix((grey // 16).astype(np.uint8), [1], angles, levels=16, symmetric=True)
    summed = counts.sum(axis=3, keepdims=True).astype(float)
    summed /= summed.sum()
    for name in ("contrast", "dissimilarity", "homogeneity", "ASM", "energy", "correlation"):
        expected = graycoprops(summed, name)[0, 0]
        assert table[f"glcm_{name.lower()}"][0] == pytest.approx(expected, rel=1e-6)
    size = np.hypot(*np.gradient(grey.astype(float)))
    assert table["gradient_mean"][0] == pytest.approx(size.mean(), rel=1e-6)
    assert table["gradient_std"][0] == pytest.approx(size.std(), rel=1e-5)
    assert table["laplacian_energy"][0] == pytest.approx(
        (laplace(grey, mode="nearest") ** 2).mean(), rel=1e-6
    )


def test_flat_and_one_pixel():
    image = np.full((3, 6, 3), 77, np.uint8)
    m = np.array([[1, 1, 1, 0, 0, 2]] * 3)
    m[1:, 5] = 0
    table = region_features(m, image, groups=["texture"])
    flat = dict(zip(table.names, table.values[0]))
    assert (
        flat["glcm_energy"] == flat["glcm_asm"] == flat["glcm_homogeneity"] == flat["glcm_correlation"] == 1
    )
    assert (
        flat["glcm_entropy"]
        == flat["glcm_contrast"]
        == flat["gradient_mean"]
        == flat["laplacian_energy"]
        == 0
    )
    assert (table.values[1] == 0).all()


def test_slopes_are_per_micrometre():
    m, image = blobs(size=40)
    one, half = (region_features(m, image, mpp, ["texture"]) for mpp in (1.0, 0.5))
    np.testing.assert_array_equal(half["gradient_mean"], 2 * one["gradient_mean"])
    np.testing.assert_array_equal(half["laplacian_energy"], 16 * one["laplacian_energy"])
    np.testing.assert_array_equal(half["glcm_contrast"], one["glcm_contrast"])


def test_every_channel_counts():
    m, image = blobs(size=40)
    before = region_features(m, image, groups=["texture"])
    for k in range(3):
        other = image.copy()
        other[..., k] //= 2
        assert not np.array_equal(before.values, region_features(m, other, groups=["texture"]).values)
