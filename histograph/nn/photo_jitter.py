"""Colours of photographs jittered as in the released recipe of DINO: brightness, contrast, saturation, hue, grey."""

import torch
from torch import Tensor

# Largest change of brightness, contrast, saturation and hue, chance of any of them, and chance of grey.
_STRENGTH = (0.4, 0.4, 0.2, 0.1)
_CHANCE, _GREY_CHANCE = 0.8, 0.2
_LUMA = (0.299, 0.587, 0.114)


def luma(image: Tensor) -> Tensor:
    """Weigh red, green and blue as eyes do (ITU-R BT.601).

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W).

    Returns
    -------
    Tensor
        (B, 1, H, W).

    Examples
    --------
    >>> luma(torch.ones(1, 3, 1, 1)).item()
    1.0
    """
    return (image * torch.tensor(_LUMA, device=image.device, dtype=image.dtype).view(1, 3, 1, 1)).sum(
        1, keepdim=True
    )


def solarise(image: Tensor) -> Tensor:
    """Turn values from 128/255 on over.

    Parameters
    ----------
    image : Tensor
        From 0 to 1.

    Returns
    -------
    Tensor
        Of the same shape.

    Examples
    --------
    >>> solarise(torch.tensor([0.25, 0.75]))
    tensor([0.2500, 0.2500])
    """
    return torch.where(image >= 128 / 255, 1 - image, image)


def shift_hue(image: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of each image and keep its saturation and value (HSV).

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W) from 0 to 1.
    shift : Tensor
        (B,) in full turns.

    Returns
    -------
    Tensor
        (B, 3, H, W).

    Examples
    --------
    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> shift_hue(red, torch.tensor([1 / 3])).flatten().round(decimals=4)  # green
    tensor([0., 1., 0.])
    """
    value, spread = image.amax(1), image.amax(1) - image.amin(1)
    red, green, blue = image.unbind(1)
    safe = spread.clamp(min=1e-12)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (hue / 6 + shift.view(-1, 1, 1)) * 6
    # a channel falls from the value by the spread, away from its own hue
    channels = []
    for own in (5, 3, 1):
        k = (own + hue) % 6
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def photo_jitter(image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Jitter brightness, contrast, saturation and hue of some images, in random order, and make some grey.

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W) from 0 to 1.
    generator : torch.Generator, optional
        Of the CPU; torch's default one otherwise.

    Returns
    -------
    Tensor
        (B, 3, H, W) from 0 to 1.

    References
    ----------
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, after Grill et al. 2020.

    Examples
    --------
    >>> photo_jitter(torch.rand(4, 3, 8, 8)).shape
    torch.Size([4, 3, 8, 8])
    """
    count, device = len(image), image.device
    order = torch.rand(count, 4, generator=generator).argsort(1).to(device)
    draw = 2 * torch.rand(count, 4, generator=generator) - 1
    amount = (draw * torch.tensor(_STRENGTH)).to(device)
    chance = torch.rand(2, count, generator=generator).to(device)
    image = image.clone()
    for turn in range(4):
        for kind in range(4):
            rows = ((order[:, turn] == kind) & (chance[0] < _CHANCE)).nonzero().squeeze(1)
            if rows.numel():
                image[rows] = _changed(image[rows], kind, amount[rows, kind]).clamp(0.0, 1.0)
    return torch.where((chance[1] < _GREY_CHANCE).view(-1, 1, 1, 1), luma(image), image)


def _changed(image: Tensor, kind: int, amount: Tensor) -> Tensor:
    """Change brightness (0), contrast (1), saturation (2) or hue (3)."""
    if kind == 3:
        return shift_hue(image, amount)
    grey = luma(image)
    towards = (torch.zeros_like(grey), grey.mean((1, 2, 3), keepdim=True), grey)[kind]
    return towards + (1 + amount).view(-1, 1, 1, 1) * (image - towards)
