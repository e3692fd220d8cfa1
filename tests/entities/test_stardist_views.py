"""Views of an image: turning the image turns the answer, and tiles still do not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import histograph as hg
from histograph.entities.stardist_files import StarDistModel, load_stardist, save_stardist
from histograph.entities.stardist_runtime import make_runner
from histograph.entities.stardist_views import averaged_views
from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_net import StarDistNet


def some_model(views: int, grid: tuple[int, int] = (2, 2), **more) -> StarDistModel:
    torch.manual_seed(3)
    shape = {"n_channel_in": 3, "n_rays": 8, "n_depth": 1, "n_filter_base": 4, "features": 4, "grid": grid}
    network = StarDistNet(StarDistConfig(**(shape | more))).eval()
    with torch.no_grad():
        network.dist.bias.fill_(3.0)
    return StarDistModel(network, 0.4, 0.4, "untrained", mpp=0.5, percentiles=None, views=views)


def half_turned(image: np.ndarray) -> np.ndarray:
    """Pixel i of W goes to W - i, as in the views; the first row and column stay away."""
    return np.pad(image[:0:-1, :0:-1], ((1, 0), (1, 0), (0, 0)), mode="edge")


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (4, 2)])
def test_an_image_turned_by_half_has_the_turned_answer(views, grid) -> None:
    model = some_model(views, grid, n_classes=2)
    run = make_runner(model)
    image = np.random.default_rng(0).random((64, 48, 3)).astype(np.float32)
    one, other = run(image), run(half_turned(image))
    rays = (np.arange(8) + 4) % 8
    far = slice(8, -8)  # what the new first row and column change
    for a, b in zip((one[0], one[1][..., rays], one[2]), other, strict=True):
        turned = np.pad(b[:0:-1, :0:-1], [(1, 0), (1, 0)] + [(0, 0)] * (b.ndim - 2))
        assert np.allclose(a[far, far], turned[far, far], atol=1e-5)
    alone = make_runner(replace(model, views=1))(image)
    assert np.abs(alone[0] - one[0]).max() > 1e-4


def test_with_four_views_mirror_images_have_mirrored_answers() -> None:
    run = make_runner(some_model(4))
    image = np.random.default_rng(1).random((48, 64, 3)).astype(np.float32)
    mirrored = np.pad(image[:, :0:-1], ((0, 0), (1, 0), (0, 0)), mode="edge")
    one, other = run(image), run(mirrored)
    rays = (4 - np.arange(8)) % 8
    far = slice(8, -8)
    assert np.allclose(one[0][:, far], np.pad(other[0][:, :0:-1], ((0, 0), (1, 0)))[:, far], atol=1e-5)
    distance = np.pad(other[1][:, :0:-1], ((0, 0), (1, 0), (0, 0)))[..., rays]
    assert np.allclose(one[1][:, far], distance[:, far], atol=1e-5)


def test_every_place_is_a_mean_of_the_views_that_have_it() -> None:
    seen = []

    def run(image):
        seen.append(image)
        return image[::2, ::2, 0], np.repeat(image[::2, ::2, :1], 4, axis=2), None

    image = np.random.default_rng(2).random((8, 6, 1)).astype(np.float32)
    probability, distance, kinds = averaged_views(run, 4, (2, 2))(image)
    assert len(seen) == 4
    assert kinds is None
    assert np.allclose(probability, image[::2, ::2, 0])  # a network that looks at its place only
    assert np.allclose(distance, np.repeat(image[::2, ::2, :1], 4, axis=2))


def test_tiles_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    image = rng.integers(60, 255, (180, 150, 3), dtype=np.uint8)
    slide = hg.open_slide(image, mpp=0.5)
    model = some_model(2)
    found = [
        hg.entities.nuclei(slide, segment="stardist-torch", model=model, tile_um=tile, window_px=window)
        for tile, window in ((200, 64), (20, 64), (40, 96))
    ]
    assert len(found[0]) > 20
    for other in found[1:]:
        assert np.array_equal(found[0].centroid, other.centroid)
        assert np.allclose(found[0].columns["probability"], other.columns["probability"], atol=1e-6)
    assert np.array_equal(found[0].columns["probability"], found[1].columns["probability"])


def test_the_file_keeps_the_views(tmp_path) -> None:
    save_stardist(some_model(4), tmp_path / "model.safetensors")
    assert load_stardist(tmp_path / "model.safetensors").views == 4


def test_errors_name_the_views() -> None:
    with pytest.raises(
        ValueError, match="views: expected 1, 2 or 4, and 1 for an odd number of rays, found 3"
    ):
        some_model(3)
    with pytest.raises(ValueError, match="found 2 with 7 rays"):
        some_model(2, n_rays=7)
    with pytest.raises(ValueError, match="views: expected 1, 2 or 4, found 8"):
        averaged_views(lambda image: (image, image, None), 8, (1, 1))
