"""Slides of regions made up for tests: kinds of tissue that slides share, and borders where patches are missing."""

import numpy as np

from histograph.graphs.region_dataset import RegionDataset

WIDTH = 5


def kinds_of(slides=6, regions=10, kinds=2):
    """Give the kind of each region: every slide has all of them."""
    return np.tile(np.arange(regions) % kinds, slides)


def regions(slides=6, count=10, kinds=2, size=4, seed=0, missing=0.0, patients=None, few=()):
    """Make a data set whose regions of one kind look alike in all slides; the slides `few` have three regions."""
    rng = np.random.default_rng(seed)
    looks = 2.0 * np.eye(kinds, WIDTH)
    grids, present = [], []
    for slide in range(slides):
        own = 3 if slide in few else count
        kind = np.arange(own) % kinds
        noise = 0.3 * rng.standard_normal((own, WIDTH, size, size))
        grids.append((looks[kind][:, :, None, None] + noise).astype(np.float32))
        there = rng.random((own, size, size)) >= missing
        there[:, size // 2, size // 2] = True
        present.append(there)
    ids = [f"slide {slide}" for slide in range(slides)]
    return RegionDataset.from_grids(grids, slide_ids=ids, patients=patients, present=present)
