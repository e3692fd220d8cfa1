"""What the parts of SLPD are worth on real tissue, and what its prototypes look like.

    python benchmarks/slpd/evidence.py --task crc --data FOLDER [--seeds 3] [--epochs 12] [--pictures FOLDER]
    python benchmarks/slpd/evidence.py --task pcam --data FOLDER
    python benchmarks/slpd/evidence.py --task slides --data FILE [FILE ...] [--mpp 0.5] [--patch-um 16 32]

crc: CRCHistoPhenotypes (Sirinukunwattana et al., IEEE TMI 2016) as `images/*.png` and `classified_nuclei.csv`. Each
picture is a slide of 16 regions of 4 x 4 patches of 17 um. Which kind of cells is the most frequent in a region, and
how large is the share of epithelial cells? Methods see all pictures without labels; probes are out of fold by picture.

pcam: PatchCamelyon as `train.tar` and `valid.tar`. Slides are pieced together of its patches, 24 regions of 4 x 4, and
are no real slides: half of them have a focus of 4 regions in which half of the patches have tumour, patches of a region
are alike in colour, and slides share patches. Has a slide tumour? Methods and heads learn from slides of the training
patches, and are asked about slides of the validation patches.

In both a patch is its colour, stain and texture, measured by hand, and each row of the table is one small network with
one thing changed, trained alike. Scores are means over seeds (of weights, views and folds, or of the training slides);
intervals and differences are of a bootstrap of pictures or test slides, the same in all rows, and hold for these seeds
and, for pcam, for these validation patches. A finished run is not trained again.

slides: pictures of the prototypes of real slides, at several sizes of patches.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from slpd.prototypes import picture_of, pictures_of_slides
from slpd.questions import METRICS, Answers, Task, crc_task, pcam_task, scored
from slpd.sources import SIDE, Kept
from tqdm.auto import tqdm

import histograph as hg
from histograph.methods import SLPD, GraphSLPD

HAND, UNTRAINED, DINO = "hand-made, mean of patches", "untrained", "DINO alone"
INTRA, INTER, FULL = "DINO + intra", "DINO + inter", "SLPD (both)"
SINKHORN, COHERENT, SELDOM = "Sinkhorn clusters", "coherent clusters", "every 3 epochs, warm start"
GRAPH_DINO, GRAPH = "graph encoder, DINO alone", "graph encoder, SLPD"
PLAIN = {"intra_weight": 0.0, "inter_weight": 0.0}
#: What is changed in the arguments of the method.
CHANGES: dict[str, dict[str, Any]] = {
    UNTRAINED: {},
    DINO: PLAIN,
    INTRA: {"inter_weight": 0.0},
    INTER: {"intra_weight": 0.0},
    FULL: {},
    SINKHORN: {"assignment": "sinkhorn"},
    COHERENT: {"coherence": 0.05},
    SELDOM: {"refresh_every": 3, "warm_start": True},
    GRAPH_DINO: PLAIN,
    GRAPH: {},
}
COMPARED = (
    (INTRA, DINO),
    (INTER, DINO),
    (FULL, DINO),
    (FULL, INTRA),
    (FULL, INTER),
    (DINO, UNTRAINED),
    (FULL, UNTRAINED),
    (FULL, HAND),
    (SINKHORN, FULL),
    (COHERENT, FULL),
    (SELDOM, FULL),
    (GRAPH, GRAPH_DINO),
    (GRAPH, FULL),
)
#: Of the network and the training, the same in all rows.
SHARED: dict[str, Any] = {
    "dim": 64,
    "local_views": 4,
    "out_dim": 512,
    "head_dim": 128,
    "bottleneck_dim": 64,
    "momentum": 0.99,
    "min_regions": 8,
}
GRID: dict[str, Any] = {
    "depth": 2,
    "heads": 4,
    "drop_path": 0.0,
    "region_size": SIDE,
    "global_size": 3,
    "local_size": 2,
}
TRAINING: dict[str, Any] = {
    "batch_size": 64,
    "lr": 1e-3,
    "weight_decay": 0.04,
    "gradient_clip": 3.0,
    "warmup": 0.1,
    "accelerator": "cpu",
    "progress": False,
}


def method_of(name: str, feature_dim: int, prototypes: int, epochs: int) -> hg.methods.Method:
    """Make the network of a row; prototypes begin after a third of the epochs."""
    settings = {**SHARED, "prototypes": prototypes, "start_epoch": epochs // 3, **CHANGES[name]}
    if name in (GRAPH, GRAPH_DINO):
        return GraphSLPD(feature_dim, layers=2, encoder="gcn", **settings)
    return SLPD(feature_dim, **GRID, **settings)


def trained(
    name: str, regions: Kept, seed: int, options: argparse.Namespace, prototypes: int
) -> tuple[hg.methods.Method, float]:
    """Train the network of a row, unless that was done; and the seconds it took."""
    torch.manual_seed(seed)
    method = method_of(name, regions.feature_dim, prototypes, options.epochs)
    if name == UNTRAINED:
        method.scale.fit(region.x for region in regions)  # only the training differs
        return method, 0.0
    size = f"regions={len(regions)} epochs={options.epochs} seed={seed}"
    folder = options.out / options.task / f"{name} {size}".replace(" ", "_")
    hg.pretrain(method, regions, epochs=options.epochs, seed=seed, out=folder, **TRAINING)
    return method, float(pd.read_csv(folder / "log.csv").seconds.sum())


def vectors_of(method: hg.methods.Method, regions: Kept) -> np.ndarray:
    """Embed regions."""
    return np.asarray(hg.embed(method, regions, 256, nodes=False, progress=False))


def print_scores(task: Task, results: dict[str, dict[str, Any]], seconds: dict[str, list[float]]) -> None:
    """Print the scores of all rows."""
    print("\n| vectors | " + " | ".join(q.title for q in task.questions) + " | s of training |")
    print("|---" * (len(task.questions) + 2) + "|")
    for name, spent in seconds.items():
        cells = []
        for question in task.questions:
            value, low, high = results[question.title][name].metrics[METRICS[question.kind]]
            cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {name} | " + " | ".join(cells) + f" | {np.mean(spent):.0f} |")


def print_differences(task: Task, results: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """Print paired differences; those whose interval is clear of 0 are bold."""
    pairs = [(name, base) for name, base in COMPARED if name in names and base in names]
    if not pairs:
        return
    bases = list(dict.fromkeys(base for _, base in pairs))
    tables = {
        question.title: hg.evaluation.compare_results(results[question.title], bases).set_index(
            ["name", "baseline"]
        )
        for question in task.questions
    }
    print("\n| difference | " + " | ".join(tables) + " |")
    print("|---" * (len(tables) + 1) + "|")
    for pair in pairs:
        cells = []
        for table in tables.values():
            row = table.loc[pair]
            text = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
            clear = row.difference_low > 0 or row.difference_high < 0
            cells.append(f"**{text}**" if clear else text)
        print(f"| {pair[0]} – {pair[1]} | " + " | ".join(cells) + " |")


def run(task: Task, options: argparse.Namespace) -> None:
    """Train and score all rows, seed after seed."""
    names = options.only or [HAND, *CHANGES]
    answers: dict[str, list[Answers]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(options.seeds):
        sides = task.sides(seed)
        for name in tqdm(names, desc=f"seed {seed}", disable=None):
            if name == HAND:
                vectors, spent = [side.means() for side in sides], 0.0
            else:
                method, spent = trained(name, sides[0].regions, seed, options, task.prototypes)
                vectors = [vectors_of(method, side.regions) for side in sides]
                if seed == 0 and name in (FULL, GRAPH) and options.pictures:
                    file = options.pictures / f"{options.task} {name}.png".replace(" ", "_")
                    picture_of(method, sides[0], file)
            answers[name].append(task.answers(vectors, sides, seed))
            seconds[name].append(spent)
        results = {
            question.title: {name: scored(question, answers[name]) for name in names}
            for question in task.questions
        }
        print(f"\n{task.title}; seeds so far: {seed + 1}", flush=True)
        print_scores(task, results, seconds)
    print_differences(task, results, names)
    print("\nDifferences are paired, with 95 % intervals; those clear of 0 are bold.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=("crc", "pcam", "slides"), default="crc")
    parser.add_argument("--data", type=Path, nargs="+", help="folder of the data set; of slides, their files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--limit", type=int, help="pictures or made-up slides of each side, for a smaller run"
    )
    parser.add_argument(
        "--heads", nargs="*", default=["mean", "attention"], help="heads of slides, of --task pcam"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[HAND, *CHANGES], metavar="NAME", help="rows of the table"
    )
    parser.add_argument("--mpp", type=float, help="micrometres per pixel of slides that do not say")
    parser.add_argument(
        "--patch-um", type=float, nargs="+", default=[16.0, 32.0], help="sides of patches, of --task slides"
    )
    parser.add_argument("--prototypes", type=int, default=4, help="clusters of a slide, of --task slides")
    parser.add_argument(
        "--pictures", type=Path, help="folder for pictures of prototypes; of slides --out by default"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/slpd/evidence"), help="folder of the runs")
    options = parser.parse_args(argv)
    if options.data is None:
        print(
            "skipped: give --data FOLDER with CRCHistoPhenotypes (--task crc) or PatchCamelyon (pcam), or slides "
            "(slides)"
        )
        return 0
    if options.task == "slides":
        pictures_of_slides(options, partial(method_of, FULL), TRAINING)
        return 0
    if len(options.data) > 1:
        parser.error(f"--data: one folder is expected for --task {options.task}, found {len(options.data)}")
    make = crc_task if options.task == "crc" else pcam_task
    run(make(options.data[0], options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
