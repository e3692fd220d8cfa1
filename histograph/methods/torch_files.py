"""Files of `torch.save` that others wrote, opened without running code from them."""

import argparse
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

# arrays and numbers of NumPy, under the names that its versions 1 and 2 write; none of these runs foreign code
_rebuild_array: Any = np.empty(0).__reduce__()[0]
_rebuild_number: Any = np.float64(0).__reduce__()[0]
_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.ndarray,
    np.dtype,
    bytes,  # of empty arrays
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefdSUO"),
    *((_rebuild_array, f"{package}.multiarray._reconstruct") for package in ("numpy.core", "numpy._core")),
    *((_rebuild_number, f"{package}.multiarray.scalar") for package in ("numpy.core", "numpy._core")),
    # the released configuration of H-MGDM is of a class of dictionaries whose package is not needed to read it
    (OrderedDict, "easydict.EasyDict"),
    argparse.Namespace,  # the arguments of a run, beside its weights
]


def read_torch_file(path: str | os.PathLike[str], name: str, advice: str) -> Mapping[Any, Any]:
    """Read a dictionary of tensors, arrays, numbers, text, lists and dictionaries.

    Parameters
    ----------
    path : path-like
        A file of `torch.save`.
    name : str
        The argument that named the file, for messages.
    advice : str
        What to do about a file that holds something else, for the message.

    Returns
    -------
    mapping
        The content, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no file of `torch.save`, holds objects of other classes, or no dictionary.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"a": np.arange(3)}, f"{folder}/a.pth")
    ...     read_torch_file(f"{folder}/a.pth", "path", "save it again")
    {'a': array([0, 1, 2])}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file at {path}")
    try:
        with torch.serialization.safe_globals(_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:  # the last of some cut files
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise ValueError(
            f"{name}: {path} is not a file of torch.save with tensors, arrays, numbers, text, lists and dictionaries "
            f"only ({reason}); {advice}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}: {path} must hold a dictionary, found {type(content).__name__}")
    return content


def some(names: list[str], most: int = 8) -> str:
    """Write a list of names, cut where it gets long.

    Parameters
    ----------
    names : list of str
        The names.
    most : int
        How many to write.

    Returns
    -------
    str
        ``"nothing"`` for none.

    Examples
    --------
    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most]) or "nothing"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
