"""Survival with lung adenocarcinoma from cell graphs: H-MGDM, its ablations, GraphMAE and simpler answers.

    python benchmarks/hmgdm/vectra_lung.py --data FOLDER [--seeds 5] [--epochs 10] [--windows 2] [--fractions 1 0.2]

FOLDER holds `lung_df_small.csv.gz` (285,412 cells with phenotype, 247 images, 50 patients, 33 deaths; multiplex
immunofluorescence, not H&E): https://github.com/julia-wrobel/mxfda, folder data-raw, made from VectraPolarisData
(Johnson et al. 2021). It is not among the data sets of the H-MGDM paper.

An image is one graph: cells with their phenotype (one of seven), Delaunay edges up to 50 um with their length.
Positions are taken as micrometres. The file does not say so, but the fields then are 672 x 502 um, the size of a 20x
field of the instrument with pixels of 0.5 um (coordinates are multiples of 0.5), and neighbours are 13 um apart; read
as pixels of 0.5 um there would be 14,000 cells/mm2. Methods are trained without labels on small random windows of all
images, those of test patients too (transductive), and embed whole images; "untrained" is the same network before. A
patient is the mean vector of his images, and a ridge Cox regression on it is scored out of fold, folds by patient. The
network with labels is trained on the windows of each training part alone, its risk averaged over a patient's images.
Seeds change weights, windows, masks, order and folds; all rows of a seed have the same folds and, with few labels,
the same patients.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from peers.graphmae import GraphMAE
from peers.supervised import fit_predict
from torch_geometric.data import Data
from tqdm.auto import tqdm

import histograph as hg
from histograph.evaluation import SurvivalResult, compare_results, cox_loss, score_risks, survival_probe
from histograph.evaluation.splits import subsample_groups
from hmgdm.common import ABLATIONS

FILE = "lung_df_small.csv.gz"
MARKERS = ("ck", "cd8", "cd14", "cd19", "cd4", "other")
TYPES = len(MARKERS) + 1  # the last: no marker
MAX_LENGTH_UM = 50.0
HAND_MADE, UNTRAINED = "hand-made: phenotypes and neighbours", "H-MGDM, untrained"
CLINICAL, SUPERVISED = "age and stage, for orientation", "graph network with Cox loss, from scratch"


def read_images(path: Path) -> list[Data]:
    """Read the cells, one graph an image with its patient, follow-up, age and stage."""
    table = pd.read_csv(path, low_memory=False)
    needed = ["patientImage_id", "patient_id", "x", "y", "age", "stage", "survival_days", "survival_status"]
    needed += [f"phenotype_{name}" for name in MARKERS]
    absent = [name for name in needed if name not in table]
    if absent:
        sys.exit(f"--data: {path} lacks the columns {absent}")
    positive = np.column_stack([table[f"phenotype_{name}"].str.endswith("+") for name in MARKERS])
    if (positive.sum(axis=1) > 1).any():
        sys.exit(f"--data: {path} has cells with two phenotypes, expected at most one")
    table["type"] = np.where(positive.any(axis=1), positive.argmax(axis=1), len(MARKERS))
    graphs = []
    for name, rows in tqdm(table.groupby("patientImage_id", sort=True), desc="graphs", disable=None):
        graph = graph_of(rows[["x", "y"]].to_numpy(float), rows["type"].to_numpy())
        first = rows.iloc[0]
        graph.slide_id, graph.patient = str(name), int(first["patient_id"])
        graph.time, graph.event = float(first["survival_days"]), bool(first["survival_status"])
        graph.clinical = [float(first["age"]), float(first["stage"])]
        graphs.append(graph)
    return graphs


def graph_of(pos: np.ndarray, kind: np.ndarray) -> Data:
    """Join cells to their Delaunay neighbours."""
    edge_index, edge_attr = hg.delaunay_edges(pos, max_length_um=MAX_LENGTH_UM)
    x = torch.eye(TYPES)[torch.as_tensor(kind)]
    return Data(
        x=x, edge_index=edge_index, edge_attr=edge_attr, pos=torch.as_tensor(pos, dtype=torch.float32)
    )


def hand_made(graph: Data) -> np.ndarray:
    """Give the share of each phenotype, and of each unordered pair of phenotypes among neighbours."""
    kind = graph.x.argmax(dim=1).numpy()
    pairs = np.zeros((TYPES, TYPES))
    np.add.at(pairs, tuple(kind[graph.edge_index.numpy()]), 1.0)
    pairs = (pairs + np.tril(pairs, -1).T)[np.triu_indices(TYPES)]
    return np.concatenate([np.bincount(kind, minlength=TYPES) / len(kind), pairs / max(pairs.sum(), 1.0)])


def windows_of(graph: Data, count: int, side_um: float, rng: np.random.Generator) -> list[Data]:
    """Cut square windows around random cells, so that none is empty."""
    pos, kind = graph.pos.numpy().astype(float), graph.x.argmax(dim=1).numpy()
    low, high = pos.min(axis=0), np.maximum(pos.max(axis=0) - side_um, pos.min(axis=0))
    found = []
    for centre in pos[rng.integers(0, len(pos), count)]:
        corner = np.clip(centre - side_um / 2, low, high)
        inside = ((pos >= corner) & (pos <= corner + side_um)).all(axis=1)
        found.append(graph_of(pos[inside], kind[inside]))
    return found


def methods(options: argparse.Namespace) -> dict[str, Callable[[], hg.methods.Method]]:
    """Give what is pre-trained: H-MGDM, its ablations, and GraphMAE of the same width and depth."""

    def hmgdm(ablation: dict[str, Any]) -> hg.methods.Method:
        return hg.methods.HMGDM(
            TYPES, 1, hidden_dim=options.hidden, joint_depth=1, representation="layers", **ablation
        )

    makers = {name: lambda ablation=ablation: hmgdm(ablation) for name, ablation in ABLATIONS.items()}
    makers["GraphMAE"] = lambda: GraphMAE(TYPES, options.hidden, layers=3, representation="layers")
    return makers


def vectors(
    graphs: list[Data], windows: list[Data], seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield one row an image by each kind of vectors."""
    yield CLINICAL, np.array([graph.clinical for graph in graphs])
    yield HAND_MADE, np.stack([hand_made(graph) for graph in graphs])
    for name, make in methods(options).items():
        torch.manual_seed(seed)
        method = make()
        if name == "H-MGDM":
            method.before_epoch(0, windows)  # the same standardisation of features: only the training differs
            yield UNTRAINED, np.asarray(hg.embed(method, graphs, batch_size=8, progress=False))
        hg.pretrain(method, windows, epochs=options.epochs, seed=seed, progress=options.progress)
        yield name, np.asarray(hg.embed(method, graphs, batch_size=8, progress=False))


def cox(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Read (time, event) columns."""
    return cox_loss(out, target[:, 0], target[:, 1])


def supervised(
    like: pd.DataFrame, graphs: list[Data], windows: list[list[Data]], fraction: float, seed: int, epochs: int
) -> pd.DataFrame:
    """Train on the windows of each training part and return `like` with the risks of this network."""
    patient = np.array([graph.patient for graph in graphs])
    target = np.array([(graph.time, graph.event) for graph in graphs], dtype=np.float32)
    risk = np.full(len(like), np.nan)
    for fold in sorted(like["fold"].unique()):
        train = np.flatnonzero(like["fold"] != fold)
        if fraction < 1:  # the patients that survival_probe keeps
            rng, codes = np.random.default_rng([seed, fold]), like["event"].to_numpy(np.int64)[train]
            train = train[subsample_groups(codes, train, fraction, rng)]
        rows = np.flatnonzero(np.isin(patient, like["group"].to_numpy()[train]))
        shown = [window for row in rows for window in windows[row]]
        goals = np.repeat(target[rows], [len(windows[row]) for row in rows], axis=0)
        tested = np.flatnonzero(like["fold"] == fold)
        images = np.flatnonzero(np.isin(patient, like["group"].to_numpy()[tested]))
        found = fit_predict(
            shown,
            goals,
            [graphs[i] for i in images],
            loss=cox,
            hidden_dim=64,
            epochs=epochs,
            batch_size=256,
            seed=seed,
        )
        mean = pd.Series(found).groupby(patient[images]).mean()
        risk[tested] = mean[like["group"].to_numpy()[tested]].to_numpy()
    return like.assign(risk=risk)


def one_seed(
    graphs: list[Data], seed: int, options: argparse.Namespace
) -> dict[tuple[float, str], pd.DataFrame]:
    """Return the out-of-fold risks of every row of the table, by share of labels and name."""
    rng = np.random.default_rng(seed)
    windows = [windows_of(graph, options.windows, options.window_um, rng) for graph in graphs]
    flat = [window for few in windows for window in few]
    time, event = [graph.time for graph in graphs], [graph.event for graph in graphs]
    patient = [graph.patient for graph in graphs]
    risks = {}
    for name, z in vectors(graphs, flat, seed, options):
        for fraction in options.fractions:
            result = survival_probe(
                z, time, event, patient, options.folds, seed, n_boot=1, train_fraction=fraction
            )
            risks[fraction, name] = result.predictions
    for fraction in options.fractions:
        like = risks[fraction, HAND_MADE]
        risks[fraction, SUPERVISED] = supervised(
            like, graphs, windows, fraction, seed, options.supervised_epochs
        )
    return {key: table.assign(repeat=seed) for key, table in risks.items()}


def print_table(runs: list[dict[tuple[float, str], pd.DataFrame]], fraction: float, n_boot: int) -> None:
    """Print one Markdown table: scores, and paired differences to the two baselines."""
    names = [name for share, name in runs[0] if share == fraction]
    results: dict[str, SurvivalResult] = {}
    spread = {}
    for name in names:
        tables = [run[fraction, name] for run in runs]
        each = [score_risks(table, n_boot=1).metrics["c_index"][0] for table in tables]
        spread[name] = f"{np.mean(each):.3f}" + (f" ± {np.std(each, ddof=1):.3f}" if len(each) > 1 else "")
        results[name] = score_risks(pd.concat(tables), n_boot=n_boot)
    frame = compare_results(results, (HAND_MADE, UNTRAINED)).query("metric == 'c_index'")
    rows = frame.set_index(["name", "baseline"])
    print(f"\n{100 * fraction:g} % of the training patients\n")
    print("| risk from | C-index | 95 % interval | minus hand-made | minus untrained |")
    print("|---|---|---|---|---|")
    for name in names:
        row = rows.loc[(name, HAND_MADE)]
        cells = [spread[name], f"[{row['low']:.3f}, {row['high']:.3f}]"]
        for baseline in (HAND_MADE, UNTRAINED):
            d = rows.loc[(name, baseline)]
            text = f"{d['difference']:+.3f} [{d['difference_low']:+.3f}, {d['difference_high']:+.3f}]"
            cells.append("" if name == baseline else text)
        print(f"| {name} | " + " | ".join(cells) + " |")


def options_of() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help=f"folder with {FILE}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of pre-training")
    parser.add_argument("--supervised-epochs", type=int, default=15)
    parser.add_argument("--windows", type=int, default=2, help="training windows of each image")
    parser.add_argument("--window-um", type=float, default=100.0)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.2], help="shares of labels")
    parser.add_argument("--boot", type=int, default=2000, help="bootstrap resamples of patients")
    parser.add_argument("--progress", action="store_true", help="bars of each training")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    options = options_of().parse_args(argv)
    if options.data is None:
        print(f"skipped: give --data FOLDER with {FILE}; --help says where to get it")
        return 0
    if not (options.data / FILE).is_file():
        sys.exit(f"--data: no {FILE} in {options.data}")
    graphs = read_images(options.data / FILE)
    runs = [
        one_seed(graphs, seed, options) for seed in tqdm(range(options.seeds), desc="seeds", disable=None)
    ]
    events = {graph.patient: graph.event for graph in graphs}
    print(
        f"{len(graphs)} images of {len(events)} patients, {sum(events.values())} events. C-index of patients of one "
        f"fold, mean ± standard deviation over {options.seeds} seeds. Intervals resample patients, with the same "
        "draws in all rows and seeds, and hold for the mean over seeds."
    )
    for fraction in options.fractions:
        print_table(runs, fraction, options.boot)
    print(
        f"\nPre-training saw all images, without labels (transductive). 5 % of the labels would be "
        f"{round(0.05 * len(events) * (1 - 1 / options.folds))} patients with one event: no regression can be fitted."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
