"""H-MGDM from slides to pictures, both stages, in one file that reads from top to bottom.

    python benchmarks/hmgdm/example.py [--data FOLDER] [--out FOLDER] [--epochs 40] [--crop-epochs 10]

FOLDER holds slides; without it the bundled one is taken, some two minutes on two cores. Writes graphs, trained methods,
vectors and two pictures to `--out`, and prints how well hidden tissue is drawn from noise. The windows it is drawn in
were trained on; generation.py asks about tissue that was not, and compares with simple guesses.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch_geometric.data import Batch

import histograph as hg
from histograph.quickstart import cluster_nodes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of slides; the bundled slide by default")
parser.add_argument("--out", type=Path, default=Path("runs/hmgdm/example"))
parser.add_argument("--mpp", type=float, help="micrometres per pixel of slides that do not say")
parser.add_argument("--epochs", type=int, default=40, help="passes over the windows, stage 2")
parser.add_argument("--crop-epochs", type=int, default=10, help="passes over the image crops, stage 1")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

SUPERPIXEL_UM, CROP_UM, CROP_PX, WINDOW_UM = 12.0, 16.0, 32, 96.0
CROPS = 10_000  # of each slide, for training stage 1
SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".png", ".jpg"}

torch.manual_seed(options.seed)
rng = np.random.default_rng(options.seed)
(options.out / "graphs").mkdir(parents=True, exist_ok=True)
paths = [hg.bundled.slide_path()]
if options.data is not None:
    paths = sorted(path for path in options.data.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"--data: {options.data} holds no slide ({', '.join(sorted(SUFFIXES))})")

# A slide becomes superpixels, and superpixels that touch become a graph. Around each node and each edge lies a crop.
graphs, crops, shapes = [], [], []
for path in paths:
    slide = hg.open_slide(path, mpp=options.mpp)
    superpixels = hg.entities.superpixels(slide, size_um=SUPERPIXEL_UM, mpp=1.0, mask=slide.tissue_mask())
    graph = hg.build_graph(slide, {"tissue": superpixels}, progress=False)
    around = hg.PatchDataset.from_graph(graph, slide, CROP_UM, CROP_PX)
    graphs.append(graph)
    crops.append(around[rng.permutation(len(around))[:CROPS]].in_memory())
    shapes.append(superpixels)
    print(f"{path.name}: {graph['tissue'].num_nodes} superpixels, {len(around)} crops")

# Stage 1: an auto-encoder learns to put a crop into 64 numbers.
stage1 = hg.methods.EntityAutoencoder(size_px=CROP_PX)
hg.pretrain(
    stage1,
    hg.PatchDataset.concat(crops),
    epochs=options.crop_epochs,
    out=options.out / "stage1",
    batch_size=64,
    lr=4e-3,
    seed=options.seed,
    resume=False,
)

# Its latents become the attributes of nodes and edges; they lie in the graph's file as float16.
files = [options.out / "graphs" / f"{graph.slide_id}.safetensors" for graph in graphs]
for path, graph, file in zip(paths, graphs, files):
    with hg.open_slide(path, mpp=options.mpp) as slide:
        hg.add_latents(graph, slide, stage1, size_um=CROP_UM)
    hg.save(graph, file)
fields = {"node_fields": ("latent",), "edge_fields": ("edge_attr", "edge_latent")}
windows = hg.GraphDataset(files, node_type="tissue", window_um=WINDOW_UM, min_nodes=8, **fields)
whole = hg.GraphDataset(files, node_type="tissue", **fields)

# Stage 2: 60 % of nodes and edges are hidden, noised, and predicted from the rest.
method = hg.methods.HMGDM(windows.node_dim, windows.edge_dim, hidden_dim=128, joint_depth=1)
hg.pretrain(
    method, windows, epochs=options.epochs, out=options.out / "stage2", seed=options.seed, resume=False
)

# The encoder alone turns whole graphs into vectors, of nodes and of slides.
vectors = hg.embed(method, whole, progress=False)
vectors.save(options.out / "vectors.safetensors")

# Which kinds of tissue are where?
graph, slide = whole[0], hg.open_slide(paths[0], mpp=options.mpp)
clusters = cluster_nodes(np.asarray(vectors.node), seed=options.seed)[: vectors.ptr[1]]
figure = Figure(figsize=(8, 10), layout="constrained")
hg.plotting.plot_clusters(graph, clusters, slide=slide, entities=shapes[0], ax=figure.subplots())
figure.savefig(options.out / "clusters.png", dpi=130)

# Which superpixels move the vector of the slide, and which do hidden ones read? The latter is asked in each window.
moves = hg.evaluation.saliency(method, graph, seed=options.seed)
parts = Batch.from_data_list([window for window in windows if window.slide_id == graph.slide_id])
read = hg.evaluation.saliency(method, parts, kind="attention", seed=options.seed)
read = pd.Series(read, parts.id.numpy()).reindex(graph.id.numpy())
figure = Figure(figsize=(14, 9), layout="constrained")
for axes, values, label in zip(
    figure.subplots(1, 2),
    (moves / moves.mean(), read.to_numpy()),
    ("change of the slide's vector, mean = 1", "read by hidden superpixels, even = 1"),
):
    hg.plotting.plot_saliency(graph, values, slide=slide, entities=shapes[0], label=label, ax=axes)
figure.savefig(options.out / "saliency.png", dpi=110)

# A hidden subgraph is drawn from noise, given what is visible, in some of the windows.
batch = Batch.from_data_list([windows[i] for i in rng.permutation(len(windows))[:32]])
sample = hg.methods.sample_hidden(method, batch, sampler="ddim", steps=20, draws=2, seed=options.seed)
print(
    "\n| hidden | error of a draw | error of the mean predictor | error of the training mean |\n|---|---|---|---|"
)
for kind, row in sample.errors().iterrows():
    print(f"| {kind}s | {row['draw']:.3f} | {row['mean']:.3f} | {row['training_mean']:.3f} |")
print(f"\nRoot mean squares in training standard deviations. The pictures are in {options.out}.")
