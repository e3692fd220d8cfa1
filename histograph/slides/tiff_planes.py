"""Refuse TIFF files that are more than one picture, or pixels that become RGB in more than one way."""

from pathlib import Path
from xml.etree import ElementTree

import tifffile

__all__ = ["check_one_plane", "check_pixels", "plane_size"]

_AXES = {"Z": "depth", "T": "time", "I": "pages", "Q": "pages", "P": "places", "R": "tiles", "A": "angles"}
_COLOURS = ("red", "green", "blue")


def plane_size(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    """Return the width and height of a series.

    Parameters
    ----------
    series : tifffile.TiffPageSeries
        The series, or one of its levels.

    Returns
    -------
    tuple of int
    """
    sizes = dict(zip(series.axes, series.shape))
    return int(sizes.get("X", 0)), int(sizes.get("Y", 0))


def check_one_plane(
    file: tifffile.TiffFile,
    path: Path,
    series: tifffile.TiffPageSeries,
    images: list[tifffile.TiffPageSeries],
) -> None:
    """Refuse stacks in depth or time, several images of full size, and channels that are not red, green and blue.

    Parameters
    ----------
    file : tifffile.TiffFile
        The file.
    path : pathlib.Path
        Its name, for messages.
    series : tifffile.TiffPageSeries
        What is to be read.
    images : list of tifffile.TiffPageSeries
        All of the file that are no masks.

    Raises
    ------
    ValueError
        If there is no telling which plane is meant; the message says what there is and how to choose.
    """
    extra = {a: n for a, n in zip(series.axes, series.shape) if a not in "YXSC" and n > 1}
    if extra:
        planes = " x ".join(f"{n} along {a} ({_AXES.get(a, 'planes')})" for a, n in extra.items())
        raise ValueError(
            f"{path} is a stack with axes {series.axes} and shape {series.shape}: {planes}; expected one plane. "
            + _choose(path, file.series.index(series), len(extra))
        )
    alike = [s for s in images if plane_size(s) == plane_size(series)]
    if len(alike) > 1:
        found = ", ".join(f"{s.axes} {s.shape}" for s in alike)
        raise ValueError(
            f"{path} holds {len(alike)} images of the largest size ({found}), which are no pyramid; expected one. "
            + _choose(path, file.series.index(alike[1]), 0)
        )
    if any(page is None or page.parent is not file for level in series.levels for page in level.pages):
        raise ValueError(
            f"{path} is one of several files of an image with axes {series.axes} and shape {series.shape}; expected "
            "all of it in one file. Save it as one, or open the plane that you want as an array."
        )
    channels = dict(zip(series.axes, series.shape)).get("C", 1)
    names = _channel_names(file, series) if channels == 3 else []
    if names or (channels not in (1, 3) and len(series.pages) > 1):
        raise ValueError(
            f"{path} has axes {series.axes} and shape {series.shape}, that is {channels} channels"
            f"{' (' + ', '.join(names) + ')' if names else ''} in planes of their own; expected red, green and blue. "
            "Choose channels and pass them to open_slide as an array (height, width, 3)."
        )


def _choose(path: Path, number: int, axes: int) -> str:
    which = f"[{', '.join(['0'] * axes)}]" if axes else ""
    return (
        "Choose one, for example open_slide(tifffile.imread("
        f"{path.name!r}, series={number}){which}, mpp=...), or save the one that you want as its own file."
    )


def _channel_names(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[str]:
    """Return what the file calls the channels if that is something else than the three colours."""
    if not file.is_ome or file.ome_metadata is None:
        return []
    width, height = plane_size(series)
    for pixels in ElementTree.fromstring(file.ome_metadata).iterfind(".//{*}Image/{*}Pixels"):
        if (pixels.get("SizeX"), pixels.get("SizeY")) != (str(width), str(height)):
            continue
        channels = pixels.findall("{*}Channel")
        names = [c.get("Name") or c.get("Fluor") or "" for c in channels]
        fluorescent = any(c.get("Fluor") or c.get("EmissionWavelength") for c in channels)
        other = any(not _means(name.lower(), colour) for name, colour in zip(names, _COLOURS))
        return names if len(names) == 3 and (fluorescent or other) else []
    return []


def _means(name: str, colour: str) -> bool:
    """Whether a channel's name is that of the colour, or says no more than "Channel 0", "C1" or "0" do."""
    plain = name.replace("channel", "c").strip(" :_-0123456789") in ("", "c")
    return plain or name == colour[0] or colour in name


def check_pixels(pages: list[tifffile.TiffPage], path: Path) -> None:
    """Refuse what has no defined conversion to 8-bit RGB.

    Parameters
    ----------
    pages : list of tifffile.TiffPage
        Of one level.
    path : pathlib.Path
        The file, for messages.

    Raises
    ------
    ValueError
        If the number of channels, the type of pixel or the colours are none that become RGB in one way.
    """
    page = pages[0]
    samples = len(pages) * page.samplesperpixel
    if samples not in (1, 3, 4):
        raise ValueError(
            f"{path} has {samples} channels; expected 1 (grey), 3 (RGB) or 4 (RGBA). "
            "Choose channels and pass them to open_slide as an array (height, width, 3)."
        )
    if (
        page.dtype is None
        or page.dtype.name not in ("uint8", "uint16", "bool")
        or page.bitspersample not in (1, 8, 16)
    ):
        raise ValueError(
            f"{path} holds {page.dtype} pixels of {page.bitspersample} bits; expected 1, 8 or 16 "
            "unsigned bits. Convert it to uint8 first, for example (image * 255).round().astype('uint8') if its "
            "values run from 0 to 1."
        )
    colours, compression = (
        tifffile.PHOTOMETRIC(page.photometric).name,
        tifffile.COMPRESSION(page.compression).name,
    )
    plain = colours in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE")
    if not plain and not (colours == "YCBCR" and "JPEG" in compression):
        known = "CMYK (SEPARATED)" if colours == "SEPARATED" else colours
        raise ValueError(
            f"{path} has {known} colours with {compression} compression, which become RGB in more than one way; "
            "convert the file to RGB first, with the colour profile it was made with (for example ImageMagick or "
            "Photoshop)"
        )
