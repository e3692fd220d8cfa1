"""What the experiments share: options, methods and ablations, scores by patient, and the table beside the paper's."""

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from peers.graphmae import GraphMAE

import histograph as hg

from .pictures import Case, Recipe, graphs_of

Scores = dict[str, list[tuple[float, ...]]]

# Zhuang et al., AAAI 2025, figure of results: mean ± standard deviation, percent; accuracy and F1 (taken for macro).
PAPER = {
    "komura": {
        "H-MGDM": ("82.06 ± 1.17", "72.41 ± 1.36"),
        "without edge latents": ("80.91 ± 1.92", "70.85 ± 1.58"),
        "without skips": ("79.29 ± 1.27", "68.43 ± 1.45"),
        "one noise level": ("79.70 ± 1.14", "67.14 ± 1.24"),
        "GraphMAE": ("76.69 ± 2.10", "67.60 ± 1.87"),
    },
    "panda": {
        "H-MGDM": ("74.51 ± 1.13", "67.32 ± 1.40"),
        "without edge latents": ("72.39 ± 1.29", "65.89 ± 1.82"),
        "without skips": ("70.98 ± 1.75", "62.11 ± 2.16"),
        "one noise level": ("72.52 ± 1.65", "63.73 ± 2.31"),
        "GraphMAE": ("72.22 ± 2.19", "60.34 ± 2.55"),
    },
    "ibd": {
        "H-MGDM": ("86.23 ± 2.31", "78.92 ± 1.79"),
        "without edge latents": ("84.11 ± 1.72", "77.41 ± 1.54"),
        "without skips": ("82.35 ± 2.32", "74.61 ± 2.14"),
        "one noise level": ("83.58 ± 1.69", "77.24 ± 2.53"),
        "GraphMAE": ("75.85 ± 1.25", "72.78 ± 0.81"),
    },
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "H-MGDM": {},
    "without edge latents": {"edge_latents": False},
    "without skips": {"skips": False},
    # The paper does not say which level it fixes: the middle one.
    "one noise level": {"fixed_time": 500},
}
#: The network of all experiments; docs/hmgdm.md says what else was tried.
SETTINGS: dict[str, Any] = {
    "hidden_dim": 128,
    "joint_depth": 1,
    "schedule": "cosine",
    "representation": "decoder",
}
NOTE = (
    "The paper's columns are its own numbers, not reproduced here; its splits and its choice of pictures are not "
    "known. Ours: mean ± standard deviation over seeds of weights, masks, order and folds, of a linear or Cox probe "
    "on frozen vectors; pre-training saw all pictures, without labels."
)


def options_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Make the parser with the options that all experiments take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data set")
    cache = Path("runs") / "hmgdm" / name
    parser.add_argument("--cache", type=Path, default=cache, help=f"graphs and trained methods ({cache})")
    parser.add_argument("--limit", type=int, help="pictures or slides of each class, for a smaller run")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="processes that make graphs")
    return parser


def folder_of(options: argparse.Namespace, what: str) -> Path | None:
    """Give the data folder; without one say what is needed, which is no failure."""
    if options.data is None:
        print(f"skipped: give --data FOLDER with {what}; --help says where to get it")
        return None
    if not options.data.is_dir():
        sys.exit(f"--data: {options.data} is no folder; expected {what}")
    return options.data


def listed(folder: Path) -> str:
    """Name what a folder holds, for an error."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"


def refuse(folder: Path, expected: str) -> NoReturn:
    """Say what a folder should hold, and leave."""
    held = listed(folder) if folder.is_dir() else "no folder"
    sys.exit(f"--data: {folder} must be a folder with {expected}; found {held}")


def makers(
    node_dim: int, edge_dim: int, edge_latents: bool = True, read_time: int | None = None
) -> dict[str, Callable[[], hg.methods.Method]]:
    """Give what is pre-trained: H-MGDM, with or without edge latents, its ablations, and GraphMAE of the same width."""

    def hmgdm(**ablation: Any) -> hg.methods.Method:
        latents = {} if edge_latents else {"edge_latents": False}
        settings = {**SETTINGS, "read_time": read_time, **latents, **ablation}
        return hg.methods.HMGDM(node_dim, edge_dim, **settings)

    found: dict[str, Callable[[], hg.methods.Method]] = {
        name: lambda ablation=ablation: hmgdm(**ablation)
        for name, ablation in ABLATIONS.items()
        if edge_latents or "edge_latents" not in ablation
    }
    found["GraphMAE"] = lambda: GraphMAE(node_dim, SETTINGS["hidden_dim"], layers=3)
    return found


def vectors(
    data: hg.GraphDataset, seed: int, epochs: int, runs: Path
) -> Iterator[tuple[str, np.ndarray | torch.Tensor]]:
    """Yield the (n, D) vectors of all items by each method, pre-trained on all items without labels."""
    code = zlib.crc32("\n".join(data.slide_ids).encode())  # a run on other pictures is another run
    for name, make in makers(data.node_dim, data.edge_dim).items():
        torch.manual_seed(seed)
        method = make()
        if name == "H-MGDM":
            method.before_epoch(0, data)  # the same standardisation of features: only the training differs
            yield "H-MGDM, untrained", embedded(method, data)
        out = runs / f"{name} seed={seed} epochs={epochs} data={code:08x}"
        hg.pretrain(method, data, epochs=epochs, seed=seed, out=out)
        yield name, embedded(method, data)
    yield "hand-made features", np.stack([data[i].x.mean(0).numpy() for i in range(len(data))])


def embedded(method: hg.methods.Method, data: hg.GraphDataset, chunk: int = 4096) -> np.ndarray:
    """Embed in chunks, for the node vectors of a large data set would not fit into memory."""
    starts = range(0, len(data), chunk)
    return np.concatenate([np.asarray(hg.embed(method, data[s : s + chunk], progress=False)) for s in starts])


def by_case(z: Any, items: Sequence[Case]) -> tuple[np.ndarray, list[Case]]:
    """Average the vectors of the windows of each slide; a picture is its only window."""
    cases = {case.name: case for case in items}
    place = {name: row for row, name in enumerate(cases)}
    row = np.array([place[case.name] for case in items])
    total = np.zeros((len(cases), np.shape(z)[1]))
    np.add.at(total, row, np.asarray(z, dtype=np.float64))
    return total / np.bincount(row)[:, None], list(cases.values())


def classify(z: np.ndarray, cases: Sequence[Case], folds: int, seed: int) -> tuple[float, ...]:
    """Give accuracy and macro F1 in percent, out of fold, folds by patient."""
    y, patients = [case.label for case in cases], [case.patient for case in cases]
    metrics = ("accuracy", "f1")
    found = hg.evaluation.linear_probe(z, y, patients, folds, seed, metrics=metrics, n_boot=2).metrics
    return tuple(100 * found[name][0] for name in metrics)


def survive(z: np.ndarray, cases: Sequence[Case], folds: int, seed: int) -> tuple[float, ...]:
    """Give the C-index in percent, out of fold, folds by patient."""
    time, event = [case.time for case in cases], [case.event for case in cases]
    patients = [case.patient for case in cases]
    found = hg.evaluation.survival_probe(z, time, event, patients, folds, seed, n_boot=2).metrics
    return (100 * found["c_index"][0],)


def experiment(
    cases: Sequence[Case],
    recipe: Recipe,
    options: argparse.Namespace,
    score: Callable[[np.ndarray, Sequence[Case], int, int], tuple[float, ...]] = classify,
) -> Scores:
    """Make graphs, pre-train and score every method for every seed."""
    data, items = graphs_of(cases, recipe, options.cache, options.workers)
    scores: Scores = {}
    for seed in range(options.seeds):
        for name, z in vectors(data, seed, options.epochs, options.cache / recipe.folder / "runs"):
            scores.setdefault(name, []).append(score(*by_case(z, items), options.folds, seed))
    return scores


def print_table(
    scores: Scores, metrics: Sequence[str], paper: dict[str, tuple[str, ...]], absent: str
) -> None:
    """Print our scores beside the paper's as a Markdown table; `absent` stands where it has none."""
    heads = [cell for metric in metrics for cell in (f"{metric}, paper", f"{metric}, here")]
    print("| vectors | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for name in (*ABLATIONS, "GraphMAE", "H-MGDM, untrained", "hand-made features"):
        values = np.array(scores[name])
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(metrics), np.nan)
        cells = []
        for i in range(len(metrics)):
            theirs = paper[name][i] if name in paper else absent
            ours = f"{values[:, i].mean():.2f}" + ("" if np.isnan(spread[i]) else f" ± {spread[i]:.2f}")
            cells += [theirs, ours]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\n{NOTE}")
