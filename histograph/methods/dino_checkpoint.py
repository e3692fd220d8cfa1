"""Checkpoints of the released DINO code and ours, converted in both directions without changing a bit.

Student and teacher here have the released names and shapes, so only prefixes change. What has to be found out are the
sizes; the number of heads is in no shape.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .dino import DINO
from .released_weights import check_fit, count_blocks
from .torch_files import read_torch_file, some

ADVICE = (
    "where you trust it, save {name: checkpoint[name] for name in ('student', 'teacher', 'dino_loss')} with torch.save "
    "and load that"
)
_BACKBONE, _HEAD = "backbone.", "head."
# weight normalisation under the names of newer versions of torch
_RENAMED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
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
    copied = {name: value.detach().cpu().clone() for name, value in method.state_dict().items()}
    teacher = {
        name.removeprefix("teacher."): value for name, value in copied.items() if name.startswith("teacher.")
    }
    student = {
        name.replace("student.", "module.", 1): value
        for name, value in copied.items()
        if name.startswith("student.")
    }
    return {"student": student, "teacher": teacher, "dino_loss": {"center": copied["loss.center"]}}


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
    for name in settings:
        if name not in _SETTINGS:
            raise TypeError(
                f"{name} is not a setting that the released DINO is asked for; known are {', '.join(_SETTINGS)}. "
                "Sizes are read from the checkpoint"
            )
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", ADVICE)
    networks = {name: _named(content[name]) for name in ("teacher", "student") if _holds(content.get(name))}
    if not networks:
        networks = {"teacher": _named(content)}
    networks.setdefault("teacher", networks.get("student", {}))
    networks.setdefault("student", networks["teacher"])
    headless = not any(name.startswith(_HEAD) for name in networks["teacher"])
    sizes = _sizes(networks["teacher"], headless)
    settings = {"heads": sizes["dim"] // _HEAD_WIDTH or 1} | settings
    if "local_size" not in settings:
        patch = sizes["patch_size"]
        settings["local_size"] = max(round(sizes["image_size"] * 96 / 224 / patch), 1) * patch
    method = DINO(**sizes, **settings, official_compat=True)
    for name, weights in networks.items():
        _fill(getattr(method, name), weights, headless, name)
    if headless:
        method.teacher.head.load_state_dict(method.student.head.state_dict())
    kept = content.get("dino_loss")
    center = kept.get("center") if isinstance(kept, Mapping) else None
    if isinstance(center, Tensor):
        if center.shape != method.loss.center.shape:
            raise ValueError(
                f"source: dino_loss.center must have shape {tuple(method.loss.center.shape)}, "
                f"found {tuple(center.shape)}"
            )
        method.loss.center.copy_(center)
    return method.eval()


def _holds(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _named(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take prefixes of parallel training off, and give backbone and head the names that they have here."""
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = str(key).removeprefix("module.")
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        if isinstance(value, Tensor):
            found[name] = value
    if not any(name.startswith(_BACKBONE) for name in found):
        found = {name if name.startswith(_HEAD) else _BACKBONE + name: value for name, value in found.items()}
    return found


def _sizes(weights: dict[str, Tensor], headless: bool) -> dict[str, Any]:
    """Infer the constructor's sizes from the shapes."""
    projection, inner = "backbone.patch_embed.proj.weight", "backbone.blocks.0.mlp.fc1.weight"
    expected = {projection: 4, "backbone.pos_embed": 3, inner: 2}
    if not headless:
        expected["head.last_layer.weight_v"] = 2
    missing = [name for name, dims in expected.items() if name not in weights or weights[name].dim() != dims]
    if missing:
        raise ValueError(
            f"source lacks {some(missing)}, which tell the sizes of a released DINO; it has {some(list(weights))}"
        )
    dim, _, patch, _ = weights[projection].shape
    places = weights["backbone.pos_embed"].shape[1] - 1
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(f"source: backbone.pos_embed must be of a square grid, found {places} places")
    sizes: dict[str, Any] = {"image_size": side * patch, "patch_size": patch, "dim": dim}
    sizes["depth"] = count_blocks(weights, "backbone.blocks")
    sizes["mlp_ratio"] = weights[inner].shape[0] / dim
    if not headless:
        linear = sorted(
            (name for name in weights if re.fullmatch(r"head\.mlp(\.\d+)?\.weight", name)), key=_number
        )
        prototypes = weights["head.last_layer.weight_v"]
        sizes |= {"out_dim": prototypes.shape[0], "bottleneck_dim": prototypes.shape[1]}
        sizes["head_layers"] = len(linear)
        if len(linear) > 1:
            sizes["head_dim"] = weights[linear[0]].shape[0]
    return sizes


def _number(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0


@torch.no_grad()
def _fill(branch: torch.nn.Module, weights: dict[str, Tensor], headless: bool, which: str) -> None:
    """Copy weights into the student or the teacher after checking names and shapes."""
    expected = branch.state_dict()
    if headless:
        expected = {name: value for name, value in expected.items() if name.startswith(_BACKBONE)}
    check_fit(weights, expected, f"DINO ({which})", f"of the {which} that do not fit its sizes")
    for name, value in expected.items():
        value.copy_(weights[name])
