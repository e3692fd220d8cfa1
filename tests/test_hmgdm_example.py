"""The example script of H-MGDM runs on a folder of slides, both stages, and leaves what it promises."""

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
SCRIPT = ROOT / "benchmarks" / "hmgdm" / "example.py"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


def test_it_runs_on_slides(tmp_path, monkeypatch, capsys):
    (tmp_path / "slides").mkdir()
    for name, side in (("a", 256), ("b", 208)):
        rng = np.random.default_rng(side)
        blots = rng.integers((150, 60, 120), (220, 130, 190), (side // 16, side // 16, 3))
        image = np.full((256, 256, 3), 245, np.uint8)
        image[:side, :side] = blots.repeat(16, axis=0).repeat(16, axis=1)
        tifffile.imwrite(tmp_path / "slides" / f"{name}.tiff", image, photometric="rgb", tile=(64, 64))
    out = tmp_path / "out"
    run(
        monkeypatch,
        "--data",
        tmp_path / "slides",
        "--out",
        out,
        "--mpp",
        0.5,
        "--epochs",
        1,
        "--crop-epochs",
        1,
    )

    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["hidden", "nodes", "edges"]
    assert all(0.3 < float(cell) < 5 for row in rows[1:] for cell in row[1:])
    graphs = [hg.load(out / "graphs" / f"{name}.safetensors") for name in "ab"]
    for graph in graphs:
        assert graph["tissue"].latent.dtype == torch.float16
        assert graph["tissue", "touches", "tissue"].edge_latent.shape[1] == 64
    vectors = hg.training.Embeddings.load(out / "vectors.safetensors")
    assert vectors.slide_ids == ["a", "b"]
    assert vectors.ptr.diff().tolist() == [graph["tissue"].num_nodes for graph in graphs]
    for name in ("clusters", "saliency"):
        assert matplotlib.image.imread(out / f"{name}.png")[..., :3].std() > 0.02
    stages = [hg.methods.load_method(out / stage / "method.safetensors") for stage in ("stage1", "stage2")]
    assert [type(method).__name__ for method in stages] == ["EntityAutoencoder", "HMGDM"]


def test_a_folder_without_slides_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--data", tmp_path, "--out", tmp_path / "out")
    assert "holds no slide" in capsys.readouterr().err


def test_it_says_how_to_run_it(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    assert f"python {SCRIPT.relative_to(ROOT)}" in capsys.readouterr().out
    assert "`hmgdm/example.py`" in (ROOT / "benchmarks" / "README.md").read_text()
