"""Measure what SLPD's clusters, slide neighbours and training steps take.

    python benchmarks/speed/slpd.py [--parts clusters neighbours training] [--slides 1000] [--regions 60]
                                    [--compared 10000] [--sizes small published] [--trained 8] [--repeats 5]
                                    [--markdown FILE]

"clusters": k-means inside each of many slides, ours for all at once beside a loop of scikit-learn's KMeans over slides
with as many clusters, starts and iterations, and random rows as starts, as the published method has it. The two take
turns, so that other work on the machine meets both; ratios are medians with the smallest and the largest. The sum of
squared distances of ours over scikit-learn's says that neither is faster by being worse.

"neighbours": the most similar slide of each of 10,000 with 8 prototypes, beside what trying all permutations of all
pairs would take, and beside solving every pair: both estimated from a small part. Memory is the peak of the process
over what it was before.

"training": a step with the losses of prototypes and without, and what it takes before an epoch to read all regions, to
cluster them and to find neighbours, as a share of the epoch.

No data are needed: rows are unit vectors around directions that belong to the slide, with noise.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import statistics
import time
import warnings
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import normalize

from histograph.graphs import RegionDataset
from histograph.methods import SLPD
from histograph.nn import nearest_slides, segment_kmeans, set_similarity
from histograph.training.graphs import collate

# Arguments and regions a step.
SIZES: dict[str, tuple[dict[str, int], int]] = {
    "tiny": (
        {"feature_dim": 8, "dim": 16, "depth": 1, "heads": 2, "out_dim": 32}
        | {"head_dim": 16, "bottleneck_dim": 8, "local_views": 2},
        8,
    ),
    "small": (
        {"feature_dim": 64, "dim": 64, "depth": 2, "heads": 2, "out_dim": 4096}
        | {"head_dim": 256, "bottleneck_dim": 64, "local_views": 4},
        16,
    ),
    "published": ({}, 8),
}
DIM, CLUSTERS, RESTARTS, ITERATIONS, PROTOTYPES = 256, 4, 5, 10, 8
NOISE = {
    "clear": 1.0,
    "blurred": 3.0,
}  # standard deviation of a row around its direction, both before unit length


def rows_of(slides: int, regions: int, noise: float) -> tuple[Tensor, Tensor]:
    """Make unit rows of slides, and the slide of each."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(slides, CLUSTERS, DIM, generator=generator)
    own = torch.randint(CLUSTERS, (slides, regions), generator=generator)
    x = middle[torch.arange(slides)[:, None], own] + noise * torch.randn(
        slides, regions, DIM, generator=generator
    )
    return normalize(x.flatten(0, 1), dim=1), torch.arange(slides).repeat_interleave(regions)


def loop(x: Tensor, slides: int) -> float:
    """Cluster slide after slide; give the sum of squared distances."""
    total = 0.0
    for rows in x.view(slides, -1, DIM).numpy():
        model = KMeans(CLUSTERS, n_init=RESTARTS, max_iter=ITERATIONS, init="random", random_state=0)
        total += model.fit(rows).inertia_
    return total


def clusters(slides: int, regions: int, repeats: int) -> list[str]:
    """Give the table of clustering."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    lines = [
        f"{slides:,} slides of {regions} regions, width {DIM}, {CLUSTERS} clusters, {RESTARTS} starts, at most "
        f"{ITERATIONS} iterations",
        "",
        "| | ours, s | scikit-learn, s | times faster | squared distances, ours / scikit-learn |",
        "|---|---|---|---|---|",
    ]
    for name, noise in NOISE.items():
        x, segment = rows_of(slides, regions, noise)
        segment_kmeans(x[:regions], segment[:regions], CLUSTERS)  # compiled, or read from the cache
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(repeats):
            start = time.perf_counter()
            found = segment_kmeans(x, segment, CLUSTERS, restarts=RESTARTS, iterations=ITERATIONS)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            reference = loop(x, slides)
            theirs.append(time.perf_counter() - start)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} | "
            f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}] | "
            f"{float(found.inertia.sum()) / reference:.4f} |"
        )
    return lines


def sets_of(slides: int, shared: int) -> Tensor:
    """Make prototypes: independent of each other, or around directions that many slides share."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(max(shared, 1), DIM, generator=generator)
    p = torch.empty(slides, PROTOTYPES, DIM)
    for part in p.split(100):  # so that the memory this takes does not hide what the search takes
        part.normal_(generator=generator)
        if shared:
            part.mul_(0.7).add_(middle[torch.randint(shared, part.shape[:2], generator=generator)])
        part.copy_(normalize(part, dim=-1))
    return p


def all_permutations(slides: int, part: int = 400, tried: int = 50) -> float:
    """Estimate the hours for all pairs and all orders of prototypes, one order after another."""
    p = sets_of(part, 0)
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    best = torch.full((part, part), -torch.inf)
    for _ in range(tried):
        order = torch.randperm(PROTOTYPES, generator=generator)
        best = torch.maximum(best, p.flatten(1) @ p[:, order].flatten(1).T)
    once = (time.perf_counter() - start) / tried / part**2
    return once * slides**2 * math.factorial(PROTOTYPES) / 3600


def neighbours(slides: int) -> list[str]:
    """Give the table of the search."""
    few = sets_of(500, 0)
    nearest_slides(few[:3], torch.ones(3, dtype=torch.bool))  # compiled, or read from the cache
    start = time.perf_counter()
    set_similarity(few, few)
    every = (time.perf_counter() - start) / len(few) ** 2 * slides**2
    kinds = {"independent": sets_of(slides, 0), "around 40 shared directions": sets_of(slides, 40)}
    before = peak()
    lines = ["| prototypes | s | processor, s |", "|---|---|---|"]
    for name, p in kinds.items():
        start, busy = time.perf_counter(), time.process_time()
        nearest_slides(p, torch.ones(slides, dtype=torch.bool))
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        lines.append(f"| {name} | {seconds:.1f} | {busy:.1f} |")
    extra = (peak() - before) / 1e6
    return [
        f"the most similar of {slides:,} slides for each, {PROTOTYPES} prototypes, width {DIM}",
        "",
        *lines,
        "",
        f"The search adds {extra:,.0f} MB to the peak of the process; all inner products at once would be "
        f"{4 * (slides * PROTOTYPES) ** 2 / 1e9:.1f} GB. All pairs solved would take about {every:,.0f} s, and all "
        f"{math.factorial(PROTOTYPES):,} permutations of all pairs about {all_permutations(slides):,.0f} h.",
    ]


def step_of(method: SLPD, optimizer: torch.optim.Optimizer, batch: object) -> None:
    """Make a step as the trainer does."""
    optimizer.zero_grad()
    method(batch)["loss"].backward()
    method.limit_gradients(3.0)
    optimizer.step()
    method.after_step(1)


def training(size: str, slides: int, repeats: int) -> list[str]:
    """Give the rows of one size, of slides of 32 regions with a tenth of the patches missing."""
    arguments, count = SIZES[size]
    torch.manual_seed(0)
    method = SLPD(**arguments, start_epoch=0, freeze_epochs=0).train()  # type: ignore[arg-type]
    width = method.config["feature_dim"]
    generator = torch.Generator().manual_seed(0)
    grids = [torch.randn(32, width, 16, 16, generator=generator).numpy() for _ in range(slides)]
    present = [(torch.rand(32, 16, 16, generator=generator) < 0.9).numpy() for _ in range(slides)]
    data = RegionDataset.from_grids(grids, present=present, edges=False)
    method.before_epoch(0, data)  # measures the scale; everything is compiled
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=1e-4, weight_decay=0.04)
    batch = collate([data[row] for row in range(count)], SLPD.reads)
    refresh, reading, found = [], [], {"with": [], "without": []}
    tables = {name: value.clone() for name, value in method.prototypes.state_dict().items()}
    for turn in range(repeats + 1):
        start = time.perf_counter()
        method.refresh(data)
        refresh.append(time.perf_counter() - start)
        start = time.perf_counter()
        method.read_regions(data)
        reading.append(time.perf_counter() - start)
        for name, times in found.items():
            method.prototypes.load_state_dict(tables)
            if name == "without":
                method.prototypes.clear()
            start = time.perf_counter()
            step_of(method, optimizer, batch)
            if turn:  # the first turn makes the optimiser's state
                times.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(found["with"], found["without"], strict=True)]
    steps = statistics.median(found["with"]) * len(data) / count
    shares = [statistics.median(times) / (steps + statistics.median(refresh)) for times in (refresh, reading)]
    return [
        f"| {size} | {count} | {statistics.median(found['with']):.2f} | {statistics.median(ratios):.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}] | {shares[0]:.1%} | {shares[1]:.1%} |"
    ]


def trainings(sizes: list[str], slides: int, repeats: int) -> list[str]:
    """Give the table of training."""
    return [
        f"training on {slides} slides of 32 regions; shares are of the time of an epoch with one refresh",
        "",
        "| size | regions a step | step, s | times a step without prototypes | refresh | of which reading regions |",
        "|---|---|---|---|---|---|",
        *[row for size in sizes for row in training(size, slides, repeats)],
    ]


def peak() -> float:
    """Give the largest memory of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("clusters", "neighbours", "training"),
        default=["clusters", "neighbours", "training"],
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=["small", "published"], help="of what is trained"
    )
    parser.add_argument("--trained", type=int, default=8, help="slides of 32 regions that are trained on")
    parser.add_argument("--slides", type=int, default=1000, help="slides that are clustered")
    parser.add_argument("--regions", type=int, default=60, help="regions of each")
    parser.add_argument("--compared", type=int, default=10_000, help="slides whose neighbours are searched")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", type=Path, help="write the tables here too")
    options = parser.parse_args()
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} processors, "
        f"{platform.machine()}"
    ]
    print(lines[0])
    # the search first: its memory is measured as what the process takes at most
    parts = {
        "neighbours": lambda: neighbours(options.compared),
        "clusters": lambda: clusters(options.slides, options.regions, options.repeats),
        "training": lambda: trainings(options.sizes, options.trained, options.repeats),
    }
    for name, part in parts.items():
        if name in options.parts:
            table = ["", *part()]
            print("\n".join(table), flush=True)
            lines += table
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
