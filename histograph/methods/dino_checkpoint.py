"""Checkpoints of the released DINO code and ours, converted in both directions without changing a bit.

Student and teacher here have the released names and shapes, so only prefixes change. What has to be found out are the
sizes; the number of heads is in no shape.
"""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .dino import DINO
from .distilled_weights import (
    ADVICE,
    branch_weights,
    check_settings,
    check_telling,
    fill_branches,
    find_branches,
    grid_side,
    head_sizes,
)
from .released_weights import count_blocks
from .torch_files import read_torch_file

# what no shape tells, by the names of DINO
_SETTINGS = (
    "heads",
    "drop_path",
    "local_size",
    "local_views",
    "global_scale",
    "local_scale",
    "student_temperature",
    "teacher_temperature",
    "warmup_teacher_temperature",
    "temperature_epochs",
    "center_momentum",
    "momentum",
    "weight_decay_growth",
    "freeze_epochs",
    "mean",
    "std",
)
# numbers for each head, in all published sizes
_HEAD_WIDTH = 64


def to_released(method: DINO) -> dict[str, dict[str, Tensor]]:
    """Give student, teacher and centre under the names and in the shapes of the released code.

    Parameters
    ----------
    method : DINO
        Of either form.

    Returns
    -------
    dict of str to dict of str to Tensor
        ``"student"`` (names with ``module.``), ``"teacher"`` and ``"dino_loss"`` with ``"center"``; copies on the CPU.

    Raises
    ------
    TypeError
        If the method is no DINO.

    Examples
    --------
    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "out_dim": 8, "head_dim": 4, "bottleneck_dim": 2}
    >>> checkpoint = to_released(DINO(16, 8, local_size=8, **sizes))
    >>> sorted(checkpoint), checkpoint["student"]["module.head.last_layer.weight_v"].shape
    (['dino_loss', 'student', 'teacher'], torch.Size([8, 2]))
    """
    if not isinstance(method, DINO):
        raise TypeError(f"method must be a DINO, found {type(method).__name__}")
    return branch_weights(method)


def load_released(source: str | os.PathLike[str] | Mapping[str, Any], **settings: Any) -> DINO:
    """Build DINO from a checkpoint of the released code.

    Parameters
    ----------
    source : path-like or mapping
        A file of ``torch.save`` (opened without running code from it), or its content: a training checkpoint with
        ``teacher`` and perhaps ``student`` and ``dino_loss``, or the state dict of one network. Names may begin with
        ``module.``, and those of a bare backbone need no ``backbone.``. Where the student is missing it is the
        teacher; a network without a head gets one with random weights and 65,536 prototypes.
    **settings
        What a checkpoint does not tell, by the names of :class:`DINO`: ``heads`` (64 numbers for each by default),
        ``mean`` and ``std`` (those of ImageNet; the published numbers on histology were made with 0.5), views and
        schedules.

    Returns
    -------
    DINO
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
    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "out_dim": 8, "head_dim": 4, "bottleneck_dim": 2}
    >>> checkpoint = to_released(DINO(16, 8, local_size=8, **sizes))
    >>> method = load_released(checkpoint, heads=2, local_size=8)
    >>> method.config["dim"], method.config["image_size"]
    (8, 16)
    """
    check_settings(settings, _SETTINGS, "DINO")
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", ADVICE)
    networks = find_branches(content)
    sizes = _sizes(networks["teacher"])
    settings = {"heads": sizes["dim"] // _HEAD_WIDTH or 1} | settings
    if "local_size" not in settings:
        patch = sizes["patch_size"]
        settings["local_size"] = max(round(sizes["image_size"] * 96 / 224 / patch), 1) * patch
    method = DINO(**sizes, **settings, official_compat=True)
    fill_branches(method, networks, content, "DINO")
    return method.eval()


def _sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Infer the constructor's sizes from the shapes."""
    projection, inner = "backbone.patch_embed.proj.weight", "backbone.blocks.0.mlp.fc1.weight"
    check_telling(weights, {projection: 4, "backbone.pos_embed": 3, inner: 2}, "DINO")
    dim, _, patch, _ = weights[projection].shape
    sizes: dict[str, Any] = {"image_size": grid_side(weights) * patch, "patch_size": patch, "dim": dim}
    sizes["depth"] = count_blocks(weights, "backbone.blocks")
    sizes["mlp_ratio"] = weights[inner].shape[0] / dim
    return sizes | head_sizes(weights)
