import numpy as np
import pytest

from histograph.entities import Entities
from histograph.features import entity_features, feature_names, region_features

from .scenes import ArraySlide, blobs, rectangles


@pytest.fixture(scope="module")
def scene():
    m, image = blobs(size=120, count=60)
    return m, image, ArraySlide(image, 0.5), Entities.from_instance_map(m, mpp=0.5)


def test_same_as_on_the_whole_map(scene):
    m, image, slide, entities = scene
    expected = region_features(m, image, mpp=0.5)
    found = entity_features(slide, entities)
    assert found.names == expected.names and found.units == expected.units
    assert np.array_equal(found.label, expected.label) and np.array_equal(found.values, expected.values)


@pytest.mark.parametrize("tile_um", [3.0, 11.7, 25.0, 1000.0])
@pytest.mark.parametrize("workers", [1, 3])
def test_blocks_change_no_bit(scene, tile_um, workers):
    _, _, slide, entities = scene
    expected = entity_features(slide, entities, tile_um=1e6)
    found = entity_features(slide, entities, tile_um=tile_um, workers=workers)
    assert np.array_equal(found.values, expected.values)


def test_reads_stay_within_a_block_and_its_largest_entity(scene):
    _, image, _, entities = scene
    slide = ArraySlide(image, 0.5)
    entity_features(slide, entities, tile_um=10.0)
    largest = (entities.bbox[:, 2:] - entities.bbox[:, :2]).max()
    assert len(slide.reads) > 10
    assert max(max(read[2:]) for read in slide.reads) <= 10.0 + largest


def test_groups_keep_their_order_and_shape_needs_no_pixels(scene):
    _, image, _, entities = scene
    slide = ArraySlide(image, 0.5)
    assert entity_features(slide, entities, groups=["shape"]).names == feature_names(["shape"])
    assert slide.reads == []
    table = entity_features(slide, entities, groups=["texture", "shape"])
    assert table.names == feature_names(["texture", "shape"])


def test_coarser_pixels(scene):
    m, image, slide, entities = scene
    big = entities.select(entities.area > 10)
    found = entity_features(slide, big, mpp=1.0, tile_um=20.0)
    shape = region_features(np.where(np.isin(m, big.label), m, 0), mpp=0.5)
    assert np.array_equal(
        found.select(shape.names).values, shape.values
    )  # shape stays on the masks' own raster
    coarse = image.reshape(60, 2, 60, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    sampled = np.where(np.isin(m, big.label), m, 0)[1::2, 1::2]
    expected = region_features(sampled, coarse, 1.0, ["color", "stain", "texture"])
    assert np.array_equal(found.select(expected.names).values, expected.values)


def test_overlapping_rectangles_inside_and_outside_the_slide(scene):
    _, image, slide, _ = scene
    boxes = [(x, y, x + 16, y + 16) for y in range(0, 60, 8) for x in range(0, 60, 8)]
    patches = rectangles(boxes, 0.5)
    found = entity_features(slide, patches, tile_um=20.0)
    assert found.names == feature_names(["color", "stain", "texture"])
    padded = np.full((200, 200, 3), 255, np.uint8)
    padded[:120, :120] = image
    for row, (x, y, _, _) in enumerate(boxes):
        patch = padded[2 * y : 2 * y + 32, 2 * x : 2 * x + 32]
        alone = region_features(np.ones((32, 32), int), patch, 0.5, ["color", "stain", "texture"])
        assert np.array_equal(alone.values[0], found.values[row])
    assert np.array_equal(entity_features(slide, patches, tile_um=5.0).values, found.values)
    assert "area" in entity_features(slide, patches, groups=["shape"]).names


def test_no_entity(scene):
    slide = scene[2]
    assert entity_features(slide, Entities.empty("cell", 0.5)).values.shape == (0, len(feature_names()))


@pytest.mark.parametrize("wrong", [{"mpp": 0}, {"tile_um": -1}, {"workers": 0}, {"groups": ("size",)}])
def test_wrong_arguments(scene, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        entity_features(scene[2], scene[3], **wrong)


def test_an_entity_that_vanishes_is_named(scene):
    m = np.zeros((120, 120), int)
    m[6, 6] = 77
    with pytest.raises(ValueError, match="entity 77"):
        entity_features(scene[2], Entities.from_instance_map(m, mpp=0.5), mpp=4.0)


def test_a_real_slide_in_blocks_of_any_size():
    from pathlib import Path

    import histograph
    from histograph.slides import open_slide

    path = Path(histograph.__file__).parent / "bundled" / "CMU-1-Small-Region.svs"
    m = blobs(size=150, count=60)[0]
    with open_slide(path) as slide:
        for mpp in (0.5, 0.73):
            entities = Entities.from_instance_map(m, mpp=mpp, origin_um=(200 * mpp, 300 * mpp))
            whole = entity_features(slide, entities, tile_um=1e6)
            assert np.array_equal(entity_features(slide, entities, tile_um=17.0).values, whole.values)
            region = slide.read_region(200 * mpp, 300 * mpp, 150 * mpp, 150 * mpp, mpp=mpp)
            assert np.array_equal(region_features(m, region, mpp).values, whole.values)
