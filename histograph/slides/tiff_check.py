"""Tell a truncated TIFF from a whole one before any reader meets it, from the directories alone."""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["check_complete", "is_tiff"]

_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_DTYPES = {3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_OFFSETS, _COUNTS = (273, 324), (279, 325)
_MOST_DIRECTORIES = 10_000


def is_tiff(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a TIFF or BigTIFF.

    Parameters
    ----------
    head : bytes
        The first four bytes or more.

    Returns
    -------
    bool
        True for the four magic numbers.

    Examples
    --------
    >>> is_tiff(bytes([73, 73, 42, 0]) + b"...")
    True
    """
    return head[:4] in _MAGIC


def check_complete(path: Path) -> None:
    """Follow the chain of directories and see that every tile and strip ends inside the file.

    Parameters
    ----------
    path : pathlib.Path
        A TIFF or BigTIFF file.

    Raises
    ------
    ValueError
        If a directory or the pixels of one lie past the end of the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cut.tif"
    ...     _ = path.write_bytes(b"II*" + bytes([0, 99, 0, 0, 0]))
    ...     check_complete(path)
    Traceback (most recent call last):
    ...
    ValueError: ...cut.tif is truncated: its data reach to byte 101, the file has 8. Copy it again.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        end = _last_byte(file, size)
    if end > size:
        raise ValueError(
            f"{path} is truncated: its data reach to byte {end}, the file has {size}. Copy it again."
        )


def _last_byte(file: BinaryIO, size: int) -> int:
    """Return the end of the data, or of the first part found to lie past the end of the file."""
    order, big = _MAGIC[file.read(4)]
    pointer = order + ("Q" if big else "I")
    width = 8 if big else 4
    if big:
        file.seek(8)
    if size < file.tell() + width:
        return file.tell() + width
    (where,) = struct.unpack(pointer, file.read(width))
    entry, head = (20, 8) if big else (12, 2)
    seen: set[int] = set()
    end = 0
    while where and where not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(where)
        if where + head > size:
            return where + head
        file.seek(where)
        (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(head))
        stop = where + head + count * entry + width
        if stop > size:
            return stop
        table = file.read(count * entry)
        (following,) = struct.unpack(pointer, file.read(width))
        end = max(end, _pixel_end(file, table, order, big, size))
        if end > size:
            return end
        where = following
    return end


def _pixel_end(file: BinaryIO, table: bytes, order: str, big: bool, size: int) -> int:
    """Return the end of the last strip or tile of one directory."""
    entry, width = (20, 8) if big else (12, 4)
    found: dict[str, np.ndarray] = {}
    for at in range(0, len(table), entry):
        tag, kind = struct.unpack_from(order + "HH", table, at)
        if kind not in _DTYPES or tag not in _OFFSETS + _COUNTS:
            continue
        (count,) = struct.unpack_from(order + ("Q" if big else "I"), table, at + 4)
        dtype = np.dtype(order + _DTYPES[kind])
        inline = table[at + entry - width : at + entry]
        if count * dtype.itemsize > width:
            (where,) = struct.unpack(order + ("Q" if big else "I"), inline)
            if where + count * dtype.itemsize > size:
                return int(where + count * dtype.itemsize)
            file.seek(where)
            inline = file.read(count * dtype.itemsize)
        name = "offsets" if tag in _OFFSETS else "counts"
        found[name] = np.frombuffer(inline, dtype, count).astype(np.int64)
    if len(found) < 2 or len(found["offsets"]) != len(found["counts"]) or not len(found["counts"]):
        return 0
    return int((found["offsets"] + found["counts"])[found["counts"] > 0].max(initial=0))
