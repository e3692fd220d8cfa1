"""Regions given as grids of patch features, in memory or in files, as HIPT stores them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from histograph.graphs.grid import grid_edges
from histograph.graphs.region_sources import SlideRegions, near

_SUFFIXES = (".pt", ".npy")
# Name of a region's file: the slide, and the pixel where the region begins.
_REGION_NAME = re.compile(r"(?P<slide>.+)_\d+_\d+")


class GridRegions:
    """Regions given as grids of patch features.

    Parameters
    ----------
    grids : sequence of arrays
        Of each slide (n, F, rows, columns), or a list of n files of one region (F, rows, columns) each.
    slide_ids : sequence of str
        The slides.
    present : sequence of arrays, optional
        Of each slide (n, rows, columns) bool, where there is a patch.
    pos : sequence of arrays, optional
        Of each slide (n, 2) centres of the regions in micrometres.
    patch_um : float
        Side of a patch in micrometres.
    edges : bool
        Whether neighbouring patches are joined.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> GridRegions([np.ones((1, 4, 2, 2))], ["s"], None, None, 128.0, edges=True).read(0, 0).pos
    tensor([[ 64.,  64.],
            [192.,  64.],
            [ 64., 192.],
            [192., 192.]])
    """

    def __init__(
        self,
        grids: Sequence[Any],
        slide_ids: Sequence[str],
        present: Sequence[Any] | None,
        pos: Sequence[Any] | None,
        patch_um: float,
        edges: bool,
    ) -> None:
        self._grids, self._patch_um = list(grids), patch_um
        self.on_disk = any(isinstance(item, (list, Path)) for item in self._grids)
        first = self._grids[0][0] if isinstance(self._grids[0], list) else self._grids[0]
        shape = tuple(np.shape(open_array(first)))
        dims = 3 if isinstance(self._grids[0], list) else 4
        if len(shape) != dims or 0 in shape[-3:]:
            expected = "(F, rows, columns)" if dims == 3 else "(regions, F, rows, columns)"
            raise ValueError(
                f"grids: expected arrays of shape {expected}, found {shape} in the first; a table of the patches of a "
                "region, one a row, is brought to it by reshape and transpose"
            )
        self._shape = shape = shape[-3:]
        self.feature_dim = shape[0]
        # of a region without gaps; those of others are among them
        squares = np.argwhere(np.ones(shape[1:], bool))[:, ::-1]
        self._edges = grid_edges((squares + 0.5) * patch_um, patch_um) if edges else None
        sizes = [
            len(item) if isinstance(item, list) else self._count(number) for number, item in enumerate(grids)
        ]
        for name, values in (("slide_ids", slide_ids), ("present", present), ("pos", pos)):
            if values is not None and len(values) != len(sizes):
                raise ValueError(f"{name}: expected one for each of {len(sizes)} slides, found {len(values)}")
        self._present = None if present is None else [np.asarray(mask) for mask in present]
        self.slides = []
        for number, (slide_id, size) in enumerate(zip(slide_ids, sizes, strict=True)):
            count = np.full(size, shape[1] * shape[2])
            if self._present is not None:
                mask = self._present[number]
                if mask.dtype != bool or mask.shape != (size, *shape[1:]):
                    raise ValueError(
                        f"present[{number}]: expected booleans of shape {(size, *shape[1:])}, found {mask.dtype} of "
                        f"shape {mask.shape}"
                    )
                count = mask.sum((1, 2))
            centre = np.full((size, 2), np.nan, np.float32)
            if pos is not None:
                centre = np.asarray(pos[number], np.float32)
                if centre.shape != (size, 2):
                    raise ValueError(f"pos[{number}]: expected shape {(size, 2)}, found {centre.shape}")
            links = near(centre, max(shape[1:]) * patch_um)
            self.slides.append(SlideRegions(slide_id, np.arange(size), centre, links, count))

    def read(self, slide: int, row: int) -> Data:
        """Read one region.

        Parameters
        ----------
        slide, row : int
            Number of the slide, and of the region in it.

        Returns
        -------
        torch_geometric.data.Data
            ``x``, ``place``, ``pos``, and ``edge_index`` and ``edge_attr`` where patches are joined.
        """
        item = self._grids[slide]
        grid = open_array(item[row]) if isinstance(item, list) else open_array(item)[row]
        if tuple(grid.shape) != self._shape:
            name = item[row] if isinstance(item, list) else f"slide {slide}"
            raise ValueError(
                f"grids: all regions must have the shape {self._shape} of the first, found {tuple(grid.shape)} in "
                f"{name}"
            )
        # a copy of arrays, for torch refuses those of files opened for reading
        grid = grid.detach().cpu() if isinstance(grid, torch.Tensor) else torch.from_numpy(np.array(grid))
        grid = grid.float()
        rows, columns = self._shape[1:]
        present = np.ones((rows, columns), bool) if self._present is None else self._present[slide][row]
        place = torch.from_numpy(np.argwhere(present))
        pos = (place.flip(1) + 0.5) * self._patch_um
        centre = torch.from_numpy(self.slides[slide].pos[row])
        if not bool(centre.isnan().any()):
            pos = pos + centre - torch.tensor([columns, rows]) * (self._patch_um / 2)
        data = Data(x=grid[:, place[:, 0], place[:, 1]].t().contiguous(), place=place, pos=pos)
        if self._edges is not None:
            there = torch.from_numpy(present.ravel())
            ends, lengths = self._edges
            kept = there[ends].all(0)
            data.edge_index, data.edge_attr = (there.cumsum(0) - 1)[ends[:, kept]], lengths[kept]
        return data

    def _count(self, number: int) -> int:
        shape = tuple(np.shape(open_array(self._grids[number])))
        if len(shape) != 4 or shape[1:] != self._shape:
            raise ValueError(
                f"grids[{number}]: expected shape (regions, {', '.join(map(str, self._shape))}), as of the first "
                f"slide, found {shape}"
            )
        return shape[0]


def open_array(source: Any) -> Any:
    """Open the array of a file, without reading it where that can be; an array passes through.

    Parameters
    ----------
    source : Path, array or Tensor
        A ``.npy`` file, a ``.pt`` file that holds one tensor (opened without running code from it), or an array.

    Returns
    -------
    ndarray or Tensor
        The array.

    Raises
    ------
    ValueError
        If the file holds something else.

    Examples
    --------
    >>> open_array(np.zeros(3)).shape
    (3,)
    """
    if not isinstance(source, Path):
        return source
    if source.suffix == ".npy":
        return np.load(source, mmap_mode="r")
    with source.open("rb") as file:
        mapped = file.read(2) == b"PK"  # files of old versions of torch cannot be mapped
    found = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"grids: {source} must hold one tensor, found {type(found).__name__}")
    return found.detach()


def region_files(folder: str | os.PathLike[str]) -> tuple[list[Any], list[str]]:
    """List the files of regions in a folder by slide.

    Parameters
    ----------
    folder : path-like
        With files ``.pt`` or ``.npy``: one of (n, F, rows, columns) for each slide, named by it; or one of (F, rows,
        columns) for each region, named ``<slide>_<x>_<y>`` or in a folder named by the slide.

    Returns
    -------
    grids : list
        Of each slide a Path, or a list of them, one a region.
    slide_ids : list of str
        The slides.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or no such file in it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a_0_4096", "a_4096_0", "b_0_0"):
    ...         np.save(f"{folder}/{name}.npy", np.zeros((4, 2, 2)))
    ...     [len(files) for files in region_files(folder)[0]], region_files(folder)[1]
    ([2, 1], ['a', 'b'])
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"grids: no folder at {folder}")
    files = sorted(path for path in folder.rglob("[!.]*") if path.suffix in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"grids: no file {' or '.join(_SUFFIXES)} in {folder}")
    if np.ndim(open_array(files[0])) == 4:
        return list(files), [path.stem for path in files]
    slides: dict[str, list[Path]] = {}
    for path in files:
        named = _REGION_NAME.fullmatch(path.stem)
        inside = path.parent.name if path.parent != folder else None
        slides.setdefault(inside or (named["slide"] if named else path.stem), []).append(path)
    return list(slides.values()), list(slides)
