"""Random views of image patches for self-supervised learning: where they are cut, and how they look.

Nothing here needs another library than torch, and all works on a whole batch on its device. Random numbers are drawn on
the CPU, so that one seed gives the same views on every device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import check_bounds
from .photo_jitter import photo_jitter, solarise
from .resample import crop_resize, random_boxes
from .stain_jitter import random_stains

LOOKS = ("stain", "photo")
# Blur of the released recipe: standard deviation in pixels of a view of the size that it was made for.
_BLUR, _BLUR_SIZE = (0.1, 2.0), 224


@dataclass(frozen=True)
class View:
    """How one view of an image is made.

    Parameters
    ----------
    size : int
        Side in pixels.
    scale : (float, float)
        Smallest and largest share of the image that it shows.
    look : {"stain", "photo"}
        ``"stain"`` for haematoxylin and eosin: all eight turns and mirror images of the square, and amounts of the
        stains jittered in optical density. ``"photo"`` for photographs, as DINO was released: mirrored left and
        right, brightness, contrast, saturation and hue jittered, sometimes grey.
    strength : float
        With ``"stain"``: factors of the stains are uniform in 1 ± strength, shifts in ± strength / 4 of optical
        density; 0 leaves colours as they are.
    blur : float
        Chance of a Gaussian blur.
    solarise : float
        Chance that values from 1/2 on are turned over; with ``"photo"`` alone.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> view = View(size=8, scale=(0.4, 1.0))
    >>> view(torch.rand(5, 12, 12, 3)).shape
    torch.Size([5, 3, 8, 8])
    """

    size: int
    scale: tuple[float, float]
    look: str = "stain"
    strength: float = 0.2
    blur: float = 0.5
    solarise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the argument."""
        bounds = (
            ("size", self.size >= 1, "at least 1"),
            ("scale", 0 < self.scale[0] <= self.scale[1] <= 1, "two numbers above 0, ascending, at most 1"),
            ("look", self.look in LOOKS, f"one of {', '.join(LOOKS)}"),
            ("strength", 0 <= self.strength < 1, "at least 0 and below 1"),
            ("blur", 0 <= self.blur <= 1, "from 0 to 1"),
            (
                "solarise",
                0 <= self.solarise <= (self.look == "photo"),
                'from 0 to 1, and 0 unless look is "photo"',
            ),
        )
        check_bounds(bounds, vars(self))

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a view of each image.

        Parameters
        ----------
        image : Tensor
            (B, H, W, 3) floating point from 0 to 1.
        generator : torch.Generator, optional
            Of the CPU; torch's default one otherwise.

        Returns
        -------
        Tensor
            (B, 3, size, size) from 0 to 1.
        """
        # colours have eight bits, and under autocast products would keep fewer
        with torch.autocast(image.device.type, enabled=False):
            return self._drawn(image, generator)

    def _drawn(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        count, height, width, _ = image.shape
        box = random_boxes(count, height, width, self.scale, generator=generator)
        turn = torch.randint(8 if self.look == "stain" else 2, (count,), generator=generator)
        sigma = None
        if self.look == "stain":
            # linear, so part of the resizing; in the order of the released recipe it follows the colours
            sigma = self._sigma(count, generator).to(image.device)
        view = crop_resize(image, box.to(image.device), self.size, turn.to(image.device), sigma)
        if self.look == "stain":
            return random_stains(view, self.strength, generator)
        view = photo_jitter(view, generator)
        whole = torch.tensor([[0, 0, self.size, self.size]], device=image.device).expand(count, -1)
        sigma = self._sigma(count, generator).to(image.device)
        view = crop_resize(view.permute(0, 2, 3, 1), whole, self.size, sigma=sigma)
        chosen = torch.rand(count, generator=generator) < self.solarise
        return torch.where(chosen.to(image.device).view(-1, 1, 1, 1), solarise(view), view)

    def _sigma(self, count: int, generator: torch.Generator | None) -> Tensor:
        draw = torch.rand(2, count, generator=generator)
        sigma = (_BLUR[0] + (_BLUR[1] - _BLUR[0]) * draw[0]) * self._sharpness()
        return sigma * (draw[1] < self.blur)

    def _sharpness(self) -> float:
        """Blur as much of the view whatever its size; as released, in pixels."""
        return 1.0 if self.look == "photo" else self.size / _BLUR_SIZE
