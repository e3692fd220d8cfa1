"""Tables of centroids in and out: CSV and Parquet, with the unit of every length in its column's name."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import atomic_path
from ..entities.entities import Entities
from .ids import row_ids
from .json_stream import check_file

if TYPE_CHECKING:
    import pyarrow as pa

    from ..features import FeatureTable
    from ..graphs.schema import Graph

__all__ = ["read_table", "write_table"]

TABLE_SUFFIXES = (".csv", ".parquet")
_BOX = ("x_min_um", "y_min_um", "x_max_um", "y_max_um")
_BOX_PX = tuple(name.replace("_um", "_px") for name in _BOX)
_ROWS = 100_000
#: How units are spelt in the names of columns.
_UNITS = {"µm": "um", "µm²": "um2", "µm⁻¹": "per_um", "1": "", "": "", "rad": "rad", "OD": "od"}


def write_table(
    source: Entities | Graph,
    path: str | os.PathLike[str],
    features: FeatureTable | None = None,
    node_type: str | None = None,
) -> Path:
    """Write the centroids of entities, or the nodes of a graph, as a table: one row each.

    Columns: ``id``, ``x_um``, ``y_um``, ``area_um2`` and the bounding box where they are known, ``type`` and all other
    columns of the entities or features of the nodes.

    Parameters
    ----------
    source : Entities, Data or HeteroData
        What to write.
    path : str or os.PathLike
        The file, ending in .csv or .parquet.
    features : FeatureTable, optional
        Further columns of entities, joined on labels; units are added to the names (``perimeter_um``). Its area in
        µm² is left out, as the entities have one.
    node_type : str, optional
        Which layer of a HeteroData.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        The suffix is another, a name or an id comes twice, or an entity has no features.

    Examples
    --------
    >>> import tempfile
    >>> cells = Entities.from_instance_map([[4, 4, 9]], mpp=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_table(cells, Path(folder) / "cells.csv").read_text().splitlines()[1])
    4,0.5,0.25,0.5,0,0,1,0.5
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    path = Path(path)
    suffix = _suffix(path)
    columns = _table_columns(source, features, node_type)
    schema = pa.schema(
        [(name, pa.from_numpy_dtype(c.dtype) if c.dtype.kind != "U" else pa.string()) for name, c in columns]
    )
    count = len(columns[0][1])
    with atomic_path(path) as part:
        if suffix == ".csv":
            writer: Any = pa.csv.CSVWriter(
                part, schema, write_options=pa.csv.WriteOptions(quoting_style="needed")
            )
        else:
            writer = pa.parquet.ParquetWriter(part, schema)
        with writer:
            for start in range(0, count, _ROWS):
                arrays = [pa.array(column[start : start + _ROWS]) for _, column in columns]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
    return path


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(
            f"path: expected a name that ends in {' or '.join(TABLE_SUFFIXES)}, found {path.name!r}"
        )
    return path.suffix.lower()


def _table_columns(
    source: Entities | Graph, features: FeatureTable | None, node_type: str | None
) -> list[tuple[str, NDArray[Any]]]:
    """Return names and values of all columns."""
    if isinstance(source, Entities):
        if node_type is not None:
            raise ValueError("node_type: is for graphs; entities have one kind")
        label: NDArray[Any] = source.label
        ids = row_ids(source)
        pos, rest = source.centroid, source.columns
        box: NDArray[Any] | None = source.bbox
        area: NDArray[Any] | None = source.area
    else:
        from .graph_nodes import graph_nodes

        if features is not None:
            raise ValueError("features: a graph has features of its own; join others before it is built")
        nodes = graph_nodes(source, node_type)
        ids = np.array(nodes.ids, np.str_) if nodes.label is None else nodes.label
        pos, box, area, rest = nodes.pos, nodes.bbox, nodes.area, nodes.columns
    columns: list[tuple[str, NDArray[Any]]] = [("id", ids), ("x_um", pos[:, 0]), ("y_um", pos[:, 1])]
    if area is not None:
        columns.append(("area_um2", area))
    if box is not None:
        columns += [(name, box[:, k]) for k, name in enumerate(_BOX)]
    for name, column in rest.items():
        if name != "id":
            columns.append((name, type_words(column) if name == "type" else np.asarray(column)))
    if features is not None:
        columns += _feature_columns(features, label)
    names = [name for name, _ in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns: {twice[0]!r} would come twice in the table; rename it")
    return [(name, np.ascontiguousarray(column)) for name, column in columns]


def _feature_columns(features: FeatureTable, label: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """Features in the order of the labels, units in the names."""
    order = np.argsort(features.label, kind="stable")
    place = np.minimum(np.searchsorted(features.label[order], label), max(len(order) - 1, 0))
    if len(label) and (not len(order) or (features.label[order][place] != label).any()):
        raise ValueError("features: some entities have no row; measure these entities with entity_features")
    rows = order[place] if len(label) else order[:0]
    found = []
    for k, (name, unit) in enumerate(zip(features.names, features.units, strict=True)):
        spelt = _UNITS.get(unit, unit)
        full = f"{name}_{spelt}" if spelt and not name.endswith(f"_{spelt}") else name
        if full != "area_um2":
            found.append((full, features.values[rows, k]))
    return found


def read_table(
    path: str | os.PathLike[str],
    mpp: float | tuple[float, float] | None = None,
    *,
    kind: str = "cell",
    raster_mpp: float = 0.5,
) -> Entities:
    r"""Read a table of centroids as entities without masks.

    The columns of the centroids say their unit: ``x_um`` and ``y_um``, or ``x_px`` and ``y_px`` together with `mpp`.
    Without a bounding box in the table (``x_min_um``, … or ``x_min_px``, …) an entity is a point: its bbox has no
    extent. A CSV's ids and types are words; other words that look like numbers are read as such.

    Parameters
    ----------
    path : str or os.PathLike
        A .csv or .parquet file.
    mpp : float or (float, float), optional
        µm per pixel of ``x_px`` and ``y_px``; only for these.
    kind : {"cell", "tissue", "patch", "region"}
        What the objects are.
    raster_mpp : float
        Pixel size in µm that the entities are given, for `Entities.instance_map`.

    Returns
    -------
    Entities
        Labels are the column ``id`` where it holds positive whole numbers, else 1, 2, … in the order of the file with
        the ids in ``columns["id"]``. All further columns are kept.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is empty or damaged, has no centroids, does not say their unit or mixes two, an id comes twice, or a
        coordinate is missing. The message names the file and the row.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cells.csv"
    ...     _ = file.write_text("id,x_um,y_um,type\nb,1.5,2,tumour\na,3,4,stroma\n")
    ...     cells = read_table(file)
    >>> cells.columns["id"], cells.centroid.tolist()
    (array(['b', 'a'], dtype='<U1'), [[1.5, 2.0], [3.0, 4.0]])
    """
    path = check_file(path)
    names = _names(path, _suffix(path))
    parts = _batches(path, _suffix(path))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the column {twice[0]!r} comes twice")
    unit = _position_unit(names, path)
    scale = _scale(unit, mpp, path)
    columns = {name: _column(name, [part.column(k) for part in parts], path) for k, name in enumerate(names)}
    pos = (
        np.stack([_real(columns.pop(f"{axis}_{unit}"), f"{axis}_{unit}", path) for axis in "xy"], axis=1)
        * scale
    )
    label, order, columns = _identify(columns, len(pos), path)
    if "type" in columns:
        columns["type"] = type_words(columns["type"])
    area = columns.pop("area_um2", None)
    box = np.tile(pos, 2)
    corners = _box_columns(names, unit, path)
    if corners:
        box = np.stack([_real(columns.pop(name), name, path) for name in corners], axis=1)
        box = box * (np.tile(np.broadcast_to(scale, 2), 2) if corners == _BOX_PX else 1.0)
        _check_order(box, corners, path)
    area = np.zeros(len(pos)) if area is None else _real(area, "area_um2", path)
    if (area < 0).any():
        row = int(np.flatnonzero(area < 0)[0])
        raise ValueError(f"{path}, row {row + 1}: area_um2 is {area[row]:g}, expected at least 0")
    return Entities(
        kind,
        label[order],
        pos[order],
        box[order],
        area[order],
        raster_mpp,
        None,
        {"finder": "table", "file": path.name},
        None,
        {name: column[order] for name, column in columns.items()},
    )


def table_unit(path: str | os.PathLike[str]) -> str:
    r"""Return what the centroids of a table count in.

    Parameters
    ----------
    path : str or os.PathLike
        A .csv or .parquet file.

    Returns
    -------
    {"um", "px"}

    Raises
    ------
    FileNotFoundError, ValueError
        As of `read_table`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.csv").write_text("x_px,y_px\n1,2\n")
    ...     table_unit(Path(folder) / "a.csv")
    'px'
    """
    path = check_file(path)
    return _position_unit(_names(path, _suffix(path)), path)


def _position_unit(names: list[str], path: Path) -> str:
    """Return the unit of the centroids, "um" or "px"."""
    found = [unit for unit in ("um", "px") if f"x_{unit}" in names or f"y_{unit}" in names]
    if len(found) == 2:
        raise ValueError(f"{path}: the centroids are in µm and in pixels (x_um … and x_px …); keep one pair")
    if not found:
        raise ValueError(
            f"{path}: expected centroids in columns x_um, y_um (micrometres) or x_px, y_px (pixels), so that their "
            f"unit is known; found {', '.join(names)}"
        )
    missing = [name for name in (f"x_{found[0]}", f"y_{found[0]}") if name not in names]
    if missing:
        raise ValueError(f"{path}: the column {missing[0]} is missing; found {', '.join(names)}")
    return found[0]


def _box_columns(names: list[str], unit: str, path: Path) -> tuple[str, ...]:
    """Return the columns of the bounding box, none where there is none."""
    found = [corners for corners in (_BOX, _BOX_PX) if any(name in names for name in corners)]
    if not found:
        return ()
    if len(found) == 2 or (found[0] == _BOX_PX and unit == "um"):
        raise ValueError(
            f"{path}: the table counts in µm and in pixels (x_min_px beside x_{unit} or x_min_um); keep one unit"
        )
    missing = [name for name in found[0] if name not in names]
    if missing:
        raise ValueError(
            f"{path}: the column {missing[0]} of the bounding box is missing; give all four or none"
        )
    return found[0]


def _scale(unit: str, mpp: Any, path: Path) -> Any:
    from .pixels import pixel_frame

    if unit == "px":
        return pixel_frame(mpp, None, None, None, str(path)).mpp
    if mpp is not None:
        raise ValueError(f"mpp: is for centroids in pixels, and {path} has them in µm; leave it out")
    return 1.0


def _check_order(box: NDArray[np.float64], names: tuple[str, ...], path: Path) -> None:
    """Refuse boxes that end before they begin."""
    wrong = np.argwhere(box[:, 2:] < box[:, :2])
    if len(wrong):
        row, axis = wrong[0].tolist()
        raise ValueError(f"{path}, row {row + 1}: {names[axis + 2]} is less than {names[axis]}")


def _options() -> dict[str, Any]:
    """How a CSV is read."""
    import pyarrow as pa
    import pyarrow.csv

    return {
        # one thread, for only then the row of an error is known
        "read_options": pa.csv.ReadOptions(use_threads=False),
        "convert_options": pa.csv.ConvertOptions(column_types={"id": pa.string(), "type": pa.string()}),
    }


def _names(path: Path, suffix: str) -> list[str]:
    """Names of the columns of a file."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    with _readable(path):
        if suffix == ".csv":
            _check_commas(path)
            with pa.csv.open_csv(path, **_options()) as reader:
                return reader.schema.names
        with pa.parquet.ParquetFile(path) as file:
            return file.schema_arrow.names


def _check_commas(path: Path) -> None:
    """Refuse tables whose columns are parted in another way, before that reads as one column with a long name."""
    with path.open("rb") as file:
        head = file.readline(10**6)
    found = next((name for mark, name in ((b";", "semicolons"), (b"\t", "tabs")) if mark in head), None)
    if found is not None and b"," not in head:
        raise ValueError(
            f"{path}: its columns are parted by {found}; expected commas between columns and points in decimals"
        )


def _batches(path: Path, suffix: str) -> list[pa.RecordBatch]:
    """Read a file, at least one piece of it."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    with _readable(path):
        if suffix == ".csv":
            # the type of a column is what fits all of its values, not those of the first piece
            table = pa.csv.read_csv(path, **_options())
            parts, schema = table.to_batches(), table.schema
        else:
            with pa.parquet.ParquetFile(path) as file:
                parts, schema = list(file.iter_batches(_ROWS)), file.schema_arrow
        return parts or [pa.RecordBatch.from_pylist([], schema=schema)]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}), or compressed") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise ValueError(f"{path} is damaged or no table: {error}") from error


def _column(name: str, parts: list[pa.Array], path: Path) -> NDArray[Any]:
    """One column as numbers or words; NaN and "" where a row has none."""
    import pyarrow as pa

    whole = pa.chunked_array(parts)
    kind = whole.type
    if pa.types.is_dictionary(kind) or pa.types.is_string_view(kind):
        whole = whole.cast(pa.string())
    if pa.types.is_string(whole.type) or pa.types.is_large_string(whole.type):
        return np.array(whole.fill_null("").to_pylist(), np.str_).reshape(-1)
    if pa.types.is_null(kind):
        return np.full(len(whole), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        why = (
            ", for it is no UTF-8 text" if pa.types.is_binary(kind) and path.suffix.lower() == ".csv" else ""
        )
        raise ValueError(f"{path}: column {name!r} is of type {kind}{why}; expected numbers or words")
    if whole.null_count:
        try:
            whole = whole.cast(pa.float64()).fill_null(math.nan)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{path}: column {name!r} has gaps, which numbers beyond 2^53 cannot have ({error}); write words"
            ) from error
    return whole.to_numpy()


def _real(column: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    """Return a column of numbers, checked for gaps."""
    if column.dtype.kind not in "iuf":
        bad = next((row for row, word in enumerate(column.tolist()) if not _is_number(word)), 0)
        raise ValueError(f"{path}, row {bad + 1}: {name} is {str(column[bad])!r}, expected a number")
    values = column.astype(np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{path}, row {row + 1}: {name} is missing or infinite")
    return values


def _is_number(word: Any) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def whole_ids(ids: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return ids as labels where all are positive whole numbers, else None.

    Parameters
    ----------
    ids : ndarray, (N,)
        Numbers, or words; of words only those that a number is written as.

    Returns
    -------
    ndarray, (N,) int64, or None

    Examples
    --------
    >>> whole_ids(np.array(["7", "12"])), whole_ids(np.array(["7", "012"])), whole_ids(np.array([3.0, 5.0]))
    (array([ 7, 12]), None, array([3, 5]))
    """
    if ids.dtype.kind == "U":
        try:
            whole = ids.astype(np.int64)
        except (ValueError, OverflowError):
            return None
        return whole if (whole > 0).all() and (whole.astype(np.str_) == ids).all() else None
    if ids.dtype.kind not in "iuf" or not (ids > 0).all() or not (ids < 2**63).all():
        return None
    whole = ids.astype(np.int64)
    return whole if (whole == ids).all() else None


def _identify(columns: dict[str, Any], count: int, path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Labels, the order of them, and the columns that stay."""
    order = np.arange(count)
    ids = columns.get("id")
    if ids is None or not count:
        return order + 1, order, {k: v for k, v in columns.items() if k != "id"}
    missing = np.flatnonzero(ids == "" if ids.dtype.kind == "U" else ids != ids)
    if len(missing):
        raise ValueError(f"{path}, row {missing[0] + 1}: the id is missing; give each its own, or none an id")
    by_id = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[by_id][1:] == ids[by_id][:-1])
    if len(twice):
        first, second = by_id[twice[0]] + 1, by_id[twice[0] + 1] + 1
        raise ValueError(
            f"{path}, row {second}: the id {ids[second - 1]} is that of row {first} too; give each its own"
        )
    label = whole_ids(ids) if ids.dtype.kind != "U" or path.suffix.lower() == ".csv" else None
    if label is None:
        return order + 1, order, {**columns, "id": ids.astype(np.str_)}
    return label, np.argsort(label, kind="stable"), {k: v for k, v in columns.items() if k != "id"}


def type_words(column: Any) -> NDArray[np.str_]:
    """Return types as words, where they are numbers.

    Parameters
    ----------
    column : array_like, (N,)
        Names of types, or their numbers.

    Returns
    -------
    ndarray, (N,) of words
        "" where a number is missing.

    Examples
    --------
    >>> type_words(np.array([1.0, np.nan])).tolist()
    ['1', '']
    """
    column = np.asarray(column)
    if column.dtype.kind == "U":
        return column
    if column.dtype.kind not in "iuf":
        return column.astype(np.str_)
    words = [str(int(v)) if math.isfinite(v) and v == int(v) else str(v) for v in column.tolist()]
    return np.where(column == column, np.array(words, np.str_).reshape(-1), "")
