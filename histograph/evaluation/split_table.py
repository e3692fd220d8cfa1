"""Published splits: tables of the slides for training and for testing, refused where they share patients."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .splits import check_split
from .survival_table import slide_stem

_BARCODE = re.compile(r"TCGA-\w{2}-\w{4}", re.IGNORECASE)


class SplitTable(NamedTuple):
    """Slides of the two sides of a split.

    Parameters
    ----------
    train, test
        One row a slide: `slide_id`, `patient`, and the columns of the file.
    """

    train: pd.DataFrame
    test: pd.DataFrame


def tcga_patient(name: str) -> str:
    """Read the patient off the TCGA barcode that a slide is named by: its first twelve characters.

    Parameters
    ----------
    name
        Name or path of a slide or of its file.

    Returns
    -------
    str
        The patient, in upper case.

    Raises
    ------
    ValueError
        If the name does not begin with a barcode.

    Examples
    --------
    >>> tcga_patient("slides/TCGA-05-4250-01Z-00-DX1.90f67fdf.svs")
    'TCGA-05-4250'
    """
    barcode = _BARCODE.match(re.split(r"[/\\]", name)[-1])
    if barcode is None:
        raise ValueError(
            f"{name!r} is not named by a TCGA barcode, expected TCGA-XX-XXXX…; give patient, a function of the name."
        )
    return barcode.group().upper()


def read_split(
    train_csv: str | os.PathLike[str],
    test_csv: str | os.PathLike[str],
    patient: Callable[[str], str] = tcga_patient,
) -> SplitTable:
    r"""Read a split of two tables, in the layout of the released ones of PAMA, and refuse it if it shares patients.

    The tables are comma-separated with the columns `name` (of the slide), `rpath` and `label`; of these `rpath` may be
    absent, and further ones are kept. (The split that PAMA was published with is refused: 549 patients are on both
    sides, and 788 of its 920 test slides are theirs.)

    Parameters
    ----------
    train_csv, test_csv
        The two files.
    patient
        Tells the patient from the name of a slide.

    Returns
    -------
    SplitTable
        The two tables.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a table is empty, a column or value is missing, a slide is named twice in one table, a name tells no
        patient, or patients are shared.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train, test = Path(folder) / "train.csv", Path(folder) / "test.csv"
    ...     _ = train.write_text("name,rpath,label\nTCGA-05-4250-01Z-00-DX1,x,1\n")
    ...     _ = test.write_text("name,rpath,label\nTCGA-05-4382-01Z-00-DX1,y,2\n")
    ...     read_split(train, test).test["patient"].tolist()
    ['TCGA-05-4382']
    """
    split = SplitTable(_read(Path(train_csv), patient), _read(Path(test_csv), patient))
    try:
        check_split(split.train["patient"], split.test["patient"])
    except ValueError as error:
        raise ValueError(f"{train_csv}, {test_csv}: {error}") from error
    return split


def _read(path: Path, patient: Callable[[str], str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"no table of a split at {path}; give a CSV with the columns name and label.")
    table = pd.read_csv(path, dtype={"name": str})
    for column in ("name", "label"):
        if column not in table:
            raise ValueError(f"{path} lacks the column {column!r}, found {table.columns.tolist()[:12]}.")
        if table[column].isna().any():
            row = int(table[column].isna().to_numpy().argmax())
            raise ValueError(f"{path}: {column} is missing in row {row}, counted from 0. Remove such rows.")
    if not len(table):
        raise ValueError(f"{path} has no row.")
    slides = table["name"].str.strip().map(lambda name: slide_stem(re.split(r"[/\\]", name)[-1]))
    if slides.duplicated().any():
        raise ValueError(
            f"{path}: each slide must occur once, found {slides[slides.duplicated()].iloc[0]!r} twice."
        )
    try:
        patients = slides.map(patient)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    first = {"slide_id": slides, "patient": patients}
    return pd.DataFrame(first | {name: table[name] for name in table if name not in first})
