"""How good nuclei are: found ones against drawn ones, for each back end, with intervals over images.

    python benchmarks/nuclei.py --data FOLDER [--mpp 0.25] [--backends classical stardist-torch[:MODEL] ...]
                                [--working-mpp 0.5] [--limit 20] [--csv FILE] [--markdown FILE]

FOLDER holds `images/` (PNG, TIFF or JPEG, H&E) and `labels/` (16-bit PNG, a number for each nucleus, 0 for background),
one of the same name for each image. Such are to be had from MoNuSeg (https://monuseg.grand-challenge.org), the Data
Science Bowl 2018 (BBBC038) and others; what a network was trained on must not be among them. `--mpp` is the pixel size
of the images in µm, 0.25 at 40x; scores are taken on their pixels, whatever the pixel size a back end works at.

Back ends: `classical`, `stardist-torch`, `stardist-openvino` and `stardist` (with TensorFlow), the last three with a
model after a colon if it is not the one that comes with the package. One that cannot run here is left out and the
reason said. The last row is a recipe of fifteen lines of scikit-image, as many write it: colour deconvolution, Otsu's
threshold, distance to the edge, watershed. Seconds are those of finding, a megapixel of the images, after one run on a
corner of the first; the interval is that over images too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from histograph.entities import nuclei
from histograph.evaluation import bootstrap_interval, segmentation_scores, segmentation_table
from histograph.slides import open_slide

STARDIST = {"stardist-torch": "torch", "stardist-openvino": "openvino", "stardist": "keras"}
DEFAULT = ("classical", "stardist-torch", "stardist")
RECIPE = "recipe (scikit-image)"
COLUMNS = {
    **{f"f1@{t:g}": f"F1@{t:g}" for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
    "aji": "AJI",
    "pq": "PQ",
    "dice": "Dice",
    "count_error": "count error",
    "abs_count_error": "its size",
}
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

# An RGB image -> Entities, or an instance map on the image's pixels.
Finder = Callable[[NDArray[np.uint8]], Any]


class Pair(NamedTuple):
    """An image and its drawn nuclei."""

    image: Path
    label: Path

    def read(self, mpp: float) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return the RGB image and the labels, both of one shape."""
        with open_slide(self.image, mpp=mpp) as slide:
            image = slide.read_region(0, 0, *slide.size_um)
        try:
            with Image.open(self.label) as file:
                label = np.asarray(file)
        except OSError as error:
            raise SystemExit(f"{self.label}: cannot be read ({error}); copy it again") from error
        if label.ndim != 2 or label.dtype.kind not in "iu":
            raise SystemExit(
                f"{self.label}: must have one channel of whole numbers; found shape {label.shape} of {label.dtype}"
            )
        if label.shape != image.shape[:2]:
            raise SystemExit(
                f"{self.label}: must be as large as its image, {image.shape[1]} x {image.shape[0]} px; found "
                f"{label.shape[1]} x {label.shape[0]}"
            )
        return image, label


def pairs(folder: Path) -> list[Pair]:
    """Return the images of a folder with their labels; say what is missing."""
    for name in ("images", "labels"):
        if not (folder / name).is_dir():
            raise SystemExit(f"--data: must be a folder with images/ and labels/; found no {folder / name}")
    images = sorted(path for path in (folder / "images").iterdir() if _is_picture(path))
    if not images:
        raise SystemExit(f"--data: found no PNG, TIFF or JPEG in {folder / 'images'}")
    labels = {path.stem: path for path in (folder / "labels").iterdir() if path.suffix.lower() == ".png"}
    found = [Pair(path, labels.get(path.stem, folder / "labels" / f"{path.stem}.png")) for path in images]
    if missing := [pair.label.name for pair in found if not pair.label.is_file()]:
        raise SystemExit(
            f"--data: {folder / 'labels'} lacks {', '.join(missing[:5])}"
            + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        )
    if len({pair.image.stem for pair in found}) < len(found):
        raise SystemExit(f"--data: some images in {folder / 'images'} have one name and differ in the suffix")
    return found


def _is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name; those that begin with a dot are of the system."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def recipe(image: NDArray[np.uint8], mpp: float) -> NDArray[np.int32]:
    """Find nuclei as many do, with lengths in µm so that it fits any magnification."""
    from scipy import ndimage
    from skimage.color import rgb2hed
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    stain = gaussian(rgb2hed(image)[..., 0], 0.4 / mpp)
    inside = ndimage.binary_fill_holes(stain > threshold_otsu(stain))
    part, _ = ndimage.label(inside)
    inside &= np.bincount(part.ravel())[part] * mpp**2 >= 10
    depth = gaussian(ndimage.distance_transform_edt(inside), 0.4 / mpp)
    peaks = peak_local_max(depth, min_distance=max(1, round(2.5 / mpp)), labels=inside.astype(int))
    marker = np.zeros(inside.shape, np.int32)
    marker[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, marker, mask=inside)


def finder(name: str, mpp: float, working_mpp: float | None) -> Finder:
    """Return what finds the nuclei; raises ImportError, FileNotFoundError or ValueError if it cannot run."""
    kind, _, model = name.partition(":")
    if name == RECIPE:
        return partial(recipe, mpp=mpp)
    if name == "classical":
        return lambda image: nuclei(open_slide(image, mpp=mpp), working_mpp, workers=1)
    if kind not in STARDIST:
        raise SystemExit(
            f"--backends: expected classical, {', '.join(STARDIST)}, the last with :MODEL; found {name!r}"
        )
    from histograph.entities.stardist import stardist_nuclei
    from histograph.entities.stardist_files import load_stardist

    loaded = load_stardist(model or None)
    options: dict[str, Any] = {"model": loaded, "backend": STARDIST[kind], "workers": 1}
    return lambda image: stardist_nuclei(open_slide(image, mpp=mpp), working_mpp, **options)


def usable(names: Sequence[str], image: NDArray[np.uint8], options: Any) -> Iterator[tuple[str, Finder]]:
    """Yield the back ends that can run here, warmed up, and say why others cannot."""
    for name in names:
        try:
            find = finder(name, options.mpp, options.working_mpp)
            find(np.ascontiguousarray(image[:256, :256]))
        except (ImportError, FileNotFoundError, ValueError) as error:
            print(f"{name}: left out, {error}")
            continue
        yield name, find


def scored(name: str, find: Finder, data: Sequence[Pair], mpp: float) -> pd.DataFrame:
    """Return a row of scores for each image, and `scores` themselves."""
    rows = []
    for pair in data:
        image, label = pair.read(mpp)
        start = time.perf_counter()
        found = find(image)
        seconds = time.perf_counter() - start
        on_image = isinstance(found, np.ndarray)
        scores = segmentation_scores(label, found, mpp=None if on_image else mpp)
        megapixels = label.size / 1e6
        rows.append(
            {
                "backend": name,
                "image": pair.image.name,
                **scores.row(),
                "s_per_megapixel": seconds / megapixels,
                "scores": scores,
            }
        )
    return pd.DataFrame(rows)


def table(results: Sequence[pd.DataFrame]) -> str:
    """Return the means over images with their intervals, as Markdown."""
    lines = [
        "| back end | images | " + " | ".join(COLUMNS.values()) + " | s / megapixel |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for rows in results:
        means = segmentation_table(list(rows["scores"]))
        seconds = pd.Series(bootstrap_interval(np.mean, rows["s_per_megapixel"]), ["mean", "low", "high"])
        cells = [_cell(means.loc[name], "+.2f" if name == "count_error" else ".3f") for name in COLUMNS]
        name = rows["backend"].iloc[0]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join([*cells, _cell(seconds, ".3f")]) + " |")
    return "\n".join(lines)


def _cell(row: pd.Series, form: str) -> str:
    return f"{row['mean']:{form}} ({row['low']:{form}} to {row['high']:{form}})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Score all back ends and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--mpp", type=float, default=0.25, help="pixel size of the images in µm")
    parser.add_argument("--backends", nargs="+", help=f"default: {' '.join(DEFAULT)}, as far as they can run")
    parser.add_argument(
        "--working-mpp", type=float, help="pixel size at which nuclei are sought; not the recipe's"
    )
    parser.add_argument("--limit", type=int, help="only the first images, by name")
    parser.add_argument("--csv", type=Path, help="write a row for each image and back end")
    parser.add_argument("--markdown", type=Path, help="write the table")
    options = parser.parse_args(arguments)
    if options.data is None:
        print("skipped: give --data FOLDER with images/ and labels/, see --help")
        return 0
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: expected at least 1, found {options.limit}")
    for name in ("mpp", "working_mpp"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{name.replace('_', '-')}: expected a positive number of µm, found {value}")
    for name in ("csv", "markdown"):
        if (path := getattr(options, name)) is not None and not path.parent.is_dir():
            parser.error(f"--{name}: there is no folder {path.parent}")
    data = pairs(options.data)[: options.limit]
    for pair in data[1:]:
        pair.read(options.mpp)  # so that the last one is not found broken after an hour
    first, _ = data[0].read(options.mpp)
    names = [*(options.backends or DEFAULT), RECIPE]
    results = [scored(name, find, data, options.mpp) for name, find in usable(names, first, options)]
    text = table(results)
    print(
        f"Means over {len(data)} images of {options.mpp:g} µm a pixel, with 95 % intervals over images.\n\n{text}"
    )
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    if options.csv:
        pd.concat(results).drop(columns="scores").to_csv(options.csv, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
