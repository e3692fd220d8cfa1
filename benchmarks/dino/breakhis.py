"""Benign or malignant breast tumours by frozen patch encoders: BreakHis.

    python benchmarks/dino/breakhis.py --data FOLDER [--magnification 400] [--encoder NAME ...] [--figures FOLDER]

FOLDER holds BreaKHis_v1.tar.gz, unpacked (Spanhol et al., IEEE TBME 2016; on request at
https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/): SOB_*.png of 700 x 460 pixels
at 40, 100, 200 and 400 times, whose names tell class and patient. Folds are by patient; a picture is read as its middle
square. It is not among the data sets of the DINO paper: its rows are ours alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import MAGNIFICATIONS, Picture, breakhis
from dino.protocol import Task
from dino.protocol import main as run


def magnification(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the magnification."""
    parser.add_argument(
        "--magnification", type=int, choices=MAGNIFICATIONS, default=400, help="of the pictures (400)"
    )


def read(folder: Path, options: argparse.Namespace) -> list[Picture]:
    """Read the pictures of one magnification."""
    return breakhis(folder, options.magnification)


TASK = Task(
    name="dino/breakhis",
    expected="BreaKHis_v1",
    read=read,
    mpp=0.5,
    options=magnification,
    note="arXiv:2203.00585 has no numbers for these pictures.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
