"""The example script of DINO runs on the bundled patches and on folders, and leaves what it promises."""

import runpy
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from PIL import Image

import histograph as hg

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "dino" / "example.py"
TINY = "--epochs", 1, "--dim", 12, "--depth", 1, "--size-px", 16, "--batch-size", 16


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


def check(out, patches):
    vectors = hg.training.Embeddings.load(out / "vectors.safetensors")
    assert vectors.graph.shape == (patches, 12)
    assert matplotlib.image.imread(out / "patches.png")[..., :3].std() > 0.02
    assert isinstance(hg.methods.load_method(out / "method.safetensors"), hg.methods.DINO)


def test_it_runs_on_folders_of_classes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for kind in ("light", "dark"):
        (tmp_path / kind).mkdir()
        for number in range(12):
            image = rng.integers(*((150, 250) if kind == "light" else (30, 150)), (20, 24, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / kind / f"{number}.png")
    run(monkeypatch, "--data", tmp_path, "--out", tmp_path / "out", *TINY)
    printed = capsys.readouterr().out
    assert "24 patches of 16 x 16 pixels, 2 classes" in printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["vectors", "untrained", "DINO"]
    assert all(float(cell.split(" ")[0]) > 0.9 for row in rows[1:] for cell in row[1:])
    check(tmp_path / "out", 24)


def test_it_runs_on_the_bundled_patches(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--out", tmp_path, *TINY)
    assert "400 patches of 16 x 16 pixels, 2 classes" in capsys.readouterr().out
    check(tmp_path, 400)


def test_a_folder_without_images_and_a_wrong_size_are_refused(tmp_path, monkeypatch, capsys):
    for arguments, message in (
        (("--data", tmp_path), "holds no file that ends in"),
        (("--size-px", 20), "--size-px must be a multiple of 16; found 20"),
    ):
        with pytest.raises(SystemExit):
            run(monkeypatch, *arguments, "--out", tmp_path / "out")
        assert message in capsys.readouterr().err


SPEED = ROOT / "benchmarks" / "speed" / "dino.py"


def measure(monkeypatch, *arguments):
    monkeypatch.syspath_prepend(str(SPEED.parent))
    monkeypatch.setattr(sys, "argv", [str(SPEED), *map(str, arguments)])
    runpy.run_path(str(SPEED), run_name="__main__")


def test_speed_compares_forms_that_agree(tmp_path, monkeypatch, capsys):
    measure(monkeypatch, "--sizes", "tiny", "--repeats", 1, "--markdown", tmp_path / "table.md")
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| tiny")]
    assert [row[2] for row in rows] == ["plain", "plain but for attention", "ours"]
    assert rows[0][3].startswith("1.00 ") and float(rows[2][4]) < 1.2
    assert (tmp_path / "table.md").read_text() == printed


def test_speed_ends_where_forms_disagree(monkeypatch):
    """With a momentum that the plain form does not have, the teachers differ."""
    monkeypatch.setattr(hg.methods.DINO, "after_step", lambda self, step: None)
    with pytest.raises(SystemExit, match="ours and plain disagree"):
        measure(monkeypatch, "--sizes", "tiny", "--repeats", 1)


def test_they_say_how_to_run_them(monkeypatch, capsys):
    for script in (SCRIPT, SPEED):
        with pytest.raises(SystemExit):
            run(monkeypatch, "--help") if script is SCRIPT else measure(monkeypatch, "--help")
        assert f"python {script.relative_to(ROOT)}" in capsys.readouterr().out
        name = script.relative_to(ROOT / "benchmarks")
        assert f"`{name}`" in (ROOT / "benchmarks" / "README.md").read_text()
