"""What wrong edges of two published baselines cost: latent edges of Patch-GCN, spatial edges of WSI-HGNN.

    python benchmarks/latent_edges.py --data FOLDER [--seeds 3] [--epochs 12] [--slides 96] [--asked 120]

The released notebook of Patch-GCN looks for latent neighbours with coordinates in place of features; the released code
of WSI-HGNN looks for spatial neighbours among features (`peers/slide_edges.py` has both, right and as released, and
says what comes of it). Tables of either may have been made with these edges, so both are reproduced here: one network,
Patch-GCN's, is trained with each kind of edges, on the same slides, seeds and steps.

FOLDER holds `train.tar` and `valid.tar` of PatchCamelyon (https://github.com/basveeling/pcam), or folders of pictures
`train/0`, `train/1`, `valid/0`, `valid/1`. Slides are pieced together of its patches, and are no real slides: squares
of patches alike in colour, with a focus of 5 x 5 where four of five patches have tumour. Slides to learn from are of
training patches, slides that are asked about are of validation patches; slides of one side share patches. Questions:

tumour: has the slide such a focus, or one without tumour;
focus or scattered: are the patches with tumour together, or the same in random places;
in place or shuffled: is this the slide, or are all of its patches in random places.

The last two need places: without them the answer is a guess. Patches are read by `histograph-vit`, which was trained on
the training patches, without labels; or measured by hand with `--encoder hand-made`. Scores are means over seeds of
weights, order and training slides; intervals and differences are of a bootstrap of the slides that are asked about, the
same in all rows, and hold for these seeds and these validation patches.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from peers.patch_gcn import fit_predict
from peers.slide_edges import patch_gcn_edges, shared, union, wsi_hgnn_edges
from torch import Tensor
from torch_geometric.data import Data
from tqdm.auto import tqdm
from weights.patches import MPP, read_split

import histograph as hg

HAND = "hand-made"
TUMOUR, TOGETHER, ARRANGED = "tumour", "focus or scattered", "in place or shuffled"
QUESTIONS = (TUMOUR, TOGETHER, ARRANGED)
#: Patches along a side of a slide, of a square of patches alike in colour, and of a focus; share of tumour patches in a
#: focus; share of all patches, those most alike in colour, that a square is drawn from.
ACROSS, SQUARE, FOCUS, TUMOUR_SHARE, ALIKE = 12, 3, 5, 0.8, 0.06
#: The seed of the slides that are asked about, which is none of the others.
ASKED_SEED = 12345
METRICS = ("auc", "accuracy")

NONE, SPACE = "no edges", "spatial"
FEATURES = "latent; also WSI-HGNN's spatial as released"
LATENT_RELEASED = "latent as released"
BOTH, BOTH_RELEASED = "spatial + latent", "spatial + latent as released"
#: Right and as released.
PAIRS = {
    "Patch-GCN, latent alone": (FEATURES, LATENT_RELEASED),
    "Patch-GCN, spatial + latent": (BOTH, BOTH_RELEASED),
    "WSI-HGNN, spatial": (SPACE, FEATURES),
}
Matrix = np.ndarray


def edge_sets(slide: Data, k: int, seed: int) -> dict[str, Tensor]:
    """Make the edges of each row of the table; the name of a row says which these are."""
    spatial, latent = patch_gcn_edges(slide.pos, slide.x, k)
    _, released = patch_gcn_edges(slide.pos, slide.x, k, latent="as released", seed=seed)
    return {
        NONE: torch.empty((2, 0), dtype=torch.int64),
        SPACE: wsi_hgnn_edges(slide.pos, slide.x, k),
        FEATURES: wsi_hgnn_edges(slide.pos, slide.x, k, spatial="as released"),
        LATENT_RELEASED: released,
        BOTH: union(spatial, latent),
        BOTH_RELEASED: union(spatial, released),
    }


@dataclass
class Pool:
    """Patches that slides are pieced together of: their features, mean colours and labels."""

    x: Matrix
    color: Matrix
    y: Matrix

    @classmethod
    def read(cls, folder: Path, split: str, limit: int, encoder: str) -> "Pool":
        """Read at most `limit` patches of a split, drawn at random."""
        images, y = read_split(folder, split)
        rows = np.random.default_rng(0).permutation(len(y))[:limit]
        images, y = images[rows], y[rows]
        return cls(features_of(images, encoder, split), images.reshape(len(y), -1, 3).mean(1), y)

    def alike(self, kind: int, number: int, rng: np.random.Generator) -> Matrix:
        """Draw patches of a kind that are alike in colour: rows."""
        own = np.flatnonzero(self.y == kind)
        away = np.linalg.norm(self.color[own] - self.color[rng.choice(own)], axis=1)
        near = own[np.argsort(away)[: max(number, round(ALIKE * len(own)))]]
        return rng.choice(near, number, replace=len(near) < number)


def features_of(images: Matrix, encoder: str, split: str) -> Matrix:
    """Read patches by an encoder, or measure colour, stain and texture by hand: (n, F)."""
    parts = np.array_split(images, max(1, len(images) // 64))
    bar = tqdm(parts, desc=f"features of {split}", disable=None)
    if encoder != HAND:
        network = hg.features.load_encoder(encoder)
        return np.concatenate([network.encode(part).cpu().numpy() for part in bar])
    tables = []
    for part in bar:
        height, width = part.shape[1:3]
        label = np.arange(1, len(part) + 1).repeat(height * width).reshape(-1, width)
        sheet = part.reshape(-1, width, 3)
        tables.append(
            hg.features.region_features(label, sheet, MPP, ("color", "stain", "texture"), workers=1)
        )
    return np.nan_to_num(np.concatenate([table.values for table in tables]))  # no stain without a colour


def pools_of(options: argparse.Namespace) -> dict[str, Pool]:
    """Read both splits; measurements by hand are standardised by the training patches, for they have units."""
    pools = {
        split: Pool.read(options.data, split, options.patches, options.encoder)
        for split in ("train", "valid")
    }
    if options.encoder == HAND:
        mean, spread = pools["train"].x.mean(0), pools["train"].x.std(0) + 1e-6
        for pool in pools.values():
            pool.x = (pool.x - mean) / spread
    return pools


def pieced(pool: Pool, tumour: bool, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Piece a slide together: rows of its patches, and which of these have tumour, both (ACROSS, ACROSS)."""
    place = np.empty((ACROSS, ACROSS), dtype=int)
    for top, left in np.ndindex(ACROSS // SQUARE, ACROSS // SQUARE):
        square = pool.alike(0, SQUARE**2, rng).reshape(SQUARE, SQUARE)
        place[top * SQUARE : (top + 1) * SQUARE, left * SQUARE : (left + 1) * SQUARE] = square
    ill = round(TUMOUR_SHARE * FOCUS**2) if tumour else 0
    drawn = np.concatenate([pool.alike(0, FOCUS**2 - ill, rng), pool.alike(1, ill, rng)])
    top, left = rng.integers(ACROSS - FOCUS + 1, size=2)
    place[top : top + FOCUS, left : left + FOCUS] = rng.permutation(drawn).reshape(FOCUS, FOCUS)
    return place, pool.y[place] == 1


def scattered(place: Matrix, ill: Matrix, rng: np.random.Generator) -> Matrix:
    """Exchange the patches with tumour with as many in random places."""
    flat, from_ = place.ravel().copy(), np.flatnonzero(ill)
    to = rng.choice(place.size, len(from_), replace=False)
    for one, other in zip(from_, to, strict=True):
        flat[one], flat[other] = flat[other], flat[one]
    return flat.reshape(place.shape)


def slides_of(pool: Pool, question: str, count: int, seed: int) -> tuple[list[Data], Matrix]:
    """Make slides and their answers; the answer of every other one is yes."""
    rng = np.random.default_rng([seed, QUESTIONS.index(question)])
    row, column = np.divmod(np.arange(ACROSS**2), ACROSS)
    pos = torch.from_numpy(np.stack([column, row], 1) * 96).float()  # corners, in pixels of PatchCamelyon
    y, slides = np.arange(count) % 2, []
    for answer in y:
        place, ill = pieced(pool, question != TUMOUR or answer == 1, rng)
        if question == TOGETHER and not answer:
            place = scattered(place, ill, rng)
        if question == ARRANGED and not answer:
            place = rng.permutation(place.ravel()).reshape(place.shape)
        slides.append(Data(x=torch.from_numpy(pool.x[place.ravel()]).float(), pos=pos))
    return slides, y


def with_edges(slides: Sequence[Data], k: int) -> dict[str, list[Data]]:
    """Give each slide the edges of each row of the table."""
    found: dict[str, list[Data]] = {}
    for number, slide in enumerate(slides):
        for name, edges in edge_sets(slide, k, seed=number).items():
            found.setdefault(name, []).append(Data(x=slide.x, edge_index=edges))
    return found


def results_of(pools: dict[str, Pool], question: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and ask with each kind of edges and each seed: row of the table -> scores."""
    asked, y = slides_of(pools["valid"], question, options.asked, ASKED_SEED)
    test = with_edges(asked, options.k)
    said: dict[str, list[Matrix]] = {name: [] for name in test}
    for seed in tqdm(range(options.seeds), desc=question, disable=None):
        known, y_known = slides_of(pools["train"], question, options.slides, seed)
        for name, graphs in with_edges(known, options.k).items():
            said[name].append(
                fit_predict(
                    graphs,
                    y_known,
                    test[name],
                    hidden_dim=options.hidden,
                    epochs=options.epochs,
                    batch_size=options.batch_size,
                    lr=options.lr,
                    seed=seed,
                )
            )
    return {
        name: hg.evaluation.score_classes(
            np.tile(y, options.seeds),
            np.concatenate(parts),
            groups=np.tile(np.arange(len(y)), options.seeds),
            fold=np.repeat(np.arange(options.seeds), len(y)),
            metrics=METRICS,
        )
        for name, parts in said.items()
    }


def print_edges(slides: Sequence[Data], k: int) -> None:
    """Print how many edges the two variants share, and how many patches are anyone's neighbour."""
    sets = [edge_sets(slide, k, seed=number) for number, slide in enumerate(slides)]

    def mean(value: Callable[[dict[str, Tensor]], float]) -> float:
        return float(np.mean([value(edges) for edges in sets]))

    def reached(name: str) -> float:
        return mean(lambda edges: len(edges[name][1].unique()) / ACROSS**2)

    print(f"\nEdges of {len(slides)} slides of {ACROSS**2} patches with {slides[0].x.shape[1]} features\n")
    print(
        "| edges | a slide, right | released | right ones that released has | patches found, right | released |"
    )
    print("|---|---|---|---|---|---|")
    for pair, (right, released) in PAIRS.items():
        counts = [mean(lambda edges, name=name: edges[name].shape[1]) for name in (right, released)]
        same = mean(lambda edges, one=right, other=released: shared(edges[one], edges[other]))
        print(
            f"| {pair} | {counts[0]:.0f} | {counts[1]:.0f} | {same:.1%} | {reached(right):.0%} "
            f"| {reached(released):.0%} |"
        )


def print_scores(results: dict[str, dict[str, Any]]) -> None:
    """Print the scores of all rows."""
    columns = [f"{question}, {metric}" for question in results for metric in METRICS]
    print("\n| edges | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(results.values())):
        cells = [
            f"{rows[name].metrics[metric][0]:.3f} [{rows[name].metrics[metric][1]:.3f}, "
            f"{rows[name].metrics[metric][2]:.3f}]"
            for rows in results.values()
            for metric in METRICS
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_differences(results: dict[str, dict[str, Any]]) -> None:
    """Print right minus released; differences whose interval is clear of 0 are bold."""
    columns = [f"{question}, {metric}" for question in results for metric in METRICS]
    print("\n| right – released | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for pair, (right, released) in PAIRS.items():
        cells = []
        for rows in results.values():
            two = {released: rows[released], right: rows[right]}
            table = hg.evaluation.compare_results(two, released).set_index(["name", "metric"])
            for metric in METRICS:
                row = table.loc[(right, metric)]
                text = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
                clear = row.difference_low > 0 or row.difference_high < 0
                cells.append(f"**{text}**" if clear else text)
        print(f"| {pair} | " + " | ".join(cells) + " |")
    print("\nDifferences are paired, with 95 % intervals; those clear of 0 are bold.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of PatchCamelyon")
    parser.add_argument("--encoder", default="histograph-vit", help=f"of patches; or {HAND!r}")
    parser.add_argument("--patches", type=int, default=2000, help="of each split, at most")
    parser.add_argument("--slides", type=int, default=96, help="made-up slides to learn from")
    parser.add_argument("--asked", type=int, default=120, help="made-up slides that are asked about")
    parser.add_argument("--k", type=int, default=8, help="neighbours that a patch finds")
    parser.add_argument("--hidden", type=int, default=32, help="width of the network; 128 as published")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4, help="slides a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with train.tar and valid.tar of PatchCamelyon")
        return 0
    pools = pools_of(options)
    print_edges(slides_of(pools["valid"], ARRANGED, options.asked, ASKED_SEED)[0][1::2], options.k)
    results = {question: results_of(pools, question, options) for question in options.questions}
    print(
        f"\n{options.slides} made-up slides to learn from, {options.asked} others to be asked, {options.seeds} seeds"
    )
    print_scores(results)
    print_differences(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
