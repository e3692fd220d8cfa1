"""Many files of patch features to a folder of graph files."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pandas as pd
from torch_geometric.data import Data

from histograph.graphs.many import Job, checked_paths, run_jobs
from histograph.graphs.patch_h5 import read_patch_features, reading_options
from histograph.graphs.patch_layout import require_h5py
from histograph.graphs.provenance import parameters_hash


def convert_many(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    mpp: float | tuple[float, float] | Mapping[str, Any] | None = None,
    *,
    patch_size_level0: float | tuple[float, float] | None = None,
    step_level0: float | tuple[float, float] | None = None,
    coords_from: str | os.PathLike[str] | None = None,
    features_key: str | None = None,
    coords_key: str | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    skip_errors: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Convert many HDF5 files of patch features to graph files, one a slide, and write a manifest.

    Like `build_many`: each file is written whole or not at all, a later run with equal options skips what is
    complete, and a broken file is reported in its row and does not stop the others. `GraphDataset` opens
    the folder.

    Parameters
    ----------
    files : sequence of str or os.PathLike
        The HDF5 files; their stems, the slide ids, must differ.
    out : str or os.PathLike
        Folder for ``<slide_id>.safetensors`` and ``manifest.parquet``; made if missing.
    mpp : float, (float, float) or mapping, optional
        Micrometres per level-0 pixel; a mapping goes by slide id.
    patch_size_level0, step_level0, features_key, coords_key
        As of `read_patch_features`, for all files.
    coords_from : str or os.PathLike, optional
        Folder that holds, by slide id, the files with the coordinates or their attributes: ``<slide_id>.h5``
        as of CLAM, or ``<slide_id>_patches.h5`` as of TRIDENT.
    executor, overwrite, skip_errors, progress
        As of `build_many`.

    Returns
    -------
    pandas.DataFrame
        As of `build_many`.

    Raises
    ------
    ValueError
        Two files have one stem, or there are none.
    FileNotFoundError
        `coords_from` is not a folder.
    ImportError
        h5py is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = convert_many(["missing.h5"], folder, mpp=0.25, progress=False)
    >>> table.loc[0, "error"]
    'FileNotFoundError: missing.h5: no such file'
    """
    require_h5py()
    paths = checked_paths(files, "files")
    if coords_from is not None and not Path(coords_from).is_dir():
        raise FileNotFoundError(f"coords_from: no folder {coords_from}; for one file use read_patch_features")
    jobs = []
    for path in paths:
        options: dict[str, Any] = {
            "mpp": mpp.get(path.stem) if isinstance(mpp, Mapping) else mpp,
            "patch_size_level0": patch_size_level0,
            "step_level0": step_level0,
            "coords_from": None if coords_from is None else _partner(Path(coords_from), path.stem),
            "features_key": features_key,
            "coords_key": coords_key,
        }
        jobs.append(Job(path, parameters_hash(reading_options(**options)), options))
    return run_jobs(_read, jobs, out, executor, overwrite, skip_errors, progress)


def _partner(folder: Path, stem: str) -> Path:
    """Find the file of the coordinates of a slide; where there is none, reading it says so."""
    names = [f"{stem}.h5", f"{stem}_patches.h5"]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _read(path: Path, options: dict[str, Any]) -> Data:
    """Read the graph of one file."""
    return read_patch_features(path, **options)
