"""Slides of regions made of the data at hand: pictures cut into regions, and slides pieced together of patches.

A region is a square of `SIDE` x `SIDE` patches, and a patch is what is measured of its pixels by hand: colour, stain
and texture.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hmgdm.common import refuse
from PIL import Image
from torch_geometric.data import Data
from tqdm.auto import tqdm
from weights import patches

import histograph as hg
from histograph.atomic import atomic_path
from histograph.graphs import RegionDataset

#: Patches along a side of a region.
SIDE = 4
GROUPS = ("color", "stain", "texture")
#: Of CRCHistoPhenotypes: pixels of a patch, regions along a side of a picture, micrometres per pixel, kinds of cells.
PATCH_PX, ACROSS, CRC_MPP = 31, 4, 0.55
KINDS = ("epithelial", "fibroblast", "inflammatory", "others")
#: Of slides pieced together: rows and columns of regions; those of a focus; share of tumour patches there; share of all
#: patches, those most alike in colour, that a region is drawn from.
LAYOUT, FOCUS, TUMOUR_SHARE, ALIKE = (4, 6), (2, 2), 0.5, 0.06


class Kept(list[Data]):
    """Regions held in memory, with the tables of the data set that they are from."""

    def __init__(self, data: RegionDataset) -> None:
        super().__init__(data)
        self.slide, self.slide_ids, self.patients = data.slide, data.slide_ids, data.patients
        self.region_edges, self.pos, self.feature_dim = data.region_edges, data.pos, data.feature_dim


@dataclass
class Slides:
    """Regions of slides, and the slides as pictures.

    Parameters
    ----------
    regions : Kept
        Those of all slides.
    pictures : list of ndarray
        Each slide; empty where pictures were not asked for.
    mpp : float
        Of the pictures.
    """

    regions: Kept
    pictures: list[np.ndarray]
    mpp: float

    def means(self) -> np.ndarray:
        """Average the features of the patches of each region."""
        return np.stack([region.x.mean(0).numpy() for region in self.regions])

    def opened(self) -> list[hg.slides.Slide]:
        """Open the slides."""
        names = self.regions.slide_ids
        pictures = zip(self.pictures, names, strict=False)  # perhaps the first ones only
        return [hg.open_slide(picture, mpp=self.mpp, slide_id=name) for picture, name in pictures]


def grid_features(sheet: np.ndarray, px: int, mpp: float) -> np.ndarray:
    """Measure the squares of a picture: (rows, columns, F)."""
    rows, columns = sheet.shape[0] // px, sheet.shape[1] // px
    label = np.arange(1, rows * columns + 1).reshape(rows, columns).repeat(px, 0).repeat(px, 1)
    table = hg.features.region_features(label, sheet[: rows * px, : columns * px], mpp, GROUPS, workers=1)
    return np.nan_to_num(table.values).reshape(
        rows, columns, -1
    )  # without a coloured pixel there is no stain


def as_regions(features: np.ndarray) -> np.ndarray:
    """Cut a grid of patches (rows, columns, F) into regions (n, F, SIDE, SIDE)."""
    rows, columns, width = features.shape
    parts = features.reshape(rows // SIDE, SIDE, columns // SIDE, SIDE, width)
    return parts.transpose(0, 2, 4, 1, 3).reshape(-1, width, SIDE, SIDE)


def data_set(
    features: Sequence[np.ndarray], names: Sequence[str], px: int, mpp: float, corner_px: float = 0.0
) -> Kept:
    """Make the regions of slides from their grids of patches."""
    side = SIDE * px * mpp
    pos = [
        np.stack(np.meshgrid(np.arange(grid.shape[1] // SIDE), np.arange(grid.shape[0] // SIDE)), -1)
        for grid in features
    ]
    return Kept(
        RegionDataset.from_grids(
            [as_regions(grid).astype(np.float32) for grid in features],
            names,
            pos=[(place.reshape(-1, 2) + 0.5) * side + corner_px * mpp for place in pos],
            patch_um=px * mpp,
        )
    )


def crc(folder: Path, limit: int | None) -> tuple[Slides, np.ndarray]:
    """Read CRCHistoPhenotypes: pictures as slides of 16 regions; and (n, 4) numbers of cells of each kind in these."""
    table = folder / "classified_nuclei.csv"
    if not table.is_file() or not (folder / "images").is_dir():
        refuse(folder, "images/*.png and classified_nuclei.csv of CRCHistoPhenotypes")
    cells = pd.read_csv(table)
    names = sorted(cells.image.unique())[:limit]
    grids, counts, pictures = [], [], []
    for name in tqdm(names, desc="pictures", disable=None):
        picture = np.asarray(Image.open(folder / "images" / f"{name}.png").convert("RGB"))
        span = ACROSS * SIDE * PATCH_PX
        corner = (min(picture.shape[:2]) - span) // 2
        if corner < 0:
            sys.exit(f"--data: {name}.png must have at least {span} pixels a side, found {picture.shape[:2]}")
        grids.append(
            grid_features(picture[corner : corner + span, corner : corner + span], PATCH_PX, CRC_MPP)
        )
        part = cells[cells.image == name]
        place = np.floor((part[["y", "x"]].to_numpy() - corner) / (SIDE * PATCH_PX)).astype(int)
        inside = ((place >= 0) & (place < ACROSS)).all(1)
        kind = part.cell_type.map(KINDS.index).to_numpy()[inside]
        count = np.zeros((ACROSS, ACROSS, len(KINDS)), dtype=int)
        np.add.at(count, (*place[inside].T, kind), 1)
        counts.append(count.reshape(-1, len(KINDS)))
        pictures.append(picture)
    regions = data_set(grids, names, PATCH_PX, CRC_MPP, corner)
    return Slides(regions, pictures, CRC_MPP), np.concatenate(counts)


@dataclass
class Pool:
    """Patches that slides are pieced together of."""

    images: np.ndarray
    y: np.ndarray
    features: np.ndarray

    @classmethod
    def read(cls, folder: Path, split: str, cache: Path) -> "Pool":
        """Read the patches of a split and measure them, unless that was done."""
        images, y = patches.read_split(folder, split)
        file = cache / f"features {split} {len(y)}.npy".replace(" ", "_")
        if not file.is_file():
            px, rows = images.shape[1], []
            for start in tqdm(range(0, len(images), 20), desc=f"features of {split}", disable=None):
                sheet = np.concatenate(images[start : start + 20], axis=1)
                rows.append(grid_features(sheet, px, patches.MPP)[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as path, path.open("wb") as stream:
                np.save(stream, np.concatenate(rows))
        return cls(images, y, np.load(file))


def pieced(pool: Pool, count: int, seed: int, name: str, pictures: int = 0) -> tuple[Slides, np.ndarray]:
    """Piece slides together; every other one has a focus of regions in which half of the patches have tumour.

    A region is made of patches that are alike in colour, as neighbours in tissue are. Slides share patches.
    """
    rng = np.random.default_rng(seed)
    color = pool.images.reshape(len(pool.y), -1, 3).mean(1)
    kinds = [np.flatnonzero(pool.y == kind) for kind in (0, 1)]

    def alike(kind: int, number: int) -> np.ndarray:
        own = kinds[kind]
        away = np.linalg.norm(color[own] - color[rng.choice(own)], axis=1)
        near = own[np.argsort(away)[: max(SIDE**2, round(ALIKE * len(own)))]]
        return rng.choice(near, number, replace=len(near) < number)

    y = np.arange(count) % 2
    grids, seen = [], []
    for number in range(count):
        rows, columns = LAYOUT
        place = np.empty((rows * SIDE, columns * SIDE), dtype=int)
        focus = np.zeros(LAYOUT, dtype=bool)
        top, left = (rng.integers(have - wide + 1) for have, wide in zip(LAYOUT, FOCUS, strict=True))
        focus[top : top + FOCUS[0], left : left + FOCUS[1]] = y[number]
        for row, column in np.ndindex(*LAYOUT):
            tumour = round(TUMOUR_SHARE * SIDE**2) if focus[row, column] else 0
            drawn = np.concatenate([alike(0, SIDE**2 - tumour), *([alike(1, tumour)] if tumour else [])])
            square = rng.permutation(drawn).reshape(SIDE, SIDE)
            place[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = square
        grids.append(pool.features[place])
        if number < pictures:
            seen.append(np.concatenate(np.concatenate(pool.images[place], axis=1), axis=1))
    names = [f"{name} {number}" for number in range(count)]
    regions = data_set(grids, names, pool.images.shape[1], patches.MPP)
    return Slides(regions, seen, patches.MPP), y


def of_slide(slide: hg.slides.Slide, patch_um: float) -> RegionDataset:
    """Make the regions of the tissue of a real slide."""
    sizes = {"patch": {"size_um": patch_um}, "region": {"size_um": SIDE * patch_um}}
    graph = hg.build_graph(slide, sizes, features={"patch": GROUPS}, progress=False)
    graph["patch"].x = torch.nan_to_num(graph["patch"].x)
    return RegionDataset([graph], grid=SIDE, min_nodes=SIDE**2 // 2)
