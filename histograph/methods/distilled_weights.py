"""Student and teacher of released self-distillation, DINO and what is built on it: found, sized and filled in.

Student and teacher here have the released names and shapes, so only prefixes change.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .distillation import SelfDistillation
from .released_weights import check_fit
from .torch_files import some

BACKBONE, _HEAD = "backbone.", "head."
# weight normalisation under the names of newer versions of torch
_RENAMED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
ADVICE = (
    "where you trust it, save {name: checkpoint[name] for name in ('student', 'teacher', 'dino_loss')} with torch.save "
    "and load that"
)


def branch_weights(method: SelfDistillation) -> dict[str, dict[str, Tensor]]:
    """Give student, teacher and centre under the names and in the shapes of the released code.

    Parameters
    ----------
    method : SelfDistillation
        With the released architecture.

    Returns
    -------
    dict of str to dict of str to Tensor
        ``"student"`` (names with ``module.``), ``"teacher"`` and ``"dino_loss"`` with ``"center"``; copies on the CPU.

    Examples
    --------
    >>> from histograph.methods import DINO
    >>> sizes = {"dim": 8, "depth": 1, "heads": 2, "out_dim": 8, "head_dim": 4, "bottleneck_dim": 2}
    >>> sorted(branch_weights(DINO(16, 8, local_size=8, **sizes)))
    ['dino_loss', 'student', 'teacher']
    """
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


def find_branches(content: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Find student and teacher in a checkpoint, under the names that they have here.

    Parameters
    ----------
    content : mapping
        A training checkpoint with ``teacher`` and perhaps ``student``, or the state dict of one network. Names may
        begin with ``module.``, and those of a bare backbone need no ``backbone.``.

    Returns
    -------
    dict of str to dict of str to Tensor
        ``"teacher"`` and ``"student"``, the same where there is one alone.

    Examples
    --------
    >>> found = find_branches({"module.cls_token": torch.zeros(1)})
    >>> list(found["teacher"]), found["student"] is found["teacher"]
    (['backbone.cls_token'], True)
    """
    networks = {name: _named(content[name]) for name in ("teacher", "student") if _holds(content.get(name))}
    if not networks:
        networks = {"teacher": _named(content)}
    networks.setdefault("teacher", networks.get("student", {}))
    networks.setdefault("student", networks["teacher"])
    return networks


def has_head(weights: Mapping[str, Tensor]) -> bool:
    """Say whether a network has a head.

    Parameters
    ----------
    weights : mapping
        As of :func:`find_branches`.

    Returns
    -------
    bool
        Whether a name begins with ``head.``.

    Examples
    --------
    >>> has_head({"backbone.cls_token": torch.zeros(1)})
    False
    """
    return any(name.startswith(_HEAD) for name in weights)


def check_telling(weights: Mapping[str, Tensor], dims: Mapping[str, int], method: str) -> None:
    """Refuse weights without the tensors that tell the sizes of a network.

    Parameters
    ----------
    weights : mapping
        As of :func:`find_branches`.
    dims : mapping of str to int
        Names of these tensors and their numbers of dimensions; that of the head is added where there is one.
    method : str
        Name of the method, for the error.

    Raises
    ------
    ValueError
        If one is missing, or has other dimensions.

    Examples
    --------
    >>> check_telling({"backbone.pos_embed": torch.zeros(1, 5, 8)}, {"backbone.pos_embed": 3}, "DINO")
    """
    expected = dict(dims) | ({"head.last_layer.weight_v": 2} if has_head(weights) else {})
    missing = [name for name, dim in expected.items() if name not in weights or weights[name].dim() != dim]
    if missing:
        raise ValueError(
            f"source lacks {some(missing)}, which tell the sizes of a released {method}; it has "
            f"{some(list(weights))}"
        )


def grid_side(weights: Mapping[str, Tensor]) -> int:
    """Give the side of the square grid that positions were learned for.

    Parameters
    ----------
    weights : mapping
        With ``backbone.pos_embed``.

    Returns
    -------
    int
        In tokens.

    Raises
    ------
    ValueError
        If the grid is not square.

    Examples
    --------
    >>> grid_side({"backbone.pos_embed": torch.zeros(1, 1 + 14 * 14, 2)})
    14
    """
    places = weights["backbone.pos_embed"].shape[1] - 1
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(f"source: backbone.pos_embed must be of a square grid, found {places} places")
    return side


def head_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Infer the arguments of the head from the shapes.

    Parameters
    ----------
    weights : mapping
        As of :func:`find_branches`.

    Returns
    -------
    dict of str to int
        Empty where there is no head.

    Examples
    --------
    >>> sizes = {"head.mlp.weight": (3, 8), "head.last_layer.weight_v": (5, 3)}
    >>> head_sizes({name: torch.zeros(shape) for name, shape in sizes.items()})
    {'out_dim': 5, 'bottleneck_dim': 3, 'head_layers': 1}
    """
    if not has_head(weights):
        return {}
    linear = sorted(
        (name for name in weights if re.fullmatch(r"head\.mlp(\.\d+)?\.weight", name)), key=_number
    )
    prototypes = weights["head.last_layer.weight_v"]
    sizes = {
        "out_dim": prototypes.shape[0],
        "bottleneck_dim": prototypes.shape[1],
        "head_layers": len(linear),
    }
    if len(linear) > 1:
        sizes["head_dim"] = weights[linear[0]].shape[0]
    return sizes


@torch.no_grad()
def fill_branches(
    method: SelfDistillation,
    networks: Mapping[str, Mapping[str, Tensor]],
    content: Mapping[str, Any],
    name: str,
) -> None:
    """Copy student, teacher and centre into a method, after names and shapes are checked.

    Parameters
    ----------
    method : SelfDistillation
        With the released architecture and of the right sizes.
    networks : mapping
        As of :func:`find_branches`. Without heads the student's stays random, and the teacher gets the same.
    content : mapping
        The checkpoint, for ``dino_loss.center``.
    name : str
        Name of the method, for errors.

    Raises
    ------
    ValueError
        If names are missing or unexpected, or a shape differs.

    Examples
    --------
    >>> from histograph.methods import DINO
    >>> method = DINO(16, 8, dim=8, depth=1, heads=2, local_size=8, out_dim=8, head_dim=4, bottleneck_dim=2)
    >>> checkpoint = branch_weights(method)
    >>> fill_branches(method, find_branches(checkpoint), checkpoint, "DINO")
    """
    headless = not has_head(networks["teacher"])
    for which, weights in networks.items():
        expected = getattr(method, which).state_dict()
        if headless:
            expected = {key: value for key, value in expected.items() if key.startswith(BACKBONE)}
        check_fit(weights, expected, f"{name} ({which})", f"of the {which} that do not fit its sizes")
        for key, value in expected.items():
            value.copy_(weights[key])
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


def check_settings(settings: Mapping[str, Any], known: tuple[str, ...], method: str) -> None:
    """Refuse settings that a released checkpoint tells itself.

    Parameters
    ----------
    settings : mapping
        Given by the caller.
    known : tuple of str
        What no shape tells.
    method : str
        Name of the method, for the error.

    Raises
    ------
    TypeError
        If one is not known.

    Examples
    --------
    >>> check_settings({"heads": 2}, ("heads",), "DINO")
    """
    for name in settings:
        if name not in known:
            raise TypeError(
                f"{name} is not a setting that the released {method} is asked for; known are {', '.join(known)}. "
                "Sizes are read from the checkpoint"
            )


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
    if not any(name.startswith(BACKBONE) for name in found):
        found = {name if name.startswith(_HEAD) else BACKBONE + name: value for name, value in found.items()}
    return found


def _number(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0
