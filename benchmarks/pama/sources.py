"""Patch graphs of the data at hand: what PAMA reads, from pictures, slides, and tables of cells.

A patch is measured from its own pixels or cells alone, so that a visible patch says nothing of a hidden one that is
not in the tissue itself.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hmgdm import vectra_lung
from PIL import Image
from scipy.spatial import cKDTree
from torch_geometric.data import Data
from tqdm.auto import tqdm

import histograph as hg
from histograph.slides import Slide

#: Groups of hand-made features of a patch of a picture.
GROUPS = ("color", "stain", "texture")
#: Standard deviations of the training patches that a feature is cut at: some have a few enormous values.
CUT = 4.0
#: Patches of a slide, or of a window of one, at least.
FEWEST = 40
SLIDES = (".svs", ".ndpi", ".mrxs")


def patch_graph(slide: Slide, size_um: float, tissue: bool = False) -> Data:
    """Lay a grid of patches over a slide, or over its tissue, and measure colour, stain and texture of each."""
    whole = hg.build_graph(
        slide,
        entities={"patch": {"size_um": size_um}},
        features={"patch": GROUPS},
        mask="auto" if tissue else None,
        progress=False,
    )
    layer = hg.graphs.layer(whole, "patch")
    return Data(x=torch.nan_to_num(layer.x), pos=layer.pos)  # a patch without a coloured pixel has no stain


def cell_patches(pos: np.ndarray, kind: np.ndarray, kinds: int, size_um: float) -> Data:
    r"""Lay a grid over cells and count, in each patch with a cell, the kinds and the like and unlike pairs.

    The features of a patch with :math:`n_k` cells of kind k are :math:`\sqrt{n_k}`, then the roots of the numbers of
    pairs of one kind and of two kinds, where two cells are a pair if one is the other's nearest in the patch.
    """
    column, row = ((pos - pos.min(0)) // size_um).astype(int).T
    width = int(column.max()) + 1
    place, patch = np.unique(row * width + column, return_inverse=True)
    count = np.zeros((len(place), kinds))
    np.add.at(count, (patch, kind), 1)
    pairs = np.zeros((len(place), 2))
    if len(pos) > 1:
        # patches are lifted apart, so that the nearest other cell is one of the same patch, if there is one
        lifted = np.column_stack([pos, patch * 4 * size_um])
        distance, near = cKDTree(lifted).query(lifted, k=2)
        other = np.where(near[:, 1] == np.arange(len(pos)), near[:, 0], near[:, 1])
        paired = np.flatnonzero(distance[:, 1] < 2 * size_um)
        ends = np.unique(np.sort(np.column_stack([paired, other[paired]]), axis=1), axis=0)
        np.add.at(pairs, (patch[ends[:, 0]], (kind[ends[:, 0]] != kind[ends[:, 1]]).astype(int)), 1)
    middle = np.column_stack([place % width, place // width]) * size_um + size_um / 2
    x = np.sqrt(np.hstack([count, pairs]))
    return Data(x=torch.as_tensor(x, dtype=torch.float32), pos=torch.as_tensor(middle, dtype=torch.float32))


def lung(folder: Path, size_um: float) -> list[Data]:
    """Make the patch graph of each image of lung cells; `group` is the patient, `cells` the graph of cells."""
    found = []
    for cells in vectra_lung.read_images(folder / vectra_lung.FILE):
        kind = cells.x.argmax(1).numpy()
        slide = cell_patches(cells.pos.numpy().astype(float), kind, vectra_lung.TYPES, size_um)
        slide.group, slide.cells = cells.patient, cells
        found.append(slide)
    return [slide for slide in found if slide.num_nodes >= FEWEST]


def pictures(folder: Path, size_px: int, mpp: float = 0.55) -> list[Data]:
    """Make the patch graph of each picture of a folder of them; `group` is its name."""
    found = []
    for path in tqdm(sorted((folder / "images").glob("*.png")), desc="pictures", disable=None):
        image = np.asarray(Image.open(path).convert("RGB"))
        slide = patch_graph(hg.open_slide(image, mpp=mpp), size_px * mpp)
        slide.group = path.stem
        found.append(slide)
    return [slide for slide in found if slide.num_nodes >= FEWEST]


def slide_windows(folder: Path, size_um: float, across: int, mpp: float) -> list[Data]:
    """Cut the patch graphs of slides into windows of `across` x `across` patches; `group` is the slide."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in SLIDES):
        with _opened(path, mpp) as slide:
            graph = patch_graph(slide, size_um, tissue=True)
        for window in windows_of(graph, across * size_um):
            window.group = path.stem
            found.append(window)
    return found


def _opened(path: Path, mpp: float) -> Slide:
    """Open a slide, with `mpp` where it does not say its own."""
    try:
        return hg.open_slide(path)
    except ValueError:
        return hg.open_slide(path, mpp=mpp)


def windows_of(graph: Data, side_um: float) -> list[Data]:
    """Cut a graph into the square windows of a grid that hold enough patches."""
    column, row = (graph.pos.numpy() // side_um).astype(int).T
    found = []
    for window in np.unique(np.column_stack([row, column]), axis=0):
        inside = torch.from_numpy((row == window[0]) & (column == window[1]))
        if int(inside.sum()) >= FEWEST:
            found.append(Data(x=graph.x[inside], pos=graph.pos[inside]))
    return found


def scaled(slides: Sequence[Data], train: Sequence[int]) -> list[Data]:
    """Standardise features by the training patches and cut them at `CUT`; nothing but features and places is kept."""
    known = torch.cat([slides[i].x for i in train])
    mean, std = known.mean(0), known.std(0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return [
        Data(x=((slide.x - mean) / std).clamp(-CUT, CUT), pos=slide.pos.clone(), num_nodes=slide.num_nodes)
        for slide in slides
    ]


def split(groups: Sequence[object], seed: int, share: float = 0.25) -> tuple[list[int], list[int]]:
    """Draw the training and test rows; a group is on one side. Of three groups or fewer, one is tested, in turn."""
    names = sorted(set(groups), key=str)
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    tested = {names[i] for i in order[: max(1, round(share * len(names)))]}
    if len(names) <= 3:
        tested = {names[seed % len(names)]}
    rows = range(len(groups))
    return [i for i in rows if groups[i] not in tested], [i for i in rows if groups[i] in tested]
