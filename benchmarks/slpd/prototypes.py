"""Pictures of prototypes: the regions of a slide in their colours, and the regions nearest to each."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from slpd.sources import SIDE, Kept, Slides, of_slide
from torch.nn.functional import normalize

import histograph as hg
from histograph.plotting import plot_prototype_regions, plot_prototypes


def picture_of(method: Any, slides: Slides, file: Path) -> None:
    """Draw the slide whose prototypes differ most, the slide most like it in matching colours, and nearest regions.

    Parameters
    ----------
    method : SLPD or GraphSLPD
        Trained.
    slides : Slides
        What it was trained on; those that have pictures, the first ones, are looked at.
    file : Path
        To be written.
    """
    regions, opened = slides.regions, slides.opened()
    z = method.read_regions(regions)
    own = method.prototypes
    table = hg.nn.PrototypeGraph(own.prototypes, own.dim, min_regions=own.min_regions)
    rows = regions.slide < len(opened)
    table.refresh(z[rows], regions.slide[rows], len(opened))
    unit, other = table.unit(), table.neighbor[:, 0]
    same = (unit @ unit.mT).sum((1, 2))
    first = int(same.masked_fill(other < 0, torch.inf).argmin())
    second = int(other[first])
    number = torch.full((len(regions),), -1)
    number[rows] = table.assignment
    number[regions.slide == second] = table.matching[first, 0].argsort()[number[regions.slide == second]]
    height = 1.45 * table.prototypes
    figure = Figure(figsize=(9.5, 4.6 + height), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(4.6, height))
    for ax, slide in zip(top.subplots(1, 2), (opened[first], opened[second]), strict=True):
        alike = f"{table.similarity[first, 0] / table.prototypes:.2f}"
        title = slide.slide_id if slide is opened[first] else f"{slide.slide_id}, most similar ({alike})"
        plot_prototypes(regions, number, slide, ax=ax, alpha=0.3, title=title)
    plot_prototype_regions(regions, z, unit[first], opened, columns=8, per_slide=1, px=124, figure=bottom)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    print(f"\nprototypes: {file}")


def pictures_of_slides(
    options: argparse.Namespace, make: Callable[..., hg.methods.Method], training: dict[str, Any]
) -> None:
    """Train on the regions of real slides at several sizes of patches, and draw the prototypes of each slide."""
    slides = [_opened(path, options.mpp) for path in options.data]
    for slide in slides:
        figure = Figure(figsize=(1 + 5 * len(options.patch_um), 9.5), layout="constrained")
        tops, below = figure.subfigures(2, 1, height_ratios=(5, 4.5))
        axes = tops.subplots(1, len(options.patch_um), squeeze=False)[0]
        parts = below.subfigures(1, len(options.patch_um), squeeze=False)[0]
        for ax, part, patch_um in zip(axes, parts, options.patch_um, strict=True):
            data = of_slide(slide, patch_um)
            if len(data) < max(8, 2 * options.prototypes):
                sys.exit(
                    f"--patch-um: {slide.slide_id} holds {len(data)} regions of patches of {patch_um:g} um, at least "
                    f"{max(8, 2 * options.prototypes)} are needed; give a smaller one"
                )
            regions = Kept(data)
            torch.manual_seed(0)
            method: Any = make(data.feature_dim, options.prototypes, options.epochs)
            # a small slide gives few steps a pass
            passes = {**training, "batch_size": min(training["batch_size"], max(8, len(data) // 8))}
            hg.pretrain(method, regions, epochs=options.epochs, **passes)
            method.refresh(regions)
            z, table = method.read_regions(regions), method.prototypes
            plot_prototypes(
                data, table.assignment, slide, ax=ax, title=f"{len(data)} regions of {SIDE * patch_um:g} µm"
            )
            plot_prototype_regions(data, z, table.unit()[0], slide, columns=4, figure=part)
            print(f"{slide.slide_id}, patches of {patch_um:g} um: {_described(z, table.assignment)}")
        folder = options.pictures or options.out
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"prototypes_{slide.slide_id}.png"
        figure.savefig(file, dpi=80)
        print(f"prototypes: {file}")


def _described(z: torch.Tensor, assignment: torch.Tensor) -> str:
    """Say how large clusters are, and how near regions are to their own prototype and to the nearest other one."""
    count = torch.bincount(assignment)
    mean = normalize(torch.stack([z[assignment == k].mean(0) for k in range(len(count))]), dim=1)
    cosine = z @ mean.T
    own = cosine[torch.arange(len(z)), assignment]
    other = cosine.scatter(1, assignment.unsqueeze(1), -2.0).amax(1)
    return (
        f"{' + '.join(map(str, count.tolist()))} regions; mean cosine {own.mean():.2f} to the own prototype, "
        f"{other.mean():.2f} to the nearest other"
    )


def _opened(path: Path, mpp: float | None) -> hg.slides.Slide:
    """Open a slide, with `mpp` where it does not say its own."""
    try:
        return hg.open_slide(path)
    except ValueError as error:
        if mpp is None:
            sys.exit(f"--mpp: {error}")
        return hg.open_slide(path, mpp=mpp)
