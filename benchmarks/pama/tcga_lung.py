"""Normal lung, adenocarcinoma or squamous cell carcinoma (TCGA-LUAD and TCGA-LUSC): PAMA, probed and fine-tuned.

    python benchmarks/pama/tcga_lung.py --data FOLDER --labels FILE [--label-column label] [--mpp 0.25] [--seeds 5]
    python benchmarks/pama/tcga_lung.py --data FOLDER --split-train FILE --split-test FILE

FOLDER holds the features of the patches of each slide, one file a slide, named by it (TCGA-XX-XXXX-….h5), as TRIDENT
or CLAM write them with an encoder of your choice, or graph files of histograph with a layer of patches. The slides:
https://portal.gdc.cancer.gov, projects TCGA-LUAD and TCGA-LUSC, data type "Slide Image", some hundred gigabytes, open
access under the NIH policy (attribution, no attempt to identify a person).

Labels: a CSV with slide_id, label and, if known, case_id. Tables of published code fit, such as LUAD and LUSC in the
column oncotree_code of https://github.com/mahmoodlab/HIPT (2-Weakly-Supervised-Subtyping/dataset_csv). Normal are the
slides of sample type 11, the fourth part of the barcode.

Certain: the split published with PAMA, 3,064 slides of three classes in two tables with the columns name, rpath, label.
It is refused here, for 549 patients are on both of its sides, with 788 of its 920 test slides. Not known: the tables of
the paper. What is printed as the paper's is of "TCGA-NSCLC", from a reader's notes, unverified.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pama import tcga

TASK = tcga.Task("tcga_lung", "normal, LUAD or LUSC", {"PAMA": ("98.9", "93.51")})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    return tcga.main(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
