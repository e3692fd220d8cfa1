"""What each part of GCMAE is worth to its vectors: without contrast, without reconstruction, other shares hidden.

    python benchmarks/weights/ablations.py --data FOLDER [--patches 2400] [--epochs 24] [--seeds 3] [--only NAME ...]
                                           [--dim 96] [--depth 2]

FOLDER holds PatchCamelyon as for `train.py`. Each row is a network as that of `train.py`, but narrower, with one thing
changed, trained on the same patches without labels for the same number of passes; DINO, whose passes take several times
as long, and the untrained network are beside it.
A logistic regression, its penalty chosen within the training patches, and votes of 20 neighbours read frozen vectors
of patches that were kept back. Scores are means over seeds, which also draw the training patches; intervals and
differences are of a bootstrap of the kept-back patches, the same ones in every row, and hold for these seeds. Slides
are not named in the data, so intervals are too narrow where patches share slides. A finished run is not trained again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from dino.protocol import hand_made
from tqdm.auto import tqdm
from weights.patches import MPP, read_split
from weights.train import NETWORK, RECIPES

import histograph as hg

HAND, UNTRAINED, FULL = "hand-made (colour, stain, texture)", "GCMAE, untrained", "GCMAE"
#: What is changed in the arguments of the method.
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    UNTRAINED: ("gcmae", {}),
    FULL: ("gcmae", {}),
    "without contrast": ("gcmae", {"contrast_weight": 0.0}),
    "without reconstruction": ("gcmae", {"reconstruction_weight": 0.0}),
    "contrast as published (nce)": ("gcmae", {"contrast": "nce"}),
    "a quarter hidden": ("gcmae", {"mask_ratio": 0.25}),
    "three quarters hidden": ("gcmae", {"mask_ratio": 0.75}),
    "without jitter of stains": ("gcmae", {"stain": 0.0}),
    "DINO": ("dino", {}),
}
METRICS = ("accuracy", "auc")


def vectors_of(
    name: str, images: np.ndarray, parts: Sequence[np.ndarray], seed: int, options: argparse.Namespace
) -> list[np.ndarray]:
    """Train the network of a row, unless that was done, and embed parts of the patches."""
    if name == HAND:
        return [np.stack([hand_made(image, MPP) for image in part]) for part in parts]
    kind, change = CHANGES[name]
    make, settings, how = RECIPES[kind]
    torch.manual_seed(seed)
    size = {"dim": options.dim, "depth": options.depth}
    method = make(**{**NETWORK, **settings, **size, **change})
    if name != UNTRAINED:
        folder = (
            options.out
            / f"{name} patches={options.patches} epochs={options.epochs} seed={seed}".replace(" ", "_")
        )
        data = hg.PatchDataset(images)
        hg.pretrain(method, data, epochs=options.epochs, seed=seed, out=folder, accelerator="cpu", **how)
    return [np.asarray(hg.embed(method, hg.PatchDataset(part), 128, nodes=False)) for part in parts]


def scored(
    vectors: dict[int, tuple[np.ndarray, np.ndarray]],
    labels: dict[int, np.ndarray],
    y_asked: np.ndarray,
    probe: str,
) -> hg.evaluation.ProbeResult:
    """Score the vectors of all seeds together, a fold each; a kept-back patch is drawn with all its seeds."""
    chance, folds = [], []
    for seed, (known, asked) in vectors.items():
        result = hg.evaluation.held_out_probe(known, labels[seed], asked, y_asked, probe=probe, n_boot=1)
        columns = [f"p_{label}" for label in result.classes]
        chance.append(result.predictions[columns].to_numpy())
        folds += [seed] * len(y_asked)
    again = len(vectors)
    return hg.evaluation.score_classes(
        np.tile(y_asked, again),
        np.concatenate(chance),
        [0, 1],
        groups=np.tile(np.arange(len(y_asked)), again),
        fold=folds,
        metrics=METRICS,
    )


def print_rows(results: dict[str, hg.evaluation.ProbeResult], title: str) -> None:
    """Print scores, and how far each row is from the full method."""
    table = hg.evaluation.compare_results(results, FULL if FULL in results else None)
    print(f"\n{title}\n")
    print("| vectors | accuracy | AUC | accuracy less that of GCMAE | AUC less that of GCMAE |")
    print("|---" * 5 + "|")
    for name in results:
        row = table[table["name"] == name].set_index("metric").loc[list(METRICS)]
        cells = [f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]" for value in row.itertuples()]
        cells += [
            f"{value.difference:+.3f} [{value.difference_low:+.3f}, {value.difference_high:+.3f}]"
            for value in row.itertuples()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of PatchCamelyon")
    parser.add_argument("--patches", type=int, default=2400, help="training patches of each seed")
    parser.add_argument("--asked", type=int, help="kept-back patches; all by default")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=96, help="width of the network")
    parser.add_argument("--depth", type=int, default=2, help="its blocks")
    parser.add_argument(
        "--only", nargs="+", choices=[HAND, *CHANGES], metavar="NAME", help="rows of the table"
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / "ablations", help="folder of the runs")
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with train.tar and valid.tar of PatchCamelyon")
        return 0
    (images, y), (asked, y_asked) = read_split(options.data, "train"), read_split(options.data, "valid")
    asked, y_asked = asked[: options.asked], y_asked[: options.asked]
    names = options.only or [HAND, *CHANGES]
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {name: {} for name in names}
    labels = {}
    for seed in range(options.seeds):
        rows = np.random.default_rng(seed).permutation(len(y))[: options.patches]
        labels[seed] = y[rows]
        for name in tqdm(names, desc=f"seed {seed}"):
            known, beside = vectors_of(name, images[rows], (images[rows], asked), seed, options)
            found[name][seed] = known, beside
        for probe, title in (("linear", "linear probe"), ("vote", "votes of 20 neighbours")):
            results = {name: scored(found[name], labels, y_asked, probe) for name in names}
            print_rows(
                results, f"{title}; {seed + 1} seeds of {options.patches} patches, {len(asked)} kept back"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
