"""Frozen vectors and few labels: probes over several draws of the labelled rows, and the table with paired intervals.

A result of one seed, one method and one share of the labels is the mean of several draws of the labelled rows. What
is compared are two methods with the same seed, draw and test rows. Intervals are percentiles of a bootstrap that
draws seeds and, within each, test units (images of cells, or patches); seeds have test sets that overlap, so an
interval that barely leaves out 0 is weak evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peers.graphmae import GraphMAE
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

import histograph as hg

from .common import ABLATIONS, SETTINGS

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)
#: Labelled rows that are enough to choose the penalty.
_ENOUGH = 2000
Matrix = np.ndarray


def makers(
    node_dim: int, edge_dim: int, edge_latents: bool = True
) -> dict[str, Callable[[], hg.methods.Method]]:
    """Give what is pre-trained: H-MGDM, with or without edge latents, its ablations, and GraphMAE of the same width."""

    def hmgdm(**ablation: Any) -> hg.methods.Method:
        return hg.methods.HMGDM(node_dim, edge_dim, **{**SETTINGS, "edge_latents": edge_latents, **ablation})

    found: dict[str, Callable[[], hg.methods.Method]] = {
        name: lambda ablation=ablation: hmgdm(**ablation)
        for name, ablation in ABLATIONS.items()
        if edge_latents or "edge_latents" not in ablation
    }
    found["GraphMAE"] = lambda: GraphMAE(node_dim, SETTINGS["hidden_dim"], layers=3)
    return found


def trained(
    windows: Sequence[Any],
    read: Callable[[hg.methods.Method], Matrix],
    epochs: int,
    seed: int,
    edge_latents: bool = True,
    ablations: bool = True,
) -> dict[str, Matrix]:
    """Pre-train every method on the windows, without labels, and `read` its vectors; H-MGDM also untrained."""
    found = {}
    todo = makers(windows[0].x.shape[1], windows[0].edge_attr.shape[1], edge_latents)
    if not ablations:
        todo = {name: todo[name] for name in ("H-MGDM", "GraphMAE")}
    for name, make in tqdm(todo.items(), desc="methods", leave=False):
        torch.manual_seed(seed)
        method = make()
        if name == "H-MGDM":
            method.before_epoch(0, windows)  # the same standardisation: only the training differs
            found["H-MGDM, untrained"] = read(method.eval())
        hg.pretrain(method, windows, epochs=epochs, batch_size=8, seed=seed, progress=False)
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

    `score` maps what `add` was given (one entry per seed and draw) and weights of the test units to a number.
    """

    score: Callable[[Any, Matrix], float]
    entries: dict[tuple[str, str], dict[int, list[Any]]] = field(default_factory=dict)
    units: dict[int, int] = field(default_factory=dict)

    def add(self, share: str, method: str, seed: int, entry: Any, units: int) -> None:
        """Note one draw."""
        self.entries.setdefault((share, method), {}).setdefault(seed, []).append(entry)
        self.units[seed] = units

    def of(self, share: str, method: str, seed: int, weights: Matrix) -> float:
        """Score a method with one seed: the mean over its draws."""
        return float(np.mean([self.score(entry, weights) for entry in self.entries[share, method][seed]]))

    def mean(self, share: str, method: str) -> tuple[float, float]:
        """Give mean and standard deviation over seeds."""
        seeds = sorted(self.entries[share, method])
        values = [self.of(share, method, seed, np.ones(self.units[seed])) for seed in seeds]
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
            for b in range(n_boot):
                weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)
                table[row, b] = self.of(share, method, seed, weights) - self.of(
                    share, baseline, seed, weights
                )
        drawn = rng.integers(0, len(seeds), (n_boot, len(seeds)))
        values = table[drawn, np.arange(n_boot)[:, None]].mean(1)
        centre = self.mean(share, method)[0] - self.mean(share, baseline)[0]
        low, high = np.percentile(values, [2.5, 97.5])
        return centre, float(low), float(high)


def weighted_f1(confusion: Matrix, weights: Matrix) -> float:
    """Weighted F1 from (units, K, K) counts of true and predicted classes."""
    total = np.tensordot(weights, confusion, 1)
    true, predicted, hit = total.sum(1), total.sum(0), np.diag(total)
    f1 = 2 * hit / np.maximum(true + predicted, 1e-12)
    return float((f1 * true).sum() / true.sum())


def confusion_by_unit(y: Matrix, predicted: Matrix, unit: Matrix, classes: int) -> Matrix:
    """Count true and predicted classes in each unit: (units, K, K)."""
    count = np.zeros((unit.max() + 1, classes, classes))
    np.add.at(count, (unit, y, predicted), 1)
    return count


def auc(entry: tuple[Matrix, Matrix], weights: Matrix) -> float:
    """Area under the ROC curve of (scores, binary labels), rows weighted; ties count half."""
    score, y = entry
    order = np.argsort(score, kind="stable")
    new = np.concatenate([[True], np.diff(score[order]) > 0])
    step = np.cumsum(new) - 1
    positive = np.bincount(step, weights=(weights * y)[order])
    negative = np.bincount(step, weights=(weights * (1 - y))[order])
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


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
