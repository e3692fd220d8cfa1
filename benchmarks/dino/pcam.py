"""Tumour or not in lymph nodes by frozen patch encoders: PatchCamelyon, patches of Camelyon16.

    python benchmarks/dino/pcam.py --data FOLDER [--encoder NAME ...] [--limit 4000] [--figures FOLDER]

FOLDER holds PatchCamelyon (Veeling et al., MICCAI 2018, CC0; https://github.com/basveeling/pcam): the HDF5 files
`camelyonpatch_level_2_split_{train,test}_{x,y}.h5`, unpacked, with the `_meta.csv` that name the slides (h5py is
needed); or `train` and `test` (or `valid`) as folders or .tar files with a folder of pictures for each class. Patches
have 96 pixels of about 0.97 um. It is not among the data sets of the DINO paper: its rows are ours alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dino.pictures import pcam
from dino.protocol import Task
from dino.protocol import main as run

TASK = Task(
    name="dino/pcam",
    expected="PatchCamelyon, as HDF5 files or as train and test folders of classes",
    read=lambda folder, options: pcam(folder),
    mpp=0.972,
    note="arXiv:2203.00585 has no numbers for these patches.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    return run(TASK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
