"""Is EGFR mutated in lung adenocarcinoma (TCGA-LUAD): PAMA, probed and fine-tuned.

    python benchmarks/pama/tcga_egfr.py --data FOLDER --labels FILE [--label-column label] [--mpp 0.25] [--seeds 5]
    python benchmarks/pama/tcga_egfr.py --data FOLDER --split-train FILE --split-test FILE

FOLDER holds the features of the patches of each slide, one file a slide, named by it (TCGA-XX-XXXX-….h5), as TRIDENT
or CLAM write them with an encoder of your choice, or graph files of histograph with a layer of patches. The slides:
https://portal.gdc.cancer.gov, project TCGA-LUAD, data type "Slide Image", some hundred gigabytes, open
access under the NIH policy (attribution, no attempt to identify a person).

Labels: a CSV with slide_id, label (mutated or wild type) and, if known, case_id. Mutations of a patient are in the open
MAF files of the portal, or under https://www.cbioportal.org, study luad_tcga_pan_can_atlas_2018, gene EGFR; which
mutations count is the user's choice, and so is what to do with a patient without sequencing (leave the label empty).

Not known: whether the paper's EGFR slides are those of TCGA, which mutations it counted, and its numbers.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pama import tcga

TASK = tcga.Task("tcga_egfr", "EGFR mutated or not", {"PAMA": ("not found", "not found")})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    return tcga.main(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
