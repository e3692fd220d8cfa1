"""Cells to write and read again."""

import numpy as np

from histograph.entities import Entities, from_instance_map


def cells(n=60, size=200, mpp=0.25, seed=0, typed=True, holes=True) -> Entities:
    """Discs with labels far apart, a hole in some, one in two parts; types and measurements."""
    rng = np.random.default_rng(seed)
    instance_map = np.zeros((size, size), np.int64)
    row, col = np.mgrid[:size, :size]
    labels = np.sort(rng.choice(10**6, n, replace=False)) + 1
    for label in labels:
        r, c = rng.integers(8, size - 8, 2)
        distance = (row - r) ** 2 + (col - c) ** 2
        instance_map[distance < rng.integers(12, 50)] = label
        if holes and label % 3 == 0:
            instance_map[distance < 4] = 0
    found = from_instance_map(instance_map, mpp)
    if typed:
        names = np.array(["tumour", "stroma: α", ""])
        found.columns["type"] = names[rng.integers(0, 3, len(found))]
        found.columns["prob"] = rng.random(len(found))
        found.columns["count"] = rng.integers(0, 9, len(found))
    return found


def assert_same(a: Entities, b: Entities, columns=True):
    """Same entities in the same order, mask for mask."""
    assert (a.kind, a.mpp) == (b.kind, b.mpp)
    for name in ("label", "centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.masks is None) == (b.masks is None)
    if a.masks is not None:
        for name in ("bits", "pointers", "boxes"):
            np.testing.assert_array_equal(getattr(a.masks, name), getattr(b.masks, name), err_msg=name)
    if columns:
        assert set(a.columns) == set(b.columns)
        for name, column in a.columns.items():
            np.testing.assert_array_equal(column, b.columns[name], err_msg=name)
