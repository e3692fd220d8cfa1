"""Slides in the graph files of the released PAMA code."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.data import Data

from .torch_files import read_torch_file, some

_ADVICE = (
    "where you trust it, load it with torch.load(path, weights_only=False) and save what you need of it again"
)
_FEATURES, _PLACES = "feature_array", "patch_pos"
_LISTS = ("npks", "k_index")


def read_released_slide(
    path: str | os.PathLike[str], *, patch_um: float, patches_per_anchor: int | None = 144
) -> Data:
    """Read one slide from a graph file (.pth) of the released PAMA code.

    Distances and angles in the file are not read: they follow from the positions.

    Parameters
    ----------
    path : path-like
        The file, opened without running code from it.
    patch_um : float
        Micrometres of a grid step, which the file does not tell. The released patches are 256 pixels at 20x: 128 at
        0.5 micrometres a pixel. Nothing in PAMA depends on it; pictures and edges of the graph do.
    patches_per_anchor : int, optional
        Which of the file's lists of anchors to take, those for 9, 18, 36, 64, 100, 144, 256 or 400 patches an anchor
        in released files; None to leave anchors to the method. A patch can come up twice.

    Returns
    -------
    torch_geometric.data.Data
        ``x`` (P, C) float32, ``pos`` (P, 2) float32 micrometres, x then y of the patches' centres, ``anchor_index``
        (K,) int64 unless left out, and ``slide_id``, the file's name without its ending.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read safely, lacks something, or what it has does not fit together.

    Examples
    --------
    >>> import tempfile
    >>> slide = {"feature_array": np.ones((2, 3)), "patch_pos": np.array([[0, 0], [0, 1]])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(slide | {"npks": [144], "k_index": [np.array([1])]}, f"{folder}/a.pth")
    ...     data = read_released_slide(f"{folder}/a.pth", patch_um=128.0)
    >>> data.pos.tolist(), data.anchor_index.tolist(), data.slide_id
    ([[64.0, 64.0], [192.0, 64.0]], [1], 'a')
    """
    if not (patch_um > 0 and np.isfinite(patch_um)):
        raise ValueError(f"patch_um must be above 0, found {patch_um}")
    content = read_torch_file(path, "path", _ADVICE)
    needed = (_FEATURES, _PLACES, *(() if patches_per_anchor is None else _LISTS))
    missing = [name for name in needed if name not in content]
    if missing:
        raise ValueError(
            f"path: {path} lacks {some(missing)} of a graph file of the released PAMA; it has "
            f"{some(sorted(map(str, content)))}"
        )
    x, places = _table(content[_FEATURES], _FEATURES, None, path), _table(content[_PLACES], _PLACES, 2, path)
    if len(x) != len(places) or len(x) == 0:
        raise ValueError(
            f"path: {path} must have features and a position for each patch, and at least one; found {len(x)} rows in "
            f"{_FEATURES} and {len(places)} in {_PLACES}"
        )
    # row and column of the patch's upper left corner
    pos = (places[:, ::-1].astype(np.float64) + 0.5) * patch_um
    data = Data(
        x=torch.from_numpy(x.astype(np.float32)),
        pos=torch.from_numpy(pos.astype(np.float32)),
        slide_id=Path(path).stem,
    )
    if patches_per_anchor is not None:
        data.anchor_index = torch.from_numpy(_anchors(content, patches_per_anchor, len(x), path))
    return data


def _table(
    values: Any, name: str, columns: int | None, path: str | os.PathLike[str]
) -> NDArray[np.number[Any]]:
    """Give an array of the file, with so many columns."""
    table = np.asarray(values)
    if table.dtype.kind not in "fiu" or table.ndim != 2 or columns not in (None, table.shape[1]):
        raise ValueError(
            f"path: {name} of {path} must be numbers of shape (P, {columns or 'C'}), found {table.dtype} of shape "
            f"{table.shape}"
        )
    wrong = ~np.isfinite(table).all(1)
    if wrong.any():
        raise ValueError(
            f"path: {name} of {path} must be finite, found NaN or infinity in row {int(wrong.argmax())}"
        )
    return table


def _anchors(
    content: Any, patches_per_anchor: int, patches: int, path: str | os.PathLike[str]
) -> NDArray[np.int64]:
    """Give one of the file's lists of anchors."""
    offered = [int(number) for number in content["npks"]]
    if patches_per_anchor not in offered or len(content["k_index"]) != len(offered):
        raise ValueError(
            f"patches_per_anchor must be one of those in {path}, {some(list(map(str, offered)))}, with as many lists "
            f"in k_index, or None; found {patches_per_anchor} and {len(content['k_index'])} lists"
        )
    rows = np.asarray(content["k_index"][offered.index(patches_per_anchor)])
    if (
        rows.ndim != 1
        or rows.dtype.kind not in "iu"
        or not len(rows)
        or rows.min() < 0
        or rows.max() >= patches
    ):
        raise ValueError(
            f"path: k_index of {path} must be rows of its {patches} patches, found {rows.dtype} of shape {rows.shape}"
            + (f", {rows.min()} .. {rows.max()}" if rows.size else "")
        )
    return rows.astype(np.int64)
