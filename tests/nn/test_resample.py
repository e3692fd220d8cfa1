"""Crops, resizing, turns and blur against Pillow, NumPy and SciPy."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from histograph.nn import crop_resize, random_boxes
from histograph.nn.resample import blur_weights, side_weights


@pytest.fixture
def image():
    return np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)


def torch_of(image, count=1):
    return torch.from_numpy(image).expand(count, -1, -1, -1)


@pytest.mark.parametrize("size", [1, 7, 16, 33, 64])
def test_resizing_is_pillows(image, size):
    boxes = [[3, 5, 30, 44], [0, 0, 40, 56], [10, 20, 6, 7], [39, 55, 1, 1]]
    found = crop_resize(torch_of(image, 4), torch.tensor(boxes), size).numpy()
    for result, (top, left, height, width) in zip(found, boxes, strict=True):
        for channel in range(3):
            plane = Image.fromarray(image[:, :, channel]).crop((left, top, left + width, top + height))
            wanted = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)
            np.testing.assert_allclose(result[channel], wanted, atol=2e-5)


def test_pixels_outside_the_box_are_not_read(image):
    other, box = image.copy(), torch.tensor([[4, 6, 20, 10]])
    other[:4] = other[24:] = other[:, :6] = other[:, 16:] = np.nan
    inside = np.nan_to_num(other)
    assert torch.equal(crop_resize(torch_of(image), box, 12), crop_resize(torch_of(inside), box, 12))


def test_the_eight_turns_are_numpys(image):
    square = image[:12, :12]
    whole = torch.tensor([[0, 0, 12, 12]]).expand(8, -1)
    found = crop_resize(torch_of(square, 8), whole, 12, turn=torch.arange(8)).permute(0, 2, 3, 1).numpy()
    for code in range(8):
        wanted = square[:, ::-1] if code & 1 else square
        wanted = wanted[::-1] if code & 2 else wanted
        wanted = wanted.transpose(1, 0, 2) if code & 4 else wanted
        np.testing.assert_allclose(found[code], wanted, atol=1e-6)
    different = {result.tobytes() for result in found.round(4)}
    quarters = [np.rot90(square, k) for k in range(4)]
    assert len(different) == 8
    for turned in [*quarters, *(quarter[:, ::-1] for quarter in quarters)]:
        assert any(np.allclose(turned, result, atol=1e-6) for result in found)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_scipys(image, sigma):
    square = image[:24, :24]
    found = crop_resize(torch_of(square), torch.tensor([[0, 0, 24, 24]]), 24, sigma=torch.tensor([sigma]))
    for channel in range(3):
        wanted = gaussian_filter(square[:, :, channel].astype(np.float64), sigma, truncate=12)
        # truncated kernels and sampled ones are the same here; mirrored beyond the border, as "reflect" does
        np.testing.assert_allclose(found[0, channel], wanted, atol=1e-5)


def test_weights_sum_to_one():
    for weight in (
        side_weights(torch.tensor([0, 3]), torch.tensor([9, 4]), 9, 5),
        blur_weights(torch.tensor([0.0, 1.5]), 9),
    ):
        torch.testing.assert_close(weight.sum(2), torch.ones(weight.shape[:2]))
    assert torch.equal(blur_weights(torch.zeros(1), 9)[0], torch.eye(9))


def test_boxes_are_inside_and_as_asked():
    generator = torch.Generator().manual_seed(0)
    box = random_boxes(2000, 80, 100, (0.1, 0.4), generator=generator).double()
    top, left, height, width = box.unbind(1)
    assert (
        (top >= 0).all() and (left >= 0).all() and (top + height <= 80).all() and (left + width <= 100).all()
    )
    share, ratio = height * width / 8000, width / height
    assert share.min() >= 0.09 and share.max() <= 0.42 and ratio.min() > 0.7 and ratio.max() < 1.42
    assert share.mean().item() == pytest.approx(0.25, abs=0.01)
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.02)
    assert (top == 0).any() and (top + height == 80).any()  # the last place is drawn too


def test_boxes_fall_back_to_the_middle():
    # a strip has no square of its area
    assert random_boxes(1, 10, 100, (1.0, 1.0), (1.0, 1.0)).tolist() == [[0, 45, 10, 10]]
    assert random_boxes(1, 100, 10, (1.0, 1.0), (1.0, 1.0)).tolist() == [[45, 0, 10, 10]]


def test_messages():
    with pytest.raises(ValueError, match="scale must be"):
        random_boxes(1, 8, 8, (0.5, 0.2))
    with pytest.raises(ValueError, match="scale must be"):
        random_boxes(1, 8, 8, (0.5, 1.2))
    with pytest.raises(ValueError, match="ratio must be"):
        random_boxes(1, 8, 8, (0.5, 1.0), (0.0, 1.0))
