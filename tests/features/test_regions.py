import numpy as np
import pytest

from histograph.features import GROUPS, feature_names, region_features

from .scenes import blobs


def test_columns_are_named_finite_and_grouped():
    # field bug E.7: elsewhere columns that hardly vary on a slide are dropped, so that slides differ in width
    m, image = blobs()
    table = region_features(m, image)
    assert table.names == feature_names() and len(table.units) == len(table.names)
    assert np.isfinite(table.values).all() and (table.label == np.unique(m)[1:]).all()
    parts = [region_features(m, image, groups=[group]) for group in GROUPS]
    assert np.array_equal(np.hstack([part.values for part in parts]), table.values)
    assert region_features(m).names == feature_names(["shape"])


def test_relabelling_permutes_the_rows():
    m, image = blobs()
    old = np.unique(m)[1:]
    new = np.random.default_rng(0).permutation(10 * len(old))[: len(old)] + 1
    lookup = np.zeros(m.max() + 1, np.int64)
    lookup[old] = new
    a, b = region_features(m, image), region_features(lookup[m], image)
    assert np.array_equal(b.values, a.values[np.argsort(new)]) and (b.label == np.sort(new)).all()


def test_huge_labels():
    m, image = blobs()
    far = np.where(m > 0, m.astype(np.int64) * 3**20 + 2**40, 0)
    a, b = region_features(m, image), region_features(far, image)
    assert np.array_equal(a.values, b.values) and b.label.min() > 2**40


def test_moving_the_scene_changes_no_bit():
    m, image = blobs(size=60)
    noise = np.random.default_rng(0).integers(0, 256, (100, 110, 3), dtype=np.uint8)
    moved = np.zeros((100, 110), m.dtype)
    moved[17:77, 29:89], noise[17:77, 29:89] = m, image
    assert np.array_equal(region_features(moved, noise).values, region_features(m, image).values)


def test_pixels_outside_an_entity_have_no_influence():
    # field bug E.6: elsewhere values are scaled by the whole image, so that a nucleus depends on its neighbours
    m, image = blobs(seed=4)
    label = np.bincount(m[m > 0]).argmax()
    table = region_features(m, image)
    mask = m == label
    other = np.where(mask[..., None], image, 255 - image)
    alone = region_features(np.where(mask, 1, 0), other)
    assert np.array_equal(alone.values[0], table.values[table.label == label][0])


def test_threads_change_no_bit():
    m, image = blobs()
    one = region_features(m, image, workers=1)
    assert all(np.array_equal(one.values, region_features(m, image, workers=w).values) for w in (2, 5))


def test_one_pixel_entities_are_defined():
    # field bug E.4: elsewhere small nuclei keep whatever was in memory
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    table = region_features(np.arange(25).reshape(5, 5), image)
    assert np.isfinite(table.values).all()
    spreads = [
        name for name in table.names if name.endswith(("_std", "_skewness")) or name.startswith("glcm")
    ]
    assert (table.select(spreads).values == 0).all()


def test_flat_slides_have_all_columns():
    # field bug E.7
    m, image = blobs()
    assert region_features(m, np.full_like(image, 128)).names == region_features(m, image).names


@pytest.mark.parametrize("shape", [(4, 5), (0, 5)])
def test_empty_map(shape):
    table = region_features(np.zeros(shape, int), np.zeros((*shape, 3), np.uint8))
    assert table.values.shape == (0, len(feature_names())) and table.label.shape == (0,)


def test_read_only_and_strided_images():
    m, image = blobs()
    wide = np.concatenate([image, image], axis=2)[:, :, :3]
    wide.flags.writeable = m.flags.writeable = False
    assert np.array_equal(region_features(m, wide).values, region_features(m.copy(), image).values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, "H, W, 3"),
        ({"image": np.zeros((4, 5, 3), np.uint8)}, "height and width"),
        ({"image": np.zeros((4, 4, 3))}, "uint8"),
        ({"groups": ("color",)}, "need the image"),
        ({"groups": ()}, "one or more"),
        ({"groups": ("shape", "shape")}, "one or more"),
        ({"groups": ("colour",)}, "one or more"),
        ({"groups": "shape"}, "string"),
        ({"mpp": 0}, "mpp"),
        ({"mpp": (0.5, 0.5)}, "one positive number"),
        ({"mpp": float("nan")}, "mpp"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        region_features(np.eye(4, dtype=int), **arguments)


def test_wrong_maps():
    for wrong in (np.zeros(3, int), np.zeros((2, 2)), np.array([[-1]])):
        with pytest.raises(ValueError, match="instance_map"):
            region_features(wrong)
