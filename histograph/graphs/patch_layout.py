"""What lies in an HDF5 file of patch features: features, corners and attributes, whatever wrote it."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# Spellings in use: CLAM and TRIDENT say features and coords, STAMP says feats.
FEATURES = ("features", "feats")
COORDS = ("coords", "coordinates")

# Names of tiles as in "Tile_(16896,20480).jpg": x and y of the top-left corner.
_IN_NAME = re.compile(r"\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)")


@dataclass(frozen=True)
class PatchArrays:
    """The content of a file of patch features, checked, before units are given a meaning.

    Parameters
    ----------
    features : ndarray
        (N, F) float32, finite.
    corner : ndarray
        (N, 2) float64, top-left corners, x then y, in the unit of the file.
    attributes : dict
        Attributes of the coordinates and of the file, as plain numbers, strings and lists.
    ids : ndarray or None
        (N,) int64, where the file holds ids.
    feature_names : list of str or None
        Names of the columns, where the file holds them.

    Examples
    --------
    >>> PatchArrays(np.zeros((1, 2), np.float32), np.zeros((1, 2)), {"patch_size": 256}).ids is None
    True
    """

    features: np.ndarray
    corner: np.ndarray
    attributes: dict[str, Any]
    ids: np.ndarray | None = None
    feature_names: list[str] | None = None


def require_h5py() -> ModuleType:
    """Import h5py, or say how to install it.

    Returns
    -------
    module
        h5py.

    Raises
    ------
    ImportError
        It is not installed.

    Examples
    --------
    >>> require_h5py().__name__
    'h5py'
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            'HDF5 files need h5py, which is not installed: pip install "histograph[interop]"'
        ) from error
    return h5py


def read_arrays(
    path: str | os.PathLike[str],
    coords_from: str | os.PathLike[str] | None = None,
    features_key: str | None = None,
    coords_key: str | None = None,
) -> PatchArrays:
    """Read features, corners and attributes of one slide.

    Parameters
    ----------
    path : str or os.PathLike
        The file with the features.
    coords_from : str or os.PathLike, optional
        A second file with the coordinates or their attributes, such as CLAM's ``patches/slide.h5``.
    features_key, coords_key : str, optional
        Datasets to read, where they have unusual names or there are several.

    Returns
    -------
    PatchArrays
        Attributes of `path` come before those of `coords_from`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not HDF5 or cut off, a dataset is missing, ambiguous or of the wrong shape or type, the
        two differ in length, the two files hold different coordinates, or a value is NaN or infinite.

    Examples
    --------
    >>> read_arrays("nowhere.h5")
    Traceback (most recent call last):
    ...
    FileNotFoundError: nowhere.h5: no such file
    """
    with _opened(path) as file:
        features = _features(file, path, features_key)
        names = _names(file, features.shape[1])
        own = _coords(file, path, coords_key, required=coords_from is None, count=len(features))
        ids = _ids(file, len(features)) if own is not None else None
        attributes = _attributes(file, coords_key)
    other = None
    if coords_from is not None:
        with _opened(coords_from) as file:
            other = _coords(file, coords_from, coords_key, required=own is None, count=None)
            attributes = {**_attributes(file, coords_key), **attributes}
    corner = own if own is not None else other
    if corner is None:  # both are None only where _coords has raised
        raise ValueError(f"{path}: no coordinates")
    source = path if own is not None else coords_from
    if len(corner) != len(features):
        raise ValueError(
            f"{path}: {len(features)} rows of features but {len(corner)} coordinates (in {source}); each patch "
            "needs one of both: extract the features again from these coordinates"
        )
    if own is not None and other is not None:
        _check_same(own, other, path, coords_from)
    return PatchArrays(features, corner, attributes, ids, feature_names=names)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open an HDF5 file for reading; what goes wrong then and later becomes one sentence that names it."""
    path, h5py = Path(path), require_h5py()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected an HDF5 file; convert_many takes many files")
    with path.open("rb"):  # permission errors by their own name
        pass
    if not h5py.is_hdf5(path):
        raise ValueError(
            f"{path}: not an HDF5 file; expected the .h5 with coords and features that CLAM, TRIDENT or STAMP "
            "writes (a .pt file has no coordinates)"
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: damaged or cut off HDF5 file: {error}") from error


def _datasets(file: Any) -> dict[str, Any]:
    """All datasets of a file by path."""
    h5py, found = require_h5py(), {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return found


def _listing(file: Any) -> str:
    """Name the datasets of a file with their shapes, for messages."""
    return ", ".join(f"{name} {item.shape}" for name, item in _datasets(file).items()) or "no dataset"


def _pick(file: Any, path: Any, key: str | None, usual: Sequence[str], what: str) -> Any:
    """Find the one dataset that is meant; None where no key is given and none has a usual name."""
    found = _datasets(file)
    if key is not None:
        if key.strip("/") not in found:
            raise ValueError(f"{what}_key: {path} has no dataset {key!r}; it has {_listing(file)}")
        return found[key.strip("/")]
    there = [name for name in usual if name in found]
    if len(there) > 1:
        raise ValueError(
            f"{path}: both {' and '.join(there)} could be the {what}; say which, e.g. {what}_key={there[0]!r}"
        )
    return found[there[0]] if there else None


def _features(file: Any, path: Any, key: str | None) -> np.ndarray:
    """Read the features as (N, F) float32."""
    dataset = _pick(file, path, key, FEATURES, "features")
    if dataset is None:
        raise ValueError(
            f"{path}: no dataset called {' or '.join(FEATURES)}; it has {_listing(file)}. Name it with "
            "features_key=, or, if these are patches without features, give the file of the features"
        )
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {dataset.name} must hold numbers, found {dataset.dtype}")
    shape = dataset.shape
    values = dataset[()]
    if len(shape) == 3 and shape[0] == 1:
        values = values[0]
    elif shape == (0,):  # what some writers make of a slide without patches
        values = values.reshape(0, 0)
    elif len(shape) == 1:
        raise ValueError(
            f"{path}: {dataset.name} has shape {shape}: one vector for the whole slide; expected (N, F), one "
            "row a patch: give the file of the patch features"
        )
    elif len(shape) != 2:
        raise ValueError(f"{path}: {dataset.name} must have shape (N, F) or (1, N, F), found {shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
        result = np.ascontiguousarray(values, dtype=np.float32)
    _check_finite(result, f"{path}: {dataset.name}", "extract the features of this patch again")
    return result


def _check_finite(values: np.ndarray, where: str, advice: str) -> None:
    """Check that rows are finite; name the first that is not."""
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where} holds NaN or infinity in {int(bad.sum())} of {len(values)} rows, first in row "
            f"{int(bad.argmax())}; {advice}"
        )


def _coords(file: Any, path: Any, key: str | None, required: bool, count: int | None) -> np.ndarray | None:
    """Read the corners as (N, 2) float64, from a dataset or else from the names of the tiles."""
    dataset = _pick(file, path, key, COORDS, "coords")
    if dataset is None:
        return _corners_in_names(file, path, required, count)
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {dataset.name} must hold numbers, found {dataset.dtype}")
    _refuse_level_pixels(file, path)
    values = np.asarray(dataset[()], dtype=np.float64)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.shape == (0,):
        values = values.reshape(0, 2)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(
            f"{path}: {dataset.name} must have shape (N, 2), x then y of the top-left corner, found {values.shape}"
        )
    _check_finite(values, f"{path}: {dataset.name}", "drop this patch")
    return values


def _refuse_level_pixels(file: Any, path: Any) -> None:
    """Refuse CLAM's old bags of images, whose coordinates count pixels of the patch level."""
    images = file.get("imgs")
    if images is None:
        return
    factors = np.atleast_1d(np.asarray(images.attrs.get("downsample", 1.0), dtype=np.float64))
    if not np.allclose(factors, 1.0):
        raise ValueError(
            f"{path}: an old CLAM bag with images, whose coordinates count pixels of level "
            f"{images.attrs.get('patch_level', '?')} (downsample {factors.tolist()}), not of level 0; make the "
            "patches with create_patches_fp.py, or multiply the coordinates and write them to another file"
        )


def _corners_in_names(file: Any, path: Any, required: bool, count: int | None) -> np.ndarray | None:
    """Read the corners out of the names of the tiles, where they have such names."""
    h5py, seen = require_h5py(), ""
    for name, dataset in _datasets(file).items():
        if dataset.ndim != 1 or h5py.check_string_dtype(dataset.dtype) is None:
            continue
        if count is not None and len(dataset) != count:
            continue
        names = dataset.asstr()[()]
        found = [_IN_NAME.search(item) for item in names]
        if len(found) and all(found):
            return np.array([match.groups() for match in found if match], dtype=np.float64)
        if len(names):
            seen = f"; the names in {name} (first {names[0]!r}) do not hold them as '(x,y)'"
    if required:
        raise ValueError(
            f"{path}: no coordinates: no dataset called {' or '.join(COORDS)}{seen}. It has {_listing(file)}. "
            "Name it with coords_key=, or give the file that has them with coords_from="
        )
    return None


def _check_same(own: np.ndarray, other: np.ndarray, path: Any, coords_from: Any) -> None:
    """Check that two files speak of the same patches in the same order."""
    if own.shape != other.shape:
        raise ValueError(
            f"coords_from: {coords_from} holds {len(other)} coordinates but {path} holds {len(own)}; they are "
            "not of the same run"
        )
    differ = (own != other).any(axis=1)
    if differ.any():
        row = int(differ.argmax())
        raise ValueError(
            f"coords_from: {coords_from} and {path} differ in {int(differ.sum())} coordinates, first in row {row}: "
            f"{other[row].tolist()} and {own[row].tolist()}; they are not of the same run"
        )


def _ids(file: Any, count: int) -> np.ndarray | None:
    """Read the ids of the patches; None where an "id" is something else: no whole numbers, or not each once."""
    dataset = file.get("id")
    if not isinstance(dataset, require_h5py().Dataset) or dataset.shape != (count,):
        return None
    ids = dataset[()]
    if ids.dtype.kind not in "iu" or len(np.unique(ids)) < count:
        return None
    return ids.astype(np.int64)


def _names(file: Any, width: int) -> list[str] | None:
    """Read the names of the feature columns, where there are such."""
    dataset, h5py = file.get("feature_names"), require_h5py()
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != (width,):
        return None
    if h5py.check_string_dtype(dataset.dtype) is None:
        return None
    return [str(item) for item in dataset.asstr()[()]]


def _attributes(file: Any, key: str | None) -> dict[str, Any]:
    """Collect the attributes of the file and of its coordinates as plain data; the latter win."""
    result = _plain(file.attrs)
    for name in (key,) if key else COORDS:
        if name in file:
            result |= _plain(file[name].attrs)
    return result


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Bring attributes to numbers, strings and lists; leave out what stands for nothing."""
    result: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, (np.ndarray, np.generic)):
            value = value.tolist()
        if (
            isinstance(value, (bool, int, float, str, list)) and value != "None"
        ):  # TRIDENT writes None as "None"
            result[name] = value
    return result
