"""The table of labels that `histograph evaluate` takes: a class, and perhaps a patient, for each slide."""

import csv
import io
import os
from pathlib import Path
from typing import NamedTuple

_COLUMNS = ("slide_id", "label")


class LabelTable(NamedTuple):
    """Labels of slides, joined to their vectors.

    Parameters
    ----------
    label
        Class of each vector.
    group
        Patient of each; the slide where the table has no column `group`.
    without_vector
        Slides of the table that have no vector, in its order.
    """

    label: list[str]
    group: list[str]
    without_vector: list[str]


def read_labels(path: str | os.PathLike[str], slide_ids: list[str]) -> LabelTable:
    r"""Read a comma-separated table with the columns slide_id and label, and group where patients have several slides.

    Blanks around names and values, and the mark that Excel puts before UTF-8, are left out; so are empty lines.

    Parameters
    ----------
    path
        The CSV file, in UTF-8.
    slide_ids
        Slide of each vector; one may have several.

    Returns
    -------
    LabelTable
        In the order of `slide_ids`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a slide has no row, several rows or no label, or some slides have a group and others
        have none.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels.csv"
    ...     _ = path.write_text("slide_id,label\ns1,IDC\ns2, ILC\ns3,IDC\n")
    ...     read_labels(path, ["s2", "s1"])
    LabelTable(label=['ILC', 'IDC'], group=['s2', 's1'], without_vector=['s3'])
    """
    path = Path(path)
    rows = _rows(path)
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        known = table.setdefault(row["slide_id"], row)
        if known != row:
            raise ValueError(
                f"the label table {path} has several rows for slide {row['slide_id']!r}, which differ: keep one"
            )
    wanted = list(dict.fromkeys(slide_ids))
    missing = sorted(set(wanted) - set(table))
    if missing:
        raise ValueError(
            f"the label table {path} has no row for {len(missing)} slides, first {missing[0]} (its own first is "
            f"{next(iter(table))}): add them"
        )
    _check_filled(path, table, wanted, "label")
    grouped = "group" in rows[0] and any(table[slide]["group"] for slide in wanted)
    if grouped:
        _check_filled(path, table, wanted, "group")
    return LabelTable(
        [table[slide]["label"] for slide in slide_ids],
        [table[slide]["group"] if grouped else slide for slide in slide_ids],
        [slide for slide in table if slide not in set(wanted)],
    )


def _rows(path: Path) -> list[dict[str, str]]:
    """Read the rows, without blanks around names and values."""
    if not path.is_file():
        raise FileNotFoundError(f"no label table at {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the label table {path} is not in UTF-8 ({error}); save it as CSV UTF-8") from error
    lines = [[value.strip() for value in line] for line in csv.reader(io.StringIO(text, newline=""))]
    lines = [line for line in lines if any(line)]
    header = lines[0] if lines else []
    for column in _COLUMNS:
        if header.count(column) != 1:
            raise ValueError(
                f"the label table {path} needs the columns slide_id and label in its header, once each and separated "
                f"by commas; {column} is missing or there twice, found {header[:8] or 'an empty file'}"
            )
    if len(lines) < 2:
        raise ValueError(f"the label table {path} has no row below its header: add one a slide")
    width = len(header)
    return [dict(zip(header, (line + [""] * width)[:width])) for line in lines[1:]]


def _check_filled(path: Path, table: dict[str, dict[str, str]], slides: list[str], column: str) -> None:
    """Refuse slides without a value, which would be a class or a patient of their own."""
    empty = [slide for slide in slides if not table[slide][column]]
    if empty:
        raise ValueError(
            f"the label table {path} has no {column} for {len(empty)} of {len(slides)} slides, first {empty[0]}: fill "
            f"the column {column}, or leave these slides out of the embeddings"
        )
