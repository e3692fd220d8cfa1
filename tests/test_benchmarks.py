"""Benchmarks say what they need, and skip without it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_how_to_run_it(path):
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert f"python {path.relative_to(ROOT)}" in done.stdout


def test_without_data_it_skips_with_a_message():
    script = ROOT / "benchmarks" / "hmgdm_patches.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("skipped") and "--data" in done.stdout
