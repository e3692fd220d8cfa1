import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from histograph.entities import Entities, Masks, from_instance_map


def maps(dtype=np.int64):
    return st.tuples(
        st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(0, 2**32 - 1)
    ).map(
        lambda v: (np.random.default_rng(v[3]).integers(0, v[2] + 1, v[:2]) * np.array(70_001)).astype(dtype)
    )


@settings(max_examples=60, deadline=None)
@given(maps(), st.sampled_from([0.25, 0.499, 1.0]))
def test_map_survives_the_round_trip(instance_map, mpp):
    entities = from_instance_map(instance_map, mpp)
    np.testing.assert_array_equal(entities.instance_map(), instance_map)
    assert entities.label.tolist() == [v for v in np.unique(instance_map) if v]


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_any_integer_type_and_memory_layout(dtype):
    instance_map = np.asfortranarray(np.random.default_rng(0).integers(0, 100, (20, 30)).astype(dtype))
    np.testing.assert_array_equal(from_instance_map(instance_map, 0.5).instance_map(), instance_map)
    window = instance_map[3:17:2, ::-1]
    np.testing.assert_array_equal(from_instance_map(window, 0.5).instance_map(), window)


def test_labels_beyond_int32_are_kept():
    instance_map = np.array([[0, 2**40], [5, 2**40]])
    entities = from_instance_map(instance_map, 1.0)
    assert entities.instance_map().dtype == np.int64
    np.testing.assert_array_equal(entities.instance_map(), instance_map)


def test_a_million_labels():
    # field bug E.6: elsewhere labels above 65,535 overflow
    instance_map = np.kron(
        np.random.default_rng(0).permutation(1000 * 1000).reshape(1000, 1000) + 1, np.ones((1, 2), np.int64)
    )
    entities = from_instance_map(instance_map, 0.5)
    assert len(entities) == 1_000_000
    assert (entities.area == 0.5).all()
    np.testing.assert_array_equal(entities.instance_map(), instance_map)


def test_measures_match_regionprops():
    rng = np.random.default_rng(4)
    instance_map = np.kron(rng.integers(0, 30, (12, 15)), np.ones((4, 5), np.int64))
    mpp = 0.499
    entities = from_instance_map(instance_map, mpp, origin_um=(7 * mpp, 11 * mpp))
    for i, region in enumerate(regionprops(instance_map)):
        assert entities.label[i] == region.label
        row, col = region.centroid
        np.testing.assert_allclose(entities.centroid[i], [(col + 7.5) * mpp, (row + 11.5) * mpp])
        row_0, col_0, row_1, col_1 = np.add(region.bbox, [11, 7, 11, 7])
        np.testing.assert_allclose(entities.bbox[i], np.array([col_0, row_0, col_1, row_1]) * mpp)
        np.testing.assert_allclose(entities.area[i], region.area * mpp**2)
        np.testing.assert_array_equal(entities.masks[i], region.image)


def test_window_is_a_crop_of_the_whole():
    instance_map = np.random.default_rng(1).integers(0, 9, (30, 40))
    entities = from_instance_map(instance_map, 0.5)
    np.testing.assert_array_equal(entities.instance_map((2.5, 4.0, 6.0, 3.5)), instance_map[8:15, 5:17])
    beyond = entities.instance_map((-1.0, 14.0, 30.0, 4.0))
    assert beyond.shape == (8, 60)
    np.testing.assert_array_equal(beyond[:2, 2:42], instance_map[28:])
    assert beyond[2:].max() == 0 and beyond[:, :2].max() == 0


def test_tiles_join_to_the_whole():
    # field bug E.8: elsewhere nuclei that a tile border cuts are split
    instance_map = np.arange(1, 7).reshape(2, 3).repeat(4, 0).repeat(4, 1)
    tiles = [
        from_instance_map(instance_map[:, at : at + 4], 0.5, origin_um=(at * 0.5, 0.0)) for at in (8, 0, 4)
    ]
    joined = Entities.concatenate(tiles)
    np.testing.assert_array_equal(joined.instance_map(), instance_map)
    np.testing.assert_array_equal(joined.centroid, from_instance_map(instance_map, 0.5).centroid)
    with pytest.raises(ValueError, match="every label once"):
        Entities.concatenate([tiles[0], tiles[0]])
    with pytest.raises(ValueError, match="one kind"):
        Entities.concatenate([tiles[0], Entities.empty("tissue", 0.5)])
    with pytest.raises(ValueError, match="at least one"):
        Entities.concatenate([])


def test_select():
    instance_map = np.random.default_rng(1).integers(0, 9, (30, 40))
    entities = from_instance_map(instance_map, 0.5)
    kept = entities.select([6, 0])
    assert kept.label.tolist() == [1, 7]
    np.testing.assert_array_equal(
        kept.instance_map(), np.where(np.isin(instance_map, [1, 7]), instance_map, 0)
    )
    assert entities.select(entities.label > 3).label.tolist() == [4, 5, 6, 7, 8]
    assert entities.select(slice(2, 4)).label.tolist() == [3, 4]
    assert entities.select(-1).label.tolist() == [8]
    assert len(entities.select([])) == 0
    assert len(entities.select(np.zeros(8, bool))) == 0
    with pytest.raises(ValueError, match="twice"):
        entities.select([1, 1])
    with pytest.raises(IndexError):
        entities.select([8])


@pytest.mark.parametrize("masks", [Masks.empty(), None])
def test_empty(masks):
    empty = Entities("cell", *(np.zeros(s) for s in (0, (0, 2), (0, 4), 0)), 0.5, masks)
    assert len(empty) == 0 and empty.instance_map().shape == (0, 0)
    assert empty.instance_map((0, 0, 2, 1)).tolist() == [[0] * 4] * 2
    assert len(empty.select(slice(None))) == 0
    assert "Entities" in empty._repr_html_()
    assert len(Entities.concatenate([empty, empty])) == 0
    assert len(from_instance_map(np.zeros((0, 5), int), 1.0)) == 0


def test_union_of_masks():
    instance_map = np.random.default_rng(2).integers(0, 7, (13, 17))
    entities = from_instance_map(instance_map, 1.0)
    group = np.array([1, 0, 1, 2, 0, 1])
    united = entities.masks.union(group, 3)
    out = np.zeros(instance_map.shape, np.int32)
    united.paint(np.array([1, 2, 3]), out, 0, 0)
    np.testing.assert_array_equal(out, np.r_[-1, group][instance_map] + 1)


def test_rectangles_cover_the_pixels_whose_centres_they_hold():
    box = np.array([[0.0, 0.0, 1.2, 1.0], [1.0, 0.0, 2.0, 2.0]])
    entities = Entities("patch", np.array([1, 9]), box[:, :2], box, np.ones(2), 0.5)
    assert entities.instance_map().tolist() == [[1, 1, 9, 9], [1, 1, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]]
    assert entities.polygon(1).tolist() == [[1, 0], [2, 0], [2, 2], [1, 2], [1, 0]]


def test_html_is_escaped():
    entities = from_instance_map([[3]], 0.5, parameters={"finder": "<b>"})
    assert "&lt;b&gt;" in entities._repr_html_()


@pytest.mark.parametrize(
    "call,error,match",
    [
        (lambda: from_instance_map(np.zeros((2, 2)), 1.0), TypeError, "expected integers"),
        (lambda: from_instance_map(np.zeros((2, 2), bool), 1.0), TypeError, "label a boolean"),
        (lambda: from_instance_map(np.zeros(2, int), 1.0), ValueError, "two axes"),
        (lambda: from_instance_map([[-1]], 1.0), ValueError, "labels >= 0"),
        (lambda: from_instance_map(np.array([[2**63]], np.uint64), 1.0), ValueError, "int64"),
        (lambda: from_instance_map([[1]], 0.0), ValueError, "mpp"),
        (lambda: from_instance_map([[1]], 0.5, origin_um=(0.3, 0.0)), ValueError, "origin_um"),
        (lambda: from_instance_map([[1]], 0.5, origin_um=(-1.0, 0.0)), ValueError, "origin_um"),
        (lambda: from_instance_map([[1]], 0.5, kind="nucleus"), ValueError, "kind"),
        (lambda: from_instance_map([[1]], 0.5).instance_map((0, 0, -1, 1)), ValueError, "window_um"),
        (lambda: from_instance_map([[1]], 0.5).polygon(1), IndexError, "range"),
        (
            lambda: Entities("cell", np.array([2, 1]), np.zeros((2, 2)), np.zeros((2, 4)), np.zeros(2), 1.0),
            ValueError,
            "ascending",
        ),
        (
            lambda: Entities("cell", np.array([2]), np.zeros((2, 2)), np.zeros((1, 4)), np.zeros(1), 1.0),
            ValueError,
            "centroid",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
