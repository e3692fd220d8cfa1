import importlib
import random
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histograph.graphs.predicates import _incircle_exact, _orient2d_exact, incircle, orient2d
from histograph.graphs.triangulate import build_mesh, triangulate

lattices = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 24), st.just(2)), elements=st.integers(-3, 3).map(float)
)
decimals = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 14), st.just(2)),
    elements=st.integers(-8, 8).map(lambda k: k * 0.1 + 7),
)
reals = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 14), st.just(2)), elements=st.floats(-1e6, 1e6, width=32)
)


def exact_turn(a, b, c):
    return (a[0] - c[0]) * (b[1] - c[1]) - (a[1] - c[1]) * (b[0] - c[0])


def exact_incircle(a, b, c, d):
    rows = [(x - d[0], y - d[1], (x - d[0]) ** 2 + (y - d[1]) ** 2) for x, y in (a, b, c)]
    (ax, ay, aw), (bx, by, bw), (cx, cy, cw) = rows
    return aw * (bx * cy - cx * by) + bw * (cx * ay - ax * cy) + cw * (ax * by - bx * ay)


def hull_area(points):
    """Twice the area of the convex hull, exactly (Andrew's monotone chain)."""
    points = sorted(set(points))
    halves = []
    for run in (points, points[::-1]):
        chain = []
        for point in run:
            while len(chain) > 1 and exact_turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        halves += chain[:-1]
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(halves, halves[1:] + halves[:1], strict=True))


def check_delaunay(pos):
    """Check everything that makes a set of triangles the Delaunay triangulation, in rational arithmetic."""
    points = [(Fraction(x), Fraction(y)) for x, y in pos.tolist()]
    triangles = triangulate(pos).tolist()
    distinct = set(points)
    for i, j, k in triangles:
        a, b, c = points[i], points[j], points[k]
        assert exact_turn(a, b, c) > 0
        assert all(exact_incircle(a, b, c, d) <= 0 for d in distinct)
    area = sum(exact_turn(points[i], points[j], points[k]) for i, j, k in triangles)
    assert area == (hull_area(points) if len(distinct) > 2 else 0)
    # with the area this rules out overlaps: a side used twice runs in opposite directions
    sides = [side for i, j, k in triangles for side in ((i, j), (j, k), (k, i))]
    assert len(set(sides)) == len(sides)
    if triangles:
        assert {points[i] for i, _ in sides} == distinct
        edges = len({tuple(sorted(side)) for side in sides})
        assert len(distinct) - edges + len(triangles) == 1


@pytest.mark.parametrize("points", [lattices, decimals, reals], ids=["lattice", "decimals", "reals"])
def test_is_delaunay(points):
    @settings(max_examples=60, deadline=None)
    @given(points)
    def check(pos):
        check_delaunay(pos)

    check()


@pytest.mark.parametrize("n", [3, 4, 5, 8, 30, 3000])
def test_equals_qhull(n):
    pos = np.random.default_rng(n).random((n, 2))
    ours = {frozenset(t) for t in triangulate(pos).tolist()}
    assert ours == {frozenset(t) for t in scipy.spatial.Delaunay(pos).simplices.tolist()}


def test_every_permutation_of_few_points():
    pos = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1], [2, 1]], float)
    for order in np.random.default_rng(0).permuted(np.tile(np.arange(6), (40, 1)), axis=1):
        check_delaunay(pos[order])


@pytest.mark.parametrize(
    "pos",
    [
        np.empty((0, 2)),
        np.ones((1, 2)),
        np.ones((50, 2)),
        np.array([[0.0, 0], [1, 1]]),
        np.arange(40.0).reshape(-1, 1) * [1, 0],
        np.arange(40.0).reshape(-1, 1) * [0, 1],
        np.arange(-20.0, 20).reshape(-1, 1) * [3, -7],
    ],
)
def test_without_area_there_are_no_triangles(pos):
    triangles = triangulate(pos)
    assert triangles.shape == (0, 3)
    assert triangles.dtype == np.int64


def test_cocircular_points_are_cut_alike_in_any_order():
    x, y = np.meshgrid(np.arange(12.0), np.arange(12.0))
    angle = np.arange(24) * (np.pi / 12)
    for pos in (
        np.column_stack([x.ravel(), y.ravel()]),
        np.column_stack([x.ravel(), y.ravel()]) * 32.3456,
        np.column_stack([np.cos(angle), np.sin(angle)]),
    ):
        check_delaunay(pos[:60])
        order = np.random.default_rng(1).permutation(len(pos))
        assert np.array_equal(order[triangulate(pos[order])], triangulate(pos))


def count_check(pos):
    """Check, in floats, that every point is used and Euler's formula holds with the hull of Qhull."""
    triangles = triangulate(pos)
    assert np.array_equal(np.unique(triangles), np.arange(len(pos)))
    sides = np.sort(
        np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1
    )
    edges, uses = np.unique(sides, axis=0, return_counts=True)
    assert uses.max() == 2
    assert len(pos) - len(edges) + len(triangles) == 1


def test_tight_clusters_lose_no_point():
    rng = np.random.default_rng(2)
    pos = rng.random((100, 2))[rng.integers(0, 100, 30_000)] + rng.normal(0, 1e-6, (30_000, 2))
    count_check(pos)
    # the hull of a cluster is not round: a check of circles by hand for one of them
    check_delaunay(pos[np.linalg.norm(pos - pos[0], axis=1) < 1e-5][:25])


def test_far_offset_loses_no_point():
    pos = np.random.default_rng(3).random((20_000, 2)) + 1e7
    count_check(pos)
    check_delaunay(pos[:25])


def test_huge_range_of_scales():
    pos = np.random.default_rng(4).normal(size=(400, 2)) * 10.0 ** -np.arange(400).reshape(-1, 1).clip(0, 40)
    count_check(pos)
    check_delaunay(pos[20:45])


def test_blocks_built_apart_merge_to_the_same_mesh(monkeypatch):
    rng = np.random.default_rng(5)
    clouds = [rng.random((3000, 2)), *(rng.integers(0, 4, (n, 2)).astype(float) for n in range(1, 16))]
    clouds[0][:500] = np.round(clouds[0][:500], 1)
    whole = [{frozenset(t) for t in triangulate(pos).tolist()} for pos in clouds]
    # the function of the same name hides the module in its package
    monkeypatch.setattr(importlib.import_module("histograph.graphs.triangulate"), "_BLOCK", 1)
    assert [{frozenset(t) for t in triangulate(pos).tolist()} for pos in clouds] == whole


def test_mesh_of_coincident_points():
    mesh = build_mesh(np.array([[5.0, 5], [0, 0], [5, 5], [0, 9], [5, 5]]))
    assert len(mesh.points) == 3
    assert sorted(mesh.representative.tolist()) == [0, 1, 3]
    v = mesh.representative.tolist().index(0)
    assert mesh.order[mesh.start[v] : mesh.start[v + 1]].tolist() == [0, 2, 4]


def test_out_of_range():
    with pytest.raises(ValueError, match="within"):
        triangulate(np.array([[0, 0], [1e71, 0], [0, 1]]))
    with pytest.raises(ValueError, match="finite"):
        triangulate(np.array([[0, 0], [np.nan, 0], [0, 1]]))


def nasty_numbers(rng, kind):
    """Eight coordinates that bring the filters of the predicates to their knees."""
    if kind == 0:
        return [float(rng.randint(-3, 3)) for _ in range(8)]
    if kind == 1:
        return [rng.randint(-5, 5) * 0.1 + rng.choice([0, 1e7]) for _ in range(8)]
    if kind == 2:
        angles = [rng.uniform(0, 6.3) for _ in range(4)]
        return [value for t in angles for value in (3 + float(np.cos(t)), 7 + float(np.sin(t)))]
    values = [rng.choice([1e-12, 1e-6, 1, 1e6]) * rng.gauss(0, 1) for _ in range(8)]
    return [*values[:6], values[0], values[1] * (1 + 2**-52)]


def test_predicates_have_exact_signs():
    rng = random.Random(0)
    for trial in range(4000):
        numbers = nasty_numbers(rng, trial % 4)
        a, b, c, d = ((Fraction(x), Fraction(y)) for x, y in zip(numbers[::2], numbers[1::2], strict=True))
        for turn in (orient2d, _orient2d_exact):
            assert np.sign(turn(*numbers[:6])) == np.sign(float(exact_turn(a, b, c)))
        for inside in (incircle, _incircle_exact):
            assert np.sign(inside(*numbers)) == np.sign(float(exact_incircle(a, b, c, d)))


def test_incircle_is_antisymmetric():
    corners = [(0.1, 0.2), (12.3, 0.7), (5.5, 9.1)]
    for swap in combinations(range(3), 2):
        swapped = list(corners)
        swapped[swap[0]], swapped[swap[1]] = swapped[swap[1]], swapped[swap[0]]
        flat = [v for p in corners for v in p]
        assert incircle(*flat, 5.0, 4.0) * incircle(*[v for p in swapped for v in p], 5.0, 4.0) < 0
