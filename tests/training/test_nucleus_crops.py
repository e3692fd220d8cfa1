"""Crops of labelled images: what is asked of the network lies where the nuclei are."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from histograph.training.nucleus_crops import NucleusBatch, NucleusCrops, random_crop, star_targets
from histograph.training.nucleus_looks import Looks, _clumps, _with_holes

pytest.importorskip("stardist")


def discs(side: int = 64, radius: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs on a light ground, and their labels."""
    row, col = np.mgrid[:side, :side]
    label = np.zeros((side, side), np.int32)
    for number, (at_row, at_col) in enumerate(((16, 16), (16, 45), (44, 20), (46, 47))):
        label[(row - at_row) ** 2 + (col - at_col) ** 2 <= radius**2] = number + 3
    image = np.where(label[..., None] > 0, np.uint8(90), np.uint8(230)).repeat(3, axis=2)
    return image, label


def test_image_and_labels_of_a_crop_lie_upon_each_other() -> None:
    image, label = discs()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        crop, nuclei, present = random_crop(image, label, 48, 1.3, rng)
        dark = crop.mean(-1) < 0.63  # halfway
        assert present.mean() > 0.5
        assert (dark != (nuclei > 0)).mean() < 0.02  # but for the blurred edge


def test_a_crop_has_the_size_that_the_scale_says() -> None:
    image, label = discs(96)
    for scale in (0.8, 1.0, 2.0):
        areas = []
        for seed in range(20):
            _, nuclei, present = random_crop(image, label, 48, scale, np.random.default_rng(seed))
            edge = np.concatenate([nuclei[0], nuclei[-1], nuclei[:, 0], nuclei[:, -1]])
            whole = np.setdiff1d(nuclei, edge) if present.all() else []
            areas += [np.count_nonzero(nuclei == n) for n in whole if n]
        assert np.isclose(np.mean(areas), np.pi * 7**2 * scale**2, rtol=0.1)


def test_stretching_makes_nuclei_longer_in_every_direction_and_no_larger() -> None:
    row, col = np.mgrid[:96, :96]
    label = ((row - 48) ** 2 + (col - 48) ** 2 <= 10**2).astype(np.int32)
    image = np.full((96, 96, 3), 200, np.uint8)
    longest, along_rows, areas = [], 0, []
    for seed in range(60):
        _, nucleus, _ = random_crop(image, label, 80, 1.0, np.random.default_rng(seed), stretch=1.5)
        at = np.argwhere(nucleus)
        spread = np.linalg.svd(at - at.mean(0), compute_uv=False)
        longest.append(spread[0] / spread[1])
        along_rows += np.ptp(at[:, 0]) > np.ptp(at[:, 1])
        areas.append(len(at) / label.sum())
    assert max(longest) > 1.8
    assert max(longest) < 1.5**2 + 0.1
    assert 15 < along_rows < 45
    assert np.abs(np.array(areas) - 1).max() < 0.05


def test_beyond_the_image_nothing_is_asked() -> None:
    image, label = discs(32, 3)
    _, _, present = random_crop(image, label, 64, 1.0, np.random.default_rng(0))
    assert 0.2 < present.mean() < 0.3  # the image covers a quarter of the crop
    crops = NucleusCrops([image], [label], 0.25, crop_px=64, n_rays=8, length=2, scale=(1, 1))
    torch.manual_seed(0)
    assert 0.2 < crops[0].present.mean() < 0.3


def test_targets_are_the_distances_to_the_edge() -> None:
    label = np.zeros((40, 40), np.int32)
    label[10:30, 5:35] = 9
    probability, distance = star_targets(label, (2, 2), 4)
    assert probability.shape == (20, 20)
    assert distance.shape == (20, 20, 4)
    # from row 20, column 20: the edge lies 15 to the right, 10 down, 15 to the left and 10 up
    assert np.abs(distance[10, 10] - (15, 10, 15, 10)).max() <= 1
    assert probability[10, 10] > 0.8
    assert (probability[:4] == 0).all()
    assert (distance[:4] == 0).all()


def test_the_seed_of_torch_decides() -> None:
    image, label = discs()
    crops = NucleusCrops([image] * 2, [label] * 2, 0.25, 32, n_rays=8, length=3, looks=Looks())
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(NucleusBatch.join([crops[0], crops[1]]))
    assert torch.equal(drawn[0].image, drawn[1].image)
    assert torch.equal(drawn[0].distance, drawn[1].distance)
    assert not torch.equal(drawn[0].image, drawn[2].image)
    assert drawn[0].num_graphs == 2


def test_images_without_a_pixel_size_are_brought_to_the_size_of_nuclei() -> None:
    small, large = discs(64, 4), discs(64, 8)
    crops = NucleusCrops(
        [small[0], large[0]], [small[1], large[1]], None, 32, n_rays=8, length=1, nucleus_um=6.0
    )
    assert np.isclose(crops.scales[0] / crops.scales[1], 2, rtol=0.05)
    assert np.isclose(crops.scales[1], 24 / 16.5, rtol=0.05)
    known = NucleusCrops([small[0]] * 2, [small[1]] * 2, [0.5, 0.25], 32, n_rays=8, length=1)
    assert known.scales == [2.0, 1.0]


def test_weights_choose_the_images() -> None:
    image, label = discs()
    crops = NucleusCrops(
        [image, np.zeros_like(image)],
        [label] * 2,
        0.25,
        32,
        n_rays=4,
        length=1,
        weights=[0, 1],
    )
    assert all(crops[0].image.max() == 0 for _ in range(5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": []}, "found 1 images, 0 labels"),
        ({"images": [np.zeros((64, 64), np.uint8)]}, r"images\[0\]: expected \(H, W, 3\) uint8"),
        ({"labels": [np.zeros((3, 3), int)]}, r"labels\[0\]: expected whole numbers of the shape \(64, 64\)"),
        ({"mpp": -1.0}, r"mpp\[0\]: expected a positive number"),
        ({"mpp": [0.5, 0.5]}, "2 mpp"),
        ({"weights": [-1.0]}, "weights: expected"),
        ({"scale": (2.0, 1.0)}, "scale: expected"),
        ({"crop_px": 33}, "crop_px: expected a multiple"),
        ({"length": 0}, "length: expected"),
        ({"stretch": 0.5}, "stretch: expected a factor of at least 1"),
        ({"looks": [Looks(), Looks()]}, "looks: expected one, or one for each of 1 images, found 2"),
    ],
)
def test_errors_name_the_argument(change: dict, words: str) -> None:
    image, label = discs()
    arguments = {"images": [image], "labels": [label], "mpp": 0.25, "crop_px": 32, "n_rays": 4, "length": 1}
    with pytest.raises(ValueError, match=words):
        NucleusCrops(**(arguments | change))


def test_each_image_has_its_own_looks() -> None:
    image, label = discs()
    arguments = {"mpp": 0.25, "crop_px": 32, "n_rays": 4, "length": 1}
    plain = NucleusCrops([image], [label], **arguments)
    both = NucleusCrops([image] * 2, [label] * 2, looks=[None, Looks()], weights=[1, 0], **arguments)
    other = NucleusCrops([image] * 2, [label] * 2, looks=[None, Looks()], weights=[0, 1], **arguments)
    drawn = []
    for crops in (plain, both, other):
        torch.manual_seed(5)
        drawn.append(crops[0].image)
    assert len(drawn[0].unique()) == len(drawn[1].unique()) < len(drawn[2].unique())


def test_restained_nuclei_stay_darker_than_the_ground() -> None:
    image, label = discs()
    looks = Looks(restain=1.0, texture=np.random.default_rng(0).random((64, 64)), textured=0.5)
    pixels = image.astype(np.float32) / 255
    darker = []
    for seed in range(30):
        changed = looks.change(pixels, label, np.random.default_rng(seed))
        assert changed.shape == pixels.shape
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
        darker.append(changed[label > 0].mean() < changed[label == 0].mean())
    assert np.mean(darker) > 0.9
    one, two = (looks.change(pixels, label, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.abs(one - two).mean() > 0.01


def test_clumps_change_nuclei_only() -> None:
    _, label = discs()
    far = ndimage.distance_transform_edt(label == 0) > 3
    spreads = []
    for seed in range(10):
        factor = _clumps(label, np.random.default_rng(seed))
        assert np.allclose(factor[far], 1, atol=1e-3)
        assert factor.min() > 0
        spreads.append(factor[label > 0].std())
    assert min(spreads) > 0.02
    assert max(spreads) > 0.2


def test_holes_lie_between_nuclei_and_are_bright() -> None:
    _, label = discs()
    density = np.full((*label.shape, 3), 0.8)
    brighter = []
    for seed in range(10):
        holed = _with_holes(density, label, np.random.default_rng(seed)).sum(-1)
        core = ndimage.binary_erosion(label > 0, iterations=3)
        assert np.allclose(holed[core], 2.4, atol=0.05)
        brighter.append((holed < 1.0).mean())
    assert np.mean(brighter) > 0.05


def test_bad_looks_are_refused() -> None:
    with pytest.raises(ValueError, match="restain: expected a share"):
        Looks(restain=1.5)
    with pytest.raises(ValueError, match="clumped: expected a share"):
        Looks(clumped=-0.1)
    with pytest.raises(ValueError, match="texture: expected amounts"):
        Looks(texture=np.zeros(4))
