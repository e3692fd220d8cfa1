"""ISUP grades of prostate biopsies (PANDA): H-MGDM, its ablations and GraphMAE.

    python benchmarks/hmgdm/panda.py --data FOLDER [--limit 100] [--windows 50] [--epochs 50] [--seeds 5]

Get it: `kaggle competitions download -c prostate-cancer-grade-assessment`, https://www.kaggle.com/c/
prostate-cancer-grade-assessment/data, about 350 GB, after accepting the rules of the competition there (they say what
the data may be used for). 10,616 biopsies with labels. Layout:

    FOLDER/train.csv                       image_id, data_provider, isup_grade, gleason_score
    FOLDER/train_images/<image_id>.tiff    pyramids of three levels, about 0.5 um per pixel, as their tags say

Certain: the layout above. Not known: what the H-MGDM paper did with it (patches or whole biopsies; which label); its
code reads pictures of 256 pixels. Here the ISUP grade, 0 to 5, of a biopsy is told from the mean vector of its windows
of 128 um. The table names no patients, so a biopsy is its own: biopsies of one patient may lie on both sides of a fold,
which flatters every row alike. Part of the images will do: rows without an image are left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from hmgdm import common
from hmgdm.pictures import Case, Recipe, sampled

EXPECTED = "train.csv with the columns image_id and isup_grade, and train_images/<image_id>.tiff"


def read(folder: Path) -> list[Case]:
    """List the biopsies whose image is there."""
    if not (folder / "train.csv").is_file() or not (folder / "train_images").is_dir():
        sys.exit(f"--data: expected {EXPECTED}; found {common.listed(folder)} in {folder}")
    table = pd.read_csv(folder / "train.csv", dtype=str)
    if not {"image_id", "isup_grade"} <= set(table.columns):
        sys.exit(f"--data: expected {EXPECTED}; found the columns {', '.join(table.columns)}")
    cases = [
        Case(folder / "train_images" / f"{name}.tiff", name, name, grade)
        for name, grade in zip(table["image_id"], table["isup_grade"], strict=True)
    ]
    there = [case for case in cases if case.path.is_file()]
    if not there:
        sys.exit(f"--data: none of the {len(cases)} images of train.csv is in {folder / 'train_images'}")
    if len(there) < len(cases):
        print(f"{len(cases) - len(there)} of {len(cases)} rows of train.csv have no image and are left out")
    return there


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = common.options_of("panda", __doc__)
    parser.add_argument(
        "--windows", type=int, default=50, help="windows of 128 um a biopsy, most tissue first"
    )
    options = parser.parse_args(argv)
    folder = common.folder_of(options, "train.csv and train_images/ of PANDA")
    if folder is None:
        return 0
    cases = sampled(read(folder), options.limit)
    scores = common.experiment(cases, Recipe(window_um=128.0, windows=options.windows), options)
    common.print_table(scores, ("accuracy", "macro F1"), common.PAPER["panda"], "–")
    return 0


if __name__ == "__main__":
    sys.exit(main())
