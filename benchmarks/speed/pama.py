"""Time and measure the encoding of a slide by PAMA, beside the plain formulation of its equations.

    python benchmarks/speed/pama.py [--patches 10000] [--anchors 512] [--repeats 3] [--growth 2000 10000 50000 100000]
                                    [--plot FILE.png] [--markdown FILE]

The slide is a square of patches with random features; the network has the published size (1024 wide, 4 blocks, 8
heads). The plain peer is the same network with the same weights, and gives the same vectors, which is checked. What
differs is how an attention is computed: scores of all heads at once, directions added up through an eight-fold one-hot
table, bins turned and biases looked up for every head, both softmaxes written out, the feed-forward part for all
rows at once. That is what the equations say, and how the released code goes about it.

The variants take turns, so that other work on the machine meets both; ratios are medians over the turns, with the
smallest and the largest. Memory is the peak of live tensor bytes over what was there before. Growth is timed
without the plain peer, each size in a process of its own, whose largest resident memory is given: all of it, Python
and torch included. No data are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from live_bytes import LiveBytes
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

import histograph as hg
from histograph.methods import pama
from histograph.nn.anchor_attention import AnchorAttention, DenseEdges

FEATURES = 384
STEP_UM = 128.0


def slide_of(patches: int) -> Data:
    """Make a square slide of patches with random features."""
    side = math.ceil(math.sqrt(patches))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pos = torch.stack([column.flatten(), row.flatten()], dim=1)[:patches] * STEP_UM
    generator = torch.Generator().manual_seed(0)
    return Data(x=torch.randn(patches, FEATURES, generator=generator), pos=pos)


def method_of(anchors: int, hidden: int) -> hg.methods.PAMA:
    """Make the network."""
    torch.manual_seed(0)
    return hg.methods.PAMA(FEATURES, hidden_dim=hidden, decoder_dim=hidden // 2, num_anchors=anchors).eval()


# --- the plain formulation --------------------------------------------------------------------------------------


def plain_attention(
    self: AnchorAttention,
    token: tuple[Tensor, ...],
    anchor: tuple[Tensor, ...],
    edges: DenseEdges,
    slide_only: bool,
) -> tuple[Tensor, Tensor]:
    """Attend as the equations say, for a single slide and all its tokens."""
    (q, k, v), (aq, ak, av) = token, anchor
    code, bins = edges.code[0], self.codes.direction_bins
    directed = code < self.codes.here
    ring, sector = code // bins, code % bins
    score = aq @ k.transpose(1, 2) / math.sqrt(k.shape[-1])
    one_hot = F.one_hot(sector, bins) * directed.unsqueeze(-1)
    main = (score.abs().unsqueeze(-1) * one_hot).sum(2).argmax(-1)
    turned = (sector - main.unsqueeze(-1)) % bins
    apart = self.apart[:, (code - self.codes.here).clamp(min=0)]
    bias = torch.where(directed, self.distance[:, ring * directed] + self.direction[turned], apart)
    for_anchors = (score + bias).softmax(-1) @ v
    back = q @ ak.transpose(1, 2) / math.sqrt(q.shape[-1])
    for_tokens = (back + bias.transpose(1, 2)).softmax(-1) @ av
    if slide_only:
        for_tokens = for_tokens[:, :1]
    return for_tokens.transpose(0, 1).flatten(1), for_anchors.transpose(0, 1).flatten(1)


def plain_feed_forward(self: pama._Block, x: Tensor, batch: Tensor) -> Tensor:
    """Feed all rows forward at once."""
    return x + self.feed_forward(self.norm2(x))


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Let the network attend in the plain way."""
    with (
        mock.patch.object(AnchorAttention, "_dense", plain_attention),
        mock.patch.object(pama._Block, "_fed", plain_feed_forward),
    ):
        yield


# --- measuring --------------------------------------------------------------------------------------------------

Run = Callable[[], Tensor]


def variants(method: hg.methods.PAMA, slide: Data) -> dict[str, Run]:
    """Name what is timed; the plain form has no shorter way to the slide's vector."""

    def plain() -> Tensor:
        with plainly():
            return method.encode(slide).graph

    return {
        "plain": plain,
        "ours, slide and patches": lambda: method.encode(slide).graph,
        "ours, slide alone": lambda: method.encode_graphs(slide),
    }


def compared(patches: int, anchors: int, hidden: int, repeats: int) -> list[str]:
    """Give the table of times and memory."""
    slide, method = slide_of(patches), method_of(anchors, hidden)
    peak: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    with torch.inference_mode():
        method.encode(slide)  # finds and remembers the anchors
        found = {}
        runs = variants(method, slide)
        for name, run in runs.items():
            with LiveBytes(*method.parameters(), *method.buffers(), slide.x, slide.pos) as live:
                found[name] = run()
            peak[name] = live.peak
            gap = float((found[name] - found["plain"]).abs().max())
            if not gap < 1e-4:
                sys.exit(f"{name} and plain disagree by {gap}")
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    lines = ["| | times faster than plain | extra memory, MB | share of plain's |", "|---|---|---|---|"]
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["plain"], times, strict=True)]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        share = peak[name] / peak["plain"]
        lines.append(f"| {name} | {spread} | {peak[name] / 1e6:,.0f} | {share:.2f} |")
    return lines


def one_size(patches: int, anchors: int, hidden: int) -> dict[str, float]:
    """Encode one slide in this process; seconds of the second run, and the largest resident memory in bytes."""
    slide, method = slide_of(patches), method_of(anchors, hidden)
    with torch.inference_mode():
        start = time.perf_counter()
        method.memory.places(slide.pos)
        placed = time.perf_counter() - start
        times = []
        for _ in range(2):
            start = time.perf_counter()
            method.encode_graphs(slide)
            times.append(time.perf_counter() - start)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"patches": patches, "seconds": min(times), "anchors_s": placed, "bytes": memory}


def growth(sizes: list[int], anchors: int, hidden: int) -> list[dict[str, float]]:
    """Measure each size in a process of its own."""
    rows = []
    for patches in sizes:
        command = [
            sys.executable,
            __file__,
            "--one",
            str(patches),
            "--anchors",
            str(anchors),
            "--hidden",
            str(hidden),
        ]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return rows


def growth_table(rows: list[dict[str, float]]) -> list[str]:
    """Write times as multiples of the first size."""
    lines = [
        "| patches | time / smallest | patches / smallest | placing anchors / encoding | largest resident memory, GB |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['patches']:,} | {row['seconds'] / rows[0]['seconds']:.1f} | "
        f"{row['patches'] / rows[0]['patches']:.1f} | {row['anchors_s'] / row['seconds']:.2f} | "
        f"{row['bytes'] / 1e9:.1f} |"
        for row in rows
    ]


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Plot time over patches, with the straight line through the first size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    ax = figure.subplots()
    n = [row["patches"] for row in rows]
    ax.plot(n, [row["seconds"] / rows[0]["seconds"] for row in rows], "o-", label="measured")
    ax.plot(n, [value / n[0] for value in n], "--", color="grey", label="linear")
    ax.set(xscale="log", yscale="log", xlabel="patches", ylabel="time / time of the smallest slide")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", type=int, default=10_000)
    parser.add_argument("--anchors", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=1024, help="width of the encoder, a multiple of 16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", default=[2000, 10_000, 50_000, 100_000])
    parser.add_argument("--plot", type=Path, help="picture of the growth")
    parser.add_argument("--markdown", type=Path, help="write the tables here too")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_size(options.one, options.anchors, options.hidden)))
        return
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} processors, "
        f"{platform.machine()}; {options.patches:,} patches, {options.anchors} anchors, width {options.hidden}",
        "",
        *compared(options.patches, options.anchors, options.hidden, options.repeats),
    ]
    print("\n".join(lines), flush=True)
    if options.growth:
        rows = growth(options.growth, options.anchors, options.hidden)
        lines += ["", *growth_table(rows)]
        print("\n".join(["", *growth_table(rows)]))
        if options.plot:
            draw(rows, options.plot)
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
