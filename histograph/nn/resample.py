"""Boxes cut out of images, resized, mirrored, turned and blurred: a product with one matrix along each side.

Every image of a batch has a box and a turn of its own. Resizing, mirroring and Gaussian blur are all linear along each
side, so one matrix for rows and one for columns do them together, on any device.
"""

import math

import torch
from torch import Tensor

# Pillow's bicubic kernel, which image libraries call bicubic with antialiasing
_CUBIC = -0.5


def _cubic(x: Tensor) -> Tensor:
    """Give the kernel of cubic convolution (Keys 1981), 0 from a distance of 2 on."""
    x = x.abs()
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x.square() + 1
    far = ((x - 5) * x + 8) * x * _CUBIC - 4 * _CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def side_weights(start: Tensor, length: Tensor, size: int, target: int) -> Tensor:
    """Weights that resize a piece of each of B sides, bicubic, with a wider kernel where it shrinks.

    Parameters
    ----------
    start, length : Tensor
        (B,) int64: the piece is the pixels ``start`` to ``start + length - 1``; no other is read.
    size : int
        Pixels of the side.
    target : int
        Pixels of the result.

    Returns
    -------
    Tensor
        (B, target, size) float32, rows that sum to 1.

    Examples
    --------
    >>> side_weights(torch.tensor([1]), torch.tensor([2]), size=4, target=2)
    tensor([[[0., 1., 0., 0.],
             [0., 0., 1., 0.]]])
    """
    scale = (length / target).view(-1, 1, 1)
    centre = (torch.arange(target, device=start.device) + 0.5).view(1, -1, 1) * scale
    pixel = torch.arange(size, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    inside = (pixel >= 0) & (pixel < length.view(-1, 1, 1))
    weight = _cubic((pixel + 0.5 - centre) / scale.clamp(min=1.0)) * inside
    return weight / weight.sum(2, keepdim=True)


def blur_weights(sigma: Tensor, size: int) -> Tensor:
    """Weights of a Gaussian blur along B sides; outside an image is its mirror image.

    Parameters
    ----------
    sigma : Tensor
        (B,) standard deviations in pixels; 0 changes nothing.
    size : int
        Pixels of the side.

    Returns
    -------
    Tensor
        (B, size, size) float32, rows that sum to 1.

    Examples
    --------
    >>> blur_weights(torch.tensor([0.0, 2.0]), 3)[0].diagonal()
    tensor([1., 1., 1.])
    """
    place = torch.arange(size, device=sigma.device)
    apart = place.view(1, -1) - place.view(-1, 1)
    # the mirror images left and right of the side; further ones are out of reach of any useful sigma
    left, right = (
        place.view(1, -1) + place.view(-1, 1) + 1,
        2 * size - 1 - place.view(1, -1) - place.view(-1, 1),
    )
    precision = -0.5 / sigma.clamp(min=1e-3).square().view(-1, 1, 1)
    weight = torch.stack([(gap.square() * precision).exp() for gap in (apart, left, right)]).sum(0)
    return weight / weight.sum(2, keepdim=True)


def crop_resize(
    image: Tensor,
    box: Tensor,
    size: int,
    turn: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    """Cut a box out of each image and bring it to one size.

    Parameters
    ----------
    image : Tensor
        (B, H, W, C) floating point from 0 to 1.
    box : Tensor
        (B, 4) int64: top, left, height, width in pixels, inside the image.
    size : int
        Side of the result in pixels.
    turn : Tensor, optional
        (B,) int64 from 0 to 7: bit 1 mirrors left and right, bit 2 up and down, bit 4 then swaps rows and columns; the
        eight are all turns and mirror images of a square.
    sigma : Tensor, optional
        (B,) standard deviation of a Gaussian blur of the result, in its pixels.

    Returns
    -------
    Tensor
        (B, C, size, size), from 0 to 1.

    Examples
    --------
    >>> image = torch.tensor([[0.0, 0.25], [0.5, 1.0]]).view(1, 2, 2, 1)
    >>> crop_resize(image, torch.tensor([[0, 0, 2, 2]]), 2, turn=torch.tensor([4])).squeeze()
    tensor([[0.0000, 0.5000],
            [0.2500, 1.0000]])
    """
    count, height, width, channels = image.shape
    top, left, rows, columns = box.unbind(1)
    down = side_weights(top, rows, height, size)
    across = side_weights(left, columns, width, size)
    if sigma is not None:
        blur = blur_weights(sigma, size)
        down, across = blur @ down, blur @ across
    if turn is not None:
        across = torch.where((turn & 1).bool().view(-1, 1, 1), across.flip(1), across)
        down = torch.where((turn & 2).bool().view(-1, 1, 1), down.flip(1), down)
    part = torch.bmm(down.to(image.dtype), image.reshape(count, height, width * channels))
    part = part.view(count, size, width, channels).permute(0, 3, 1, 2)
    result = torch.matmul(part, across.to(image.dtype).transpose(1, 2).unsqueeze(1))
    if turn is not None:
        result = torch.where((turn & 4).bool().view(-1, 1, 1, 1), result.transpose(2, 3), result)
    return result.clamp(0.0, 1.0)


def random_boxes(
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw boxes by their share of the area, uniform, and their width over height, uniform in its logarithm.

    Of ten draws the first that fits is taken; where none fits, the largest box of a permitted shape in the middle. That
    is how the field's random resized crop does it.

    Parameters
    ----------
    count : int
        How many.
    height, width : int
        Of the image, in pixels.
    scale : (float, float)
        Smallest and largest share of the area.
    ratio : (float, float)
        Smallest and largest width over height.
    generator : torch.Generator, optional
        Of the CPU; torch's default one otherwise.

    Returns
    -------
    Tensor
        (count, 4) int64: top, left, height, width in pixels.

    Raises
    ------
    ValueError
        If a range is empty or out of bounds.

    Examples
    --------
    >>> random_boxes(1, 8, 8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    tensor([[0, 0, 8, 8]])
    """
    for name, (low, high), most in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
        if not 0 < low <= high <= most:
            raise ValueError(
                f"{name} must be two numbers above 0, ascending, at most {most}; found {(low, high)}"
            )
    tries = 10
    draw = torch.rand(4, count, tries, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draw[0])
    shape = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draw[1]).exp()
    columns = (area * shape).sqrt().round().long()
    rows = (area / shape).sqrt().round().long()
    fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
    first = fits.int().argmax(1, keepdim=True)
    columns, rows, down, across = (
        value.gather(1, first).squeeze(1) for value in (columns, rows, draw[2], draw[3])
    )
    top = (down * (height - rows + 1)).long()
    left = (across * (width - columns + 1)).long()
    box = torch.stack([top, left, rows, columns], dim=1)
    box[~fits.any(1)] = _middle(height, width, ratio)
    return box


def _middle(height: int, width: int, ratio: tuple[float, float]) -> Tensor:
    """Give the largest box in the middle whose shape is permitted."""
    shape = min(max(width / height, ratio[0]), ratio[1])
    rows = height if shape <= width / height else max(round(width / shape), 1)
    columns = width if shape >= width / height else max(round(height * shape), 1)
    return torch.tensor([(height - rows) // 2, (width - columns) // 2, rows, columns])
