"""Compare a method in its released form with the numbers of the released code.

    python benchmarks/parity.py METHOD --golden FOLDER [--tolerance 1e-5]

FOLDER holds .npz files of arrays written by the released code; the README beside them says what each is. Weights,
inputs, sizes and masks come from the files. Prints the largest absolute error of every array that the code computed,
names the arrays that were inputs, and exits with an error when an array is further off than the tolerance, or when a
file or an array is not checked. Where an array has numbers above 1, the tolerance is in units of its largest.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

# Each module has KINDS: the beginning of a file's name -> (patterns of the arrays that are inputs, a function
# that computes the others from all arrays of the file). A further method adds a module and a line.
METHODS = {
    "hmgdm": "parity_hmgdm",
    "pama": "parity_pama",
    "gcmae": "parity_gcmae",
    "dino": "parity_dino",
    "slpd": "parity_slpd",
}

Arrays = dict[str, np.ndarray]
Kinds = dict[str, tuple[tuple[str, ...], Callable[[Arrays], Arrays]]]


def error_of(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Give the largest absolute difference, and the same in units of the largest number wanted, where that is above 1.

    Both are infinite where shapes differ or a number is missing. The second is what is compared with the tolerance: a
    gradient of 2,000 is held by single precision to 1e-4 and no better.
    """
    if found.shape != wanted.shape:
        return float("inf"), float("inf")
    gap = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    size = np.nan_to_num(np.abs(wanted.astype(np.float64))).max(initial=1.0)
    largest = float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
    return largest, largest / float(size)


def check_file(path: Path, kinds: Kinds) -> tuple[dict[str, tuple[float, float]], list[str], list[str]]:
    """Give both errors of each array, the names of inputs, and complaints."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    fitting = [kind for kind in kinds if path.stem == kind or path.stem.startswith(f"{kind}_")]
    if not fitting:
        return {}, [], [f"{path.name}: not checked, its kind is not among {', '.join(kinds)}"]
    patterns, compute = kinds[max(fitting, key=len)]
    inputs = [name for name in arrays if any(fnmatchcase(name, pattern) for pattern in patterns)]
    found = compute(arrays)
    outputs = [name for name in arrays if name not in inputs]
    errors = {name: error_of(np.asarray(found[name]), arrays[name]) for name in outputs if name in found}
    complaints = [f"{path.name}: {name} is not checked" for name in outputs if name not in found]
    if not errors:
        complaints.append(f"{path.name}: holds no array to check")
    return errors, inputs, complaints


def grouped(names: list[str]) -> str:
    """Write names, those in a folder of arrays by the folder."""
    return ", ".join(sorted({name.split("/")[0] + "/*" if "/" in name else name for name in names})) or "none"


def check_folder(folder: Path, kinds: Kinds, tolerance: float) -> list[str]:
    """Print the tables and give the complaints."""
    files = sorted(folder.glob("*.npz"))
    complaints = [] if files else [f"{folder} has no .npz files"]
    rows, inputs, worst, scaled = [], [], 0.0, 0.0
    for path in files:
        errors, given, problems = check_file(path, kinds)
        complaints += problems
        inputs.append(f"- {path.name}: {grouped(given)}")
        for name, (error, share) in errors.items():
            rows.append(f"| {path.name} | {name} | {error:.1e} | {share:.1e} |")
            worst, scaled = max(worst, error), max(scaled, share)
            if not share <= tolerance:
                complaints.append(f"{path.name}: {name} is off by {error:.1e}, in its units {share:.1e}")
    print("| file | array | largest absolute error | in units of max(1, largest number) |\n|---|---|---|---|")
    print("\n".join(rows))
    print("\nInputs, not computed here:\n")
    print("\n".join(inputs))
    print(
        f"\n{len(rows)} arrays of {len(files)} files; largest absolute error {worst:.1e}, in units of an array's "
        f"largest number where that is above 1: {scaled:.1e}, tolerance {tolerance:g}"
    )
    return complaints


def main() -> None:
    """Check one folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", metavar="METHOD", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--golden", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    if options.method not in METHODS:
        parser.error(f"METHOD must be one of {', '.join(METHODS)}; found {options.method!r}")
    if not options.golden.is_dir():
        parser.error(f"--golden must be a folder with .npz files; found {options.golden}")
    complaints = check_folder(
        options.golden, importlib.import_module(METHODS[options.method]).KINDS, options.tolerance
    )
    if complaints:
        sys.exit("\n".join(["", "FAILED", *complaints]))


if __name__ == "__main__":
    main()
