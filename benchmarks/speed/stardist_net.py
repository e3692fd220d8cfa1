"""Time a StarDist network in PyTorch and OpenVINO beside Keras on the same processor, and the suppression.

    python benchmarks/speed/stardist_net.py [--model FOLDER] [--side 1024] [--repeats 3] [--threads 2]

Without ``--model`` a network of the size of 2D_versatile_he with random weights is used (32 filters, depth 3, grid 2,
32 rays): what it costs does not depend on what it learnt. Keras needs the stardist package with TensorFlow, OpenVINO
the openvino package; a row is left out where its package is missing. Ratios above 1 are faster than Keras.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
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


def best(work: Callable[[], Any], repeats: int) -> float:
    """Return the shortest time in seconds, after one run to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


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


def networks(model: Path, image: np.ndarray, repeats: int) -> dict[str, float]:
    """Seconds of each runtime that is installed."""
    from histograph.entities.stardist_files import load_stardist
    from histograph.entities.stardist_runtime import make_runner

    loaded, times = load_stardist(model), {}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("Keras (stardist), float32", {"backend": "keras"}, "tensorflow"),
        ("PyTorch channels-last, float32", {}, "torch"),
        ("PyTorch channels-last, bfloat16", {"mixed_precision": True}, "torch"),
        ("OpenVINO, float32", {"backend": "openvino"}, "openvino"),
        ("OpenVINO, bfloat16", {"backend": "openvino", "mixed_precision": True}, "openvino"),
    ]
    for name, options, package in cases:
        if importlib.util.find_spec(package) is None:
            continue
        run = make_runner(loaded, **options)
        times[name] = best(lambda run=run: run(image), repeats)
    return times


def suppressions(side: int, repeats: int) -> dict[str, float]:
    """Seconds of the suppression, ours and StarDist's where it is installed."""
    from histograph.entities.star_polygons import suppress

    found, times = polygons(side), {}
    if importlib.util.find_spec("stardist") is not None:
        from stardist.nms import non_maximum_suppression_inds

        points = found.points.astype(np.float32)
        times["suppression, stardist (C++)"] = best(
            lambda: non_maximum_suppression_inds(found.dist, points, found.score, thresh=0.4, verbose=0),
            repeats,
        )
    times["suppression, histograph (numba)"] = best(lambda: suppress(found, 0.4), repeats)
    return times


def table(times: dict[str, float], side: int) -> str:
    """Return the rows as Markdown; ratios are to the first row of the group."""
    first = next(iter(times.values()))
    rows = [
        f"| {name} | {seconds:.3f} | {seconds / (side / 1000) ** 2:.3f} | {first / seconds:.2f} |"
        for name, seconds in times.items()
    ]
    return "\n".join(rows)


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a StarDist folder for RGB images")
    parser.add_argument(
        "--side", type=int, default=1024, help="side of the image in pixels, a multiple of 16"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every runtime")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(options.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import torch

    torch.set_num_threads(options.threads)
    image = np.random.default_rng(0).random((options.side, options.side, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(Path(folder))
        times = networks(model, image, options.repeats)
    print(
        f"One image of {options.side} × {options.side} px, {options.threads} threads, best of {options.repeats}.\n"
    )
    print("| what | s | s / megapixel | times as fast as the first |\n|---|---|---|---|")
    print(table(times, options.side))
    print(table(suppressions(options.side, options.repeats), options.side))


if __name__ == "__main__":
    main()
