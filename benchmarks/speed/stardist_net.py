"""Time a StarDist network in PyTorch, OpenVINO and onnxruntime beside Keras on the same processor, and the suppression.

    python benchmarks/speed/stardist_net.py [--model FOLDER] [--side 1024] [--repeats 7] [--threads 1 2] [--compile]

Without ``--model`` a network of the size of 2D_versatile_he with random weights is used (32 filters, depth 3, grid 2,
32 rays, 1.4 million weights): what it costs does not depend on what it learnt. Keras needs the stardist package with
TensorFlow, OpenVINO the openvino package, onnxruntime also onnx; a row is left out where its package is missing.

The runtimes take turns, so that other work on the machine meets all of them. A ratio is that of Keras, or of stardist's
suppression, to the row in the same turn, more than 1 being faster: median over the turns, with the smallest and the
largest. It is given for the time on the clock and for that of the processor, which other work moves less. "Differs"
is the largest difference to Keras in probability and in distance (pixels; the network's, on noise).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = {
    "n_dim": 2,
    "axes": "YXC",
    "n_channel_in": 3,
    "n_rays": 32,
    "grid": [2, 2],
    "unet_n_depth": 3,
    "unet_n_filter_base": 32,
    "net_conv_after_unet": 128,
}
HEAD = (
    "| what | s | s / megapixel | times as fast (clock) | (processor) | differs |\n|---|---|---|---|---|---|"
)
# Name, options of make_runner, packages.
RUNTIMES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("Keras (stardist), float32", {"backend": "keras"}, ("tensorflow", "stardist")),
    ("PyTorch, float32", {}, ()),
    ("PyTorch, bfloat16", {"mixed_precision": True}, ()),
    ("OpenVINO, float32", {"backend": "openvino"}, ("openvino",)),
    ("OpenVINO, bfloat16", {"backend": "openvino", "mixed_precision": True}, ("openvino",)),
]

Turns = dict[str, list[tuple[float, float]]]


def installed(*packages: str) -> bool:
    """Whether all packages are there."""
    return all(importlib.util.find_spec(package) for package in packages)


def take_turns(works: dict[str, Callable[[], Any]], repeats: int) -> Turns:
    """Return the seconds, on the clock and of the processor, of each work in each turn."""
    for work in works.values():
        work()
    turns: Turns = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            time.sleep(0.1)  # threads of the one before go to sleep
            clock, processor = time.perf_counter(), time.process_time()
            work()
            turns[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return turns


def rows(turns: Turns, side: int, differs: dict[str, str]) -> str:
    """Return the rows as Markdown; ratios are to the first."""
    first, lines = next(iter(turns.values())), []
    for name, found in turns.items():
        seconds = statistics.median(clock for clock, _ in found)
        cells = [name, f"{seconds:.3f}", f"{seconds / (side / 1000) ** 2:.2f}"]
        for which in (0, 1):
            ratios = [a[which] / b[which] for a, b in zip(first, found)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append("| " + " | ".join([*cells, differs.get(name, "")]) + " |")
    return "\n".join(lines)


def random_model(folder: Path) -> Path:
    """Write a StarDist folder with random weights, in the layout of Keras 2."""
    import h5py
    import torch

    from histograph.nn.stardist_config import StarDistConfig
    from histograph.nn.stardist_net import StarDistNet

    torch.manual_seed(0)
    network = StarDistNet(StarDistConfig.from_dict(CONFIG))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names, unnamed = [], 0
    with h5py.File(folder / "weights_best.h5", "w") as file:
        for name, conv, _ in network.keras_layers():
            if name is None:
                name, unnamed = "conv2d" + (f"_{unnamed}" if unnamed else ""), unnamed + 1
            group = file.create_group(name)
            group[f"{name}/kernel:0"] = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
            group[f"{name}/bias:0"] = conv.bias.detach().numpy()
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            names.append(name.encode())
        file.attrs["layer_names"] = names
    return folder


def onnx_runner(model: Any, threads: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Export a network with PyTorch and run it in onnxruntime; no backend of histograph, only to compare."""
    import onnxruntime
    import torch

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    example = torch.zeros(1, model.config.n_channel_in, *(2 * step for step in model.config.divisor))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no onnxscript is called old
        file = str(Path(folder) / "model.onnx")
        axes = {"image": {2: "height", 3: "width"}}
        torch.onnx.export(
            model.network, (example,), file, dynamo=False, input_names=["image"], dynamic_axes=axes
        )
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prob, dist, *_ = session.run(None, {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})
        return prob[0, 0], np.ascontiguousarray(dist[0].transpose(1, 2, 0))

    return run


def compiled_runner(model: Any, mixed_precision: bool) -> Callable[[np.ndarray], Any]:
    """Compile a network with PyTorch, which takes minutes and a C++ compiler; only to compare."""
    import copy

    import torch

    dtype = torch.bfloat16 if mixed_precision else torch.float32
    network = copy.deepcopy(model.network).to(dtype=dtype, memory_format=torch.channels_last)
    compiled = torch.compile(network)

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            prob, dist = compiled(torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype))[:2]
            return prob[0, 0].float().numpy(), dist[0].float().permute(1, 2, 0).numpy()

    return run


def networks(folder: Path, side: int, repeats: int, threads: int, compiled: bool) -> str:
    """Return a row for each runtime that is installed."""
    from histograph.entities.stardist_files import load_stardist
    from histograph.entities.stardist_runtime import make_runner

    model = load_stardist(folder)
    image = np.random.default_rng(0).random((side, side, model.config.n_channel_in)).astype(np.float32)
    runners: dict[str, Callable[[np.ndarray], Any]] = {
        name: make_runner(model, **options) for name, options, packages in RUNTIMES if installed(*packages)
    }
    if installed("onnx", "onnxruntime"):
        runners["onnxruntime, float32"] = onnx_runner(model, threads)
    if compiled:
        runners["PyTorch compiled, float32"] = compiled_runner(model, False)
        runners["PyTorch compiled, bfloat16"] = compiled_runner(model, True)
    found = {name: run(image)[:2] for name, run in runners.items()}
    wanted = next(iter(found.values()))
    differs = {
        name: ", ".join(f"{np.abs(a - b).max():.0e}" for a, b in zip(outputs, wanted))
        for name, outputs in found.items()
    }
    turns = take_turns({name: partial(run, image) for name, run in runners.items()}, repeats)
    return rows(turns, side, differs)


def polygons(side: int, seed: int = 0) -> Any:
    """Candidates as a network gives them: about 40 for each of 500 nuclei in a megapixel."""
    from histograph.entities.star_polygons import StarPolygons

    rng = np.random.default_rng(seed)
    nuclei = max(1, side * side // 2000)
    centre = np.repeat(rng.uniform(0, side, (nuclei, 2)), 40, axis=0)
    radius = np.repeat(rng.uniform(5, 11, nuclei), 40)
    points = np.round(centre + rng.normal(0, radius[:, None] / 4, centre.shape))
    dist = radius[:, None] * (1 + 0.1 * rng.normal(size=(len(points), 32)))
    return StarPolygons.of(points, np.maximum(dist, 1e-3), rng.random(len(points))).ranked()


def suppressions(side: int, repeats: int) -> str:
    """Return rows of the suppression: StarDist's where it is installed, and ours."""
    from histograph.entities.star_polygons import suppress

    found, works = polygons(side), {}
    if installed("stardist"):
        from stardist.nms import non_maximum_suppression_inds

        points = found.points.astype(np.float32)
        works["suppression, stardist (C++)"] = partial(
            non_maximum_suppression_inds, found.dist, points, found.score, thresh=0.4, verbose=0
        )
    works["suppression, histograph (numba)"] = partial(suppress, found, 0.4)
    return rows(take_turns(works, repeats), side, {})


def measure(options: argparse.Namespace, threads: int) -> None:
    """Print the table of one number of threads."""
    import torch

    torch.set_num_threads(threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"\nOne image of {options.side} × {options.side} px, {threads} thread(s), {options.repeats} turns; "
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start\n\n{HEAD}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(Path(folder))
        print(networks(model, options.side, options.repeats, threads, options.compile), flush=True)
    print(suppressions(options.side, options.repeats), flush=True)


def main() -> None:
    """Read the arguments and print a table for each number of threads, each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a StarDist folder for RGB images")
    parser.add_argument(
        "--side", type=int, default=1024, help="side of the image in pixels, a multiple of 16"
    )
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        measure(options, options.threads[0])
        return
    for threads in sorted(set(options.threads)):
        # TensorFlow and OpenMP settle their threads as they are loaded
        number = str(threads)
        limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), number)
        environment = {**os.environ, **limits, "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, *sys.argv, "--in-process", "--threads", number]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
