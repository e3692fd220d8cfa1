"""Image patches as a data set: from arrays, image files, or around points, nodes and edges of slides."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from histograph.features import iter_crops
from histograph.graphs.layer import layer
from histograph.graphs.schema import EdgeType, Graph
from histograph.methods import Patches
from histograph.slides import Slide
from histograph.slides.ahead import work_ahead

from .centres import crop_centres
from .patch_sources import ArraySource, CropSource, Pixels, Source, open_source

# Patches that one thread reads at a time when all are read.
_CHUNK = 64


class PatchDataset(Dataset):
    """Image patches of one size, for methods that read pixels; `pretrain` and `embed` take it as it is.

    An item is a :class:`histograph.methods.Patches` with one patch. Files and slides are read when an item is
    asked for; :meth:`in_memory` reads all of them once, which pays when they are gone through many times.

    Parameters
    ----------
    images : (N, H, W, 3) uint8 array or tensor, path, or sequence of paths
        Patches, red, green, blue; or a folder, searched with all its folders (linked ones too, no hidden ones) for
        PNG, JPEG, TIFF and BMP files in the order of their names; or a list of image files.

    Attributes
    ----------
    size : (int, int)
        Height and width of a patch in pixels.
    names : list of str
        The file (without suffix) or slide that each patch comes from, or its number in the array.

    Raises
    ------
    FileNotFoundError
        If the folder or a file is missing, or the folder holds no image.
    ValueError
        If the array has another shape or type.

    Examples
    --------
    >>> data = PatchDataset(np.zeros((5, 8, 8, 3), np.uint8))
    >>> data
    PatchDataset(5 patches of 8 x 8 pixels)
    >>> data[0].image.shape, len(data[::2]), len(data[[4, 0]])
    (torch.Size([1, 8, 8, 3]), 3, 2)
    """

    def __init__(self, images: Any) -> None:
        self._take([open_source(images)])

    @classmethod
    def from_slide(cls, slide: Slide, pos_um: npt.ArrayLike, size_um: float, size_px: int) -> "PatchDataset":
        """Squares around points of a slide.

        Parameters
        ----------
        slide : Slide
            Where the pixels come from; outside it is white.
        pos_um : (N, 2) array
            Centres, x then y, in micrometres.
        size_um : float
            Side of a patch in micrometres.
        size_px : int
            Side of a patch in pixels.

        Returns
        -------
        PatchDataset
            In the order of the points.

        Raises
        ------
        ValueError
            If a shape or number is wrong or a centre is not finite.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5, slide_id="black")
        >>> data = PatchDataset.from_slide(slide, [[2, 2], [1, 1]], size_um=1, size_px=2)
        >>> data.size, data.names
        ((2, 2), ['black', 'black'])
        """
        iter_crops(
            slide, pos_um, size_um, size_px
        )  # checks the arguments; reads nothing before its first batch
        pos = np.array(pos_um, dtype=np.float64).reshape(-1, 2)
        return cls._of([CropSource(slide, pos, float(size_um), int(size_px))])

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        slide: Slide,
        size_um: float,
        size_px: int,
        node_type: str | None = None,
        relation: str | EdgeType | None = None,
        edges: bool = True,
    ) -> "PatchDataset":
        """Squares around the nodes and the edges of one layer of a slide's graph.

        Parameters
        ----------
        graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
            A graph of `slide`.
        slide : Slide
            Where the pixels come from.
        size_um : float
            Side of a patch in micrometres.
        size_px : int
            Side of a patch in pixels.
        node_type, relation : str, optional
            The layer, as in `histograph.graphs.layer`.
        edges : bool
            Whether to take edges too: around the midpoint, once for both directions.

        Returns
        -------
        PatchDataset
            First the nodes, in their order, then the edges.

        Raises
        ------
        ValueError
            If the layer is not in the graph, or the graph is of another slide.

        Examples
        --------
        >>> from histograph.slides import open_slide
        >>> from torch_geometric.data import Data
        >>> slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5, slide_id="s")
        >>> pair = Data(pos=torch.tensor([[1.0, 1], [3, 3]]), edge_index=torch.tensor([[0, 1], [1, 0]]))
        >>> len(PatchDataset.from_graph(pair, slide, size_um=1, size_px=2))  # two nodes and one edge
        3
        """
        check_slide(graph, slide)
        part = layer(graph, node_type, relation)
        centres = crop_centres(part.pos, part.edge_index if edges else None)
        return cls.from_slide(slide, np.concatenate([centres.node, centres.edge]), size_um, size_px)

    @classmethod
    def concat(cls, datasets: Sequence["PatchDataset"]) -> "PatchDataset":
        """Join data sets, for example those of many slides.

        Parameters
        ----------
        datasets : sequence of PatchDataset
            At least one, all with patches of one size.

        Returns
        -------
        PatchDataset
            The patches of the first, then of the second, and so on.

        Raises
        ------
        ValueError
            If there is none, or their patches differ in size.

        Examples
        --------
        >>> data = PatchDataset(np.zeros((2, 4, 4, 3), np.uint8))
        >>> len(PatchDataset.concat([data, data]))
        4
        """
        if not datasets:
            raise ValueError("datasets must hold at least one PatchDataset, found none")
        sizes = sorted({data.size for data in datasets})
        if len(sizes) > 1:
            raise ValueError(f"datasets must hold patches of one size (height, width), found {sizes}")
        result = cls._of([source for data in datasets for source in data._sources])
        first = np.cumsum([0, *(len(data._sources) for data in datasets[:-1])])
        result._part = np.concatenate([data._part + at for data, at in zip(datasets, first, strict=True)])
        result._row = np.concatenate([data._row for data in datasets])
        return result

    @classmethod
    def _of(cls, sources: list[Source]) -> "PatchDataset":
        result = object.__new__(cls)
        result._take(sources)
        return result

    def _take(self, sources: list[Source]) -> None:
        self._sources = sources
        counts = [len(source) for source in sources]
        # patch i is row _row[i] of source _part[i]
        self._part = np.repeat(np.arange(len(sources)), counts)
        self._row = np.concatenate([np.arange(count) for count in counts])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self._sources[0].size

    @property
    def names(self) -> list[str]:
        """Where each patch comes from, or its number in an array."""
        pairs = zip(self._part.tolist(), self._row.tolist(), strict=True)
        return [self._sources[part].name(row) for part, row in pairs]

    def __len__(self) -> int:
        """Count the patches."""
        return len(self._row)

    def __getitem__(self, index: Any) -> Any:
        """Give one patch for a whole number, a data set for a slice, a list of rows or a mask."""
        if isinstance(index, (int, np.integer)):
            place = range(len(self))[index]
            part, row = int(self._part[place]), int(self._row[place])
            image = self._sources[part].read(np.array([row]))
            return Patches(torch.from_numpy(image), (self._sources[part].name(row),), torch.tensor([place]))
        rows = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        kind = rows.dtype.kind if rows.size else "i"
        if rows.ndim != 1 or kind not in "iub" or (kind == "b" and len(rows) != len(self)):
            raise IndexError(
                f"index: expected a number, a slice, rows or a mask of {len(self)}, found {index!r}"
            )
        rows = rows if rows.dtype == bool else rows.astype(np.int64)
        result = self._of(self._sources)
        result._part, result._row = self._part[rows], self._row[rows]
        return result

    def __iter__(self) -> Iterator[Patches]:
        """Give the patches one after another."""
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        """Count the patches."""
        return f"PatchDataset({len(self)} patches of {self.size[0]} x {self.size[1]} pixels)"

    def images(self, workers: int = 2) -> Pixels:
        """Read all patches.

        Parameters
        ----------
        workers : int
            Threads that read.

        Returns
        -------
        (N, H, W, 3) uint8 array
            In order.

        Examples
        --------
        >>> PatchDataset(np.zeros((5, 8, 8, 3), np.uint8)).images().shape
        (5, 8, 8, 3)
        """
        result = np.empty((len(self), *self.size, 3), np.uint8)
        jobs = [
            (source, where[start : start + _CHUNK])
            for part, source in enumerate(self._sources)
            for where in (np.flatnonzero(self._part == part),)
            for start in range(0, len(where), _CHUNK)
        ]

        def read(job: tuple[Source, npt.NDArray[np.int64]]) -> None:
            source, where = job
            result[where] = source.read(self._row[where])

        for _ in work_ahead(read, jobs, workers, ahead=workers):
            pass
        return result

    def in_memory(self, workers: int = 2) -> "PatchDataset":
        """Read all patches once, so that going through them again reads no file.

        Parameters
        ----------
        workers : int
            Threads that read.

        Returns
        -------
        PatchDataset
            The same patches under the same names.

        Examples
        --------
        >>> PatchDataset(np.zeros((5, 8, 8, 3), np.uint8)).in_memory()
        PatchDataset(5 patches of 8 x 8 pixels)
        """
        return self._of([ArraySource(self.images(workers), tuple(self.names))])


def check_slide(graph: Graph, slide: Slide) -> None:
    """Refuse a graph of another slide.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        A graph; one without ``slide_id`` passes.
    slide : Slide
        The slide.

    Raises
    ------
    ValueError
        If the two have different ``slide_id``.

    Examples
    --------
    >>> from histograph.slides import open_slide
    >>> from torch_geometric.data import Data
    >>> check_slide(Data(slide_id="a"), open_slide(np.zeros((2, 2, 3), np.uint8), mpp=1, slide_id="b"))
    Traceback (most recent call last):
    ValueError: slide: the graph is of slide 'a', found slide 'b'; give the slide of the graph
    """
    wanted = graph.stores[0].get("slide_id")
    if wanted is not None and wanted != slide.slide_id:
        raise ValueError(
            f"slide: the graph is of slide {wanted!r}, found slide {slide.slide_id!r}; give the slide of the graph"
        )
