"""Flat images: arrays in memory, and PNG, JPEG, BMP, WebP or JPEG 2000 files through Pillow."""

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from .reader import composite, physical_mpp, to_uint8

__all__ = ["ArrayReader", "ImageReader", "as_rgb"]

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "JPEG2000")

_AS_THEY_ARE = ("RGB", "RGBA", "L", "1")
_SIXTEEN_BITS = ("I;16", "I;16B")
_TRANSPARENT = ("P", "PA", "LA", "La", "RGBa")


def as_rgb(image: np.ndarray, name: str = "image") -> np.ndarray:
    """Convert a grey, RGB or RGBA array to RGB; transparent pixels become white.

    Parameters
    ----------
    image : numpy.ndarray
        (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); uint8, uint16 (scaled by 1/257) or bool (0 and 255).
    name : str
        What the image is called in an error.

    Returns
    -------
    numpy.ndarray
        (h, w, 3) uint8.

    Raises
    ------
    ValueError
        If the shape or the dtype is none of these.

    Examples
    --------
    >>> as_rgb(np.array([[7]], np.uint8))
    array([[[7, 7, 7]]], dtype=uint8)
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(_shape_error(name, image.shape))
    image = to_uint8(image, name)
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return composite(image) if image.shape[2] == 4 else image


def _shape_error(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"{name} has shape {shape}; expected (height, width) grey, (height, width, 3) RGB or "
        "(height, width, 4) RGBA. Move the channels to the last axis, or choose one plane."
    )


class ArrayReader:
    """Pixels of an array in memory (or a memory map); regions are converted to RGB as they are read.

    Parameters
    ----------
    array : numpy.ndarray
        (h, w), (h, w, 3) or (h, w, 4); uint8, uint16 or bool.
    name : str
        What the array is called in an error.

    Raises
    ------
    ValueError
        If the shape or the dtype is none of these, or a side is 0.

    Examples
    --------
    >>> ArrayReader(np.zeros((4, 6, 3), np.uint8)).level_dimensions
    [(6, 4)]
    """

    def __init__(self, array: np.ndarray, name: str = "the array") -> None:
        if array.ndim in (2, 3) and 0 in array.shape:
            raise ValueError(f"{name} has shape {array.shape}; expected at least one pixel")
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
            raise ValueError(_shape_error(name, array.shape))
        to_uint8(array[:1, :1], name)
        self._array = array
        self._name = name
        self.level_dimensions = [(array.shape[1], array.shape[0])]
        self.mpp: tuple[float, float] | None = None
        self.properties: dict[str, str] = {"histograph.reader": "array"}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of the array, (height, width, 3) uint8."""
        return as_rgb(self._array[y : y + height, x : x + width], self._name)

    def close(self) -> None:
        """Do nothing: the array belongs to the caller."""


class ImageReader:
    """Pixels of an image file that Pillow reads, decoded once, when they are first needed.

    Parameters
    ----------
    path : pathlib.Path
        A PNG, JPEG, BMP, WebP or JPEG 2000 file.

    Raises
    ------
    ValueError
        If the image is too large to be decoded at once, has no certain conversion to RGB, as CMYK, or is animated.
    PIL.UnidentifiedImageError
        If the file is none of these.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "dot.png"
    ...     Image.new("RGB", (3, 2), "white").save(path)
    ...     ImageReader(path).level_dimensions
    [(3, 2)]
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                if image.mode not in (*_AS_THEY_ARE, *_SIXTEEN_BITS, *_TRANSPARENT, "YCbCr"):
                    raise ValueError(
                        f"{path} has colours {image.mode!r} (mode of Pillow); expected grey, RGB or RGBA. Convert it "
                        "to RGB first, CMYK with the colour profile it was made with (for example ImageMagick)"
                    )
                frames = getattr(image, "n_frames", 1)
                if (
                    frames > 1 and image.format != "MPO"
                ):  # the further pictures of a camera's file are previews
                    raise ValueError(
                        f"{path} is animated: {frames} frames; expected one, save it as its own file"
                    )
                self.level_dimensions = [image.size]
                dpi = image.info.get("dpi")
                self.properties = {
                    "histograph.reader": "pillow",
                    "pillow.format": str(image.format),
                    "pillow.mode": image.mode,
                }
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"{path} is too large for a flat image ({error}); save it as a tiled pyramidal TIFF"
            ) from error
        self.mpp = (
            physical_mpp(25400.0 / dpi[0], 25400.0 / dpi[1]) if dpi and dpi[0] > 0 and dpi[1] > 0 else None
        )

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of the image, (height, width, 3) uint8."""
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[y : y + height, x : x + width]

    def _decode(self) -> np.ndarray:
        try:
            with Image.open(self._path, formats=IMAGE_FORMATS) as image:
                if image.mode in _AS_THEY_ARE:
                    pixels = np.asarray(image)
                elif image.mode in _SIXTEEN_BITS:
                    pixels = np.asarray(image).astype(np.uint16)
                else:
                    pixels = np.asarray(image.convert("RGBA" if image.mode in _TRANSPARENT else "RGB"))
        except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
            raise ValueError(
                f"cannot decode {self._path} ({error}); the file is damaged or truncated"
            ) from error
        return as_rgb(pixels, str(self._path))

    def close(self) -> None:
        """Release the decoded pixels."""
        self._pixels = None
