"""PatchCamelyon as arrays: the patches that a network is trained on, and those that were kept back."""

from pathlib import Path

import numpy as np
from dino.pictures import class_folders, tar_folders
from hmgdm.common import refuse

#: Micrometres per pixel of PatchCamelyon.
MPP = 0.972


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read (n, 96, 96, 3) patches of "train" or "valid" and their labels; exact duplicates once.

    A split is ``{split}.tar``, or the folders ``{split}/0`` and ``{split}/1``; "train" may be ``0`` and ``1``.
    """
    root = folder if split == "train" and (folder / "0").is_dir() else folder / split
    if (folder / f"{split}.tar").is_file():
        pictures = tar_folders(folder / f"{split}.tar", test=split != "train")
    elif (root / "0").is_dir() and (root / "1").is_dir():
        pictures = [p for p in class_folders(root, test=split != "train") if p.label in ("0", "1")]
    else:
        refuse(folder, f"{split}.tar or {split}/0 and {split}/1 of PatchCamelyon")
    found: dict[bytes, tuple[np.ndarray, int]] = {}
    for picture in pictures:
        image = picture.read()
        found.setdefault(image.tobytes(), (image, int(picture.label)))
    return np.stack([image for image, _ in found.values()]), np.array([label for _, label in found.values()])
