"""Entities to AnnData and back: no edges, but every column, id and colour."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..entities.entities import Entities
from .pixels import LEVEL0, keep_level0, pixel_frame
from .polygon_batch import reordered
from .tables import type_words, whole_ids

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["entities_from_anndata"]

KEY = "histograph"

#: Columns of `obs` with a place of their own, or that only say to which element of a SpatialData a row belongs.
_PLACED = ("area_um2",)


def matrix_columns(columns: dict[str, NDArray[Any]]) -> tuple[NDArray[Any] | None, list[str]]:
    """Put columns of numbers side by side, as far as one type of number holds them all exactly.

    Parameters
    ----------
    columns : dict
        Columns by name; words are passed over.

    Returns
    -------
    values : ndarray, (N, F) float32 or float64, or None
        None without columns.
    names : list of str
        Those that are in it.

    Examples
    --------
    >>> values, names = matrix_columns({"a": np.array([1, 2]), "b": np.array(["x", "y"]), "c": np.array([2**60, 1])})
    >>> values.dtype, names
    (dtype('float64'), ['a'])
    """
    exact = {}
    for name, column in columns.items():
        column = np.asarray(column)
        if column.dtype.kind == "f" or (
            column.dtype.kind in "biu" and (np.abs(column.astype(np.float64)) <= 2**53).all()
        ):
            exact[name] = column
    if not exact:
        return None, []
    dtype = np.result_type(np.float32, *(column.dtype for column in exact.values()))
    return np.stack([column.astype(dtype) for column in exact.values()], axis=1), list(exact)


def table_columns(table: AnnData, without: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Return `X` and `obs` of a table as columns: numbers and words, in the types that they had.

    Parameters
    ----------
    table : anndata.AnnData
        The table.
    without : tuple of str
        Columns of `obs` to leave out.

    Returns
    -------
    dict
        "" stands for a word that is missing; "obs id" is a column called "id".

    Raises
    ------
    ValueError
        A name is in `obs` and in `var_names`, or comes twice.
    """
    values = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    columns: dict[str, NDArray[Any]] = {}
    for number, name in enumerate([] if table.X is None else map(str, table.var_names)):
        if name in columns or name in table.obs:
            raise ValueError(f"column {name!r} comes twice, in var_names and obs; rename one")
        columns[name] = np.ascontiguousarray(values[:, number])
    for name in table.obs:
        if name in _PLACED or name in without:
            continue
        column = table.obs[name]
        if column.dtype.kind in "biuf":
            columns[str(name)] = column.to_numpy()
        else:
            columns[str(name)] = column.astype(object).where(column.notna(), "").to_numpy().astype(np.str_)
    if "id" in columns:  # the ids are the obs_names
        columns["obs id"] = columns.pop("id")
    if "type" in columns:
        columns["type"] = type_words(columns["type"])
    own = table.uns.get(KEY, {})
    known = zip(map(str, own.get("columns", ())), map(str, own.get("dtypes", ())), strict=True)
    order = {name: dtype for name, dtype in known if name in columns}
    for name, dtype in order.items():
        if columns[name].dtype.kind in "biuf" and np.dtype(dtype).kind in "biuf":
            columns[name] = columns[name].astype(dtype)
    return {name: columns[name] for name in [*order, *(n for n in columns if n not in order)]}


def type_colors(table: AnnData) -> dict[str, list[int]]:
    """Return the colours of types, which scanpy and squidpy keep as ``uns["type_colors"]``.

    Parameters
    ----------
    table : anndata.AnnData
        The table.

    Returns
    -------
    dict
        Red, green and blue by type; empty where there are none.
    """
    if "type" not in table.obs or "type_colors" not in table.uns:
        return {}
    names = table.obs["type"].astype("category").cat.categories
    colors = [str(color) for color in table.uns["type_colors"]]
    return {
        str(name): [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        for name, color in zip(names, colors, strict=False)
        if re.fullmatch("#[0-9a-fA-F]{6,8}", color)
    }


def add_type_colors(table: AnnData, colors: dict[str, Any]) -> None:
    """Keep the colours of types where scanpy and squidpy look for them.

    Parameters
    ----------
    table : anndata.AnnData
        With ``obs["type"]`` as categories.
    colors : dict
        Red, green and blue by type; nothing is kept unless every type has one.
    """
    names = [] if "type" not in table.obs else list(table.obs["type"].cat.categories)
    if names and all(name in colors for name in names):
        table.uns["type_colors"] = np.array(
            ["#" + "".join(f"{c:02x}" for c in colors[n]) for n in names], object
        )


def entities_from_anndata(
    table: AnnData,
    mpp: float | tuple[float, float] | None = None,
    unit: str | None = None,
    kind: str | None = None,
    raster_mpp: float | None = None,
) -> Entities:
    """Make entities without masks of an AnnData with ``obsm["spatial"]``; its edges stay behind.

    Parameters
    ----------
    table : anndata.AnnData
        One of `to_anndata`, or squidpy's.
    mpp : float or (float, float), optional
        µm per pixel of ``obsm["spatial"]``; only where it counts in pixels.
    unit : {"um", "px"}, optional
        What ``obsm["spatial"]`` counts in. Needed unless `to_anndata` made the table, for AnnData does not say it.
    kind : {"cell", "tissue", "patch", "region"}, optional
        What the objects are; by default what the table says, else "cell".
    raster_mpp : float, optional
        Pixel size in µm that the entities are given; by default that of the entities the table was made from, else 0.5.

    Returns
    -------
    Entities
        Labels are the obs_names where they are positive whole numbers, else 1, 2, … in the order of the table with the
        names in ``columns["id"]``. ``X`` and ``obs`` are columns, ``uns["type_colors"]`` colours of types.

    Raises
    ------
    ValueError
        There are no positions, their unit is not known, one is not finite, or an id comes twice.

    Examples
    --------
    >>> from histograph.formats import to_anndata
    >>> cells = Entities.from_instance_map([[9, 4, 4]], mpp=0.5)
    >>> try:
    ...     label = entities_from_anndata(to_anndata(cells)).label
    ... except ImportError:
    ...     label = np.array([4, 9])  # pip install "histograph[interop]"
    >>> label
    array([4, 9])
    """
    from .ann_data import positions_unit

    if "spatial" not in table.obsm:
        raise ValueError("table: expected positions in obsm['spatial'], found none")
    own = dict(table.uns.get(KEY, {}))
    pixels = positions_unit(own, unit) == "px"
    if pixels == (mpp is None):
        raise ValueError(
            "mpp: obsm['spatial'] is in pixels; give mpp=, their size in µm"
            if pixels
            else "mpp: is for positions in pixels, and obsm['spatial'] is in µm; leave it out"
        )
    pos = np.asarray(table.obsm["spatial"], np.float64)
    if pos.ndim != 2 or pos.shape[1] != 2:
        raise ValueError(f"table: obsm['spatial'] must have shape (N, 2), found {pos.shape}")
    pos = pos if mpp is None else pixel_frame(mpp, None, None).to_um(pos)
    wrong = np.flatnonzero(~np.isfinite(pos).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"obsm['spatial'], row {wrong[0] + 1}: expected finite numbers, found {pos[wrong[0]]}"
        )
    box = np.asarray(table.obsm["bbox"], np.float64) if own and "bbox" in table.obsm else np.tile(pos, 2)
    area = np.zeros(len(pos))
    if "area_um2" in table.obs:
        if table.obs["area_um2"].dtype.kind not in "iuf":
            raise ValueError(f"obs['area_um2']: expected numbers, found {table.obs['area_um2'].dtype}")
        area = table.obs["area_um2"].to_numpy(np.float64)
    names = np.array(table.obs_names, np.str_)
    twice = np.flatnonzero(table.obs_names.duplicated())
    if len(twice):
        raise ValueError(
            f"obs_names, row {twice[0] + 1}: {str(names[twice[0]])!r} comes twice; give each its own"
        )
    label = whole_ids(names) if own.get("integer_ids", True) else None
    columns = table_columns(table)
    if label is None:
        columns = {"id": names, **columns}
        label = np.arange(1, len(names) + 1)
    parameters: dict[str, Any] = {"finder": "anndata"}
    colors = type_colors(table)
    if colors:
        parameters["type_colors"] = colors
    keep_level0(parameters, own.get(LEVEL0), f"uns[{KEY!r}]")
    raster = float(raster_mpp or own.get("raster_mpp", 0.5))
    order = np.argsort(label, kind="stable")
    by_place = Entities(
        kind or str(own.get("node_type", "cell")),
        np.arange(1, len(pos) + 1),
        pos,
        box,
        area,
        raster,
        None,
        parameters,
        None,
        columns,
    )
    return reordered(by_place, label, order)
