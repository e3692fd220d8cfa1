"""Rings that cross are found, rings that touch are not taken for it."""

import itertools

import numpy as np
import pytest

from histograph.entities.rings import Rings, mask_rings
from histograph.formats.ring_checks import broken_ring

from .scenes import cells

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)]


def rings(*polygons):
    """One entity of several polygons."""
    points, ring, polygon = [], [0], [0]
    for parts in polygons:
        for part in parts:
            points += part
            ring.append(len(points))
        polygon.append(len(ring) - 1)
    starts = (np.array(ring), np.array(polygon), np.array([0, len(polygons)]))
    return Rings(np.array(points, float), *starts)


@pytest.mark.parametrize(
    "polygons",
    [
        [[SQUARE]],
        [[SQUARE[::-1]]],
        [[SQUARE, [(2, 2), (3, 2), (3, 3), (2, 2)]]],
        [[SQUARE, [(0, 0), (3, 2), (3, 3), (0, 0)]]],  # touches a corner
        [[SQUARE, SQUARE]],  # the hole is the whole
        [[[(0, 0), (4, 0), (2, 2), (4, 4), (0, 4), (2, 2), (0, 0)]]],  # two triangles at a corner
        [[[(0, 0), (4, 0), (4, 4), (8, 4), (4, 4), (0, 4), (0, 0)]]],  # a spike
        [[SQUARE], [[(5, 5), (15, 5), (15, 15), (5, 5)]]],  # polygons of one object may overlap
    ],
)
def test_sound(polygons):
    assert broken_ring(rings(*polygons)) is None


@pytest.mark.parametrize(
    "polygons, message",
    [
        ([[[(0, 0), (4, 4), (4, 0), (0, 4), (0, 0)]]], r"crosses itself near [2, 2]"),
        ([[SQUARE], [[(0, 0), (4, 4), (4, 0), (0, 4), (0, 0)]]], r"crosses itself near [2, 2]"),
        (
            [[SQUARE, [(2, 2), (13, 2), (13, 3), (2, 2)]]],
            "hole 1 crosses another ring of its polygon near [10, 2]",
        ),
        (
            [[SQUARE, [(1, 1), (4, 1), (4, 4), (1, 4), (1, 1)], [(2, 2), (8, 2), (8, 3), (2, 3), (2, 2)]]],
            "hole 2 crosses another ring of its polygon near [4, 2]",
        ),
        ([[SQUARE, [(12, 2), (13, 2), (13, 3), (12, 2)]]], "hole 1 lies outside its outer ring, at [12, 2]"),
        ([[SQUARE, [(10, 0), (13, 2), (13, 3), (10, 0)]]], "hole 1 lies outside its outer ring, at [13, 2]"),
        ([[[(1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]]], "fewer than 3 different corners, near [1, 1]"),
        ([[[(1, 1), (1, 1), (1, 1), (1, 1)]]], "fewer than 3 different corners"),
    ],
)
def test_broken(polygons, message):
    row, problem = broken_ring(rings(*polygons))
    assert row == 0 and message in problem


@pytest.mark.parametrize("scale", [1.0, 0.9999, 1 / 0.2465, 1000.1])
def test_outlines_of_masks_are_sound(scale):
    found = mask_rings(cells())
    assert broken_ring(Rings(found.points * scale, *list(vars(found).values())[1:])) is None


def test_the_object_is_named():
    found = mask_rings(cells())
    points = found.points.astype(float)
    first = found.ring_start[found.polygon_start[found.entity_start[7]]]
    points[[first + 1, first + 3]] = points[[first + 3, first + 1]]
    row, problem = broken_ring(Rings(points, *list(vars(found).values())[1:]))
    assert row == 7 and "cross" in problem


def test_crossings_are_those_of_brute_force():
    rng = np.random.default_rng(0)

    def side(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    both = [0, 0]
    for _ in range(400):
        ring = [tuple(p) for p in rng.integers(0, 8, (rng.integers(3, 8), 2)).tolist()]
        ring.append(ring[0])
        edges = list(itertools.pairwise(ring))
        crosses = any(
            side(*a, b[0]) * side(*a, b[1]) < 0 and side(*b, a[0]) * side(*b, a[1]) < 0
            for k, a in enumerate(edges)
            for b in edges[:k]
        )
        expected = crosses or len(set(ring)) < 3
        both[expected] += 1
        assert (broken_ring(rings([ring])) is not None) == expected, ring
    assert min(both) > 50
