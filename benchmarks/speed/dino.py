"""Time and measure a training step of DINO, beside the plain formulation of its equations.

    python benchmarks/speed/dino.py [--sizes small published] [--repeats 5] [--batch N] [--mixed] [--markdown FILE]

A step is what comes after the crops are cut: both networks, loss, backward pass, clipping, AdamW, teacher and centre.
The variants start from the same weights and get the same crops; that losses and weights after a step agree is checked.

The plain form is what the equations say, and how the released code goes about it: two softmaxes for each of the pairs
of views, the norm of each gradient fetched as a number before the next, the teacher followed tensor by tensor and the
optimiser as torch has it by default, all prototypes brought to length 1 before the product with them, positions of
other sizes interpolated in every pass, all tokens taken through the last block though only the class token is read, and
attention with its table of all pairs of tokens written out. A third variant, "plain but for attention", attends as ours
does.

The variants take turns, so that other work on the machine meets all; ratios are medians over the turns, with the
smallest and the largest. Memory is the peak of live tensor bytes of loss and backward pass, over what was there before.
"small" is what trains on a CPU (192 wide, 6 blocks, tokens of 8 pixels, crops of 96 and 48, 8 local ones), "published"
ViT-S/16 with crops of 224 and 96; both with 65,536 prototypes. No data are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from live_bytes import LiveBytes
from torch import Tensor
from torch.nn import functional as F

from histograph.methods import DINO
from histograph.nn import UnitRows
from histograph.nn.vit import TokenAttention, VisionTransformer

# arguments of DINO and images a step
SIZES: dict[str, tuple[dict[str, int], int]] = {
    "small": (
        {"image_size": 96, "patch_size": 8, "dim": 192, "depth": 6, "heads": 3, "local_size": 48},
        8,
    ),
    "published": ({}, 2),
    "tiny": (
        {
            "image_size": 32,
            "patch_size": 8,
            "dim": 24,
            "depth": 1,
            "heads": 2,
            "local_size": 16,
            "out_dim": 256,
        },
        2,
    ),
}
MOMENTUM, CLIP, TEMPERATURE = 0.996, 3.0, 0.04

Views = tuple[list[Tensor], list[Tensor]]
Step = Callable[[DINO, torch.optim.Optimizer, Views, bool], Tensor]


# --- the plain formulation --------------------------------------------------------------------------------------


def plain_attention(self: TokenAttention, x: Tensor, present: Tensor | None = None) -> Tensor:
    """Attend with the table of all pairs of tokens written out; none is missing here."""
    query, key, value = self._split(x)
    weights = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(-1)
    return self.proj((weights @ value).transpose(1, 2).reshape(x.shape))


def plain_positions(self: VisionTransformer, rows: int, columns: int) -> Tensor:
    """Interpolate positions of another size anew."""
    if (rows, columns) == self.grid:
        return self.pos_embed
    table = self.pos_embed[:, 1:].reshape(1, *self.grid, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)


def plain_loss(student: Tensor, teacher: Tensor, center: Tensor, crops: int) -> Tensor:
    """Compare pair after pair."""
    q = (student / 0.1).chunk(crops)
    p = ((teacher - center) / TEMPERATURE).softmax(-1).detach().chunk(2)
    total, pairs = torch.zeros(()), 0
    for u, wanted in enumerate(p):
        for v, said in enumerate(q):
            if u != v:
                total = total + (-wanted * F.log_softmax(said, dim=-1)).sum(-1).mean()
                pairs += 1
    return total / pairs


def plain_end(method: DINO) -> None:
    """Clip each gradient by itself, waiting for its norm."""
    for weight in method.student.parameters():
        if weight.grad is not None:
            factor = CLIP / (weight.grad.norm(2).item() + 1e-6)
            if factor < 1:
                weight.grad.mul_(factor)


@torch.no_grad()
def plain_follow(method: DINO, teacher: Tensor) -> None:
    """Follow tensor by tensor."""
    for old, new in zip(method.teacher.parameters(), method.student.parameters(), strict=True):
        old.mul_(MOMENTUM).add_((1 - MOMENTUM) * new)
    method.loss.center.mul_(0.9).add_(teacher.mean(0, keepdim=True) * 0.1)


def plain_backward(method: DINO, views: Views, mixed: bool) -> tuple[Tensor, Tensor]:
    """Give the loss after its backward pass, and what the teacher said."""
    crops = views[0] + views[1]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        said = method.student.head(method.represent(method.student.backbone, crops))
        with torch.no_grad():
            wanted = method.teacher.head(method.represent(method.teacher.backbone, views[0]))
        loss = plain_loss(said, wanted, method.loss.center, len(crops))
    loss.backward()
    return loss.detach(), wanted


def plain_step(method: DINO, optimizer: torch.optim.Optimizer, views: Views, mixed: bool) -> Tensor:
    """Make a step as the equations say."""
    optimizer.zero_grad()
    loss, wanted = plain_backward(method, views, mixed)
    plain_end(method)
    optimizer.step()
    plain_follow(method, wanted)
    return loss


def plain_products(self: UnitRows, x: Tensor) -> Tensor:
    """Bring all prototypes to their lengths and then multiply."""
    return F.linear(x, self.weight)


def plain_pooled(self: VisionTransformer, image: Tensor) -> Tensor:
    """Take all tokens through all blocks."""
    return self(image)[:, 0]


@contextlib.contextmanager
def plainly(attention: bool) -> Iterator[None]:
    """Let the network interpolate and make its prototypes, and with `attention` attend, in the plain way."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(UnitRows, "forward", plain_products))
        stack.enter_context(mock.patch.object(VisionTransformer, "positions", plain_positions))
        stack.enter_context(mock.patch.object(VisionTransformer, "pooled", plain_pooled))
        if attention:
            stack.enter_context(mock.patch.object(TokenAttention, "forward", plain_attention))
        yield


# --- ours -------------------------------------------------------------------------------------------------------


def our_backward(method: DINO, views: Views, mixed: bool) -> Tensor:
    """Give the loss after its backward pass."""
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = method.distil(*views)["loss"]
    loss.backward()
    return loss.detach()


def our_step(method: DINO, optimizer: torch.optim.Optimizer, views: Views, mixed: bool) -> Tensor:
    """Make a step as the trainer does."""
    optimizer.zero_grad()
    loss = our_backward(method, views, mixed)
    method.limit_gradients(CLIP)
    optimizer.step()
    method.after_step(1)
    return loss


def in_plain(function: Callable, attention: bool) -> Callable:
    """Give a function that runs plainly."""

    def run(*arguments):
        with plainly(attention):
            return function(*arguments)

    return run


PLAIN, OURS = "plain", "ours"
STEPS: dict[str, tuple[Step, Callable]] = {
    PLAIN: (in_plain(plain_step, True), in_plain(plain_backward, True)),
    "plain but for attention": (in_plain(plain_step, False), in_plain(plain_backward, False)),
    OURS: (our_step, our_backward),
}


# --- measuring --------------------------------------------------------------------------------------------------


def method_of(arguments: dict[str, int]) -> DINO:
    """Make the networks, the same for every variant."""
    torch.manual_seed(0)
    return DINO(**{"drop_path": 0.0, "freeze_epochs": 0, "momentum": MOMENTUM} | arguments).train()


def optimizer_of(method: DINO, name: str) -> torch.optim.Optimizer:
    """Make the optimiser; the method asks for one pass over each tensor."""
    groups = method.parameter_groups()
    if name != OURS:
        groups = [group | {"fused": False} for group in groups]
    return torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.04)


def views_of(method: DINO, batch: int) -> Views:
    """Make crops of random numbers."""
    generator = torch.Generator().manual_seed(0)
    crops = [torch.randn(batch, 3, view.size, view.size, generator=generator) for view in method.crops]
    return crops[:2], crops[2:]


def agree(found: dict[str, tuple[Tensor, DINO]], mixed: bool) -> None:
    """End the program where losses or weights after a step differ by more than rounding."""
    (loss, method), most = found[PLAIN], (2e-2, 2e-5) if mixed else (1e-4, 1e-6)
    for name, (other_loss, other) in found.items():
        # the first step of Adam moves by the gradient's sign, which rounding may turn where it is nearly 0
        pairs = zip(method.state_dict().values(), other.state_dict().values(), strict=True)
        gap = statistics.fmean(float((a - b).abs().mean()) for a, b in pairs)
        if not abs(float(loss) - float(other_loss)) < most[0] or not gap < most[1]:
            sys.exit(f"{name} and {PLAIN} disagree: losses {loss} and {other_loss}, weights by {gap}")


def compared(size: str, batch: int | None, repeats: int, mixed: bool) -> list[str]:
    """Give the rows of one size."""
    arguments, usual = SIZES[size]
    batch = batch or usual
    found, peak = {}, {}
    for name, (step, backward) in STEPS.items():
        method = method_of(arguments)
        views = views_of(method, batch)
        backward(method, views, mixed)  # makes the gradients, and what is kept between steps
        with LiveBytes(*method.parameters(), *method.buffers(), *views[0], *views[1]) as live:
            backward(method, views, mixed)
        peak[name] = live.peak
        method.zero_grad()
        found[name] = step(method, optimizer_of(method, name), views, mixed), method
    agree(found, mixed)
    method = found[OURS][1]
    found.clear()
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    optimizers = {name: optimizer_of(method, name) for name in STEPS}
    for turn in range(repeats + 1):
        for name, (step, _) in STEPS.items():
            start = time.perf_counter()
            step(method, optimizers[name], views, mixed)
            if turn:  # the first turn makes the optimiser's state
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds[PLAIN], times, strict=True)]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        rows.append(f"| {size} | {batch} | {name} | {spread} | {peak[name] / peak[PLAIN]:.2f} |")
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "published"])
    parser.add_argument("--batch", type=int, help="images a step; 8 and 2 by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mixed", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--markdown", type=Path, help="write the table here too")
    options = parser.parse_args()
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} processors, "
        f"{platform.machine()}, {'bfloat16 mixed' if options.mixed else 'float32'}",
        "",
        "| size | images a step | form | times faster than plain | extra memory, share of plain's |",
        "|---|---|---|---|---|",
    ]
    for size in options.sizes:
        lines += compared(size, options.batch, options.repeats, options.mixed)
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
