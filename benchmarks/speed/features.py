"""Time `region_features` against scikit-image's `regionprops_table` on the same columns; compare values.

Both run in this process on the same synthetic nuclei; times are medians of repeats after one warm-up each.

    python benchmarks/speed/features.py --n 20000 --size 4000
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numba
import numpy as np
import skimage
from skimage.measure import regionprops_table

from histograph.features import region_features

SAME = {
    "area": "area",
    "perimeter": "perimeter",
    "equivalent_diameter": "equivalent_diameter_area",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "eccentricity": "eccentricity",
    "extent": "extent",
    "convex_area": "area_convex",
    "solidity": "solidity",
    "red_mean": "intensity_mean-0",
    "green_mean": "intensity_mean-1",
    "blue_mean": "intensity_mean-2",
    "red_std": "intensity_std-0",
    "green_std": "intensity_std-1",
    "blue_std": "intensity_std-2",
}
PROPERTIES = ("label", "bbox", "orientation", *dict.fromkeys(v.split("-")[0] for v in SAME.values()))


def nuclei(n: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n jittered ellipses on a square raster, some of them touching, and a noisy image."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    step = size / side
    instance_map = np.zeros((size, size), np.int32)
    for i in rng.permutation(side * side)[:n]:
        y, x = (i // side + 0.5) * step, (i % side + 0.5) * step
        y, x = np.array([y, x]) + rng.uniform(-0.12, 0.12, 2) * step
        a, b, t = rng.uniform(0.25, 0.48) * step, rng.uniform(0.15, 0.35) * step, rng.uniform(0, np.pi)
        r0, c0 = max(int(y - a) - 1, 0), max(int(x - a) - 1, 0)
        window = instance_map[r0 : int(y + a) + 2, c0 : int(x + a) + 2]
        rows, columns = np.mgrid[: window.shape[0], : window.shape[1]]
        rows, columns = rows + r0 - y, columns + c0 - x
        u, v = columns * np.cos(t) + rows * np.sin(t), rows * np.cos(t) - columns * np.sin(t)
        window[(u / a) ** 2 + (v / b) ** 2 <= 1] = i + 1
    return instance_map, rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, float, list[float]]:
    """Return the result, the median time and all times in seconds, after one warm-up."""
    result = work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return result, median(times), times


def peak(work: Callable[[], Any]) -> float:
    """Return the peak of the memory that Python and numpy allocate during the work, in MB."""
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return found


def deviations(table: Any, reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest absolute deviation of every common column."""
    if not np.array_equal(table.label, reference["label"]):
        raise SystemExit("the two label columns differ")
    found = {ours: float(np.abs(table[ours] - reference[theirs]).max()) for ours, theirs in SAME.items()}
    directed = (table["orientation_sin"] != 0) | (table["orientation_cos"] != 0)
    double = 2 * reference["orientation"][directed]
    found["orientation_sin"] = float(np.abs(table["orientation_sin"][directed] - np.sin(double)).max())
    found["orientation_cos"] = float(np.abs(table["orientation_cos"][directed] + np.cos(double)).max())
    sides = np.stack([reference[f"bbox-{i + 2}"] - reference[f"bbox-{i}"] for i in (0, 1)])
    found["bbox_aspect"] = float(np.abs(table["bbox_aspect"] - sides.min(0) / sides.max(0)).max())
    return found


def main() -> None:
    """Parse the arguments, run both, print times, ratio, deviations and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20_000, help="number of nuclei")
    parser.add_argument("--size", type=int, default=4_000, help="side of the raster in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each, after one warm-up")
    parser.add_argument("--workers", type=int, default=2, help="threads of region_features")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    instance_map, image = nuclei(args.n, args.size, args.seed)

    def ours() -> Any:
        return region_features(instance_map, image, groups=("shape", "color"), workers=args.workers)

    def everything() -> Any:
        return region_features(instance_map, image, workers=args.workers)

    def theirs() -> dict[str, np.ndarray]:
        return regionprops_table(instance_map, image, properties=PROPERTIES)

    table, fast, fast_times = timed(ours, args.repeats)
    full, all_groups, _ = timed(everything, args.repeats)
    memory = {"shape+color": peak(ours), "all groups": peak(everything)}
    after_ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    reference, slow, slow_times = timed(theirs, args.repeats)

    print(f"{len(table)} nuclei, {args.size} x {args.size} px, {(instance_map > 0).mean():.1%} foreground")
    print(
        f"{os.cpu_count()} cores, {args.workers} workers, "
        f"numba {numba.__version__}, skimage {skimage.__version__}"
    )
    print(f"region_features, shape+color : {fast:8.3f} s  {[round(t, 3) for t in fast_times]}")
    print(f"region_features, all groups  : {all_groups:8.3f} s  ({len(full.names)} columns)")
    print(f"regionprops_table, same      : {slow:8.3f} s  {[round(t, 3) for t in slow_times]}")
    print(f"ratio                        : {slow / fast:8.1f}")
    print("largest deviation: " + ", ".join(f"{k} {v:.1e}" for k, v in deviations(table, reference).items()))
    peaks = ", ".join(f"{k} {v:.0f} MB" for k, v in memory.items())
    print(f"peak over the inputs: {peaks}; inputs {(instance_map.nbytes + image.nbytes) / 1e6:.0f} MB")
    print(f"peak resident memory before skimage ran: {after_ours:.0f} MB")


if __name__ == "__main__":
    main()
