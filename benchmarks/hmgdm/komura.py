"""Cancer types from pictures of uniform tumour (Komura et al. 2022, "TCGA-UT"): H-MGDM, its ablations and GraphMAE.

    python benchmarks/hmgdm/komura.py --data FOLDER [--limit 200] [--level 0] [--epochs 50] [--seeds 5] [--cache FOLDER]

Get it: https://zenodo.org/records/5889558, "Histology images from uniform tumor regions in TCGA Whole Slide Images",
one zip for each of 32 cancer types, to be unpacked into FOLDER; licence CC BY-NC-SA 4.0. 1,608,060 JPEG pictures of
256 x 256 pixels, 271,711 at each of six resolutions. Layout:

    FOLDER/Breast_invasive_carcinoma/0/TCGA-A1-A0SB-01Z-00-DX1/....jpg        cancer type / level / slide / picture

Certain: the record, the counts, the types as folders, a folder a slide named by its TCGA barcode, 0.5 um per pixel at
the finest level and 1.0 at the coarsest. Assumed: the folder of the level between type and slide, named 0 to 5, with
steps of 0.1 um; the licence is that of the author's own mirror, huggingface.co/datasets/dakomura/tcga-ut. Not known:
the level, the pictures and the splits that the H-MGDM paper took; here level 0, and folds by patient (the first twelve
characters of the barcode).
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hmgdm import common
from hmgdm.pictures import Case, Recipe, sampled

EXPECTED = "one folder for each cancer type, in it <level 0..5>/<TCGA barcode of the slide>/*.jpg"


def read(folder: Path, level: int) -> list[Case]:
    """List the pictures of one level."""
    cases = []
    for path in sorted(folder.glob(f"*/{level}/*/*.jpg")):
        cancer, slide = path.parts[-4], path.parts[-2]
        if not re.match(r"TCGA-\w{2}-\w{4}", slide):
            sys.exit(f"--data: {path.parent} is not named by a TCGA barcode; expected {EXPECTED}")
        cases.append(Case(path, f"{cancer}/{level}/{slide}/{path.stem}", slide[:12], cancer))
    if not cases:
        sys.exit(f"--data: expected {EXPECTED}; found {common.listed(folder)} in {folder}")
    return cases


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = common.options_of("komura", __doc__)
    parser.add_argument("--level", type=int, choices=range(6), default=0, help="resolution, 0 is the finest")
    options = parser.parse_args(argv)
    folder = common.folder_of(options, "the unpacked cancer types of TCGA-UT (Komura et al.)")
    if folder is None:
        return 0
    cases = sampled(read(folder, options.level), options.limit)
    scores = common.experiment(cases, Recipe(mpp=0.5 + 0.1 * options.level), options)
    common.print_table(scores, ("accuracy", "macro F1"), common.PAPER["komura"], "–")
    return 0


if __name__ == "__main__":
    sys.exit(main())
