"""Synthetic image crops for the tests of methods that read pixels."""

import numpy as np


def disks(count, size=16, seed=0):
    """Dark disks of random place, size and colour on bright grounds of random colour, (count, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size]
    y, x = rng.uniform(0.2 * size, 0.8 * size, (2, count, 1, 1))
    radius = rng.uniform(0.15, 0.4, (count, 1, 1)) * size
    inside = 1 / (1 + np.exp(np.hypot(row - y, column - x) - radius))[..., None]
    ground, ink = rng.uniform(160, 255, (count, 1, 1, 3)), rng.uniform(0, 130, (count, 1, 1, 3))
    return (ground + inside * (ink - ground)).round().astype(np.uint8)
