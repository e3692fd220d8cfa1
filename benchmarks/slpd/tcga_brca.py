"""Ductal or lobular carcinoma of the breast (TCGA-BRCA): heads on vectors of regions, as HIPT.

    python benchmarks/slpd/tcga_brca.py --data FOLDER --labels FILE [--splits FOLDER] [--method FILE] [--head clam]

FOLDER holds a file of torch.save for each slide, named by it (TCGA-XX-XXXX-….pt): the vectors of its regions of 4,096
px at 0.5 um per pixel, a tensor (regions, 192); or their grids of patch features, (regions, 384, 16, 16), which the
methods of --method read (trained by `hg.pretrain`, or a checkpoint of HIPT or SLPD). The slides:
https://portal.gdc.cancer.gov, project TCGA-BRCA, data type "Slide Image", some hundred gigabytes, open access under
the NIH policy (attribution, no attempt to identify a person).

Labels and folds: https://github.com/mahmoodlab/HIPT, folder 2-Weakly-Supervised-Subtyping: tables with case_id,
slide_id and oncotree_code (IDC or ILC; others are left out), and folders of splits_0.csv to splits_9.csv with the
columns train, val and test. Without --splits there are 10 folds by patient.

Certain: HIPT's protocol (937 slides, 10 folds, 20 epochs, 25 % or 100 % of the training part) and its numbers, which
are printed. Not known: SLPD's own table, which could not be obtained.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from slpd import tcga

TASK = tcga.Task("BRCA", ("IDC", "ILC"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    return tcga.main(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
