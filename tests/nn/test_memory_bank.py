"""The memory bank: against brute force, in edge cases, and the same in two processes."""

import math
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize

from histograph.nn import Bank, MemoryBank

T = 0.07


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def bank_of(rows=30, dim=6, **settings):
    torch.manual_seed(0)
    return MemoryBank(dim, rows, **settings)


def brute(v, row, memory, drawn, contrast, z=None):
    """The formulas with loops, in double precision."""
    v, memory, total = v.double(), memory.double(), 0.0
    pairs = [
        [(float((v[i] @ memory[j] / T).exp()), int(j)) for j in drawn if j != row[i]] for i in range(len(v))
    ]
    values = [value for pair in pairs for value, _ in pair]
    z = z or sum(values) / len(values) * len(memory)
    for i, negatives in enumerate(pairs):
        own = float((v[i] @ memory[row[i]] / T).exp())
        if contrast == "softmax":
            total -= math.log(own / (own + sum(value for value, _ in negatives)))
            continue
        a = len(negatives) / (len(memory) - 1)
        total -= math.log(own / z / (own / z + a))
        total -= sum(math.log(a / (value / z + a)) for value, _ in negatives)
    return total / len(v), z


@pytest.mark.parametrize("contrast", ["nce", "softmax"])
@pytest.mark.parametrize("whole", [False, True])
def test_loss_equals_brute_force(contrast, whole):
    """Spec 6.10, 6.14: own rows are no negatives, a row that was drawn twice counts twice."""
    bank = bank_of(contrast=contrast, negatives=None)
    v, row = unit(4, 6, seed=1), torch.tensor([3, 0, 29, 3])
    drawn = None if whole else torch.tensor([0, 5, 7, 7, 29, 12])
    expected, z = brute(v, row, bank.memory, range(30) if whole else drawn.tolist(), contrast)
    assert float(bank(v, row, drawn)) == pytest.approx(float(expected), rel=1e-6)
    if contrast == "nce":
        assert float(bank.log_z.exp()) == pytest.approx(z, rel=1e-6)


def test_z_is_set_once_and_kept_in_the_state():
    """Spec 6.10, 6.19."""
    bank = bank_of(contrast="nce", negatives=8)
    bank(unit(4, 6), torch.arange(4))
    first = bank.log_z.clone()
    bank(unit(4, 6, seed=5), torch.arange(4))
    assert torch.equal(bank.log_z, first)
    other = MemoryBank(6, contrast="nce", negatives=8)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.log_z, first) and torch.equal(other.memory, bank.memory)
    drawn = torch.tensor([8, 9])
    assert torch.equal(other(unit(3, 6), torch.arange(3), drawn), bank(unit(3, 6), torch.arange(3), drawn))
    bank.start(7)
    assert bank.log_z.isnan() and bank.rows == 7


@pytest.mark.parametrize("contrast", ["nce", "softmax"])
def test_gradient_reaches_vectors_and_not_the_bank(contrast):
    """Spec 6.11: central differences in double precision of the formula."""
    bank = bank_of(contrast=contrast, negatives=None)
    row, drawn = torch.tensor([1, 2]), list(range(30))
    v = unit(2, 6, seed=2).requires_grad_()
    bank(v, row).backward()
    assert not bank.memory.requires_grad
    z = None if contrast == "softmax" else float(bank.log_z.double().exp())
    for i, k in ((0, 0), (1, 4)):
        step = torch.zeros(2, 6, dtype=torch.double)
        step[i, k] = 1e-5
        up, down = (
            brute(v.detach() + sign * step, row, bank.memory, drawn, contrast, z)[0] for sign in (1, -1)
        )
        assert float(v.grad[i, k]) == pytest.approx(float(up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_only_seen_rows_change_and_have_length_one():
    """Spec 6.8, 6.9: three steps by hand."""
    bank = bank_of(momentum=0.7)
    assert torch.allclose(bank.memory.norm(dim=1), torch.ones(30))
    for seed in range(3):
        before, row, v = bank.memory.clone(), torch.tensor([4, 11, 20]), unit(3, 6, seed=seed)
        bank(v, row)
        assert torch.equal(bank.memory, before)  # the loss changes nothing
        bank.update(row, v)
        kept = torch.ones(30, dtype=torch.bool)
        kept[row] = False
        assert torch.equal(bank.memory[kept], before[kept])
        expected = 0.7 * before[row] + 0.3 * v
        assert torch.allclose(bank.memory[row], expected / expected.norm(dim=1, keepdim=True), atol=1e-6)


def test_a_row_that_is_seen_twice_takes_the_mean():
    """Spec 6.14."""
    one, two = bank_of(), bank_of()
    v = unit(3, 6)
    one.update(torch.tensor([5, 5, 2]), v)
    mean = 0.5 * two.memory[5] + 0.5 * v[:2].mean(0)
    assert torch.allclose(one.memory[5], mean / mean.norm(), atol=1e-6)
    two.update(torch.tensor([2, 5, 5]), v[[2, 1, 0]])
    assert torch.allclose(one.memory, two.memory, atol=1e-6)


@pytest.mark.parametrize("contrast", ["nce", "softmax"])
def test_more_negatives_than_rows_and_a_single_row(contrast):
    """Spec 6.14."""
    v, row = unit(4, 6), torch.arange(4)
    many, every = (bank_of(contrast=contrast, negatives=number) for number in (8192, None))
    assert torch.equal(many(v, row), every(v, row))
    single = bank_of(rows=1, contrast=contrast)
    leaf = v[:1].clone().requires_grad_()
    loss = single(leaf, torch.tensor([0]))
    loss.backward()
    assert float(loss.detach()) == 0 and not leaf.grad.any() and single.log_z.isnan()
    single.update(torch.tensor([0]), v[:1])
    assert torch.allclose(single.memory.norm(), torch.ones(()))


def test_same_seed_same_negatives():
    """Spec 6.18."""
    bank = bank_of(rows=500, negatives=4)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(float(bank(unit(2, 6), torch.arange(2))))
    assert found[0] == found[1] != found[2]


def test_half_precision_storage():
    full, half = bank_of(), bank_of(storage="float16")
    assert half.memory.dtype == torch.float16
    v, row = unit(4, 6), torch.arange(4)
    assert float(half(v, row)) == pytest.approx(float(full(v, row)), rel=1e-2)
    for bank in (full, half):
        bank.update(row, v)
    assert half.memory.dtype == torch.float16
    assert torch.allclose(half.memory.float(), full.memory, atol=2e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert full(v, row).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; found 1.0"),
        ({"negatives": 0}, "negatives must be at least 1, or None for all; found 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"contrast": "triplet"}, "contrast must be one of softmax, nce"),
        ({"storage": "int8"}, "storage must be one of float32, float16"),
        ({"rows": -1}, "rows must be at least 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MemoryBank(**{"dim": 4, **settings})


def test_bad_rows():
    bank = bank_of()
    with pytest.raises(ValueError, match="below 30, the rows of the bank; found 1 to 30"):
        bank(unit(2, 6), torch.tensor([1, 30]))
    with pytest.raises(ValueError, match=r"row must have shape \(2,\) and type int64"):
        bank(unit(2, 6), torch.tensor([1.0, 2.0]))
    assert Bank(3).rows == 0


WORKER = """
import sys, torch
from torch import distributed
from torch.nn.functional import normalize
from histograph.nn import MemoryBank

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)  # as in training, processes draw differently
bank = MemoryBank(6, contrast="nce", negatives=5)
bank.start(12)
first = bank.memory.clone()
row = (torch.tensor([1, 2, 7]), torch.tensor([7, 4]))[rank]  # row 7 in both, and batches of different size
v = normalize(torch.randn(len(row), 6), dim=1)
loss = bank(v, row)
bank.update(row, v)
torch.save({"first": first, "memory": bank.memory, "log_z": bank.log_z, "row": row, "v": v}, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_hold_the_same_bank(tmp_path):
    """Spec 6.21."""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for job in jobs:
        _, stderr = job.communicate(timeout=120)
        assert job.returncode == 0, stderr
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("first", "memory", "log_z"):
        assert torch.equal(one[name], two[name]), name
    alone = MemoryBank(6, rows=12)
    alone.memory.copy_(one["first"])
    alone.update(torch.cat([one["row"], two["row"]]), torch.cat([one["v"], two["v"]]))
    assert torch.allclose(alone.memory, one["memory"], atol=1e-6)
    assert not torch.equal(one["memory"], one["first"])
