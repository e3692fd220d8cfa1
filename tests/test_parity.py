"""The parity command finds the released numbers, and nothing slips through it."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "hmgdm"
FILES = [*sorted((GOLDEN / "released").glob("*.npz")), GOLDEN / "analytic_ddpm.npz", GOLDEN / "cox_loss.npz"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; give its exit status and what it printed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parity

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["parity.py", *map(str, arguments)])
        try:
            parity.main()
            status = 0
        except SystemExit as done:
            status = done.code
        return status, capsys.readouterr()

    return run


def folder_with(tmp_path, *names, **changes):
    """Copy files, with arrays changed, added or left out (None)."""
    for path in FILES:
        if path.stem not in names:
            continue
        with np.load(path) as file:
            arrays = dict(file)
        arrays |= {name: value(arrays) for name, value in changes.items()}
        np.savez(tmp_path / path.name, **{name: value for name, value in arrays.items() if value is not None})
    return tmp_path


def test_released_numbers_are_found(run, tmp_path):
    for path in FILES:
        shutil.copy(path, tmp_path)
    status, printed = run("hmgdm", "--golden", tmp_path)
    assert status == 0, status
    checked = {tuple(line.split(" | ")[:2]) for line in printed.out.splitlines() if ".npz |" in line}
    for path in FILES:
        assert (f"| {path.name}") in {name for name, _ in checked}
    # weights whose gradients were recorded, all compared
    assert sum(array.startswith("grad/") for _, array in checked) == 176


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("rotary_s2", "x_rot"),
        ("rotary_s2", "node_counts"),
        ("attention_s2", "coatt_mask_true_is_blocked"),
        ("attention_s2", "joint_out_nomask"),
        ("qsample_s2", "step_target_pos"),
        ("qsample_s2", "direct_target_pos"),
        ("timestep_embedding", "emb_d7"),
        ("cox_loss", "loss_4"),
        ("model_s2", "grad/dec_blks.0.0.in_proj_weight"),
        ("representation_s2", "sample_x_t_targets"),
    ],
)
def test_one_wrong_number_fails(run, tmp_path, kind, array):
    def corrupted(arrays):
        value = arrays[array].copy()
        value.flat[0] = ~value.flat[0] if value.dtype == bool else value.flat[0] + 1
        return value

    status, _ = run("hmgdm", "--golden", folder_with(tmp_path, kind, **{array: corrupted}))
    assert f"{kind}.npz: {array} is off by" in status


def test_wrong_shapes_and_nan_fail(run, tmp_path):
    folder_with(
        tmp_path,
        "timestep_embedding",
        emb_d4=lambda a: a["emb_d4"][:2],
        emb_d7=lambda a: a["emb_d7"] * np.nan,
    )
    status, _ = run("hmgdm", "--golden", tmp_path)
    assert "emb_d4 is off by inf" in status and "emb_d7 is off by inf" in status


def test_what_is_not_checked_fails(run, tmp_path):
    folder = folder_with(tmp_path, "rotary_s2", surprise=lambda a: np.zeros(2))
    np.savez(folder / "mystery_s1.npz", x=np.zeros(1))
    status, _ = run("hmgdm", "--golden", folder)
    assert "rotary_s2.npz: surprise is not checked" in status
    assert "mystery_s1.npz: not checked, its kind is not among schedules" in status


def test_tolerance_is_kept(run, tmp_path):
    folder = folder_with(tmp_path, "timestep_embedding", emb_d4=lambda a: a["emb_d4"] + np.float32(1e-3))
    assert "emb_d4" in run("hmgdm", "--golden", folder)[0]
    assert run("hmgdm", "--golden", folder, "--tolerance", "1e-2")[0] == 0


def test_inputs_are_listed(run, tmp_path):
    _, printed = run("hmgdm", "--golden", folder_with(tmp_path, "rotary_s2"))
    assert "- rotary_s2.npz: batch, batch_edge, edge_attr, theta, x\n" in printed.out


def test_messages(run, tmp_path):
    status, printed = run("nothing", "--golden", tmp_path)
    assert status == 2 and "METHOD must be one of hmgdm" in printed.err
    status, printed = run("hmgdm", "--golden", tmp_path / "nowhere")
    assert status == 2 and "nowhere" in printed.err
    assert "has no .npz files" in run("hmgdm", "--golden", tmp_path)[0]
