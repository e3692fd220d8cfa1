"""Entities joined part by part are those joined at once, in no more memory than they take."""

import tracemalloc

import numpy as np
import pytest

from histograph.entities import Entities
from histograph.entities.collect import collect
from histograph.entities.masks import Masks, pack


def discs(first, count, columns=()):
    """Return small discs, one beside the other, with labels from `first` on."""
    row, col = np.ogrid[:15, :15]
    one, _, _ = pack(((row - 7) ** 2 + (col - 7) ** 2 <= 49).astype(np.int32), np.array([1]))
    label = np.arange(first, first + count)
    corner = np.stack([np.zeros(count, np.int64), label * 20], axis=1)
    masks = Masks(
        np.tile(one.bits, count), np.arange(count + 1) * len(one.bits), one.boxes + np.tile(corner, 2)
    )
    centre = np.stack([label * 20.0, np.zeros(count)], axis=1)
    return Entities(
        "cell",
        label,
        centre,
        np.tile(centre, 2),
        np.ones(count),
        1.0,
        masks,
        {"from": first},
        (float(first), 1.0),
        dict.fromkeys(columns, label * 2.0),
    )


def test_parts_join_to_what_they_were():
    parts = [discs(1, 0, ("prob",)), discs(1, 7, ("prob",)), discs(8, 1, ("prob",)), discs(9, 300, ("prob",))]
    joined, wanted = collect(iter(parts)), Entities.concatenate(parts)
    for name in ("label", "centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(wanted, name))
    for name in ("bits", "pointers", "boxes"):
        np.testing.assert_array_equal(getattr(joined.masks, name), getattr(wanted.masks, name))
    np.testing.assert_array_equal(joined.columns["prob"], joined.label * 2.0)
    assert joined.parameters == {"from": 1} and joined.extent_um == (1.0, 1.0)
    np.testing.assert_array_equal(joined.masks[300], parts[1].masks[0])


def test_nothing_and_wrong_order_are_refused():
    assert len(collect([discs(1, 0)])) == 0
    with pytest.raises(ValueError, match="at least one"):
        collect(iter([]))
    with pytest.raises(ValueError, match="ascending"):
        collect([discs(5, 3), discs(1, 3)])


def test_memory_is_that_of_the_result():
    collect([discs(1, 10)])
    tracemalloc.start()
    joined = collect(discs(1 + 500 * k, 500) for k in range(80))
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(joined) == 40_000
    # an eighth to grow, the check of the labels, a part and the pointers; twice the result if parts were kept
    assert peak < 1.4 * size
