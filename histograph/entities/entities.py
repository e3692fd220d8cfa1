"""`Entities`: labelled shapes on a slide, the common product of every finder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from .masks import Masks, pack, unique_labels
from .outline import outer_ring

KINDS = ("cell", "tissue", "patch", "region")


@dataclass(frozen=True, eq=False)
class Entities:
    """Labelled shapes on a slide: where they are, how large, and which pixels they cover.

    Lengths are micrometres from the top-left of the level-0 canvas, x then y. The masks lie on a raster of `mpp`
    micrometres a pixel whose pixel (0, 0) has its corner at the canvas origin.

    Parameters
    ----------
    kind : {"cell", "tissue", "patch", "region"}
        What the entities are.
    label : ndarray, (N,) int64
        Ids, positive and strictly ascending.
    centroid : ndarray, (N, 2) float64
        Mean of the pixel centres, ``x, y`` in µm.
    bbox : ndarray, (N, 4) float64
        ``x_min, y_min, x_max, y_max`` in µm.
    area : ndarray, (N,) float64
        Area in µm².
    mpp : float
        Pixel size of the raster in µm.
    masks : Masks, optional
        Bit-packed masks; None means that every entity fills its bbox.
    parameters : dict
        Provenance: how the entities were found.
    extent_um : tuple of float, optional
        Width and height in µm of the canvas that was searched; the default extent of `instance_map`.
    columns : dict of str to ndarray, (N,)
        What else is known of each entity, by name. ``type`` holds the names of cell types, "" where unknown; ``id``
        the id in the file that they came from, where that is not the label; numbers are measurements.

    Raises
    ------
    ValueError
        If the kind is unknown, the arrays disagree in length or the labels are not positive and ascending.

    Examples
    --------
    >>> import numpy as np
    >>> entities = Entities.from_instance_map(np.array([[0, 3, 3], [8, 0, 3]]), mpp=0.5)
    >>> entities.label, entities.area
    (array([3, 8]), array([0.75, 0.25]))
    >>> entities.centroid[1]
    array([0.25, 0.75])
    """

    kind: str
    label: NDArray[np.int64]
    centroid: NDArray[np.float64]
    bbox: NDArray[np.float64]
    area: NDArray[np.float64]
    mpp: float
    masks: Masks | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    extent_um: tuple[float, float] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, found {self.kind!r}.")
        if not (np.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp: expected a positive number of µm per pixel, found {self.mpp}.")
        n = len(self.label)
        for name, shape in (("label", (n,)), ("centroid", (n, 2)), ("bbox", (n, 4)), ("area", (n,))):
            found = np.shape(getattr(self, name))
            if found != shape:
                raise ValueError(f"{name}: expected shape {shape} for {n} entities, found {found}.")
        for name, column in self.columns.items():
            if np.shape(column) != (n,) or np.asarray(column).dtype.kind not in "biufU":
                raise ValueError(
                    f"columns[{name!r}]: expected {n} numbers or strings, one for each entity, found shape "
                    f"{np.shape(column)} of {np.asarray(column).dtype}."
                )
        if self.masks is not None and len(self.masks) != n:
            raise ValueError(f"masks: expected one mask for each of {n} entities, found {len(self.masks)}.")
        if n and (self.label[0] <= 0 or (np.diff(self.label) <= 0).any()):
            raise ValueError(
                "label: expected positive, strictly ascending ids; sort the entities by id first."
            )

    def __len__(self) -> int:
        """Return the number of entities."""
        return len(self.label)

    def __repr__(self) -> str:
        return f"Entities({len(self)} x {self.kind!r}, mpp={self.mpp:g})"

    @staticmethod
    def from_instance_map(
        instance_map: ArrayLike,
        mpp: float,
        kind: str = "cell",
        origin_um: tuple[float, float] = (0.0, 0.0),
        parameters: dict[str, Any] | None = None,
    ) -> Entities:
        """Make entities from a labelled raster; see `from_instance_map`.

        Examples
        --------
        >>> len(Entities.from_instance_map([[1, 0], [0, 2]], mpp=1.0))
        2
        """
        return from_instance_map(instance_map, mpp, kind, origin_um, parameters)

    @staticmethod
    def empty(kind: str = "cell", mpp: float = 1.0, parameters: dict[str, Any] | None = None) -> Entities:
        """Return no entity at all, with valid arrays of length 0.

        Examples
        --------
        >>> len(Entities.empty("tissue", mpp=0.5)), Entities.empty().centroid.shape
        (0, (0, 2))
        """
        return Entities(
            kind,
            np.zeros(0, np.int64),
            np.zeros((0, 2)),
            np.zeros((0, 4)),
            np.zeros(0),
            mpp,
            Masks.empty(),
            dict(parameters or {}),
        )

    @staticmethod
    def concatenate(parts: Sequence[Entities]) -> Entities:
        """Join entities of one kind on one raster, for example the results of tiles; rows are sorted by label.

        Parameters
        ----------
        parts : sequence of Entities
            At least one; same kind, same mpp, same columns, all with masks or all without, no label twice. The
            parameters of the first part are kept.

        Returns
        -------
        Entities

        Raises
        ------
        ValueError
            If the parts do not fit together.

        Examples
        --------
        >>> a = Entities.from_instance_map([[2, 0]], mpp=1.0)
        >>> b = Entities.from_instance_map([[0, 1]], mpp=1.0)
        >>> Entities.concatenate([a, b]).instance_map()
        array([[2, 1]], dtype=int32)
        """
        if not parts:
            raise ValueError("parts: expected at least one Entities, found none; use Entities.empty().")
        first = parts[0]
        for part in parts[1:]:
            if (part.kind, part.mpp, part.masks is None) != (first.kind, first.mpp, first.masks is None):
                raise ValueError(f"parts: expected one kind, mpp and kind of mask, found {first} and {part}.")
            if part.columns.keys() != first.columns.keys():
                raise ValueError(
                    f"parts: expected the same columns in all, found {list(first.columns)} and {list(part.columns)}."
                )
        label = np.concatenate([part.label for part in parts])
        order = np.argsort(label, kind="stable")
        masks = None
        if first.masks is not None:
            masks = Masks.concatenate([part.masks for part in parts if part.masks is not None]).select(order)
        extents = [part.extent_um for part in parts if part.extent_um is not None]
        if (np.diff(label[order]) == 0).any():
            raise ValueError("parts: expected every label once, found one in two parts; renumber them first.")
        return Entities(
            first.kind,
            label[order],
            np.concatenate([part.centroid for part in parts])[order],
            np.concatenate([part.bbox for part in parts])[order],
            np.concatenate([part.area for part in parts])[order],
            first.mpp,
            masks,
            dict(first.parameters),
            (max(e[0] for e in extents), max(e[1] for e in extents)) if extents else None,
            {name: np.concatenate([part.columns[name] for part in parts])[order] for name in first.columns},
        )

    def select(self, index: ArrayLike | slice) -> Entities:
        """Return some of the entities, always in ascending order of label.

        Parameters
        ----------
        index : array_like, (N,) bool or (M,) int, or slice
            Which rows to keep; no row twice.

        Returns
        -------
        Entities

        Raises
        ------
        IndexError
            If a row does not exist or a boolean index has another length.
        ValueError
            If a row is named twice.

        Examples
        --------
        >>> entities = Entities.from_instance_map([[1, 2, 3]], mpp=1.0)
        >>> entities.select([2, 0]).label
        array([1, 3])
        """
        wanted = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(wanted, slice) and wanted.size == 0:
            wanted = wanted.astype(np.int64 if wanted.dtype != bool else bool)
        rows = np.sort(np.arange(len(self))[wanted])
        if (np.diff(rows) == 0).any():
            raise ValueError("index: expected every row at most once, found a row twice.")
        return replace(
            self,
            label=self.label[rows],
            centroid=self.centroid[rows],
            bbox=self.bbox[rows],
            area=self.area[rows],
            masks=None if self.masks is None else self.masks.select(rows),
            parameters=dict(self.parameters),
            columns={name: np.asarray(column)[rows] for name, column in self.columns.items()},
        )

    def polygon(self, i: int) -> NDArray[np.float64]:
        """Return the outline of one entity as a closed ring along the cracks between pixels.

        Holes are left out; of an entity in several parts the largest part is outlined.

        Parameters
        ----------
        i : int
            Row of the entity (not its label).

        Returns
        -------
        ndarray, (P, 2) float64
            Corners ``x, y`` in µm, clockwise as seen on the slide, the first repeated at the end.

        Raises
        ------
        IndexError
            If there is no such row.

        Examples
        --------
        >>> Entities.from_instance_map([[0, 5]], mpp=0.5).polygon(0).tolist()
        [[0.5, 0.0], [1.0, 0.0], [1.0, 0.5], [0.5, 0.5], [0.5, 0.0]]
        """
        i = range(len(self))[i]
        if self.masks is None:
            x_min, y_min, x_max, y_max = self.bbox[i]
            ring = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max), (x_min, y_min)]
            return np.array(ring, np.float64)
        corners = outer_ring(self.masks[i]) + self.masks.boxes[i, [1, 0]]
        return corners.astype(np.float64) * self.mpp

    def instance_map(
        self, window_um: tuple[float, float, float, float] | None = None
    ) -> NDArray[np.int32] | NDArray[np.int64]:
        """Rasterise the entities: the label of every pixel, 0 where there is none.

        Parameters
        ----------
        window_um : tuple of float, optional
            ``x, y, width, height`` in µm, taken to the nearest pixel of the `mpp` raster. By default the whole
            extent from the canvas origin.

        Returns
        -------
        ndarray, (round(height / mpp), round(width / mpp)) int32
            int64 if a label needs it. Entities without masks cover the pixels whose centres are in their bbox.
            Where entities overlap the larger label stays.

        Raises
        ------
        ValueError
            If the window has a negative size.

        Examples
        --------
        >>> entities = Entities.from_instance_map([[1, 0], [1, 70000]], mpp=0.5)
        >>> entities.instance_map((0.5, 0.0, 0.5, 1.0)).tolist()
        [[0], [70000]]
        """
        row, col, height, width = self._window(window_um)
        big = len(self) > 0 and self.label[-1] > np.iinfo(np.int32).max
        out = np.zeros((height, width), np.int64 if big else np.int32)
        if self.masks is None:
            edges = np.ceil(self.bbox / self.mpp - 0.5).astype(np.int64)
            _paint_rectangles(edges[:, [1, 0, 3, 2]], self.label, out, row, col)
        else:
            self.masks.paint(self.label, out, row, col)
        return out

    def _window(self, window_um: tuple[float, float, float, float] | None) -> tuple[int, int, int, int]:
        """Return the window as row, column, height and width in raster pixels."""
        if window_um is None:
            width, height = self.extent_um or (0.0, 0.0)
            if len(self):
                width = max(width, float(self.bbox[:, 2].max()))
                height = max(height, float(self.bbox[:, 3].max()))
            window_um = (0.0, 0.0, width, height)
        x, y, width, height = window_um
        if not (width >= 0 and height >= 0 and np.isfinite(window_um).all()):
            raise ValueError(f"window_um: expected finite x, y, width, height >= 0, found {window_um}.")
        return round(y / self.mpp), round(x / self.mpp), round(height / self.mpp), round(width / self.mpp)

    def _repr_html_(self) -> str:
        """Return a small table for notebooks."""
        rows = [("kind", self.kind), ("entities", f"{len(self):,}"), ("raster", f"{self.mpp:g} µm per pixel")]
        if len(self):
            low, middle, high = np.percentile(self.area, [5, 50, 95])
            rows.append(("area (5 %, median, 95 %)", f"{low:.4g}, {middle:.4g}, {high:.4g} µm²"))
            x_min, y_min = self.bbox[:, :2].min(axis=0)
            x_max, y_max = self.bbox[:, 2:].max(axis=0)
            rows.append(("extent", f"x {x_min:.1f} … {x_max:.1f} µm, y {y_min:.1f} … {y_max:.1f} µm"))
        rows.append(
            ("masks", "rectangles" if self.masks is None else f"{self.masks.nbytes / 1e6:.2f} MB packed")
        )
        if self.columns:
            rows.append(("columns", _escape(", ".join(self.columns))))
        rows += [(key, _escape(value)) for key, value in self.parameters.items()]
        body = "".join(
            f"<tr><th style='text-align:left'>{key}</th><td>{value}</td></tr>" for key, value in rows
        )
        return f"<table><caption>Entities</caption>{body}</table>"


def from_instance_map(
    instance_map: ArrayLike,
    mpp: float,
    kind: str = "cell",
    origin_um: tuple[float, float] = (0.0, 0.0),
    parameters: dict[str, Any] | None = None,
) -> Entities:
    """Make entities from a labelled raster, one entity a label; labels are kept as they are.

    A label in several pieces stays one entity: nothing is relabelled by connectivity.

    Parameters
    ----------
    instance_map : array_like, (H, W) integer
        Label of each pixel, 0 is background. Labels need not be contiguous.
    mpp : float
        Pixel size in µm.
    kind : {"cell", "tissue", "patch", "region"}
        What the entities are.
    origin_um : tuple of float
        ``x, y`` in µm of the map's top-left corner on the canvas; a whole number of pixels.
    parameters : dict, optional
        Provenance to keep with the entities.

    Returns
    -------
    Entities
        Labels ascending. ``from_instance_map(m, mpp).instance_map()`` is ``m`` again.

    Raises
    ------
    TypeError
        If the map does not hold integers.
    ValueError
        If the map is not two-dimensional, a label is negative, or the origin is off the pixel raster.

    Examples
    --------
    >>> import numpy as np
    >>> m = np.array([[0, 4, 4], [9, 0, 4]])
    >>> entities = from_instance_map(m, mpp=0.25, origin_um=(0.5, 0.0))
    >>> entities.bbox.tolist()
    [[0.75, 0.0, 1.25, 0.5], [0.5, 0.25, 0.75, 0.5]]
    >>> bool((entities.instance_map((0.5, 0.0, 0.75, 0.5)) == m).all())
    True
    """
    labelled = as_instance_map(instance_map)
    if not (isinstance(mpp, Real) and np.isfinite(mpp) and mpp > 0):
        raise ValueError(
            f"mpp: expected a positive number of µm per pixel, found {mpp!r}; resample a map of pixels that are not "
            "square."
        )
    col, row = round(origin_um[0] / mpp), round(origin_um[1] / mpp)
    off = max(abs(origin_um[0] / mpp - col), abs(origin_um[1] / mpp - row))
    if off > 1e-3 or col < 0 or row < 0:
        raise ValueError(
            f"origin_um: expected x, y >= 0 and a whole number of pixels of {mpp} µm, found {origin_um}; "
            "move the window to the pixel raster before labelling."
        )
    label = unique_labels(labelled)
    masks, count, total = pack(labelled, label)
    return assemble(kind, label, masks, count, total, mpp, (row, col), parameters, labelled.shape)


def assemble(
    kind: str,
    label: NDArray[np.int64],
    masks: Masks,
    count: NDArray[np.int64],
    total: NDArray[np.int64],
    mpp: float,
    offset: tuple[int, int],
    parameters: dict[str, Any] | None,
    shape: tuple[int, ...] | None,
) -> Entities:
    """Make entities from packed masks and pixel sums of a window of the raster.

    The centroid is ``((sum of columns / count + column offset + 0.5) * mpp, …)``: sums are whole numbers, so it does
    not depend on the window.

    Parameters
    ----------
    kind : str
        What the entities are.
    label : ndarray, (N,) int64
        Ids, ascending.
    masks : Masks
        Masks with boxes in pixels of the window.
    count, total : ndarray, (N,) and (N, 2) int64
        Pixel counts and sums of row and column numbers, in pixels of the window.
    mpp : float
        Pixel size in µm.
    offset : tuple of int
        Raster row and column of the window's first pixel.
    parameters : dict, optional
        Provenance.
    shape : tuple of int, optional
        Height and width of the window in pixels.

    Returns
    -------
    Entities
    """
    row, col = offset
    boxes = masks.boxes + np.array([row, col, row, col])
    # Whole-number sums on the raster first, so that the rounding is the same whatever the window.
    sums = total + count[:, None] * np.array([row, col])
    centroid = (sums[:, ::-1] / np.maximum(count, 1)[:, None] + 0.5) * mpp
    return Entities(
        kind,
        label,
        centroid,
        boxes[:, [1, 0, 3, 2]] * float(mpp),
        count.astype(np.float64) * float(mpp) ** 2,
        float(mpp),
        Masks(masks.bits, masks.pointers, boxes),
        dict(parameters or {}),
        None if shape is None else ((col + shape[1]) * float(mpp), (row + shape[0]) * float(mpp)),
    )


def as_instance_map(instance_map: ArrayLike) -> NDArray[np.int64]:
    """Check a labelled raster and return it as a C-contiguous int32 or int64 array.

    Parameters
    ----------
    instance_map : array_like, (H, W) integer
        Label of each pixel, not negative, 0 is background.

    Returns
    -------
    ndarray, (H, W) int32 or int64

    Raises
    ------
    TypeError
        If it does not hold integers.
    ValueError
        If it is not two-dimensional or a label is negative or beyond int64.

    Examples
    --------
    >>> import numpy as np
    >>> as_instance_map(np.zeros((2, 3), np.uint16)).dtype
    dtype('int32')
    """
    labelled = np.asarray(instance_map)
    if labelled.dtype.kind not in "iu":
        raise TypeError(
            f"instance_map: expected integers, found {labelled.dtype}; label a boolean mask first, for example with "
            "skimage.measure.label, and turn labels that are whole to integers with astype(int)."
        )
    if labelled.ndim != 2:
        raise ValueError(f"instance_map: expected two axes (row, column), found shape {labelled.shape}.")
    if labelled.dtype.kind == "i" and labelled.size and labelled.min() < 0:
        raise ValueError(f"instance_map: expected labels >= 0, found {labelled.min()}; use 0 for background.")
    if labelled.dtype == np.uint64 and labelled.size and labelled.max() > np.iinfo(np.int64).max:
        raise ValueError(
            "instance_map: expected labels that fit int64, found larger ones; renumber them first."
        )
    small = labelled.dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32)
    return np.ascontiguousarray(labelled, np.int32 if small else np.int64)  # type: ignore[arg-type]


def _escape(value: Any) -> str:
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@njit(cache=True, nogil=True)
def _paint_rectangles(boxes, label, out, row_0, col_0):  # type: ignore[no-untyped-def]
    for i in range(len(label)):
        for row in range(max(boxes[i, 0], row_0) - row_0, min(boxes[i, 2], row_0 + out.shape[0]) - row_0):
            for col in range(max(boxes[i, 1], col_0) - col_0, min(boxes[i, 3], col_0 + out.shape[1]) - col_0):
                out[row, col] = label[i]
