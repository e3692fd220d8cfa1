"""How good are patch encoders on PatchCamelyon patches that no training saw; and write the best as the default weights.

    python benchmarks/weights/judge.py --data FOLDER [ENCODER ...] [--untrained gcmae dino] [--write FILE]

FOLDER holds `train.tar` and `valid.tar` of PatchCamelyon (https://github.com/basveeling/pcam, CC0), or folders of
pictures `train/0`, `train/1`, `valid/0`, `valid/1`. An ENCODER is whatever `histograph.features.load_encoder` takes:
`histograph-vit`, which is the default, a `method.safetensors` of `train.py`, `hf:org/name` and so on.

A logistic regression, its penalty chosen within the training patches, and votes of the 20 nearest training patches
read frozen vectors of the patches that were kept back. Intervals are percentiles of a bootstrap of these; slides are
not named in the data, so they are too narrow where patches share slides. Hand-made features of whole patches (colour,
stain, texture) are in the same table. Files of `train.py` are read by several choices of tokens. With `--write`, the
best of these by three folds *of the training patches* is written with a model card that holds the table.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from dino.protocol import hand_made
from tqdm.auto import tqdm
from weights.patches import MPP, read_split
from weights.train import RECIPES, method_of

import histograph as hg
from histograph.features import PatchEncoder, load_encoder, save_encoder
from histograph.features.tokens import pool_tokens

HAND = "hand-made (colour, stain, texture)"
SIDE = 96  # of the patches, in pixels
CHOICES = ("cls", "mean", "cls+mean", "mean+std")
CARD = """\
Small Vision Transformer for H&E patches, pre-trained by histograph without labels ({name}).
Data: {count} training patches of PatchCamelyon (CC0), lymph nodes, {side} pixels at {mpp} um per pixel. Weights: CC0.
Meant for hand-sized experiments and as a default where no pathology foundation model is at hand; not for diagnosis.
On {asked} patches that were kept back (benchmarks/weights/judge.py):

{table}
"""


class EveryChoice(torch.nn.Module):
    """The vectors of all choices of tokens side by side, with one pass through the network."""

    def __init__(self, network: torch.nn.Module, prefix: int) -> None:
        super().__init__()
        self.network, self.prefix = network, prefix

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give (B, widths of all choices)."""
        tokens = self.network(images)
        return torch.cat([pool_tokens(tokens, which, self.prefix) for which in CHOICES], dim=1)


def embedded(encoder: PatchEncoder, images: np.ndarray, batch: int = 128) -> np.ndarray:
    """Give the vectors of patches."""
    parts = np.array_split(images, max(1, len(images) // batch))
    return np.concatenate([encoder.encode(part).cpu().numpy() for part in tqdm(parts, desc=encoder.name)])


def embedded_each(encoders: dict[str, PatchEncoder], images: np.ndarray) -> dict[str, np.ndarray]:
    """Give the vectors of patches by any encoders."""
    return {name: embedded(encoder, images) for name, encoder in encoders.items()}


def embedded_by_tokens(encoders: dict[str, PatchEncoder], images: np.ndarray) -> dict[str, np.ndarray]:
    """Give the vectors of patches by encoders that differ in their choice of tokens alone."""
    one = next(iter(encoders.values()))
    widths = [2 * one.module.network.dim if "+" in which else one.module.network.dim for which in CHOICES]
    whole = embedded(replace(one, module=EveryChoice(one.module.network, one.module.prefix)), images)
    return dict(zip(encoders, np.split(whole, np.cumsum(widths)[:-1], axis=1), strict=True))


def judged(
    vectors: dict[str, tuple[np.ndarray, np.ndarray]], y: np.ndarray, y_asked: np.ndarray
) -> list[str]:
    """Give the rows of the table."""
    rows = [
        "| vectors | linear, accuracy | linear, AUC | 20 neighbours, accuracy | 20 neighbours, AUC |",
        "|---" * 5 + "|",
    ]
    for name, (known, asked) in vectors.items():
        cells = []
        for probe in ("linear", "vote"):
            result = hg.evaluation.held_out_probe(known, y, asked, y_asked, probe=probe)
            for metric in ("accuracy", "auc"):
                value, low, high = result.metrics[metric]
                cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def network_of(method: hg.methods.Method, source: str) -> hg.nn.VisionTransformer:
    """Take the network out of a trained method."""
    if isinstance(method, hg.methods.GCMAE):
        return method.encoder()
    if isinstance(method, hg.methods.DINO):
        return method.teacher.backbone
    sys.exit(f"{source} holds {type(method).__name__}; only the networks of GCMAE and DINO are judged")


def encoders_of(source: str) -> dict[str, PatchEncoder]:
    """Load an encoder; of a file of `train.py` one for each choice of tokens."""
    if source.endswith("method.safetensors"):
        return by_tokens(hg.methods.load_method(source), source)
    return {source: load_encoder(source, mpp=MPP)}


def by_tokens(method: hg.methods.Method, name: str) -> dict[str, PatchEncoder]:
    """Give the network of a method as an encoder, once for each choice of tokens."""
    mean, std = method.mean.flatten().tolist(), method.std.flatten().tolist()
    network = network_of(method, name).eval().requires_grad_(False)
    return {
        f"{name}, {tokens}": load_encoder(network, MPP, mean, std, SIDE, tokens=tokens) for tokens in CHOICES
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the weights if wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", default=["histograph-vit"])
    parser.add_argument("--data", type=Path, help="folder of PatchCamelyon")
    parser.add_argument(
        "--untrained",
        nargs="+",
        choices=RECIPES,
        default=[],
        help="also networks of train.py before training",
    )
    parser.add_argument("--write", type=Path, help="file of the default weights")
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with train.tar and valid.tar of PatchCamelyon")
        return 0
    (images, y), (asked, y_asked) = read_split(options.data, "train"), read_split(options.data, "valid")
    measured = [
        np.stack([hand_made(image, MPP) for image in tqdm(part, desc=HAND)]) for part in (images, asked)
    ]
    vectors = {HAND: (measured[0], measured[1])}
    for name in options.untrained:
        choices = by_tokens(method_of(name, seed=0), f"{name}, untrained")
        known, beside = (embedded_by_tokens(choices, part) for part in (images, asked))
        vectors |= {label: (known[label], beside[label]) for label in choices}
    encoders = {}
    for source in options.encoders:
        choices = encoders_of(source)
        embed = embedded_by_tokens if len(choices) > 1 else embedded_each
        known, beside = (embed(choices, part) for part in (images, asked))
        vectors |= {label: (known[label], beside[label]) for label in choices}
        encoders |= choices
    rows = judged(vectors, y, y_asked)
    print("\n".join(rows))
    if options.write is not None:
        inside = {
            name: hg.evaluation.linear_probe(vectors[name][0], y, folds=3).metrics["accuracy"][0]
            for name in encoders
            if ", " in name
        }
        if not inside:
            sys.exit("--write: give a method.safetensors of train.py, found none")
        best = max(inside, key=lambda name: inside[name])
        card = CARD.format(
            name=best,
            count=len(images),
            side=images.shape[1],
            mpp=MPP,
            asked=len(asked),
            table="\n".join(rows),
        )
        made = encoders[best]
        save_encoder(
            options.write,
            made.module.network,
            made.mean,
            made.std,
            MPP,
            made.module.tokens,
            name="histograph-vit",
            card=card,
        )
        print(
            f"{best} has the best accuracy in three folds of the training patches, {inside[best]:.3f}; written to "
            f"{options.write}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
