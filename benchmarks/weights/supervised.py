"""What the labels themselves give: the network of the default weights, trained with all labels of the training patches.

    python benchmarks/weights/supervised.py --data FOLDER [--epochs 12] [--start histograph-vit] [--mixed]

FOLDER holds PatchCamelyon as for `train.py`. A linear layer on the class token and the mean of the others, and the
whole network, are trained to tell tumour; patches are turned, mirrored and restained, and not cropped, since the label
is that of their middle. It says how far vectors without labels can be expected to come with these patches: `judge.py`
reads frozen ones of the same kept-back patches. `--start` begins with the weights of an encoder; without it with random
ones. The last pass is scored; nothing is chosen on the kept-back patches.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from tqdm.auto import tqdm
from weights.judge import embedded
from weights.patches import MPP, read_split
from weights.train import NETWORK

import histograph as hg
from histograph.features import PatchEncoder, load_encoder
from histograph.nn import View, VisionTransformer


def encoder_of(start: str | None, images: np.ndarray, seed: int) -> PatchEncoder:
    """Take the encoder to start with, or make one with the weights of a seed."""
    if start is not None:
        return load_encoder(start, mpp=MPP)
    mean, std = ((part((0, 1, 2)) / 255).tolist() for part in (images.mean, images.std))
    torch.manual_seed(seed)
    return load_encoder(
        VisionTransformer(**NETWORK), MPP, mean, std, NETWORK["image_size"], tokens="cls+mean"
    )


def trained(
    encoder: PatchEncoder, images: np.ndarray, y: np.ndarray, options: argparse.Namespace
) -> torch.nn.Linear:
    """Train the network of an encoder in place with a linear layer, and give the layer."""
    torch.manual_seed(options.seed)
    view = View(images.shape[1], (1.0, 1.0), strength=0.2, blur=0.2)
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (encoder.mean, encoder.std))
    head = torch.nn.Linear(encoder.encode(images[:1]).shape[1], 2)
    module = encoder.module.requires_grad_(True).train()
    optimiser = torch.optim.AdamW([*module.parameters(), *head.parameters()], options.lr, weight_decay=0.05)
    steps = options.epochs * (len(images) // options.batch)
    course = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.lr, steps, pct_start=0.1)
    with tqdm(total=steps, desc="training with labels") as bar:
        for _ in range(options.epochs):
            order = torch.randperm(len(images))[: steps // options.epochs * options.batch]
            for rows in order.view(-1, options.batch).numpy():
                pixels = view(torch.from_numpy(images[rows]).float() / 255)
                with torch.autocast("cpu", torch.bfloat16, options.mixed):
                    score = head(module((pixels - mean) / std))
                loss = torch.nn.functional.cross_entropy(score.float(), torch.from_numpy(y[rows]))
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimiser.step()
                course.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    module.eval()
    return head


def main(argv: Sequence[str] | None = None) -> int:
    """Train with labels, and print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of PatchCamelyon")
    parser.add_argument("--start", help="encoder whose weights are trained further")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed", action="store_true", help="in bfloat16 where it does")
    options = parser.parse_args(argv)
    if options.data is None:
        print("skipped: give --data FOLDER with train.tar and valid.tar of PatchCamelyon")
        return 0
    (images, y), (asked, y_asked) = read_split(options.data, "train"), read_split(options.data, "valid")
    encoder = encoder_of(options.start, images, options.seed)
    head = trained(encoder, images, y, options)
    with torch.inference_mode():
        chance = head(torch.from_numpy(embedded(encoder, asked))).softmax(1).numpy()
    scores = hg.evaluation.score_classes(y_asked, chance, seed=options.seed).metrics
    print("| trained with all labels, from | passes | accuracy | AUC |\n|---|---|---|---|")
    cells = (
        f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in (scores["accuracy"], scores["auc"])
    )
    print(f"| {options.start or 'random weights'} | {options.epochs} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
