"""Where image patches come from: an array, image files, or squares around points of a slide."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from histograph.features import crops
from histograph.slides import Slide
from histograph.slides.reader import to_uint8

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

Pixels = npt.NDArray[np.uint8]


class Source(Protocol):
    """Where some of the patches come from."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Say where a patch comes from."""

    def read(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """Read patches, (len(rows), H, W, 3)."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Patches in memory, or in a memory-mapped file."""

    images: Pixels
    names: tuple[str, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int) -> str:
        """Say where a patch comes from."""
        return str(row) if self.names is None else self.names[row]

    def read(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """Read patches, (len(rows), H, W, 3)."""
        return np.asarray(self.images[rows])


@dataclass(frozen=True, eq=False)
class FileSource:
    """One image file a patch, all of the size of the first."""

    paths: tuple[Path, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """Say where a patch comes from."""
        return self.paths[row].stem

    def read(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """Read patches, (len(rows), H, W, 3)."""
        result = np.empty((len(rows), *self.size, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            image = read_image(self.paths[row])
            if image.shape[:2] != self.size:
                raise ValueError(
                    f"{self.paths[row]}: expected {self.size[0]} x {self.size[1]} pixels (height, width) as in "
                    f"{self.paths[0].name}, found {image.shape[0]} x {image.shape[1]}; bring all to one size"
                )
            result[place] = image
        return result


@dataclass(frozen=True, eq=False)
class CropSource:
    """Squares around points of a slide, read from the slide each time."""

    slide: Slide
    pos_um: npt.NDArray[np.float64]
    size_um: float
    size_px: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size_px, self.size_px

    def __len__(self) -> int:
        return len(self.pos_um)

    def name(self, row: int) -> str:
        """Say where a patch comes from."""
        return self.slide.slide_id

    def read(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """Read patches, (len(rows), H, W, 3)."""
        return crops(self.slide, self.pos_um[rows], self.size_um, self.size_px, workers=1)


def read_image(path: Path) -> Pixels:
    """Read an image file as red, green, blue.

    Parameters
    ----------
    path : Path
        Any format that Pillow reads.

    Returns
    -------
    (H, W, 3) uint8 array
        The pixels; transparency is dropped, and 16 bits become 8 as those of a slide.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file; if it is no image, a stack of several, or has grey values of 32 bits.

    Examples
    --------
    >>> read_image(Path("missing.png"))
    Traceback (most recent call last):
    FileNotFoundError: missing.png: no such file
    """
    try:
        with Image.open(path) as image:
            _check_plain(image, path)
            if image.mode.startswith("I;16"):  # converted, Pillow would cut off what is above 255
                grey = to_uint8(np.asarray(image).astype(np.uint16), str(path))
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _check_plain(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow would cut off: values without a defined white, and all images of a stack but the first."""
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{path} holds grey values of 32 bits, which have no defined white; expected 8 or 16 bits: bring them to 0 "
            "to 255 and save them as uint8 first"
        )
    first = image.size
    count = getattr(image, "n_frames", 1)
    if count > 1:
        image.seek(1)
        second = image.size
        image.seek(0)
        if second == first:  # the levels of a pyramid differ in size, and its first is the image itself
            raise ValueError(
                f"{path} is a stack of {count} images, expected one: save them as files of their own"
            )


def _image_files(folder: Path) -> list[Path]:
    """Find the images of a folder and of all its folders, also linked ones; hidden files and folders are left out.

    A Mac keeps hidden files beside each picture of an archive, a notebook copies of pictures in hidden folders.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def open_source(images: Any) -> Source:
    """Tell arrays from files.

    Parameters
    ----------
    images : array, tensor, path, or sequence of paths
        As in `PatchDataset`.

    Returns
    -------
    Source
        With at least the size of its patches known.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `PatchDataset`.

    Examples
    --------
    >>> open_source(np.zeros((2, 4, 6, 3), np.uint8)).size
    (4, 6)
    """
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        if not path.exists():
            raise FileNotFoundError(f"images: no file or folder at {path}")
        paths = [path]
        if path.is_dir():
            paths = _image_files(path)
            if not paths:
                raise FileNotFoundError(f"images: {path} holds no image file ({', '.join(SUFFIXES)})")
        return _file_source(paths)
    if isinstance(images, Sequence):
        if not images or not all(isinstance(item, (str, os.PathLike)) for item in images):
            raise ValueError(
                "images: expected an array, a folder, or a list of image files; stack arrays first"
            )
        return _file_source([Path(item) for item in images])
    pixels = images.numpy() if isinstance(images, torch.Tensor) else images
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[3:] != (3,):
        found = (
            f"{pixels.dtype} of shape {pixels.shape}"
            if isinstance(pixels, np.ndarray)
            else type(images).__name__
        )
        raise ValueError(f"images must be a uint8 array of shape (N, H, W, 3), found {found}")
    return ArraySource(pixels)


def _file_source(paths: list[Path]) -> FileSource:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"images: {len(missing)} files are missing, first {missing[0]}")
    height, width = read_image(paths[0]).shape[:2]
    return FileSource(tuple(paths), (height, width))
