"""Synthetic slides, written where a test wants them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile


def write_pyramid(path: Path, levels: list[np.ndarray], mpp: float | None = 0.5, **options: object) -> Path:
    """Write a tiled pyramid that OpenSlide opens as generic-tiff."""
    settings: dict = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
    settings.update(options)
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for i, level in enumerate(levels):
            file.write(level, subfiletype=int(i > 0), **settings, **(resolution if i == 0 else {}))
    return path


@pytest.fixture
def pyramid() -> Callable[..., Path]:
    return write_pyramid


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    def make(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)

    return make


@pytest.fixture
def bundled_svs() -> Path:
    return Path(__file__).parents[2] / "histograph" / "bundled" / "CMU-1-Small-Region.svs"
