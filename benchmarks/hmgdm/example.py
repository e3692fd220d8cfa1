"""H-MGDM from slides to pictures, both stages, in one file that reads from top to bottom.

    python benchmarks/hmgdm/example.py [--data FOLDER] [--out FOLDER] [--epochs 40] [--crop-epochs 5]

FOLDER holds slides; without it the bundled one is taken. Writes graphs, trained methods, vectors and two pictures to
`--out`, and prints how well hidden tissue is drawn from noise. The windows it is drawn in were trained on: for unseen
tissue see generation.py.
"""

import argparse
from pathlib import Path

import numpy as np
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
parser.add_argument("--crop-epochs", type=int, default=5, help="passes over the image crops, stage 1")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

SUPERPIXEL_UM, CROP_UM, CROP_PX, WINDOW_UM = 12.0, 16.0, 32, 96.0
CROPS = 10_000  # of each slide, for training stage 1
SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".png", ".jpg"}

torch.manual_seed(options.seed)
rng = np.random.default_rng(options.seed)
graphs_folder = options.out / "graphs"
graphs_folder.mkdir(parents=True, exist_ok=True)
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
for path, graph in zip(paths, graphs):
    with hg.open_slide(path, mpp=options.mpp) as slide:
        hg.add_latents(graph, slide, stage1, size_um=CROP_UM)
    hg.save(graph, graphs_folder / f"{graph.slide_id}.safetensors")
fields = {"node_fields": ("latent",), "edge_fields": ("edge_attr", "edge_latent")}
windows = hg.GraphDataset(graphs_folder, node_type="tissue", window_um=WINDOW_UM, min_nodes=8, **fields)
whole = hg.GraphDataset(graphs_folder, node_type="tissue", **fields)

# Stage 2: 60 % of nodes and edges are hidden, noised, and predicted from the rest.
method = hg.methods.HMGDM(windows.node_dim, windows.edge_dim, hidden_dim=128, joint_depth=1)
hg.pretrain(
    method, windows, epochs=options.epochs, out=options.out / "stage2", seed=options.seed, resume=False
)

# The encoder alone turns whole graphs into vectors, of nodes and of slides.
vectors = hg.embed(method, whole, progress=False)
clusters = cluster_nodes(np.asarray(vectors.node), seed=options.seed)
