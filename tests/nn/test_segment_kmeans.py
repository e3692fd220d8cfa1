"""K-means of all slides at once: golden arrays, scikit-learn, brute force, and what it must not depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as ReferenceKMeans
from torch.nn.functional import normalize

from histograph.nn import prototypes, segment_kmeans

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slpd"


def slides(sizes=(9, 30, 4, 17), dim=5, seed=0):
    """Unit rows around a few directions, and the slide of each."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    middle = torch.randn(4, dim, generator=generator)
    x = middle[torch.randint(4, (n,), generator=generator)] + 0.4 * torch.randn(n, dim, generator=generator)
    return normalize(x, dim=1), torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def squared(x, centroid):
    return (x.double().unsqueeze(1) - centroid.double().unsqueeze(0)).square().sum(-1)


def chain(segment):
    """Edges between consecutive rows of a slide, in one direction."""
    first = torch.arange(len(segment) - 1)[segment[1:] == segment[:-1]]
    return torch.stack([first, first + 1])


@pytest.mark.parametrize("case", ["kmeans_0", "kmeans_1"])
@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_lloyd_from_a_fixed_start_equals_golden(case, iterations):
    """Spec 6.1: alone, and as the middle one of three slides in mixed order."""
    golden = np.load(GOLDEN / f"{case}.npz")
    x, k = torch.from_numpy(golden["x"]), int(golden["k"])
    start = torch.from_numpy(golden["fixed/init"])
    rows, segment = torch.cat([x + 1, x, 2 * x]), torch.arange(3).repeat_interleave(len(x))
    mixed = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    found = segment_kmeans(
        rows[mixed], segment[mixed], k, iterations=iterations, restarts=1, start=start.expand(3, -1, -1)
    )
    back = mixed.argsort()[len(x) : 2 * len(x)]
    want = {name: golden[f"fixed/it{iterations}/{name}"] for name in ("centroids", "assign", "sqdist")}
    np.testing.assert_allclose(found.centroid[1].numpy(), want["centroids"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.assignment[back].numpy(), want["assign"])
    assert float(found.inertia[1]) == pytest.approx(want["sqdist"].sum(), rel=1e-6)


def test_objective_never_increases():
    """Spec 6.1, with far too many clusters, so that some lose their rows."""
    x, segment = slides()
    start = torch.randn(4, 8, 5, generator=torch.Generator().manual_seed(3))
    path = torch.stack(
        [segment_kmeans(x, segment, 8, iterations=i, restarts=1, start=start).objective for i in range(1, 9)]
    )
    assert bool((path.diff(dim=0) <= 1e-6).all())
    assert bool((path[-1] < path[0]).any())


@pytest.mark.parametrize("assignment", ["hard", "sinkhorn"])
def test_objective_with_edges_never_increases(assignment):
    x, segment = slides()
    start = x[torch.tensor([[0, 1, 2], [9, 10, 11], [39, 40, 41], [43, 44, 45]])]
    path = torch.stack(
        [
            segment_kmeans(
                x,
                segment,
                3,
                iterations=i,
                restarts=1,
                start=start,
                assignment=assignment,
                edge_index=chain(segment),
                coherence=0.1,
            ).objective
            for i in range(1, 9)
        ]
    )
    assert bool((path.diff(dim=0) <= 1e-3).all())  # sinkhorn ends within 1e-4 of the shares
    assert bool((path[-1] < path[0]).any())


def test_every_row_has_its_nearest_centroid_and_centroids_are_means():
    """Spec 6.3."""
    x, segment = slides()
    found = segment_kmeans(x, segment, 3, iterations=100)
    for s in range(4):
        here = segment == s
        distance = squared(x[here], found.centroid[s])
        assert torch.equal(found.assignment[here], distance.argmin(1))
        assert float(found.inertia[s]) == pytest.approx(float(distance.min(1).values.sum()), rel=1e-5)
        for j in found.assignment[here].unique():
            mean = x[here][found.assignment[here] == j].mean(0)
            torch.testing.assert_close(found.centroid[s, j], mean)
    assert torch.equal(found.inertia, found.objective)


def test_order_of_rows_and_other_slides_do_not_matter():
    """Spec 6.3, to the last bit."""
    x, segment = slides()
    x[5] = x[3]  # equal rows too
    found = segment_kmeans(x, segment, 3)
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    again = segment_kmeans(x[mixed], segment[mixed], 3)
    assert torch.equal(again.centroid, found.centroid)
    assert torch.equal(again.assignment, found.assignment[mixed])
    for s in range(4):
        alone = segment_kmeans(x[segment == s], torch.zeros(int((segment == s).sum()), dtype=torch.int64), 3)
        assert torch.equal(alone.centroid[0], found.centroid[s])
        assert torch.equal(alone.inertia[0], found.inertia[s])


def test_threads_do_not_matter():
    x, segment = slides([7] * 30)
    one = segment_kmeans(x, segment, 2)
    torch.set_num_threads(3)
    try:
        three = segment_kmeans(x, segment, 2)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_seed_decides():
    x, segment = slides([40], dim=3)
    first = segment_kmeans(x, segment, 6, restarts=1, iterations=1)
    assert torch.equal(first.centroid, segment_kmeans(x, segment, 6, restarts=1, iterations=1).centroid)
    assert not torch.equal(
        first.centroid, segment_kmeans(x, segment, 6, restarts=1, iterations=1, seed=1).centroid
    )


def test_rotation_of_features_rotates_centroids():
    """Spec 6.3."""
    x, segment = slides()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0))).Q
    start = x[torch.tensor([[0, 1], [9, 10], [39, 40], [43, 44]])]
    plain = segment_kmeans(x, segment, 2, restarts=1, start=start)
    turned = segment_kmeans(x @ turn, segment, 2, restarts=1, start=start @ turn)
    assert torch.equal(plain.assignment, turned.assignment)
    torch.testing.assert_close(turned.centroid, plain.centroid @ turn, rtol=0, atol=1e-6)


def test_more_restarts_are_never_worse_and_as_good_as_scikit_learn():
    x, segment = slides([60, 60], dim=16)
    few, many = (segment_kmeans(x, segment, 6, restarts=r, iterations=50).inertia for r in (1, 30))
    assert bool((many <= few).all())
    for s in range(2):
        reference = ReferenceKMeans(6, n_init=30, init="random", random_state=0).fit(x[segment == s].numpy())
        assert float(many[s]) <= reference.inertia_ * 1.02


def test_random_starts_are_proportional_to_squared_distance():
    """Two clusters, no better end than the start: rows at 0, 1 and 3 in one slide, many seeds."""
    x, segment = torch.tensor([[0.0], [1.0], [3.0]]), torch.zeros(3, dtype=torch.int64)
    ends = [
        sorted(segment_kmeans(x, segment, 2, restarts=1, iterations=1, seed=seed).centroid.flatten().tolist())
        for seed in range(3000)
    ]
    # starts {0, 1} (1/3 of 1/10 and of 1/5) end as 0 | 2, as does {1, 3}'s tie-free 0.5 | 3 and {0, 3}'s 0.5 | 3
    share = np.mean([end == [0.0, 2.0] for end in ends])
    assert share == pytest.approx((1 / 10 + 1 / 5) / 3, abs=0.02)


def test_fewer_rows_than_clusters():
    """Spec 6.4: every row is a centroid, the rest repeat them; nothing is nan."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = segment_kmeans(x, torch.tensor([0, 0, 1]), 4)
    assert bool(found.centroid.isfinite().all())
    assert found.inertia.tolist() == [0.0, 0.0]
    assert torch.equal(found.centroid[0].unique(dim=0), x[:2].unique(dim=0))
    assert torch.equal(found.centroid[1], x[2:].expand(4, -1))
    assert found.assignment[2] == 0
    torch.testing.assert_close(prototypes(found).norm(dim=-1), torch.ones(2, 4))


def test_cluster_without_rows_takes_the_farthest_row():
    """Spec 6.4."""
    x, segment = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.zeros(4, dtype=torch.int64)
    found = segment_kmeans(x, segment, 2, restarts=1, iterations=1, start=torch.tensor([[[0.0], [100.0]]]))
    assert found.centroid.flatten().tolist() == [1.0, 10.0]
    assert found.assignment.tolist() == [0, 0, 0, 1]


def test_equal_rows():
    """Spec 6.4."""
    found = segment_kmeans(torch.ones(6, 3), torch.zeros(6, dtype=torch.int64), 3)
    assert torch.equal(found.centroid, torch.ones(1, 3, 3))
    assert found.assignment.unique().tolist() == [0]
    soft = segment_kmeans(torch.ones(6, 3), torch.zeros(6, dtype=torch.int64), 3, assignment="sinkhorn")
    torch.testing.assert_close(soft.centroid, torch.ones(1, 3, 3))


def test_small_slides_are_ignored():
    """Spec 6.2, 6.22: exactly those below the minimum; empty ones too."""
    x, segment = slides([9, 8, 7, 3])
    found = segment_kmeans(x, segment, 2, num_segments=5, minimum=8)
    assert found.valid.tolist() == [True, True, False, False, False]
    assert bool((found.assignment[segment >= 2] == -1).all()) and bool(
        (found.assignment[segment < 2] >= 0).all()
    )
    unit = prototypes(found)
    torch.testing.assert_close(unit.norm(dim=-1), torch.tensor([1.0, 1, 0, 0, 0])[:, None].expand(5, 2))
    assert found.inertia[2:].tolist() == found.objective[2:].tolist() == [0.0] * 3


def test_no_rows():
    found = segment_kmeans(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 2, num_segments=2)
    assert found.centroid.shape == (2, 2, 3) and not found.valid.any()


def test_warm_start_goes_on():
    x, segment = slides()
    cold = segment_kmeans(x, segment, 3, iterations=100)
    warm = segment_kmeans(x, segment, 3, iterations=1, restarts=1, start=cold.centroid)
    torch.testing.assert_close(warm.centroid, cold.centroid)
    assert torch.equal(warm.assignment, cold.assignment)
    # beside other restarts, the start is one of several
    assert bool((segment_kmeans(x, segment, 3, start=cold.centroid).inertia <= cold.inertia + 1e-6).all())


def test_sinkhorn_balances():
    """A lone far group is no cluster of its own if it has too few rows."""
    x = torch.cat([torch.zeros(10, 1), torch.ones(2, 1)]) + 0.01 * torch.arange(12.0)[:, None]
    segment = torch.zeros(12, dtype=torch.int64)
    hard = segment_kmeans(x, segment, 2)
    soft = segment_kmeans(x, segment, 2, assignment="sinkhorn", temperature=0.01)
    assert sorted(hard.assignment.bincount().tolist()) == [2, 10]
    assert soft.assignment.bincount().tolist() == [6, 6]
    assert float(soft.inertia) > float(hard.inertia)
    warm = segment_kmeans(x, segment, 2, assignment="sinkhorn", temperature=100.0)
    torch.testing.assert_close(warm.centroid, x.mean().expand(1, 2, 1), rtol=0, atol=1e-3)  # all alike


@pytest.mark.parametrize("assignment", ["hard", "sinkhorn"])
def test_coherence_joins_neighbours(assignment):
    """A row that lies a little nearer to the other cluster stays with its neighbours."""
    x = torch.tensor([[0.0], [0.0], [0.55], [0.0], [1.0], [1.0], [1.0], [1.0]])
    segment = torch.zeros(8, dtype=torch.int64)
    edges = chain(segment)
    settings = {
        "assignment": assignment,
        "temperature": 0.02,
        "restarts": 1,
        "iterations": 1,
        "start": torch.tensor([[[0.0], [1.0]]]),
    }
    alone = segment_kmeans(x, segment, 2, **settings).assignment.tolist()
    held = segment_kmeans(x, segment, 2, edge_index=edges, coherence=0.2, **settings)
    assert held.assignment.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    if assignment == "hard":
        assert alone == [0, 0, 1, 0, 1, 1, 1, 1]
        assert float(held.objective) == pytest.approx(float(held.inertia) + 0.2, rel=1e-6)  # one edge is cut
    # both directions, repeated edges and loops are the same graph
    more = torch.cat([edges, edges.flip(0), edges, torch.tensor([[3], [3]])], dim=1)
    again = segment_kmeans(x, segment, 2, edge_index=more, coherence=0.2, **settings)
    assert torch.equal(again.centroid, held.centroid) and torch.equal(again.objective, held.objective)


@pytest.mark.parametrize("assignment", ["hard", "sinkhorn"])
def test_coherence_does_not_depend_on_order(assignment):
    x, segment = slides()
    edges = chain(segment)
    settings = {"assignment": assignment, "coherence": 0.05}
    found = segment_kmeans(x, segment, 3, edge_index=edges, **settings)
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    again = segment_kmeans(x[mixed], segment[mixed], 3, edge_index=mixed.argsort()[edges], **settings)
    assert torch.equal(again.centroid, found.centroid)
    assert torch.equal(again.assignment, found.assignment[mixed])
    cut = [float((a[edges[0]] != a[edges[1]]).float().mean()) for a in (found.assignment,)]
    plain = segment_kmeans(x, segment, 3, assignment=assignment).assignment
    assert cut[0] < float((plain[edges[0]] != plain[edges[1]]).float().mean())


def test_inputs_are_left_alone_and_no_global_seed_is_touched():
    x, segment = slides()
    x.requires_grad_()
    before, state = x.detach().clone(), torch.get_rng_state()
    start = torch.zeros(4, 2, 5)
    found = segment_kmeans(x, segment, 2, start=start)
    assert torch.equal(x.detach(), before) and not found.centroid.requires_grad
    assert bool((start == 0).all()) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1; found 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"minimum": 0}, "minimum must be at least 1"),
        ({"num_segments": 3}, "num_segments must be at least 4, one more than the largest segment; found 3"),
        ({"assignment": "soft"}, "assignment must be 'hard' or 'sinkhorn'; found 'soft'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"coherence": 0.1}, "edge_index is needed"),
        ({"coherence": -1.0}, "coherence must be 0 or more"),
        ({"edge_index": torch.tensor([[0], [59]])}, "rows of one segment"),
        ({"edge_index": torch.tensor([[0], [60]])}, "rows of x, 0 to 59"),
        ({"edge_index": torch.tensor([0, 1])}, r"edge_index must be \(2, E\)"),
        ({"start": torch.zeros(4, 3, 5)}, r"start must be finite centroids of shape \(4, 2, 5\)"),
        ({"x": torch.full((60, 5), torch.nan)}, "x must be finite"),
        ({"x": torch.zeros(60)}, r"x must be \(N, D\)"),
        ({"segment": torch.zeros(59, dtype=torch.int64)}, r"segment must be int64 of shape \(60,\)"),
        ({"segment": -torch.ones(60, dtype=torch.int64)}, "segment must be 0 or more; found -1"),
    ],
)
def test_refuses(change, message):
    x, segment = slides()
    with pytest.raises(ValueError, match=message):
        segment_kmeans(**{"x": x, "segment": segment, "k": 2, **change})
