"""Time the edge builders against the peers that users would call instead; every row says what each side does.

    python benchmarks/speed/graphs.py [--n 1000000] [--repeats 3] [--markdown FILE]

Both sides of a row run in this process on the same points, warmed up on a small input, best of the repeats:
the ratios are the message. "Same job" means symmetric edges sorted by source and target, with lengths;
histograph always does that job. Peak memory is that of a fresh process per case, over what the inputs need.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from features import PROPERTIES, nuclei
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay, cKDTree
from skimage.measure import regionprops_table
from sklearn.neighbors import NearestNeighbors

import histograph as hg
from histograph.features import region_features
from histograph.graphs.contact import contact_pairs

K = 8
NEIGHBOURS_IN_RADIUS = 12
POINTS_PER_MM2 = 5_000  # of a moderately cellular slide
RADIUS_UM = float(np.sqrt(NEIGHBOURS_IN_RADIUS / (np.pi * POINTS_PER_MM2 / 1e6)))
MAP_SIDE, MAP_NUCLEI = 4_000, 20_000

Work = Callable[[], Any]


def points(n: int, seed: int = 0) -> np.ndarray:
    """Return uniform points in a square, micrometres."""
    return np.random.default_rng(seed).random((n, 2)) * np.sqrt(n / POINTS_PER_MM2 * 1e6)


def best(work: Work, repeats: int) -> float:
    """Return the shortest time of the repeats in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


# --- what the peers' users write --------------------------------------------------------------------------------


def symmetric(source: np.ndarray, target: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make directed edges symmetric, sorted and unique with SciPy's sparse matrices, and measure them."""
    one = csr_matrix((np.ones(len(source), np.int8), (source, target)), shape=(len(pos), len(pos)))
    both = one.maximum(one.T).tocsr()
    both.sort_indices()
    source = np.repeat(np.arange(len(pos)), np.diff(both.indptr))
    return np.stack([source, both.indices]), np.linalg.norm(pos[source] - pos[both.indices], axis=1)


def sklearn_query(pos: np.ndarray) -> np.ndarray:
    """Directed neighbours and their distances, scikit-learn's k-d tree (k + 1, as a point finds itself)."""
    return NearestNeighbors(n_neighbors=K + 1, algorithm="kd_tree").fit(pos).kneighbors(pos)[1]


def scipy_query(pos: np.ndarray) -> np.ndarray:
    """Directed neighbours and their distances, SciPy's k-d tree with two threads."""
    return cKDTree(pos).query(pos, K + 1, workers=2)[1]


def symmetric_knn(query: Callable[[np.ndarray], np.ndarray], pos: np.ndarray) -> Any:
    """Do the same job as `knn_edges` after a peer's query."""
    target = query(pos)[:, 1:].ravel()
    return symmetric(np.repeat(np.arange(len(pos)), K), target, pos)


def scipy_pairs(pos: np.ndarray) -> np.ndarray:
    """Return undirected pairs within the radius, without lengths."""
    return cKDTree(pos).query_pairs(RADIUS_UM, output_type="ndarray")


def scipy_radius(pos: np.ndarray) -> Any:
    """Do the same job as `radius_edges` with SciPy."""
    pairs = scipy_pairs(pos)
    return symmetric(pairs[:, 0], pairs[:, 1], pos)


def scipy_delaunay(pos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Qhull, then both directions by `vertex_neighbor_vertices` (rows not sorted), then lengths."""
    pointer, target = Delaunay(pos).vertex_neighbor_vertices
    source = np.repeat(np.arange(len(pos)), np.diff(pointer))
    return source, target, np.linalg.norm(pos[source] - pos[target], axis=1)


def dilate_full(instance_map: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """As histocartography: the mask of each region over the whole map, dilated; the labels under it."""
    if importlib.util.find_spec("cv2"):
        import cv2

        kernel = np.ones((3, 3), np.uint8)
        grown = (cv2.dilate((instance_map == label).astype(np.uint8), kernel) > 0 for label in labels)
    else:
        square = np.ones((3, 3), bool)
        grown = (ndimage.binary_dilation(instance_map == label, square) for label in labels)
    return [np.unique(instance_map[mask]) for mask in grown]


def dilate_crops(instance_map: np.ndarray) -> list[np.ndarray]:
    """Find the labels under the dilation of each region within its own bounding box plus one pixel."""
    square = np.ones((3, 3), bool)
    found = []
    for label, box in enumerate(ndimage.find_objects(instance_map), start=1):
        if box is not None:
            crop = instance_map[tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)]
            found.append(np.unique(crop[ndimage.binary_dilation(crop == label, square)]))
    return found


def squidpy_knn(pos: np.ndarray) -> Any:
    """Directed neighbours and their distances as sparse matrices, squidpy."""
    import anndata
    import squidpy

    table = anndata.AnnData(obsm={"spatial": pos})
    return squidpy.gr.spatial_neighbors(table, coord_type="generic", n_neighs=K, copy=True)


def torch_cluster_knn(pos: np.ndarray) -> Any:
    """Directed edges without lengths, torch-cluster."""
    import torch
    import torch_cluster

    return torch_cluster.knn_graph(torch.from_numpy(pos), K)


# --- the table --------------------------------------------------------------------------------------------------


class Report:
    """Rows of one table: job, size, ours, the peer's, ratio, what the peer does."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.lines = ["| job | size | histograph, s | peer | peer, s | ratio |", "|---|---|---|---|---|---|"]

    def compare(self, job: str, size: str, ours: Work, peers: dict[str, Work | str]) -> None:
        """Time one job and its peers; a peer given as text is a row that says why there is no time."""
        fast = best(ours, self.repeats)
        for name, peer in peers.items():
            if isinstance(peer, str):
                self.lines.append(f"| {job} | {size} | {fast:.3f} | {name} | {peer} | |")
            else:
                slow = best(peer, self.repeats)
                self.lines.append(
                    f"| {job} | {size} | {fast:.3f} | {name} | {slow:.3f} | {slow / fast:.1f} |"
                )
            print(self.lines[-1], flush=True)

    def extrapolated(self, job: str, size: str, ours: Work, name: str, peer: Work, factor: float) -> None:
        """Compare with a peer that is timed once, on a part of the work."""
        fast = best(ours, self.repeats)
        slow = best(peer, 1) * factor
        self.lines.append(f"| {job} | {size} | {fast:.3f} | {name} | {slow:.1f} | {slow / fast:.0f} |")
        print(self.lines[-1], flush=True)

    def text(self, *lines: str) -> None:
        """Add plain lines."""
        self.lines += lines
        print("\n".join(lines), flush=True)


def if_installed(module: str, work: Work) -> Work | str:
    """Return the work, or the words of its row."""
    return work if importlib.util.find_spec(module) else "not installed"


def point_rows(report: Report, n: int) -> None:
    """Compare the builders that start from points."""
    pos = points(n)
    for ours in (hg.knn_edges, hg.delaunay_edges, partial(hg.radius_edges, radius_um=RADIUS_UM)):
        ours(pos[:2000])
    hg.knn_edges(clusters(2000))  # takes the tree, not the grid
    size = f"{n:,} points"
    report.compare(
        f"kNN, k={K}, symmetric, lengths",
        size,
        partial(hg.knn_edges, pos, K),
        {
            "sklearn kd_tree, directed query and distances only": partial(sklearn_query, pos),
            "sklearn kd_tree, same job": partial(symmetric_knn, sklearn_query, pos),
            "SciPy cKDTree workers=2, directed query and distances only": partial(scipy_query, pos),
            "SciPy cKDTree workers=2, same job": partial(symmetric_knn, scipy_query, pos),
            "squidpy, directed": if_installed("squidpy", partial(squidpy_knn, pos)),
            "torch-cluster, directed, no lengths": if_installed(
                "torch_cluster", partial(torch_cluster_knn, pos)
            ),
        },
    )
    tight = clusters(n)
    report.compare(
        f"kNN, k={K}, symmetric, lengths; 20 tight clusters and 10 outliers",
        size,
        partial(hg.knn_edges, tight, K),
        {"SciPy cKDTree workers=2, directed query and distances only": partial(scipy_query, tight)},
    )
    report.compare(
        f"radius {RADIUS_UM:.1f} µm (about {NEIGHBOURS_IN_RADIUS} neighbours), symmetric, lengths",
        size,
        partial(hg.radius_edges, pos, RADIUS_UM),
        {
            "SciPy cKDTree.query_pairs, undirected, no lengths": partial(scipy_pairs, pos),
            "SciPy cKDTree.query_pairs, same job": partial(scipy_radius, pos),
        },
    )
    report.compare(
        "Delaunay, symmetric, lengths",
        size,
        partial(hg.delaunay_edges, pos),
        {
            "SciPy Delaunay + vertex_neighbor_vertices + lengths (rows not sorted)": partial(
                scipy_delaunay, pos
            )
        },
    )


def clusters(n: int, seed: int = 0) -> np.ndarray:
    """Return n points in 20 clusters 1e-3 µm wide, and 10 outliers a metre away."""
    rng = np.random.default_rng(seed)
    centre = rng.random((20, 2)) * 1e4
    return np.concatenate(
        [rng.random((10, 2)) * 1e6, centre.repeat(n // 20, 0) + rng.normal(0, 1e-3, (n // 20 * 20, 2))]
    )


def kept_rows(report: Report, n: int = 20_000) -> None:
    """Count the points that have an edge in either Delaunay graph, where rounding is at its worst."""
    report.text(
        "", "| Delaunay, points with at least one edge | points | histograph | SciPy |", "|---|---|---|---|"
    )
    for name, pos in (
        ("uniform", points(n)),
        ("20 clusters 1e-3 µm wide, 10 outliers", clusters(n)),
        ("offset of 1e8 µm, 1 µm wide", 1e8 + np.random.default_rng(1).random((n, 2))),
        ("offset of 1e12 µm, 1 mm wide", 1e12 + 1e3 * np.random.default_rng(2).random((n, 2))),
    ):
        ours = len(np.unique(hg.delaunay_edges(pos)[0].numpy()))
        theirs = len(np.unique(scipy_delaunay(pos)[0]))
        report.text(
            f"| {name} | {len(np.unique(pos, axis=0)):,} distinct of {len(pos):,} | {ours:,} | {theirs:,} |"
        )


def map_rows(report: Report) -> None:
    """Compare the jobs that start from an instance map."""
    instance_map, image = nuclei(MAP_NUCLEI, MAP_SIDE, seed=0)
    labels = np.unique(instance_map[instance_map > 0])
    size = f"{MAP_SIDE:,} x {MAP_SIDE:,} px, {len(labels):,} nuclei"
    hg.contact_edges(instance_map[:500, :500], 0.5)
    ours = partial(hg.contact_edges, instance_map, 0.5)
    some = np.random.default_rng(0).choice(labels, 10, replace=False)
    tool = "cv2.dilate" if importlib.util.find_spec("cv2") else "ndimage.binary_dilation"
    job = "contact, 8-connected, symmetric, lengths"
    report.extrapolated(
        job,
        size,
        ours,
        f"full mask and {tool} per region, labels under it (10 regions, extrapolated)",
        partial(dilate_full, instance_map, some),
        len(labels) / len(some),
    )
    crop = "bounding-box crop and binary_dilation per region, labels under it"
    report.compare(job, size, ours, {crop: partial(dilate_crops, instance_map)})
    under = dilate_crops(instance_map)
    same = sum(len(np.setdiff1d(found, [0])) - 1 for found in under) == 2 * len(
        contact_pairs(instance_map)[0]
    )
    if not same:
        raise SystemExit("contact edges and dilation disagree")
    region_features(instance_map[:500, :500], image[:500, :500], groups=("shape", "color"))
    report.compare(
        "region features, 13 shape + colour columns",
        size,
        partial(region_features, instance_map, image, groups=("shape", "color")),
        {
            "skimage regionprops_table, same columns": partial(
                regionprops_table, instance_map, image, properties=PROPERTIES
            )
        },
    )


# --- memory and compilation, each in a fresh process ------------------------------------------------------------


def memory_cases() -> dict[str, Callable[[np.ndarray], Any]]:
    """Return the jobs whose memory is measured, by name."""
    return {
        "knn": partial(hg.knn_edges, k=K),
        "radius": partial(hg.radius_edges, radius_um=RADIUS_UM),
        "delaunay": hg.delaunay_edges,
        "scipy knn same job": partial(symmetric_knn, scipy_query),
        "contact": partial(hg.contact_edges, mpp=0.5),
    }


def case_input(name: str, n: int) -> np.ndarray:
    """Return n points, or for `contact` a map of n pixels with a nucleus per 800 pixels."""
    if name != "contact":
        return points(n)
    side = int(np.sqrt(n))
    row, column = np.ogrid[:side, :side]
    label = (row // 28) * (side // 28 + 1) + column // 28 + 1
    disk = (row % 28 - 14) ** 2 + (column % 28 - 14) ** 2 <= 200
    return np.where(disk, label, 0).astype(np.int32)


def resident_mb(field: str) -> float:
    """Return `VmRSS` (now) or `VmHWM` (peak) of this process in MB; getrusage would inherit the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1e3


def measure(name: str, n: int) -> None:
    """Child process (Linux): print the first call's seconds on a small input, and the growth of the peak in MB."""
    work = memory_cases()[name]
    small = case_input(name, 20_000)
    start = time.perf_counter()
    work(small)
    first = time.perf_counter() - start
    given = case_input(name, n)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident_mb("VmRSS")
    result = work(given)
    print(first, resident_mb("VmHWM") - before)
    del result


def in_child(name: str, n: int, cache: str | None = None) -> tuple[float, float]:
    """Run `measure` in a fresh process, with an empty numba cache where one is named."""
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": cache} if cache else {})}
    command = [sys.executable, __file__, "--measure", name, "--n", str(n)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, growth = done.stdout.split()
    return float(first), float(growth)


def memory_rows(report: Report, n: int) -> None:
    """Show that peak memory is linear: the growth at n and 4 n."""
    report.text(
        "", "| peak memory over the inputs | items | n, MB | 4 n, MB | 4 n / n |", "|---|---|---|---|---|"
    )
    for name in memory_cases():
        items = 16_000_000 if name == "contact" else n
        one, four = in_child(name, items)[1], in_child(name, 4 * items)[1]
        kind = "pixels" if name == "contact" else "points"
        report.text(f"| {name} | {items:,} {kind} | {one:.0f} | {four:.0f} | {four / max(one, 1e-9):.1f} |")


def compile_rows(report: Report) -> None:
    """Show what a user waits for once: the first call ever, and the first call of a later process."""
    report.text(
        "", "| first call (20,000 points or pixels) | no cache, s | compiled before, s |", "|---|---|---|"
    )
    for name in ("knn", "radius", "delaunay", "contact"):
        with tempfile.TemporaryDirectory() as cache:
            cold = in_child(name, 20_000, cache)[0]
            warm = in_child(name, 20_000, cache)[0]
        report.text(f"| {name} | {cold:.1f} | {warm:.2f} |")


def machine() -> list[str]:
    """Return the date, processor and versions that the numbers belong to."""
    names = ("numpy", "scipy", "scikit-learn", "scikit-image", "numba", "torch")
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    load = os.getloadavg()[0]
    return [
        f"{date.today()}, {cpu}, {os.cpu_count()} cores (load {load:.1f} at the start), "
        f"Python {platform.python_version()}",
        ", ".join(f"{name} {version(name)}" for name in names),
        "",
    ]


def main() -> None:
    """Parse the arguments, run all rows and print them; write them to a file when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1_000_000, help="number of points")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each; the best counts")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--measure", choices=sorted(memory_cases()), help="used by the script to measure itself"
    )
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.n)
        return
    report = Report(arguments.repeats)
    report.lines = machine() + report.lines
    print("\n".join(report.lines), flush=True)
    point_rows(report, arguments.n)
    map_rows(report)
    kept_rows(report)
    memory_rows(report, arguments.n)
    compile_rows(report)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(report.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
