"""PAMA from slides to pictures in one file that reads from top to bottom.

    python benchmarks/pama/example.py [--data FOLDER] [--out FOLDER] [--epochs 200]

FOLDER holds slides, or patch features (.h5) of CLAM, TRIDENT or STAMP; without it the bundled slide is taken, about a
minute on two cores. Writes graphs, the trained method, vectors and a picture to `--out`, and prints how well hidden
patches are restored. The windows in which they are were trained on; reconstruction.py asks about others.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch_geometric.data import Data

import histograph as hg
from histograph.quickstart import cluster_nodes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of slides or .h5 files; the bundled slide by default")
parser.add_argument("--out", type=Path, default=Path("runs/pama/example"))
parser.add_argument("--mpp", type=float, help="micrometres per pixel of slides or files that do not say")
parser.add_argument("--patch-um", type=float, default=32.0, help="side of the patches of slides")
parser.add_argument(
    "--window-um", type=float, default=512.0, help="side of what is trained on; 0 for whole slides"
)
parser.add_argument("--patches-per-anchor", type=float, default=9.0)
parser.add_argument("--epochs", type=int, default=200)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".png", ".jpg", ".h5"}
(options.out / "graphs").mkdir(parents=True, exist_ok=True)
paths = [hg.bundled.slide_path()]
if options.data is not None:
    paths = sorted(path for path in options.data.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"--data: {options.data} holds no file that ends in {', '.join(sorted(SUFFIXES))}")

# A slide becomes a graph of patches; here with features made by hand, better ones come from others' files.
files = []
for path in paths:
    if path.suffix.lower() == ".h5":
        graph = hg.read_patch_features(path, mpp=options.mpp)
    else:
        with hg.open_slide(path, mpp=options.mpp) as slide:
            graph = hg.build_graph(slide, {"patch": {"size_um": options.patch_um}}, progress=False)
    files.append(options.out / "graphs" / f"{graph.slide_id}.safetensors")
    hg.save(graph, files[-1])
windows = hg.GraphDataset(files, node_type="patch", window_um=options.window_um or None, min_nodes=16)
whole = hg.GraphDataset(files, node_type="patch")
print(f"{len(files)} slides, {sum(graph.num_nodes for graph in whole)} patches, {len(windows)} windows")

# Three quarters of the patches are hidden, and restored from what the anchors know of the others.
torch.manual_seed(options.seed)
method = hg.methods.PAMA(
    windows.node_dim, hidden_dim=128, heads=4, decoder_dim=64, patches_per_anchor=options.patches_per_anchor
)
hg.pretrain(
    method,
    windows,
    epochs=options.epochs,
    out=options.out,
    batch_size=4,
    lr=3e-3,
    seed=options.seed,
    resume=False,
)

# Whole slides become vectors, and so do their patches. Turned slides have the same.
vectors = hg.embed(method, whole, progress=False)
vectors.save(options.out / "vectors.safetensors")
graph = whole[0]
turned = Data(x=graph.x, pos=torch.stack([graph.pos[:, 1], graph.pos[:, 0].max() - graph.pos[:, 0]], dim=1))
change = (hg.embed(method, [turned], progress=False).graph - vectors.graph[:1]).abs().max()
print(f"largest change of the slide's vector when the slide is turned by 90 degrees: {change:.1e}")

# Which kinds of patches are where, and what does the slide's vector look at?
slide = None if paths[0].suffix.lower() == ".h5" else hg.open_slide(paths[0], mpp=options.mpp)
clusters = cluster_nodes(np.asarray(vectors.node), seed=options.seed)[: vectors.ptr[1]]
figure = Figure(figsize=(14, 9), layout="constrained")
left, right = figure.subplots(1, 2)
hg.plotting.plot_clusters(graph, clusters, slide=slide, ax=left)
maps = hg.methods.anchor_maps(method, graph, block=-2)  # the last one that reaches the slide's vector
hg.plotting.plot_anchor_attention(maps, graph, slide=slide, ax=right)
figure.savefig(options.out / "slide.png", dpi=110)

# Hidden patches of the windows, against simple guesses; 1 is the spread of the features.
errors = []
generator = torch.Generator().manual_seed(options.seed)
spread = method.scale.std
with torch.no_grad():
    for window in windows:
        visible = torch.rand(window.num_nodes, generator=generator) < 0.25
        if visible.all() or not visible.any():
            continue
        hidden = window.x[~visible]
        nearest = torch.cdist(window.pos[~visible], window.pos[visible]).argmin(1)
        guesses = (
            method.restore(window, visible),
            window.x[visible].mean(0),
            window.x[visible][nearest],
        )
        errors.append([float(((guess - hidden) / spread).square().mean()) for guess in guesses])
ours, mean, near = np.mean(errors, axis=0)
print("\n| hidden patches from | mean squared error |\n|---|---|")
for name, error in (
    ("PAMA", ours),
    ("the mean of the visible patches", mean),
    ("the nearest visible patch", near),
):
    print(f"| {name} | {error:.3f} |")
print(f"\nThe picture is {options.out / 'slide.png'}.")
