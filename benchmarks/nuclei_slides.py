"""Nuclei of whole slides: is the memory bounded by the tile, and what does a mm² cost, up to a million nuclei.

    python benchmarks/nuclei_slides.py [--areas 1 4 16] [--million] [--data FOLDER] [--segment stardist-torch]

The slides are mosaics that show the same real images again and again, without ever holding the canvas, with a coarse
level as slides have. Without --data the image is the bundled slide; a folder may hold images of any sizes. Each row of
the table is a process of its own. "before" is its memory when the tissue mask is there and nuclei are not yet sought,
"peak" the highest while they are, "result" what the nuclei take; what is left after subtracting both from the peak is
the work on tiles, which must not grow with the area. The mask's own peak stands beside. Linux only: the peak is reset
between the two.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import histograph
from histograph.entities import Entities, nuclei
from histograph.slides import Slide, open_slide

BUNDLED = Path(histograph.__file__).parent / "bundled" / "CMU-1-Small-Region.svs"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
COARSE = 16
BASE_MM2 = 6.0  # area of "1"
MILLION = 1_000_000


class Mosaic:
    """A reader that shows images again and again.

    Parameters
    ----------
    images : list of ndarray, (h, w, 3) uint8
        The images; where one is smaller than the largest, white is shown.
    columns, rows : int
        How many stand side by side and below each other.
    """

    def __init__(self, images: list[np.ndarray], columns: int, rows: int) -> None:
        sides = (max(image.shape[axis] for image in images) for axis in (0, 1))
        height, width = (-(-side // COARSE) * COARSE for side in sides)
        fine = [_on_white(image, height, width) for image in images]
        shape = (height // COARSE, COARSE, width // COARSE, COARSE, 3)
        coarse = [np.rint(image.reshape(shape).mean(axis=(1, 3))).astype(np.uint8) for image in fine]
        self.mpp, self.properties = None, {"histograph.reader": "mosaic"}
        self._levels, self._columns = [fine, coarse], columns
        self.level_dimensions = [
            (columns * level[0].shape[1], rows * level[0].shape[0]) for level in self._levels
        ]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level."""
        images = self._levels[level]
        h, w = images[0].shape[:2]
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // h, (y + height - 1) // h + 1):
            for col in range(x // w, (x + width - 1) // w + 1):
                top, left = max(y, row * h), max(x, col * w)
                bottom, right = min(y + height, (row + 1) * h), min(x + width, (col + 1) * w)
                image = images[(row * self._columns + col) % len(images)]
                out[top - y : bottom - y, left - x : right - x] = image[
                    top - row * h : bottom - row * h, left - col * w : right - col * w
                ]
        return out

    def close(self) -> None:
        """Do nothing: there is no file."""


def _on_white(image: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.full((height, width, 3), 255, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def load(data: Path | None, mpp: float | None) -> tuple[list[np.ndarray], float]:
    """Read the images and their pixel size."""
    if data is None:
        with open_slide(BUNDLED) as slide:
            return [slide.read_region(0, 0, *slide.size_um)], float(np.mean(slide.mpp))
    folder = data / "images" if (data / "images").is_dir() else data
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg", ".tif")]
    if not paths:
        raise SystemExit(f"--data: no .png, .jpg or .tif in {folder}")
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths], mpp or 0.5


def mosaic(images: list[np.ndarray], mpp: float, area_mm2: float) -> Slide:
    """Return a slide of about some area, as square as the images allow."""
    width, height = Mosaic(images, 1, 1).level_dimensions[0]
    cells = max(1, math.ceil(area_mm2 / (width * height * mpp**2 * 1e-6) - 1e-9))
    columns = max(1, min(cells, round(math.sqrt(cells * height / width))))
    return Slide(Mosaic(images, columns, math.ceil(cells / columns)), (mpp, mpp), "mosaic")


def memory(field: str) -> float:
    """Return a field of the process's memory in MB: VmRSS is that of now, VmHWM the peak since the last reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def result_bytes(cells: Entities) -> int:
    """Return what the nuclei take."""
    arrays = [cells.label, cells.centroid, cells.bbox, cells.area, *cells.columns.values()]
    return sum(array.nbytes for array in arrays) + (0 if cells.masks is None else cells.masks.nbytes)


def step(options: argparse.Namespace, area_mm2: float) -> dict[str, Any]:
    """Find the nuclei of one mosaic in this process."""
    images, mpp = load(options.data, options.mpp)
    settings: dict[str, Any] = {"workers": options.workers, "tile_um": options.tile_um}
    if options.segment != "classical":
        settings |= {"segment": options.segment, "model": options.model, "mpp": options.model_mpp}
    warm = open_slide(images[0][:300, :300], mpp=mpp)
    nuclei(warm, **settings)  # compiles, and loads the network's libraries
    slide = mosaic(images, mpp, area_mm2)
    RESET.write_text("5")
    mask = slide.tissue_mask()
    mask.fraction(0, 0, 1, 1)  # makes its integral image, which belongs to the mask
    gc.collect()
    mask_peak = memory("VmHWM")
    RESET.write_text("5")
    before, wall, start = memory("VmRSS"), time.perf_counter(), time.process_time()
    cells = nuclei(slide, mask=mask, **settings)
    wall, seconds = time.perf_counter() - wall, time.process_time() - start
    width, height = slide.size_um
    tile = options.tile_um
    return {
        "area": width * height * 1e-6,
        "tiles": math.ceil(width / tile) * math.ceil(height / tile),
        "nuclei": len(cells),
        "result": result_bytes(cells) / 2**20,
        "mask peak": mask_peak,
        "before": before,
        "peak": memory("VmHWM"),
        "seconds": seconds,
        "wall": wall,
    }


def child(words: list[str], area_mm2: float) -> dict[str, Any]:
    """Run one step in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, *words, "--step", str(area_mm2)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    left = found["peak"] - found["before"] - found["result"]
    return (
        f"| {name} | {found['area']:.1f} | {found['tiles']:,} | {found['nuclei']:,} | {found['result']:.0f} | "
        f"{found['mask peak']:.0f} | {found['before']:.0f} → {found['peak']:.0f} | {left:.0f} | "
        f"{found['seconds'] / found['area']:.2f} | {found['wall'] / found['area']:.2f} |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of images, or with a folder images/")
    parser.add_argument("--mpp", type=float, help="µm per pixel of the images of --data; 0.5 by default")
    parser.add_argument("--areas", type=float, nargs="*", default=[1, 4, 16], help=f"in {BASE_MM2:g} mm²")
    parser.add_argument("--million", action="store_true", help="also as much as has a million nuclei")
    parser.add_argument("--segment", default="classical", help="classical, stardist or stardist-torch")
    parser.add_argument("--model", help="of StarDist; by default the weights that come with the package")
    parser.add_argument("--model-mpp", type=float, help="of StarDist, where its files do not say")
    parser.add_argument("--tile-um", type=float, default=1024.0, help="side of a tile")
    parser.add_argument("--workers", type=int, default=2, help="threads")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--step", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not RESET.exists():
        print("skipped: peaks of memory are told by Linux only")
        return 0
    if options.step is not None:
        print(json.dumps(step(options, options.step)))
        return 0
    source = "the bundled slide" if options.data is None else options.data.name
    lines = [
        f"Mosaic of {source}, segment {options.segment}, tiles of {options.tile_um:g} µm, {options.workers} threads.",
        "",
        "| area | mm² | tiles | nuclei | result, MB | mask's peak, MB | before → peak, MB | work on tiles, MB | "
        "processor s/mm² | s/mm² |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    density = 0.0
    for times in options.areas:
        found = child(sys.argv[1:], times * BASE_MM2)
        density = found["nuclei"] / found["area"]
        lines.append(line(f"{times:g}×", found))
        print(lines[-1], flush=True)
    if options.million:
        if not density:
            parser.error("--million: needs one of --areas, to know how many nuclei a mm² has")
        lines.append(line("a million", child(sys.argv[1:], 1.002 * MILLION / density)))
        print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
