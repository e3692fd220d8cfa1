"""Questions about whole slides, answered from frozen vectors: PAMA, its ablations, untrained, and plain pooling.

    python benchmarks/pama/slide_task.py --data FOLDER [FOLDER ...] [--seeds 5] [--epochs 60] [--draws 3]

A FOLDER holds one of, and is asked:
PatchCamelyon (https://github.com/basveeling/pcam) as `train.tar` or folders `0/`, `1/`: is there tumour in the middle;
each picture is a slide of patches of 12 pixels. CRCHistoPhenotypes (Sirinukunwattana et al., IEEE TMI 2016) as
`images/*.png` and `classified_nuclei.csv`: are more nuclei epithelial than in the median picture; patches of 32 pixels.
`lung_df_small.csv.gz` (https://github.com/julia-wrobel/mxfda, folder data-raw): are tumour cells and others more mixed
among Delaunay neighbours than in the median field, given their numbers; and is the stage above I; patches of 50 um with
counts of phenotypes.

Of all: is this the slide, or the same patches in random places. Pooling that forgets places is at chance there.

A quarter of the patients (pictures, where none are known) is held out; methods are pre-trained on the others, without
labels and without shuffled slides; a logistic regression on frozen vectors learns from the labels of few or all
training patients, penalty by inner folds. The score is the area under the ROC curve on held-out slides, mean ± standard
deviation over seeds of weights, masks, order and split. Differences are paired, with percentiles of a bootstrap of
seeds and, within each, of held-out patients or pictures.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from hmgdm import pcam, vectra_lung
from hmgdm.common import refuse
from hmgdm.few_labels import Scores, auc, fitted, print_table
from pama.networks import names, network, options_of, train
from pama.sources import lung, patch_graph, pictures, scaled, split
from pama.tcga import UNTRAINED
from torch_geometric.data import Data
from tqdm.auto import tqdm

import histograph as hg
from histograph.methods import PAMA

EXPECTED = f"PatchCamelyon, CRCHistoPhenotypes, or the cells of lung slides ({vectra_lung.FILE})"
TABLE = "classified_nuclei.csv"
SHARES = {"5 % of labels": 0.05, "20 % of labels": 0.2, "all labels": 1.0}
MEAN, SPREAD = "mean of patches", "mean and standard deviation of patches"
ANCHORS, UNTRAINED_ANCHORS = "PAMA, mean of its anchors", "PAMA, untrained, mean of its anchors"
BESIDE, UNTRAINED_BESIDE = "PAMA beside mean and deviation", "untrained beside mean and deviation"
ARRANGED = "in place, or shuffled"
Matrix = np.ndarray


@dataclass
class Source:
    """Slides with their patients, and the answers of each question; NaN where a slide is not asked."""

    title: str
    slides: list[Data]
    group: list[object]
    answers: dict[str, Matrix] = field(default_factory=dict)


def above_median(values: Matrix) -> Matrix:
    """Ask whether a value is above the median; NaN stays."""
    return np.where(np.isnan(values), np.nan, values > np.nanmedian(values))


def mixing(cells: Data) -> float:
    r"""Tell how mixed tumour cells and others are: unlike pairs among neighbours, per expected ones, ``2 p (1 - p)``.

    NaN where one of the two makes up less than a twentieth, or no cell has a neighbour.
    """
    tumour = cells.x[:, vectra_lung.MARKERS.index("ck")] > 0
    share = float(tumour.float().mean())
    if not 0.05 <= share <= 0.95 or cells.edge_index.shape[1] == 0:
        return float("nan")
    unlike = tumour[cells.edge_index[0]] != tumour[cells.edge_index[1]]
    return float(unlike.float().mean()) / (2 * share * (1 - share))


def read(folder: Path, options: argparse.Namespace) -> Source:
    """Read the slides of a folder and what is asked of them."""
    if (folder / vectra_lung.FILE).is_file():
        slides = lung(folder, options.cell_patch_um)
        answers = {
            "tumour cells mixed with others": above_median(np.array([mixing(s.cells) for s in slides])),
            "stage above I": np.array([float(s.cells.clinical[1] > 1) for s in slides]),
        }
        return Source("lung cells", slides, [s.group for s in slides], answers)
    if (folder / TABLE).is_file():
        slides = pictures(folder, options.patch_px, options.picture_mpp)
        table = pd.read_csv(folder / TABLE)
        share = (table["cell_type"] == "epithelial").groupby(table["image"]).mean()
        values = np.array([share.get(s.group, np.nan) for s in slides])
        return Source(
            "colorectal pictures", slides, [s.group for s in slides], {"epithelial": above_median(values)}
        )
    if (folder / "train.tar").exists() or (folder / "0").is_dir():
        images, y = pcam.read_patches(folder, options.pictures, seed=1)
        size = options.small_patch_px * pcam.MPP
        slides = [
            patch_graph(hg.open_slide(image, mpp=pcam.MPP), size)
            for image in tqdm(images, desc="pictures", disable=None)
        ]
        return Source("PatchCamelyon", slides, list(range(len(y))), {"tumour in the middle": y.astype(float)})
    return refuse(folder, EXPECTED)


def shuffled(slides: Sequence[Data], seed: int) -> list[Data]:
    """Put the patches of each slide in random places of it."""
    rng = np.random.default_rng([seed, 1])
    return [Data(x=s.x[torch.from_numpy(rng.permutation(s.num_nodes))], pos=s.pos) for s in slides]


def embedded(method: PAMA, slides: Sequence[Data], pooling: str) -> Matrix:
    """Give the vectors of slides, by one of both poolings."""
    method.pooling = pooling
    return np.asarray(hg.embed(method, slides, batch_size=16, progress=False, nodes=False))


def vectors(slides: Sequence[Data], known: list[int], seed: int, options: argparse.Namespace) -> dict:
    """Give the vectors of all slides and, after them, of the same slides shuffled, by each way to make vectors."""
    ready = scaled(slides, known)
    every = [*ready, *shuffled(ready, seed)]
    found: dict[str, Matrix] = {MEAN: np.stack([s.x.mean(0).numpy() for s in every])}
    found[SPREAD] = np.hstack([found[MEAN], np.stack([s.x.std(0).numpy() for s in every])])
    untrained = network(ready[0].x.shape[1], "PAMA", seed, options)
    found[UNTRAINED] = embedded(untrained, every, "slide")
    found[UNTRAINED_ANCHORS] = embedded(untrained, every, "anchors")
    for name in tqdm(names(options), desc="methods", leave=False, disable=None):
        method = network(ready[0].x.shape[1], name, seed, options)
        train(method, name, [ready[i] for i in known], seed, options)
        found[name] = embedded(method, every, "slide")
        if name == "PAMA":
            found[ANCHORS] = embedded(method, every, "anchors")
    found[BESIDE] = np.hstack([found["PAMA"], found[SPREAD]])
    found[UNTRAINED_BESIDE] = np.hstack([found[UNTRAINED], found[SPREAD]])
    return found


def labelled(y: Matrix, group: Matrix, rows: Matrix, share: float, rng: np.random.Generator) -> Matrix:
    """Draw whole groups until their share is reached and both answers occur in two of them."""
    order = rng.permutation(np.unique(group[rows]))
    wanted = max(4, round(share * len(order)))
    taken: list[Matrix] = []
    for count, name in enumerate(order):
        enough = (
            count >= wanted and min(sum(bool((y[part] == a).any()) for part in taken) for a in (0, 1)) >= 2
        )
        if enough:
            break
        taken.append(rows[group[rows] == name])
    return np.concatenate(taken)


def drawn_auc(entry: tuple[Matrix, Matrix, Matrix], weights: Matrix) -> Matrix:
    """Area under the ROC curve of (scores, answers, units), for (B, units) weights: (B,)."""
    score, y, unit = entry
    return auc((score, y), weights[:, unit])


def one_seed(source: Source, seed: int, options: argparse.Namespace, scores: dict[str, Scores]) -> None:
    """Train everything for one split and note the scores of every question."""
    known, asked = split(source.group, seed)
    z = vectors(source.slides, known, seed, options)
    n, code = len(source.slides), np.unique([str(name) for name in source.group], return_inverse=True)[1]
    questions = {name: np.append(y, np.full(n, np.nan)) for name, y in source.answers.items()}
    questions[ARRANGED] = np.repeat([1.0, 0.0], n)
    group, side = np.tile(code, 2), np.tile(np.isin(np.arange(n), asked), 2)
    for question, answers in questions.items():
        y = np.nan_to_num(answers, nan=-1).astype(int)
        training, tested = np.flatnonzero((y >= 0) & ~side), np.flatnonzero((y >= 0) & side)
        unit = np.unique(group[tested], return_inverse=True)[1]
        for share, part in SHARES.items():
            for draw in range(1 if part == 1 else options.draws):
                rows = labelled(y, group, training, part, np.random.default_rng([seed, draw]))
                for name, table in z.items():
                    scale, model = fitted(table[rows], y[rows], seed)
                    score = model.decision_function(scale.transform(table[tested]))
                    entry = score, y[tested], unit
                    scores.setdefault(question, Scores(drawn_auc)).add(
                        share, name, seed, entry, unit.max() + 1
                    )


def print_scores(scores: dict[str, Scores], options: argparse.Namespace, last: bool) -> None:
    """Print a table for each question; the differences at the end."""
    trained = names(options)
    pairs = [
        ("PAMA", MEAN),
        ("PAMA", SPREAD),
        ("PAMA", UNTRAINED),
        (ANCHORS, SPREAD),
        (ANCHORS, UNTRAINED_ANCHORS),
    ]
    pairs += [(BESIDE, SPREAD), (BESIDE, UNTRAINED_BESIDE)]
    pairs += [(name, "PAMA") for name in trained if name != "PAMA"]
    rows = [MEAN, SPREAD, UNTRAINED, *trained, UNTRAINED_ANCHORS, ANCHORS, UNTRAINED_BESIDE, BESIDE]
    for question, some in scores.items():
        print(f"\n{question}\n")
        compared = [f"{method} - {baseline}" for method, baseline in pairs] if last else []
        print_table(some, list(SHARES), rows, "AUC", compared)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = options_of(__doc__, 60, EXPECTED)
    parser.add_argument("--draws", type=int, default=3, help="draws of the labelled patients for each seed")
    parser.add_argument("--pictures", type=int, default=1200, help="of PatchCamelyon, half of each class")
    parser.add_argument("--small-patch-px", type=int, default=12, help="of PatchCamelyon")
    parser.add_argument("--patch-px", type=int, default=32, help="of colorectal pictures")
    parser.add_argument("--picture-mpp", type=float, default=0.55, help="um per pixel of colorectal pictures")
    parser.add_argument("--cell-patch-um", type=float, default=50.0, help="of fields of cells")
    options = parser.parse_args(argv)
    if options.data is None:
        print(f"skipped: give --data FOLDER [FOLDER ...] with {EXPECTED}")
        return 0
    for folder in options.data:
        source, scores = read(folder, options), {}
        for seed in tqdm(range(options.seeds), desc=source.title, disable=None):
            one_seed(source, seed, options, scores)
            print(f"\n{source.title}: {len(source.slides)} slides. Seeds so far: {seed + 1}")
            print_scores(scores, options, seed == options.seeds - 1)
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
