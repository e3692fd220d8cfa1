"""Checkpoints of released code, of whichever method: recognised by their keys, and written for the method at hand."""

import os
from collections.abc import Mapping
from typing import Any

from . import dino_checkpoint, gcmae_checkpoint, hmgdm_checkpoint, pama_checkpoint, slpd_checkpoint
from .base import Method
from .dino import DINO
from .gcmae import GCMAE
from .hmgdm import HMGDM
from .pama import PAMA
from .pama_released_classifier import ReleasedPAMAClassifier
from .slpd import SLPD
from .torch_files import read_torch_file, some

# where checkpoints keep their weights, and a tensor that every checkpoint of a family has
_HOLDERS = ("state_dict", "model", "Diffmodel", "teacher", "student")
_HMGDM, _PAMA, _DINO = "x_embedding.0.weight", "kernel_token", "backbone.cls_token"
_GCMAE = "lemniscate.memory"
# of HIPT too; with its prefix, or by itself where a backbone was saved alone
_SLPD = {"backbone.phi.0.weight", "phi.0.weight"}
_ADVICE = "where you trust it, save its weights alone with torch.save(checkpoint[...], ...) and load that"


def load_released(source: str | os.PathLike[str] | Mapping[str, Any], **settings: Any) -> Method:
    """Build a method in its released form from a checkpoint of the released code.

    Which method it is, and all sizes, come from the checkpoint. The default forms have other architectures and cannot
    be made from released checkpoints.

    Parameters
    ----------
    source : path-like or mapping
        A file of ``torch.save`` (opened without running code from it), or its content: a bare state dict, or a
        checkpoint that holds one. Names may begin with ``module.``.
    **settings
        What a checkpoint does not tell, as released by default. H-MGDM: ``heads``, ``theta``, ``node_mask_ratio``,
        ``edge_mask_ratio``, ``target``, ``pooling``. PAMA: ``anchor_dropout``, ``patches_per_anchor``,
        ``num_anchors``, ``dropout``, ``drop_path``, and in pre-training ``mask_ratio`` and ``normalise_target``. DINO:
        ``heads``, ``mean``, ``std``, views and schedules, see :class:`DINO`. GCMAE and SLPD: see
        :func:`histograph.methods.gcmae_checkpoint.load_released` and
        :func:`histograph.methods.slpd_checkpoint.load_released`, which reads the second stage of HIPT too.

    Returns
    -------
    HMGDM, PAMA, GCMAE, ReleasedPAMAClassifier, SLPD or DINO
        With ``official_compat=True``, in evaluation mode, on the CPU; the classifier for a PAMA that was fine-tuned.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If a setting is not known.
    ValueError
        If the file cannot be read safely, is of no known method, or keys are missing, unexpected or of the wrong
        shape.

    Examples
    --------
    >>> weights = to_released(HMGDM(6, 4, hidden_dim=8, embed_dim=12, official_compat=True))
    >>> type(load_released({"model": weights, "epoch": 250})).__name__
    'HMGDM'
    >>> sizes = {"hidden_dim": 8, "heads": 2, "decoder_dim": 4}
    >>> weights = to_released(PAMA(6, **sizes, standardise=False, official_compat=True))
    >>> load_released({"state_dict": weights, "epoch": 100}).config["node_dim"]
    6
    """
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", _ADVICE)
    held = [content[name] for name in _HOLDERS if isinstance(content.get(name), Mapping)]
    keys = {str(key).removeprefix("module.") for weights in [content, *held] for key in weights}
    if _HMGDM in keys:
        return hmgdm_checkpoint.load_released(content, **settings)
    if _GCMAE in keys:
        return gcmae_checkpoint.load_released(content, **settings)
    if _PAMA in keys:
        return pama_checkpoint.load_released(content, **settings)
    if _SLPD & keys:
        return slpd_checkpoint.load_released(content, **settings)
    if _DINO in keys:
        return dino_checkpoint.load_released(content, **settings)
    raise ValueError(
        f"source must hold the weights of a released H-MGDM (with {_HMGDM}), PAMA (with {_PAMA}), GCMAE (with "
        f"{_GCMAE}), SLPD or HIPT (with backbone.phi.0.weight) or DINO (with {_DINO}), by themselves or under "
        f"{', '.join(map(repr, _HOLDERS))}; found the keys {some(sorted(keys))}"
    )


def to_released(method: Method) -> dict[str, Any]:
    """Give the weights under the names and in the shapes of the released code.

    Parameters
    ----------
    method : HMGDM, PAMA, GCMAE, ReleasedPAMAClassifier, SLPD or DINO
        Made with ``official_compat=True``; DINO of either form, for they have the same weights.

    Returns
    -------
    dict of str to Tensor
        Copies on the CPU, in the released order; of DINO and SLPD one each for ``"student"``, ``"teacher"`` and
        ``"dino_loss"``.

    Raises
    ------
    ValueError
        If the method is not in a released form.

    Examples
    --------
    >>> method = HMGDM(6, 4, hidden_dim=8, embed_dim=12, official_compat=True)
    >>> weights = to_released(method)
    >>> len(weights), weights["context_encoder.convs.0.lin.weight"].shape
    (242, torch.Size([8, 12]))
    """
    if isinstance(method, PAMA | ReleasedPAMAClassifier):
        return pama_checkpoint.to_released(method)
    if isinstance(method, GCMAE):
        return gcmae_checkpoint.to_released(method)
    if isinstance(method, HMGDM):
        return hmgdm_checkpoint.to_released(method)
    if isinstance(method, SLPD):
        return slpd_checkpoint.to_released(method)
    if isinstance(method, DINO):
        return dino_checkpoint.to_released(method)
    raise ValueError(
        "method must be an HMGDM, GCMAE, SLPD or PAMA made with official_compat=True, or a DINO, found "
        f"{type(method).__name__}"
    )
