"""Weights of the released GCMAE code and ours, converted in both directions without changing a bit.

The network has the released names; only the bank is called ``lemniscate`` there.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .gcmae import GCMAE
from .gcmae_released import ReleasedBank
from .released_weights import check_fit, count_blocks, find_weights
from .torch_files import read_torch_file, some

ADVICE = "where you trust it, save its weights alone with torch.save(checkpoint['model'], ...) and load that"
# what no shape tells, as released
_SETTINGS = {
    "mask_ratio": 0.5,
    "normalise_target": True,
    "contrast_weight": 0.1,
    "pooling": None,
    "crop_scale": (0.2, 1.0),
    "orientations": None,
}
# where the tensors of a released file that are no part of a layer stand
_HEAD = ("cls_token", "pos_embed", "mask_token", "decoder_pos_embed")
_STACKS = ("patch_embed", "blocks", "norm", "lemniscate", "decoder_embed", "decoder_blocks", "decoder_norm")


def to_released(method: GCMAE) -> dict[str, Tensor]:
    """Give the weights and the bank under the names and in the shapes of the released code.

    Parameters
    ----------
    method : GCMAE
        Made with ``official_compat=True``.

    Returns
    -------
    dict of str to Tensor
        Copies on the CPU, in the released order: 256 tensors for the released sizes.

    Raises
    ------
    ValueError
        If the method is not in the released form.

    Examples
    --------
    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    >>> weights = to_released(GCMAE(16, 8, **sizes, official_compat=True))
    >>> len(weights), weights["lemniscate.params"].shape
    (40, torch.Size([4]))
    """
    if not isinstance(method, GCMAE) or not isinstance(method.bank, ReleasedBank):
        raise ValueError(
            "method must be a GCMAE made with official_compat=True and a bank (contrast_weight above 0), found "
            f"{'one of another form' if isinstance(method, GCMAE) else type(method).__name__}; "
            "its encoder alone is method.encoder()"
        )
    bank = {f"lemniscate.{name}": method.bank.state_dict()[name] for name in ("params", "memory")}
    weights = method.network.state_dict() | bank
    names = sorted(weights, key=lambda name: _rank(name))  # keeps the order inside a layer
    return {name: weights[name].detach().cpu().clone() for name in names}


def load_released(source: str | os.PathLike[str] | Mapping[str, Any], **settings: Any) -> GCMAE:
    """Build the released form from a checkpoint of the released code.

    Sizes come from the shapes; negatives, temperature and momentum from ``lemniscate.params``.

    Parameters
    ----------
    source : path-like or mapping
        A file of ``torch.save`` (opened without running code from it), or its content: a bare state dict, or a
        checkpoint with one under ``model``. Names may begin with ``module.``.
    **settings
        What shapes do not tell, by the names of :class:`GCMAE`: ``heads`` (dim / 64 as released) and
        ``decoder_heads`` (16), ``mask_ratio`` (0.5), ``normalise_target`` (True), ``contrast_weight`` (0.1),
        ``pooling``, ``crop_scale``, ``orientations``, and ``mean`` and ``std``.

    Returns
    -------
    GCMAE
        With ``official_compat=True``, in evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If a setting is not known.
    ValueError
        If the file cannot be read safely, or keys are missing, unexpected or of the wrong shape.

    Examples
    --------
    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    >>> weights = to_released(GCMAE(16, 8, **sizes, negatives=7, official_compat=True))
    >>> method = load_released({"model": weights, "epoch": 79}, heads=2, decoder_heads=2)
    >>> method.config["image_size"], method.config["negatives"]
    (16, 7)
    """
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", ADVICE)
    weights = find_weights(content, ("model",), "GCMAE")
    known = {"heads", "decoder_heads", "mean", "std", *_SETTINGS}
    for name in settings:
        if name not in known:
            raise TypeError(
                f"{name} is not a setting of the released GCMAE; known are {', '.join(sorted(known))}. "
                "Sizes are read from the checkpoint"
            )
    method = GCMAE(**(_sizes(weights) | _SETTINGS | settings), official_compat=True)
    _fill(method, weights)
    return method.eval()


def _rank(name: str) -> int:
    """Give the place of a tensor's layer in a released file."""
    if name in _HEAD:
        return _HEAD.index(name)
    layer = name.split(".")[0]
    return len(_HEAD) + (_STACKS.index(layer) if layer in _STACKS else len(_STACKS))


def _sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Infer the constructor's arguments from shapes and from the bank."""
    dims = {
        "pos_embed": 3,
        "patch_embed.proj.weight": 4,
        "blocks.0.mlp.fc1.weight": 2,
        "decoder_embed.weight": 2,
        "decoder_blocks.0.norm1.weight": 1,
        "lemniscate.params": 1,
        "lemniscate.memory": 2,
    }
    missing = [name for name, dim in dims.items() if name not in weights or weights[name].dim() != dim]
    if missing:
        raise ValueError(
            f"source lacks {some(missing)}, which tell the sizes of a released GCMAE; it has {some(list(weights))}"
        )
    dim, _, _, patch = weights["patch_embed.proj.weight"].shape
    side = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    decoder = weights["decoder_embed.weight"].shape[0]
    negatives, temperature, _, momentum = weights["lemniscate.params"].tolist()
    return {
        "image_size": side * patch,
        "patch_size": patch,
        "dim": dim,
        "depth": count_blocks(weights, "blocks"),
        "heads": max(dim // 64, 1),
        "decoder_dim": decoder,
        "decoder_depth": count_blocks(weights, "decoder_blocks"),
        "decoder_heads": 16,
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        "negatives": int(negatives),
        "temperature": temperature,
        "bank_momentum": momentum,
    }


def _fill(method: GCMAE, weights: dict[str, Tensor]) -> None:
    """Copy released weights and the bank into the method after checking names and shapes."""
    expected = to_released(method)
    # the bank has a row for each patch that the network was trained on
    expected["lemniscate.memory"] = torch.empty(len(weights["lemniscate.memory"]), method.config["dim"])
    check_fit(
        weights,
        expected,
        f"GCMAE of {method.config['depth']} blocks",
        f"that do not fit dim {method.config['dim']} and patch_size {method.config['patch_size']}",
    )
    bank = {
        name.removeprefix("lemniscate."): value for name, value in weights.items() if "lemniscate." in name
    }
    method.network.load_state_dict({name: weights[name] for name in method.network.state_dict()})
    if method.bank is not None:
        method.bank.load_state_dict(bank)
