"""Files of weights of any library, and where in a checkpoint the network lies."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .torch_files import read_torch_file, some

_ADVICE = "where you trust it, save its weights alone with torch.save(state_dict, ...) and load that"
# every Vision Transformer has one of these
_ANCHORS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")
_FILES = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """Read a file of weights, or a folder of Hugging Face with its settings.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, a file of ``torch.save``, or a folder with one of them.

    Returns
    -------
    content : mapping
        Of the file.
    config : dict
        Of the folder's ``config.json``, and ``mean`` and ``std`` after its ``preprocessor_config.json``, of pixels
        from 0 to 1; empty for a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or the folder has none.
    ValueError
        If the file cannot be read, or not safely.

    Examples
    --------
    >>> read_weights(Path("missing.safetensors"))
    Traceback (most recent call last):
    FileNotFoundError: source: no file at missing.safetensors
    """
    config: dict[str, Any] = {}
    if path.is_dir():
        config = _json(path / "config.json")
        processor = _json(path / "preprocessor_config.json") or _json(path / "processor_config.json")
        config |= unit_normalisation(processor.get("image_processor", processor))
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files:
            raise FileNotFoundError(f"source: the folder {path} has neither {' nor '.join(_FILES)}")
        path = files[0]
    if path.suffix != ".safetensors" or not path.is_file():
        return read_torch_file(path, "source", _ADVICE), config
    try:
        return load_file(path), config
    except SafetensorError as error:
        raise ValueError(
            f"source: {path} is truncated or not a safetensors file ({error}); copy it again"
        ) from error


def unit_normalisation(prepared: Mapping[str, Any]) -> dict[str, list[float]]:
    """Give mean and std for pixels from 0 to 1, on whatever scale the settings of Hugging Face write theirs.

    Parameters
    ----------
    prepared : mapping
        Of a ``preprocessor_config.json``; empty where there is none.

    Returns
    -------
    dict of str to list of float
        ``mean`` and ``std``, as far as they are told.

    Examples
    --------
    >>> unit_normalisation({"image_mean": [102.0], "image_std": [51.0], "do_rescale": False})
    {'mean': [0.4], 'std': [0.2]}
    >>> unit_normalisation({"do_normalize": False}), unit_normalisation({})
    ({'mean': [0.0, 0.0, 0.0], 'std': [1.0, 1.0, 1.0]}, {})
    """
    names = ("mean", "std")
    if not prepared.get("do_normalize", True):
        told = {"mean": [0.0] * 3, "std": [1.0] * 3}
    else:
        told = {name: prepared[f"image_{name}"] for name in names if f"image_{name}" in prepared}
    # (v factor - mean) / std in terms of v / 255
    unit = 255 * prepared.get("rescale_factor", 1 / 255) if prepared.get("do_rescale", True) else 255.0
    return {name: [value / unit for value in told[name]] for name in names if told.get(name)}


def flat_tensors(content: Mapping[Any, Any], start: str = "") -> Iterator[tuple[str, Tensor]]:
    """Give all tensors of nested dictionaries, their names joined by points.

    Parameters
    ----------
    content : mapping
        Of tensors, mappings and anything else, which is passed over.
    start : str
        What the names begin with.

    Yields
    ------
    (str, Tensor)
        Name and tensor.

    Examples
    --------
    >>> import torch
    >>> [name for name, _ in flat_tensors({"model": {"a.b": torch.zeros(1)}, "epoch": 3})]
    ['model.a.b']
    """
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{start}{key}", value
        elif isinstance(value, Mapping):
            yield from flat_tensors(value, f"{start}{key}.")


def find_network(tensors: Mapping[str, Tensor], branch: str) -> str:
    """Find what the names of a Vision Transformer begin with, by its patch embedding.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Of a checkpoint.
    branch : str
        A part of the names of the one wanted, where there are several.

    Returns
    -------
    str
        Empty or with a point at its end.

    Raises
    ------
    ValueError
        If there is none, or not one that fits `branch`.

    Examples
    --------
    >>> import torch
    >>> names = [f"{branch}.net.patch_embed.proj.weight" for branch in ("student", "teacher")]
    >>> find_network(dict.fromkeys(names, torch.zeros(1)), "student")
    'student.net.'
    """
    found = {
        key.removesuffix(anchor)
        for anchor in _ANCHORS
        for key in tensors
        if key == anchor or key.endswith(f".{anchor}")
    }
    chosen = [prefix for prefix in found if branch in prefix.split(".")] if len(found) > 1 else list(found)
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        raise ValueError(
            f"source must hold a Vision Transformer, with a tensor named {' or '.join(_ANCHORS)}; "
            f"found {some(sorted(tensors))}"
        )
    raise ValueError(
        f"source holds {len(found)} networks, {some(sorted(map(repr, found)))}, of which {len(chosen)} fit branch "
        f"{branch!r}; name the one wanted with branch, or hand over its part"
    )


def part_beside(key: str, prefix: str) -> str:
    """Name the part of a checkpoint that a tensor outside the network belongs to.

    Parameters
    ----------
    key : str
        Name of the tensor.
    prefix : str
        Of the network.

    Returns
    -------
    str
        First part of the name after what it shares with the prefix.

    Examples
    --------
    >>> part_beside("teacher.head.mlp.0.weight", "teacher.backbone.")
    'head'
    """
    parts = key.split(".")
    return next(
        (part for part, other in zip(parts, prefix.split("."), strict=False) if part != other), parts[-1]
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
