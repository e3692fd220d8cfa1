"""The state of a training run on disk, and whether it fits the run that wants to go on from it."""

import io
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from histograph.atomic import atomic_path

FORMAT = "histograph.run"
NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, text and containers of them, whole or not at all.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    state : dict
        With at least ``"settings"``, a dict that :func:`load_checkpoint` compares.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder), {"settings": {"lr": 0.1}, "epoch": 3})
    ...     load_checkpoint(Path(folder), {"lr": 0.1})["epoch"]
    3
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state, "settings": json.dumps(state["settings"])}, buffer)
    with atomic_path(folder / NAME) as part:
        part.write_bytes(buffer.getvalue())


def remove_checkpoint(folder: Path) -> None:
    """Forget the state of an earlier run, so that nothing goes on from it.

    Parameters
    ----------
    folder : Path
        The folder of the run; nothing happens when it holds no checkpoint.

    Examples
    --------
    >>> remove_checkpoint(Path("no-such-folder"))
    """
    (folder / NAME).unlink(missing_ok=True)


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the state of a run, if there is one.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    settings : dict
        Settings of the run that wants to go on.

    Returns
    -------
    dict or None
        None when the folder holds no checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint cannot be read, or was made with other settings.

    Examples
    --------
    >>> load_checkpoint(Path("no-such-folder"), {}) is None
    True
    """
    path = folder / NAME
    if not path.is_file():
        return None
    remedy = "give another out folder, or resume=False to start afresh"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({error}); {remedy}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "settings" not in state:
        raise ValueError(f"{path} is not a checkpoint of pretrain; {remedy}")
    # through JSON, as the stored ones went, so that tuples and lists compare equal
    found, wanted = json.loads(state["settings"]), json.loads(json.dumps(settings))
    if "data" not in found:  # checkpoints of earlier versions do not say what they were trained on
        wanted.pop("data", None)
    differing = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
    if differing:
        listed = "; ".join(f"{name}: was {found.get(name)!r}, now {wanted.get(name)!r}" for name in differing)
        raise ValueError(f"the run in {folder} was made with other settings ({listed}); {remedy}")
    return state


def is_behind(path: Path) -> bool:
    """Tell whether a file that is written after each checkpoint of its folder was not written after the last one.

    A run may have been stopped between the two, or someone may have taken the file away.

    Parameters
    ----------
    path : Path
        The file, in a folder with a checkpoint.

    Returns
    -------
    bool
        Whether it is missing or older than the checkpoint.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "checkpoint.pt").touch()
    ...     is_behind(Path(folder) / "method.safetensors")
    True
    """
    return not path.is_file() or path.stat().st_mtime_ns < (path.parent / NAME).stat().st_mtime_ns
