"""Figures of the evaluation: vectors in the plane, and what the heads of an encoder look at."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from histograph.evaluation import class_attention
from histograph.features import PatchEncoder
from histograph.nn import VisionTransformer
from histograph.plotting import plot_attention_heads, plot_embedding

from .pictures import Picture, slug, squared

SHOWN = 5000


def draw(
    name: str,
    encoder: PatchEncoder | None,
    z: np.ndarray,
    pictures: Sequence[Picture],
    mpp: float,
    options: argparse.Namespace,
) -> str:
    """Draw vectors by class or value, and the attention of one picture of each class; say what was written."""
    options.figures.mkdir(parents=True, exist_ok=True)
    written = [draw_vectors(name, z, pictures, options)]
    network = network_of(encoder)
    if encoder is None or network is None:
        return f"{', '.join(written)} drawn; {name} has no attention to draw"
    labels = [picture.label for picture in pictures]
    for label in sorted(set(labels)):
        picture = pictures[labels.index(label)]
        path = options.figures / f"{slug(name)}_attention_{slug(label or 'first')}.png"
        draw_heads(network, encoder, picture, mpp, path, f"{name}, {label or picture.name}")
        written.append(path.name)
    return f"{', '.join(written)} drawn in {options.figures}"


def draw_vectors(name: str, z: np.ndarray, pictures: Sequence[Picture], options: argparse.Namespace) -> str:
    """Draw at most 5,000 vectors in the plane."""
    rows = np.sort(np.random.default_rng(0).permutation(len(z))[:SHOWN])
    values = not any(picture.label for picture in pictures)
    color = [pictures[row].value if values else pictures[row].label for row in rows]
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    plot_embedding(z[rows], color, options.projection, figure.add_subplot(), title=name)
    path = options.figures / f"{slug(name)}_{options.projection}.png"
    figure.savefig(path, dpi=150)
    return path.name


def draw_heads(
    network: VisionTransformer, encoder: PatchEncoder, picture: Picture, mpp: float, path: Path, title: str
) -> None:
    """Draw each head of the last block on a picture, and the smallest set of squares that holds half of it."""
    whole = picture.read()
    image = squared(whole, encoder.size_px)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div(255)
    maps = class_attention(network, ((pixels - mean) / std).to(encoder.device))
    figure = Figure(figsize=(1.5 * (2 + len(maps)), 3.9), layout="constrained")
    scale = mpp * min(whole.shape[:2]) / encoder.size_px
    plot_attention_heads(maps, image, figure=figure, mpp=scale, title=title)
    figure.savefig(path, dpi=150)


def network_of(encoder: PatchEncoder | None) -> VisionTransformer | None:
    """Give the Vision Transformer behind an encoder, if it has one that reads normalised images."""
    network = getattr(encoder.module, "network", None) if encoder is not None else None
    return network if isinstance(network, VisionTransformer) else None
