"""Tissue of breast cancer by frozen patch encoders: BCSS.

    python benchmarks/dino/bcss.py --data FOLDER [--encoder NAME ...] [--folds 5] [--figures FOLDER]

FOLDER holds `masks/` and `rgbs_colorNormalized/` (or `rgbs/`) of the Breast Cancer Semantic Segmentation data at
0.25 um a pixel (Amgad et al., Bioinformatics 2019, CC0; https://github.com/PathologyDataScience/BCSS links them), 151
annotated regions, one a patient. They are cut into patches of 224 pixels without overlap; a patch has the class that
covers at least half of it: tumour (with angioinvasion and DCIS), stroma, inflammatory cells (lymphocytes, plasma cells,
other infiltrate) or necrosis. Folds are by patient.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import BCSS_CLASSES, bcss
from dino.protocol import Paper, Task
from dino.protocol import main as run

#: Outputs stored in the notebooks beside the paper, which does not claim them.
PAPER: Paper = {
    "ImageNet ResNet-50": (".503", ".704", ".552", ".636", ".599"),
    "SimCLR ResNet-50": (".543", ".715", ".577", ".667", ".625"),
    "DINO ViT-S/16": (".520", ".678", ".540", ".632", ".593"),
}
TASK = Task(
    name="dino/bcss",
    expected="masks/ and rgbs_colorNormalized/ of BCSS",
    read=lambda folder, options: bcss(folder),
    mpp=0.25,
    each=tuple(BCSS_CLASSES),
    each_paper=lambda options: PAPER,
    note="The numbers marked as of the paper are of notebooks beside it (arXiv:2203.00585), of patches and a split "
    "that were not published: its classes are 0, 1, 2 and 3 without names, and their order here is a guess. They show "
    "no more than a scale.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
