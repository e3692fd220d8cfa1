"""The regions of many slides as one data set: each region a graph of the patches, or cells, that lie in it."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data

from histograph.graphs.dataset import GraphDataset
from histograph.graphs.region_graphs import GraphRegions
from histograph.graphs.region_grids import GridRegions, region_files
from histograph.graphs.region_sources import RegionSource
from histograph.graphs.schema import Graph

Names = Sequence[str] | Mapping[str, str]


class RegionDataset(Dataset):
    """The regions of slides, for methods that learn what a region looks like.

    An item is a region: a `Data` with ``x`` (n, F) float32, ``pos`` (n, 2) in micrometres, of patches ``place`` (n, 2)
    int64, row and column in the region's grid, ``edge_index`` and ``edge_attr`` within the region, ``region`` (1,) and
    ``slide`` (1,) int64, the numbers of the region and of its slide in this data set, and ``slide_id``. Where a region
    has no patch, at the border of the tissue, there is no node.

    Files are read when a region is asked for, and of a file only that region. What was read is kept until
    `keep_bytes` are full. A slice, a list of rows or a mask gives a data set, with its own numbers of regions and
    slides. A pickled data set opens its files anew, so that torch's `DataLoader` workers can use it.

    Parameters
    ----------
    graphs : GraphDataset, str, os.PathLike, or sequence of HeteroData or paths
        Graphs of slides with regions, as ``build_graph(slide, entities=("patch", "region"))`` builds them.
    patients : sequence of str or mapping, optional
        Patient of each slide, in the order of the graphs or by slide_id; by default each slide is a patient's only one.
    node_type : str
        What the nodes of a region are: ``"patch"``, by the relation ``("patch", "in", "region")``; others, such as
        ``"cell"``, by the boxes of the regions.
    grid : int
        Patches along a side of a region.
    min_nodes : int
        Leave out regions with fewer nodes.
    edges : bool
        Whether items have edges: those of the first relation within the node type. A method that looks at a region as
        a grid needs none.
    keep_bytes : int
        Memory for what was read from files.

    Attributes
    ----------
    slide : Tensor
        (N,) int64, the number of the slide of each region.
    slide_ids : list of str
        Id of each slide.
    patients : list of str
        Patient of each slide.
    pos : Tensor
        (N, 2) float32, centres of the regions in micrometres; nan where unknown.
    region_id : Tensor
        (N,) int64, the id of each region in the graph of its slide, or its number there.
    region_edges : Tensor
        (2, E) int64, neighbouring regions of one slide, both directions, by their numbers in the data set.
    feature_dim : int
        Width of the features.
    left_out : list of str
        Slides without any region.

    Raises
    ------
    FileNotFoundError
        If a folder or file is missing.
    ValueError
        If graphs differ, have no regions, or patches do not fit the grid; or patients are missing.

    Examples
    --------
    >>> grids = [np.random.rand(3, 8, 16, 16), np.random.rand(2, 8, 16, 16)]
    >>> data = RegionDataset.from_grids(grids, slide_ids=["a", "b"])
    >>> len(data), data.slide, data[4].x.shape, data[4].slide_id
    (5, tensor([0, 0, 0, 1, 1]), torch.Size([256, 8]), 'b')
    >>> data[data.slide == 1].slide_ids
    ['b']
    """

    slide: Tensor
    slide_ids: list[str]
    patients: list[str]
    pos: Tensor
    region_id: Tensor
    region_edges: Tensor

    def __init__(
        self,
        graphs: "GraphDataset | str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Graph]",
        patients: Names | None = None,
        node_type: str = "patch",
        grid: int = 16,
        min_nodes: int = 1,
        edges: bool = True,
        keep_bytes: int = 2**30,
    ) -> None:
        if grid < 1:
            raise ValueError(f"grid must be at least 1, found {grid}")
        data = graphs if isinstance(graphs, GraphDataset) else GraphDataset(graphs, min_nodes=0)
        self._begin(GraphRegions(data, node_type, grid, edges), patients, min_nodes, keep_bytes)

    @classmethod
    def from_grids(
        cls,
        grids: str | os.PathLike[str] | Sequence[Any],
        slide_ids: Sequence[str] | None = None,
        patients: Names | None = None,
        present: Sequence[Any] | None = None,
        pos: Sequence[Any] | None = None,
        patch_um: float = 128.0,
        min_nodes: int = 1,
        edges: bool = True,
        keep_bytes: int = 2**30,
    ) -> "RegionDataset":
        """Take regions that are grids of patch features already, such as HIPT's of shape (384, 16, 16).

        Parameters
        ----------
        grids : path-like or sequence of arrays
            Of each slide (n, F, rows, columns); or a folder of ``.pt`` or ``.npy`` files: one such array for each
            slide, named by it, or one of (F, rows, columns) for each region, named ``<slide>_<x>_<y>`` or in a folder
            named by its slide.
        slide_ids : sequence of str, optional
            Ids of the slides; by default the names of files, or numbers.
        patients : sequence of str or mapping, optional
            Patient of each slide, in order or by slide_id.
        present : sequence of arrays, optional
            Of each slide (n, rows, columns) bool, where there is a patch; everywhere by default.
        pos : sequence of arrays, optional
            Of each slide (n, 2) centres of the regions in micrometres; unknown by default.
        patch_um : float
            Side of a patch in micrometres. Positions of patches count from the corner of the canvas where `pos` is
            known, else from that of the region.
        min_nodes, edges, keep_bytes
            As of the class; patches that are neighbours on the grid, also diagonally, are joined.

        Returns
        -------
        RegionDataset
            Of all slides.

        Raises
        ------
        FileNotFoundError
            If a folder is missing or has no such file.
        ValueError
            If shapes do not fit.

        Examples
        --------
        >>> present = np.ones((1, 16, 16), bool)
        >>> present[0, :, 5:] = False
        >>> RegionDataset.from_grids([np.zeros((1, 384, 16, 16), np.float32)], present=[present])[0].x.shape
        torch.Size([80, 384])
        """
        items, names = (
            (list(grids), None) if not isinstance(grids, (str, os.PathLike)) else region_files(grids)
        )
        if not items:
            raise ValueError("grids: expected an array for each slide, found none")
        if not patch_um > 0:
            raise ValueError(f"patch_um must be above 0, found {patch_um}")
        if slide_ids is None:
            slide_ids = names or [str(number) for number in range(len(items))]
        if len(set(slide_ids)) < len(slide_ids):
            raise ValueError("slide_ids must be unique; a slide's regions belong in one array")
        result = cls.__new__(cls)
        source = GridRegions(items, list(slide_ids), present, pos, patch_um, edges)
        result._begin(source, patients, min_nodes, keep_bytes)
        return result

    def _begin(self, source: RegionSource, patients: Names | None, min_nodes: int, keep_bytes: int) -> None:
        """Take all regions of a source that have enough nodes."""
        if min_nodes < 1:
            raise ValueError(f"min_nodes must be at least 1, found {min_nodes}")
        if keep_bytes < 0:
            raise ValueError(f"keep_bytes must be at least 0, found {keep_bytes}")
        self._source, self._kept, self._free = source, dict[tuple[int, int], Data](), [keep_bytes]
        self._keep_bytes = keep_bytes
        self.feature_dim = source.feature_dim
        self._patients = _patients(patients, [slide.slide_id for slide in source.slides])
        rows = [np.flatnonzero(slide.count >= min_nodes) for slide in source.slides]
        number = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        self.left_out = [
            slide.slide_id for slide, row in zip(source.slides, rows, strict=True) if not len(row)
        ]
        self._choose(np.stack([number, np.concatenate(rows)], axis=1))

    def _choose(self, index: np.ndarray) -> None:
        """Make the tables of some regions, given by (N, 2) numbers of the slide and of the region in it."""
        slides = self._source.slides
        used, slide = np.unique(index[:, 0], return_inverse=True)
        self._index, self.slide = index, torch.from_numpy(slide.astype(np.int64))
        self.slide_ids = [slides[number].slide_id for number in used]
        self.patients = [self._patients[number] for number in used]
        first = np.concatenate([[0], np.cumsum([len(item.count) for item in slides])]).astype(np.int64)
        place = first[index[:, 0]] + index[:, 1]
        pos = np.concatenate([item.pos for item in slides])[place]
        self.pos = torch.from_numpy(pos.astype(np.float32))
        region_id = np.concatenate([item.region_id for item in slides])[place]
        self.region_id = torch.from_numpy(region_id.astype(np.int64))
        row = np.full(first[-1], -1, dtype=np.int64)
        row[place] = np.arange(len(place))
        none = np.zeros((2, 0), dtype=np.int64)
        ends = np.concatenate([none, *(slides[number].edges + first[number] for number in used)], axis=1)
        edges = row[ends]
        edges = edges[:, (edges >= 0).all(0)]
        self.region_edges = torch.from_numpy(edges[:, np.lexsort((edges[1], edges[0]))])

    def __len__(self) -> int:
        """Count the regions."""
        return len(self._index)

    def __getitem__(self, index: Any) -> Any:
        """Give one region for a whole number, a data set for a slice, a list of rows or a mask."""
        if isinstance(index, (int, np.integer)):
            return self._item(range(len(self))[index])
        if isinstance(index, slice):
            return self._subset(np.arange(len(self))[index])
        rows = np.asarray(index)
        if rows.ndim != 1 or (rows.dtype == bool and len(rows) != len(self)):
            raise IndexError(
                f"index: expected a number, a slice, rows or a mask of {len(self)}, found {index!r}"
            )
        chosen = np.arange(len(self))[rows if rows.dtype == bool else rows.astype(np.int64)]
        if len(np.unique(chosen)) < len(chosen):
            raise IndexError(
                "index: a region is chosen more than once; neighbours and numbers would be unclear"
            )
        return self._subset(chosen)

    def __iter__(self) -> Iterator[Data]:
        """Give the regions one after another."""
        return (self._item(row) for row in range(len(self)))

    def __repr__(self) -> str:
        """Count regions and slides."""
        return (
            f"RegionDataset({len(self)} regions of {len(self.slide_ids)} slides, {self.feature_dim} features)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what was kept from files."""
        return {**self.__dict__, "_kept": {}, "_free": [self._keep_bytes]}

    def _subset(self, rows: np.ndarray) -> "RegionDataset":
        """Make a data set of some regions; what is kept from files is shared."""
        result = copy.copy(self)
        result._kept, result._free = self._kept, self._free
        result._choose(self._index[rows])
        result.left_out = []
        return result

    def _item(self, row: int) -> Data:
        """Give one region with its numbers in this data set."""
        slide, region = (int(value) for value in self._index[row])
        item = self._kept.get((slide, region))
        if item is None:
            item = self._source.read(slide, region)
            size = sum(value.nbytes for value in item.to_dict().values() if isinstance(value, Tensor))
            if self._source.on_disk and size <= self._free[0]:
                self._kept[slide, region] = item
                self._free[0] -= size
        item = copy.copy(item)
        item.region, item.slide = torch.tensor([row]), self.slide[row : row + 1]
        item.slide_id = self.slide_ids[int(self.slide[row])]
        return item


def _patients(patients: Names | None, slide_ids: list[str]) -> list[str]:
    """Patient of each slide."""
    if patients is None:
        return slide_ids
    if isinstance(patients, Mapping):
        missing = [name for name in slide_ids if name not in patients]
        if missing:
            raise ValueError(f"patients: no patient of {len(missing)} slides, first {missing[0]!r}")
        return [str(patients[name]) for name in slide_ids]
    if isinstance(patients, str) or len(patients) != len(slide_ids):
        raise ValueError(
            f"patients: expected one for each of {len(slide_ids)} slides, found {patients!r:.80}"
        )
    return [str(name) for name in patients]
