"""Checkpoints of the released HIPT (its second stage) and SLPD and ours, converted without changing a bit.

Both have one architecture: a student and a teacher of a region transformer and a head. What has to be found out are the
sizes; the number of heads is in no shape.
"""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
from .slpd import SLPD
from .torch_files import read_torch_file

# what no shape tells, by the names of SLPD
_SETTINGS = (
    "heads",
    "drop_path",
    "region_size",
    "local_size",
    "local_views",
    "turns",
    "student_temperature",
    "teacher_temperature",
    "warmup_teacher_temperature",
    "temperature_epochs",
    "center_momentum",
    "momentum",
    "weight_decay_growth",
    "freeze_epochs",
    "prototypes",
    "min_regions",
    "neighbors",
    "match",
    "intra_weight",
    "inter_weight",
    "start_epoch",
    "refresh_every",
    "warm_start",
    "assignment",
    "coherence",
    "exclude_same_patient",
)
# numbers for each head, and sides in patches of regions, global and local views, as published
_HEAD_WIDTH, _REGION, _GLOBAL, _LOCAL = 32, 16, 14, 6


def to_released(method: SLPD) -> dict[str, dict[str, Tensor]]:
    """Give student, teacher and the centre of the first loss under the names and in the shapes of the released code.

    Parameters
    ----------
    method : SLPD
        Made with ``official_compat=True``, for other positions are interpolated otherwise; without a scale of features,
        which released networks do not have. Prototypes and their centres are not in released checkpoints.

    Returns
    -------
    dict of str to dict of str to Tensor
        ``"student"`` (names with ``module.``), ``"teacher"`` and ``"dino_loss"`` with ``"center"``; copies on the CPU.

    Raises
    ------
    TypeError
        If the method is no SLPD.
    ValueError
        If it is not in the released form.

    Examples
    --------
    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "out_dim": 8, "head_dim": 4, "bottleneck_dim": 2}
    >>> checkpoint = to_released(SLPD(5, official_compat=True, **sizes))
    >>> sorted(checkpoint), checkpoint["teacher"]["backbone.phi.0.weight"].shape
    (['dino_loss', 'student', 'teacher'], torch.Size([8, 5]))
    """
    if not isinstance(method, SLPD):
        raise TypeError(f"method must be an SLPD, found {type(method).__name__}")
    if not method.config["official_compat"] or method.scale is not None:
        raise ValueError(
            "method must be an SLPD made with official_compat=True and without standardise: the released code has no "
            "scale of features and interpolates positions otherwise"
        )
    return branch_weights(method)


def load_released(source: str | os.PathLike[str] | Mapping[str, Any], **settings: Any) -> SLPD:
    """Build SLPD from a checkpoint of the released HIPT or SLPD, such as ``vit4k_xs_dino.pth``.

    Parameters
    ----------
    source : path-like or mapping
        A file of ``torch.save`` (opened without running code from it), or its content: a training checkpoint with
        ``teacher`` and perhaps ``student`` and ``dino_loss``, or the state dict of one network. Names may begin with
        ``module.``, and those of a bare backbone need no ``backbone.``. Where the student is missing it is the
        teacher; a network without a head gets one with random weights and 65,536 outputs.
    **settings
        What a checkpoint does not tell, by the names of :class:`SLPD`: ``heads`` (32 numbers for each by default),
        views, temperatures, schedules, and prototypes.

    Returns
    -------
    SLPD
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
    >>> method = load_released(to_released(SLPD(5, official_compat=True, **sizes)), heads=2)
    >>> method.config["feature_dim"], method.config["global_size"]
    (5, 14)
    """
    check_settings(settings, _SETTINGS, "SLPD")
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", ADVICE)
    networks = find_branches(content)
    sizes = _sizes(networks["teacher"])
    side = sizes["global_size"]
    own = {"heads": max(sizes["dim"] // _HEAD_WIDTH, 1), "local_size": max(side * _LOCAL // _GLOBAL, 1)}
    own["region_size"] = side * _REGION // _GLOBAL
    method = SLPD(**sizes, **(own | settings), official_compat=True)
    fill_branches(method, networks, content, "SLPD")
    return method.eval()


def _sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Infer the constructor's sizes from the shapes."""
    projection, inner = "backbone.phi.0.weight", "backbone.blocks.0.mlp.fc1.weight"
    check_telling(weights, {projection: 2, "backbone.pos_embed": 3, inner: 2}, "SLPD")
    dim, feature_dim = weights[projection].shape
    sizes: dict[str, Any] = {"feature_dim": feature_dim, "dim": dim, "global_size": grid_side(weights)}
    sizes["depth"] = count_blocks(weights, "backbone.blocks")
    sizes["mlp_ratio"] = weights[inner].shape[0] / dim
    return sizes | head_sizes(weights)
