"""The network for nuclei that comes with the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import histograph as hg
from histograph.entities import load_stardist
from histograph.entities.stardist_files import SHIPPED
from histograph.evaluation import segmentation_scores

DATA = Path(__file__).parents[1] / "data" / "nuclei"


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert SHIPPED.stat().st_size < 8_000_000
    model = load_stardist()
    assert {"what", "data", "licence", "use", "scores"} <= set(model.card)
    assert model.card["licence"] == "CC0-1.0"
    assert "AJI" in model.card["scores"]
    assert model.mpp == 0.25
    assert model.percentiles is None  # a nucleus does not depend on the rest of its slide
    assert all(value.dtype == torch.float32 for value in model.network.parameters())


@pytest.mark.parametrize("name", sorted(path.stem for path in (DATA / "images").iterdir()))
def test_it_finds_nuclei(name: str) -> None:
    """That it works, not how good it is: these images were trained on."""
    image = np.asarray(Image.open(DATA / "images" / f"{name}.png").convert("RGB"))
    truth = np.asarray(Image.open(DATA / "labels" / f"{name}.png")).astype(np.int64)
    area = np.bincount(truth.ravel())[1:]
    diameter = 2 * np.sqrt(np.median(area[area > 20]) / np.pi)
    mpp = 6.0 / diameter  # the size that it was shown them in
    cells = hg.entities.nuclei(hg.open_slide(image, mpp=mpp), segment="stardist-torch")
    scores = segmentation_scores(truth, cells, mpp=mpp)
    assert scores.row()["f1@0.5"] > 0.5


def test_real_tissue_has_about_as_many_nuclei_as_the_classical_method_finds() -> None:
    slide = hg.open_slide(hg.bundled.slide_path())
    window = hg.open_slide(slide.read_region(380, 900, 150, 150, 0.25), mpp=0.25)
    cells = hg.entities.nuclei(window, segment="stardist-torch", window_px=512)
    others = hg.entities.nuclei(window)
    assert 0.5 < len(cells) / len(others) < 2
    assert 10 < np.median(cells.area) < 120  # square micrometres
