"""Tumour or not in PatchCamelyon patches: what pre-training H-MGDM on the one bundled slide is worth.

    python benchmarks/hmgdm_patches.py --data FOLDER [--patches 800] [--seeds 5] [--epochs 60]

FOLDER holds PatchCamelyon as `train.tar`, or as folders `0/` and `1/` of 96 x 96 pictures. The encoder never sees
these patches, and the patches bundled with the package (from the valid split) are not among those of `train.tar`.
Prints area under the ROC curve of a linear and a kNN probe for hand-made features, and for the encoder before and after
pre-training with both representations: mean over the seeds [lowest, highest], and in the last column in how many seeds
training helped over the same encoder untrained. Seeds change weights, masks and order, not the patches.
"""

import argparse
import io
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

import histograph as hg
from histograph.quickstart import NETWORK, SUPERPIXELS, WINDOW_UM

MPP = 0.972
REPRESENTATIONS = ("latent", "layers")


def read_patches(folder: Path, n: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Read n patches, half of each class, chosen at random; exact duplicates are left out."""
    by_class: dict[int, list[bytes]] = {0: [], 1: []}
    if (folder / "train.tar").exists():
        with tarfile.open(folder / "train.tar") as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    by_class[int(Path(member.name).parent.name)].append(file.read())
    else:
        for label, found in by_class.items():
            found += [path.read_bytes() for path in sorted((folder / str(label)).glob("*.*"))]
    images, y = [], []
    rng = np.random.default_rng(seed)
    for label, found in by_class.items():
        unique = sorted(set(found))
        if len(unique) < n // 2:
            sys.exit(
                f"{folder} holds {len(unique)} patches of class {label}, {n // 2} are needed: lower --patches"
            )
        for i in rng.choice(len(unique), n // 2, replace=False):
            images.append(np.asarray(Image.open(io.BytesIO(unique[i])).convert("RGB")))
            y.append(label)
    return images, np.array(y)


def graphs_of(images: list[np.ndarray]) -> list:
    """Build the tissue graph of each patch, as the quickstart does."""
    graphs = []
    for image in tqdm(images, desc="graphs"):
        slide = hg.open_slide(image, mpp=MPP)
        whole = hg.build_graph(slide, entities={"tissue": SUPERPIXELS}, mask=None, progress=False)
        graphs.append(hg.graphs.layer(whole, "tissue"))
    return graphs


def auc(z: object, y: np.ndarray) -> tuple[float, float]:
    """Return the AUC of the linear and of the kNN probe."""
    probes = hg.evaluation.linear_probe, hg.evaluation.knn_probe
    linear, knn = (probe(np.asarray(z), y, metrics=("auc",), n_boot=2).metrics["auc"][0] for probe in probes)
    return linear, knn


def one_seed(
    data: object, graphs: list, y: np.ndarray, seed: int, epochs: int
) -> dict[str, tuple[float, float]]:
    """Return the AUCs of the encoder before and after pre-training, by representation."""
    torch.manual_seed(seed)
    method = hg.methods.HMGDM(data.node_dim, data.edge_dim, **NETWORK)
    method.before_epoch(0, data)
    result = {}
    for state in ("untrained", "pre-trained"):
        if state == "pre-trained":
            hg.pretrain(method, data, epochs=epochs, seed=seed)
        for representation in REPRESENTATIONS:
            method.representation = representation
            result[f"{state}, {representation}"] = auc(hg.embed(method, graphs, progress=False), y)
    return result


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--patches", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    if options.data is None or not ((options.data / "train.tar").exists() or (options.data / "0").is_dir()):
        print(
            f"skipped: give --data FOLDER with train.tar or the folders 0 and 1 of PatchCamelyon, found {options.data}"
        )
        return
    images, y = read_patches(options.data, options.patches)
    graphs = graphs_of(images)
    with tempfile.TemporaryDirectory() as folder, hg.open_slide(hg.bundled.slide_path()) as slide:
        hg.save(hg.build_graph(slide, entities={"tissue": SUPERPIXELS}), Path(folder) / "slide.safetensors")
        data = hg.GraphDataset(folder, node_type="tissue", window_um=WINDOW_UM, min_nodes=8)
        runs = [one_seed(data, graphs, y, seed, options.epochs) for seed in range(options.seeds)]
    print_table(auc(np.stack([graph.x.mean(0).numpy() for graph in graphs]), y), runs)


def print_table(hand_made: tuple[float, float], runs: list[dict[str, tuple[float, float]]]) -> None:
    """Print AUCs as a Markdown table."""
    print("| representation | linear probe AUC | kNN AUC | seeds in which training helped (linear, kNN) |")
    print("|---|---|---|---|")
    print(f"| hand-made features, mean over nodes | {hand_made[0]:.3f} | {hand_made[1]:.3f} | |")
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        cells = [f"{v.mean():.3f} [{v.min():.3f}, {v.max():.3f}]" for v in values.T]
        helped = ""
        if name.startswith("pre-trained"):
            before = np.array([run[name.replace("pre-trained", "untrained")] for run in runs])
            helped = ", ".join(f"{count} of {len(runs)}" for count in (values > before).sum(0))
        print(f"| {name} | {cells[0]} | {cells[1]} | {helped} |")


if __name__ == "__main__":
    main()
