"""The tree is clean: linter, formatter, type checker, and the rules of CONTRIBUTING that can be counted."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "histograph").rglob("*.py"))


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_tool_is_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_rules(path):
    source = path.read_text()
    assert source.count("\n") <= 800
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, ast.Assert), (
            f"line {node.lineno}: raise an error that names the argument instead"
        )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = (ast.get_docstring(node) or "").splitlines()
            assert node.end_lineno - node.lineno + 1 - len(docstring) <= 80, f"{node.name} is too long"


def test_import_is_cheap():
    heavy = "torch", "matplotlib", "openslide", "tensorflow", "skimage", "numba"
    code = f"import sys, histograph; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
