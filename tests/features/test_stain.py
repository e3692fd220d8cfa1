import numpy as np
import pytest

from histograph.entities.stain import RUIFROK
from histograph.features import region_features

from .scenes import blobs


def stains(image):
    """Haematoxylin, eosin, mean density and saturation of every pixel, straight from the definitions."""
    od = -np.log10(np.maximum(image, 1) / 255.0)
    h, e = (np.array(v) / np.linalg.norm(v) for v in RUIFROK)
    rest = np.cross(h, e)
    unmixed = od @ np.linalg.inv([h, e, rest / np.linalg.norm(rest)])
    density = od.mean(axis=-1)
    safe = np.where(density > 0, density, 1)
    cx, cy = od[..., 0] / safe - 1, (od[..., 1] - od[..., 2]) / safe / np.sqrt(3)
    saturation = np.where(density > 0, np.hypot(cx, cy), 0)
    return {
        "haematoxylin": unmixed[..., 0],
        "eosin": unmixed[..., 1],
        "density": density,
        "saturation": saturation,
    }


def test_against_numpy():
    m, image = blobs()
    table = region_features(m, image, groups=["stain"])
    for name, plane in stains(image).items():
        for i, label in enumerate(table.label):
            v = plane[m == label]
            assert np.isclose(table[f"{name}_mean"][i], v.mean(), rtol=1e-5, atol=1e-6)
            assert np.isclose(table[f"{name}_std"][i], v.std(), rtol=1e-5, atol=1e-6)
            for q in (5, 50, 95) if name in ("haematoxylin", "eosin") else ():
                found = table[f"{name}_p{q:02d}"][i]
                rank = int(q / 100 * (len(v) - 1) + 0.5)
                expected = np.clip(np.sort(v)[rank], -0.5 + 1 / 512, 2.5 - 1 / 512)
                assert abs(found - expected) < 1 / 512 + 1e-6


def test_pure_dyes():
    h, e = (np.array(v) / np.linalg.norm(v) for v in RUIFROK)
    image = (
        np.stack([255 * 10 ** (-0.8 * h), 255 * 10 ** (-0.6 * e), [255, 255, 255]]).round().astype(np.uint8)
    )
    table = region_features(np.array([[1, 2, 3]]), image[None], groups=["stain"])
    np.testing.assert_allclose(table["haematoxylin_mean"], [0.8, 0, 0], atol=0.02)
    np.testing.assert_allclose(table["eosin_mean"], [0, 0.6, 0], atol=0.02)
    assert (table["haematoxylin_std"] == 0).all() and table["saturation_mean"][2] == 0


def test_black_and_white_stay_finite():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    table = region_features(np.array([[1, 2]]), image, groups=["stain"])
    assert np.isfinite(table.values).all()
    assert table["density_mean"].tolist() == [pytest.approx(np.log10(255)), 0]
