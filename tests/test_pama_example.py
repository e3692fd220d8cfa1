"""The example script of PAMA runs on slides and on patch features, and leaves what it promises."""

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
SCRIPT = ROOT / "benchmarks" / "pama" / "example.py"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


@pytest.fixture
def slides(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for name, side in (("a", 256), ("b", 208)):
        rng = np.random.default_rng(side)
        blots = rng.integers((150, 60, 120), (220, 130, 190), (side // 16, side // 16, 3))
        image = np.full((256, 256, 3), 245, np.uint8)
        image[:side, :side] = blots.repeat(16, axis=0).repeat(16, axis=1)
        tifffile.imwrite(folder / f"{name}.tiff", image, photometric="rgb", tile=(64, 64))
    return folder


def check(out, printed, names):
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [
        "PAMA",
        "the mean of the visible patches",
        "the nearest visible patch",
    ]
    assert all(0.1 < float(row[1]) < 9 for row in rows[1:])
    turned = next(line for line in printed.splitlines() if "turned by 90 degrees" in line)
    assert float(turned.rsplit(" ", 1)[1]) < 1e-5
    vectors = hg.training.Embeddings.load(out / "vectors.safetensors")
    assert vectors.slide_ids == names and vectors.graph.shape[1] == 128
    assert matplotlib.image.imread(out / "slide.png")[..., :3].std() > 0.02
    assert isinstance(hg.methods.load_method(out / "method.safetensors"), hg.methods.PAMA)


def test_it_runs_on_slides_and_on_their_features(slides, tmp_path, monkeypatch, capsys):
    pytest.importorskip("h5py")
    out = tmp_path / "out"
    words = "--epochs", 1, "--patch-um", 8, "--window-um", 64
    run(monkeypatch, "--data", slides, "--out", out, "--mpp", 0.5, *words)
    check(out, capsys.readouterr().out, ["a", "b"])
    (tmp_path / "features").mkdir()
    for name in "ab":
        graph = hg.graphs.layer(hg.load(out / "graphs" / f"{name}.safetensors"), "patch")
        hg.write_patch_features(graph, tmp_path / "features" / f"{name}.h5")
    other = tmp_path / "other"
    run(monkeypatch, "--data", tmp_path / "features", "--out", other, "--epochs", 1, "--window-um", 0)
    check(other, capsys.readouterr().out, ["a", "b"])


def test_a_folder_without_slides_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--data", tmp_path, "--out", tmp_path / "out")
    assert "holds no file that ends in" in capsys.readouterr().err


def test_it_says_how_to_run_it(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    assert f"python {SCRIPT.relative_to(ROOT)}" in capsys.readouterr().out
    assert "`pama/example.py`" in (ROOT / "benchmarks" / "README.md").read_text()
