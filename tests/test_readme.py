"""What README.md shows runs as it stands, on the bundled slide."""

import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np

import histograph as hg

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_example_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    before, probe = code.replace("epochs=50", "epochs=1, progress=False").split("hg.evaluation", 1)
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


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
