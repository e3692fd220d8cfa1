"""What `histograph nuclei` does: slides in, one file of nuclei each out."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

UNFINISHED = "unfinished"  # folder in --out for the tiles of slides that are not done


def remove_unfinished(out: Path) -> None:
    """Remove the folder for the tiles of slides that are not done, if there are none.

    Parameters
    ----------
    out
        The folder that holds it.

    Examples
    --------
    >>> remove_unfinished(Path("nowhere"))
    """
    # otherwise it is not there, or holds tiles: of this run, or of another one at the same time
    with suppress(OSError):
        (out / UNFINISHED).rmdir()


def check_targets(sources: list[Path], targets: list[Path]) -> None:
    """Refuse files whose results would have one name, before one of them takes the place of the other.

    Parameters
    ----------
    sources
        What is read.
    targets
        What is written of each.

    Raises
    ------
    typer.BadParameter
        If two are the same.

    Examples
    --------
    >>> check_targets([Path("a/1.svs"), Path("b/2.svs")], [Path("1.csv"), Path("2.csv")])
    """
    first: dict[Path, Path] = {}
    for source, target in zip(sources, targets, strict=True):
        if first.setdefault(target, source) is not source:
            raise typer.BadParameter(
                f"{first[target]} and {source} would both be written to {target}; give each an --out of its own"
            )


def check_out(out: Path) -> None:
    """Refuse a file in place of the folder of the results.

    Parameters
    ----------
    out
        The folder; need not exist.

    Raises
    ------
    typer.BadParameter
        If it is a file.

    Examples
    --------
    >>> check_out(Path("nowhere"))
    """
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"must be a folder, or nothing yet; {out} is a file", param_hint="--out")


def write_nuclei(
    slides: list[Path], out: Path, to: str, mpp: float | None, overwrite: bool, arguments: dict[str, Any]
) -> bool:
    """Find the nuclei of each slide and write them; say what became of it.

    Parameters
    ----------
    slides
        Files.
    out
        Folder of the results, and of unfinished tiles.
    to
        A key of `histograph.formats.FORMATS`.
    mpp
        As of `open_slide`.
    overwrite
        Search again where the file is there.
    arguments
        Of `histograph.entities.nuclei`.

    Returns
    -------
    bool
        Whether none has failed.

    Raises
    ------
    typer.BadParameter
        If the format is unknown, two slides have one name, or `out` is a file.
    ImportError
        If the package for the format is not installed.

    Examples
    --------
    >>> write_nuclei([], Path("nowhere"), "csv", None, False, {})
    True
    """
    from histograph.formats import FORMATS
    from histograph.formats.convert import check_package

    if to not in FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(FORMATS)}; found {to}", param_hint="--to")
    check_package(to)  # now, and not when the nuclei are found
    check_out(out)
    check_targets(slides, [out / f"{path.stem}{FORMATS[to]}" for path in slides])
    fine = True
    for path in slides:
        target = out / f"{path.stem}{FORMATS[to]}"
        if target.exists() and not overwrite:
            print(f"{'skipped':8s} {path.name}: {target} is there")
            continue
        try:
            count = _write(path, target, to, mpp, arguments)
            print(f"{'done':8s} {path.name}: {count} nuclei in {target}")
        except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
            if isinstance(error, FileNotFoundError) and path.exists() and target.exists() and not overwrite:
                print(f"{'skipped':8s} {path.name}: {target} has been written by another process meanwhile")
                continue
            fine = False
            print(f"{'failed':8s} {path.name}: {error}")
    remove_unfinished(out)
    return fine


def _write(path: Path, target: Path, to: str, mpp: float | None, arguments: dict[str, Any]) -> int:
    """Find the nuclei of a slide and write them; return their number."""
    from histograph.entities import nuclei
    from histograph.entities.parts_on_disk import kept_until_written
    from histograph.formats import to_geojson, write_entities
    from histograph.formats.pixels import keep_level0, pixel_frame
    from histograph.slides import open_slide

    target.parent.mkdir(parents=True, exist_ok=True)
    with open_slide(path, mpp=mpp) as slide, kept_until_written():
        cells = nuclei(slide, resume=target.parent / UNFINISHED, progress=True, **arguments)
        keep_level0(cells.parameters, pixel_frame(None, slide, None))
        if to.startswith("geojson"):
            to_geojson(cells, target, slide=slide)
        else:
            write_entities(cells, target, to)
    return len(cells)
