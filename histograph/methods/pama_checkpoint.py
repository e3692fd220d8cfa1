"""Weights of the released PAMA code and ours, converted in both directions without changing a bit.

The released networks here have the released names and shapes, so nothing is renamed; what has to be found out are the
sizes. The default form of :class:`histograph.methods.PAMA` has another architecture and no released counterpart.
"""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .pama import PAMA
from .pama_released import ReleasedPAMA
from .pama_released_classifier import ReleasedPAMAClassifier
from .released_weights import check_fit, count_blocks, find_weights
from .torch_files import read_torch_file, some

ADVICE = (
    "where you trust it, save its weights alone with torch.save(checkpoint['state_dict'], ...) and load that"
)
# settings that no shape tells, as released, of the pre-training network and of the downstream model
_PRETRAINING = {"mask_ratio": 0.75, "normalise_target": False, "dropout": 0.0, "drop_path": 0.0}
_DOWNSTREAM = {"dropout": 0.15, "drop_path": 0.15}
_BOTH = {"anchor_dropout": 0.2, "patches_per_anchor": 144.0, "num_anchors": None}


def to_released(method: PAMA | ReleasedPAMAClassifier) -> dict[str, Tensor]:
    """Give the weights under the names and in the shapes of the released code.

    Parameters
    ----------
    method : PAMA or ReleasedPAMAClassifier
        PAMA made with ``official_compat=True``, or the downstream model.

    Returns
    -------
    dict of str to Tensor
        Copies on the CPU, in the released order: 97 tensors for the released sizes, 64 of the downstream model.

    Raises
    ------
    ValueError
        If the method is not in the released form.

    Examples
    --------
    >>> sizes = {"hidden_dim": 8, "heads": 2, "decoder_dim": 4}
    >>> weights = to_released(PAMA(6, **sizes, official_compat=True))
    >>> len(weights), weights["blocks.0.attn.dis_embed.weight"].shape
    (97, torch.Size([66, 2]))
    """
    network = getattr(method, "released", None)
    if not isinstance(method, PAMA | ReleasedPAMAClassifier) or network is None:
        raise ValueError(
            "method must be a PAMA made with official_compat=True or a ReleasedPAMAClassifier, found "
            f"{'one of the default form' if isinstance(method, PAMA) else type(method).__name__}; "
            "the default form has another architecture and no released counterpart"
        )
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def load_released(
    source: str | os.PathLike[str] | Mapping[str, Any], **settings: Any
) -> PAMA | ReleasedPAMAClassifier:
    """Build the released network from a checkpoint of the released code.

    All sizes come from the shapes: the width of the features from ``patch_embed.weight``, heads from the tables of
    distances. A checkpoint with a head gives the downstream model.

    Parameters
    ----------
    source : path-like or mapping
        A file of ``torch.save`` (opened without running code from it), or its content: a bare state dict, or a
        checkpoint with one under ``state_dict``. Names may begin with ``module.``.
    **settings
        What shapes do not tell, by the names of :class:`PAMA`: ``anchor_dropout`` (0.2 as released),
        ``patches_per_anchor`` (144, as the paper recommends), ``num_anchors``, ``dropout`` and ``drop_path`` (0, or
        0.15 in the downstream model); and for pre-training ``mask_ratio`` (0.75) and ``normalise_target`` (False).

    Returns
    -------
    PAMA or ReleasedPAMAClassifier
        PAMA with ``official_compat=True``, or the downstream model; in evaluation mode, on the CPU.

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
    >>> sizes = {"hidden_dim": 8, "heads": 2, "decoder_dim": 4}
    >>> weights = to_released(PAMA(6, **sizes, official_compat=True))
    >>> method = load_released({"epoch": 100, "state_dict": weights}, mask_ratio=0.5)
    >>> method.config["node_dim"], method.config["decoder_layers"], method.config["mask_ratio"]
    (6, 2, 0.5)
    """
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", ADVICE)
    weights = find_weights(content, ("state_dict",), "PAMA")
    downstream = "head.weight" in weights
    known = _BOTH | (_DOWNSTREAM if downstream else _PRETRAINING)
    for name in settings:
        if name not in known:
            raise TypeError(
                f"{name} is not a setting of the released PAMA's {'downstream' if downstream else 'pre-training'} "
                f"network that is asked for; known are {', '.join(known)}. Sizes are read from the checkpoint"
            )
    arguments = _sizes(weights, downstream) | known | settings
    method: PAMA | ReleasedPAMAClassifier
    if downstream:
        method = ReleasedPAMAClassifier(**arguments)
    else:
        method = PAMA(**arguments, official_compat=True)
    _fill(method, weights)
    return method.eval()


def _sizes(weights: dict[str, Tensor], downstream: bool) -> dict[str, Any]:
    """Infer the constructor's sizes from the shapes."""
    keys = {
        "node_dim": ("patch_embed.weight", 1),
        "hidden_dim": ("patch_embed.weight", 0),
        "heads": ("blocks.0.attn.dis_embed.weight", 1),
        "inner": ("blocks.0.mlp.fc1.weight", 0),
    }
    if downstream:
        keys["classes"] = "head.weight", 0
    else:
        keys["decoder_dim"] = "decoder_embed.weight", 0
        keys["decoder_heads"] = "decoder_blocks.0.attn.dis_embed.weight", 1
    needed = dict.fromkeys(key for key, _ in keys.values())
    missing = [key for key in needed if key not in weights or weights[key].dim() != 2]
    if missing:
        raise ValueError(
            f"source lacks {some(missing)}, which tell the sizes of a released PAMA; it has {some(list(weights))}"
        )
    sizes: dict[str, Any] = {name: weights[key].shape[axis] for name, (key, axis) in keys.items()}
    sizes["mlp_ratio"] = sizes.pop("inner") / sizes["hidden_dim"]
    sizes["layers"] = count_blocks(weights, "blocks")
    if not downstream:
        sizes["decoder_layers"] = count_blocks(weights, "decoder_blocks")
    return sizes


def _fill(method: PAMA | ReleasedPAMAClassifier, weights: dict[str, Tensor]) -> None:
    """Copy released weights into the method after checking names and shapes."""
    network = method.released
    expected = {} if network is None else network.state_dict()
    config = method.config
    kind = "pre-training network" if isinstance(network, ReleasedPAMA) else "downstream model"
    check_fit(
        weights,
        expected,
        f"PAMA, {kind} of {config['layers']} blocks",
        f"that do not fit node_dim {config['node_dim']}, hidden_dim {config['hidden_dim']} and heads {config['heads']}",
    )
    for name, value in expected.items():
        value.copy_(weights[name])
