"""The file of a Vision Transformer as a patch encoder: weights in half precision, and all that is needed to feed it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .encoder import PatchEncoder

if TYPE_CHECKING:
    from histograph.nn import VisionTransformer

__all__ = ["read_encoder", "save_encoder"]

FORMAT = "histograph.encoder"
FORMAT_VERSION = 1


def save_encoder(
    path: str | os.PathLike[str],
    network: VisionTransformer,
    mean: Sequence[float],
    std: Sequence[float],
    mpp: float,
    tokens: str = "cls",
    name: str = "vit",
    card: str = "",
) -> None:
    """Write a Vision Transformer as a patch encoder: safetensors, numbers as float16, everything else as metadata.

    Parameters
    ----------
    path : str or os.PathLike
        The file; its folder must exist. `histograph/bundled/vit.safetensors` is what ``"histograph-vit"`` reads.
    network : VisionTransformer
        The encoder by itself, such as ``GCMAE(…).encoder()`` or ``DINO(…).teacher.backbone``.
    mean, std : sequence of 3 float
        Of red, green and blue on the scale 0 to 1, as in training.
    mpp : float
        Micrometres per pixel of the training images.
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"}
        What the vector of an image is made of: the class token, the mean of the squares, both, or the mean of all
        tokens.
    name : str
        Prefix of the feature names.
    card : str
        What it was trained on, with which licence, and how well it does; plain text.

    Raises
    ------
    ValueError
        When a number is out of its range, a weight is not finite in float16, or the images of the network are not
        square.
    TypeError
        When the network is no VisionTransformer.
    FileNotFoundError
        When the folder is missing.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from histograph.nn import VisionTransformer
    >>> vit = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=1, heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_encoder(f"{folder}/vit.safetensors", vit, (0.7, 0.5, 0.7), (0.2, 0.2, 0.2), mpp=1.0)
    ...     encoder = read_encoder(f"{folder}/vit.safetensors")
    >>> encoder.size_um, encoder.encode(np.zeros((3, 16, 16, 3), np.uint8)).shape
    (16.0, torch.Size([3, 12]))
    """
    import torch

    from histograph.methods.files import write_tensors
    from histograph.nn import VisionTransformer

    from .tokens import TokenVectors

    if not isinstance(network, VisionTransformer):
        raise TypeError(
            f"network must be a histograph.nn.VisionTransformer, found {type(network).__name__}; "
            "GCMAE has it as .encoder(), DINO as .teacher.backbone"
        )
    config = _config(network)
    vectors = TokenVectors(network, tokens, network.first)
    checked = PatchEncoder(vectors, mean, std, config["image_size"], mpp, name, network.patch_size)
    if checked.mpp is None:
        raise ValueError("mpp: give the pixel size of the training images; a user cannot find it out")
    half = {}
    for key, value in network.state_dict().items():
        half[key] = value.detach().to("cpu", torch.float16)
        if not torch.isfinite(half[key]).all():
            raise ValueError(f"network: {key} holds a value that is not finite in float16 (±65504)")
    facts = {
        "network": config,
        "mean": list(checked.mean),
        "std": list(checked.std),
        "mpp": float(checked.mpp),
        "size_px": config["image_size"],
        "tokens": tokens,
        "name": name,
    }
    write_tensors(path, half, FORMAT, FORMAT_VERSION, {"encoder": json.dumps(facts), "card": card})


def read_encoder(path: str | os.PathLike[str]) -> PatchEncoder:
    """Read what `save_encoder` wrote.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    PatchEncoder
        In evaluation mode and float32, on the CPU. It reads images of any multiple of its token's side.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is truncated, of another kind or version, or damaged.

    Examples
    --------
    >>> read_encoder("missing.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: path: no file at missing.safetensors
    """
    from histograph.methods.files import read_tensors
    from histograph.nn import VisionTransformer

    from .tokens import TokenVectors

    metadata, tensors = read_tensors(path, FORMAT, FORMAT_VERSION)
    try:
        facts = json.loads(metadata["encoder"])
        network = VisionTransformer(**facts["network"])
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
        vectors = TokenVectors(network, facts["tokens"], network.first).eval()
        return PatchEncoder(
            vectors,
            facts["mean"],
            facts["std"],
            facts["size_px"],
            facts["mpp"],
            facts["name"],
            network.patch_size,
            str(Path(path)),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}; write it again with save_encoder") from error


def _config(network: VisionTransformer) -> dict[str, Any]:
    """Give the arguments that build a network of this form again."""
    import torch

    rows, columns = network.grid
    if rows != columns:
        raise ValueError(f"network: its images must be square, found a grid of {rows} x {columns} tokens")
    block: Any = network.blocks[0]
    hidden = block.mlp.fc1.out_features
    scaled = hasattr(block.ls1, "gamma")
    return {
        "image_size": rows * network.patch_size,
        "patch_size": network.patch_size,
        "dim": network.dim,
        "depth": len(network.blocks),
        "heads": block.attn.heads,
        "mlp_ratio": hidden / network.dim,
        "channels": network.channels,
        "positions": "learned" if isinstance(network.pos_embed, torch.nn.Parameter) else "sincos",
        "eps": network.norm.eps,
        "interpolation_offset": network.interpolation_offset,
        "antialias": network.antialias,
        "layer_scale": 1.0 if scaled else None,
        "registers": network.first - 1,
    }
