"""The example script of SLPD runs on made-up slides and on folders, and leaves what it promises; its costs."""

import runpy
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import tifffile
import torch

import histograph as hg

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "slpd" / "example.py"
SPEED = ROOT / "benchmarks" / "speed" / "slpd.py"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


def check(out, regions, slides):
    vectors = hg.training.Embeddings.load(out / "vectors.safetensors")
    assert vectors.graph.shape == (regions, 48)
    with np.load(out / "slides.npz") as file:
        assert file["z"].shape == (slides, 48) and len(file["slide_id"]) == slides
    assert matplotlib.image.imread(out / "slides.png")[..., :3].std() > 0.02
    method = hg.methods.load_method(out / "method.safetensors")
    assert isinstance(method, hg.methods.SLPD) and method.prototypes.regions == regions


def test_it_finds_where_tumour_was_put(tmp_path, monkeypatch, capsys):
    run(monkeypatch, SCRIPT, "--out", tmp_path, "--slides", 8, "--epochs", 32)
    printed = capsys.readouterr().out
    assert "8 slides, 192 regions of 4 x 4 patches at most" in printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["vectors of slides", "untrained", "SLPD"]
    (line,) = [line for line in printed.splitlines() if "adjusted Rand index" in line]
    assert float(line.rsplit(" ", 1)[1]) > 0.6
    check(tmp_path, 192, 8)


def test_it_runs_on_folders_of_slides(tmp_path, monkeypatch, capsys):
    for number in range(4):
        rng = np.random.default_rng(number)
        folder = tmp_path / "slides" / ("pale", "dark")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        low = 120 - 60 * (number % 2)
        blots = rng.integers((low, 40, 90), (low + 90, 130, 190), (32, 32, 3))
        image = blots.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        image[:, 240:] = 245  # the last column of regions has patches without tissue
        tifffile.imwrite(folder / f"{number}.tiff", image, photometric="rgb", tile=(64, 64))
    sizes = "--mpp", 0.5, "--patch-um", 8, "--side", 4
    run(monkeypatch, SCRIPT, "--data", tmp_path / "slides", "--out", tmp_path / "out", "--epochs", 2, *sizes)
    printed = capsys.readouterr().out
    assert "4 slides, 64 regions of 4 x 4 patches at most" in printed
    assert "Rand" not in printed and "probe" not in printed  # two slides of a class are too few
    check(tmp_path / "out", 64, 4)


def test_an_empty_folder_and_a_wrong_number_are_refused(tmp_path, monkeypatch, capsys):
    for arguments, message in (
        (("--data", tmp_path), "holds no file that ends in"),
        (("--slides", 12), "--slides must be a multiple of 8; found 12"),
    ):
        with pytest.raises(SystemExit):
            run(monkeypatch, SCRIPT, *arguments, "--out", tmp_path / "out")
        assert message in capsys.readouterr().err


def test_costs_of_training(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SPEED.parent))
    options = "--parts", "training", "--sizes", "tiny", "--trained", 3, "--repeats", 1
    run(monkeypatch, SPEED, *options, "--markdown", tmp_path / "table.md")
    printed = capsys.readouterr().out
    (row,) = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| tiny")]
    assert 0.2 < float(row[3].split(" ")[0]) < 20 and 0 < float(row[4].rstrip("%")) < 100
    assert (tmp_path / "table.md").read_text() == printed


def test_they_say_how_to_run_them(monkeypatch, capsys):
    for script in (SCRIPT, SPEED):
        with pytest.raises(SystemExit):
            run(monkeypatch, script, "--help")
        assert f"python {script.relative_to(ROOT)}" in capsys.readouterr().out
        name = script.relative_to(ROOT / "benchmarks")
        assert f"`{name}`" in (ROOT / "benchmarks" / "README.md").read_text()
