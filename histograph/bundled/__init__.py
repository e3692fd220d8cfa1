"""Real data that ships with the package: one small slide and 400 labelled patches, both free to use (CC0).

They make every example, test and tutorial run without a download. `PROVENANCE.md` beside this file says
where they come from and by which rule the patches were chosen.
"""

import io
import zipfile
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

__all__ = ["BundledPatches", "patches", "slide_path"]

_SLIDE = "CMU-1-Small-Region.svs"
_PATCHES = "patches.zip"


@dataclass(frozen=True)
class BundledPatches:
    """Labelled lymph-node patches of PatchCamelyon.

    Parameters
    ----------
    images
        (n, 96, 96, 3) uint8, H&E.
    y
        (n,) int64, 1 where the central 32 x 32 pixels hold tumour, else 0.
    group
        (n,) int64, patches that overlap on their slide share a group. The slides themselves are not known,
        so two groups may still come from one patient: a score on these patches is a demonstration and no
        measurement of generalisation.
    mpp
        About 0.97 µm a pixel (10x).
    names
        File name of each patch in the source.
    """

    images: NDArray[np.uint8] = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    group: NDArray[np.int64] = field(repr=False)
    mpp: float
    names: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.y)


def slide_path() -> Path:
    """Return the path of the bundled whole-slide image.

    It is the OpenSlide test file CMU-1-Small-Region.svs: 2220 x 2967 pixels of H&E at 0.499 µm a pixel, one
    level.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        If the installation lacks the file.

    Examples
    --------
    >>> slide_path().name
    'CMU-1-Small-Region.svs'
    """
    return _file(_SLIDE)


def patches() -> BundledPatches:
    """Read the 400 bundled PatchCamelyon patches, 200 with and 200 without tumour.

    Returns
    -------
    BundledPatches
        Images, labels, groups, resolution and names, ordered by name.

    Raises
    ------
    FileNotFoundError
        If the installation lacks the file.

    Examples
    --------
    >>> data = patches()
    >>> data.images.shape, int(data.y.sum())
    ((400, 96, 96, 3), 200)

    References
    ----------
    B. Veeling et al., Rotation equivariant CNNs for digital pathology, MICCAI 2018.
    """
    with zipfile.ZipFile(_file(_PATCHES)) as archive:
        table = pd.read_csv(io.BytesIO(archive.read("patches.csv")))
        names = table["name"].tolist()
        images = np.stack([_decode(archive.read(name)) for name in names])
    return BundledPatches(
        images=images,
        y=table["label"].to_numpy(np.int64),
        group=table["group"].to_numpy(np.int64),
        mpp=0.972,
        names=names,
    )


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _file(name: str) -> Path:
    path = Path(str(files(__name__).joinpath(name)))
    if not path.is_file():
        raise FileNotFoundError(
            f"the bundled file {name} is not at {path}. Install histograph as an ordinary folder (pip does), "
            "not zipped, and check that the wheel was built with its package data."
        )
    return path
