"""The small PAMA of the experiments on data at hand, its ablations, and how they are trained."""

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pama.tcga import ABLATIONS
from torch_geometric.data import Data

import histograph as hg
from histograph.methods import PAMA

#: The network of all experiments; docs/pama.md says what else was tried.
SETTINGS: dict[str, Any] = {
    "hidden_dim": 64,
    "layers": 2,
    "heads": 4,
    "decoder_dim": 64,
    "decoder_layers": 2,
    "patches_per_anchor": 2.0,
    "standardise": False,  # the sources do it, so that all predictors see the same numbers
}


def options_of(doc: str | None, epochs: int, expected: str) -> argparse.ArgumentParser:
    """Make the parser with the options that both experiments take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", help=f"folders with {expected}")
    cache = Path("runs") / "pama" / "evidence"
    parser.add_argument("--cache", type=Path, default=cache, help=f"trained networks ({cache})")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=epochs, help=f"of pre-training ({epochs})")
    parser.add_argument("--batch-size", type=int, default=4, help="slides a step (4)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (3e-3)")
    parser.add_argument("--patches-per-anchor", type=float, default=SETTINGS["patches_per_anchor"])
    parser.add_argument("--hidden", type=int, default=SETTINGS["hidden_dim"], help="width of the network")
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--slopes", action=flag, default=True, help="heads start with different reach")
    parser.add_argument("--ablations", action=flag, default=True)
    return parser


def start_near(method: PAMA) -> None:
    r"""Let the heads start with different reach: the bias of distance bin r of R begins with ``-s r / R``.

    The slopes s of the heads go from 1, nearly the whole slide, to 64 in equal steps of their logarithm. From values
    near 0, as PAMA starts, reach is learned too, but not in as few steps as here.
    """
    for block in (*method.blocks, *method.decoder_blocks):
        bias = block.attention.distance
        if bias is not None:
            heads, bins = bias.shape
            slope = torch.logspace(0, 6, heads, base=2.0) if heads > 1 else torch.ones(1)
            with torch.no_grad():
                bias -= slope[:, None] * torch.linspace(0, 1, bins)


def network(node_dim: int, name: str, seed: int, options: argparse.Namespace) -> PAMA:
    """Make PAMA or one of its ablations with the weights of a seed."""
    torch.manual_seed(seed)
    width = {"hidden_dim": options.hidden, "decoder_dim": options.hidden}
    anchors = {"patches_per_anchor": options.patches_per_anchor}
    method = PAMA(node_dim, **{**SETTINGS, **width, **anchors, **ABLATIONS[name]}).eval()
    if options.slopes:
        start_near(method)
    return method


def names(options: argparse.Namespace) -> list[str]:
    """Give what is trained."""
    return [name for name in ABLATIONS if options.ablations or not ABLATIONS[name]]


def train(method: PAMA, name: str, slides: Sequence[Data], seed: int, options: argparse.Namespace) -> None:
    """Pre-train on slides without labels, or find the network of the same run on the same slides."""
    code = 0
    for slide in slides:
        code = zlib.crc32(slide.pos.numpy().tobytes(), zlib.crc32(slide.x.numpy().tobytes(), code))
    facts = {
        "seed": seed,
        "width": options.hidden,
        "anchors": options.patches_per_anchor,
        "slopes": options.slopes,
    }
    facts |= {"epochs": options.epochs, "batch": options.batch_size, "lr": options.lr, "data": f"{code:08x}"}
    hg.pretrain(
        method,
        slides,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=seed,
        out=options.cache / " ".join([name, *(f"{key}={value}" for key, value in facts.items())]),
        checkpoint_every=options.epochs,
        progress=False,
    )
