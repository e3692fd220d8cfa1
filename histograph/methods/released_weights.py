"""State dicts of released checkpoints: found, counted, and compared with what a network expects."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .torch_files import some


def find_weights(content: Mapping[str, Any], holders: Sequence[str], method: str) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint and take the prefix of parallel training off its names.

    Parameters
    ----------
    content : mapping
        A state dict, or a checkpoint that holds one.
    holders : sequence of str
        Keys that it may be under; the first one that is there counts.
    method : str
        Name of the method, for the error.

    Returns
    -------
    dict of str to Tensor
        Weights by their names without ``module.``.

    Raises
    ------
    ValueError
        If there are no weights, or something else is among them.

    Examples
    --------
    >>> import torch
    >>> list(find_weights({"model": {"module.cls_token": torch.zeros(1)}, "epoch": 3}, ("model",), "GCMAE"))
    ['cls_token']
    """
    holder = next((name for name in holders if isinstance(content.get(name), Mapping)), None)
    found = content if holder is None else content[holder]
    weights = {str(name).removeprefix("module."): value for name, value in found.items()}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"source must be a state dict of the released {method}, or a checkpoint with one under "
            f"{' or '.join(map(repr, holders))}; found the keys {some(sorted(map(str, found)))}"
        )
    return weights


def count_blocks(weights: Mapping[str, Tensor], stack: str) -> int:
    """Count the blocks of a stack by their numbers.

    Parameters
    ----------
    weights : mapping
        State dict.
    stack : str
        Name of the stack, before the number.

    Returns
    -------
    int
        One more than the largest number; 0 where there is none.

    Examples
    --------
    >>> import torch
    >>> count_blocks({"blocks.0.bias": torch.zeros(1), "blocks.11.bias": torch.zeros(1)}, "blocks")
    12
    """
    pattern = re.compile(rf"{re.escape(stack)}\.(\d+)\.")
    return 1 + max((int(m[1]) for name in weights if (m := pattern.match(name))), default=-1)


def check_fit(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str, shapes: str
) -> None:
    """Refuse weights whose names or shapes are not those of a network.

    Parameters
    ----------
    weights : mapping
        Weights that were read.
    expected : mapping
        The network's own.
    network : str
        What the network is, after "a released".
    shapes : str
        What wrong shapes do not fit, after "shapes".

    Raises
    ------
    ValueError
        If names are missing or unexpected, or shapes differ.

    Examples
    --------
    >>> import torch
    >>> check_fit({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "PAMA of 2 blocks", "that do not fit hidden_dim 3")
    Traceback (most recent call last):
    ValueError: source: shapes that do not fit hidden_dim 3: a (2,) instead of (3,)
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        raise ValueError(
            f"source does not hold the weights of a released {network}: missing {some(missing)}; unexpected "
            f"{some(unexpected)}"
        )
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if weights[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(f"source: shapes {shapes}: {some(wrong)}")
