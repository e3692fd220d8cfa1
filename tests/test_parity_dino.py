"""The parity command finds the numbers of the released DINO, and one wrong number fails."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "dino"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; give its exit status and what it printed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parity

    def run(folder):
        monkeypatch.setattr(sys, "argv", ["parity.py", "dino", "--golden", str(folder)])
        try:
            parity.main()
            status = 0
        except SystemExit as done:
            status = done.code
        return status, capsys.readouterr().out

    return run


def test_released_numbers_are_found(run, tmp_path):
    for name in ("loss_l1", "loss_l2", "schedules", "head", "vit_v1"):
        shutil.copy(GOLDEN / f"{name}.npz", tmp_path)
    status, printed = run(tmp_path)
    assert status == 0, status
    checked = [tuple(line.split(" | ")[:2]) for line in printed.splitlines() if ".npz |" in line]
    arrays = [array for _, array in checked]
    for folder, count in (("grad/", 25), ("gradclip/", 25), ("student_after/", 26), ("teacher_after/", 26)):
        assert sum(array.startswith(folder) for array in arrays) == count
    assert {"pos_loc", "backbone_big", "last_attn_big", "intermediate0", "center_after", "h1_out"} <= set(
        arrays
    )
    assert {"lr", "wd", "mom", "teacher_temp_schedule"} <= set(arrays)
    for epochs, name in ((6, "loss_l1"), (5, "loss_l2")):
        for epoch in range(epochs):
            for array in ("loss", "grad_student", "center_before", "center_after"):
                assert (f"| {name}.npz", f"e{epoch}_{array}") in checked


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("loss_l1", "e1_loss"),
        ("loss_l1", "e5_grad_student"),
        ("loss_l2", "e4_center_before"),
        ("loss_l1", "teacher_temp_schedule"),
        ("schedules", "lr"),
        ("head", "h2_out"),
        ("vit_v1", "pos_loc"),
        ("vit_v1", "gradclip/head.mlp.4.bias"),
        ("vit_v1", "student_after/backbone.pos_embed"),
        ("vit_v1", "teacher_after/head.last_layer.weight_v"),
    ],
)
def test_one_wrong_number_fails(run, tmp_path, kind, array):
    with np.load(GOLDEN / f"{kind}.npz") as file:
        arrays = dict(file)
    value = arrays[array].copy()
    value.flat[-1] += 1e-2 * max(1.0, abs(value).max())
    np.savez(tmp_path / f"{kind}.npz", **arrays | {array: value})
    status, _ = run(tmp_path)
    assert f"{kind}.npz: {array} is off by" in status
