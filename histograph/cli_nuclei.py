"""What `histograph nuclei` does: slides in, one file of nuclei each out."""

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
    folder = out / UNFINISHED
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
        If the format is unknown, or two slides have one name.

    Examples
    --------
    >>> write_nuclei([], Path("nowhere"), "csv", None, False, {})
    True
    """
    from histograph.entities import nuclei
    from histograph.formats import FORMATS, to_geojson, write_entities
    from histograph.slides import open_slide

    if to not in FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(FORMATS)}; found {to}", param_hint="--to")
    check_targets(slides, [out / f"{path.stem}{FORMATS[to]}" for path in slides])
    fine = True
    for path in slides:
        target = out / f"{path.stem}{FORMATS[to]}"
        if target.exists() and not overwrite:
            print(f"{'skipped':8s} {path.name}: {target} is there")
            continue
        try:
            out.mkdir(parents=True, exist_ok=True)
            with open_slide(path, mpp=mpp) as slide:
                cells = nuclei(slide, resume=out / UNFINISHED, progress=True, **arguments)
                if to.startswith("geojson"):
                    to_geojson(cells, target, slide=slide)
                else:
                    write_entities(cells, target, to)
            print(f"{'done':8s} {path.name}: {len(cells)} nuclei in {target}")
        except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
            fine = False
            print(f"{'failed':8s} {path.name}: {error}")
    remove_unfinished(out)
    return fine
