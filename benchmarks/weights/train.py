"""Pre-train the small Vision Transformer of the package by GCMAE or DINO, on PatchCamelyon without labels.

    python benchmarks/weights/train.py gcmae --data FOLDER [--epochs 40] [--out runs/weights]
    python benchmarks/weights/train.py dino --data FOLDER [--epochs 40]

FOLDER holds PatchCamelyon (Veeling et al., MICCAI 2018; https://github.com/basveeling/pcam, CC0) as `train.tar` or as
folders `0/` and `1/` of 96 x 96 pictures; all of its training patches are used, exact duplicates once. A run that was
interrupted goes on. `judge.py` tells how good the networks are, and writes the better one.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from weights.patches import read_split

import histograph as hg

#: The network of both methods: tokens of 8 pixels, about a nucleus; few blocks, since passes over the data pay more.
NETWORK = {"image_size": 96, "patch_size": 8, "dim": 192, "depth": 4, "heads": 3}
#: What is trained, and how: the method, its arguments, and those of `pretrain`. Few patches and few passes want a warm
#: contrast with a weight of its own, and stains jittered, for slides are told apart by their colours.
RECIPES: dict[str, tuple[Callable[..., hg.methods.Method], dict[str, Any], dict[str, Any]]] = {
    "gcmae": (
        hg.methods.GCMAE,
        {
            "decoder_dim": 96,
            "decoder_depth": 1,
            "decoder_heads": 3,
            "mask_ratio": 0.7,
            "crop_scale": (0.4, 1.0),
            "stain": 0.3,
            "contrast_weight": 1.0,
            "temperature": 0.2,
        },
        {"lr": 1e-3, "weight_decay": 0.05, "batch_size": 128, "warmup": 0.1},
    ),
    "dino": (
        hg.methods.DINO,
        {
            "image_size": 64,
            "local_size": 32,
            "local_views": 4,
            "global_scale": (0.4, 0.6),
            "local_scale": (0.08, 0.15),
            "drop_path": 0.0,
            "out_dim": 2048,
            "head_dim": 512,
            "bottleneck_dim": 128,
            "momentum": 0.99,
        },
        {"lr": 5e-4, "weight_decay": 0.04, "batch_size": 64, "warmup": 0.1, "gradient_clip": 3.0},
    ),
}


def method_of(name: str, seed: int) -> hg.methods.Method:
    """Make a method with the weights of a seed."""
    torch.manual_seed(seed)
    make, settings, _ = RECIPES[name]
    return make(**{**NETWORK, **settings})


def main(argv: Sequence[str] | None = None) -> int:
    """Train one method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=RECIPES)
    parser.add_argument("--data", type=Path, help="folder of PatchCamelyon")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("runs") / "weights", help="folder of the runs (runs/weights)"
    )
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu or auto")
    parser.add_argument("--precision", default="32-true", help="for instance bf16-mixed on a GPU")
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with train.tar or the folders 0 and 1 of PatchCamelyon")
        return 0
    images, _ = read_split(options.data, "train")
    out = options.out / f"{options.method} epochs={options.epochs} seed={options.seed}"
    log = hg.pretrain(
        method_of(options.method, options.seed),
        hg.PatchDataset(images),
        epochs=options.epochs,
        seed=options.seed,
        out=out,
        accelerator=options.accelerator,
        precision=options.precision,
        **RECIPES[options.method][2],
    )
    print(f"{len(images)} patches, {len(log)} epochs; last: {log.iloc[-1].to_dict()}")
    print(f"method: {out / 'method.safetensors'}, log: {out / 'log.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
