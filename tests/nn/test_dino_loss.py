"""The loss of DINO against all its pairs written out, and its centre."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from histograph.nn import DINOLoss
from histograph.nn.dino_loss import cross_entropies


def rows(count, width=7, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def by_pairs(student, teacher, crops, center, tau_t, tau_s=0.1, views=2):
    """The definition: every pair of a global view and another crop, each with a softmax of its own."""
    q = student.view(crops, -1, student.shape[1])
    p = teacher.view(views, -1, student.shape[1])
    total, pairs = 0.0, 0
    for u in range(views):
        for v in range(crops):
            if u == v:
                continue
            wanted = ((p[u] - center) / tau_t).softmax(1)
            total = total - (wanted * (q[v] / tau_s).log_softmax(1)).sum(1).mean()
            pairs += 1
    return total / pairs, pairs


@pytest.mark.parametrize(("crops", "views"), [(2, 2), (4, 2), (10, 2), (5, 3), (2, 1)])
def test_equals_all_pairs_and_their_gradient(crops, views):
    loss = DINOLoss(7)
    loss.center.copy_(rows(1, seed=9))
    student, teacher = rows(crops * 3).requires_grad_(), rows(views * 3, seed=1)
    found, _ = loss(student, teacher, views, 0.05)
    (gradient,) = torch.autograd.grad(found, student)
    wanted, pairs = by_pairs(student, teacher, crops, loss.center, 0.05, views=views)
    (expected,) = torch.autograd.grad(wanted, student)
    assert pairs == views * crops - views
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_local_crops_may_change_places_and_global_ones_only_together():
    loss = DINOLoss(7)
    student, teacher = rows(5 * 3).view(5, 3, 7), rows(2 * 3, seed=1).view(2, 3, 7)

    def of(order, wanted):
        return float(loss(student[order].flatten(0, 1), teacher[wanted].flatten(0, 1))[0])

    assert of([0, 1, 4, 2, 3], [0, 1]) == pytest.approx(of([0, 1, 2, 3, 4], [0, 1]), rel=1e-5)
    assert of([1, 0, 2, 3, 4], [1, 0]) == pytest.approx(of([0, 1, 2, 3, 4], [0, 1]), rel=1e-5)
    assert of([1, 0, 2, 3, 4], [0, 1]) != pytest.approx(of([0, 1, 2, 3, 4], [0, 1]), rel=1e-3)


def test_no_gradient_reaches_the_teacher():
    loss, teacher = DINOLoss(7), rows(4, seed=1).requires_grad_()
    value, entropy = loss(rows(8).requires_grad_(), teacher)
    value.backward()
    assert teacher.grad is None and not entropy.requires_grad


def test_the_teachers_entropy_is_the_floor():
    loss, teacher = DINOLoss(7), rows(6, seed=1)
    for seed in range(5):
        value, entropy = loss(rows(9, seed=seed), teacher)
        assert value > entropy
    # both views alike, and a student that says exactly the same: the loss is the entropy
    teacher = teacher[:3].repeat(2, 1)
    value, entropy = loss(teacher.repeat(2, 1) / 0.04 * 0.1, teacher, temperature=0.04)
    assert float(value) == pytest.approx(float(entropy), abs=1e-5)


def test_constant_student_and_uniform_teacher_lose_the_logarithm_of_the_width():
    value, entropy = DINOLoss(50)(torch.full((6, 50), 0.3), torch.zeros(4, 50))
    assert float(value) == pytest.approx(math.log(50), abs=1e-5)
    assert float(entropy) == pytest.approx(math.log(50), abs=1e-5)


def test_a_lower_temperature_is_sharper():
    loss, student, teacher = DINOLoss(7), rows(6), rows(4, seed=1)
    entropies = [float(loss(student, teacher, temperature=tau)[1]) for tau in (0.04, 0.1, 1.0)]
    assert entropies == sorted(entropies) and entropies[0] < entropies[2]


def test_centre_starts_at_zero_and_moves_after_the_loss():
    loss, student, teacher = DINOLoss(7, center_momentum=0.75), rows(6), rows(4, seed=1)
    assert not loss.center.any()
    before = loss(student, teacher)[0]
    assert not loss.center.any()
    loss.update(teacher)
    torch.testing.assert_close(loss.center, 0.25 * teacher.mean(0, keepdim=True))
    assert loss(student, teacher)[0] != before
    again = DINOLoss(7)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.center, loss.center)


def test_a_constant_added_to_the_teacher_is_forgotten():
    student, teacher, constant = rows(6), rows(4, seed=1), 3 * rows(1, seed=2)
    plain, moved = DINOLoss(7), DINOLoss(7)
    for _ in range(300):
        plain.update(teacher)
        moved.update(teacher + constant)
    found = moved(student, teacher + constant)[0]
    assert float(found) == pytest.approx(float(plain(student, teacher)[0]), rel=1e-4)


def test_cross_entropies_of_all_pairs():
    p, z = rows(2 * 3).softmax(1).view(2, 3, 7), rows(4 * 3, seed=1)
    found = cross_entropies(p, z, 0.1)
    said = (z / 0.1).log_softmax(1).view(4, 3, 7)
    assert found.shape == (2, 4, 3)
    for t in range(2):
        for v in range(4):
            torch.testing.assert_close(found[t, v], -(p[t] * said[v]).sum(1), atol=1e-5, rtol=1e-5)


def test_gradients_of_cross_entropies_are_those_of_the_definition():
    p, z, weight = rows(2 * 3).softmax(1).view(2, 3, 7), rows(4 * 3, seed=1), rows(2 * 4, 3, seed=2)
    p.requires_grad_(), z.requires_grad_()
    found = torch.autograd.grad((cross_entropies(p, z, 0.1) * weight.view(2, 4, 3)).sum(), [p, z])
    said = (z / 0.1).log_softmax(1).view(4, 3, 7)
    pairs = -torch.einsum("tbk,vbk->tvb", p, said)
    wanted = torch.autograd.grad((pairs * weight.view(2, 4, 3)).sum(), [p, z])
    # a target is a distribution: of its gradient only what differs between prototypes counts
    for a, b in zip((found[0], found[1]), (wanted[0], wanted[1]), strict=True):
        torch.testing.assert_close(
            a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True), atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(found[1], wanted[1], atol=1e-5, rtol=1e-5)


def test_cross_entropies_of_far_logits_stay_finite_and_autocast_changes_nothing():
    p, z = rows(2 * 3).softmax(1).view(2, 3, 7), (1e4 * rows(4 * 3, seed=1)).requires_grad_()
    found = cross_entropies(p, z, 0.1)
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), z)[0].isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cross_entropies(p, z, 0.1), found)


def test_a_mean_stands_for_its_rows_and_no_rows_move_nothing():
    loss, teacher = DINOLoss(7), rows(4, seed=1)
    loss.center.copy_(rows(1, seed=3))
    torch.testing.assert_close(loss.moved(teacher), loss.moved(teacher.mean(0, keepdim=True), 4))
    assert torch.equal(loss.moved(teacher[:0]), loss.center)
    assert torch.equal(loss.moved(torch.full((1, 7), math.nan), 0), loss.center)


def _update(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loss = DINOLoss(7)
    loss.update(rows(4, seed=rank))
    loss.update(rows(2 + 3 * rank, seed=rank).mean(0, keepdim=True), 2 + 3 * rank)
    loss.update(rows(1), 0)
    torch.save(loss.center, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_centre_is_the_same_in_all_processes(tmp_path):
    multiprocessing.spawn(_update, (str(tmp_path),), nprocs=2)
    centers = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*centers)
    first = 0.1 * torch.cat([rows(4, seed=0), rows(4, seed=1)]).mean(0)
    second = torch.cat([rows(2, seed=0), rows(5, seed=1)]).mean(0)  # every row counts once
    torch.testing.assert_close(centers[0][0], 0.9 * first + 0.1 * second)


@pytest.mark.parametrize(
    ("student", "teacher", "views", "message"),
    [
        (6, 5, 2, "teacher B for each of 2 global views, found 6 and 5 rows"),
        (7, 4, 2, "found 7 and 4 rows"),
        (2, 4, 2, "found 2 and 4 rows"),
        (2, 2, 1, "at least two crops"),
        (4, 4, 0, "found 4 and 4 rows"),
    ],
)
def test_rows_that_do_not_fit(student, teacher, views, message):
    with pytest.raises(ValueError, match=message):
        DINOLoss(7)(rows(student), rows(teacher), views)


def test_messages():
    with pytest.raises(ValueError, match="must have 7 columns"):
        DINOLoss(7)(rows(4, 8), rows(4, 8))
    for argument, value in (("out_dim", 0), ("student_temperature", 0.0), ("center_momentum", 1.5)):
        with pytest.raises(ValueError, match=f"{argument} must be"):
            DINOLoss(**{"out_dim": 7} | {argument: value})
