"""Slides told apart by class from features of their patches: what the scripts of the TCGA tasks share."""

import argparse
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hmgdm.common import folder_of, listed
from hmgdm.pictures import Case, sampled
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import histograph as hg
from histograph.evaluation import Fold, grouped_split, read_split, tcga_patient
from histograph.evaluation.metrics import weighted_auc
from histograph.evaluation.survival_table import slide_stem

Scores = dict[tuple[str, str], list[tuple[float, float]]]

EXPECTED = (
    "patch features of slides, *.h5 of TRIDENT or CLAM or *.safetensors of histograph, in any subfolders"
)
ABLATIONS: dict[str, dict[str, Any]] = {
    "PAMA": {},
    "without reorientation": {"reorientation": False},
    "without distance": {"distance": False},
    # without directions there is nothing to reorient
    "without direction": {"direction": False, "reorientation": False},
}
MEAN, UNTRAINED = "mean of patches", "PAMA, untrained"
PROBE, TUNED = "linear probe", "fine-tuned"
SECOND_HAND = "secondary source, unverified"
# Of the paper's own endometrial slides, which are not public: points less than with everything, AUC and accuracy.
ABLATED = {
    "without reorientation": ("−2.9", "−6.87"),
    "without distance": ("−2.2", "−6.75"),
    "without direction": ("−1.6", "−6.39"),
}
NOTE = f"""\
AUC: one class against the rest, mean over classes, x 100; accuracy in percent. Ours: mean ± standard deviation over
seeds of weights, masks, order and folds. A patient is never on both sides of a fold, of the choice of the penalty
of a probe, or of the choice of the epoch of a fine-tuned method. Pre-training sees slides without labels: all of them,
or those to train on where a split is given. "{UNTRAINED}, fine-tuned" is supervised training from random weights.
The paper's numbers: {SECOND_HAND} (a reader's notes; its tables could not be had), not reproduced, its protocol not
known; those of ablations are differences in points on its endometrial slides, which are not public."""


@dataclass(frozen=True)
class Task:
    """What is asked of the slides.

    Parameters
    ----------
    name : str
        Of the cache folder.
    labels : str
        What the column of labels holds.
    paper : dict
        AUC and accuracy that the paper is said to have, by row of the table.
    """

    name: str
    labels: str
    paper: dict[str, tuple[str, str]] = field(default_factory=dict)


def options_of(task: Task, doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a task."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder with {EXPECTED}")
    parser.add_argument(
        "--labels", type=Path, help="CSV (or .zip of one) with slide_id, a label, and case_id if known"
    )
    parser.add_argument(
        "--label-column", default="label", help=f"column of --labels with {task.labels} (label)"
    )
    parser.add_argument("--split-train", type=Path, help="CSV with name, rpath, label, in place of --labels")
    parser.add_argument(
        "--split-test", type=Path, help="the same; refused where it shares patients with the other"
    )
    parser.add_argument("--mpp", type=float, help="um per level-0 pixel, for H5 files that do not say")
    parser.add_argument(
        "--patch-size", type=float, help="level-0 pixels of a patch, for H5 files that do not say"
    )
    parser.add_argument(
        "--coords-from", type=Path, help="folder of CLAM's patches/*.h5, for H5 files without sizes"
    )
    cache = Path("runs") / "pama" / task.name
    parser.add_argument("--cache", type=Path, default=cache, help=f"graphs and trained methods ({cache})")
    parser.add_argument("--limit", type=int, help="slides of each class, for a smaller run")
    parser.add_argument("--epochs", type=int, default=100, help="of pre-training (100)")
    parser.add_argument("--tune-epochs", type=int, default=30, help="of fine-tuning (30); 0 leaves it out")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak learning rate of pre-training (1e-4)")
    parser.add_argument("--batch-size", type=int, default=18, help="slides a step of pre-training (18)")
    parser.add_argument("--hidden-dim", type=int, default=1024, help="width of the network (1024)")
    parser.add_argument("--layers", type=int, default=4, help="blocks of the encoder (4)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5, help="folds by patient, where no split is given")
    return parser


def main(task: Task, doc: str | None, argv: Sequence[str] | None) -> int:
    """Run the benchmark of a task and print its table."""
    parser = options_of(task, doc)
    options = parser.parse_args(argv)
    folder = folder_of(options, EXPECTED)
    if folder is None:
        return 0
    splits = options.split_train, options.split_test
    if (options.labels is None) == (None in splits) or any(splits) != all(splits):
        parser.error("give either --labels, or both --split-train and --split-test")
    files = files_of(folder)
    try:
        cases, tested = cases_of(options, files)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{'--labels' if options.labels else '--split-train, --split-test'}: {error}")
    cases = sampled(cases, options.limit)
    data, cases = graphs_of(cases, options)
    print(f"{len(cases)} slides of {len({case.patient for case in cases})} patients: {counts(cases)}\n")
    print_table(task, experiment(data, cases, tested, options))
    return 0


def counts(cases: Sequence[Case]) -> str:
    """Count the slides of each class."""
    labels, number = np.unique([case.label for case in cases], return_counts=True)
    return ", ".join(f"{n} {label}" for label, n in zip(labels, number, strict=True))


def files_of(folder: Path) -> dict[str, Path]:
    """Find the files of features by slide."""
    found: dict[str, Path] = {}
    for path in sorted([*folder.rglob("*.h5"), *folder.rglob("*.safetensors")]):
        if path.stem in found:
            sys.exit(f"--data: {found[path.stem]} and {path} are both of slide {path.stem}; keep one of them")
        found[path.stem] = path
    if not found:
        sys.exit(f"--data: expected {EXPECTED}; found {listed(folder)} in {folder}")
    return found


def cases_of(options: argparse.Namespace, files: dict[str, Path]) -> tuple[list[Case], set[str]]:
    """Join files and labels on the slide id; with a split also tell the slides to test on."""
    if options.labels is not None:
        table, tested = read_labels(options.labels, options.label_column), set()
    else:
        split = read_split(options.split_train, options.split_test)
        table, tested = pd.concat(split), set(split.test["slide_id"])
    cases = [
        Case(files[row.slide_id], row.slide_id, row.patient, str(row.label))
        for row in table.itertuples()
        if row.slide_id in files
    ]
    if not cases:
        raise ValueError(
            f"none of its {len(table)} slides is in --data; the table has {table['slide_id'].iloc[0]!r}, "
            f"the folder {next(iter(files))!r}"
        )
    for count, what in (
        (len(table) - len(cases), "slides of the table have no file"),
        (len(files) - len(cases), "files have no label"),
    ):
        if count:
            print(f"{count} {what} and are left out")
    return cases, tested


def read_labels(path: Path, column: str) -> pd.DataFrame:
    """Read slides, patients and labels; without case_id the patient is read off the TCGA barcode."""
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}")
    table = pd.read_csv(path, dtype={"slide_id": str, "case_id": str})
    for name in ("slide_id", column):
        if name not in table:
            raise ValueError(f"{path} lacks the column {name!r}, found {table.columns.tolist()[:12]}")
    known = table[table[column].notna() & table["slide_id"].notna()]
    if len(known) < len(table):
        print(f"{len(table) - len(known)} rows of {path} have no label and are left out")
    slides = known["slide_id"].str.strip().map(slide_stem)
    if slides.duplicated().any():
        raise ValueError(f"{path} has slide {slides[slides.duplicated()].iloc[0]!r} twice")
    patients = (
        known["case_id"].str.strip() if "case_id" in known else pd.Series(None, slides.index, dtype=object)
    )
    patients = patients.where(patients.notna(), slides[patients.isna()].map(tcga_patient))
    return pd.DataFrame({"slide_id": slides, "patient": patients, "label": known[column]})


def graphs_of(cases: Sequence[Case], options: argparse.Namespace) -> tuple[hg.GraphDataset, list[Case]]:
    """Open the graphs of all cases, made of H5 files where they are not made yet; broken files are left out."""
    made = {case.name: case.path for case in cases if case.path.suffix != ".h5"}
    raw = [case.path for case in cases if case.path.suffix == ".h5"]
    if raw:
        out = options.cache / "graphs"
        table = hg.graphs.convert_many(
            raw,
            out,
            options.mpp,
            patch_size_level0=options.patch_size,
            coords_from=options.coords_from,
        )
        for row in table.itertuples():
            if row.status == "failed":
                print(f"left out: {row.slide}: {row.error}")
            else:
                made[row.slide_id] = out / row.file
    kept = [case for case in cases if case.name in made]
    if not kept:
        sys.exit(f"--data: none of {len(cases)} files could be read; the reasons are above")
    return hg.GraphDataset([made[case.name] for case in kept], node_type="patch"), kept


@dataclass(frozen=True)
class Round:
    """What is predicted, of whom, and who is tested: one seed."""

    y: np.ndarray
    patients: np.ndarray
    folds: Sequence[Fold]
    seed: int

    def probe(self, z: np.ndarray) -> tuple[float, float]:
        """Score a logistic regression whose penalty is chosen on the training part."""

        def fitted(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            inner = grouped_split(self.patients[train], self.y[train], 3, self.seed)
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            grid = {"logisticregression__C": [0.001, 0.01, 0.1, 1.0, 10.0]}
            search = GridSearchCV(model, grid, cv=list(inner), scoring="neg_log_loss")
            search.fit(z[train], self.y[train])
            return lambda test: search.predict_proba(z[test])

        return self._score(fitted)

    def tune(self, method: hg.methods.PAMA, data: hg.GraphDataset, epochs: int) -> tuple[float, float]:
        """Score the method fine-tuned on the training part, with the settings of the released code."""
        tunable = hg.methods.PAMA(**{**method.config, "dropout": 0.15, "drop_path": 0.15})
        tunable.load_state_dict(method.state_dict())

        def fitted(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            tuned = hg.finetune(
                tunable,
                data[train],
                self.y[train],
                self.patients[train],
                epochs,
                balance="sampling",
                batch_size=12,
                lr=5e-5,
                seed=self.seed,
            )
            return lambda test: tuned.predict(data[test], progress=False)

        return self._score(fitted)

    def _score(self, fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]) -> tuple[float, float]:
        """Give AUC, of pairs within a fold, and accuracy, in percent, over all that is tested."""
        classes, code = np.unique(self.y, return_inverse=True)
        probability = np.full((len(code), len(classes)), np.nan)
        fold_of = np.zeros(len(code), dtype=np.int64)
        for number, (train, test) in enumerate(self.folds):
            probability[test], fold_of[test] = fit(train)(test), number
        rows = np.flatnonzero(np.isfinite(probability[:, 0]))
        area = weighted_auc(code[rows], probability[rows], fold_of[rows], np.ones((1, len(rows))))
        hit = probability[rows].argmax(axis=1) == code[rows]
        return 100 * float(area[0]), 100 * float(hit.mean())


def experiment(
    data: hg.GraphDataset, cases: Sequence[Case], tested: set[str], options: argparse.Namespace
) -> Scores:
    """Pre-train and score every method for every seed, by a probe and fine-tuned."""
    y, patients = (np.array([getattr(case, name) for case in cases]) for name in ("label", "patient"))
    given = np.array([case.name in tested for case in cases])
    mean = np.stack([data[row].x.mean(0).numpy() for row in range(len(data))])
    scores: Scores = {}

    def keep(name: str, method: hg.methods.PAMA) -> None:
        scores.setdefault((name, PROBE), []).append(now.probe(vectors(method, data)))
        if options.tune_epochs:
            scores.setdefault((name, TUNED), []).append(now.tune(method, data, options.tune_epochs))

    for seed in range(options.seeds):
        split = [Fold(np.flatnonzero(~given), np.flatnonzero(given))]
        now = Round(y, patients, split if tested else grouped_split(patients, y, options.folds, seed), seed)
        seen = data[~given]
        scores.setdefault((MEAN, PROBE), []).append(now.probe(mean))
        for name, ablation in ABLATIONS.items():
            torch.manual_seed(seed)
            method = pama(data.node_dim, options, ablation)
            method.before_epoch(0, seen)  # the scale of the features: only the training differs
            if name == "PAMA":
                keep(UNTRAINED, method)
            out = options.cache / "runs" / f"{name} seed={seed} {run_name(seen, options)}"
            hg.pretrain(method, seen, options.epochs, out, options.batch_size, options.lr, seed=seed)
            keep(name, method)
    return scores


def pama(node_dim: int, options: argparse.Namespace, ablation: dict[str, Any]) -> hg.methods.PAMA:
    """Make the network, of the published proportions."""
    width = options.hidden_dim
    return hg.methods.PAMA(
        node_dim, hidden_dim=width, layers=options.layers, decoder_dim=max(width // 2, 8), **ablation
    )


def vectors(method: hg.methods.Method, data: hg.GraphDataset) -> np.ndarray:
    """Give the (n, D) vectors of all slides."""
    return np.asarray(hg.embed(method, data, batch_size=4, progress=False, nodes=False))


def run_name(seen: hg.GraphDataset, options: argparse.Namespace) -> str:
    """Name what a pre-trained method depends on; a run on other slides is another run."""
    slides = zlib.crc32("\n".join(seen.slide_ids).encode())
    names = ("hidden_dim", "layers", "epochs", "batch_size", "lr")
    return " ".join([*(f"{name}={getattr(options, name)}" for name in names), f"data={slides:08x}"])


def print_table(task: Task, scores: Scores) -> None:
    """Print our scores beside what the paper is said to have, as a Markdown table."""
    print("| vectors | how | AUC, paper | AUC, here | accuracy, paper | accuracy, here |")
    print("|---" * 6 + "|")
    for name in (*ABLATIONS, UNTRAINED, MEAN):
        for how in (PROBE, TUNED):
            if (name, how) not in scores:
                continue
            theirs = task.paper.get(name, ABLATED.get(name, ("–", "–")))
            cells = [cell for pair in zip(theirs, spread(scores[name, how]), strict=True) for cell in pair]
            print(f"| {name} | {how} | " + " | ".join(cells) + " |")
    print(f"\n{NOTE}")


def spread(values: list[tuple[float, float]]) -> list[str]:
    """Write mean and standard deviation of each column."""
    table = np.array(values)
    mean = [f"{value:.2f}" for value in table.mean(axis=0)]
    if len(table) < 2:
        return mean
    return [f"{value} ± {sd:.2f}" for value, sd in zip(mean, table.std(axis=0, ddof=1), strict=True)]
