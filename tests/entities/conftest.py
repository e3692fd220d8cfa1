from pathlib import Path

import numpy as np
import pytest

import histograph
from histograph.slides import open_slide

BUNDLED = Path(histograph.__file__).parent / "bundled" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def crop():
    """A crop of the bundled slide with dense nuclei, as (array, mpp)."""
    with open_slide(BUNDLED) as slide:
        return slide.read_region(520.0, 330.0, 190.0, 210.0), float(np.mean(slide.mpp))


@pytest.fixture(scope="session")
def blobs():
    """Touching dark discs: a chain far longer than any halo, and a slab without structure."""
    rng = np.random.default_rng(3)
    image = np.full((300, 420, 3), (236, 205, 225), np.uint8)
    row, col = np.ogrid[:300, :420]
    centres = [(60 + 8 * np.sin(k), 4 + 9 * k) for k in range(46)]
    centres += list(zip(rng.uniform(100, 180, 60), rng.uniform(0, 420, 60)))
    for r, c in centres:
        inside = (row - r) ** 2 + (col - c) ** 2 < rng.uniform(30, 70)
        image[inside] = rng.integers((80, 50, 130), (120, 80, 170))
    image[200:280, 10:400] = (95, 60, 140)
    return image
