"""Join slide labels to slides, on ids."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def join_labels(
    labels: Mapping[str, Any] | pd.DataFrame | str | os.PathLike[str], slide_ids: Sequence[str]
) -> tuple[np.ndarray, list[str] | None]:
    """Find the label of each slide.

    Parameters
    ----------
    labels : mapping, pandas.DataFrame, str or os.PathLike
        ``slide_id -> label``, or a table or CSV file with columns ``slide_id`` and ``label``. Further
        slides in it are left aside.
    slide_ids : sequence of str
        The slides.

    Returns
    -------
    y : ndarray
        (G,) int64 for whole numbers, booleans and class names, float64 otherwise.
    classes : list of str or None
        Where labels are strings, their names in alphabetical order: ``classes[y]`` is the label.

    Raises
    ------
    ValueError
        A slide has no label or two, or a column is missing.
    FileNotFoundError
        The CSV file is missing.

    Examples
    --------
    >>> join_labels({"a": "tumour", "b": "normal"}, ["a", "b"])
    (array([1, 0]), ['normal', 'tumour'])
    """
    column = _as_series(labels)
    column = column[~column.isna()]
    missing = sorted(set(slide_ids) - set(column.index))
    if missing:
        raise ValueError(
            f"labels: no label for {len(missing)} of {len(set(slide_ids))} slides: {', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}; the table has {', '.join(column.index[:3]) or 'none'}, …"
        )
    wanted = column[column.index.isin(list(slide_ids))]
    twice = wanted.index[wanted.index.duplicated()]
    if len(twice):
        raise ValueError(f"labels: slide {twice[0]!r} has more than one row; give each slide one label")
    values = wanted.loc[list(slide_ids)].to_list()
    if any(isinstance(value, str) for value in values):
        classes = sorted({str(value) for value in values})
        number = {name: row for row, name in enumerate(classes)}
        return np.array([number[str(value)] for value in values], dtype=np.int64), classes
    y = np.asarray(values)
    if y.ndim != 1 or not _are_finite(y):
        raise ValueError(
            f"labels: expected one finite number or name for each slide, found {values[0]!r} for {slide_ids[0]!r} "
            f"among {len(values)}; leave slides without a label out of the graphs"
        )
    return y.astype(np.int64 if y.dtype.kind in "biu" else np.float64), None


def _as_series(labels: Mapping[str, Any] | pd.DataFrame | str | os.PathLike[str]) -> pd.Series:
    """Bring labels in any form to a series by slide_id."""
    if isinstance(labels, Mapping):
        return pd.Series(list(labels.values()), index=[str(key) for key in labels], dtype=object)
    where = "labels"
    if not isinstance(labels, (pd.DataFrame, str, os.PathLike)):
        raise TypeError(
            "labels: expected a mapping slide_id -> label, a table with columns slide_id and label, or a CSV file, "
            f"found {type(labels).__name__}"
        )
    if not isinstance(labels, pd.DataFrame):
        path = Path(labels)
        if not path.is_file():
            raise FileNotFoundError(f"labels: {path}: no such file; expected a CSV with slide_id and label")
        where, labels = f"labels: {path}", _read_csv(path)
    missing = [name for name in ("slide_id", "label") if name not in labels.columns]
    if missing:
        raise ValueError(f"{where}: no column {missing[0]!r}; it has {', '.join(map(str, labels.columns))}")
    # object, so that whole numbers stay whole beside slides without a label
    return labels["label"].astype(object).set_axis(labels["slide_id"].astype(str).to_list())


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table; blanks around names, ids and labels are left out."""
    try:
        # whole numbers with gaps stay whole, where numpy's would become floats
        table = pd.read_csv(path, dtype={"slide_id": str, " slide_id": str}, dtype_backend="numpy_nullable")
    except UnicodeDecodeError as error:
        raise ValueError(f"labels: {path} is not in UTF-8 ({error}); save it as CSV UTF-8") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(
            f"labels: {path}: expected a CSV with slide_id and label, cannot be read ({error})"
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    for name in {"slide_id", "label"} & set(table.columns):
        if pd.api.types.is_string_dtype(table[name]):
            table[name] = table[name].str.strip().replace("", pd.NA)
    return table


def _are_finite(values: np.ndarray) -> bool:
    """Whether all are finite numbers."""
    try:
        return bool(np.isfinite(values.astype(np.float64)).all())
    except (TypeError, ValueError):
        return False
