"""Benchmarks say what they need, and skip without it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# the other modules are shared by the scripts
SCRIPTS = sorted(
    path
    for path in (ROOT / "benchmarks").rglob("*.py")
    if '\nif __name__ == "__main__":\n' in path.read_text()
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_how_to_run_it(path, monkeypatch, capsys):
    # in this process, which has imported what most of them need
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    assert not stopped.value.code
    assert f"python {path.relative_to(ROOT)}" in capsys.readouterr().out


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_readme_lists_it(path):
    assert f"`{path.relative_to(ROOT / 'benchmarks')}`" in (ROOT / "benchmarks" / "README.md").read_text()


def test_without_data_it_skips_with_a_message():
    script = ROOT / "benchmarks" / "hmgdm" / "pcam.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("skipped") and "--data" in done.stdout
