"""Survival in a cohort of TCGA: what the scripts of the cohorts share."""

import sys
from collections.abc import Sequence
from pathlib import Path

import histograph as hg

from . import common
from .pictures import Case, Recipe, sampled

EXPECTED = (
    "slides (*.svs, in any subfolders) and survival.csv with case_id, slide_id, survival_months, censorship"
)


def read(folder: Path, table_path: Path) -> list[Case]:
    """Join slides and survival table on the slide id, the file name without its ending."""
    slides = {path.stem: path for path in sorted(folder.rglob("*.svs"))}
    if not slides or not table_path.is_file():
        sys.exit(
            f"--data: expected {EXPECTED}; found {len(slides)} slides and {common.listed(folder)} in {folder}, "
            f"{'a' if table_path.is_file() else 'no'} table at {table_path}"
        )
    try:
        table = hg.evaluation.read_survival_table(table_path)
    except ValueError as error:
        sys.exit(f"--table: {error}")
    cases = [
        Case(slides[row.slide_id], row.slide_id, row.case_id, time=row.time, event=row.event)
        for row in table.itertuples()
        if row.slide_id in slides
    ]
    if not cases:
        sys.exit(
            f"--table: none of its {len(table)} slides is in {folder}; the table has {table['slide_id'].iloc[0]!r}, "
            f"the folder {next(iter(slides))!r}"
        )
    for count, what in (
        (len(table) - len(cases), "rows have no slide"),
        (len(slides) - len(cases), "slides have no row"),
    ):
        if count:
            print(f"{count} {what} and are left out")
    return cases


def main(cohort: str, doc: str | None, argv: Sequence[str] | None) -> int:
    """Run the benchmark of a cohort and print its table."""
    parser = common.options_of(cohort, doc)
    parser.add_argument("--table", type=Path, help="survival table, .csv or .zip (FOLDER/survival.csv)")
    parser.add_argument(
        "--windows", type=int, default=100, help="windows of 128 um a slide, most tissue first"
    )
    options = parser.parse_args(argv)
    folder = common.folder_of(options, EXPECTED)
    if folder is None:
        return 0
    cases = sampled(read(folder, options.table or folder / "survival.csv"), options.limit)
    recipe = Recipe(window_um=128.0, windows=options.windows)
    scores = common.experiment(cases, recipe, options, common.survive)
    common.print_table(scores, ("C-index x 100",), {}, "not found")
    print("The numbers of the paper's survival experiments could not be found, only that it has them.")
    return 0
