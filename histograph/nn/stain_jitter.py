"""Stains made stronger and weaker: the change of colour that a laboratory makes."""

import math

import torch
from torch import Tensor

# Unit optical densities (R, G, B) of haematoxylin and eosin (Ruifrok and Johnston 2001).
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
# What one value of an 8-bit image can be told from black.
_DARKEST = 1 / 255


def stain_matrix(device: torch.device | None = None) -> Tensor:
    """Colours of haematoxylin, eosin and what neither of them explains.

    Parameters
    ----------
    device : torch.device, optional
        Where the result lies.

    Returns
    -------
    Tensor
        (3, 3) rows of length 1 in optical density of red, green and blue; the third is their cross product.

    Examples
    --------
    >>> stain_matrix().norm(dim=1)
    tensor([1., 1., 1.])
    """
    both = torch.nn.functional.normalize(torch.tensor([HAEMATOXYLIN, EOSIN], device=device), dim=1)
    third = torch.nn.functional.normalize(torch.linalg.cross(both[0], both[1]), dim=0)
    return torch.cat([both, third.unsqueeze(0)])


def stain_jitter(image: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    r"""Scale and shift the amounts of the stains of each image, in optical density.

    With :math:`\mathrm{OD} = -\log_{10} I = c M`, c the amounts and M the colours of the stains,

    .. math::

        I' = 10^{-(c \, \mathrm{diag}(a) + b) M}

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W) from 0 to 1; values below 1/255 count as 1/255.
    factor : Tensor
        (B, 3) factors a of haematoxylin, eosin and the rest.
    shift : Tensor
        (B, 3) amounts b that are added, in units of optical density.

    Returns
    -------
    Tensor
        (B, 3, H, W) from 0 to 1.

    References
    ----------
    Ruifrok and Johnston, Analyt Quant Cytol Histol 23 (2001); Tellez et al., "Whole-slide mitosis detection in H&E
    breast histology using PHH3 as a reference", IEEE TMI 37 (2018), section III-D.

    Examples
    --------
    >>> image = torch.full((1, 3, 2, 2), 0.5)
    >>> same = stain_jitter(image, torch.ones(1, 3), torch.zeros(1, 3))
    >>> torch.allclose(same, image, atol=1e-5)
    True
    """
    colours = stain_matrix(image.device).to(image.dtype)
    density = image.clamp(min=_DARKEST).log()
    # one 3 x 3 map for each image; log of base e throughout, since the base cancels but for the shift
    change = torch.linalg.inv(colours) @ (factor.to(image).unsqueeze(2) * colours)
    moved = torch.einsum("bkc,bkhw->bchw", change, density)
    added = (shift.to(image) @ colours) * math.log(10.0)
    return (moved - added.view(-1, 3, 1, 1)).exp().clamp(max=1.0)


def random_stains(image: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Jitter the stains of each image by amounts drawn at random.

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W) from 0 to 1.
    strength : float
        Factors are uniform in 1 ± strength, shifts in ± strength / 4 of optical density; 0 changes nothing.
    generator : torch.Generator, optional
        Of the CPU; torch's default one otherwise.

    Returns
    -------
    Tensor
        (B, 3, H, W) from 0 to 1.

    Examples
    --------
    >>> image = torch.full((2, 3, 1, 1), 0.5)
    >>> one, other = random_stains(image, 0.2, torch.Generator().manual_seed(0))
    >>> torch.equal(one, other), torch.equal(random_stains(image, 0.0), image)
    (False, True)
    """
    # drawn in any case, so that what is drawn next does not depend on the strength
    draw = 2 * torch.rand(2, len(image), 3, generator=generator) - 1
    if strength == 0:
        return image
    return stain_jitter(image, 1 + strength * draw[0], strength / 4 * draw[1])
