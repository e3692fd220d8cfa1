import numpy as np
import pytest
from skimage.draw import polygon

from histograph.entities.star_polygons import (
    KEPT,
    UNDECIDED,
    StarPolygons,
    draw,
    overlap_area,
    suppress,
)


def blobs(seed, n=40, per=8, size=160, rays=16, noise=0.15):
    """Candidates of round nuclei: several for each, with rough edges."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.uniform(0, size, (n, 2)), per, axis=0)
    radius = np.repeat(rng.uniform(3, 11, n), per)
    points = np.round(centre + rng.normal(0, radius[:, None] / 4, centre.shape))
    dist = radius[:, None] * (1 + noise * rng.normal(size=(len(points), rays)))
    # few different scores, so that many are equal
    return StarPolygons.of(points, np.maximum(dist, 1e-3), rng.integers(500, 540, len(points)) / 1000)


def plain(polygons, threshold):
    """Suppress by the definition, every pair."""
    corners = polygons.whole_corners()
    area = [overlap_area(ring, ring) for ring in corners]
    kept = []
    for i in range(len(polygons)):
        if all(
            np.float32(overlap_area(corners[k], corners[i]) / (min(area[i], area[k]) + 1e-10))
            <= np.float32(threshold)
            for k in kept
        ):
            kept.append(i)
    return kept


@pytest.mark.parametrize("rays,noise", [(8, 0.0), (16, 0.2), (33, 0.1)])
def test_overlap_is_the_area_in_common(rays, noise):
    """Against a fine raster; crossings are rounded to whole pixels, so a few pixels are allowed."""
    polygons = blobs(1, n=12, per=6, size=40, rays=rays, noise=noise)
    corners = polygons.whole_corners()
    fine = 8
    masks = []
    for ring in corners:
        mask = np.zeros((80 * fine, 80 * fine), bool)
        mask[polygon((ring[:, 0] + 20) * fine, (ring[:, 1] + 20) * fine, mask.shape)] = True
        masks.append(mask)
    errors = []
    for i in range(0, len(corners), 3):
        for j in range(i, len(corners), 5):
            common = (masks[i] & masks[j]).sum() / fine**2
            errors.append(overlap_area(corners[i], corners[j]) - common)
            assert overlap_area(corners[i], corners[j]) == pytest.approx(
                overlap_area(corners[j], corners[i]), abs=3
            )
    assert len(errors) > 100 and np.abs(errors).max() < 8 and abs(np.mean(errors)) < 1


def test_overlap_of_squares_that_share_corners_and_edges():
    square = np.array([[0, 0], [0, 6], [6, 6], [6, 0]], np.int32)
    inner = np.array([[0, 0], [0, 3], [3, 3], [3, 0]], np.int32)
    assert overlap_area(square, inner) == overlap_area(inner, square) == 9
    assert overlap_area(square, square + np.array([0, 6], np.int32)) == 0
    assert overlap_area(square, square + np.array([2, 0], np.int32)) == 24
    assert overlap_area(square, square[[0, 0, 1, 1, 2, 2, 3, 3]]) == 36
    assert overlap_area(square, np.full((4, 2), 3, np.int32)) == 0


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_suppression_is_that_of_the_definition(threshold):
    polygons = blobs(2).ranked()
    assert np.flatnonzero(suppress(polygons, threshold) == KEPT).tolist() == plain(polygons, threshold)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_part_decides_is_what_the_whole_decides(seed):
    polygons = blobs(seed, n=120, size=200).ranked()
    reach = float(polygons.dist.max())
    whole = suppress(polygons, 0.4)
    waiting = np.zeros(len(polygons), bool)
    for rows in ((0, 90), (90, 200)):
        for cols in ((0, 70), (70, 200)):
            known = [
                -np.inf if v == 0 else np.inf if v == 200 else v for v in (rows[0], cols[0], rows[1], cols[1])
            ]
            inside = np.ones(len(polygons), bool)
            for axis in (0, 1):
                at = polygons.points[:, axis]
                inside &= (at >= known[axis]) & (at < known[2 + axis])
            own = np.flatnonzero(inside)
            part = suppress(polygons.select(own), 0.4, tuple(known), reach)
            decided = part != UNDECIDED
            np.testing.assert_array_equal(part[decided], whole[own[decided]])
            waiting[own[~decided]] = True
            assert decided.any() and not decided.all()
    late = np.flatnonzero(waiting)
    # those that waited, and nothing else, decide the rest
    np.testing.assert_array_equal(suppress(polygons.select(late), 0.4), whole[late])


def test_equal_scores_are_ranked_by_place_whatever_the_order():
    polygons = blobs(3)
    shuffled = polygons.select(np.random.default_rng(0).permutation(len(polygons)))
    one, two = polygons.ranked(), shuffled.ranked()
    np.testing.assert_array_equal(
        one.points[suppress(one, 0.4) == KEPT], two.points[suppress(two, 0.4) == KEPT]
    )


def test_drawing_is_that_of_skimage_with_the_best_on_top():
    polygons = blobs(4, per=2).ranked()
    expected = np.zeros((150, 130), np.int64)
    corners = polygons.corners()
    for i in range(len(polygons) - 1, -1, -1):
        expected[polygon(corners[i, :, 0], corners[i, :, 1], expected.shape)] = i + 1
    whole = draw(polygons, (0, 0, 150, 130))
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(draw(polygons, (31, 17, 60, 70)), expected[31:91, 17:87])


def test_suppression_and_drawing_of_the_stardist_package():
    nms = pytest.importorskip("stardist.nms")
    from stardist.geometry import polygons_to_label

    kept = differ = 0
    for seed in range(5):
        polygons = blobs(seed, per=20, size=200, rays=32)
        polygons = StarPolygons.of(  # scores all different: equal ones are ranked another way there
            polygons.points, polygons.dist, np.random.default_rng(seed).permutation(len(polygons)) / 1000
        ).ranked()
        theirs = nms.non_maximum_suppression_inds(
            polygons.dist, polygons.points.astype(np.float32), polygons.score, thresh=0.4, verbose=0
        )
        ours = suppress(polygons, 0.4) == KEPT
        kept, differ = kept + ours.sum(), differ + (ours != theirs).sum()
        some = polygons.select(np.flatnonzero(theirs))
        labels = polygons_to_label(some.dist, some.points, (200, 200), prob=some.score)
        np.testing.assert_array_equal(draw(some, (0, 0, 200, 200)), labels)
    assert kept > 100 and differ <= 0.02 * kept


def test_nothing_and_one():
    nothing = StarPolygons.of(np.zeros((0, 2)), np.zeros((0, 8)), np.zeros(0))
    assert len(suppress(nothing, 0.5)) == 0 and draw(nothing, (0, 0, 3, 4)).shape == (3, 4)
    one = StarPolygons.of([[5, 5]], np.full((1, 8), 3.0), [0.9])
    assert suppress(one, 0.5).tolist() == [KEPT]
    with pytest.raises(ValueError, match="dist: expected"):
        StarPolygons.of([[1, 2]], [[1.0, 2.0]], [0.5])
