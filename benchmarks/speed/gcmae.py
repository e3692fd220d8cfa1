"""Measure what GCMAE's contrast with its memory bank takes, beside the gather formulation of the released code.

    python benchmarks/speed/gcmae.py [--batch 128] [--negatives 8192] [--rows 100000] [--dim 768] [--repeats 5]
                                     [--markdown FILE]

The gather formulation copies K + 1 rows of the bank for every patch and keeps them for the backward pass; it is our
released form (`ReleasedBank`, which gives the released numbers). Ours draws one set of rows for the batch, and its
scores are a product of matrices. Loss and gradient of the vectors are computed; the bank is not counted. With the
negatives of one patch the two give the same estimation, which is checked. The whole bank as negatives is given too.
The formulations take turns, so that other work on the machine meets all; ratios are medians, with the smallest and
the largest. No data are needed; about 4 GB of free memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from live_bytes import LiveBytes
from torch import Tensor
from torch.nn.functional import normalize

from histograph.methods.gcmae_released import ReleasedBank
from histograph.nn import MemoryBank

GATHER = "gather"


def check(memory: Tensor) -> None:
    """Stop where our estimation and the gathered one differ for the same negatives and the same Z and share."""
    rows, dim = memory.shape
    torch.manual_seed(1)
    v, row, drawn = normalize(torch.randn(1, dim), dim=1), torch.tensor([0]), torch.randint(1, rows, (50,))
    ours, theirs = MemoryBank(dim, contrast="nce"), ReleasedBank(dim)
    ours.memory = theirs.memory = memory
    # the released share of noise counts the own row among the others
    ours.log_z.fill_(9.0)
    theirs.params[2] = float(ours.log_z.exp()) * rows / (rows - 1)
    found = float(ours(v, row, drawn))
    wanted = float(theirs.contrast(v, row, torch.cat([row, drawn]).unsqueeze(0)).loss)
    if not abs(found - wanted) < 1e-3 * abs(wanted):
        sys.exit(f"ours and the gather formulation disagree: {found} and {wanted}")


def runs_of(memory: Tensor, negatives: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name what is measured."""
    dim = memory.shape[1]
    ours = {
        "ours, estimation": MemoryBank(dim, negatives=negatives, contrast="nce"),
        "ours, softmax (default)": MemoryBank(dim, negatives=negatives),
        "ours, softmax, whole bank": MemoryBank(dim, negatives=None),
    }
    banks = {GATHER: ReleasedBank(dim, negatives=negatives), **ours}
    for bank in banks.values():
        bank.memory = memory
    return banks


def measured(batch: int, negatives: int, rows: int, dim: int, repeats: int) -> list[str]:
    """Give the table."""
    torch.manual_seed(0)
    memory = normalize(torch.randn(rows, dim), dim=1)
    check(memory)
    row = torch.randperm(rows)[:batch]
    runs = runs_of(memory, negatives)
    peak: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    def once(name: str) -> None:
        v = normalize(torch.randn(batch, dim), dim=1).requires_grad_()
        start = time.perf_counter()
        runs[name](v, row).backward()
        seconds[name].append(time.perf_counter() - start)

    for name in runs:
        once(name)  # a first time for what is made once, such as Z
        with LiveBytes(memory, row) as live:
            once(name)
        peak[name] = live.peak
        seconds[name].clear()
    for _ in range(repeats):
        for name in runs:
            once(name)
    lines = ["| | extra memory, MB | share of gather's | times faster than gather |", "|---|---|---|---|"]
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds[GATHER], times, strict=True)]
        spread = f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]"
        lines.append(f"| {name} | {peak[name] / 1e6:,.0f} | 1/{peak[GATHER] / peak[name]:.1f} | {spread} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=100_000, help="patches of the data set")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", type=Path, help="write the table here too")
    options = parser.parse_args()
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} processors, "
        f"{platform.machine()}; batch {options.batch}, {options.negatives:,} negatives, bank of {options.rows:,} rows, "
        f"width {options.dim}",
        "",
        *measured(options.batch, options.negatives, options.rows, options.dim, options.repeats),
    ]
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
