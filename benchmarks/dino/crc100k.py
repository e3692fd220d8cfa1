"""Tissue types of colorectal cancer by frozen patch encoders: CRC-100K, normalised and as scanned.

    python benchmarks/dino/crc100k.py --data FOLDER [--colours as-scanned] [--encoder NAME ...] [--figures FOLDER]

FOLDER holds NCT-CRC-HE-100K.zip (or NCT-CRC-HE-100K-NONORM.zip, for `--colours as-scanned`) and CRC-VAL-HE-7K.zip of
https://zenodo.org/records/1214456 (Kather et al., CC BY 4.0), unpacked: 100,000 patches of 224 pixels of 0.5 um to
train on, and 7,180 of other patients to test on; which patch is of which patient is not published.

As in Chen and Krishnan, arXiv:2203.00585: muscle counts as stroma (8 classes), and the area under the ROC curve is of a
vote of the 5 nearest training patches (even votes, Euclidean distance, vectors as they are).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import Picture, crc
from dino.protocol import Paper, Task
from dino.protocol import main as run

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "NORM", "STR", "TUM")
#: Table 2 of the paper: areas of each class and of all.
PAPER: dict[str, Paper] = {
    "normalised": {
        "ImageNet ResNet-50": (".983", "1.000", ".997", ".974", ".963", ".988", ".982", ".978", ".983"),
        "SimCLR ResNet-50": (".988", "1.000", ".994", ".980", ".969", ".973", ".979", ".969", ".981"),
        "DINO ViT-S/16": (".999", "1.000", ".999", ".985", ".992", ".960", ".992", ".967", ".987"),
    },
    "as-scanned": {
        "ImageNet ResNet-50": (".988", ".909", ".900", ".870", ".886", ".988", ".963", ".978", ".935"),
        "SimCLR ResNet-50": (".981", ".765", ".955", ".951", ".926", ".976", ".979", ".973", ".938"),
        "DINO ViT-S/16": (".991", ".729", ".961", ".950", ".978", ".957", ".990", ".973", ".941"),
    },
}


def colours(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the training set."""
    parser.add_argument(
        "--colours", choices=tuple(PAPER), default="normalised", help="of the training set (normalised)"
    )


def read(folder: Path, options: argparse.Namespace) -> list[Picture]:
    """Read both sets."""
    return crc(folder, options.colours == "normalised", merge_muscle=True)


TASK = Task(
    name="dino/crc100k",
    expected="NCT-CRC-HE-100K (or NCT-CRC-HE-100K-NONORM) and CRC-VAL-HE-7K",
    read=read,
    mpp=0.5,
    each=CLASSES,
    each_paper=lambda options: PAPER[options.colours],
    options=colours,
    note="The paper's numbers are as printed there, not reproduced; it has no intervals and no linear probe. "
    "Both of its training sets are tested on CRC-VAL-HE-7K.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
