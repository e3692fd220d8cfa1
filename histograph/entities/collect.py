"""Put entities together piece by piece, in no more memory than the result takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entities import Entities
from .masks import Masks


def collect(parts: Iterable[Entities]) -> Entities:
    """Join entities that come one part after the other, in order of their labels.

    Each array of the result grows in place (by an eighth when it is full), and a part is let go before the next one
    is asked for. So the memory is that of the result and one part, where joining a list of parts takes twice as much.

    Parameters
    ----------
    parts : iterable of Entities
        At least one. All with masks on one raster, with the same columns, labels ascending from part to part. Kind,
        mpp, parameters and extent are those of the first.

    Returns
    -------
    Entities

    Raises
    ------
    ValueError
        If there is no part, or the labels do not ascend.

    Examples
    --------
    >>> a = Entities.from_instance_map([[1, 0]], mpp=1.0)
    >>> b = Entities.from_instance_map([[0, 2]], mpp=1.0)
    >>> collect(iter([a, b])).instance_map()
    array([[1, 2]], dtype=int32)
    """
    first: Entities | None = None
    arrays: dict[str, _Growing] = {}
    for part in parts:
        if first is None:
            first = part.select(slice(0, 0))
        for name, values in _arrays(part).items():
            arrays.setdefault(name, _Growing(values)).add(values)
        del part
    if first is None:
        raise ValueError("parts: expected at least one Entities, found none; use Entities.empty().")
    whole = {name: array.whole() for name, array in arrays.items()}
    pointers = np.zeros(len(whole["bytes"]) + 1, np.int64)
    np.cumsum(whole.pop("bytes"), out=pointers[1:])
    return Entities(
        first.kind,
        whole["label"],
        whole["centroid"],
        whole["bbox"],
        whole["area"],
        first.mpp,
        Masks(whole["bits"], pointers, whole["boxes"]),
        first.parameters,
        first.extent_um,
        {name: whole[_COLUMN + name] for name in first.columns},
    )


_COLUMN = "column "


def _arrays(part: Entities) -> dict[str, NDArray[Any]]:
    """Return everything that a part has for each entity, and the bits of its masks."""
    masks = Masks.empty() if part.masks is None else part.masks
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(part, name) for name in ("label", "centroid", "bbox", "area")
    }
    # the length of a mask needs no shift when parts are joined, where its start does
    arrays |= {"bits": masks.bits, "bytes": np.diff(masks.pointers), "boxes": masks.boxes}
    return arrays | {_COLUMN + name: np.asarray(column) for name, column in part.columns.items()}


class _Growing:
    """An array that grows at its end; the memory is enlarged where it is if the system can do so."""

    def __init__(self, like: NDArray[Any]) -> None:
        self._array = np.empty((0, *like.shape[1:]), like.dtype)
        self._length = 0

    def add(self, values: NDArray[Any]) -> None:
        """Append rows."""
        need = self._length + len(values)
        if need > len(self._array):
            self._resize(max(need, len(self._array) + len(self._array) // 8))
        self._array[self._length : need] = values
        self._length = need

    def whole(self) -> NDArray[Any]:
        """Return the array without spare rows; nothing may be added afterwards."""
        self._resize(self._length)
        return self._array

    def _resize(self, rows: int) -> None:
        # no view of the array is ever given out before `whole`
        self._array.resize((rows, *self._array.shape[1:]), refcheck=False)
