"""Many slides to many graph files: one independent job a slide, on any executor, and a manifest."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from histograph.entities.parts_on_disk import kept_until_written
from histograph.graphs.build import build_graph
from histograph.graphs.header import read_header
from histograph.graphs.manifest import row_of_header, table_of, write_manifest
from histograph.graphs.plan import make_plan
from histograph.graphs.provenance import describe, file_sample, parameters, parameters_hash
from histograph.graphs.schema import Graph
from histograph.graphs.store import save

# What a slide may raise: unreadable files, sizes beyond memory, arithmetic on strange content. A mistake in
# the options is found before the first slide is opened.
SLIDE_ERRORS = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError)


def build_many(
    slides: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    executor: Executor | None = None,
    overwrite: bool = False,
    skip_errors: bool = True,
    mpp: float | tuple[float, float] | Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Build the graphs of many slides, one file a slide, and write a manifest.

    Each file is written whole or not at all. A later run with the same options skips the slides whose file is
    complete and was built with equal options (a hash of them is in the file); other options build it again. A
    slide that fails is reported in its row and does not stop the others.

    Parameters
    ----------
    slides : sequence of str or os.PathLike
        Slide files; their stems, the slide ids, must differ.
    out : str or os.PathLike
        Folder for ``<slide_id>.safetensors`` and ``manifest.parquet``; made if missing.
    executor : concurrent.futures.Executor, optional
        Where the jobs run, e.g. ``ProcessPoolExecutor(8)`` or
        ``dask.distributed.Client(…).get_executor()``; left open. Default: one after another in this process.
    overwrite : bool
        Build slides again that are complete.
    skip_errors : bool
        Go on after a slide that fails; False raises its error.
    mpp : float, (float, float) or mapping, optional
        Micrometres per level-0 pixel for files that do not say; a mapping goes by slide id.
    progress : bool
        Show a progress bar over the slides.
    **options
        Of `build_graph`: entities, edges, features, mask, workers, encoder.

    Returns
    -------
    pandas.DataFrame
        One row a slide, in the order given: slide_id, status (``built``, ``skipped``, ``failed``), error,
        file, slide, seconds, nodes, edges, mpp_x, mpp_y, parameters_hash. The manifest holds these rows and
        those of earlier runs into the same folder.

    Raises
    ------
    ValueError
        Two slides have one stem, there are none, or an option is unknown.
    OSError
        The folder cannot be made or written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = build_many(["missing.svs"], folder, progress=False)
    >>> table.loc[0, "status"]
    'failed'
    """
    paths = checked_paths(slides)
    unknown = set(options) - {"entities", "edges", "features", "mask", "workers", "encoder"}
    if unknown:
        raise ValueError(
            f"options: unknown {sorted(unknown)}; valid are entities, edges, features, mask, workers, encoder"
        )
    plan = make_plan(
        options.get("entities", ("cell", "tissue", "patch")),
        options.get("edges"),
        options.get("features"),
        options.get("encoder"),
    )
    described = parameters(
        plan, options.get("mask", "auto"), None
    )  # once: it reads all weights of an encoder
    jobs = []
    for path in paths:
        own_mpp = mpp.get(path.stem) if isinstance(mpp, Mapping) else mpp
        code = parameters_hash({**described, "mpp": describe(own_mpp)})
        jobs.append(Job(path, code, {"mpp": own_mpp, **options}))
    return run_jobs(_build, jobs, out, executor, overwrite, skip_errors, progress)


def _build(path: Path, options: dict[str, Any]) -> Graph:
    """Build the graph of one slide."""
    return build_graph(path, progress=False, **options)


@dataclass(frozen=True)
class Job:
    """One graph file to make.

    Parameters
    ----------
    path : Path
        What it is made from; the stem is the slide id.
    code : str
        Hash of the options, as in the provenance of the graph that is made with them.
    options : dict
        The options.

    Examples
    --------
    >>> Job(Path("a.svs"), "0" * 16, {}).path.stem
    'a'
    """

    path: Path
    code: str
    options: dict[str, Any]


def run_jobs(
    make: Callable[[Path, dict[str, Any]], Graph],
    jobs: Sequence[Job],
    out: str | os.PathLike[str],
    executor: Executor | None = None,
    overwrite: bool = False,
    skip_errors: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Make many graph files and their manifest: what `build_many` and `convert_many` share.

    Parameters
    ----------
    make : callable
        From a path and options to a graph; a function of a module, so that it can be sent to a process.
    jobs : sequence of Job
        One a file.
    out, executor, overwrite, skip_errors, progress
        As of `build_many`.

    Returns
    -------
    pandas.DataFrame
        As of `build_many`, in the order of the jobs.

    Raises
    ------
    OSError
        The folder cannot be made or written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     len(run_jobs(_build, [], folder, progress=False))
    0
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[Job, Path]] = []
    for job in jobs:
        target = folder / f"{job.path.stem}.safetensors"
        ready = None if overwrite else _complete(job.path, target, job.code)
        if ready is None:
            waiting.append((job, target))
        else:
            rows[job.path.stem] = ready
    try:
        _run(make, waiting, executor, skip_errors, progress, rows)
    finally:  # also after Ctrl-C: what is built is built, and the manifest says so
        table = table_of([rows[job.path.stem] for job in jobs if job.path.stem in rows])
        write_manifest(table, folder)
    return table


def checked_paths(slides: Sequence[str | os.PathLike[str]], name: str = "slides") -> list[Path]:
    """Check that there are files and that their stems, the slide ids, differ.

    Parameters
    ----------
    slides : sequence of str or os.PathLike
        The files.
    name : str
        What messages call the argument.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ValueError
        There are none, or two have one stem.
    TypeError
        One path instead of a sequence.

    Examples
    --------
    >>> [path.stem for path in checked_paths(["a.svs", "b.svs"])]
    ['a', 'b']
    """
    if isinstance(slides, (str, os.PathLike)):
        raise TypeError(f"{name}: expected a sequence of paths, found one path; write [{str(slides)!r}]")
    paths = [Path(slide) for slide in slides]
    if not paths:
        raise ValueError(f"{name}: expected at least one path, found none")
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise ValueError(
                f"{name}: {seen[path.stem]} and {path} would both be written to {path.stem}.safetensors; "
                "rename one, or build them into two folders"
            )
        seen[path.stem] = path
    return paths


def _complete(path: Path, target: Path, code: str) -> dict[str, Any] | None:
    """Give the row of a slide that is done with equal options, or None."""
    if not target.is_file() or not path.is_file():  # a missing slide is an error, not done
        return None
    try:
        header = read_header(target)
    except ValueError:  # cut off or not ours: built again
        return None
    made = header.get("provenance") or {}
    source = made.get("slide", {})
    if made.get("parameters_hash") != code or source.get("bytes") != path.stat().st_size:
        return None  # other options, or another slide of the same name
    if source.get("sample") not in (None, file_sample(path)):  # files of features keep their size
        return None
    return row_of_header(header, target, "skipped", 0.0) | {"slide": str(path)}


def _job(make: Callable[[Path, dict[str, Any]], Graph], job: Job, target: Path) -> dict[str, Any]:
    """Make and write one graph; the whole of what a worker does."""
    start = time.perf_counter()
    with kept_until_written():  # an encoder may fail, or the disk be full, when all nuclei are found
        graph = make(job.path, job.options)
        save(graph, target)
    seconds = round(time.perf_counter() - start, 3)
    return row_of_header(read_header(target), target, "built", seconds) | {"slide": str(job.path)}


def _failure(error: BaseException, job: Job) -> dict[str, Any]:
    """Make the row of a slide that failed."""
    return {
        "slide_id": job.path.stem,
        "status": "failed",
        "error": f"{type(error).__name__}: {error}",
        "slide": str(job.path),
        "seconds": 0.0,
        "parameters_hash": job.code,
    }


def _run(
    make: Callable[[Path, dict[str, Any]], Graph],
    jobs: list[tuple[Job, Path]],
    executor: Executor | None,
    skip_errors: bool,
    progress: bool,
    rows: dict[str, dict[str, Any]],
) -> None:
    """Run the jobs here or on an executor, filling in `rows` as they end."""
    bar = tqdm(total=len(jobs), desc="slides", unit="slide", disable=not progress)
    with bar:
        if executor is None:
            for job, target in jobs:
                try:
                    rows[job.path.stem] = _job(make, job, target)
                except SLIDE_ERRORS as error:
                    rows[job.path.stem] = _failure(error, job)
                    if not skip_errors:
                        raise
                bar.update()
            return
        futures: dict[Future[dict[str, Any]], tuple[Job, Path]] = {
            executor.submit(_job, make, job, target): (job, target) for job, target in jobs
        }
        try:
            for future in as_completed(futures):
                job, target = futures[future]
                problem = future.exception()
                rows[job.path.stem] = future.result() if problem is None else _failure(problem, job)
                if problem is not None and not skip_errors:
                    raise problem
                bar.update()
        finally:  # after an error or Ctrl-C: jobs that have not begun do not begin
            for future in futures:
                future.cancel()
