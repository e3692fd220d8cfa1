"""Benign or malignant breast tumours by frozen patch encoders, as GCMAE is judged: BreakHis.

    python benchmarks/gcmae/breakhis.py --data FOLDER [--magnification 400] [--encoder NAME ...] [--figures FOLDER]

FOLDER holds BreaKHis_v1.tar.gz, unpacked; benchmarks/dino/breakhis.py says where it is to be had. Folds are by patient.
The paper's table of this data set could not be found.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino import breakhis
from dino.protocol import LINEAR
from dino.protocol import main as run

TASK = replace(
    breakhis.TASK,
    name="gcmae/breakhis",
    paper={"GCMAE ViT-B/16": (LINEAR, *("not found",) * 4)},
    note="The paper (arXiv:2205.09048) names this data set; its numbers could not be had.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
