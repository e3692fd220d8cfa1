"""Scores of segmentations against their definitions, written out, and against StarDist's matching."""

import itertools
import math

import numpy as np
import pytest

from histograph.entities import from_instance_map
from histograph.evaluation import on_raster, segmentation, segmentation_scores, segmentation_table


def boxes(seed, n=12, side=24, labels=None):
    """Random rectangles that overlap, with labels that are large and not contiguous."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.arange(60_000, 90_000), n, replace=False) if labels is None else labels
    out = np.zeros((side, side + 5), np.int64)
    for label in labels:
        row, col = rng.integers(0, side - 3, 2)
        height, width = rng.integers(2, 9, 2)
        out[row : row + height, col : col + width] = label
    return out


def shifted(seed):
    """Two maps that partly agree."""
    truth = boxes(seed)
    extra = boxes(seed + 1000, n=4)
    return truth, np.where(extra > 0, extra, np.roll(truth, 1, axis=1) * 7)


def brute(truth, found):
    """Overlaps of all pairs, pixel by pixel."""
    a = [truth == k for k in np.unique(truth[truth > 0])]
    b = [found == k for k in np.unique(found[found > 0])]
    shared = np.array([[(x & y).sum() for y in b] for x in a]).reshape(len(a), len(b))
    union = np.array([[(x | y).sum() for y in b] for x in a]).reshape(len(a), len(b))
    return a, b, shared, union


def brute_aji(truth, found):
    """Algorithm 1 of Kumar et al., line by line."""
    a, b, shared, union = brute(truth, found)
    c = u = 0
    used = set()
    for i in range(len(a)):
        j = int(np.argmax(shared[i] / union[i]))
        if shared[i, j] == 0:
            u += a[i].sum()
            continue
        c, u = c + shared[i, j], u + union[i, j]
        used.add(j)
    return c / (u + sum(y.sum() for j, y in enumerate(b) if j not in used))


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_their_definitions(seed):
    truth, found = shifted(seed)
    a, b, shared, union = brute(truth, found)
    iou = shared / union
    scores = segmentation_scores(truth, found)
    assert (scores.n_truth, scores.n_predicted) == (len(a), len(b))
    for t, matched, f1 in zip(scores.thresholds, scores.matched, scores.f1):
        assert matched == (iou > t).sum()
        assert f1 == 2 * matched / (len(a) + len(b))
    assert 0 < scores.matched[0] < len(a)
    assert scores.precision[0] == scores.matched[0] / len(b)
    assert scores.recall[0] == scores.matched[0] / len(a)
    assert scores.aji == pytest.approx(brute_aji(truth, found))
    assert scores.sq == pytest.approx(iou[iou > 0.5].mean())
    assert scores.dq == scores.f1[0]
    assert scores.pq == pytest.approx(scores.sq * scores.dq)
    both = ((truth > 0) & (found > 0)).sum()
    assert scores.dice == pytest.approx(2 * both / ((truth > 0).sum() + (found > 0).sum()))
    assert scores.count_error == pytest.approx((len(b) - len(a)) / len(a))


def best_matching(worth):
    """Largest total worth of all one-to-one matchings, by trying all."""
    if worth.shape[0] > worth.shape[1]:
        worth = worth.T
    n, m = worth.shape
    return max(sum(worth[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(m), n))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_matching_below_one_half_is_the_largest(seed, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(segmentation, "_DENSE", 0)
    truth, found = boxes(seed, n=6, side=11), boxes(seed + 50, n=6, side=11)
    _, _, shared, union = brute(truth, found)
    iou = shared / union
    scores = segmentation_scores(truth, found, thresholds=(0.0, 0.05, 0.2))
    for t, matched in zip(scores.thresholds, scores.matched):
        assert matched == best_matching((iou > t).astype(int))
    pair = segmentation._Overlap(truth, found)
    chosen = pair.match(0.0, most=False)
    assert pair.iou[chosen].sum() == pytest.approx(best_matching(iou))
    assert len(set(pair.truth[chosen])) == len(set(pair.predicted[chosen])) == chosen.sum()
    whole = sum((m > 0).sum() for m in (truth, found)) - pair.shared[chosen].sum()
    assert scores.aji_plus == pytest.approx(pair.shared[chosen].sum() / whole)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_stardist(seed):
    matching = pytest.importorskip("stardist.matching").matching
    truth, found = boxes(seed, n=80, side=90), boxes(seed, n=80, side=90)
    found = np.where(boxes(seed + 9, n=20, side=90) > 0, boxes(seed + 9, n=20, side=90), np.roll(found, 1, 0))
    thresholds = (0.1, 0.3, 0.51, 0.7, 0.9)
    ours = segmentation_scores(truth, found, thresholds)
    # StarDist takes an overlap that equals the threshold; it computes in float32
    theirs = matching(truth, found, tuple(t + 1e-6 for t in thresholds))
    assert ours.matched == tuple(int(one.tp) for one in theirs)
    np.testing.assert_allclose(ours.f1, [one.f1 for one in theirs])
    np.testing.assert_allclose(ours.precision, [one.precision for one in theirs])
    np.testing.assert_allclose(ours.recall, [one.recall for one in theirs])


def test_labels_and_layout_do_not_matter():
    truth, found = shifted(3)
    expected = segmentation_scores(truth, found)
    number = np.random.default_rng(0).permutation(90_000 * 7 + 2) + 1
    assert segmentation_scores(np.where(truth, number[truth], 0), np.asfortranarray(found)) == expected
    assert segmentation_scores(truth.astype(np.uint64) * 10**13, found.astype(np.uint32)) == expected
    assert segmentation_scores(truth[::-1], found[::-1]) == expected


def test_one_merged_and_one_split():
    truth = np.zeros((10, 20), int)
    truth[:, :10], truth[:, 10:] = 1, 2
    merged = segmentation_scores(truth, np.full((10, 20), 9), (0.4, 0.5))
    # an overlap of exactly one half is no match; both true objects take the one found
    assert merged.matched == (1, 0)
    assert merged.aji == 200 / 400 and merged.aji_plus == 100 / 300
    assert merged.count_error == -0.5 and merged.dice == 1.0
    split = segmentation_scores(np.full((10, 20), 9), truth, (0.4, 0.5))
    assert split.matched == (1, 0) and split.count_error == 1.0
    assert split.aji == split.aji_plus == 100 / 300
    uneven = truth.copy()
    uneven[:, 10:14] = 1
    one = segmentation_scores(np.full((10, 20), 9), uneven)
    assert one.matched == (1, 1, 0, 0, 0) and one.pq == pytest.approx(0.7 * 2 / 3)


def test_nothing_there_or_nothing_found():
    cell, none = np.ones((3, 4), int), np.zeros((3, 4), int)
    missed = segmentation_scores(cell, none)
    assert missed.f1[0] == missed.recall[0] == missed.aji == missed.aji_plus == missed.pq == missed.dice == 0
    assert math.isnan(missed.precision[0]) and math.isnan(missed.sq) and missed.count_error == -1
    wrong = segmentation_scores(none, cell)
    assert wrong.f1[0] == wrong.precision[0] == wrong.aji == wrong.pq == wrong.dice == 0
    assert math.isnan(wrong.recall[0]) and math.isnan(wrong.count_error)
    for empty in (none, np.zeros((0, 4), int)):
        both = segmentation_scores(empty, empty)
        assert both.n_truth == both.n_predicted == 0
        assert all(math.isnan(value) for value in (both.aji, both.aji_plus, both.pq, both.dice, *both.f1))


def test_entities_are_drawn_on_the_raster_of_the_other():
    truth, found = shifted(2)
    expected = segmentation_scores(truth, found)
    cells, cells_found = from_instance_map(truth, mpp=0.5), from_instance_map(found, mpp=0.5)
    assert segmentation_scores(truth, cells_found) == expected
    assert segmentation_scores(cells, found) == expected
    assert segmentation_scores(cells, cells_found) == expected
    # every pixel four times: the same shares, from coarse masks on a fine raster
    fine = np.kron(truth, np.ones((2, 2), int))
    assert segmentation_scores(fine, cells_found, mpp=0.25) == expected
    assert segmentation_scores(from_instance_map(fine, mpp=0.25), cells_found) == expected
    with pytest.raises(ValueError, match="is mpp the pixel size"):
        segmentation_scores(truth[:8], cells_found)


@pytest.mark.parametrize("mpp", [0.1, 0.25, 0.3, 0.8, 1.0])
def test_a_pixel_holds_what_lies_under_its_centre(mpp):
    truth = boxes(5)
    cells = from_instance_map(truth, mpp=0.5)
    shape = tuple(math.floor(n * 0.5 / mpp) for n in truth.shape)
    drawn = on_raster(cells, shape, mpp)
    for row, col in np.random.default_rng(0).integers(0, shape, (200, 2)):
        centre = (row + 0.5) * mpp / 0.5, (col + 0.5) * mpp / 0.5
        assert drawn[row, col] == truth[math.floor(centre[0] + 1e-6), math.floor(centre[1] + 1e-6)]
    assert on_raster(cells.select([]), (2, 3), mpp).tolist() == [[0] * 3] * 2


def test_table_averages_images_and_leaves_out_what_does_not_exist():
    cell, none = np.ones((3, 4), int), np.zeros((3, 4), int)
    images = [
        segmentation_scores(cell, cell),
        segmentation_scores(none, cell),
        segmentation_scores(cell, none),
    ]
    table = segmentation_table(images, n_boot=200)
    assert table.loc["aji", "mean"] == pytest.approx(1 / 3)
    assert table.loc["aji", "low"] == 0 and table.loc["aji", "high"] == 1
    assert table.loc["count_error", ["mean", "images"]].tolist() == [-0.5, 2]
    assert table.loc["abs_count_error", "mean"] == 0.5
    assert list(table.loc["sq"])[:3] == [1, 1, 1] and table.loc["sq", "images"] == 1
    nowhere = segmentation_table([segmentation_scores(none, none)], n_boot=5)
    assert nowhere.loc["aji", "images"] == 0 and np.isnan(nowhere.loc["aji", "mean"])
    together = segmentation_table(images, groups=["a", "a", "a"], n_boot=20)
    assert together.loc["aji", "low"] == together.loc["aji", "high"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "truth,found,options,error,match",
    [
        (np.ones((2, 2)), np.ones((2, 2), int), {}, TypeError, "truth: expected integers"),
        (np.ones((2, 2), int), np.ones((2, 2), bool), {}, TypeError, "predicted: expected integers"),
        (np.ones((2, 2), int), np.ones((2, 3), int), {}, ValueError, r"\(2, 2\) and \(2, 3\)"),
        (np.ones(2, int), np.ones((2, 3), int), {}, ValueError, "truth: expected two axes"),
        (np.full((2, 2), -1), np.ones((2, 2), int), {}, ValueError, "labels >= 0, found -1"),
        (np.ones((2, 2), int), np.ones((2, 2), int), {"mpp": 0.5}, ValueError, "mpp: only"),
        (np.ones((2, 2), int), np.ones((2, 2), int), {"thresholds": (0.5, 1.0)}, ValueError, "thresholds"),
        (np.ones((2, 2), int), np.ones((2, 2), int), {"thresholds": ()}, ValueError, "thresholds"),
    ],
)
def test_wrong_arguments_are_named(truth, found, options, error, match):
    with pytest.raises(error, match=match):
        segmentation_scores(truth, found, **options)


def test_wrong_tables_are_named():
    cell = np.ones((3, 4), int)
    one, other = segmentation_scores(cell, cell), segmentation_scores(cell, cell, (0.5,))
    with pytest.raises(ValueError, match="at least one image"):
        segmentation_table([])
    with pytest.raises(ValueError, match="same thresholds"):
        segmentation_table([one, other])
    with pytest.raises(ValueError, match="groups"):
        segmentation_table([one, one], groups=["a"])
