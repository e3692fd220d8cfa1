"""PatchCamelyon as arrays: the patches that a network is trained on, and those that were kept back."""

import io
import sys
import tarfile
from pathlib import Path
from typing import NoReturn

import numpy as np
from hmgdm.common import listed
from PIL import Image

#: Micrometres per pixel of PatchCamelyon.
MPP = 0.972


def read_split(folder: Path, split: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Read (n, 96, 96, 3) patches of "train" or "valid" and their labels; exact duplicates once. None without a file.

    A split is ``{split}.tar``, or the folders ``{split}/0`` and ``{split}/1``; "train" may be ``0`` and ``1``.
    """
    found: dict[bytes, int] = {}
    if (folder / f"{split}.tar").is_file():
        with tarfile.open(folder / f"{split}.tar") as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    found.setdefault(file.read(), int(Path(member.name).parent.name))
    else:
        root = folder if split == "train" and (folder / "0").is_dir() else folder / split
        for label in (0, 1):
            for path in sorted((root / str(label)).glob("*.*")):
                found.setdefault(path.read_bytes(), label)
    if not found:
        return None, np.empty(0, dtype=int)
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found]
    return np.stack(images), np.array(list(found.values()))


def refuse(folder: Path, split: str) -> NoReturn:
    """Say what a folder should hold, and leave."""
    held = listed(folder) if folder.is_dir() else "no folder"
    sys.exit(
        f"--data: {folder} must hold {split}.tar or {split}/0 and {split}/1 of PatchCamelyon; found {held}"
    )
