"""Similarity of prototype sets and nearest slides: golden arrays, all permutations, scipy."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from histograph.nn import nearest_slides, set_similarity

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slpd"


def sets(count=20, k=4, dim=6, seed=0):
    return normalize(torch.randn(count, k, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def everyone(p):
    return torch.ones(len(p), dtype=torch.bool)


def optimal(p, q):
    """Similarity and matching of two sets, by scipy."""
    gain = (p.double() @ q.double().T).numpy()
    row, column = linear_sum_assignment(gain, maximize=True)
    return gain[row, column].sum(), column


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_equals_all_permutations(k):
    """Spec 6.5."""
    p, q = sets(7, k), sets(5, k, seed=1)
    best = torch.stack(
        [torch.einsum("skd,tkd->st", p, q[:, list(order)]) for order in permutations(range(k))]
    ).amax(0)
    torch.testing.assert_close(set_similarity(p, q), best, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [8, 13])
@pytest.mark.parametrize("chunk", [3, 128])
def test_equals_scipy(k, chunk):
    """Spec 6.5, 6.8: more prototypes than permutations can be tried for, in pieces and as a whole."""
    p, q = sets(9, k), sets(8, k, seed=1)
    want = torch.tensor([[optimal(a, b)[0] for b in q] for a in p]).float()
    torch.testing.assert_close(set_similarity(p, q, chunk), want, rtol=0, atol=1e-5)


def test_is_a_similarity():
    """Spec 6.5: symmetric, K with itself and never above, the same for any order of prototypes, and the distance."""
    p = sets()
    similarity = set_similarity(p, p)
    torch.testing.assert_close(similarity, similarity.T)
    torch.testing.assert_close(similarity.diagonal(), torch.full((20,), 4.0))
    assert bool((similarity <= 4 + 1e-5).all())
    torch.testing.assert_close(set_similarity(p[:, [2, 0, 3, 1]], p), similarity)
    apart = [
        min(float((p[0] - p[7][list(o)]).square().sum()) for o in permutations(range(4))),
        min(float((p[3] - p[5][list(o)]).square().sum()) for o in permutations(range(4))),
    ]
    assert float(similarity[0, 7]) == pytest.approx(4 - apart[0] / 2, abs=1e-5)
    assert float(similarity[3, 5]) == pytest.approx(4 - apart[1] / 2, abs=1e-5)


def test_ties_and_extreme_values():
    gain = torch.tensor([[0.0, 0.0, 0.0], [1e4, 1e4, 1e4], [-1e4, 0.0, 1e4]])
    p = torch.eye(3)[None]
    assert float(set_similarity(p, gain.T[None].contiguous())) == 2e4
    assert float(set_similarity(torch.zeros(1, 3, 2), sets(1, 3, 2))) == 0.0


@pytest.mark.parametrize("case", ["neighbours_0", "neighbours_1"])
def test_golden(case):
    """Spec 6.5, 6.7."""
    golden = np.load(GOLDEN / f"{case}.npz")
    p, r = torch.from_numpy(golden["centroids"]), int(golden["num_neighbours"])
    valid = everyone(p)
    valid[golden["ignored"]] = False
    kept = valid.numpy()
    similarity = set_similarity(p, p, chunk=5).numpy()
    np.testing.assert_allclose(similarity, golden["hungarian_sim"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(similarity, golden["sim_perms"].max(-1), rtol=0, atol=1e-5)
    pairs = np.ix_(kept, kept)
    apart = p.shape[1] - golden["set_sqdist"] / 2
    np.testing.assert_allclose(similarity[pairs], apart[pairs], rtol=0, atol=1e-5)
    for match, name in (("nearest", "argmax"), ("bijective", "bijective")):
        found = nearest_slides(p, valid, r, chunk=4, match=match)
        np.testing.assert_array_equal(found.slide.numpy()[kept], golden["neighbor_slide_inds"][kept])
        matching = found.matching.numpy().transpose(0, 2, 1)
        np.testing.assert_array_equal(matching[kept], golden[f"neighbor_proto_inds_{name}"][kept])
        assert (found.slide.numpy()[~kept] == -1).all() and (matching[~kept] == -1).all()


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("chunk", [7, 128])
def test_nearest_equal_brute_force(k, chunk):
    """Spec 6.6, 6.8: pruning changes nothing, with ignored slides and patients of several slides."""
    p = sets(50, k, dim=5)
    p[25:] = normalize(p[:25] + 0.3 * p[25:], dim=-1)  # pairs that are alike
    valid, patients = everyone(p), torch.arange(50) // 3
    valid[[4, 30]] = False
    p[~valid] = 0
    found = nearest_slides(p, valid, 6, patients, chunk)
    similarity = set_similarity(p, p)
    similarity[patients[:, None] == patients] = -torch.inf
    similarity[:, ~valid] = -torch.inf
    best = similarity.topk(6)
    torch.testing.assert_close(found.similarity[valid], best.values[valid], rtol=0, atol=1e-5)
    assert torch.equal(found.slide[valid], best.indices[valid])
    for s in valid.nonzero().flatten()[::5].tolist():
        for q, t in enumerate(found.slide[s].tolist()):
            assert found.matching[s, q].tolist() == optimal(p[s], p[t])[1].tolist()
            assert sorted(found.matching[s, q].tolist()) == list(range(k))


def test_answer_does_not_depend_on_chunk_or_threads():
    p = sets(60, 3)
    one = nearest_slides(p, everyone(p), 4, chunk=200)
    torch.set_num_threads(3)
    try:
        for chunk in (1, 9, 60):
            again = nearest_slides(p, everyone(p), 4, chunk=chunk)
            assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    finally:
        torch.set_num_threads(1)


def test_an_exact_copy_is_a_neighbour_and_self_is_not():
    """Spec 6.6; equal copies come in the order of their numbers."""
    p = sets(6)
    p = torch.cat([p, p[[2, 2]], p[2:3, [3, 1, 0, 2]]])
    found = nearest_slides(p, everyone(p), 3, chunk=2)
    assert found.slide[2].tolist() == [6, 7, 8] and found.slide[7].tolist() == [2, 6, 8]
    torch.testing.assert_close(found.similarity[2], torch.full((3,), 4.0))
    assert found.matching[2, 2].tolist() == [2, 1, 3, 0]
    patients = torch.arange(9)
    patients[[6, 7, 8]] = 2
    assert not set(nearest_slides(p, everyone(p), 3, patients).slide[2].tolist()) & {2, 6, 7, 8}


def test_fewer_slides_than_neighbours():
    p = sets(3)
    found = nearest_slides(p, torch.tensor([True, False, True]), 2)
    assert found.slide.tolist() == [[2, -1], [-1, -1], [0, -1]]
    assert found.similarity[0, 1] == -torch.inf and bool((found.matching[:, 1] == -1).all())
    assert bool((nearest_slides(p, ~everyone(p)).slide == -1).all())
    assert (
        nearest_slides(p, everyone(p), patients=torch.zeros(3, dtype=torch.int64)).slide.tolist()
        == [[-1]] * 3
    )
    assert nearest_slides(p[:0], everyone(p[:0])).slide.shape == (0, 1)


def test_lengths_are_free():
    """Bounds hold for prototypes of any length."""
    p = 1e3 * sets(40, 3) * torch.rand(40, 3, 1, generator=torch.Generator().manual_seed(4))
    similarity = set_similarity(p, p).fill_diagonal_(-torch.inf)
    assert torch.equal(nearest_slides(p, everyone(p)).slide, similarity.argmax(1, keepdim=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": torch.zeros(3, 2)}, r"p must be \(S, K, D\)"),
        ({"p": torch.full((20, 4, 6), torch.nan)}, "p must be finite"),
        ({"valid": torch.ones(19, dtype=torch.bool)}, r"valid must be bool of shape \(20,\)"),
        ({"valid": torch.ones(20)}, "valid must be bool"),
        ({"patients": torch.zeros(20)}, r"patients must be int64 of shape \(20,\)"),
        ({"r": 0}, "r must be at least 1"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"match": "argmax"}, "match must be 'bijective' or 'nearest'; found 'argmax'"),
    ],
)
def test_refuses(change, message):
    p = sets()
    with pytest.raises(ValueError, match=message):
        nearest_slides(**{"p": p, "valid": everyone(p), **change})


def test_similarity_refuses_other_shapes():
    with pytest.raises(ValueError, match="as many prototypes of the same width"):
        set_similarity(sets(), sets(k=3))
