"""Time the embedding of a slide's patches: how much of it the model runs, and patches a second beside a plain loop.

    python benchmarks/speed/encoder.py [--slide FILE --mpp 0.5] [--size tiny small] [--patches 192] [--batch-size 32]
                                       [--workers 2] [--repeats 3] [--device cpu] [--mixed-precision bf16]
                                       [--markdown FILE]

The encoder is a Vision Transformer with random weights, squares of 16 of 224 pixels, at half a micrometre a pixel; the
patches overlap by half, from the bundled slide when no other is given. Ours is `embed_entities`, which reads the next
batches in threads while the model runs. The plain loop is what one writes first: read the patches of a batch, one after
the other, then run the model on them. Both give the same vectors, which is checked.

The two take turns, so that other work on the machine meets both; shares and ratios are medians over the turns, with the
smallest and the largest. The share of time that the model runs is the time inside its forward (on a GPU that between
its events), over all the time from the call to the vectors. What the plain loop leaves to gain is 1 / its share: on few
cores the threads that read take from the model, on a GPU they do not. No data are needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import histograph as hg
from histograph.entities import Entities, patches
from histograph.features import PatchEncoder, embed_entities, load_encoder
from histograph.nn import vit

SIZE_PX, MPP = 224, 0.5
MEAN, STD = (0.7, 0.6, 0.7), (0.2, 0.25, 0.2)


class Clocked(nn.Module):
    """A network that adds up the time it runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.marks: list[tuple[float, float] | tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Give the class tokens, and remember when it began and ended."""
        if images.device.type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            out = self.network(images)[:, 0]
            events[1].record()
            self.marks.append(events)
            return out
        start = time.perf_counter()
        out = self.network(images)[:, 0]
        self.marks.append((start, time.perf_counter()))
        return out

    def seconds(self) -> float:
        """Give the time since the last question, and forget it."""
        total = 0.0
        for first, last in self.marks:
            total += first.elapsed_time(last) / 1000 if isinstance(first, torch.cuda.Event) else last - first
        self.marks.clear()
        return total


def plain_loop(
    slide: hg.slides.Slide, squares: Entities, encoder: PatchEncoder, options: argparse.Namespace
) -> np.ndarray:
    """Read a batch, then run the model on it, and so on."""
    half, parts = encoder.size_um / 2, []
    for start in range(0, len(squares), options.batch_size):
        images = [
            slide.read_region(x - half, y - half, encoder.size_um, encoder.size_um, mpp=MPP)
            for x, y in squares.centroid[start : start + options.batch_size]
        ]
        vectors = encoder.encode(np.stack(images), options.device, options.mixed_precision or False)
        parts.append(vectors.cpu().numpy())
    return np.concatenate(parts)


def ours(
    slide: hg.slides.Slide, squares: Entities, encoder: PatchEncoder, options: argparse.Namespace
) -> np.ndarray:
    """Embed with reading ahead."""
    return embed_entities(
        slide,
        squares,
        encoder,
        batch_size=options.batch_size,
        device=options.device,
        workers=options.workers,
        mixed_precision=options.mixed_precision or False,
        progress=False,
    ).values


def spread(values: list[float], digits: int = 2) -> str:
    """Write the median and the ends."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def measured(
    size: str, slide: hg.slides.Slide, squares: Entities, options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Give wall time and time of the model of both ways, over the turns."""
    torch.manual_seed(0)
    module = Clocked(vit(size, image_size=SIZE_PX)).to(options.device)
    encoder = load_encoder(module, mpp=MPP, mean=MEAN, std=STD, size_px=SIZE_PX, name=size)
    runs = {"histograph": ours, "plain loop": plain_loop}
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "model": []} for name in runs}
    few = squares.select(np.arange(min(len(squares), options.batch_size)))
    vectors = {name: run(slide, few, encoder, options) for name, run in runs.items()}  # warms up, too
    gap = float(np.abs(vectors["histograph"] - vectors["plain loop"]).max())
    if not gap < 1e-4:
        sys.exit(f"the two ways disagree by {gap}")
    for turn in range(options.repeats):
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            module.seconds()
            start = time.perf_counter()
            runs[name](slide, squares, encoder, options)
            found[name]["wall"].append(time.perf_counter() - start)
            found[name]["model"].append(module.seconds())
    return found


def table(results: dict[str, dict[str, dict[str, list[float]]]], count: int) -> list[str]:
    """Write a row a size and way."""
    lines = [
        "| ViT | | share of time the model runs | patches/s | times the plain loop |",
        "|---|---|---|---|---|",
    ]
    for size, found in results.items():
        for name, times in found.items():
            share = [m / w for m, w in zip(times["model"], times["wall"], strict=True)]
            ratio = [p / w for p, w in zip(found["plain loop"]["wall"], times["wall"], strict=True)]
            rate = [count / w for w in times["wall"]]
            lines.append(f"| {size} | {name} | {spread(share, 3)} | {spread(rate, 1)} | {spread(ratio)} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="the bundled slide by default")
    parser.add_argument("--mpp", type=float, help="µm per level-0 pixel, for a slide that does not say")
    parser.add_argument("--size", nargs="+", default=["tiny", "small"], help="names of ViT sizes")
    parser.add_argument("--patches", type=int, default=192, help="at most so many")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mixed-precision", choices=("bf16", "fp16"))
    parser.add_argument("--markdown", type=Path, help="write the table here too")
    options = parser.parse_args()
    slide = hg.open_slide(options.slide or hg.bundled.slide_path(), mpp=options.mpp)
    width = SIZE_PX * MPP
    squares = patches(slide, size_um=width, overlap_um=width / 2, mask=None)
    squares = squares.select(np.arange(min(len(squares), options.patches)))
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    lines = [
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, {os.cpu_count()} processors, "
        f"{platform.machine()}, load {load} at the start; {len(squares)} patches of {SIZE_PX} pixels in batches of "
        f"{options.batch_size}, {options.workers} threads that read, precision {options.mixed_precision or 'float32'}",
        "",
    ]
    results = {size: measured(size, slide, squares, options) for size in options.size}
    lines += table(results, len(squares))
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
