"""The example script of GCMAE runs on bundled and on other pictures, and its cost benchmark finds both forms equal."""

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
SCRIPT = ROOT / "benchmarks" / "gcmae" / "example.py"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


def check(out, printed, count):
    assert isinstance(hg.methods.load_method(out / "method.safetensors"), hg.methods.GCMAE)
    assert hg.training.Embeddings.load(out / "vectors.safetensors").graph.shape == (count, 24)
    rows = [line.strip("| ").split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    assert rows == ["vectors", "untrained", "GCMAE"]


def test_it_runs_on_the_bundled_patches(tmp_path, monkeypatch, capsys):
    words = "--epochs", 1, "--dim", 24, "--depth", 1, "--patch-size", 24
    run(monkeypatch, SCRIPT, "--out", tmp_path, *words)
    check(tmp_path, capsys.readouterr().out, 400)
    assert matplotlib.image.imread(tmp_path / "restored.png")[..., :3].std() > 0.02


def test_it_runs_on_a_folder_of_classes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name, mean in (("fat", 200), ("stroma", 90)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(rng.normal(mean, 20, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    words = "--epochs", 1, "--dim", 24, "--depth", 1, "--size", 16, "--patch-size", 8
    run(monkeypatch, SCRIPT, "--data", tmp_path / "data", "--out", tmp_path / "out", *words)
    printed = capsys.readouterr().out
    check(tmp_path / "out", printed, 20)
    assert "No picture: patches are 24 x 24 pixels, give --size." in printed


def test_an_empty_folder_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, SCRIPT, "--data", tmp_path, "--out", tmp_path / "out")
    assert "holds no file that ends in" in capsys.readouterr().err


def test_cost_of_the_contrast(tmp_path, monkeypatch, capsys):
    script = ROOT / "benchmarks" / "speed" / "gcmae.py"
    monkeypatch.syspath_prepend(str(script.parent))
    words = "--batch", 64, "--negatives", 256, "--rows", 600, "--dim", 64, "--repeats", 1
    run(monkeypatch, script, *words, "--markdown", tmp_path / "table.md")
    rows = [line.split(" | ") for line in (tmp_path / "table.md").read_text().splitlines() if "1/" in line]
    shares = {row[0].strip("| "): float(row[2].removeprefix("1/")) for row in rows}
    assert shares["gather"] == 1 and len(shares) == 4
    assert min(shares["ours, estimation"], shares["ours, softmax (default)"]) > 5


def test_they_say_how_to_run_them(monkeypatch, capsys):
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for script in (SCRIPT, ROOT / "benchmarks" / "speed" / "gcmae.py"):
        monkeypatch.syspath_prepend(str(script.parent))
        with pytest.raises(SystemExit):
            run(monkeypatch, script, "--help")
        assert f"python {script.relative_to(ROOT)}" in capsys.readouterr().out
        assert f"`{script.relative_to(ROOT / 'benchmarks')}`" in text
