"""DINO from image patches to pictures in one file that reads from top to bottom.

    python benchmarks/dino/example.py [--data FOLDER] [--out FOLDER] [--epochs 10] [--size-px 48]

FOLDER holds image files, or one folder of them for each class; without it the 400 bundled patches are taken, about a
minute on two cores. Writes the trained method, vectors and a picture to `--out`, and prints what a linear probe and
nearest neighbours find in the vectors before and after training, where there are classes. The patches were trained on,
without their labels; a minute of training on 400 patches shows how it is used, not what it is worth.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import histograph as hg
from histograph.methods import DINO, Patches
from histograph.training import PatchDataset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--data", type=Path, help="folder of images, or of one folder a class; bundled ones by default"
)
parser.add_argument("--out", type=Path, default=Path("runs/dino/example"))
parser.add_argument(
    "--size-px", type=int, default=48, help="side that patches are shrunk to, a multiple of 16"
)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--dim", type=int, default=96, help="width of the vectors, a multiple of 3")
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--batch-size", type=int, default=50)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
if options.size_px < 16 or options.size_px % 16:
    parser.error(f"--size-px must be a multiple of 16; found {options.size_px}")

# Patches, their classes, and which of them must not be told apart by a split.
if options.data is None:
    bundled = hg.bundled.patches()
    pictures, y, group = [Image.fromarray(image) for image in bundled.images], bundled.y, bundled.group
else:
    suffixes = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
    paths = sorted(path for path in options.data.rglob("[!.]*") if path.suffix.lower() in suffixes)
    if not paths:
        parser.error(f"--data: {options.data} holds no file that ends in {', '.join(sorted(suffixes))}")
    pictures = [Image.open(path).convert("RGB") for path in paths]
    y = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    group = None
side = (options.size_px, options.size_px)
images = np.stack([np.asarray(picture.resize(side, Image.Resampling.BOX)) for picture in pictures])
data = PatchDataset(images)
print(f"{len(data)} patches of {options.size_px} x {options.size_px} pixels, {len(set(y.tolist()))} classes")

# Two crops of most of a patch, four of a small part; the student says of each what the teacher says of the others.
torch.manual_seed(options.seed)
method = DINO(
    image_size=options.size_px,
    patch_size=8,
    dim=options.dim,
    depth=options.depth,
    heads=3,
    local_size=options.size_px // 16 * 8,
    local_views=4,
    out_dim=1024,
    head_dim=256,
    bottleneck_dim=128,
    momentum=0.98,
)
before = hg.embed(method, data, progress=False)
options.out.mkdir(parents=True, exist_ok=True)
log = hg.pretrain(
    method,
    data,
    epochs=options.epochs,
    out=options.out,
    batch_size=options.batch_size,
    lr=1e-3,
    weight_decay=0.04,
    gradient_clip=3.0,
    warmup=0.1,
    seed=options.seed,
    resume=False,
)
print(f"loss {log['loss'].iloc[-1]:.3f}, of which {log['entropy'].iloc[-1]:.3f} is the teacher's own entropy")

# Patches become vectors: the teacher's class token, with nothing cut and nothing random.
vectors = hg.embed(method, data, progress=False)
vectors.save(options.out / "vectors.safetensors")
if len(set(y.tolist())) > 1:
    print("\n| vectors | linear probe, AUC | 10 nearest, AUC |\n|---|---|---|")
    for name, z in (("untrained", before), ("DINO", vectors)):
        found = [
            probe(z, y, groups=group, metrics=("auc",), seed=options.seed).metrics["auc"]
            for probe in (hg.evaluation.linear_probe, hg.evaluation.knn_probe)
        ]
        cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in found]
        print(f"| {name} | {' | '.join(cells)} |")

# Four patches, two of their crops, what the class token of the last block looks at, and their nearest neighbours.
shown = np.linspace(0, len(data) - 1, 4).astype(int)
batch = Patches(torch.from_numpy(images[shown]))
torch.manual_seed(options.seed)
(large, _), (small, *_) = method.views(batch)
with torch.inference_mode():
    seen = method.teacher.backbone.attention(method.normalise(batch))[:, :, 0, 1:].mean(1)
tokens = options.size_px // 8
z = torch.nn.functional.normalize(vectors.graph - vectors.graph.mean(0), dim=1)
near = (z[shown] @ z.T).topk(3, dim=1).indices[:, 1:]
figure = Figure(figsize=(12, 8.5), layout="constrained")
axes = figure.subplots(4, 6)
titles = ("patch", "global crop", "local crop", "class token sees", "nearest", "next")
for row, number in enumerate(shown):
    crops = [
        (view[row] * method.std[0] + method.mean[0]).permute(1, 2, 0).clamp(0, 1).numpy()
        for view in (large, small)
    ]
    pictures = [images[number], *crops, seen[row].view(tokens, tokens).numpy(), *images[near[row]]]
    for ax, picture, title in zip(axes[row], pictures, titles, strict=True):
        ax.imshow(picture, cmap="magma")
        ax.set_axis_off()
        ax.set_title(title if row == 0 else "", fontsize=10)
figure.savefig(options.out / "patches.png", dpi=110)
print(f"\nThe picture is {options.out / 'patches.png'}.")
