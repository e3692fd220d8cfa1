"""UUIDs that carry an entity's label, so that it survives a trip through programs that know UUIDs only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entities.entities import KINDS, Entities

# RFC 9562, version 8: 48 bits of our own ("histog"), the version, 12 bits for the kind, the variant, and 62 bits for
# the label.
_HEAD = "68697374-6f67-8"
_LABEL_BITS = (1 << 62) - 1


def label_uuid(label: int, kind: str) -> str:
    """Return the UUID of an entity: the same for the same label and kind.

    Parameters
    ----------
    label : int
        Positive, below 2^62.
    kind : {"cell", "tissue", "patch", "region"}
        What it is.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        The label does not fit.

    Examples
    --------
    >>> label_uuid(255, "cell")
    '68697374-6f67-8000-8000-0000000000ff'
    """
    if not 0 < label <= _LABEL_BITS:
        raise ValueError(f"label: expected 1 … 2^62 - 1 to fit a UUID, found {label}; renumber the entities")
    digits = f"{(1 << 63) | label:016x}"
    return f"{_HEAD}{KINDS.index(kind):03x}-{digits[:4]}-{digits[4:]}"


def uuid_labels(ids: Sequence[Any]) -> NDArray[np.int64] | None:
    """Return the labels that ids carry, or None when one of them carries none or they are of several kinds.

    Parameters
    ----------
    ids : sequence
        UUIDs as text; anything else carries no label.

    Returns
    -------
    ndarray, (N,) int64, or None

    Examples
    --------
    >>> uuid_labels([label_uuid(7, "cell"), label_uuid(3, "cell")])
    array([7, 3])
    >>> uuid_labels(["0ecfd1d5-6a9b-4f35-8f0a-cc4a1f1ac1c5"]) is None
    True
    """
    head = ids[0][:18] if len(ids) and isinstance(ids[0], str) else ""
    if not head.startswith(_HEAD):
        return None
    labels = np.empty(len(ids), np.int64)
    for row, text in enumerate(ids):
        if not isinstance(text, str) or len(text) != 36 or text[:18] != head:
            return None
        try:
            labels[row] = int(text[19:23] + text[24:], 16) & _LABEL_BITS
        except ValueError:
            return None
    return labels


def row_ids(entities: Entities) -> NDArray[Any]:
    """Return what each entity is called in a file: its label, or the id that it came with.

    Parameters
    ----------
    entities : Entities
        The entities.

    Returns
    -------
    ndarray, (N,)
        Labels, or words where there is a column "id"; who has none there gets a UUID that carries the label.

    Raises
    ------
    ValueError
        An id comes twice.

    Examples
    --------
    >>> cells = Entities.from_instance_map([[4, 9]], mpp=0.5)
    >>> cells.columns["id"] = np.array(["b", ""])
    >>> row_ids(cells).tolist()
    ['b', '68697374-6f67-8000-8000-000000000009']
    """
    if "id" not in entities.columns:
        return entities.label
    ids = np.asarray(entities.columns["id"]).astype(np.str_)
    if (ids == "").any():
        pairs = zip(ids.tolist(), entities.label.tolist(), strict=True)
        ids = np.array([own or label_uuid(label, entities.kind) for own, label in pairs], np.str_)
    if len(set(ids.tolist())) < len(ids):
        order = np.argsort(ids, kind="stable")
        twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])[0]
        first, second = entities.label[order[twice : twice + 2]]
        raise ValueError(
            f"columns['id']: {str(ids[order[twice]])!r} is that of labels {first} and {second}; give each its own"
        )
    return ids
