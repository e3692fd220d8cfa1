"""Time and measure a training step of H-MGDM, with attention inside graphs and with the released dense attention.

    python benchmarks/speed/hmgdm.py [--paper] [--repeats 5] [--markdown FILE]

A step is forward and backward over a batch of random adjacency graphs of 60 nodes and 330 directed edges, on one
thread. The dense peers are the same network with the same weights and random numbers; only the attention differs:

- released: scores of all rows of the batch, a NaN guard, the block mask, softmax, product, each written out as
  in the equations of the released code (there the joint mask has no effect; here it has, so that results agree);
- fused: the same block mask given to torch's `scaled_dot_product_attention`, the gentlest dense form.

The variants take turns, so that other work on the machine meets all of them; ratios are medians over the turns,
with the smallest and the largest. Memory is the peak of live tensor bytes over what was there before the step.
A peer that would need more memory than is free is left out. No data are needed. `--paper` takes the paper's sizes:
3072 columns and a width of 256, instead of 64, 8 and 64.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from live_bytes import LiveBytes
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

import histograph as hg
from histograph.methods import hmgdm
from histograph.nn import attention

NODES, PAIRS = 60, 165
BATCHES = (1, 8, 32)
SMALL = {"node_dim": 64, "edge_dim": 8, "hidden_dim": 64}
PAPER = {"node_dim": 3072, "edge_dim": 3072, "hidden_dim": 256}

Attend = Callable[[Tensor, Tensor, Tensor, Any, int], Tensor]


def random_graph(seed: int, node_dim: int, edge_dim: int) -> Data:
    """Return the 165 shortest pairs of a Delaunay triangulation of 60 points, both directions, random attributes."""
    rng = np.random.default_rng(seed)
    while True:
        edge_index, length = hg.delaunay_edges(rng.random((NODES, 2)) * 100)
        if edge_index.shape[1] >= 2 * PAIRS:
            break
    # the directions of a pair are equally long and stay together in a stable sort by length, then by pair
    pair = edge_index.min(0).values * NODES + edge_index.max(0).values
    order = np.lexsort((pair.numpy(), length.flatten().numpy()))[: 2 * PAIRS]
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(NODES, node_dim, generator=generator),
        edge_index=edge_index[:, np.sort(order)],
        edge_attr=torch.randn(2 * PAIRS, edge_dim, generator=generator),
    )


# --- dense attention over the whole batch -----------------------------------------------------------------------


class DenseLayout:
    """The block mask (Nq, Nk) of a batch, made once like the layout that it stands in for."""

    def __init__(self, query_batch: Tensor, key_batch: Tensor, num_graphs: int) -> None:
        self.other = query_batch.unsqueeze(1) != key_batch


def _heads(rows: Tensor, heads: int) -> Tensor:
    """Lay rows (N, d) out as (heads, N, d / heads)."""
    return rows.view(rows.shape[0], heads, -1).transpose(0, 1)


def released_attention(query: Tensor, key: Tensor, value: Tensor, layout: DenseLayout, heads: int) -> Tensor:
    """Score every row against every row of the batch, then mask."""
    q, k, v = (_heads(rows, heads) for rows in (query, key, value))
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    score = torch.where(torch.isnan(score), torch.zeros_like(score), score)
    score = score.masked_fill(layout.other, float("-inf"))
    return (score.softmax(-1) @ v).transpose(0, 1).reshape(query.shape)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, layout: DenseLayout, heads: int) -> Tensor:
    """Give the block mask to torch's fused attention."""
    q, k, v = (_heads(rows, heads).unsqueeze(0) for rows in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=~layout.other)
    return out.squeeze(0).transpose(0, 1).reshape(query.shape)


PEERS: dict[str, Attend] = {"released": released_attention, "fused": fused_attention}


@contextlib.contextmanager
def attending(name: str) -> Iterator[None]:
    """Let the network attend as the named variant does."""
    if name not in PEERS:
        yield
        return
    with (
        mock.patch.object(hmgdm, "AttentionLayout", DenseLayout),
        mock.patch.object(attention, "graph_attention", PEERS[name]),
    ):
        yield


# --- measuring --------------------------------------------------------------------------------------------------


def step(method: hg.methods.HMGDM, batch: Batch, seed: int) -> float:
    """Do one forward and backward pass and return the loss; the same seed hides and draws the same."""
    torch.manual_seed(seed)
    method.zero_grad(set_to_none=True)
    loss = method(batch)["loss"]
    loss.backward()
    return float(loss.detach())


def peak_bytes(method: hg.methods.HMGDM, batch: Batch, seed: int = 0) -> tuple[int, float]:
    """Return the peak of the bytes that a step allocates, and its loss."""
    method.zero_grad(set_to_none=True)
    given = (batch.x, batch.edge_index, batch.edge_attr, batch.batch, batch.ptr)
    with LiveBytes(*method.parameters(), *method.buffers(), *given) as live:
        loss = step(method, batch, seed)
    return live.peak, loss


def processor() -> str:
    """Return the name of the processor (Linux), or its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def free_bytes() -> int:
    """Return the memory that the machine has free (Linux; elsewhere a cautious 4 GB)."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else ["MemAvailable: 4000000 kB"]
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024


class Bench:
    """Times and peaks of the variants over the batch sizes."""

    def __init__(self, sizes: dict[str, int], repeats: int) -> None:
        torch.manual_seed(0)
        self.method = hg.methods.HMGDM(**sizes)
        self.sizes, self.repeats = sizes, repeats
        self.peak: dict[tuple[str, int], int] = {}
        self.seconds: dict[tuple[str, int], list[float]] = {}
        self.skipped: list[str] = []

    def measure(self) -> None:
        """Go through the batch sizes; first the memory, which warms up, then the times, in turns."""
        for count in BATCHES:
            batch = Batch.from_data_list(
                [random_graph(g, self.sizes["node_dim"], self.sizes["edge_dim"]) for g in range(count)]
            )
            names = [name for name in ("ours", *PEERS) if self._fits(name, count)]
            losses = {}
            for name in names:
                with attending(name):
                    self.peak[name, count], losses[name] = peak_bytes(self.method, batch)
            if not np.allclose(list(losses.values()), losses["ours"], rtol=1e-4):
                raise SystemExit(f"the variants disagree: {losses}")
            for turn in range(self.repeats):
                for name in names:
                    with attending(name):
                        start = time.perf_counter()
                        step(self.method, batch, turn)
                        self.seconds.setdefault((name, count), []).append(time.perf_counter() - start)

    def _fits(self, name: str, count: int) -> bool:
        """Whether a peer has room, judged by its peak at the size before and quadratic growth."""
        before = max((size for size in BATCHES if (name, size) in self.peak), default=None)
        if name == "ours" or before is None:
            return True
        need = self.peak[name, before] * (count / before) ** 2 * 1.5
        if need < free_bytes():
            return True
        self.skipped.append(
            f"{name} at batch {count} not run: about {need / 1e9:.0f} GB needed, {free_bytes() / 1e9:.0f} GB free"
        )
        return False

    def ratio(self, name: str, count: int) -> str:
        """How many times slower a peer is than ours."""
        if (name, count) not in self.seconds:
            return "not run"
        pairs = zip(self.seconds[name, count], self.seconds["ours", count], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"

    def cost(self, name: str, count: int) -> tuple[str, str]:
        """Milliseconds and MB of a step."""
        if (name, count) not in self.seconds:
            return "not run", "not run"
        return (
            f"{statistics.median(self.seconds[name, count]) * 1e3:.0f}",
            f"{self.peak[name, count] / 1e6:.0f}",
        )

    def growth(self, count: int) -> tuple[str, str]:
        """Time and memory of a batch over `count` times those of one graph; 1 is linear."""
        one = statistics.median(self.seconds["ours", 1])
        many = statistics.median(self.seconds["ours", count])
        memory = self.peak["ours", count] / (count * self.peak["ours", 1])
        return f"{many / (count * one):.2f}", f"{memory:.2f}"

    def tables(self) -> list[str]:
        """Return the Markdown lines."""
        times = ["| batch | histograph, ms | released dense, ms | ratio | fused dense, ms | ratio |"]
        memory = ["| batch | histograph, MB | released dense, MB | fused dense, MB |"]
        linear = ["| batch B | time / (B x time of one) | peak memory / (B x peak of one) |"]
        times.append("|---" * 6 + "|")
        memory.append("|---" * 4 + "|")
        linear.append("|---" * 3 + "|")
        for count in BATCHES:
            (ours, room), (released, much), (fused, some) = (
                self.cost(name, count) for name in ("ours", "released", "fused")
            )
            times.append(
                f"| {count} | {ours} | {released} | {self.ratio('released', count)} "
                f"| {fused} | {self.ratio('fused', count)} |"
            )
            memory.append(f"| {count} | {room} | {much} | {some} |")
            linear.append("| {} | {} | {} |".format(count, *self.growth(count)))
        return [*times, "", *memory, "", *linear, *[f"\n{line}." for line in self.skipped]]


def main() -> int:
    """Parse the arguments, measure and print; write the tables to a file when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paper", action="store_true", help="3072 columns and a width of 256")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each variant")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = PAPER if arguments.paper else SMALL
    start = os.getloadavg()[0]
    bench = Bench(sizes, arguments.repeats)
    bench.measure()
    head = [
        f"{date.today()}, {processor()}, {os.cpu_count()} cores, one thread used, "
        f"load {start:.1f} at the start and {os.getloadavg()[0]:.1f} at the end, torch {torch.__version__}; "
        f"{NODES} nodes and {2 * PAIRS} directed edges a graph, "
        + ", ".join(f"{name} {value}" for name, value in sizes.items())
        + f", {arguments.repeats} turns",
        "",
    ]
    text = "\n".join(head + bench.tables())
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
