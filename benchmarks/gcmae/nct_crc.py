"""Nine tissue types of colorectal cancer by frozen patch encoders, as GCMAE is judged: NCT-CRC-HE-100K.

    python benchmarks/gcmae/nct_crc.py --data FOLDER [--encoder NAME ...] [--figures FOLDER]

FOLDER holds NCT-CRC-HE-100K.zip and CRC-VAL-HE-7K.zip of https://zenodo.org/records/1214456 (Kather et al., CC BY
4.0), unpacked. A linear probe is trained on the first and tested on the second, of other patients; whether the paper
tested on it is not known. Weights of the released GCMAE are read by `--encoder FILE`, with its normalisation.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import crc
from dino.protocol import LINEAR, Paper, Task
from dino.protocol import main as run

PAPER: Paper = {"GCMAE ViT-B/16": (LINEAR, "0.892", "not found", "not found", "not found")}
TASK = Task(
    name="gcmae/nct_crc",
    expected="NCT-CRC-HE-100K and CRC-VAL-HE-7K",
    read=lambda folder, options: crc(folder, normalised=True, merge_muscle=False),
    mpp=0.5,
    paper=PAPER,
    note="The paper's 89.22 % is of its repository's README (arXiv:2205.09048, first version), not reproduced; which "
    "set that network was pre-trained on is not said (the natural reading: Camelyon16), and its probe is trained by "
    "LARS on augmented pictures, where ours is a logistic regression whose penalty is chosen by cross-validation.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
