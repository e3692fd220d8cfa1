"""Hidden patches of unseen slides restored by PAMA, beside simple predictors and its ablations.

    python benchmarks/pama/reconstruction.py --data FOLDER [FOLDER ...] [--seeds 5] [--epochs 80] [--hidden-share 0.75]

A FOLDER holds one of: slides (*.svs, *.ndpi, *.mrxs); CRCHistoPhenotypes (Sirinukunwattana et al., IEEE TMI 2016) as
`images/*.png` of 500 x 500 pixels; `lung_df_small.csv.gz` (https://github.com/julia-wrobel/mxfda, folder data-raw).

Slides are cut into windows of 20 x 20 patches over the tissue, at each of --patch-um; whole slides are held out, in
turn where there are three or fewer, or with `--hold-out windows` a quarter of the windows, of slides that others are
trained on. Each picture is a slide of patches of 32 pixels, a quarter of them held out. Each field of lung cells is a
slide of patches of 50 um, with counts of phenotypes, and a quarter of the patients is held out. Features are
standardised by the training patches and cut at 4 standard deviations.

All rows answer for the same hidden patches of the held-out slides; features of hidden patches are blanked before PAMA
reads a slide. The score is the mean squared error over features in training variances: 0 is perfect, and guessing the
training mean gives about 1. Means ± standard deviation over seeds of weights, masks, order and split; differences are
paired, with percentiles of a bootstrap of seeds and, within each, of held-out patients, pictures or windows.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from hmgdm import vectra_lung
from hmgdm.common import refuse
from hmgdm.few_labels import Scores, print_table
from pama.guesses import AROUND, GUESSES, MEAN, NEAREST, RIDGE, WEIGHTED, fit_ridge, guess, hide
from pama.networks import names, network, options_of, train
from pama.sources import SLIDES, lung, pictures, scaled, slide_windows, split
from pama.tcga import UNTRAINED
from torch import Tensor
from torch_geometric.data import Data
from tqdm.auto import tqdm

from histograph.methods import PAMA

Matrix = np.ndarray
EXPECTED = (
    f"slides ({', '.join(SLIDES)}), CRCHistoPhenotypes (images/*.png) or lung cells ({vectra_lung.FILE})"
)


def error(entry: tuple[Matrix, Matrix], weights: Matrix) -> Matrix:
    """Mean squared error from sums and counts of units, for (B, units) weights: (B,)."""
    total, count = entry
    return (weights @ total) / (weights @ count)


def read(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[Data]]]:
    """Yield the slides of a folder, once for each size of patches."""
    if (folder / vectra_lung.FILE).is_file():
        yield f"lung cells, patches of {options.cell_patch_um:g} um", lung(folder, options.cell_patch_um)
    elif any((folder / "images").glob("*.png")):
        yield (
            f"pictures, patches of {options.patch_px} pixels",
            pictures(folder, options.patch_px, options.picture_mpp),
        )
    elif any(any(folder.glob(f"*{suffix}")) for suffix in SLIDES):
        for size in options.patch_um:
            windows = slide_windows(folder, size, options.window, options.mpp)
            if options.hold_out == "windows":
                for number, window in enumerate(windows):
                    window.group = number
            yield f"slides, patches of {size:g} um, {options.hold_out} held out", windows
    else:
        refuse(folder, EXPECTED)


def restored(method: PAMA, slide: Data, visible: Tensor) -> Tensor:
    """Restore hidden patches whose features are blanked first, so that nothing can be read from them."""
    blank = torch.where(visible[:, None], slide.x, torch.zeros_like(slide.x))
    with torch.inference_mode():
        return method.restore(Data(x=blank, pos=slide.pos), visible)


def one_seed(slides: Sequence[Data], seed: int, options: argparse.Namespace, scores: Scores) -> None:
    """Train everything for one split and note the errors on the slides that were held out."""
    known, asked = split([slide.group for slide in slides], seed)
    ready = scaled(slides, known)
    shown = [ready[i] for i in known]
    methods = {UNTRAINED: network(shown[0].x.shape[1], "PAMA", seed, options)}
    for name in tqdm(names(options), desc="methods", leave=False, disable=None):
        methods[name] = network(shown[0].x.shape[1], name, seed, options)
        train(methods[name], name, shown, seed, options)
    # a held-out slide is cut into windows, and there are few: the windows are drawn again
    groups = [slides[i].group for i in asked]
    few = len(set(groups)) < 5
    unit = np.arange(len(asked)) if few else np.unique(groups, return_inverse=True)[1]
    for share in options.hidden_share:
        ridge = fit_ridge(shown, share, seed=1000 + seed)
        sums: dict[str, Matrix] = {}
        for row, (i, visible) in enumerate(
            zip(asked, hide([ready[i] for i in asked], share, seed), strict=True)
        ):
            found = guess(ready[i], visible, ridge)
            found |= {name: restored(method, ready[i], visible) for name, method in methods.items()}
            truth = ready[i].x[~visible]
            for name, values in found.items():
                table = sums.setdefault(name, np.zeros((unit.max() + 1, 2)))
                table[unit[row]] += float((values - truth).square().sum()), truth.numel()
        for name, table in sums.items():
            scores.add(f"{100 * share:g} % hidden", name, seed, tuple(table.T), len(table))


def print_scores(scores: Scores, options: argparse.Namespace, last: bool) -> None:
    """Print what there is; the differences at the end."""
    trained = names(options)
    compared = [f"PAMA - {name}" for name in (MEAN, NEAREST, AROUND, WEIGHTED, RIDGE, UNTRAINED)]
    compared += [f"{name} - PAMA" for name in trained if name != "PAMA"]
    shares = [f"{100 * share:g} % hidden" for share in options.hidden_share]
    rows = [*GUESSES, UNTRAINED, *trained]
    print_table(scores, shares, rows, "error", compared if last else ())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = options_of(__doc__, 80, EXPECTED)
    parser.add_argument("--hidden-share", type=float, nargs="+", default=[0.75, 0.5], help="when asked")
    parser.add_argument("--patch-um", type=float, nargs="+", default=[16.0, 32.0], help="of slides")
    parser.add_argument(
        "--window", type=int, default=20, help="patches across a window of a slide, and down it"
    )
    parser.add_argument(
        "--hold-out", choices=("slides", "windows"), default="slides", help="what of slides is asked about"
    )
    parser.add_argument("--mpp", type=float, default=0.5, help="um per pixel of slides that do not say")
    parser.add_argument("--patch-px", type=int, default=32, help="of pictures")
    parser.add_argument("--picture-mpp", type=float, default=0.55, help="um per pixel of pictures")
    parser.add_argument("--cell-patch-um", type=float, default=50.0, help="of fields of cells")
    options = parser.parse_args(argv)
    if options.data is None:
        print(f"skipped: give --data FOLDER [FOLDER ...] with {EXPECTED}")
        return 0
    for folder in options.data:
        for title, slides in read(folder, options):
            if len({slide.group for slide in slides}) < 2:
                sys.exit(
                    f"--data: {folder} gives {len(slides)} slides of one group, two are needed to hold one out"
                )
            scores = Scores(error)
            for seed in tqdm(range(options.seeds), desc=title, disable=None):
                one_seed(slides, seed, options, scores)
                # a long run that is stopped has not been for nothing
                size = np.mean([slide.num_nodes for slide in slides])
                print(f"\n{title}: {len(slides)} of {size:.0f} patches. Seeds so far: {seed + 1}\n")
                print_scores(scores, options, seed == options.seeds - 1)
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
