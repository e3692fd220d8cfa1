"""Subtypes of slides told from frozen vectors of their regions, as HIPT does: what the scripts of the tasks share."""

import argparse
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hmgdm.common import folder_of, listed
from hmgdm.pictures import Case, sampled
from pama.tcga import counts, read_labels
from sklearn.neighbors import KNeighborsClassifier

import histograph as hg
from histograph.evaluation import (
    Fold,
    ProbeResult,
    few_labels,
    fold_scores,
    grouped_split,
    mil_probe,
    read_folds,
    score_classes,
    slide_means,
)
from histograph.evaluation.bags import as_bags
from histograph.evaluation.survival_table import slide_stem

#: Vectors of the regions of each slide, (n, D).
Slides = list[np.ndarray]

EXPECTED = (
    "vectors of the regions of each slide: SLIDE.pt, a tensor (regions, D), or (regions, F, rows, columns) of grids of "
    "patch features, in any subfolders"
)
GIVEN, PATCHES = "given vectors", "mean of patches"
NEIGHBOURS = "kNN of mean vectors"
HEADS = {"mean": "mean MIL", "attention": "attention MIL", "clam": "CLAM-SB", "transformer": "HIPT's head"}
# AUC x 1000 of test parts, mean and population standard deviation over 10 folds, as recomputed from result files in the
# repository of HIPT; of BRCA, NSCLC and RCC, with 25 % and 100 % of the training part. None: not there.
Cell = tuple[int, int | None] | None
HIPT: dict[str, tuple[Cell, Cell, Cell, Cell, Cell, Cell]] = {
    "mean MIL": ((673, 106), (778, 86), (857, 56), (892, 40), (904, 52), (959, 14)),
    "CLAM-SB": ((796, 60), (859, 63), (852, 32), (928, 20), (957, 12), (973, 17)),
    "mi-FCN": ((685, 104), (784, 58), (663, 73), (778, 43), (904, 23), (943, 15)),
    "patch GCN": ((727, 72), (840, 69), (748, 47), (831, 33), (923, 12), (957, 12)),
    "DS-MIL": ((760, 84), (838, 71), (787, 69), (920, 23), (949, 26), (971, 15)),
    "hierarchical attention": ((784, 58), (837, 59), (835, 47), (928, 22), (955, 15), (965, 13)),
    "HIPT, from scratch": ((758, 72), (823, 67), (695, 65), (786, 91), None, (956, 15)),
    "HIPT, fine-tuned": ((762, 84), (827, 65), (652, 72), (820, 44), (936, 21), (956, 12)),
    "HIPT, frozen": ((821, 66), (874, 57), (923, 19), (952, 20), (974, 11), (980, 12)),
    "HIPT, stored region vectors": ((837, 47), (879, 58), (918, 21), (953, 22), (965, 10), (979, 9)),
    "mean MIL, stored region vectors": ((790, 75), (832, 63), (907, 24), (928, 24), (948, 17), (978, 13)),
    "kNN, ResNet-50": ((638, None), (667, None), (696, None), (794, None), (862, None), (951, None)),
    "kNN, ViT-16 mean": ((605, None), (725, None), (622, None), (742, None), (848, None), (899, None)),
    "kNN, ViT-256 mean": ((682, 55), (775, 42), (773, 48), (889, 27), (916, 22), (974, 16)),
}
TASKS = ("BRCA", "NSCLC", "RCC")
NOTE = """\
AUC, of three classes the mean of one against the rest: mean ± population standard deviation over folds; in brackets the
95 % interval of the pairs within folds, by resampling patients. HIPT's rows were recomputed from the result files of
its repository (kNN: its printed table, where "25 %" is 10 % of the training part), not reproduced here; its folds are
those of --splits only. SLPD's own table could not be obtained, so none of its numbers stands here: what a reproduction
has to beat are HIPT's rows of frozen vectors and of kNN.
Ours: vectors stay as they are; Adam, a fixed number of epochs, the last one counts; one slide a step, drawn by the
inverse frequency of its class; a share of labels is one of patients, by class; slides of "val" are not used."""


@dataclass(frozen=True)
class Task:
    """What is asked of the slides.

    Parameters
    ----------
    name : str
        Of HIPT's column.
    classes : tuple of str
        Codes in the column of labels; slides with others are left out.
    """

    name: str
    classes: tuple[str, ...]


def options_of(doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a task."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder with {EXPECTED}")
    parser.add_argument("--labels", type=Path, help="CSV (or .zip of one) with case_id, slide_id and a label")
    parser.add_argument("--label-column", default="oncotree_code", help="column of labels (oncotree_code)")
    parser.add_argument("--splits", type=Path, help="folder of splits_0.csv, … with train, val and test")
    parser.add_argument(
        "--drop-shared",
        action="store_true",
        help="take slides of patients who are tested out of training, in place of refusing the split",
    )
    parser.add_argument(
        "--folds", type=int, default=10, help="folds by patient, where no splits are given (10)"
    )
    parser.add_argument(
        "--method",
        type=Path,
        action="append",
        default=[],
        help="what makes vectors of grids: a method.safetensors of ours, or a checkpoint of HIPT or SLPD; repeatable",
    )
    parser.add_argument("--head", action="append", choices=list(HEADS), help="repeatable (all)")
    parser.add_argument(
        "--share", type=float, action="append", help="of the training part; repeatable (0.25, 1)"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--neighbours", type=int, default=5, help="of the kNN (5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, help="slides of each class, for a smaller run")
    parser.add_argument("--device", default="cpu")
    return parser


def main(task: Task, doc: str | None, argv: Sequence[str] | None) -> int:
    """Run the benchmark of a task and print its table."""
    parser = options_of(doc)
    options = parser.parse_args(argv)
    folder = folder_of(options, EXPECTED)
    if folder is None:
        return 0
    if options.labels is None:
        parser.error("give --labels, a CSV with case_id, slide_id and a label")
    cases = sampled(cases_of(task, options, files_of(folder)), options.limit)
    y, patients = (np.array([getattr(case, name) for case in cases]) for name in ("label", "patient"))
    folds = folds_of(options, cases)
    tested = len(np.unique(np.concatenate([fold.test for fold in folds])))
    print(f"{len(cases)} slides of {len(set(patients))} patients: {counts(cases)}")
    print(f"{len(folds)} folds, which test {tested} slides\n")
    shares = options.share or [0.25, 1.0]
    rows = {}
    for name, slides in vectors_of(cases, options).items():
        for how, probe in probes(options).items():
            rows[name, how] = [
                probe(slides, y, patients, few_labels(folds, y, share, patients, options.seed))
                for share in shares
            ]
    print_table(task, shares, rows)
    return 0


def files_of(folder: Path) -> dict[str, Path]:
    """Find the files of slides."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.pt")):
        name = slide_stem(path.name)
        if name in found:
            sys.exit(f"--data: {found[name]} and {path} are both of slide {name}; keep one of them")
        found[name] = path
    if not found:
        sys.exit(f"--data: expected {EXPECTED}; found {listed(folder)} in {folder}")
    return found


def cases_of(task: Task, options: argparse.Namespace, files: dict[str, Path]) -> list[Case]:
    """Join files and labels on the slide id, and keep the classes of the task."""
    try:
        table = read_labels(options.labels, options.label_column)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"--labels: {error}")
    wanted = table[table["label"].isin(task.classes)]
    missing = sorted(set(task.classes) - set(wanted["label"]))
    if missing:
        held = ", ".join(sorted(map(str, table["label"].unique()))[:8])
        sys.exit(f"--labels: no slide of {', '.join(missing)}; {options.label_column} holds {held}")
    cases = [
        Case(files[row.slide_id], row.slide_id, row.patient, row.label)
        for row in wanted.itertuples()
        if row.slide_id in files
    ]
    if len({case.label for case in cases}) < len(task.classes):
        sys.exit(
            f"--labels: of its {len(wanted)} slides of {', '.join(task.classes)}, {len(cases)} are in --data, "
            f"{counts(cases) or 'none'}; the table has {wanted['slide_id'].iloc[0]!r}, the folder {next(iter(files))!r}"
        )
    for count, what in (
        (len(table) - len(wanted), "slides are of other classes"),
        (len(wanted) - len(cases), "slides of the table have no file"),
        (len(files) - len(cases), "files are of no slide of the table"),
    ):
        if count:
            print(f"{count} {what} and are left out")
    return cases


def folds_of(options: argparse.Namespace, cases: Sequence[Case]) -> list[Fold]:
    """Read the folds, or make some by patient."""
    patients = [case.patient for case in cases]
    try:
        if options.splits is None:
            return grouped_split(patients, [case.label for case in cases], options.folds, options.seed)
        shared = "drop" if options.drop_shared else "refuse"
        return read_folds(options.splits, [case.name for case in cases], patients, shared)
    except (ValueError, FileNotFoundError) as error:
        hint = "; --drop-shared does that" if "share" in str(error) and options.splits else ""
        sys.exit(f"{'--splits' if options.splits else '--folds'}: {error}{hint}")


def vectors_of(cases: Sequence[Case], options: argparse.Namespace) -> dict[str, Slides]:
    """Read the vectors of regions, or make them of grids: by each method, and the mean of the patches."""
    first = read(cases[0].path)
    if first.dim() == 2:
        if options.method:
            sys.exit(f"--method: reads grids of patch features, found vectors in {cases[0].path}")
        return {GIVEN: [vectors(case.path, first.shape[1:]) for case in cases]}
    if first.dim() != 4:
        sys.exit(f"--data: expected {EXPECTED}; found shape {tuple(first.shape)} in {cases[0].path}")
    found = {PATCHES: [vectors(case.path, first.shape[1:]).mean((2, 3)) for case in cases]}
    for path in options.method:
        regions = hg.RegionDataset.from_grids(
            [case.path for case in cases], [case.name for case in cases], [case.patient for case in cases]
        )
        try:
            method = (
                hg.methods.load_method(path)
                if path.suffix == ".safetensors"
                else hg.methods.load_released(path)
            )
            z = np.asarray(hg.embed(method, regions, 64, options.device, progress=False, nodes=False))
        except (ValueError, FileNotFoundError) as error:
            sys.exit(f"--method {path}: {error}")
        found[path.stem if path.stem != "method" else path.parent.name] = [
            z[regions.slide.numpy() == number] for number in range(len(cases))
        ]
    return found


def read(path: Path) -> torch.Tensor:
    """Read a tensor of a slide."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        sys.exit(f"--data: {path} is no file of torch.save with a tensor: {error}")
    if not isinstance(content, torch.Tensor):
        sys.exit(f"--data: {path} must hold a tensor, found {type(content).__name__}")
    return content


def vectors(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the regions of a slide, checked."""
    content = read(path)
    if content.shape[1:] != shape or not len(content):
        sys.exit(
            f"--data: expected (regions, {', '.join(map(str, shape))}) as in the first file, found "
            f"{tuple(content.shape)} in {path}"
        )
    return content.float().numpy()


def probes(options: argparse.Namespace) -> dict[str, Callable[..., ProbeResult]]:
    """Give what is asked of vectors: neighbours of means, and every head."""

    def head(name: str) -> Callable[..., ProbeResult]:
        return lambda slides, y, patients, folds: mil_probe(
            slides,
            y,
            groups=patients,
            head=name,
            folds=folds,
            seed=options.seed,
            metrics=("auc",),
            epochs=options.epochs,
            lr=options.lr,
            standardise=False,
            device=options.device,
            progress=sys.stderr.isatty(),
        )

    def vote(slides: Slides, y: np.ndarray, patients: np.ndarray, folds: list[Fold]) -> ProbeResult:
        return neighbours(slides, y, patients, folds, options.neighbours, options.seed)

    return {NEIGHBOURS: vote} | {HEADS[name]: head(name) for name in options.head or HEADS}


def neighbours(
    slides: Slides, y: np.ndarray, patients: np.ndarray, folds: list[Fold], k: int, seed: int
) -> ProbeResult:
    """Score the vote of the nearest mean vectors, as scikit-learn has it."""
    bags = as_bags(slides)
    means = slide_means(bags.z, np.repeat(np.arange(len(bags)), np.diff(bags.ptr)))
    chance = [
        KNeighborsClassifier(min(k, len(train))).fit(means[train], y[train]).predict_proba(means[test])
        for train, test in folds
    ]
    row = np.concatenate([fold.test for fold in folds])
    number = np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds])
    return score_classes(
        y[row], np.concatenate(chance), np.unique(y), patients[row], number, ("auc",), seed=seed
    )


def print_table(task: Task, shares: Sequence[float], rows: dict[tuple[str, str], list[ProbeResult]]) -> None:
    """Print HIPT's rows and ours as a Markdown table."""
    print(
        "| whose | vectors | head | " + " | ".join(f"{100 * share:g} % of labels" for share in shares) + " |"
    )
    print("|---" * (3 + len(shares)) + "|")
    first = 2 * TASKS.index(task.name)
    for name, cells in HIPT.items():
        theirs = dict(zip((0.25, 1.0), cells[first : first + 2], strict=True))
        shown = " | ".join(published(theirs.get(share)) for share in shares)
        print(f"| HIPT's files | – | {name} | {shown} |")
    for (name, how), results in rows.items():
        print(f"| here | {name} | {how} | " + " | ".join(map(spread, results)) + " |")
    print(f"\n{NOTE}")


def published(cell: Cell) -> str:
    """Write mean and standard deviation of a published row; of some rows there is a mean alone."""
    if cell is None:
        return "–"
    mean, deviation = cell
    return f".{mean:03d}" + (f" ± .{deviation:03d}" if deviation else "")


def spread(result: ProbeResult) -> str:
    """Write mean and standard deviation over folds, and the interval."""
    areas = fold_scores(result)["auc"].dropna()
    _, low, high = result.metrics["auc"]
    mean = f"{areas.mean():.3f} ± {areas.std(ddof=0):.3f}" if len(areas) else "–"
    return f"{mean} [{low:.3f}, {high:.3f}]"
