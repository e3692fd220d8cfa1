"""What README.md shows runs as it stands, on the bundled slide."""

import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

import histograph as hg

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks() -> list[str]:
    """Give what README shows in Python."""
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_slide_to_vectors_runs(tmp_path, monkeypatch):
    before, probe = blocks()[0].replace("epochs=50", "epochs=1, progress=False").split("hg.evaluation", 1)
    shutil.copy(hg.bundled.slide_path(), tmp_path / "slide.svs")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    exec(before, names)
    count = len(names["z"])
    names["y"], names["patients"] = np.arange(count) % 2, np.arange(count) // 2
    exec("result = hg.evaluation" + probe, names)
    assert (tmp_path / "slide.safetensors").exists() and (tmp_path / "runs/hmgdm/method.safetensors").exists()
    assert set(names["result"].metrics) == {"accuracy", "f1", "auc"}
    matplotlib.pyplot.close("all")


def test_patch_features_to_slide_vectors_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slide = hg.build_graph(hg.bundled.slide_path(), {"patch": {"size_um": 64}}, mask=None)
    files = [hg.write_patch_features(slide, f"{name}.h5", layout="trident") for name in "abcd"]
    code = (
        blocks()[1]
        .replace("epochs=100", "epochs=1, progress=False")
        .replace(".shape[1])", ".shape[1], **small)")
    )
    code = code.replace("groups=patients)", "groups=patients, epochs=1, progress=False)")
    small = {
        "hidden_dim": 16,
        "layers": 2,
        "heads": 2,
        "decoder_dim": 16,
        "decoder_layers": 1,
        "patches_per_anchor": 8,
    }
    patients = np.arange(4)
    names: dict = {"hg": hg, "files": files, "y": patients % 2, "patients": patients, "small": small}
    exec(code, names)
    assert names["z"].graph.shape == (4, 16) and len(names["tuned"].predict(names["slides"])) == 4


def test_patch_encoders_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(hg.bundled.slide_path(), tmp_path / "slide.svs")
    (tmp_path / "patches").mkdir()
    for i, image in enumerate(hg.bundled.patches().images[:8]):
        Image.fromarray(image).save(tmp_path / "patches" / f"{i}.png")
    code = blocks()[2].replace("epochs=50", "epochs=1, progress=False")
    names: dict = {"hg": hg}
    exec(code.replace("hf:owkin/phikon", "runs/gcmae/method.safetensors"), names)
    assert names["graph"]["patch"].x.shape[1] == 192


def test_regions_to_slide_vectors_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(hg.bundled.slide_path(), tmp_path / "slide.svs")
    (tmp_path / "regions").mkdir()
    code = (
        blocks()[3]
        .replace("epochs=100", "epochs=1, progress=False")
        .replace("nodes=False", "nodes=False, progress=False")
    )
    code = code.replace(
        "feature_dim)", "feature_dim, dim=12, depth=1, heads=1, out_dim=32, head_dim=8, local_views=2)"
    )
    names: dict = {"hg": hg}
    exec(code, names)
    assert names["slides"].graph.shape == (1, 12) and names["slides"].slide_ids == ["slide"]


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
