"""Patch encoders: a torch module with the pixel size and normalisation it was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .crops import iter_crops
from .table import FeatureTable

if TYPE_CHECKING:
    import torch

    from histograph.entities import Entities
    from histograph.slides import Slide

__all__ = ["PatchEncoder", "embed_entities"]


@dataclass(frozen=True, eq=False)
class PatchEncoder:
    """A torch module that turns image patches into vectors, with everything it needs to be fed rightly.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (B, 3, size_px, size_px) float32 to (B, D).
    mean, std : sequence of 3 float
        Of red, green and blue on the scale 0 to 1, as the module was trained with; std > 0.
    size_px : int
        Side of a patch in pixels.
    mpp : float
        Micrometres per pixel that the module was trained at.
    name : str
        Prefix of the feature names.

    Raises
    ------
    TypeError
        When the module is no torch.nn.Module.
    ValueError
        When a number is out of its range.

    Examples
    --------
    >>> import torch
    >>> pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> encoder = PatchEncoder(pool, mean=(0, 0, 0), std=(1, 1, 1), size_px=4, mpp=0.5, name="colour")
    >>> encoder.encode(np.full((2, 4, 4, 3), 255, np.uint8))
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """

    module: torch.nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    size_px: int
    mpp: float
    name: str

    def __post_init__(self) -> None:
        import torch

        if not isinstance(self.module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, found {type(self.module).__name__}")
        for field in ("mean", "std"):
            numbers = tuple(float(v) for v in getattr(self, field))
            if len(numbers) != 3 or not np.isfinite(numbers).all():
                raise ValueError(f"{field} must be three finite numbers, red, green, blue, found {numbers}")
            object.__setattr__(self, field, numbers)
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, found {self.std}")
        if self.size_px != int(self.size_px) or self.size_px < 1:
            raise ValueError(f"size_px must be a whole number of at least 1, found {self.size_px!r}")
        if not np.isfinite(self.mpp) or self.mpp <= 0:
            raise ValueError(f"mpp must be a positive number of micrometres per pixel, found {self.mpp!r}")
        if not self.name:
            raise ValueError("name must not be empty: it is the prefix of the feature names")

    @property
    def size_um(self) -> float:
        """Side of a patch in micrometres."""
        return self.size_px * self.mpp

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter or buffer lies; the CPU when it has none."""
        import torch

        for tensor in (*self.module.parameters(), *self.module.buffers()):
            return tensor.device
        return torch.device("cpu")

    def encode(
        self,
        images: npt.NDArray[np.uint8],
        device: str | torch.device | None = None,
        mixed_precision: bool = False,
    ) -> torch.Tensor:
        """Embed a batch of patches in evaluation mode and without gradients.

        Parameters
        ----------
        images : (B, size_px, size_px, 3) uint8 array
            Red, green, blue.
        device : str or torch.device, optional
            Where the patches are put, and where the module must be. Default: `self.device`.
        mixed_precision : bool
            Run the module under autocast to bfloat16.

        Returns
        -------
        (B, D) float32 tensor
            On the device.

        Raises
        ------
        ValueError
            When the images have another shape or type, or the module returns no (B, D) or a value that is not
            finite.
        TypeError
            When the module returns no tensor.

        Examples
        --------
        >>> import torch
        >>> encoder = PatchEncoder(torch.nn.Flatten(), (0, 0, 0), (1, 1, 1), size_px=1, mpp=0.5, name="pixel")
        >>> encoder.encode(np.array([[[[255, 0, 51]]]], np.uint8))
        tensor([[1.0000, 0.0000, 0.2000]])
        """
        import torch

        shape = (len(images), self.size_px, self.size_px, 3)
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 of shape {shape}, found {images.dtype} of shape {images.shape}"
            )
        target = self.device if device is None else torch.device(device)
        mean, std = (torch.tensor(v, device=target).view(1, 3, 1, 1) for v in (self.mean, self.std))
        cast = torch.autocast(target.type, dtype=torch.bfloat16) if mixed_precision else nullcontext()
        with torch.inference_mode(), _evaluating(self.module):
            x = torch.from_numpy(np.ascontiguousarray(images)).to(target).permute(0, 3, 1, 2)
            with cast:
                z = self.module((x.float() / 255 - mean) / std)
        if not isinstance(z, torch.Tensor):
            raise TypeError(
                f"module of encoder {self.name!r} must return one tensor, found {type(z).__name__}; "
                "wrap it in a module that picks the vectors"
            )
        if z.ndim != 2 or len(z) != len(images):
            raise ValueError(
                f"module of encoder {self.name!r} must return shape ({len(images)}, D), "
                f"found {tuple(z.shape)}; pool first"
            )
        z = z.float()
        if not torch.isfinite(z).all():
            row = int((~torch.isfinite(z)).any(dim=1).nonzero()[0, 0])
            raise ValueError(
                f"module of encoder {self.name!r} returned nan or inf for image {row} of the batch"
            )
        return z


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put the module and its parts into evaluation mode, and back as each was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _encode_named(
    encoder: PatchEncoder,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    device: torch.device,
    mixed_precision: bool,
) -> npt.NDArray[np.float32]:
    """Embed a batch; an error names the entities in it."""
    try:
        return encoder.encode(images, device, mixed_precision).cpu().numpy()
    except ValueError as error:
        raise ValueError(f"{error} (batch of entities {labels[0]} to {labels[-1]})") from error


def embed_entities(
    slide: Slide,
    entities: Entities,
    encoder: PatchEncoder,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 2,
    mixed_precision: bool = False,
    progress: bool = True,
) -> FeatureTable:
    """Embed the patch around every entity's centroid with a patch encoder, reading ahead.

    Parameters
    ----------
    slide : Slide
        Where the pixels come from; outside it is white.
    entities : Entities
        N entities; a patch has the encoder's size, whatever the entity's.
    encoder : PatchEncoder
        What turns patches into vectors.
    batch_size : int
        Patches a batch.
    device : str or torch.device, optional
        Where the module runs; it is moved there and afterwards back. Default: where it is.
    workers : int
        Threads that read patches.
    mixed_precision : bool
        Run the module under autocast to bfloat16.
    progress : bool
        Show a progress bar over the entities.

    Returns
    -------
    FeatureTable
        (N, D), columns "name_0", "name_1", …, rows in the order of `entities`.

    Raises
    ------
    ValueError
        When the module returns no (B, D) or a value that is not finite; the message names the entities.

    Examples
    --------
    >>> import torch
    >>> from histograph.entities import Entities
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.full((8, 8, 3), 51, np.uint8), mpp=0.5)
    >>> cells = Entities.from_instance_map(np.eye(3, dtype=int)[1:] * 5, mpp=0.5, origin_um=(1, 1))
    >>> pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> encoder = PatchEncoder(pool, mean=(0, 0, 0), std=(1, 1, 1), size_px=2, mpp=0.5, name="colour")
    >>> embed_entities(slide, cells, encoder, progress=False).values
    array([[0.2, 0.2, 0.2]], dtype=float32)
    """
    import torch
    from tqdm.auto import tqdm

    home = encoder.device
    target = home if device is None else torch.device(device)
    batches = iter_crops(slide, entities.centroid, encoder.size_um, encoder.size_px, batch_size, workers)
    parts: list[npt.NDArray[np.float32]] = []
    done = 0
    encoder.module.to(target)
    try:
        with tqdm(total=len(entities), desc=encoder.name, disable=not progress) as bar:
            for images in batches:
                labels = entities.label[done : done + len(images)]
                done += len(images)  # not bar.n, which a disabled bar does not count
                parts.append(_encode_named(encoder, images, labels, target, mixed_precision))
                bar.update(len(images))
        if not parts:  # no entity: one white patch tells the number of columns
            white = np.full((1, encoder.size_px, encoder.size_px, 3), 255, np.uint8)
            parts.append(encoder.encode(white, target, mixed_precision).cpu().numpy()[:0])
    finally:
        encoder.module.to(home)
    values = np.concatenate(parts)
    names = [f"{encoder.name}_{i}" for i in range(values.shape[1])]
    return FeatureTable(values, names, ["1"] * len(names), entities.label)
