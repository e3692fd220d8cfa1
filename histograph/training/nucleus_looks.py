"""Colours of labelled images changed as laboratories, scanners and stains change them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histograph.entities.stain import MACENKO_REFERENCE, unmixing

# Optical density (natural logarithm) of red, green and blue that haematoxylin and eosin vary around, of length 1.
_HAEMATOXYLIN, _EOSIN = (np.array(v) / np.linalg.norm(v) for v in ((0.65, 0.70, 0.29), (0.15, 0.93, 0.30)))


@dataclass(frozen=True, eq=False)
class Looks:
    """Random changes of stain, ground, sharpness and noise.

    An image may be *restained*: its structure, how much darker than the ground each pixel is, is painted in a random
    haematoxylin, on a random ground, with `texture` of eosin laid over it. So images of one stain stand in for H&E.
    Otherwise it is taken for H&E, and the colours and amounts of its stains are changed.

    Parameters
    ----------
    restain : float
        Share of the crops that are restained.
    texture : ndarray, (H, W) float, optional
        Amounts of eosin in tissue, about 0 to 1, to be laid over restained crops; None lays none.
    textured : float
        Share of the restained crops that get it.
    varied : float
        Share of the restained crops whose nuclei are made unlike: some pale, some with a pale inside as vesicular
        nuclei have.
    clumped : float
        Share of the crops, restained or not, whose nuclei get clumps of chromatin.
    holed : float
        Share of the crops, restained or not, that get round holes between the nuclei, as fat and vacuoles leave them.

    Raises
    ------
    ValueError
        If a share is not one, or the texture is no image.

    Examples
    --------
    >>> label = np.zeros((16, 16), np.int32)
    >>> label[4:12, 4:12] = 1
    >>> image = np.where(label[..., None] > 0, 0.3, 0.9).astype(np.float32).repeat(3, axis=2)
    >>> changed = Looks().change(image, label, np.random.default_rng(0))
    >>> changed.shape, bool(changed[8, 8].mean() < changed[0, 0].mean())
    ((16, 16, 3), True)
    """

    restain: float = 0.8
    texture: NDArray | None = field(default=None, repr=False)
    textured: float = 0.6
    varied: float = 0.6
    clumped: float = 0.3
    holed: float = 0.3

    def __post_init__(self) -> None:
        for name in ("restain", "textured", "varied", "clumped", "holed"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, found {value}")
        if self.texture is not None and (self.texture.ndim != 2 or min(self.texture.shape) < 2):
            raise ValueError(f"texture: expected amounts (H, W), found shape {self.texture.shape}")

    def change(
        self, image: NDArray[np.float32], label: NDArray[np.int32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Change the looks of a crop.

        Parameters
        ----------
        image : ndarray, (H, W, 3) float32
            From 0 to 1.
        label : ndarray, (H, W) int32
            Its nuclei.
        rng : numpy.random.Generator
            Where chance comes from.

        Returns
        -------
        ndarray, (H, W, 3) float32
            From 0 to 1.
        """
        density = -np.log(np.clip(image, 1 / 255, 1))
        if rng.random() < self.clumped:
            density = density * _clumps(label, rng)[..., None]
        restained = rng.random() < self.restain
        density = self._restained(density, label, rng) if restained else _jittered(density, rng)
        if rng.random() < self.holed:
            density = _with_holes(density, label, rng)
        return _photographed(np.exp(-np.maximum(density, 0)), rng).astype(np.float32)

    def _restained(self, density: NDArray, label: NDArray[np.int32], rng: np.random.Generator) -> NDArray:
        """Paint the structure of an image in random stains."""
        inside = label > 0
        ground = np.percentile(density.reshape(-1, 3), 20, axis=0) if rng.random() < 0.9 else np.zeros(3)
        darker = np.maximum(density - ground, 0)
        structure = darker.sum(-1) / math.sqrt(3)
        redness = (darker[..., 1] - darker[..., 0]) / (darker.sum(-1) + 1e-3)
        haematoxylin, eosin = _near(_HAEMATOXYLIN, 0.08, rng), _near(_EOSIN, 0.08, rng)
        usual = np.median(structure[inside]) if inside.any() else 1.0
        amount = (structure / max(usual, 0.15) * rng.uniform(0.3, 2.5)) ** rng.uniform(0.7, 1.3)
        if rng.random() < self.varied:
            amount = amount * _paler(label, rng)
        # what was redder than the rest takes some of the other stain
        mix = np.clip(rng.normal(0.1, 0.1) + rng.normal(0, 0.3) * redness, 0, 0.6)
        painted = (amount * (1 - mix))[..., None] * haematoxylin + (amount * mix)[..., None] * eosin
        if self.texture is not None and rng.random() < self.textured:
            over = _piece(self.texture, inside.shape, rng) * rng.uniform(0.2, 1.4) + rng.uniform(0, 0.25)
            # nuclei hold less eosin than what is around them, without a sharp line between
            shade = ndimage.gaussian_filter(inside.astype(np.float32), rng.uniform(0.6, 2.0))
            painted += (over * (1 - shade * rng.uniform(0, 0.6)))[..., None] * eosin
            # cytoplasm takes haematoxylin too, in some tissue nearly as much as nuclei
            if rng.random() < 0.5:
                basophilic = _piece(self.texture, inside.shape, rng) * rng.uniform(0, 0.7) * (1 - 0.7 * shade)
                painted += basophilic[..., None] * haematoxylin
        return painted + rng.uniform(0, 0.12, 3) * rng.uniform()


def _piece(texture: NDArray, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
    """Cut a piece of a texture, turned by right angles, in a random size."""
    size = max(2, round(max(shape) / rng.uniform(1.4, 3.0)))
    size = min(size, *texture.shape)
    row, col = (int(rng.integers(0, side - size + 1)) for side in texture.shape)
    piece = np.rot90(texture[row : row + size, col : col + size], int(rng.integers(4)))
    return ndimage.zoom(piece, [wanted / size for wanted in shape], order=1, mode="nearest", grid_mode=True)


def _paler(label: NDArray[np.int32], rng: np.random.Generator) -> NDArray:
    """Draw a factor of the stain for each nucleus, falling from its edge inwards, without sharp lines."""
    inside = label > 0
    each = np.exp(rng.normal(-0.1, rng.uniform(0, 0.4), int(label.max()) + 1))
    each[0] = 1.0
    depth = ndimage.distance_transform_edt(inside)
    hollow = 1 - rng.uniform(0, 0.6) * (1 - np.exp(-np.maximum(depth - 1, 0) / rng.uniform(0.8, 3.0)))
    return ndimage.gaussian_filter(each[label] * hollow, 0.7)


def _clumps(label: NDArray[np.int32], rng: np.random.Generator) -> NDArray:
    """Draw a factor of what nuclei absorb: dark grains and pale gaps between them, and perhaps a dark edge."""
    inside = label > 0
    noise = ndimage.gaussian_filter(rng.normal(size=label.shape), rng.uniform(0.8, 3.0))
    grains = np.exp(noise / noise.std() * rng.uniform(0.1, 0.45))
    edge = 1 + rng.uniform(0, 0.6) * (inside & (ndimage.distance_transform_edt(inside) <= 2))
    return ndimage.gaussian_filter(np.where(inside, grains * edge, 1.0), 0.7)


def _with_holes(density: NDArray, label: NDArray[np.int32], rng: np.random.Generator) -> NDArray:
    """Make round white holes with an edge, behind the nuclei."""
    free = 1 - ndimage.gaussian_filter((label > 0).astype(np.float32), 0.7)
    rows, cols = (np.arange(side, dtype=np.float64) for side in label.shape)
    for _ in range(int(rng.integers(1, 7))):
        radius, ratio = math.exp(rng.uniform(math.log(4), math.log(45))), rng.uniform(0.6, 1.0)
        cos, sin = math.cos(angle := rng.uniform(0, math.pi)), math.sin(angle)
        down = (rows - rng.uniform(0, len(rows)))[:, None]
        right = cols - rng.uniform(0, len(cols))
        outward = np.hypot(cos * right + sin * down, (cos * down - sin * right) / ratio) - radius
        hole = free / (1 + np.exp(np.clip(2 * outward, -30, 30)))
        edge = free * np.exp(-((outward / rng.uniform(0.7, 2.0)) ** 2)) * rng.uniform(0, 0.8)
        density = density * (1 - hole * rng.uniform(0.7, 1.0))[..., None] + edge[..., None] * _near(
            _EOSIN, 0.1, rng
        )
    return density


def _near(colour: NDArray, spread: float, rng: np.random.Generator) -> NDArray:
    """Draw a stain's colour near another, of length 1."""
    moved = np.maximum(
        colour + rng.normal(0, spread, 3) + rng.uniform(-0.1, 0.1) * np.array([1, 0, -1]), 0.02
    )
    return moved / np.linalg.norm(moved)


def _jittered(density: NDArray, rng: np.random.Generator) -> NDArray:
    """Change the colours and amounts of the stains, and the light."""
    unmix = unmixing(MACENKO_REFERENCE)
    amounts, stains = density @ unmix, np.linalg.inv(unmix)
    amounts[..., :2] *= np.exp(rng.normal(0, 0.3, 2))
    if rng.random() < 0.3:  # cytoplasm that takes haematoxylin too
        amounts[..., 0] += np.maximum(amounts[..., 1], 0) * rng.uniform(0, 0.5)
    if rng.random() < 0.7:
        stains[:2] = _near(stains[0], 0.06, rng), _near(stains[1], 0.06, rng)
    return amounts @ stains * np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.1, 3)) + rng.normal(
        0, 0.04, 3
    )


def _photographed(image: NDArray, rng: np.random.Generator) -> NDArray:
    """Blur or sharpen, add noise, bend the curve of brightness: what lenses, cameras and programs do."""
    kind = rng.random()
    if kind < 0.4:
        sigma = rng.uniform(0.3, 1.5)
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    elif kind < 0.6:
        image = image + (image - ndimage.gaussian_filter(image, (1, 1, 0))) * rng.uniform(0.3, 1.5)
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0, 0.03), image.shape)
    if rng.random() < 0.3:
        image = np.clip(image, 0, 1) ** rng.uniform(0.7, 1.4)
    return np.clip(image, 0, 1)
