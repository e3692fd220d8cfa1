"""The parity command finds the numbers of the released SLPD, a whole step among them; one wrong number fails."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "slpd"
STEP = "train_step_intra_inter_r1"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; give its exit status and what it printed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parity

    def run(folder):
        monkeypatch.setattr(sys, "argv", ["parity.py", "slpd", "--golden", str(folder)])
        try:
            parity.main()
            status = 0
        except SystemExit as done:
            status = done.code
        return status, capsys.readouterr().out

    return run


def test_released_numbers_are_found(run):
    """Spec 6.1, 6.5, 6.7, 6.9, 6.13, 6.14, 6.18."""
    status, printed = run(GOLDEN)
    assert status == 0, status
    checked = {tuple(line.strip("| ").split(" | ")[:2]) for line in printed.splitlines() if ".npz |" in line}
    step = [array for file, array in checked if file == f"{STEP}.npz"]
    for folder, count in (("grad_clipped/", 25), ("student1/", 26), ("teacher1/", 26), ("crop", 4)):
        assert sum(array.startswith(folder) for array in step) == count
    for number in range(3):
        for array in ("student", "teacher", "value", "center_after"):
            assert f"loss{number}/{array}" in step
    assert {"clusters/centroids", "neighbor_slide_inds", "neighbor_proto_inds"} <= set(step)
    for epoch in (0, 1, 5):
        for array in ("loss", "grad_student", "center1"):
            assert {(f"dino_loss_{number}.npz", f"ep{epoch}/{array}") for number in (0, 1)} <= checked
    assert {("dino_loss_0.npz", "ep5/loss_noskip"), ("vit4k_dinohead.npz", "proto_logits")} <= checked


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("dino_loss_0", "ep1/grad_student"),
        ("dino_loss_1", "ep5/loss_noskip"),
        (STEP, "loss0/value"),
        (STEP, "loss1/value"),
        (STEP, "loss2/value"),
        (STEP, "loss1/center_after"),
        (STEP, "loss2/center_after"),
        (STEP, "clusters/centroids"),
        (STEP, "crop2"),
        (STEP, "student1/head.mlp.4.bias"),
        (STEP, "teacher1/backbone.phi.0.weight"),
    ],
)
def test_one_wrong_number_fails(run, tmp_path, kind, array):
    with np.load(GOLDEN / f"{kind}.npz") as file:
        arrays = dict(file)
    value = np.array(arrays[array])
    value.flat[-1] += 1e-2 * max(1.0, abs(value).max())
    np.savez(tmp_path / f"{kind}.npz", **arrays | {array: value})
    status, _ = run(tmp_path)
    assert f"{kind}.npz: {array} is off by" in status


def test_an_array_of_an_unknown_name_is_told(run, tmp_path):
    shutil.copy(GOLDEN / "dino_loss_1.npz", tmp_path / "center_1.npz")
    status, _ = run(tmp_path)
    assert "center_1.npz: not checked" in status
