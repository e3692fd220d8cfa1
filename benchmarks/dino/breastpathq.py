"""Cellularity of breast cancer by frozen patch encoders and a linear regression: BreastPathQ.

    python benchmarks/dino/breastpathq.py --data FOLDER [--encoder NAME ...] [--figures FOLDER]

FOLDER holds the unpacked archives of https://breastpathq.grand-challenge.org (registration needed): `train/` and
`validation/` with patches <slide>_<rid>.tif of 512 pixels of 0.5 um, `train_labels.csv` (slide, rid, y) and
`val_labels.csv`, in any subfolders. Where validation patches have the marks of two pathologists, the first is taken.

As in Chen and Krishnan, arXiv:2203.00585: least squares from vectors to cellularity, error and order on the validation
set. The published order is a biased form of the prediction probability, so both are printed, the right one first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import breastpathq
from dino.protocol import LEAST_SQUARES, Paper, Task
from dino.protocol import main as run

#: MSE and its "Tau", and between them the prediction probability that follows from it where no scores are tied.
PAPER: Paper = {
    "ImageNet ResNet-50": (LEAST_SQUARES, "0.058", "≈ 0.792", "0.828"),
    "SimCLR ResNet-50": (LEAST_SQUARES, "0.078", "≈ 0.731", "0.788"),
    "DINO ViT-S/16": (LEAST_SQUARES, "0.029", "≈ 0.829", "0.854"),
}
TASK = Task(
    name="dino/breastpathq",
    expected="train/, validation/, train_labels.csv and val_labels.csv of BreastPathQ",
    read=lambda folder, options: breastpathq(folder),
    mpp=0.5,
    paper=PAPER,
    values=True,
    note="The paper's numbers are of notebooks beside it, not reproduced. Random order has 0.5 in the first column of "
    "orders and 0.667 in the second, which never falls below 0.5; with ≈ the paper's first is derived from its second.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
