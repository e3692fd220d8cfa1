"""Tumour or not in PatchCamelyon patches with few labels: H-MGDM, its ablations, GraphMAE and simpler answers.

    python benchmarks/hmgdm/pcam.py --data FOLDER [--patches 1800] [--seeds 5] [--epochs 5] [--draws 2]

FOLDER holds PatchCamelyon (Veeling et al., MICCAI 2018; https://github.com/basveeling/pcam, CC0) as `train.tar` or as
folders `0/` and `1/` of 96 x 96 pictures. It is not among the data sets of the H-MGDM paper. Slides are not named in
it, so patches of one slide can be on both sides of a split; all rows of the table share that advantage.

A patch is one graph: superpixels of 12 um with hand-made features and texture codes of the crop around their centre,
and their adjacency. Each seed draws a third of the patches as test set; codes and methods are trained on the others,
without labels; then a logistic regression reads the mean vector of few labelled patches. The score is the area under
the ROC curve of the test patches.
"""

import argparse
import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from peers.supervised import fit_predict
from PIL import Image
from torch_geometric.data import Data
from tqdm.auto import tqdm

import histograph as hg
from histograph.quickstart import SUPERPIXELS
from hmgdm.few_labels import Scores, auc, fitted, options_of, print_table, texture_codes, trained

MPP = 0.972
NODE_PX = 24
SHARES = {"1 % of labels": 0.01, "5 % of labels": 0.05, "20 % of labels": 0.2, "all labels": 1.0}
HAND, INPUT = "hand-made, mean over nodes", "all inputs of H-MGDM, mean over nodes"
BESIDE, BESIDE_UNTRAINED = "H-MGDM beside hand-made", "untrained beside hand-made"
SUPERVISED = "graph network from scratch"
METHODS = (
    HAND,
    INPUT,
    SUPERVISED,
    "GraphMAE",
    "H-MGDM, untrained",
    "H-MGDM",
    "without edge latents",
    "without skips",
    "one noise level",
    BESIDE_UNTRAINED,
    BESIDE,
)
COMPARED = (
    f"H-MGDM - {HAND}",
    "H-MGDM - H-MGDM, untrained",
    "H-MGDM - GraphMAE",
    f"H-MGDM - {INPUT}",
    f"{BESIDE} - {HAND}",
    f"{BESIDE} - {BESIDE_UNTRAINED}",
)


def read_patches(folder: Path, n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
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
                f"--patches: {folder} holds {len(unique)} patches of class {label}, {n // 2} are needed; ask for fewer"
            )
        for i in rng.choice(len(unique), n // 2, replace=False):
            images.append(np.asarray(Image.open(io.BytesIO(unique[i])).convert("RGB")))
            y.append(label)
    return images, np.array(y)


def graph_of(image: np.ndarray) -> Data:
    """Make the tissue graph of a patch, as the quickstart does, with the crops of its superpixels."""
    slide = hg.open_slide(image, mpp=MPP)
    whole = hg.build_graph(slide, entities={"tissue": SUPERPIXELS}, mask=None, progress=False)
    graph = hg.graphs.layer(whole, "tissue")
    crops = hg.features.crops(slide, graph.pos.numpy(), NODE_PX * MPP, NODE_PX)
    return Data(
        x=graph.x, edge_index=graph.edge_index, edge_attr=graph.edge_attr, crops=torch.from_numpy(crops)
    )


def with_codes(graphs: Sequence[Data], train: np.ndarray, seed: int, codes: int) -> list[Data]:
    """Append texture codes, if any, learned from the crops of the training patches, to the features."""
    more = texture_codes([graph.crops for graph in graphs], train, codes, seed)
    return [
        Data(x=torch.cat([graph.x, extra], dim=1), edge_index=graph.edge_index, edge_attr=graph.edge_attr)
        for graph, extra in zip(graphs, more, strict=True)
    ]


def one_seed(
    graphs: Sequence[Data], y: np.ndarray, seed: int, options: argparse.Namespace, scores: Scores
) -> None:
    """Train everything for one split of the patches and note its scores."""
    order = np.random.default_rng(seed).permutation(len(y))
    test, train = np.split(order, [len(y) // 3])
    coded = with_codes(graphs, train, seed, options.codes)
    vectors = trained(
        [coded[i] for i in train],
        lambda m: np.asarray(hg.embed(m, coded, progress=False)),
        seed,
        options,
    )
    vectors[HAND] = np.stack([graph.x.mean(0).numpy() for graph in graphs])
    vectors[INPUT] = np.stack([graph.x.mean(0).numpy() for graph in coded])
    vectors[BESIDE] = np.hstack([vectors["H-MGDM"], vectors[HAND]])
    vectors[BESIDE_UNTRAINED] = np.hstack([vectors["H-MGDM, untrained"], vectors[HAND]])
    for share, part in SHARES.items():
        for draw in range(1 if part == 1 else options.draws):
            rows = labelled(y, train, part, np.random.default_rng([seed, draw]))
            for name, z in vectors.items():
                scale, model = fitted(z[rows], y[rows], seed)
                scores.add(
                    share, name, seed, (model.decision_function(scale.transform(z[test])), y[test]), len(test)
                )
            if draw == 0 and options.supervised_epochs:
                chance = fit_predict(
                    [coded[i] for i in rows],
                    y[rows],
                    [coded[i] for i in test],
                    epochs=options.supervised_epochs,
                    seed=seed,
                )
                scores.add(share, SUPERVISED, seed, (chance[:, 1], y[test]), len(test))


def labelled(y: np.ndarray, train: np.ndarray, part: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a share of the training patches, half of each class."""
    count = max(4, round(part * len(train) / 2))
    return np.concatenate([rng.permutation(train[y[train] == label])[:count] for label in (0, 1)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = options_of(__doc__, epochs=5, read_time=750)
    parser.add_argument("--patches", type=int, default=1800)
    parser.add_argument("--sample", type=int, default=1, help="seed of the choice of patches")
    options = parser.parse_args(argv)
    if options.data is None or not ((options.data / "train.tar").exists() or (options.data / "0").is_dir()):
        print(
            "skipped: give --data FOLDER with train.tar or the folders 0 and 1 of PatchCamelyon, "
            f"found {options.data}"
        )
        return 0
    images, y = read_patches(options.data, options.patches, options.sample)
    graphs = [graph_of(image) for image in tqdm(images, desc="graphs")]
    scores = Scores(auc)
    for seed in tqdm(range(options.seeds), desc="seeds"):
        one_seed(graphs, y, seed, options, scores)
        last = seed == options.seeds - 1
        rows = [name for name in METHODS if any((share, name) in scores.entries for share in SHARES)]
        print(f"\nSeeds so far: {seed + 1}\n")  # a long run that is stopped has not been for nothing
        print_table(scores, list(SHARES), rows, "AUC", COMPARED if last else ())
    return 0


if __name__ == "__main__":
    sys.exit(main())
