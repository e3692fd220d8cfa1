"""Views: seeds, colours of stains, colours of photographs."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from histograph.entities.stain import RUIFROK, unmixing
from histograph.nn import View, photo_jitter, stain_jitter
from histograph.nn.photo_jitter import luma, shift_hue, solarise
from histograph.nn.stain_jitter import stain_matrix

VIEW = View(12, (0.4, 1.0))


def patches(count=6, seed=0):
    return torch.rand(count, 20, 20, 3, generator=torch.Generator().manual_seed(seed))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("look", ["stain", "photo"])
def test_one_seed_one_view(look):
    view = View(12, (0.4, 1.0), look, solarise=0.5 * (look == "photo"))
    first = view(patches(), seeded(1))
    assert torch.equal(first, view(patches(), seeded(1)))
    assert not torch.equal(first, view(patches(), seeded(2)))
    torch.manual_seed(3)
    default = view(patches())
    torch.manual_seed(3)
    assert torch.equal(default, view(patches()))
    assert first.shape == (6, 3, 12, 12) and first.min() >= 0 and first.max() <= 1 and first.isfinite().all()


def test_images_of_a_batch_have_views_of_their_own():
    view = VIEW(patches(1).expand(6, -1, -1, -1), seeded(0))
    assert len({image.numpy().tobytes() for image in view}) == 6


def test_the_eight_turns_come_up_equally_often():
    view, image = View(20, (1.0, 1.0), strength=0.0, blur=0.0), patches(1)
    found = view(image.expand(800, -1, -1, -1), seeded(0))
    quarters = [image.rot90(quarter, (1, 2)) for quarter in range(4)]
    counts = [
        int(torch.isclose(found, turned.permute(0, 3, 1, 2), atol=1e-5).flatten(1).all(1).sum())
        for turned in [*quarters, *(quarter.flip(2) for quarter in quarters)]
    ]
    assert sum(counts) == 800 and min(counts) > 70


def test_stains_are_those_of_the_package():
    np.testing.assert_allclose(np.linalg.inv(stain_matrix().numpy()), unmixing(RUIFROK), atol=1e-5)


def test_amounts_of_stain_change_as_asked():
    image = 0.1 + 0.85 * torch.rand(3, 3, 5, 5, generator=seeded(0))
    factor = torch.tensor([[1.0, 1, 1], [1.3, 0.8, 1.0], [1.0, 1.0, 1.2]])
    shift = torch.tensor([[0.0, 0, 0], [0.0, 0, 0], [0.02, 0.05, 0.01]])

    def amounts(picture):
        density = -np.log10(picture.numpy().astype(np.float64)).transpose(0, 2, 3, 1)
        return density @ unmixing(RUIFROK)

    found = stain_jitter(image, factor, shift)
    inside = (found < 1).all(1).numpy()  # white cannot be exceeded
    wanted = amounts(image) * factor.numpy()[:, None, None] + shift.numpy()[:, None, None]
    assert inside.mean() > 0.7
    np.testing.assert_allclose(amounts(found)[inside], wanted[inside], atol=1e-4)


def test_white_stays_white_without_a_shift():
    white = torch.ones(1, 3, 2, 2)
    assert torch.equal(stain_jitter(white, torch.full((1, 3), 1.5), torch.zeros(1, 3)), white)


def test_without_strength_colours_stay():
    plain = replace(VIEW, strength=0.0, blur=0.0)
    colour = torch.rand(1, 1, 1, 3, generator=seeded(0)).expand(4, 20, 20, 3)
    torch.testing.assert_close(plain(colour, seeded(0)), colour[:, :12, :12].permute(0, 3, 1, 2))
    assert not torch.allclose(VIEW(colour, seeded(0)), colour[:, :12, :12].permute(0, 3, 1, 2), atol=1e-3)


def test_blur_is_part_of_the_view_and_of_its_chance():
    never, always = replace(VIEW, blur=0.0, strength=0.0), replace(VIEW, blur=1.0, strength=0.0, size=112)
    assert (
        always(patches(), seeded(0)).diff(dim=2).abs().mean()
        < replace(never, size=112)(patches(), seeded(0)).diff(dim=2).abs().mean()
    )


def test_hue_is_pythons():
    image = torch.rand(2, 3, 4, 4, generator=seeded(0))
    found = shift_hue(image, torch.tensor([0.3, -0.1])).permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    for number, (pixel, result) in enumerate(zip(image.permute(0, 2, 3, 1).reshape(-1, 3).tolist(), found)):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        wanted = colorsys.hsv_to_rgb((h + (0.3 if number < 16 else -0.1)) % 1, s, v)
        assert result == pytest.approx(wanted, abs=1e-5)


def test_grey_and_solarised_are_pillows():
    values = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture, image = Image.fromarray(values), torch.from_numpy(values).permute(2, 0, 1)[None] / 255
    np.testing.assert_allclose(luma(image)[0, 0] * 255, np.asarray(picture.convert("L")), atol=1.0)
    wanted = np.asarray(ImageOps.solarize(picture, 128)).transpose(2, 0, 1)
    np.testing.assert_allclose(solarise(image)[0] * 255, wanted, atol=1e-3)


def test_a_fifth_of_photographs_turns_grey_and_a_fifth_keeps_its_colours():
    image = torch.rand(1, 3, 2, 2, generator=seeded(0)).expand(2000, -1, -1, -1)
    found = photo_jitter(image, seeded(1))
    grey = (found.std(1).amax((1, 2)) < 1e-6).double().mean().item()
    same = torch.isclose(found, image, atol=1e-6).all(3).all(2).all(1).double().mean().item()
    assert grey == pytest.approx(0.2, abs=0.03) and same == pytest.approx(0.2 * 0.8, abs=0.03)
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("size", 0),
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 1.1)),
        ("look", "sepia"),
        ("strength", 1.0),
        ("blur", 1.1),
        ("solarise", 0.1),
    ],
)
def test_messages(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        replace(VIEW, **{argument: value})
