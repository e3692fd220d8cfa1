"""Readers of the public data sets of labelled patches, in the layouts that they are published in.

Nothing is fetched: the scripts say where each data set is to be had. A reader gives `Picture`s; pixels are read later.
"""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from hmgdm.common import listed
from hmgdm.pictures import SUFFIXES
from PIL import Image

from histograph.evaluation import tcga_patient

CRC_FOLDERS = ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K")
PCAM_FILE = "camelyonpatch_level_2_split_{side}_{what}.h5"
BCSS_IMAGES = ("rgbs_colorNormalized", "rgbs", "images")
#: Codes of BCSS by the class that its authors merge them to; other codes are no class.
BCSS_CLASSES = {
    "tumour": (1, 19, 20),
    "stroma": (2,),
    "inflammatory": (3, 10, 11),
    "necrosis": (4,),
}
BCSS_PX = 224
BREAKHIS_NAME = re.compile(r"SOB_([BM])_([A-Z]+)[-_](\d+-[0-9A-Z]+)-(\d+)-(\d+)$")
MAGNIFICATIONS = (40, 100, 200, 400)


@dataclass(frozen=True)
class Picture:
    """One labelled patch.

    Parameters
    ----------
    name : str
        Unlike that of any other of the data set.
    source : Path
        The file that it is in.
    read : callable
        Gives its (H, W, 3) uint8 pixels.
    label : str
        Its class; empty where a value is asked for.
    patient : str
        Whose it is; empty where that is not known.
    test : bool
        Whether it is on the test side of the official split.
    value : float
        Measured value, where one is asked for.
    """

    name: str
    source: Path
    read: Callable[[], np.ndarray]
    label: str = ""
    patient: str = ""
    test: bool = False
    value: float = float("nan")


def read_file(path: Path) -> np.ndarray:
    """Read a picture file."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def found_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Give the files and folders below a folder, in order, without hidden ones and what a Mac adds to archives."""
    found = sorted(folder.rglob(pattern))
    return [path for path in found if not any(map(_hidden, path.relative_to(folder).parts))]


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def sampled(pictures: Sequence[Picture], limit: int | None, seed: int = 0) -> list[Picture]:
    """Keep at most `limit` pictures of each class and side, drawn at random, in their order."""
    if limit is None:
        return list(pictures)
    order = np.random.default_rng(seed).permutation(len(pictures))
    taken: Counter[tuple[str, bool]] = Counter()
    kept = []
    for row in order:
        key = pictures[row].label, pictures[row].test
        if taken[key] < limit:
            taken[key] += 1
            kept.append(row)
    return [pictures[row] for row in sorted(kept)]


def class_folders(folder: Path, test: bool, rename: Callable[[str], str] = str) -> list[Picture]:
    """Read a folder with a folder of pictures for each class, which may lie in subfolders of it."""
    if (folder / folder.name).is_dir():  # an archive unpacked into a folder of its own name
        folder = folder / folder.name
    found = []
    for path in found_in(folder):
        below = path.relative_to(folder)
        if path.suffix.lower() in SUFFIXES and len(below.parts) > 1:
            label = rename(below.parts[0])
            found.append(Picture(f"{folder.name}/{below}", path, partial(read_file, path), label, test=test))
    if not found:
        raise ValueError(f"{folder} holds no folders of pictures, found {listed(folder)}")
    return found


def crc(folder: Path, normalised: bool, merge_muscle: bool) -> list[Picture]:
    """Read NCT-CRC-HE-100K to train on, with normalised colours or as scanned, and CRC-VAL-HE-7K to test on.

    Parameters
    ----------
    folder : Path
        Holds the unpacked archives NCT-CRC-HE-100K (or NCT-CRC-HE-100K-NONORM) and CRC-VAL-HE-7K.
    normalised : bool
        Which of the two training sets.
    merge_muscle : bool
        Count muscle as stroma, which makes 8 classes of 9.
    """
    train = CRC_FOLDERS[0] + ("" if normalised else "-NONORM")
    missing = [name for name in (train, CRC_FOLDERS[1]) if not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks the folder {missing[0]}, found {listed(folder)}")

    def rename(label: str) -> str:
        return "STR" if merge_muscle and label.upper() == "MUS" else label.upper()

    return [
        *class_folders(folder / train, False, rename),
        *class_folders(folder / CRC_FOLDERS[1], True, rename),
    ]


def bcss(folder: Path) -> list[Picture]:
    """Cut the annotated regions of BCSS into patches of 224 pixels of 0.25 µm, each of the class of most of it.

    Patches without overlap, whose largest class covers at least half of them; others, and those whose largest class
    is none of the four, are left out.
    """
    masks = next((path for path in found_in(folder, "masks") if path.is_dir()), None)
    images = (
        next((masks.parent / name for name in BCSS_IMAGES if (masks.parent / name).is_dir()), None)
        if masks
        else None
    )
    if masks is None or images is None:
        raise ValueError(
            f"{folder} must hold a folder masks/ and beside it {BCSS_IMAGES[0]}/, found {listed(folder)}"
        )
    pairs = [(path, images / path.name) for path in found_in(masks, "*.png") if (images / path.name).exists()]
    if not pairs:
        raise ValueError(f"no .png file of {masks} has a namesake in {images}; found {listed(images)}")
    found = [picture for mask, image in pairs for picture in _windows(mask, image)]
    if not found:
        raise ValueError(
            f"no square of {BCSS_PX} pixels of the masks in {masks} is at least half of one of "
            f"{', '.join(BCSS_CLASSES)}"
        )
    return found


def _windows(mask: Path, image: Path) -> list[Picture]:
    codes = np.asarray(Image.open(mask))
    codes = codes if codes.ndim == 2 else codes[..., 0]
    with Image.open(image) as opened:
        size = opened.size
    if size != codes.shape[::-1]:
        raise ValueError(
            f"{image} has {size[0]} x {size[1]} pixels and its mask {codes.shape[1]} x {codes.shape[0]}; "
            "fetch both again"
        )
    merged = np.zeros(256, dtype=np.int64)
    for number, old in enumerate(BCSS_CLASSES.values(), start=1):
        merged[list(old)] = number
    names = list(BCSS_CLASSES)
    rows, columns = (side // BCSS_PX for side in codes.shape)
    found = []
    for row in range(rows):
        for column in range(columns):
            y, x = row * BCSS_PX, column * BCSS_PX
            share = (
                np.bincount(merged[codes[y : y + BCSS_PX, x : x + BCSS_PX]].ravel(), minlength=5) / BCSS_PX**2
            )
            best = int(share.argmax())
            if best and share[best] >= 0.5:
                read = partial(_window, image, x, y)
                name = f"{mask.stem}_{x}_{y}"
                found.append(Picture(name, image, read, names[best - 1], tcga_patient(mask.stem)))
    return found


@lru_cache(maxsize=4)
def _region(path: Path) -> np.ndarray:
    return read_file(path)


def _window(path: Path, x: int, y: int) -> np.ndarray:
    return _region(path)[y : y + BCSS_PX, x : x + BCSS_PX]


def breastpathq(folder: Path) -> list[Picture]:
    """Read the patches of BreastPathQ with their cellularity; the validation set is the test side."""
    found = []
    for side, names in {
        "train": ("train_labels.csv",),
        "validation": ("val_labels.csv", "validation_labels.csv"),
    }.items():
        tables = sorted(path for name in names for path in found_in(folder, name))
        pictures = [path for path in found_in(folder, side) if path.is_dir()]
        if not tables or not pictures:
            raise ValueError(f"{folder} must hold {names[0]} and a folder {side}/, found {listed(folder)}")
        found += _scored(tables[0], pictures[0], side == "validation")
    return found


def _scored(table: Path, folder: Path, test: bool) -> list[Picture]:
    rows = pd.read_csv(table)
    score = next((name for name in ("y", "p1", "score") if name in rows), None)
    if score is None or not {"slide", "rid"} <= set(rows):
        raise ValueError(f"{table} must have the columns slide, rid and y (or p1), found {list(rows)}")
    found = []
    for slide, rid, value in zip(rows["slide"], rows["rid"], rows[score], strict=True):
        path = folder / f"{int(slide)}_{int(rid)}.tif"
        if path.exists():
            name = f"{folder.name}/{path.name}"
            read = partial(read_file, path)
            found.append(
                Picture(name, path, read, patient=f"slide {int(slide)}", test=test, value=float(value))
            )
    if not found:
        raise ValueError(f"{folder} has none of the pictures of {table}, for instance {path.name}")
    if len(found) < len(rows):
        print(
            f"{len(rows) - len(found)} of {len(rows)} rows of {table.name} have no picture and are left out"
        )
    return found


def pcam(folder: Path) -> list[Picture]:
    """Read PatchCamelyon: its HDF5 files, or tar files or folders of train and valid (test) with folders of classes.

    With HDF5 files the training side is `train` and the other `test`; the `_meta.csv` beside them names slides.
    """
    if (folder / PCAM_FILE.format(side="train", what="x")).exists():
        return [*_pcam_h5(folder, "train"), *_pcam_h5(folder, "test")]
    for other in ("test", "valid", "val"):
        sides = {name: folder / name for name in ("train", other)}
        if all(path.is_dir() for path in sides.values()):
            return [p for name, path in sides.items() for p in class_folders(path, name == other)]
        tars = {name: folder / f"{name}.tar" for name in ("train", other)}
        if all(path.is_file() for path in tars.values()):
            return [p for name, path in tars.items() for p in tar_folders(path, name == other)]
    raise ValueError(
        f"{folder} must hold {PCAM_FILE.format(side='train', what='x')} (unpacked) and its fellows, or train and test "
        f"(or valid) as folders or .tar files with a folder for each class; found {listed(folder)}"
    )


def _pcam_h5(folder: Path, side: str) -> list[Picture]:
    try:
        import h5py
    except ImportError as error:
        raise ValueError("the HDF5 files need h5py; pip install h5py") from error
    x, y = (folder / PCAM_FILE.format(side=side, what=what) for what in "xy")
    for path in (x, y):
        if not path.exists():
            raise ValueError(f"{folder} lacks {path.name}, found {listed(folder)}; unpack the .gz files")
    with h5py.File(y) as file:
        labels = np.asarray(file["y"]).reshape(-1).astype(int)
    meta = folder / PCAM_FILE.format(side=side, what="meta").replace(".h5", ".csv")
    slides = pd.read_csv(meta)["wsi"].astype(str).tolist() if meta.exists() else [""] * len(labels)
    if len(slides) != len(labels):
        raise ValueError(f"{meta.name} has {len(slides)} rows and {y.name} {len(labels)}; fetch them again")
    return [
        Picture(f"{side}/{row}", x, partial(_row, x, row), str(label), slide, side == "test")
        for row, (label, slide) in enumerate(zip(labels.tolist(), slides, strict=True))
    ]


@lru_cache(maxsize=2)
def _opened(path: Path):
    import h5py

    return h5py.File(path)["x"]


def _row(path: Path, row: int) -> np.ndarray:
    return np.asarray(_opened(path)[row])


def tar_folders(path: Path, test: bool) -> list[Picture]:
    """Read a .tar file with a folder of pictures for each class; its pictures stay in memory as they are packed."""
    found = []
    with tarfile.open(path) as archive:
        for member in archive:
            place = Path(member.name)
            file = archive.extractfile(member) if member.isfile() else None
            hidden = any(map(_hidden, place.parts))
            if file is not None and not hidden and place.suffix.lower() in SUFFIXES:
                read = partial(_decoded, file.read())
                found.append(Picture(f"{path.stem}/{place}", path, read, place.parent.name, test=test))
    return found


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def breakhis(folder: Path, magnification: int) -> list[Picture]:
    """Read the pictures of BreakHis of one magnification, benign or malignant, with the patient of the file's name."""
    found = []
    for path in found_in(folder, "SOB_*.png"):
        name = BREAKHIS_NAME.match(path.stem)
        if name is None:
            raise ValueError(
                f"{path.name} is not named as in BreakHis, such as SOB_B_A-14-22549AB-40-001.png; remove it"
            )
        if int(name[4]) == magnification:
            label = "benign" if name[1] == "B" else "malignant"
            # letters after the number tell slides apart, which may well be of one patient
            patient = re.sub(r"[A-Z]+$", "", name[3])
            found.append(Picture(path.stem, path, partial(read_file, path), label, patient))
    if not found:
        raise ValueError(f"{folder} holds no SOB_*-{magnification}-*.png of BreakHis, found {listed(folder)}")
    # copies in several folders count once
    return list({picture.name: picture for picture in found}.values())


def squared(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the shorter side to `size` pixels and take the middle square."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new = max(size, round(width * scale)), max(size, round(height * scale))
    if new != (width, height):
        image = np.array(Image.fromarray(image).resize(new, Image.Resampling.BICUBIC))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def slug(name: str) -> str:
    """Write a name so that it can be that of a file."""
    return re.sub(r"[^\w.-]+", "_", name)[-80:]
