"""Safetensors files with a named format and version: written whole or not at all, read with clear errors."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from histograph.atomic import atomic_path


def write_tensors(
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    kind: str,
    version: int,
    metadata: dict[str, str],
) -> None:
    """Write tensors and text to a safetensors file; the same content gives the same bytes.

    Parameters
    ----------
    path : path-like
        The file; its folder must exist.
    tensors : dict of str to Tensor
        What to write; copied to the CPU first.
    kind : str
        Name of the format, such as ``"histograph.method"``.
    version : int
        Version of the format.
    metadata : dict of str to str
        Further text.

    Raises
    ------
    FileNotFoundError
        If the folder is missing.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/a", {"x": torch.ones(2)}, "demo", 1, {"note": "hi"})
    ...     read_tensors(f"{folder}/a", "demo", 1)
    ({'format': 'demo', 'version': '1', 'note': 'hi'}, {'x': tensor([1., 1.])})
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {path.parent} does not exist; create it first")
    # clones, for safetensors refuses two names for one memory
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    content = save(plain)
    length = int.from_bytes(content[:8], "little")
    header = _with_text(content[8 : 8 + length], {"format": kind, "version": str(version), **metadata})
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[8 + length :])


def _with_text(header: bytes, text: dict[str, str]) -> bytes:
    """Put text into the header of a safetensors file; the library writes it in an order that changes by chance."""
    entries = {"__metadata__": text, **json.loads(header)}
    written = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return written + b" " * (-len(written) % 8)  # tensors begin at a multiple of 8 bytes


def read_tensors(
    path: str | os.PathLike[str], kind: str, version: int
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read what :func:`write_tensors` wrote.

    Parameters
    ----------
    path : path-like
        The file.
    kind : str
        Name of the format that is expected.
    version : int
        Newest version that the caller understands.

    Returns
    -------
    metadata : dict of str to str
        Text, sorted so that format and version come first.
    tensors : dict of str to Tensor
        On the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, of another format, or of a newer version.

    Examples
    --------
    >>> read_tensors("missing.safetensors", "demo", 1)
    Traceback (most recent call last):
    FileNotFoundError: path: no file at missing.safetensors
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); copy or save it again"
        ) from error
    if metadata.get("format") != kind:
        raise ValueError(
            f"{path} is a safetensors file of another kind: expected format {kind!r}, "
            f"found {metadata.get('format')!r}"
        )
    found = metadata.get("version", "")
    if not found.isdigit() or int(found) > version:
        raise ValueError(
            f"{path} has version {found!r} of format {kind!r}, this histograph reads up to {version}; "
            "update histograph"
        )
    first = {"format": kind, "version": found}
    return first | {name: metadata[name] for name in sorted(metadata) if name not in first}, tensors
