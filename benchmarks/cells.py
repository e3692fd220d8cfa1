"""Which vectors of single nuclei tell their types: hand-made features, crops, or tokens under nuclei.

    python benchmarks/cells.py --data FOLDER [--encoder histograph-vit] [--cells 50] [--limit 40]

FOLDER holds CRCHistoPhenotypes (Sirinukunwattana et al., IEEE TMI 2016; University of Warwick, research only) as
`images/*.png` (500 x 500 pixels, 20x, 0.55 um) and `classified_nuclei.csv` (image, x, y, cell_type: epithelial,
fibroblast, inflammatory, others). The data have no outlines: a nucleus is the disc of `--radius` um around its centre,
for all rows but the crops.

A logistic regression reads frozen vectors; folds are of whole images, and its penalty is chosen within the training
images. Intervals are percentiles of a bootstrap of images; differences are paired. Time is that of the processor, all
threads together, reading included.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import histograph as hg
from histograph.entities import Entities
from histograph.entities.masks import Masks
from histograph.features import PatchEncoder, cell_tokens, embed_entities, entity_features, load_encoder

MPP = 0.55
METRICS = ("accuracy", "f1_weighted", "auc")
HAND, TOKENS, CONTEXT = "hand-made features of the disc", "tokens", "tokens and the window's"
NO_MARGIN, CROPS, SMALL = "tokens, no margin", "crops", "crops, half as wide"
BESIDE = "tokens beside hand-made"
Make = Callable[[hg.slides.Slide, Entities], np.ndarray]


def discs(centre_um: np.ndarray, radius_um: float) -> Entities:
    """Give a disc around each centre, taken to the nearest pixel; discs may overlap."""
    n, radius = len(centre_um), max(round(radius_um / MPP), 1)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    stencil = np.packbits(np.hypot(x, y) <= radius_um / MPP)
    corner = np.floor(centre_um[:, ::-1] / MPP).astype(np.int64) - radius
    boxes = np.hstack([corner, corner + 2 * radius + 1])
    masks = Masks(np.tile(stencil, n), np.arange(n + 1) * len(stencil), boxes)
    area = np.full(n, (np.hypot(x, y) <= radius_um / MPP).sum() * MPP**2)
    return Entities("cell", np.arange(1, n + 1), centre_um, boxes[:, [1, 0, 3, 2]] * MPP, area, MPP, masks)


def makers(encoder: PatchEncoder, workers: int) -> dict[str, Make]:
    """Give what makes each kind of vectors."""
    quiet = {"workers": workers, "progress": False}
    groups = ("color", "stain", "texture")
    found: dict[str, Make] = {
        HAND: lambda slide, cells: entity_features(slide, cells, groups=groups, workers=workers).values,
        TOKENS: lambda slide, cells: cell_tokens(slide, cells, encoder, **quiet).values,
        NO_MARGIN: lambda slide, cells: cell_tokens(slide, cells, encoder, margin=0, **quiet).values,
        CONTEXT: lambda slide, cells: cell_tokens(slide, cells, encoder, context=True, **quiet).values,
        CROPS: lambda slide, cells: embed_entities(slide, cells, encoder, **quiet).values,
    }
    if encoder.step_px is not None:  # one that reads images of other sizes
        side = max(encoder.size_px // 2 // encoder.step_px, 1) * encoder.step_px
        half = replace(encoder, size_px=side)
        found[SMALL] = lambda slide, cells: embed_entities(slide, cells, half, **quiet).values
    return found


def read_vectors(
    folder: Path, options: argparse.Namespace, encoder: PatchEncoder
) -> tuple[dict[str, np.ndarray], dict[str, float], np.ndarray, np.ndarray]:
    """Give vectors by name, processor time a nucleus in ms, types, and images."""
    typed = pd.read_csv(folder / "classified_nuclei.csv")
    names = sorted(typed.image.unique())[: options.limit]
    if len(names) < options.folds:
        sys.exit(f"--data: {folder / 'classified_nuclei.csv'} names {len(names)} images, fewer than folds")
    rng = np.random.default_rng(options.seed)
    todo = makers(encoder, options.workers)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in todo}
    seconds, kinds, images = dict.fromkeys(todo, 0.0), [], []
    for name in tqdm(names, desc="images"):
        rows = typed[typed.image == name]
        rows = rows.iloc[np.sort(rng.permutation(len(rows))[: options.cells])]
        cells = discs(rows[["x", "y"]].to_numpy() * MPP, options.radius)
        kinds.append(rows.cell_type.to_numpy())
        images.append(np.full(len(rows), name))
        with hg.open_slide(folder / "images" / f"{name}.png", mpp=MPP) as slide:
            for kind, make in todo.items():
                if name == names[0]:
                    make(slide, cells)  # what is compiled at the first call is not timed
                start = time.process_time()
                parts[kind].append(make(slide, cells))
                seconds[kind] += time.process_time() - start
    vectors = {kind: np.concatenate(part) for kind, part in parts.items()}
    y, image = np.concatenate(kinds), np.concatenate(images)
    return vectors, {kind: 1000 * spent / len(y) for kind, spent in seconds.items()}, y, image


def table(
    results: dict[str, hg.evaluation.ProbeResult], widths: dict[str, int], cost: dict[str, float]
) -> str:
    """Give scores with intervals, and differences to the hand-made features in weighted F1."""
    compared = hg.evaluation.compare_results(results, HAND)
    lines = [
        "| vectors of a nucleus | numbers | accuracy | weighted F1 | AUC | weighted F1 − hand-made | ms |"
    ]
    lines.append("|---" * 7 + "|")
    for name in results:
        rows = compared[compared.name == name].set_index("metric")
        cells = [f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in map(rows.loc.__getitem__, METRICS)]
        r = rows.loc["f1_weighted"]
        gap = (
            f"{r.difference:+.3f} [{r.difference_low:+.3f}, {r.difference_high:+.3f}]"
            if name != HAND
            else "–"
        )
        spent = f"{cost[name]:.1f}" if name in cost else "–"
        lines.append(f"| {name} | {widths[name]} | {' | '.join(cells)} | {gap} | {spent} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of CRCHistoPhenotypes, see above")
    parser.add_argument(
        "--encoder", default="histograph-vit", help="what histograph.features.load_encoder takes"
    )
    parser.add_argument("--mpp", type=float, help="um per pixel of the encoder, where it does not say")
    parser.add_argument("--radius", type=float, default=5.0, help="of a nucleus, in um")
    parser.add_argument("--cells", type=int, help="at most this many nuclei an image, drawn at random")
    parser.add_argument("--limit", type=int, help="use the first images only")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--penalties", type=float, nargs="+", default=[0.001, 0.01, 0.1], help="C, to choose from"
    )
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--device", help="where the encoder runs; the GPU by default, if there is one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with images/ and classified_nuclei.csv")
        return 0
    if not (options.data / "classified_nuclei.csv").is_file():
        sys.exit(f"--data: {options.data} lacks classified_nuclei.csv; --help says what is expected")
    encoder = load_encoder(options.encoder, mpp=options.mpp, device=options.device)
    vectors, cost, y, image = read_vectors(options.data, options, encoder)
    vectors[BESIDE] = np.hstack([vectors[TOKENS], vectors[HAND]])
    shown = {"metrics": METRICS, "folds": options.folds, "seed": options.seed, "c_grid": options.penalties}
    results = {
        name: hg.evaluation.linear_probe(z, y, groups=image, **shown)
        for name, z in tqdm(vectors.items(), desc="probes")
    }
    counts = ", ".join(f"{kind} {number}" for kind, number in zip(*np.unique(y, return_counts=True)))
    print(f"{len(y)} nuclei of {len(np.unique(image))} images ({counts}); encoder {options.encoder}\n")
    print(table(results, {name: z.shape[1] for name, z in vectors.items()}, cost))
    return 0


if __name__ == "__main__":
    sys.exit(main())
