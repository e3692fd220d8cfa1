"""GCMAE from pictures to vectors in one file that reads from top to bottom.

    python benchmarks/gcmae/example.py [--data FOLDER] [--out FOLDER] [--epochs 6]

FOLDER holds pictures of one size (PNG, JPEG, TIFF), those of a class in a folder of its own; without it the 400 bundled
patches of PatchCamelyon are taken, about a minute on one core. Writes the trained method, vectors and a picture of
hidden and restored patches to `--out`, and prints what the vectors know of the classes, beside those of the untrained
network. A few passes over 400 patches teach a transformer next to nothing about tissue: this shows how it is done.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import histograph as hg
from histograph.methods import Patches
from histograph.training import PatchDataset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of pictures; the bundled patches by default")
parser.add_argument("--out", type=Path, default=Path("runs/gcmae/example"))
parser.add_argument("--size", type=int, default=96, help="side of what is trained on, in pixels")
parser.add_argument("--patch-size", type=int, default=8, help="side of a square, in pixels")
parser.add_argument("--dim", type=int, default=96, help="width of the vectors, a multiple of 12")
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--batch-size", type=int, default=40)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

# Pictures, what they show, and which of them belong together (overlapping patches are never split).
if options.data is None:
    bundled = hg.bundled.patches()
    data, y, group = PatchDataset(bundled.images), bundled.y, bundled.group
else:
    suffixes = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
    paths = sorted(path for path in options.data.rglob("[!.]*") if path.suffix.lower() in suffixes)
    if not paths:
        parser.error(f"--data: {options.data} holds no file that ends in {', '.join(sorted(suffixes))}")
    data, y, group = PatchDataset(paths), np.array([path.parent.name for path in paths]), None
print(data)

# Half of the squares are hidden and predicted; and each patch is told from all others by a bank of what they were.
torch.manual_seed(options.seed)
method = hg.methods.GCMAE(
    options.size,
    options.patch_size,
    dim=options.dim,
    depth=options.depth,
    heads=3,
    decoder_dim=64,
    decoder_depth=1,
    decoder_heads=4,
)
untrained = hg.embed(method, data, progress=False, nodes=False)
log = hg.pretrain(
    method,
    data,
    epochs=options.epochs,
    out=options.out,
    batch_size=options.batch_size,
    lr=1e-3,
    weight_decay=0.05,
    seed=options.seed,
    resume=False,
)
print(log[["epoch", "reconstruction", "contrast"]].round(3).to_string(index=False))

# Pictures become vectors, with nothing hidden.
vectors = hg.embed(method, data, progress=False, nodes=False)
vectors.save(options.out / "vectors.safetensors")
if len(np.unique(y)) > 1:
    print("\n| vectors | accuracy | AUC |\n|---|---|---|")
    for name, z in (("untrained", untrained), ("GCMAE", vectors)):
        scores = hg.evaluation.linear_probe(z, y, groups=group, seed=options.seed).metrics
        accuracy, auc = (
            f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in (scores["accuracy"], scores["auc"])
        )
        print(f"| {name} | {accuracy} | {auc} |")

# What is hidden, and what the network puts there. A square's mean and contrast are taken from the square itself.
rows = np.linspace(0, len(data) - 1, min(6, len(data))).astype(int)
if data.size == (options.size, options.size):
    torch.manual_seed(options.seed)
    shown = Patches(torch.from_numpy(data[rows].images()))
    found = method.restore(shown)
    figure = Figure(figsize=(2 * len(rows), 6), layout="constrained")
    axes = figure.subplots(3, len(rows), squeeze=False)
    pictures = {"patch": shown.image, "what is seen": found.masked, "restored": found.restored}
    for line, (name, images) in zip(axes, pictures.items(), strict=True):
        line[0].set_ylabel(name)
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image.numpy())
            ax.set(xticks=[], yticks=[])
    figure.savefig(options.out / "restored.png", dpi=110)
    print(f"\nThe picture is {options.out / 'restored.png'}.")
else:
    print(f"\nNo picture: patches are {data.size[0]} x {data.size[1]} pixels, give --size.")
