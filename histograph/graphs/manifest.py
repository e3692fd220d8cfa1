"""The manifest of a folder of graph files: one row a slide, kept by every run into the folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from histograph.atomic import atomic_path
from histograph.graphs.header import NotAGraph, read_header

MANIFEST = "manifest.parquet"

COLUMNS = {
    "slide_id": "string",
    "status": "string",
    "error": "string",
    "file": "string",
    "slide": "string",
    "seconds": "Float64",
    "nodes": "Int64",
    "edges": "Int64",
    "mpp_x": "Float64",
    "mpp_y": "Float64",
    "parameters_hash": "string",
}

Row = dict[str, Any]


def row_of_header(header: dict[str, Any], target: Path, status: str, seconds: float | None) -> Row:
    """Make the row of a graph file that is there.

    Parameters
    ----------
    header : dict
        Of the file, as `read_header` gives it.
    target : Path
        The file.
    status : {"built", "skipped"}
        Whether it was made now or is from an earlier run.
    seconds : float, optional
        What making it took, if known.

    Returns
    -------
    dict
        By the names of `COLUMNS`.

    Examples
    --------
    >>> from histograph.graphs import example_graph, save
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(example_graph(), Path(folder) / "a.safetensors")
    ...     row = row_of_header(read_header(path), path, "skipped", 0.0)
    >>> row["slide_id"], row["file"], row["nodes"]
    ('a', 'a.safetensors', 64)
    """
    made = header.get("provenance") or {}
    return {
        "slide_id": target.stem,
        "status": status,
        "error": None,
        "file": target.name,
        "slide": made.get("slide", {}).get("path"),
        "seconds": seconds,
        "nodes": sum(header["num_nodes"].values()),
        "edges": sum(header["num_edges"].values()),
        "mpp_x": float(header["mpp"][0]),
        "mpp_y": float(header["mpp"][1]),
        "parameters_hash": made.get("parameters_hash"),
    }


def table_of(rows: list[Row]) -> pd.DataFrame:
    """Bring rows to a table with fixed columns and types.

    Parameters
    ----------
    rows : list of dict
        As of `row_of_header`; what a row lacks is missing.

    Returns
    -------
    pandas.DataFrame
        In the order given.

    Examples
    --------
    >>> table_of([{"slide_id": "a", "status": "failed"}]).loc[0, "status"]
    'failed'
    """
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def write_manifest(table: pd.DataFrame, folder: Path) -> None:
    """Write the manifest: rows of this run, earlier ones but of files that are gone, and of graphs without a row.

    Several runs may write into one folder at a time, as the jobs of a cluster do. Each takes in what the others
    have put there, and looks again after writing, so that no graph is left without its row.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of this run.
    folder : Path
        Of the graph files.

    Raises
    ------
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> from histograph.graphs import example_graph, save
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name)
    ...     _ = save(example_graph(), folder / "of_another_run.safetensors")
    ...     write_manifest(table_of([{"slide_id": "a", "status": "failed"}]), folder)
    ...     pd.read_parquet(folder / MANIFEST)["slide_id"].tolist()
    ['a', 'of_another_run']
    """
    path = folder / MANIFEST
    while True:
        rows: dict[str, Row] = {}
        if path.is_file():
            rows = {row["slide_id"]: row for row in _kept(path, folder)}
        rows |= {row["slide_id"]: row for row in table.to_dict("records")}
        rows |= {row["slide_id"]: row for row in _rows_of_others(set(rows), folder)}
        with atomic_path(path) as part:
            table_of([rows[name] for name in sorted(rows)]).to_parquet(part, index=False)
        if not any(_rows_of_others(set(pd.read_parquet(path)["slide_id"]), folder)):
            return


def listed_files(folder: Path) -> list[Path]:
    """Give the graph files of a folder: all that its manifest does not call failed.

    Files of graphs without a row count too, such as those of a run that was killed. Other safetensors files, of
    trained methods for example, do not, where there is a manifest to tell.

    Parameters
    ----------
    folder : Path
        With or without a manifest.

    Returns
    -------
    list of Path
        By name; also those that the manifest lists and that are gone, so that opening them says so.

    Examples
    --------
    >>> from histograph.graphs import example_graph, save
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     _ = save(example_graph(), Path(name) / "a.safetensors")
    ...     [path.name for path in listed_files(Path(name))]
    ['a.safetensors']
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return sorted(folder.glob("[!.]*.safetensors"))
    table = pd.read_parquet(manifest)
    complete = {folder / name for name in table.loc[table["status"] != "failed", "file"]}
    others = (path for path in _without_row(set(table["slide_id"]), folder) if _may_be_graph(path))
    return sorted(complete.union(others))


def _kept(path: Path, folder: Path) -> Iterator[Row]:
    """Give the rows of a manifest, but those whose file is gone."""
    for row in pd.read_parquet(path).astype(COLUMNS).to_dict("records"):
        # a failure is kept: there may be a file of other options, from before, that must not be taken for this slide's
        if row["status"] == "failed" or (folder / row["file"]).is_file():
            yield row


def _without_row(known: set[str], folder: Path) -> Iterator[Path]:
    """Give the safetensors files of slides that are not known."""
    return (path for path in folder.glob("[!.]*.safetensors") if path.stem not in known)


def _rows_of_others(known: set[str], folder: Path) -> Iterator[Row]:
    """Give rows of graphs that have none; files that are no whole graphs are left alone."""
    for path in _without_row(known, folder):
        try:
            header = read_header(path)
        except (ValueError, FileNotFoundError):
            continue
        yield row_of_header(header, path, "built", None)


def _may_be_graph(path: Path) -> bool:
    """Whether a file is a graph, or a broken one that must not be passed over."""
    try:
        read_header(path)
    except NotAGraph:
        return False
    except ValueError:
        return True
    return True
