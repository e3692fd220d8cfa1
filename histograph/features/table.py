"""A table of features: one row an entity, one named column with its unit a feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeatureTable"]


@dataclass(frozen=True, eq=False, repr=False)
class FeatureTable:
    """Features of N entities: values, what each column is, its unit, and whose row each is.

    Parameters
    ----------
    values : (N, F) float array
        One row an entity, one column a feature; finite. Stored as float32.
    names : sequence of F str
        Column names, unique.
    units : sequence of F str
        Unit of every column: "µm²", "µm", "OD", "1" for a pure number, …
    label : (N,) integer array
        Entity label of every row, unique. Stored as int64.

    Raises
    ------
    ValueError
        When the shapes disagree, a name or label repeats, or a value is not finite.
    TypeError
        When `values` is not numeric or `label` not integer.

    Examples
    --------
    >>> table = FeatureTable([[4.0, 8.0]], ["area", "perimeter"], ["µm²", "µm"], [7])
    >>> table
    FeatureTable(1 entities, 2 features: area [µm²], perimeter [µm])
    >>> table.select(["perimeter"]).values
    array([[8.]], dtype=float32)
    """

    values: npt.NDArray[np.float32]
    names: list[str]
    units: list[str]
    label: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        values, label = np.asarray(self.values), np.asarray(self.label)
        names, units = list(self.names), list(self.units)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"values must be real numbers, found dtype {values.dtype}")
        if label.size and label.dtype.kind not in "iu":
            raise TypeError(f"label must be integers, found dtype {label.dtype}")
        if values.ndim != 2:
            raise ValueError(f"values must have shape (N, F), found shape {values.shape}")
        if label.shape != (len(values),):
            raise ValueError(
                f"label must have shape ({len(values)},) as values has rows, found {label.shape}"
            )
        if not len(names) == len(units) == values.shape[1]:
            raise ValueError(
                f"names and units must have one entry a column of values ({values.shape[1]}), "
                f"found {len(names)} names and {len(units)} units"
            )
        if len(set(names)) != len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"names must be unique, found more than once: {repeated}")
        if len(np.unique(label)) != len(label):
            raise ValueError("label must be unique: every entity has one row")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"values must be finite, found {values[row, column]} in column {names[column]!r} "
                f"of entity {label[row]}"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "units", units)
        object.__setattr__(self, "label", np.ascontiguousarray(label, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        shown = ", ".join(f"{n} [{u}]" for n, u in zip(self.names[:6], self.units[:6]))
        more = f", and {len(self.names) - 6} more" if len(self.names) > 6 else ""
        return f"FeatureTable({len(self)} entities, {len(self.names)} features: {shown}{more})"

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        """Return one column, a view of shape (N,)."""
        return self.values[:, self._columns([name])[0]]

    def _columns(self, names: Sequence[str]) -> list[int]:
        place = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            raise ValueError(f"names {missing} are not in this table; it has {self.names}")
        return [place[name] for name in names]

    def select(self, names: Sequence[str]) -> FeatureTable:
        """Return the named columns, in the order asked.

        Parameters
        ----------
        names : sequence of str
            Column names, each in `self.names`.

        Returns
        -------
        FeatureTable
            Same rows, fewer columns.

        Raises
        ------
        ValueError
            When a name is not in the table.

        Examples
        --------
        >>> table = FeatureTable([[4.0, 8.0]], ["area", "perimeter"], ["µm²", "µm"], [7])
        >>> table.select(["perimeter", "area"]).units
        ['µm', 'µm²']
        """
        if isinstance(names, str):
            raise ValueError(
                f"names must be a sequence of column names, found the string {names!r}; use [{names!r}]"
            )
        index = self._columns(names)
        units = [self.units[i] for i in index]
        return FeatureTable(self.values[:, index], list(names), units, self.label)

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with the labels as index; units are in `frame.attrs["units"]`.

        Returns
        -------
        pandas.DataFrame
            N rows, F float32 columns.

        Examples
        --------
        >>> FeatureTable([[4.0]], ["area"], ["µm²"], [7]).to_frame()
               area
        label
        7       4.0
        """
        import pandas as pd

        index = pd.Index(self.label, name="label")
        frame = pd.DataFrame(self.values.copy(), columns=list(self.names), index=index)
        frame.attrs["units"] = dict(zip(self.names, self.units))
        return frame

    @staticmethod
    def concatenate(tables: Sequence[FeatureTable], axis: int = 0) -> FeatureTable:
        """Put tables below each other (more entities) or beside each other (more features).

        Parameters
        ----------
        tables : sequence of FeatureTable
            At least one. For `axis=0` all have the same names and units, in the same order, and no label
            twice; for `axis=1` all have the same labels in the same order, and no name twice.
        axis : {0, 1}
            0 stacks rows, 1 columns.

        Returns
        -------
        FeatureTable
            The joined table.

        Raises
        ------
        ValueError
            When the tables do not fit together.

        Examples
        --------
        >>> one = FeatureTable([[4.0]], ["area"], ["µm²"], [7])
        >>> two = FeatureTable([[9.0]], ["area"], ["µm²"], [3])
        >>> FeatureTable.concatenate([one, two]).label
        array([7, 3])
        """
        tables = list(tables)
        if not tables:
            raise ValueError("tables must hold at least one FeatureTable, found none")
        if axis not in (0, 1):
            raise ValueError(f"axis must be 0 (rows) or 1 (columns), found {axis!r}")
        first = tables[0]
        for i, table in enumerate(tables[1:], start=1):
            if axis == 0 and (table.names, table.units) != (first.names, first.units):
                raise ValueError(
                    f"tables must have the same names and units, tables[{i}] differs from tables[0]"
                )
            if axis == 1 and not np.array_equal(table.label, first.label):
                raise ValueError(f"tables must have the same label in the same order, tables[{i}] differs")
        values = np.concatenate([table.values for table in tables], axis=axis)
        if axis == 0:
            return FeatureTable(values, first.names, first.units, np.concatenate([t.label for t in tables]))
        names = [name for table in tables for name in table.names]
        units = [unit for table in tables for unit in table.units]
        return FeatureTable(values, names, units, first.label)

    def _repr_html_(self) -> str:
        """Return a short HTML summary: range of every column with its unit."""
        from html import escape

        rows = []
        for name, unit, column in zip(self.names, self.units, self.values.T):
            numbers = "".join(f"<td>{v:.4g}</td>" for v in _five_numbers(column))
            rows.append(f"<tr><td>{escape(name)}</td><td>{escape(unit)}</td>{numbers}</tr>")
        head = "".join(f"<th>{h}</th>" for h in ("feature", "unit", "min", "median", "max", "mean", "std"))
        return f"<p>{len(self)} entities</p><table><tr>{head}</tr>{''.join(rows)}</table>"


def _five_numbers(column: npt.NDArray[np.float32]) -> tuple[float, ...]:
    if not len(column):
        return ()
    wide = column.astype(np.float64)
    return (wide.min(), float(np.median(wide)), wide.max(), wide.mean(), wide.std())
