"""Read the header of a graph file, and say what is wrong with a file that has none."""

import json
from pathlib import Path
from typing import Any

from histograph.graphs.layout import FORMAT, FORMAT_VERSION, decode_header


class NotAGraph(ValueError):
    """A safetensors file of something else, such as a trained method."""


def read_header(path: Path) -> dict[str, Any]:
    """Read and check a header: is the file there, whole, safetensors, ours, and of a version we know.

    Parameters
    ----------
    path : Path
        A file written by `histograph.graphs.save`.

    Returns
    -------
    dict
        The entries that `docs/file-format.md` lists, as Python values.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The path is a folder, or the file is empty, cut off, not safetensors, not a histograph graph, or of a
        newer major format version.

    Examples
    --------
    >>> import tempfile
    >>> from histograph.graphs import example_graph, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     header = read_header(save(example_graph(), Path(folder) / "a.safetensors"))
    >>> header["kind"], header["num_nodes"]
    ('hetero', {'cell': 60, 'patch': 4})
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a .safetensors file; GraphDataset opens folders")
    size = path.stat().st_size
    not_safetensors = f"{path} is not a safetensors file; histograph.save writes one"
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        start = handle.read(1)
        if size < 9 or start != b"{" or length > 100_000_000:
            raise ValueError(f"{path} is empty" if size == 0 else not_safetensors)
        if size < 8 + length:
            raise ValueError(f"{path} is cut off: its header says {8 + length} bytes or more, it has {size}")
        try:
            entries = json.loads(start + handle.read(length - 1))
        except ValueError as error:
            raise ValueError(not_safetensors) from error
    metadata = entries.pop("__metadata__", {})
    expected = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size < expected:
        raise ValueError(f"{path} is cut off: expected {expected} bytes, it has {size}; write it again")
    if metadata.get("format") != FORMAT:
        raise NotAGraph(
            f"{path} is a safetensors file but not a histograph graph (no {FORMAT!r} in its header); "
            "if it holds a trained method, open it with histograph.methods.load_method"
        )
    major, ours = metadata["format_version"].split(".")[0], FORMAT_VERSION.split(".")[0]
    if int(major) > int(ours):
        raise ValueError(
            f"{path} has format version {metadata['format_version']}, this histograph reads up to {ours}.x; "
            "upgrade histograph"
        )
    return decode_header(metadata)
