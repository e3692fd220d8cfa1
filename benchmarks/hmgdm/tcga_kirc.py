"""Survival with clear cell kidney cancer (TCGA-KIRC): H-MGDM, its ablations and GraphMAE.

    python benchmarks/hmgdm/tcga_kirc.py --data FOLDER [--table FILE] [--windows 100] [--epochs 50] [--seeds 5]

Get it: https://portal.gdc.cancer.gov, project TCGA-KIRC, data type "Slide Image", experimental strategy "Diagnostic
Slide", with the GDC Data Transfer Tool: about 520 slides, some hundred gigabytes, open access under the NIH policy
(attribution, no attempt to identify a person). Slides may stay in the folders that the tool makes:

    FOLDER/**/TCGA-B0-4690-01Z-00-DX1.<uuid>.svs
    FOLDER/survival.csv        case_id, slide_id, survival_months (or survival_days), censorship (1 = alive) or event

The table is not with the slides. Write it from the clinical data of the portal (days_to_death, or
days_to_last_follow_up for the living) or of cBioPortal, or rename the columns os_survival_days and os_censorship of
the tables in https://github.com/mahmoodlab/MMP (src/splits/survival/TCGA_KIRC_overall_survival_k=0/*.csv).

Certain: the cohort, by the name of a script in the H-MGDM repository. Not known: its patients, splits and numbers.
Here the windows of 128 um with the most tissue, the mean vector of a patient, a ridge Cox regression, folds by patient.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hmgdm import tcga


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    return tcga.main("tcga_kirc", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
