"""Frozen vectors and few labels: probes over several draws of the labelled rows, and the table with paired intervals.

A result of one seed, one method and one share of the labels is the mean of several draws of the labelled rows. What
is compared are two methods with the same seed, draw and test rows. Intervals are percentiles of a bootstrap that
draws seeds and, within each, test units (images of cells, or patches); seeds have test sets that overlap, so an
interval that barely leaves out 0 is weak evidence.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

import histograph as hg
from histograph.evaluation.metrics import confusion_scores, weighted_auc

from .common import makers

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)
#: Labelled rows that are enough to choose the penalty.
_ENOUGH = 2000
Matrix = np.ndarray


def trained(
    windows: Sequence[Any],
    read: Callable[[hg.methods.Method], Matrix],
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Matrix]:
    """Pre-train every method on the windows, without labels, and `read` its vectors; H-MGDM also untrained."""
    found = {}
    todo = makers(
        windows[0].x.shape[1], windows[0].edge_attr.shape[1], options.edge_latents, options.read_time
    )
    if not options.ablations:
        todo = {name: todo[name] for name in ("H-MGDM", "GraphMAE")}
    for name, make in tqdm(todo.items(), desc="methods", leave=False):
        torch.manual_seed(seed)
        method = make()
        if name == "H-MGDM":
            method.before_epoch(0, windows)  # the same standardisation: only the training differs
            found["H-MGDM, untrained"] = read(method.eval())
        hg.pretrain(
            method,
            windows,
            epochs=options.epochs,
            batch_size=options.batch_size,
            seed=seed,
            progress=False,
        )
        found[name] = read(method)
    return found


def fitted(z: Matrix, y: Matrix, seed: int) -> tuple[StandardScaler, LogisticRegression]:
    """Fit a logistic regression; the penalty is the best of three folds of the labelled rows, where they allow it."""
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(y))[:_ENOUGH]
    best = PENALTIES[len(PENALTIES) // 2]
    scale = StandardScaler().fit(z)
    z = scale.transform(z)
    if np.unique(y[some], return_counts=True)[1].min() >= 3:
        folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(z[some], y[some]))
        losses = [np.mean([_loss(z[some], y[some], fold, c) for fold in folds]) for c in PENALTIES]
        best = PENALTIES[int(np.argmin(losses))]
    return scale, LogisticRegression(C=best, max_iter=300).fit(z, y)


def _loss(z: Matrix, y: Matrix, fold: tuple[Matrix, Matrix], c: float) -> float:
    model = LogisticRegression(C=c, max_iter=300).fit(z[fold[0]], y[fold[0]])
    return log_loss(y[fold[1]], model.predict_proba(z[fold[1]]), labels=model.classes_)


@dataclass
class Scores:
    """Scores by share of the labels and method, in a form that test units can be drawn from again.

    `score` maps what `add` was given (one entry per seed and draw) and (B, units) weights to (B,) scores.
    """

    score: Callable[[Any, Matrix], Matrix]
    entries: dict[tuple[str, str], dict[int, list[Any]]] = field(default_factory=dict)
    units: dict[int, int] = field(default_factory=dict)

    def add(self, share: str, method: str, seed: int, entry: Any, units: int) -> None:
        """Note one draw."""
        self.entries.setdefault((share, method), {}).setdefault(seed, []).append(entry)
        self.units[seed] = units

    def of(self, share: str, method: str, seed: int, weights: Matrix) -> Matrix:
        """Score a method with one seed, the mean over its draws, for each of (B, units) weights: (B,)."""
        return np.mean([self.score(entry, weights) for entry in self.entries[share, method][seed]], axis=0)

    def mean(self, share: str, method: str) -> tuple[float, float]:
        """Give mean and standard deviation over seeds."""
        seeds = sorted(self.entries[share, method])
        values = [self.of(share, method, seed, np.ones((1, self.units[seed])))[0] for seed in seeds]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def difference(
        self, share: str, method: str, baseline: str, n_boot: int = 400
    ) -> tuple[float, float, float]:
        """Give the mean difference to a baseline with its 95 % interval."""
        rng = np.random.default_rng(0)
        seeds = sorted(self.entries[share, method])
        table = np.empty((len(seeds), n_boot))
        for row, seed in enumerate(seeds):
            n = self.units[seed]
            weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(n_boot)])
            table[row] = self.of(share, method, seed, weights) - self.of(share, baseline, seed, weights)
        drawn = rng.integers(0, len(seeds), (n_boot, len(seeds)))
        values = table[drawn, np.arange(n_boot)[:, None]].mean(1)
        centre = self.mean(share, method)[0] - self.mean(share, baseline)[0]
        # draws of few units can lack a class, and say nothing
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
        return centre, float(low), float(high)


def weighted_f1(confusion: Matrix, weights: Matrix) -> Matrix:
    """Weighted F1 from (units, K, K) counts of true and predicted classes, for (B, units) weights: (B,)."""
    total = np.tensordot(weights.astype(float), confusion, 1)
    return confusion_scores(total, ["f1_weighted"])["f1_weighted"]


def confusion_by_unit(y: Matrix, predicted: Matrix, unit: Matrix, units: int, classes: int) -> Matrix:
    """Count true and predicted classes in each unit: (units, K, K)."""
    count = np.zeros((units, classes, classes))
    np.add.at(count, (unit, y, predicted), 1)
    return count


def auc(entry: tuple[Matrix, Matrix], weights: Matrix) -> Matrix:
    """Area under the ROC curve of (scores, binary labels), for (B, rows) weights: (B,)."""
    score, y = entry
    return weighted_auc(y, np.column_stack([-score, score]), np.zeros(len(y), int), weights.astype(float))


def texture_codes(
    crops: Sequence[torch.Tensor], train: Matrix, codes: int, seed: int
) -> Iterator[torch.Tensor]:
    """Yield texture codes of each graph's (n, S, S, 3) crops, learned from the training graphs; 0 codes, 0 columns."""
    encoder = hg.features.TextureCodes(codes=codes) if codes else None
    if encoder is not None:
        encoder.fit(torch.cat([crops[i] for i in train]).numpy(), seed=seed)
    for part in tqdm(crops, desc="codes", leave=False):
        if encoder is None:
            yield torch.zeros((len(part), 0))
            continue
        with torch.inference_mode():
            yield torch.cat([encoder(some.permute(0, 3, 1, 2) / 255.0) for some in part.split(256)])


def options_of(doc: str | None, epochs: int, read_time: int) -> argparse.ArgumentParser:
    """Make the parser with the options that both experiments take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--read-time", type=int, default=read_time, help="noise level of 1,000 at which the decoder is read"
    )
    parser.add_argument("--draws", type=int, default=2, help="draws of the labelled rows for each seed")
    parser.add_argument(
        "--codes",
        type=int,
        default=100,
        help="texture codes for each of the three zones of a crop; 0 for none",
    )
    parser.add_argument(
        "--edge-latents",
        action=flag,
        default=True,
        help="H-MGDM with latents of edges; without, a run takes a fraction of the time, and that ablation is left out",
    )
    parser.add_argument("--ablations", action=flag, default=True)
    parser.add_argument("--supervised-epochs", type=int, default=25, help="0 leaves this row out")
    return parser


def print_table(
    scores: Scores, shares: Sequence[str], methods: Sequence[str], metric: str, compared: Sequence[str]
) -> None:
    """Print mean ± standard deviation over seeds, then the paired differences, if any are asked for."""
    print(f"| {metric} | " + " | ".join(shares) + " |")
    print("|---" * (len(shares) + 1) + "|")
    for method in methods:
        cells = []
        for share in shares:
            if (share, method) not in scores.entries:
                cells.append("not run")
                continue
            mean, spread = scores.mean(share, method)
            cells.append(f"{mean:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}"))
        print(f"| {method} | " + " | ".join(cells) + " |")
    if not compared:
        return
    print("\nPaired differences [95 % interval]; * where the interval leaves out 0:\n")
    print("| difference | " + " | ".join(shares) + " |")
    print("|---" * (len(shares) + 1) + "|")
    for pair in compared:
        method, baseline = pair.split(" - ")
        cells = []
        for share in shares:
            value, low, high = scores.difference(share, method, baseline)
            mark = " *" if low > 0 or high < 0 else ""
            cells.append(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{mark}")
        print(f"| {method} minus {baseline} | " + " | ".join(cells) + " |")
