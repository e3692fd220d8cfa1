import numpy as np
from scipy.stats import skew

from histograph.features import region_features
from histograph.features.run_sources import runs_of_rectangles

from .scenes import blobs


def test_every_channel_against_numpy():
    m, image = blobs()
    table = region_features(m, image, groups=["color"])
    for k, channel in enumerate(("red", "green", "blue")):
        for i, label in enumerate(table.label):
            v = image[m == label, k].astype(float)
            assert np.isclose(table[f"{channel}_mean"][i], v.mean(), rtol=1e-6)
            assert np.isclose(table[f"{channel}_std"][i], v.std(), rtol=1e-6, atol=1e-5)
            expected = skew(v) if v.std() > 0 else 0
            assert np.isclose(table[f"{channel}_skewness"][i], expected, rtol=1e-5, atol=1e-6)


def test_agrees_with_regionprops():
    from skimage.measure import regionprops

    m, image = blobs(seed=2)
    table, props = region_features(m, image, groups=["color"]), regionprops(m, image)
    for k, channel in enumerate(("red", "green", "blue")):
        np.testing.assert_allclose(table[f"{channel}_mean"], [p.intensity_mean[k] for p in props], rtol=1e-6)
        np.testing.assert_allclose(table[f"{channel}_std"], [p.intensity_std[k] for p in props], atol=1e-5)


def test_a_change_of_one_channel_shows_in_its_columns_only():
    # field bug E.5: elsewhere all colour features are made of the red channel
    m, image = blobs()
    before = region_features(m, image, groups=["color"])
    for k, channel in enumerate(("red", "green", "blue")):
        other = image.copy()
        other[..., k] = 255 - other[..., k]
        after = region_features(m, other, groups=["color"])
        changed = [n for n in before.names if not np.array_equal(before[n], after[n])]
        assert changed and all(name.startswith(channel) for name in changed)


def test_flat_large_entity_has_no_spread():
    from histograph.features.regions import measure_runs

    image = np.full((1200, 1200, 3), (255, 1, 254), np.uint8)
    values = measure_runs(runs_of_rectangles([1], [[0, 0, 1200, 1200]]), image, 1.0, ["color"]).values
    assert values[0].tolist() == [255, 0, 0, 1, 0, 0, 254, 0, 0]
