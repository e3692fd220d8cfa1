"""Cell types in colorectal cancer with few labels: H-MGDM, its ablations, GraphMAE and simpler answers.

    python benchmarks/hmgdm/crchistophenotypes.py --data FOLDER [--seeds 5] [--epochs 12] [--draws 2]

FOLDER holds CRCHistoPhenotypes (Sirinukunwattana et al., IEEE TMI 2016; University of Warwick, research only) as
`images/*.png` (500 x 500 pixels, 20x, 0.55 um), `detections.csv` (image, x, y of every nucleus) and
`classified_nuclei.csv` (image, x, y, cell_type); the original has one folder per image with two .mat files of the same
points. It is not among the data sets of the H-MGDM paper.

An image is one graph. Nodes are nuclei with hand-made colour and texture features of a crop of 40 pixels and of its
central disc, and texture codes of the crop; edges are Delaunay edges up to 40 um with their length and the features of
the crop of 24 pixels at their middle. Each seed draws 20 test images; codes and methods are trained on the others,
without labels, on windows of 100 um; then a logistic regression reads frozen vectors of few labelled cells, taken
from all training images ("cells") or from few whole images ("images"). The score is the weighted F1 of the cells of
the test images.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from peers.supervised import fit_predict
from scipy.spatial import cKDTree
from torch_geometric.data import Data
from tqdm.auto import tqdm

import histograph as hg
from hmgdm.few_labels import (
    Scores,
    confusion_by_unit,
    fitted,
    options_of,
    print_table,
    texture_codes,
    trained,
    weighted_f1,
)

MPP = 0.55
NODE_PX, DISC_PX, EDGE_PX = 40, 9.5, 24
WINDOW_UM, MAX_LENGTH_UM, NEIGHBOURS = 100.0, 40.0, 8
TYPES = ("epithelial", "fibroblast", "inflammatory", "others")
#: A point of the table of types belongs to the detection nearest to it, if that is this near, in pixels.
SAME_PX = 12.0
SHARES = {
    "1 % of cells": ("cells", 0.01),
    "5 % of cells": ("cells", 0.05),
    "20 % of cells": ("cells", 0.2),
    "all cells": ("cells", 1.0),
    "5 % of images": ("images", 0.05),
    "10 % of images": ("images", 0.1),
}
HAND, AROUND, INPUT = (
    "hand-made",
    "hand-made and its mean over 8 neighbours",
    "all inputs of H-MGDM and their means",
)
BESIDE, BESIDE_UNTRAINED = "H-MGDM beside hand-made and means", "untrained beside hand-made and means"
SUPERVISED = "graph network from scratch"
METHODS = (
    HAND,
    AROUND,
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
    f"H-MGDM - {AROUND}",
    "H-MGDM - H-MGDM, untrained",
    "H-MGDM - GraphMAE",
    f"{BESIDE} - {AROUND}",
    f"{BESIDE} - {BESIDE_UNTRAINED}",
    f"{BESIDE} - {INPUT}",
)


def hand_made(crops: np.ndarray, disc_px: float | None = None) -> np.ndarray:
    """Compute colour, stain and texture features of each crop, or of a disc in its middle: (n, 33)."""
    size, columns, parts = crops.shape[1], 32, []
    inside = np.ones((size, size), dtype=bool)
    if disc_px is not None:
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        inside = np.hypot(x, y) <= disc_px
    for start in range(0, len(crops), 4096):
        part = crops[start : start + 4096]
        rows = -(-len(part) // columns)
        padded = np.zeros((rows * columns, size, size, 3), np.uint8)
        padded[: len(part)] = part
        label = np.zeros((rows * columns, size, size), np.int32)
        label[: len(part)] = np.arange(1, len(part) + 1)[:, None, None] * inside
        sheet = padded.reshape(rows, columns, size, size, 3).swapaxes(1, 2).reshape(rows * size, -1, 3)
        labels = label.reshape(rows, columns, size, size).swapaxes(1, 2).reshape(rows * size, -1)
        table = hg.features.region_features(labels, sheet, mpp=MPP, groups=("color", "stain", "texture"))
        parts.append(table.values)
    return np.concatenate(parts) if parts else np.zeros((0, 33), np.float32)


def graph_of(image: Path, cells: pd.DataFrame, typed: pd.DataFrame) -> Data:
    """Make the graph of one image, with `y` (-1 without a type), the crops of its nuclei, and no codes yet."""
    pos = cells[["x", "y"]].to_numpy()
    y = np.full(len(pos), -1)
    if len(typed):
        distance, row = cKDTree(pos).query(typed[["x", "y"]].to_numpy())
        kind = typed.cell_type.map(TYPES.index).to_numpy()
        y[row[distance <= SAME_PX]] = kind[distance <= SAME_PX]
    pos = pos * MPP
    edge_index, length = hg.delaunay_edges(pos, max_length_um=MAX_LENGTH_UM)
    with hg.open_slide(image, mpp=MPP) as slide:
        crops = hg.features.crops(slide, pos, NODE_PX * MPP, NODE_PX)
        source, target = edge_index.numpy()
        pair = np.minimum(source, target) * len(pos) + np.maximum(source, target)
        _, first, which = np.unique(pair, return_index=True, return_inverse=True)
        middle = (pos[source[first]] + pos[target[first]]) / 2
        between = hand_made(hg.features.crops(slide, middle, EDGE_PX * MPP, EDGE_PX))[which]
    x = np.hstack([hand_made(crops), hand_made(crops, DISC_PX)])
    return Data(
        x=torch.from_numpy(x),
        pos=torch.from_numpy(pos).float(),
        id=torch.arange(len(pos)),
        edge_index=edge_index,
        edge_attr=torch.cat([length, torch.from_numpy(between)], dim=1),
        feature_names=[f"f{i}" for i in range(x.shape[1])],
        edge_attr_names=["length"] + [f"f{i}" for i in range(between.shape[1])],
        slide_id=image.stem,
        mpp=(MPP, MPP),
        label=torch.from_numpy(y),
        crops=torch.from_numpy(crops),
    )


def read_graphs(folder: Path, limit: int | None) -> list[Data]:
    """Make the graphs of all images with at least one nucleus."""
    cells, typed = (pd.read_csv(folder / name) for name in ("detections.csv", "classified_nuclei.csv"))
    names = sorted(cells.image.unique())[:limit]
    if len(names) < 3:
        sys.exit(f"--data: {folder / 'detections.csv'} names {len(names)} images, at least 3 are needed")
    return [
        graph_of(folder / "images" / f"{name}.png", cells[cells.image == name], typed[typed.image == name])
        for name in tqdm(names, desc="graphs")
    ]


def with_codes(graphs: Sequence[Data], train: Sequence[int], seed: int, codes: int) -> list[Data]:
    """Append texture codes, learned from the crops of the training images, to the features."""
    more = texture_codes([graph.crops for graph in graphs], train, codes, seed)
    found = []
    for graph, extra in zip(graphs, more, strict=True):
        x = torch.cat([graph.x, extra], dim=1)
        names = [f"f{i}" for i in range(x.shape[1])]
        dropped = ("x", "crops", "label", "feature_names")
        kept = {key: value for key, value in graph.to_dict().items() if key not in dropped}
        found.append(Data(x=x, feature_names=names, **kept))
    return found


def around(values: np.ndarray, graphs: Sequence[Data]) -> np.ndarray:
    """Average the rows of the nearest neighbours of each cell."""
    parts, start = [], 0
    for graph in graphs:
        part = values[start : start + graph.num_nodes]
        start += graph.num_nodes
        k = min(NEIGHBOURS + 1, graph.num_nodes)
        near = cKDTree(graph.pos.numpy()).query(graph.pos.numpy(), k=k)[1].reshape(graph.num_nodes, -1)
        parts.append(part[near[:, 1:]].mean(1) if k > 1 else part)
    return np.concatenate(parts)


def labelled(
    y: np.ndarray, image: np.ndarray, train: np.ndarray, kind: str, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw the labelled cells: a share of all typed cells of the training images, or those of a share of the images."""
    if kind == "images":
        typed = np.intersect1d(train, image[y >= 0])
        chosen = rng.permutation(typed)[: max(1, round(share * len(typed)))]
        return np.flatnonzero(np.isin(image, chosen) & (y >= 0))
    rows = np.flatnonzero(np.isin(image, train) & (y >= 0))
    return rng.permutation(rows)[: max(2 * len(TYPES), round(share * len(rows)))]


def one_seed(graphs: Sequence[Data], seed: int, options: argparse.Namespace, scores: Scores) -> None:
    """Train everything for one split of the images and note its scores."""
    order = np.random.default_rng(seed).permutation(len(graphs))
    count = max(1, len(graphs) // 4)
    test, train = np.sort(order[:count]), np.sort(order[count:])
    y = torch.cat([graph.label for graph in graphs]).numpy()
    image = np.repeat(np.arange(len(graphs)), [graph.num_nodes for graph in graphs])
    coded = with_codes(graphs, train, seed, options.codes)
    data = hg.GraphDataset([coded[i] for i in train], window_um=WINDOW_UM, min_nodes=8)
    windows = [data[i] for i in range(len(data))]
    vectors = trained(
        windows,
        lambda m: np.asarray(hg.embed(m, coded, progress=False).node),
        seed,
        options,
    )
    hand = torch.cat([graph.x for graph in graphs]).numpy()
    inputs = torch.cat([graph.x for graph in coded]).numpy()
    vectors[HAND], vectors[AROUND] = hand, np.hstack([hand, around(hand, coded)])
    vectors[INPUT] = np.hstack([inputs, around(inputs, coded)])
    vectors[BESIDE] = np.hstack([vectors["H-MGDM"], vectors[AROUND]])
    vectors[BESIDE_UNTRAINED] = np.hstack([vectors["H-MGDM, untrained"], vectors[AROUND]])
    tested = np.flatnonzero(np.isin(image, test) & (y >= 0))
    unit = np.searchsorted(test, image[tested])

    def note(share: str, name: str, predicted: np.ndarray) -> None:
        counts = confusion_by_unit(y[tested], predicted, unit, count, len(TYPES))
        scores.add(share, name, seed, counts, count)

    for share in options.shares:
        kind, part = SHARES[share]
        for draw in range(1 if part == 1 else options.draws):
            rows = labelled(y, image, train, kind, part, np.random.default_rng([seed, draw]))
            if len(np.unique(y[rows])) < 2:
                continue  # one image of one type: nothing to learn, for no method
            for name, z in vectors.items():
                scale, model = fitted(z[rows], y[rows], seed)
                note(share, name, model.predict(scale.transform(z[tested])))
            if draw == 0 and options.supervised_epochs:
                predicted = supervised(coded, y, image, rows, test, options.supervised_epochs, seed)
                kept = y[np.isin(image, test)] >= 0
                note(share, SUPERVISED, predicted[kept])


def supervised(
    graphs: Sequence[Data],
    y: np.ndarray,
    image: np.ndarray,
    rows: np.ndarray,
    test: np.ndarray,
    epochs: int,
    seed: int,
) -> np.ndarray:
    """Train a graph network on the labelled cells alone; classes of all cells of the test images."""
    marked = np.full(len(y), -1)
    marked[rows] = y[rows]
    some = np.unique(image[rows])
    targets = [marked[image == i] for i in some]
    chance = fit_predict(
        [graphs[i] for i in some], targets, [graphs[i] for i in test], level="node", epochs=epochs, seed=seed
    )
    return chance.argmax(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = options_of(__doc__, epochs=12, read_time=500)
    parser.add_argument(
        "--shares", nargs="+", choices=SHARES, default=list(SHARES), help="which labels are given"
    )
    parser.add_argument("--limit", type=int, help="use the first images only")
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with images/, detections.csv and classified_nuclei.csv")
        return 0
    if not (options.data / "detections.csv").is_file():
        sys.exit(f"--data: {options.data} lacks detections.csv; --help says what is expected")
    graphs = read_graphs(options.data, options.limit)
    scores = Scores(weighted_f1)
    for seed in tqdm(range(options.seeds), desc="seeds"):
        one_seed(graphs, seed, options, scores)
        last = seed == options.seeds - 1
        shares = [share for share in SHARES if (share, HAND) in scores.entries]
        rows = [name for name in METHODS if any((share, name) in scores.entries for share in shares)]
        print(f"\nSeeds so far: {seed + 1}\n")  # a long run that is stopped has not been for nothing
        print_table(scores, shares, rows, "weighted F1", COMPARED if last else ())
    return 0


if __name__ == "__main__":
    sys.exit(main())
