"""Open a slide, whatever holds it: the dispatch on the content of the file, and the errors."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import UnidentifiedImageError

from .image_reader import ArrayReader, ImageReader
from .openslide_reader import OpenSlideReader
from .reader import Reader
from .slide import Slide
from .tiff_check import check_complete, is_tiff
from .tiff_reader import TiffReader

__all__ = ["SLIDE_SUFFIXES", "open_slide"]

# What is taken for a slide when a folder is searched; a file that is named is opened whatever it is called.
SLIDE_SUFFIXES = frozenset(
    {".bif", ".bmp", ".czi", ".dcm", ".jp2", ".jpeg", ".jpg", ".mrxs", ".ndpi", ".png", ".scn", ".svs"}
    | {".svslide", ".tif", ".tiff", ".vms", ".vmu", ".webp"}
)

# Photometric interpretations of TIFF that are RGB, or become it in one way: black 0, RGB, palette, YCbCr.
_PLAIN = (1, 2, 3, 6)


def open_slide(
    path: str | os.PathLike[str] | np.ndarray,
    mpp: float | Sequence[float] | None = None,
    *,
    slide_id: str | None = None,
) -> Slide:
    """Open a whole-slide image, a TIFF, a flat image or an array as a Slide.

    The content of the file decides the reader, not its extension: OpenSlide first, then tifffile for the TIFF
    and OME-TIFF files that OpenSlide refuses or reads only in part, then Pillow for PNG, JPEG, BMP, WebP and
    JPEG 2000.

    Parameters
    ----------
    path : str, path or numpy.ndarray
        The file (for MIRAX the .mrxs file), or pixels: (h, w), (h, w, 3) or (h, w, 4); uint8, uint16 or bool. What
        has a certain conversion becomes 8-bit RGB: grey is repeated, transparent pixels are laid on white, 16 bits
        are divided by 257. Floats, CMYK, Lab, other numbers of channels, and TIFF files of more than one plane
        (stacks in depth or time, pages of equal size that are no pyramid) are refused.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel, or (x, y); overrides what the file says. Required where the file says
        nothing.
    slide_id : str, optional
        Name of the slide; the stem of the file name, or "array", if not given.

    Returns
    -------
    Slide
        Open for reading; close it or use it in a `with` statement.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    IsADirectoryError
        If the path is a folder.
    TypeError
        If `path` is neither a path nor an array.
    ValueError
        If the file is empty, truncated, of an unknown format or without mpp, its pixels have no certain conversion
        to 8-bit RGB, or `mpp` is not positive.

    Examples
    --------
    >>> slide = open_slide(np.full((100, 200, 3), 255, np.uint8), mpp=0.5)
    >>> slide.dimensions, slide.size_um
    ((200, 100), (100.0, 50.0))
    """
    given = _as_pair(mpp)
    reader: Reader
    if isinstance(path, np.ndarray):
        reader, source, name = ArrayReader(path), None, "the array"
    elif isinstance(path, str | os.PathLike):
        source = Path(path)
        reader, name = _open_reader(source), str(source)
    else:
        raise TypeError(f"path must be a file path or a numpy array, found {type(path).__name__}")
    final = given or reader.mpp
    if final is None:
        reader.close()
        raise ValueError(
            f"{name} does not say how many µm a pixel spans (mpp). Give it: open_slide(..., mpp=0.25) "
            "(0.25 is usual for a 40x scan, 0.5 for 20x; use the value of your scanner), or mpp=(x, y)."
        )
    if slide_id is None:
        slide_id = source.stem if source is not None else "array"
    return Slide(reader, final, slide_id, path=source, mpp_given=given)


def _as_pair(mpp: float | Sequence[float] | None) -> tuple[float, float] | None:
    if mpp is None:
        return None
    try:
        pair = (
            tuple(float(v) for v in mpp)
            if isinstance(mpp, Sequence | np.ndarray)
            else (float(mpp), float(mpp))
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"mpp must be a number or a pair (x, y) of numbers, found {mpp!r}") from error
    if len(pair) != 2 or not all(math.isfinite(v) and v > 0 for v in pair):
        raise ValueError(
            f"mpp must be one positive number or a pair (x, y) of them, in micrometres, found {mpp!r}"
        )
    return pair[0], pair[1]


def _open_reader(path: Path) -> Reader:
    if not path.exists():
        raise FileNotFoundError(f"there is no slide at {path}; check the path")
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; expected a slide file (for MIRAX the .mrxs file beside the folder)"
        )
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes); copy or download it again")
    vendor = openslide.OpenSlide.detect_format(path)
    tiff = is_tiff(head)
    if tiff and vendor != "hamamatsu":  # NDPI keeps offsets beyond 4 GB in a way of its own
        check_complete(path)
    if vendor is not None and not (vendor == "generic-tiff" and _needs_tifffile(path)):
        try:
            return OpenSlideReader(path)
        except openslide.OpenSlideError as error:
            if vendor != "generic-tiff":
                raise ValueError(
                    f"OpenSlide takes {path} for a {vendor} slide but cannot read it ({error}); "
                    "the file is truncated, damaged or in a variant that OpenSlide does not support"
                ) from error
    if tiff:
        return TiffReader(path)
    try:
        return ImageReader(path)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a slide or an image (extension {path.suffix or 'none'!r}, first bytes {head!r}); "
            "expected a format of OpenSlide (svs, ndpi, mrxs, scn, bif, dcm, tiled tiff, ...), TIFF, "
            "OME-TIFF, PNG, JPEG, BMP, WebP or JPEG 2000"
        ) from error


def _needs_tifffile(path: Path) -> bool:
    """Return whether OpenSlide's generic TIFF reader would lose or guess something.

    OME, SubIFDs, 16 bit, white 0; CMYK, Lab and other channels, of which it makes up a picture; and files with more
    than one page of full size, of which it takes the first.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            inverted = page.tags.valueof("PhotometricInterpretation") == 0
            bits = page.tags.valueof("BitsPerSample")
            eight = set(bits if isinstance(bits, tuple) else (bits,)) == {8}
            plain = page.samplesperpixel in (1, 3, 4) and page.photometric in _PLAIN
            # a fourth sample that is not said to be transparency, of which OpenSlide makes some
            undeclared = page.samplesperpixel == 4 and set(page.extrasamples) <= {0}
            if file.is_ome or page.tags.get("SubIFDs") or not eight or inverted or not plain or undeclared:
                return True
            size = page.imagewidth, page.imagelength
            return any(
                p.imagewidth >= size[0] and p.imagelength >= size[1] and not p.is_mask
                for p in (file.pages[k].aspage() for k in range(1, len(file.pages)))
            )
    except (tifffile.TiffFileError, ValueError, OSError, KeyError, IndexError):
        return False
