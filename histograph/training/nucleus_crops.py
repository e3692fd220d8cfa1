"""Crops of images with labelled nuclei, turned, scaled and restained, with the targets of a StarDist network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from .nucleus_looks import Looks

# Blobs of fewer pixels say nothing of the size of nuclei.
_SPECK = 20


@dataclass
class NucleusBatch:
    """Crops and what a StarDist network should give for them.

    Attributes
    ----------
    image : Tensor
        (B, 3, S, S) from 0 to 1.
    probability, present : Tensor
        (B, 1, S / grid, S / grid), see `stardist_loss`.
    distance : Tensor
        (B, R, S / grid, S / grid) in pixels of the crop.

    Examples
    --------
    >>> one = torch.zeros(1, 1, 4, 4)
    >>> NucleusBatch.join([NucleusBatch(one, one, one, one)] * 3).num_graphs
    3
    """

    image: Tensor
    probability: Tensor
    present: Tensor
    distance: Tensor

    @property
    def num_graphs(self) -> int:
        """Number of crops B; the name that PyG gives to the size of a batch."""
        return self.image.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> NucleusBatch:
        """Move all of it, with the arguments of `torch.Tensor.to`."""
        return NucleusBatch(*(value.to(*args, **kwargs) for value in vars(self).values()))

    @staticmethod
    def join(items: Sequence[NucleusBatch]) -> NucleusBatch:
        """Make one batch of several."""
        columns = zip(*(vars(item).values() for item in items), strict=True)
        return NucleusBatch(*(torch.cat(column) for column in columns))


class NucleusCrops(Dataset):
    """Random crops of labelled images, for `train_nuclei`.

    Every crop is of a random image and place, turned by any angle, perhaps mirrored, stretched and scaled; its colours
    are changed by `Looks`. Beyond the edge of an image the crop shows its mirror image, of which nothing is asked.

    Parameters
    ----------
    images : sequence of ndarray, (H, W, 3) uint8
        Any sizes.
    labels : sequence of ndarray, (H, W) int
        0 for background.
    mpp : float, sequence of float, or None
        Pixel size of all or of each image in µm; None where it is not known: such images are scaled so that their
        median nucleus is `nucleus_um` wide.
    crop_px : int
        Side of a crop in pixels of the model.
    model_mpp : float
        Pixel size of the model in µm.
    grid : (int, int)
        Of the network.
    n_rays : int
        Of the network.
    length : int
        Crops in one pass.
    weights : sequence of float, optional
        How often each image is drawn, relative to the others.
    scale : (float, float)
        Range of the random factor of the size, even on the logarithm.
    looks : Looks or sequence of Looks, optional
        How colours change, of all or of each image; None leaves them as they are.
    nucleus_um : float
        See `mpp`.
    stretch : float
        Largest factor of one direction, while the direction across is divided by it; 1 stretches nothing.

    Raises
    ------
    ValueError
        If numbers of images, labels, pixel sizes or weights differ, or a shape, type or number is out of range.

    Examples
    --------
    >>> label = np.zeros((40, 40), int)
    >>> label[10:30, 12:28] = 7
    >>> image = np.where(label[..., None] > 0, 90, 230).astype(np.uint8).repeat(3, axis=2)
    >>> crops = NucleusCrops([image], [label], mpp=0.5, crop_px=32, grid=(2, 2), n_rays=8, length=4)
    >>> crops[0].image.shape, crops[0].distance.shape
    (torch.Size([1, 3, 32, 32]), torch.Size([1, 8, 16, 16]))
    """

    def __init__(
        self,
        images: Sequence[NDArray],
        labels: Sequence[NDArray],
        mpp: float | Sequence[float | None] | None,
        crop_px: int = 256,
        model_mpp: float = 0.25,
        grid: tuple[int, int] = (2, 2),
        n_rays: int = 32,
        length: int = 1000,
        weights: ArrayLike | None = None,
        scale: tuple[float, float] = (0.6, 1.5),
        looks: Looks | Sequence[Looks | None] | None = None,
        nucleus_um: float = 6.0,
        stretch: float = 1.18,
    ) -> None:
        sizes = list(mpp) if isinstance(mpp, Sequence) else [mpp] * len(images)
        share = np.ones(len(images)) if weights is None else np.asarray(weights, dtype=np.float64)
        _check(images, labels, sizes, share, scale, crop_px, grid, length)
        if not 1 <= stretch < math.inf:
            raise ValueError(f"stretch: expected a factor of at least 1, found {stretch}")
        self.images, self.labels = list(images), [np.asarray(label, dtype=np.int32) for label in labels]
        self.scales = [
            _scale(label, size, model_mpp, nucleus_um) for label, size in zip(self.labels, sizes, strict=True)
        ]
        self.model_mpp, self.share = float(model_mpp), share / share.sum()
        self.crop_px, self.grid, self.n_rays, self.length = int(crop_px), grid, int(n_rays), int(length)
        self.scale, self.stretch = scale, float(stretch)
        self.looks = list(looks) if isinstance(looks, Sequence) else [looks] * len(images)
        if len(self.looks) != len(images):
            raise ValueError(
                f"looks: expected one, or one for each of {len(images)} images, found {len(self.looks)}"
            )
        star_targets(np.zeros((8, 8), np.int32), grid, n_rays)  # tells now if its package is missing

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> NucleusBatch:
        """Draw a crop; its number says nothing, torch's random state all."""
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, found {index}")
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        which = int(rng.choice(len(self.images), p=self.share))
        low, high = map(math.log, self.scale)
        factor = self.scales[which] * math.exp(rng.uniform(low, high))
        image, label, present = random_crop(
            self.images[which], self.labels[which], self.crop_px, factor, rng, self.stretch
        )
        looks = self.looks[which]
        if looks is not None:
            image = looks.change(image, label, rng)
        probability, distance = star_targets(label, self.grid, self.n_rays)
        present = present[:: self.grid[0], :: self.grid[1]]
        return NucleusBatch(
            torch.from_numpy(image).permute(2, 0, 1)[None],
            torch.from_numpy(probability)[None, None],
            torch.from_numpy(present.astype(np.float32))[None, None],
            torch.from_numpy(distance).permute(2, 0, 1)[None],
        )


def star_targets(
    label: NDArray[np.int32], grid: tuple[int, int], n_rays: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure what a StarDist network should give, with the stardist package.

    Parameters
    ----------
    label : ndarray, (H, W) int32
        0 for background.
    grid : (int, int)
        Rows and columns of the label for each of the result.
    n_rays : int
        Number of directions.

    Returns
    -------
    ndarray, (H / grid, W / grid) float32
        Distance to the edge of the nucleus as a share of the largest within it; 0 outside.
    ndarray, (H / grid, W / grid, n_rays) float32
        Distance to the edge of the nucleus in each direction, in pixels.

    Raises
    ------
    ImportError
        If the stardist package is missing.

    Examples
    --------
    >>> probability, distance = star_targets(np.ones((6, 8), np.int32), (2, 2), 4)
    >>> probability.shape, distance.shape
    ((3, 4), (3, 4, 4))
    """
    try:
        from stardist.geometry import star_dist
        from stardist.utils import edt_prob
    except ImportError as error:
        raise ImportError(
            'training on nuclei needs the stardist package (not TensorFlow): pip install "histograph[nuclei]"'
        ) from error
    rows, cols = grid
    # a label that fills the crop has no edge to measure from; the end of the crop is taken for it
    filled = label.min() == label.max() > 0
    share = edt_prob(np.pad(label, 1))[1:-1, 1:-1] if filled else edt_prob(label)
    probability = np.ascontiguousarray(share[::rows, ::cols], dtype=np.float32)
    distance = np.asarray(star_dist(label, n_rays, mode="cpp", grid=grid), dtype=np.float32)
    return probability, distance


def random_crop(
    image: NDArray[np.uint8],
    label: NDArray[np.int32],
    crop_px: int,
    scale: float,
    rng: np.random.Generator,
    stretch: float = 1.18,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Cut a square of an image, turned by a random angle, perhaps mirrored, and stretched a little.

    Parameters
    ----------
    image : ndarray, (H, W, 3) uint8
        The image.
    label : ndarray, (H, W) int32
        Its nuclei.
    crop_px : int
        Side of the square.
    scale : float
        Pixels of the crop for each of the image.
    rng : numpy.random.Generator
        Where chance comes from.
    stretch : float
        Largest factor of one direction, while the direction across is divided by it.

    Returns
    -------
    image : ndarray, (crop_px, crop_px, 3) float32
        From 0 to 1, smoothed before it is made much smaller.
    label : ndarray, (crop_px, crop_px) int32
        Nearest labels.
    present : ndarray, (crop_px, crop_px) bool
        False where the crop shows what is mirrored at the edges of the image.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> image, label = np.full((19, 19, 3), 255, np.uint8), np.ones((19, 19), np.int32)
    >>> crop, nuclei, present = random_crop(image, label, 4, 1.0, rng)
    >>> crop.shape, int(nuclei.max()), bool(present.all())
    ((4, 4, 3), 1, True)
    """
    longer = math.exp(rng.uniform(-1, 1) * math.log(stretch))
    mirror = rng.choice([-1.0, 1.0])
    moved = _turn(rng) @ np.diag([mirror * longer, 1 / longer]) @ _turn(rng) / scale
    size = np.array(image.shape[1::-1], dtype=np.float64)
    # the middle of the crop keeps half a crop from the edges where the image is that large
    half = np.minimum(crop_px / 2 / scale, size / 2)
    centre = rng.uniform(half, size - half)
    steps = np.arange(crop_px) + 0.5 - crop_px / 2
    offset = np.stack(np.meshgrid(steps, steps), axis=-1)
    place = offset @ moved.T + centre
    present = np.all((place >= 0) & (place <= size), axis=-1)
    folded = np.mod(place, 2 * size)
    folded = np.minimum(folded, 2 * size - folded).clip(1e-3, size - 1e-3)
    nearest = folded.astype(np.int64)
    field = torch.from_numpy((2 * folded / size - 1).astype(np.float32))[None]
    # to make it much smaller without smoothing would leave pixels out
    sigma = 0.35 / scale if scale < 0.7 else 0.0
    pixels = ndimage.gaussian_filter(image.astype(np.float32) / 255, (sigma, sigma, 0), mode="mirror")
    seen = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    crop = F.grid_sample(seen, field, mode="bilinear", align_corners=False, padding_mode="border")
    return crop[0].permute(1, 2, 0).numpy(), label[nearest[..., 1], nearest[..., 0]], present


def _turn(rng: np.random.Generator) -> NDArray:
    """Draw a rotation."""
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _scale(label: NDArray[np.int32], mpp: float | None, model_mpp: float, nucleus_um: float) -> float:
    """Pixels of the model for each of an image."""
    if mpp is not None:
        return mpp / model_mpp
    area = np.bincount(label.ravel())[1:]
    area = area[area > _SPECK]
    if len(area) == 0:  # nothing says how large its nuclei are
        return 1.0
    return nucleus_um / model_mpp / (2 * math.sqrt(np.median(area) / math.pi))


def _check(
    images: Sequence[NDArray],
    labels: Sequence[NDArray],
    mpp: Sequence[float | None],
    share: NDArray,
    scale: tuple[float, float],
    crop_px: int,
    grid: tuple[int, int],
    length: int,
) -> None:
    if not len(images) == len(labels) == len(mpp) == len(share) or len(images) == 0:
        raise ValueError(
            "images: expected one label map, pixel size and weight for each of at least one image, found "
            f"{len(images)} images, {len(labels)} labels, {len(mpp)} mpp and {len(share)} weights"
        )
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"images[{number}]: expected (H, W, 3) uint8, found {image.shape} of {image.dtype}"
            )
        if np.shape(label) != image.shape[:2] or np.asarray(label).dtype.kind not in "iu":
            raise ValueError(
                f"labels[{number}]: expected whole numbers of the shape {image.shape[:2]} of its image, found "
                f"{np.shape(label)} of {np.asarray(label).dtype}"
            )
    for number, size in enumerate(mpp):
        if size is not None and not (math.isfinite(size) and size > 0):
            raise ValueError(f"mpp[{number}]: expected a positive number of µm or None, found {size}")
    if not (share >= 0).all() or not 0 < share.sum() < math.inf:
        raise ValueError(f"weights: expected numbers of at least 0, not all 0, found {share.tolist()}")
    if not 0 < scale[0] <= scale[1] < math.inf:
        raise ValueError(f"scale: expected two rising positive numbers, found {scale}")
    if crop_px < 1 or any(crop_px % step for step in grid):
        raise ValueError(f"crop_px: expected a multiple of the grid {grid}, found {crop_px}")
    if length < 1:
        raise ValueError(f"length: expected at least 1 crop, found {length}")
