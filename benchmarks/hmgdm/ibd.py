"""Inflammatory bowel disease from pictures of the colon: H-MGDM, its ablations and GraphMAE.

    python benchmarks/hmgdm/ibd.py --data FOLDER --mpp 0.5 [--limit 200] [--patient REGEX] [--epochs 50] [--seeds 5]

Which set the H-MGDM paper calls IBD is not known: neither its abstract nor its code says so, and its numbers can be
compared with ours only once it is. Two layouts are read.

Any set with a folder a class:

    FOLDER/<class>/**/<picture>.png|jpg|tif|bmp

The patient of a picture is what --patient finds in its file name (its first group); by default all before the first
"_", space or "[". Files must be named so, or patients will lie on both sides of a fold.

IBDColEpi (Pettersen et al. 2021, https://doi.org/10.18710/TLA01U; mirror huggingface.co/datasets/andreped/IBDColEpi),
the public set that fits best, active against inactive disease in 140 HE biopsies, 54 and 86. The record is CC0 by its
users' account, the mirror says MIT: look before you use it. Its `patch-dataset-HE.zip` (8.8 GB), unpacked, with
`TIFF-annotations.zip` (1.6 GB) beside it, which is only read for the labels in its file names:

    FOLDER/.../Images_tif/<number>_HE [d=4,x=...,y=...,w=...,h=...].tif    6,322 pictures of 512 pixels
    FOLDER/TIFF-annotations.zip with ID-<number>_HE_<active|inactive>.tiff

Micrometres per pixel are not in the pictures and must be given; d=4 is QuPath's downsample, so 4 times that of the
scan.
"""

import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hmgdm import common
from hmgdm.pictures import SUFFIXES, Case, Recipe, sampled

EXPECTED = "a folder for each class with pictures in it, or IBDColEpi (Images_tif/ and TIFF-annotations.zip)"
LABELLED = re.compile(r"ID-(\d+)_HE_(active|inactive)\b")


def read(folder: Path, patient: str) -> list[Case]:
    """List the pictures of either layout."""
    tiles = sorted(folder.rglob("Images_tif/*_HE*.tif"))
    cases = coli(folder, tiles) if tiles else classes(folder, patient)
    if len({case.label for case in cases}) < 2:
        sys.exit(f"--data: expected {EXPECTED}; found {common.listed(folder)} in {folder}")
    return cases


def classes(folder: Path, patient: str) -> list[Case]:
    """List pictures by the folder of their class."""
    cases = []
    for path in sorted(folder.glob("*/**/*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        found = re.search(patient, path.name)
        if found is None:
            sys.exit(
                f"--patient: {patient!r} finds nothing in {path.name}; expected one group with the patient"
            )
        place = path.relative_to(folder)
        cases.append(Case(path, str(place.with_suffix("")), found.group(1), place.parts[0]))
    return cases


def coli(folder: Path, tiles: Sequence[Path]) -> list[Case]:
    """List the pictures of IBDColEpi with the labels of their biopsies."""
    names = [path.name for path in folder.rglob("ID-*")]
    archive = folder / "TIFF-annotations.zip"
    if archive.is_file():
        with zipfile.ZipFile(archive) as file:
            names += file.namelist()
    labels = dict(found.groups() for name in names if (found := LABELLED.search(name)))
    cases = []
    for path in tiles:
        number = re.search(r"(\d+)_HE", path.name)
        if number is None or number.group(1) not in labels:
            sys.exit(
                f"--data: no file named ID-<number>_HE_<active|inactive> tells the label of {path.name}; "
                f"put TIFF-annotations.zip of IBDColEpi into {folder}"
            )
        biopsy = number.group(1)
        cases.append(Case(path, str(path.relative_to(folder).with_suffix("")), biopsy, labels[biopsy]))
    return cases


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = common.options_of("ibd", __doc__)
    parser.add_argument("--mpp", type=float, help="micrometres per pixel of the pictures")
    parser.add_argument("--patient", default=r"^(?:ID-)?([^_ \[]+)", help="regular expression, one group")
    options = parser.parse_args(argv)
    folder = common.folder_of(options, EXPECTED)
    if folder is None:
        return 0
    if options.mpp is None:
        parser.error("--mpp is needed: the pictures do not say how many micrometres a pixel spans")
    cases = sampled(read(folder, options.patient), options.limit)
    scores = common.experiment(cases, Recipe(mpp=options.mpp), options)
    common.print_table(scores, ("accuracy", "macro F1"), common.PAPER["ibd"], "–")
    return 0


if __name__ == "__main__":
    sys.exit(main())
