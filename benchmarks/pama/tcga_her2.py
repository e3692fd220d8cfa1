"""Is HER2 positive in breast cancer (TCGA-BRCA): PAMA, probed and fine-tuned.

    python benchmarks/pama/tcga_her2.py --data FOLDER --labels FILE [--label-column label] [--mpp 0.25] [--seeds 5]
    python benchmarks/pama/tcga_her2.py --data FOLDER --split-train FILE --split-test FILE

FOLDER holds the features of the patches of each slide, one file a slide, named by it (TCGA-XX-XXXX-….h5), as TRIDENT
or CLAM write them with an encoder of your choice, or graph files of histograph with a layer of patches. The slides:
https://portal.gdc.cancer.gov, project TCGA-BRCA, data type "Slide Image", some hundred gigabytes, open
access under the NIH policy (attribution, no attempt to identify a person).

Labels: a CSV with slide_id, label (positive or negative) and, if known, case_id. The status of a patient is in the
clinical supplement of the portal (her2_status_by_ihc, her2_fish_status) or under https://www.cbioportal.org, study
brca_tcga; leave the label of equivocal or unknown patients empty.

Not known: whether the paper's HER2 slides are those of TCGA, by which test it called them positive, and its numbers.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pama import tcga

TASK = tcga.Task("tcga_her2", "HER2 positive or negative", {"PAMA": ("not found", "not found")})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    return tcga.main(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
