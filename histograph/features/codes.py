"""Texture codes: how much of each typical small patch an image crop shows, learnt without labels.

Small square patches of the crops are whitened and gathered into K clusters. A crop is then described by how near
its patches lie to each of the K centroids, on average over zones around its centre. Contrast and brightness are
left in the patches, because colour is what a stain tells.

Coates, Lee and Ng, "An analysis of single-layer networks in unsupervised feature learning", AISTATS 2011.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import PatchEncoder

__all__ = ["TextureCodes"]

# Added to the variances before whitening, colours from 0 to 1: what varies less than noise is not blown up.
_EPSILON = 1e-3
# Patches at a time: their distances to some hundred centroids fit into the cache of a CPU.
_BLOCK, _BLOCK_GPU = 4096, 262144


class TextureCodes(nn.Module):
    """Codes of image crops: triangle activations of k-means centroids of small patches, averaged by zone.

    Each patch u of `patch_px` × `patch_px` × 3 colour values is whitened, z = (u - mean) W, and activates centroid
    c_k by a_k = max(0, mean_j d_j - d_k) with d_k = |z - c_k|. The crop's code is the mean of a over the patches
    whose centre lies in a zone, one zone after another from the centre outwards.

    The filters have a direction, so a turned crop has another code; only the zones stay as they are when a crop is
    turned by 90 degrees. Turn crops while fitting a classifier where that matters.

    Parameters
    ----------
    codes : int
        Centroids K.
    patch_px : int
        Side of a small patch in pixels.
    zones : sequence of float
        Radii between the zones as fractions of the half width of the crop, ascending; n radii give n + 1 zones,
        none gives the mean over the crop. A zone without a patch, as in a very small crop, has the code 0.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Examples
    --------
    >>> crops = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8)
    >>> codes = TextureCodes(codes=5, patch_px=3, zones=(0.5,)).fit(crops, samples=500)
    >>> codes(torch.rand(2, 3, 12, 12)).shape
    torch.Size([2, 10])
    """

    mean: Tensor
    whitening: Tensor
    centroids: Tensor
    zones: Tensor

    def __init__(self, codes: int = 200, patch_px: int = 6, zones: Sequence[float] = (0.34, 0.62)) -> None:
        super().__init__()
        for name, number, least in (("codes", codes, 2), ("patch_px", patch_px, 1)):
            if number != int(number) or number < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, found {number!r}")
        radii = [0.0, *(float(radius) for radius in zones), math.sqrt(2)]
        if not all(a < b for a, b in pairwise(radii)):
            raise ValueError(
                "zones must ascend between 0 and √2, the radius of the corners in half widths, "
                f"found {tuple(radii[1:-1])}"
            )
        self.codes, self.patch_px = int(codes), int(patch_px)
        dim = 3 * self.patch_px**2
        # NaN marks what is not fitted; it travels with the state dict
        self.register_buffer("mean", torch.full((dim,), torch.nan))
        self.register_buffer("whitening", torch.full((dim, dim), torch.nan))
        self.register_buffer("centroids", torch.full((self.codes, dim), torch.nan))
        self.register_buffer("zones", torch.tensor(radii[1:-1], dtype=torch.float32))

    @property
    def out_dim(self) -> int:
        """Numbers of a code: zones times centroids."""
        return (len(self.zones) + 1) * self.codes

    def fit(self, images: npt.NDArray[np.uint8], samples: int = 60_000, seed: int = 0) -> Self:
        """Learn mean, whitening and centroids from small patches at random places.

        Parameters
        ----------
        images : (N, H, W, 3) uint8 array
            Crops, red, green, blue; an array on disk will do, since only the patches are read.
        samples : int
            Patches to read, at least one a centroid.
        seed : int
            Of the places and of k-means.

        Returns
        -------
        TextureCodes
            Itself.

        Raises
        ------
        ValueError
            When the images have another shape or type or are too small, or show too few different patches.

        Examples
        --------
        >>> crops = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
        >>> TextureCodes(codes=4, patch_px=2).fit(crops, samples=100).centroids.shape
        torch.Size([4, 12])
        """
        from sklearn.cluster import MiniBatchKMeans

        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
            raise ValueError(
                "images must be uint8 of shape (N, H, W, 3) with N of at least 1, "
                f"found {images.dtype} of shape {images.shape}"
            )
        self._check_size(*images.shape[1:3])
        rng = np.random.default_rng(seed)
        small = _random_patches(images, self.patch_px, samples, rng)
        different = len(np.unique(small, axis=0))
        if different < self.codes:
            raise ValueError(
                f"images show {different} different small patches among samples={samples}, fewer than "
                f"codes={self.codes}; give more images or samples, or fewer codes"
            )
        values = small / 255.0
        mean = values.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(values, rowvar=False))
        whitening = (axes / np.sqrt(variances.clip(min=0) + _EPSILON)) @ axes.T
        k_means = MiniBatchKMeans(
            self.codes, n_init=1, batch_size=2048, max_iter=50, random_state=int(rng.integers(2**31))
        ).fit(((values - mean) @ whitening).astype(np.float32))
        self.mean.copy_(torch.from_numpy(mean))
        self.whitening.copy_(torch.from_numpy(whitening))
        self.centroids.copy_(torch.from_numpy(k_means.cluster_centers_))
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Give the codes of crops, in full precision also under autocast.

        Parameters
        ----------
        images : Tensor
            (B, 3, H, W) red, green, blue from 0 to 1, of any size from one small patch on.

        Returns
        -------
        Tensor
            (B, `out_dim`), zone by zone from the centre outwards.

        Raises
        ------
        RuntimeError
            When the codes are not fitted.
        ValueError
            When the images have another shape, are smaller than a small patch, or hold no real numbers.

        Examples
        --------
        >>> crops = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
        >>> codes = TextureCodes(codes=4, patch_px=2, zones=()).fit(crops, samples=100)
        >>> bool((codes(torch.rand(3, 3, 8, 8)) >= 0).all())
        True
        """
        self._check_fitted()
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                "images must be real numbers from 0 to 1 of shape (B, 3, H, W), "
                f"found {images.dtype} of shape {tuple(images.shape)}"
            )
        height, width = (side - self.patch_px + 1 for side in images.shape[2:])
        self._check_size(*images.shape[2:])
        weights = self._zone_weights(height, width)
        code = images.new_zeros(len(images), len(weights), self.codes, dtype=self.mean.dtype)
        with torch.autocast(images.device.type, enabled=False):  # squares of distances need all their digits
            for crops, rows in _blocks(len(images), height, width, images.device):
                strip = images[crops, :, rows.start : rows.stop + self.patch_px - 1].to(self.mean.dtype)
                code[crops] += weights[:, rows].flatten(1) @ self._activations(strip)
        return code.flatten(1)

    def encoder(self, size_px: int, mpp: float, name: str = "code") -> PatchEncoder:
        """Wrap the fitted codes as a patch encoder, as `embed_entities` and `add_latents` take it.

        Parameters
        ----------
        size_px : int
            Side of a crop in pixels.
        mpp : float
            Micrometres per pixel of the crops; `size_px` times `mpp` is the side in micrometres.
        name : str
            Prefix of the feature names.

        Returns
        -------
        PatchEncoder
            That hands colours from 0 to 1 to these codes.

        Raises
        ------
        RuntimeError
            When the codes are not fitted.
        ValueError
            When the crops are smaller than a small patch.

        Examples
        --------
        >>> crops = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
        >>> encoder = TextureCodes(codes=4, patch_px=2).fit(crops, samples=100).encoder(size_px=8, mpp=0.5)
        >>> encoder.size_um, encoder.encode(crops).shape
        (4.0, torch.Size([9, 12]))
        """
        self._check_fitted()
        self._check_size(size_px, size_px)
        return PatchEncoder(self, (0, 0, 0), (1, 1, 1), size_px, mpp, name)

    def _check_fitted(self) -> None:
        if self.centroids.isnan().any():
            raise RuntimeError(
                "TextureCodes is not fitted; call fit(images) or load a fitted state dict first"
            )

    def _check_size(self, height: int, width: int) -> None:
        if min(height, width) < self.patch_px:
            raise ValueError(
                f"images must be at least patch_px={self.patch_px} pixels high and wide, found {height} × {width}"
            )

    def _activations(self, images: Tensor) -> Tensor:
        """Give the triangle activations (B, patches, K) of the small patches, row by row."""
        u = F.unfold(images, self.patch_px).transpose(1, 2)
        z = ((u - self.mean) @ self.whitening).flatten(0, 1)
        square = torch.addmm(self.centroids.square().sum(1), z, self.centroids.T, alpha=-2)
        distance = square.add_(z.square().sum(1, keepdim=True)).clamp_min_(0).sqrt_()
        active = (distance.mean(1, keepdim=True) - distance).relu_()
        return active.unflatten(0, (len(images), -1))

    def _zone_weights(self, height: int, width: int) -> Tensor:
        """Give each zone's weights (zones, height, width) of the places of small patches; their sum is 1."""
        y, x = (
            (2 * torch.arange(n, device=self.zones.device, dtype=self.zones.dtype) - (n - 1)) / n
            for n in (height, width)
        )
        square = y.square()[:, None] + x.square()
        zone = torch.bucketize(square, self.zones.square(), right=True)  # a patch on a radius lies outside it
        inside = F.one_hot(zone, len(self.zones) + 1).permute(2, 0, 1).to(self.mean.dtype)
        return inside / inside.sum((1, 2), keepdim=True).clamp_min(1)


def _random_patches(
    images: npt.NDArray[np.uint8], patch_px: int, samples: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Read square patches at random places, (samples, 3 patch_px²) in the order of `torch.nn.functional.unfold`."""
    which = rng.integers(len(images), size=samples)
    top, left = (rng.integers(side - patch_px + 1, size=samples) for side in images.shape[1:3])
    step = np.arange(patch_px)
    rows, columns = top[:, None, None] + step[:, None], left[:, None, None] + step
    return images[which[:, None, None], rows, columns].transpose(0, 3, 1, 2).reshape(samples, -1)


def _blocks(count: int, height: int, width: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Divide crops, and rows of a large crop, so that no block has many more patches than fit the memory."""
    most = _BLOCK if device.type == "cpu" else _BLOCK_GPU
    crops, rows = max(1, most // (height * width)), max(1, most // width)
    for first in range(0, count, crops):
        for top in range(0, height, rows):
            yield slice(first, min(first + crops, count)), slice(top, min(top + rows, height))
