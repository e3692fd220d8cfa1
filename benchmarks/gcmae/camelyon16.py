"""Tumour or not in lymph nodes by frozen patch encoders, as GCMAE is judged: patches of Camelyon16.

    python benchmarks/gcmae/camelyon16.py --data FOLDER [--encoder NAME ...] [--limit 4000] [--figures FOLDER]

FOLDER holds patches of Camelyon16 (CC0). Those of the GCMAE paper were not published; PatchCamelyon
(https://github.com/basveeling/pcam) is read as HDF5 files, folders or .tar files, see benchmarks/dino/pcam.py, and so
are patches of one's own in `train/` and `test/` with a folder for each class.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import pcam
from dino.protocol import LINEAR, Paper, Task
from dino.protocol import main as run

PAPER: Paper = {"GCMAE ViT-B/16": (LINEAR, "0.811", "not found", "not found", "not found")}
TASK = Task(
    name="gcmae/camelyon16",
    expected="patches of Camelyon16: PatchCamelyon, or train/ and test/ with a folder for each class",
    read=lambda folder, options: pcam(folder),
    mpp=0.972,
    paper=PAPER,
    note="The paper's 81.10 % is of its repository's README (arXiv:2205.09048, first version), not reproduced, and of "
    "patches that were not published; on which set that network was pre-trained is not said (the natural reading: "
    "NCT-CRC).",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
