"""The parity command finds the released numbers, and nothing slips through it."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "hmgdm"
FILES = [*sorted((GOLDEN / "released").glob("*.npz")), GOLDEN / "analytic_ddpm.npz", GOLDEN / "cox_loss.npz"]
PAMA_FILES = sorted((GOLDEN.parent / "pama").glob("*.npz"))


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
    for path in [*FILES, *PAMA_FILES]:
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


def test_released_numbers_of_pama_are_found(run, tmp_path):
    assert {path.stem for path in PAMA_FILES} == {"case_b_padded", "rotation"}
    status, printed = run("pama", "--golden", folder_with(tmp_path, "case_b_padded", "rotation"))
    assert status == 0, status
    checked = [line.split(" | ")[1] for line in printed.out.splitlines() if ".npz |" in line]
    for mode in ("eval", "train"):
        assert sum(array.startswith(f"{mode}/grad/") for array in checked) == 69
        assert {f"{mode}/loss", f"{mode}/dec1/kro_out", f"{mode}/enc0/paca/k"} <= set(checked)
    assert {"rd", "polar", "token_mask", "slide1/kcent", "cls/logits", "kro_noself3"} <= set(checked)
    inputs = [line for line in printed.out.splitlines() if line.startswith("- rotation.npz")]
    assert inputs == ["- rotation.npz: feat, kidx, pos0, pos1, pos2, pos3, score"]


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("case_b_padded", "slide0/kidx"),
        ("case_b_padded", "rd"),
        ("case_b_padded", "kernel_mask"),
        ("case_b_padded", "eval/loss"),
        ("case_b_padded", "train/dec1/attn_x2k"),
        ("case_b_padded", "train/grad/mask_token"),
        ("case_b_padded", "cls/enc1/kro_out"),
        ("rotation", "bins_clamp2"),
        ("rotation", "kro_noself1"),
    ],
)
def test_one_wrong_number_of_pama_fails(run, tmp_path, kind, array):
    folder = folder_with(tmp_path, kind, **{array: lambda arrays: arrays[array] + 1})
    status, _ = run("pama", "--golden", folder)
    assert f"{kind}.npz: {array} is off by" in status


def test_normalised_targets_of_pama_are_recognised(run, tmp_path):
    """A file made with the other target is recognised by its losses, and one array of the wrong kind is found."""
    import parity_pama
    import torch

    with np.load(next(path for path in PAMA_FILES if path.stem == "case_b_padded")) as file:
        arrays = dict(file)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    weights = {name[3:]: value for name, value in tensors.items() if name.startswith("sd/")}
    settings = {"mask_ratio": 0.75, "anchor_dropout": 0.25, "normalise_target": True}
    network = parity_pama.load_released(weights, **settings).released
    for mode in ("eval", "train"):
        arrays |= parity_pama.numbers(
            {
                name: value.clone().double() if name.endswith("/loss") else value.clone()
                for name, value in parity_pama.step(network, tensors, mode).items()
            }
        )
    raw = arrays["eval/grad/mask_token"]
    np.savez(tmp_path / "case_c.npz", **arrays)
    assert run("pama", "--golden", tmp_path)[0] == 0
    np.savez(tmp_path / "case_c.npz", **arrays | {"eval/grad/mask_token": 2 * raw})
    status, _ = run("pama", "--golden", tmp_path)
    assert "case_c.npz: eval/grad/mask_token is off by" in status


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
