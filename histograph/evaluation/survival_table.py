"""Tables that say which slide belongs to which case and how the case fared, as published for TCGA."""

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

_TIMES = {"survival_months": "months", "survival_days": "days"}
_OUTCOMES = {"censorship": "1 = censored", "event": "1 = event"}
# A slide is known by its file's stem, as `Slide.slide_id`; the tables name slides, features or graphs.
_SUFFIXES = (".svs", ".tiff", ".tif", ".ndpi", ".mrxs", ".scn", ".dcm", ".pt", ".h5", ".safetensors")


def read_survival_table(path: str | os.PathLike[str], extra: Sequence[str] = ()) -> pd.DataFrame:
    r"""Read a table of slides and survival, in the layout of the TCGA tables of published code.

    The file is comma-separated, plain or as the only file of a zip archive. It has the columns `case_id`,
    `slide_id`, one of `survival_months` and `survival_days`, and one of `censorship` (1 = censored, the
    reverse of an event) and `event` (1 = event). Other columns are left out unless they are asked for.

    Parameters
    ----------
    path
        The .csv or .zip file.
    extra
        Further columns to keep, for instance "age".

    Returns
    -------
    DataFrame
        One row a slide, in the order of the file: `case_id` (text), `slide_id` (text, without the ending of a
        slide or feature file, so that it equals `GraphDataset.slide_ids`), `time` (float), `event` (bool, True
        when seen), `unit` ("months" or "days"), and those of `extra`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the archive is damaged or holds several files, a column is missing or occurs in both forms, a value is
        missing or out of range, a slide occurs twice, or the slides of a case disagree about time or event.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "table.csv"
    ...     _ = path.write_text("case_id,slide_id,survival_months,censorship\nA,A-1.svs,12.5,0\n")
    ...     read_survival_table(path)
      case_id slide_id  time  event    unit
    0       A      A-1  12.5   True  months
    """
    path = Path(path)
    raw = _text(path)
    found = pd.read_csv(io.BytesIO(raw), nrows=0).columns.tolist()
    time, outcome = (
        _one_of(path, found, _TIMES, "time"),
        _one_of(path, found, _OUTCOMES, "outcome"),
    )
    columns = ["case_id", "slide_id", time, outcome, *extra]
    absent = [name for name in columns if name not in found]
    if absent:
        raise ValueError(f"{path} lacks the columns {absent}, found {_shown(found)}.")
    names = {"case_id": str, "slide_id": str}
    table = pd.read_csv(io.BytesIO(raw), usecols=list(dict.fromkeys(columns)), dtype=names)
    if not len(table):
        raise ValueError(f"{path} has no row.")
    _check_values(path, table, time, outcome)
    event = table[outcome] == (0 if outcome == "censorship" else 1)
    result = pd.DataFrame(
        {
            "case_id": table["case_id"].str.strip(),
            "slide_id": table["slide_id"].str.strip().map(slide_stem),
            "time": table[time].astype(np.float64),
            "event": event,
            "unit": _TIMES[time],
        }
    )
    _check_slides(path, result)
    return result.assign(**{name: table[name] for name in extra})


def _text(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no survival table at {path}; give a .csv file or a .zip of one.")
    if path.suffix.lower() != ".zip":
        return path.read_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            # macOS adds a folder of resource forks to what it packs.
            members = [
                m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX")
            ]
            if len(members) != 1:
                raise ValueError(
                    f"{path} must hold exactly one file, found {[m.filename for m in members]}. Unpack it and give "
                    "the .csv file."
                )
            return archive.read(members[0])
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no readable zip archive ({error}). Fetch it again.") from error


def _one_of(path: Path, found: list[str], known: dict[str, str], what: str) -> str:
    here = [name for name in known if name in found]
    if len(here) != 1:
        choices = " or ".join(f"{name} ({meaning})" for name, meaning in known.items())
        raise ValueError(
            f"{path} must have one column of {what}, {choices}; found {here or _shown(found)}. "
            "Rename the column that you mean."
        )
    return here[0]


def _shown(names: list[str]) -> str:
    return f"{names[:12]}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _check_values(path: Path, table: pd.DataFrame, time: str, outcome: str) -> None:
    for name in ("case_id", "slide_id", time, outcome):
        missing = np.flatnonzero(table[name].isna())
        if len(missing):
            raise ValueError(
                f"{path}: {name} is missing in {len(missing)} of {len(table)} rows (first: row {missing[0]}, counted "
                "from 0). Remove these rows."
            )
    for name in (time, outcome):
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{path}: {name} must be numbers, found {table[name].iloc[0]!r} in row 0.")
    bad = np.flatnonzero(~np.isfinite(table[time].to_numpy(np.float64)) | (table[time].to_numpy() < 0))
    if len(bad):
        raise ValueError(
            f"{path}: {time} must be finite and not negative, found {table[time].iloc[bad[0]]} in row {bad[0]}."
        )
    odd = sorted(set(table[outcome]) - {0, 1})
    if odd:
        raise ValueError(f"{path}: {outcome} must be 0 or 1 ({_OUTCOMES[outcome]}), found {odd[:5]}.")


def _check_slides(path: Path, table: pd.DataFrame) -> None:
    twice = table.loc[table["slide_id"].duplicated(), "slide_id"].unique().tolist()
    if twice:
        raise ValueError(
            f"{path}: each slide must occur once, found {len(twice)} more than once, for instance {twice[0]!r}."
        )
    differs = table.groupby("case_id")[["time", "event"]].nunique().gt(1).any(axis=1)
    if differs.any():
        case = differs.index[differs][0]
        rows = table.loc[table["case_id"] == case, ["time", "event"]].drop_duplicates().to_numpy().tolist()
        raise ValueError(
            f"{path}: slides of one case must agree about its survival, found (time, event) {rows} for case "
            f"{case!r} ({int(differs.sum())} such cases)."
        )


def slide_stem(name: str) -> str:
    """Take the ending of a slide, feature or graph file off a name, so that it equals the slide's id.

    Parameters
    ----------
    name
        Name of a slide or of its file, without folders.

    Returns
    -------
    str
        The name; a dot that does not begin such an ending stays.

    Examples
    --------
    >>> slide_stem("TCGA-05-4250-01Z-00-DX1.90f67fdf.svs"), slide_stem("TCGA-05-4250-01Z-00-DX1.90f67fdf")
    ('TCGA-05-4250-01Z-00-DX1.90f67fdf', 'TCGA-05-4250-01Z-00-DX1.90f67fdf')
    """
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
