"""Train the StarDist network of the package on images that may be passed on, and write it as the default weights.

    python benchmarks/weights/train_nuclei.py --data dsb2018_he [--epochs 100] [--out runs/nuclei] [--start MODEL]
    python benchmarks/weights/train_nuclei.py --data dsb2018_he --more FOLDER --held-out WORD ... (not to be passed on)

`--data` is a folder with `images/` and, of the same names, `labels/` (16-bit PNG, 0 for background), of stained tissue
at any magnification: the 81 images of the Data Science Bowl 2018 (CC0) were taken. They are hardly H&E: most are
purple on purple. So most crops are painted in random stains with the texture of real eosin over them, and a share of
the crops is of real H&E, the slide that comes with the package (CC0), with what the classical method finds there or,
with `--start` and `--relabel`, what the model before this one finds.

`--more` adds a folder of the same form with images at 40x (0.25 µm a pixel), such as the training part of MoNuSeg (CC
BY-NC-SA: weights that saw it may not ship with the package); images whose names hold one of `--held-out` are left out.
`benchmarks/nuclei.py` tells how good a model is. A run that was interrupted goes on; one that is finished is only read,
so that the same command with `--write FILE --judged TABLE` writes its weights, in half precision, with a model card.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import histograph as hg
from histograph.entities.stain import MACENKO_REFERENCE, unmixing
from histograph.entities.stardist_files import StarDistModel, load_stardist, save_stardist
from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_wider import widened
from histograph.training.nuclei import train_nuclei
from histograph.training.nucleus_crops import NucleusCrops
from histograph.training.nucleus_looks import Looks

MPP = 0.25
#: Half the usual filters in the first runs: the images are few, and the network is to run on laptops.
NETWORK = StarDistConfig(n_channel_in=3, grid=(2, 2), n_rays=32, n_filter_base=16, features=64)
#: How much larger or smaller, and longer, nuclei are made than in the images.
SCALE, STRETCH = (0.6, 1.8), 1.4
WINDOW = 600  # pixels of `MPP`, of the slide's windows
#: How often a crop is of the slide, or of the images of `--more`.
SLIDE_SHARE, MORE_SHARE = 0.35, 0.5

CARD = {
    "what": "StarDist network for nuclei in H&E at 0.25 um a pixel (40x), trained by histograph",
    "data": "81 images of stained tissue of the Data Science Bowl 2018 (CC0), restained; the slide CMU-1-Small-Region "
    "(CC0) with nuclei found by histograph itself",
    "licence": "CC0-1.0",
    "use": "research, not diagnosis; outlines of overlapping, very pale or blurred nuclei are not to be trusted",
}

Labelled = list[tuple[NDArray, NDArray]]


def read_folder(folder: Path, but: Sequence[str] = ()) -> Labelled:
    """Read images and labels, but those whose names hold one of some words."""
    paths = [
        path for path in sorted((folder / "images").iterdir()) if not any(word in path.stem for word in but)
    ]
    return [
        (
            np.asarray(Image.open(path).convert("RGB")),
            np.asarray(Image.open(folder / "labels" / f"{path.stem}.png")).astype(np.int32),
        )
        for path in paths
    ]


def slide_windows(by: StarDistModel | None) -> Labelled:
    """Cut the bundled slide into windows with tissue, with the nuclei that a model or the classical method finds."""
    slide = hg.open_slide(hg.bundled.slide_path())
    image = slide.read_region(0, 0, *slide.size_um, MPP)
    extent = (0.0, 0.0, image.shape[1] * MPP, image.shape[0] * MPP)
    how = {} if by is None else {"segment": "stardist-torch", "model": by}
    label = hg.entities.nuclei(slide, mpp=MPP, **how).instance_map(extent).astype(np.int32)
    density = -np.log(np.maximum(image, 1) / 255)
    windows = []
    for row in range(0, image.shape[0] - WINDOW + 1, WINDOW):
        for col in range(0, image.shape[1] - WINDOW + 1, WINDOW):
            place = (slice(row, row + WINDOW), slice(col, col + WINDOW))
            part = density[place]
            tissue = (part.sum(-1) > 0.3).mean()
            # the green dye on the slide is no stain: it absorbs red more than green
            dye = ((part[..., 0] - part[..., 1]) > 0.3).mean()
            if tissue > 0.5 and dye < 0.01:
                windows.append((image[place], label[place]))
    return windows


def eosin_texture() -> NDArray:
    """Measure the eosin of the bundled slide; 1 is a strong stain, and nuclei are filled with what is around them."""
    from scipy.ndimage import gaussian_filter

    slide = hg.open_slide(hg.bundled.slide_path())
    image = slide.read_region(0, 0, *slide.size_um, 2 * MPP)
    amounts = -np.log(np.maximum(image, 1) / 255) @ unmixing(MACENKO_REFERENCE)
    eosin, outside = np.maximum(amounts[..., 1], 0), (amounts[..., 0] < 0.5).astype(float)
    around = gaussian_filter(eosin * outside, 4) / np.maximum(gaussian_filter(outside, 4), 1e-2)
    eosin = np.where(outside > 0, eosin, around)
    return (eosin / np.percentile(eosin, 90)).astype(np.float32)


def crops_of(data: Labelled, slide: Labelled, more: Labelled, crop_px: int, length: int) -> NucleusCrops:
    """Put the sources together, each drawn as often as wanted."""
    shares = [1.0, SLIDE_SHARE if slide else 0.0, MORE_SHARE if more else 0.0]
    shares[0] -= sum(shares[1:])
    parts, texture = [data, slide, more], eosin_texture()
    both = [pair for part in parts for pair in part]
    return NucleusCrops(
        [image for image, _ in both],
        [label for _, label in both],
        [None] * len(data) + [MPP] * (len(slide) + len(more)),
        crop_px,
        MPP,
        NETWORK.grid,
        NETWORK.n_rays,
        length,
        [share / len(part) for part, share in zip(parts, shares, strict=True) for _ in part],
        scale=SCALE,
        looks=[Looks(texture=texture)] * len(data)
        + [Looks(restain=0.15, texture=texture)] * (len(slide) + len(more)),
        stretch=STRETCH,
    )


def write(model: StarDistModel, path: Path, prob_thresh: float, views: int, judged: Path | None) -> None:
    """Write a model in half precision, with what is to be known of it."""
    card = CARD | {"scores": "not measured" if judged is None else judged.read_text()}
    network = model.network.half()
    save_stardist(replace(model, network=network, prob_thresh=prob_thresh, views=views, card=card), path)
    print(f"{path}: {path.stat().st_size:,} bytes")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write the weights if wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--more", type=Path, help="another, of images at 40x")
    parser.add_argument(
        "--held-out", nargs="+", default=[], help="words in the names of images of --more to leave out"
    )
    parser.add_argument("--no-slide", action="store_true", help="without crops of the bundled slide")
    parser.add_argument("--epochs", type=int, default=100, help="of 400 crops")
    parser.add_argument("--crop", type=int, default=192, help="side of a crop in pixels")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--start", help="a model that is trained further")
    parser.add_argument(
        "--relabel", action="store_true", help="take its nuclei for those of the bundled slide"
    )
    parser.add_argument("--filters", type=int, help="give the model to start with so many at its first level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs") / "nuclei")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu or auto")
    parser.add_argument("--precision", default="bf16-mixed", help="32-true or bf16-mixed")
    parser.add_argument("--prob-thresh", type=float, default=0.45, help="of the model that is written")
    parser.add_argument("--views", type=int, default=2, help="and over how many mirror images it averages")
    parser.add_argument("--write", type=Path, help="file of the default weights")
    parser.add_argument(
        "--judged", type=Path, help="what benchmarks/nuclei.py --markdown wrote, for the model card"
    )
    options = parser.parse_args(argv)
    if options.data is None:
        print(
            "skipped: give --data FOLDER with images/ and labels/, such as stage1_train of the Data Science Bowl 2018"
        )
        return 0
    data = read_folder(options.data)
    start = None if options.start is None else load_stardist(options.start)
    if options.relabel and start is None:
        parser.error("--relabel: give the model with --start")
    if options.filters is not None and start is None:
        parser.error("--filters: give the model with --start")
    slide = [] if options.no_slide else slide_windows(start if options.relabel else None)
    more = read_folder(options.more, options.held_out) if options.more else []
    print(f"{len(data)} images, {len(slide)} windows of the slide, {len(more)} more images", flush=True)
    first = NETWORK if start is None else start
    if start is not None and options.filters is not None:
        first = replace(start, network=widened(start.network, options.filters, seed=options.seed))
    model, log = train_nuclei(
        crops_of(data, slide, more, options.crop, length=400),
        first,
        epochs=options.epochs,
        out=options.out,
        lr=options.lr,
        seed=options.seed,
        name="histograph-nuclei",
        accelerator=options.accelerator,
        precision=options.precision,
    )
    print(f"last: {log.iloc[-1].to_dict()}; {options.out / 'stardist.safetensors'}")
    if options.write is not None:
        write(model, options.write, options.prob_thresh, options.views, options.judged)
    return 0


if __name__ == "__main__":
    sys.exit(main())
