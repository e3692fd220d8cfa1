"""Count the bytes of the tensors that are alive while a piece of code runs, exactly and on any machine."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Context in which every new tensor storage is counted until it is freed, in the backward pass too.

    What was there before (parameters, inputs) is not counted, nor is the scratch memory inside a kernel.

    Attributes
    ----------
    now, peak : int
        Bytes of the storages alive now, and the largest value so far.
    largest : int
        Number of elements of the largest storage.
    """

    def __init__(self, *before: torch.Tensor) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self._before = [tensor.untyped_storage() for tensor in before]  # kept, so that no key is used again
        self._known = {storage._cdata for storage in self._before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, size // tensor.element_size())
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
