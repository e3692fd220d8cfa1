"""How good are patch encoders on PatchCamelyon patches that no training saw; and write the best as the default weights.

    python benchmarks/weights/judge.py --data FOLDER [ENCODER ...] [--untrained] [--write FILE]

FOLDER holds `train.tar` and `valid.tar` of PatchCamelyon (https://github.com/basveeling/pcam, CC0), or folders of
pictures `train/0`, `train/1`, `valid/0`, `valid/1`. An ENCODER is whatever `histograph.features.load_encoder` takes:
`histograph-vit`, which is the default, a `method.safetensors` of `train.py`, `hf:org/name` and so on.

A logistic regression, its penalty chosen within the training patches, and votes of the 20 nearest training patches
read frozen vectors of the patches that were kept back. Intervals are percentiles of a bootstrap of these; slides are
not named in the data, so they are too narrow where patches share slides. Hand-made features of whole patches (colour,
stain, texture) are in the same table. With `--write`, the best ENCODER by three folds *of the training patches*,
which must be a file of `train.py`, is written with a model card that holds the table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from dino.protocol import hand_made
from tqdm.auto import tqdm
from weights.patches import MPP, read_split
from weights.train import RECIPES, method_of

import histograph as hg
from histograph.features import load_encoder, save_encoder

HAND = "hand-made (colour, stain, texture)"
CARD = """\
Small Vision Transformer for H&E patches, pre-trained by histograph without labels ({name}).
Data: {count} training patches of PatchCamelyon (CC0), lymph nodes, {side} pixels at {mpp} um per pixel. Weights: CC0.
Meant for hand-sized experiments and as a default where no pathology foundation model is at hand; not for diagnosis.
On {asked} patches that were kept back (benchmarks/weights/judge.py):

{table}
"""


def embedded(encoder: hg.features.PatchEncoder, images: np.ndarray, batch: int = 128) -> np.ndarray:
    """Give the vectors of patches."""
    parts = np.array_split(images, max(1, len(images) // batch))
    return np.concatenate([encoder.encode(part).numpy() for part in tqdm(parts, desc=encoder.name)])


def judged(
    vectors: dict[str, tuple[np.ndarray, np.ndarray]], y: np.ndarray, y_asked: np.ndarray
) -> tuple[list[str], dict[str, float]]:
    """Give the rows of the table, and the accuracy within the training patches."""
    rows = [
        "| vectors | linear, accuracy | linear, AUC | 20 neighbours, accuracy | 20 neighbours, AUC |",
        "|---" * 5 + "|",
    ]
    inside = {}
    for name, (known, asked) in vectors.items():
        cells = []
        for probe in ("linear", "vote"):
            result = hg.evaluation.held_out_probe(known, y, asked, y_asked, probe=probe)
            for metric in ("accuracy", "auc"):
                value, low, high = result.metrics[metric]
                cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
        inside[name] = hg.evaluation.linear_probe(known, y, folds=3).metrics["accuracy"][0]
    return rows, inside


def write(path: Path, source: str, card: str) -> None:
    """Write the network of a trained method."""
    method = hg.methods.load_method(source)
    if isinstance(method, hg.methods.GCMAE):
        network, tokens = method.encoder(), "all" if method.pooling == "mean" else "cls"
    elif isinstance(method, hg.methods.DINO):
        network, tokens = method.teacher.backbone, "cls"
    else:
        sys.exit(f"--write: {source} holds {type(method).__name__}; only GCMAE and DINO are written")
    mean, std = method.mean.flatten().tolist(), method.std.flatten().tolist()
    save_encoder(path, network, mean, std, MPP, tokens, card=card)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the weights if wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", default=["histograph-vit"])
    parser.add_argument("--data", type=Path, help="folder of PatchCamelyon")
    parser.add_argument(
        "--untrained", action="store_true", help="also the networks of train.py before training"
    )
    parser.add_argument("--write", type=Path, help="file of the default weights")
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with train.tar and valid.tar of PatchCamelyon")
        return 0
    (images, y), (asked, y_asked) = read_split(options.data, "train"), read_split(options.data, "valid")
    measured = [
        np.stack([hand_made(image, MPP) for image in tqdm(part, desc=HAND)]) for part in (images, asked)
    ]
    vectors = {HAND: (measured[0], measured[1])}
    if options.untrained:
        for name in RECIPES:
            encoder = load_encoder(method_of(name, seed=0), mpp=MPP)
            vectors[f"{name}, untrained"] = embedded(encoder, images), embedded(encoder, asked)
    encoders = []
    for source in options.encoders:
        encoder = load_encoder(source, mpp=MPP)
        encoders.append(str(source))
        vectors[str(source)] = embedded(encoder, images), embedded(encoder, asked)
    rows, inside = judged(vectors, y, y_asked)
    print("\n".join(rows))
    if options.write is not None:
        best = max(encoders, key=lambda name: inside[name])
        card = CARD.format(
            name=best,
            count=len(images),
            side=images.shape[1],
            mpp=MPP,
            asked=len(asked),
            table="\n".join(rows),
        )
        write(options.write, best, card)
        print(
            f"{best} has the best accuracy in three folds of the training patches; written to {options.write}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
