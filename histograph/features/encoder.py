"""Patch encoders: a torch module with the pixel size and normalisation it was trained with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from .crops import iter_crops
from .table import FeatureTable

if TYPE_CHECKING:
    import torch

    from histograph.entities import Entities
    from histograph.slides import Slide

__all__ = ["PatchEncoder", "embed_entities"]

MixedPrecision = bool | Literal["bf16", "fp16"]
# Pixels may be this many times larger or smaller than those an encoder was trained on: the common 256 pixels of 20x
# read as 224 make 1.14, and a step of magnification, 2, is refused.
_STRETCH = 1.5


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
    mpp : float or None
        Micrometres per pixel that the module was trained at; None when that is not known. Such an encoder embeds
        squares of one size, as patches are, each read whole.
    name : str
        Prefix of the feature names.
    step_px : int, optional
        Set for a module that reads any multiple of this many pixels, as the side of a token of a Vision Transformer
        is: then a square of another size is read with the pixel size that the module knows.
    source : str, optional
        What the encoder was loaded from; for the record.

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
    mpp: float | None
    name: str
    step_px: int | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        import torch

        if not isinstance(self.module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, found {type(self.module).__name__}")
        for field in ("mean", "std"):
            object.__setattr__(self, field, _of_colours(field, getattr(self, field)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, found {self.std}")
        if not _is_number(self.size_px) or self.size_px != int(self.size_px) or self.size_px < 1:
            raise ValueError(f"size_px must be a whole number of at least 1, found {self.size_px!r}")
        step = self.step_px
        if step is not None and (step != int(step) or step < 1 or self.size_px % step):
            raise ValueError(
                f"step_px must be a whole number that divides size_px {self.size_px}, found {step!r}"
            )
        if self.mpp is not None and (not _is_number(self.mpp) or self.mpp <= 0):
            raise ValueError(f"mpp must be a positive number of micrometres per pixel, found {self.mpp!r}")
        if not self.name:
            raise ValueError("name must not be empty: it is the prefix of the feature names")

    @property
    def size_um(self) -> float:
        """Side of a patch in micrometres; a ValueError when the pixel size is not known."""
        if self.mpp is None:
            raise ValueError(
                f"mpp: the pixel size that encoder {self.name!r} was trained at is not known; give it, as "
                "load_encoder(…, mpp=0.5), or embed squares of one size, which are read whole"
            )
        return self.size_px * self.mpp

    def fitted(self, size_um: float) -> PatchEncoder:
        """Give this encoder for squares of another size, which it reads whole.

        Parameters
        ----------
        size_um : float
            Side of the squares in micrometres.

        Returns
        -------
        PatchEncoder
            With `size_px` times `mpp` equal to `size_um`. Where the module allows it (`step_px`) the number of
            pixels is chosen so that the pixel size stays; else the pixel size changes.

        Raises
        ------
        ValueError
            When the pixel size would be more than 1.5 times larger or smaller than the one trained at.

        Examples
        --------
        >>> import torch
        >>> pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> encoder = PatchEncoder(pool, (0, 0, 0), (1, 1, 1), size_px=96, mpp=1.0, name="colour", step_px=16)
        >>> wide = encoder.fitted(130.0)
        >>> wide.size_px, wide.size_um
        (128, 130.0)
        """
        if not np.isfinite(size_um) or size_um <= 0:
            raise ValueError(f"size_um must be a positive number of micrometres, found {size_um!r}")
        size_px = self.size_px
        if self.step_px is not None and self.mpp is not None:
            size_px = max(round(size_um / self.mpp / self.step_px), 1) * self.step_px
        mpp = size_um / size_px
        if self.mpp is not None and not 1 / _STRETCH <= mpp / self.mpp <= _STRETCH:
            raise ValueError(
                f"squares of {size_um:g} µm read as {size_px} pixels have {mpp:.3g} µm a pixel, but encoder "
                f"{self.name!r} was trained at {self.mpp:g}; make them about {size_px * self.mpp:g} µm wide, as "
                f"entities={{'patch': {{'size_um': {size_px * self.mpp:g}}}}}, or say load_encoder(…, mpp={mpp:.3g})"
            )
        return replace(self, size_px=size_px, mpp=mpp)

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
        mixed_precision: MixedPrecision = False,
    ) -> torch.Tensor:
        """Embed a batch of patches in evaluation mode and without gradients.

        Parameters
        ----------
        images : (B, size_px, size_px, 3) uint8 array
            Red, green, blue.
        device : str or torch.device, optional
            Where the patches are put, and where the module must be. Default: `self.device`.
        mixed_precision : bool, "bf16" or "fp16"
            Run the module under autocast to bfloat16 (also for True) or float16.

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

        target = self.device if device is None else torch.device(device)
        return _finite(self, _forward(self, images, target, mixed_precision))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _of_colours(field: str, given: Sequence[float]) -> tuple[float, ...]:
    """Give a mean or std as three numbers, and refuse one that is not on the scale 0 to 1 of the images."""
    try:
        numbers = tuple(float(v) for v in given)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"{field} must be three finite numbers, red, green, blue, found {given!r}")
    if max(numbers) > 1 or min(numbers) < 0:
        raise ValueError(
            f"{field} must lie on the scale 0 to 1 of the images, found {numbers}; divide those on the scale 0 to 255 "
            "by 255"
        )
    return numbers


def run_module(
    encoder: PatchEncoder,
    images: npt.NDArray[np.uint8],
    target: torch.device,
    mixed_precision: MixedPrecision,
) -> torch.Tensor:
    """Normalise a batch and run the module on it; on a GPU this returns before the GPU is done.

    Parameters
    ----------
    encoder : PatchEncoder
        The module, and how its images are normalised.
    images : (B, size_px, size_px, 3) uint8 array
        Red, green, blue.
    target : torch.device
        Where the module is.
    mixed_precision : bool, "bf16" or "fp16"
        As of `PatchEncoder.encode`.

    Returns
    -------
    Tensor
        What the module returns, of any shape, as float32.

    Raises
    ------
    ValueError
        When the images have another shape or type.
    TypeError
        When the module returns no tensor.

    Examples
    --------
    >>> import torch
    >>> encoder = PatchEncoder(torch.nn.Identity(), (0, 0, 0), (1, 1, 1), size_px=2, mpp=0.5, name="pixels")
    >>> run_module(encoder, np.zeros((1, 2, 2, 3), np.uint8), encoder.device, False).shape
    torch.Size([1, 3, 2, 2])
    """
    import torch

    shape = (len(images), encoder.size_px, encoder.size_px, 3)
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 of shape {shape}, found {images.dtype} of shape {images.shape}"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    if target.type == "cuda":  # copied while the GPU works on the batch before
        pixels = pixels.pin_memory()
    with torch.inference_mode(), _evaluating(encoder.module):
        x = pixels.to(target, non_blocking=True).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v, device=target).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
        x.div_(255).sub_(mean).div_(std)
        with _autocast(target, mixed_precision), _explained(encoder, x):
            z = encoder.module(x)
    if not isinstance(z, torch.Tensor):
        raise TypeError(
            f"module of encoder {encoder.name!r} must return one tensor, found {type(z).__name__}; "
            "wrap it in a module that picks the vectors"
        )
    return z.float()


@contextmanager
def _explained(encoder: PatchEncoder, images: torch.Tensor) -> Iterator[None]:
    """Say of which encoder an error is, and what the module was given; memory that runs out is said as it is."""
    import torch

    try:
        yield
    except (RuntimeError, AssertionError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        tensors = (*encoder.module.parameters(), *encoder.module.buffers())
        found = {str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()} or {"none"}
        raise ValueError(
            f"module of encoder {encoder.name!r} cannot read images of shape {tuple(images.shape)}, float32 on "
            f"{images.device} ({error}); its weights are {', '.join(sorted(found))}. Give the size_px that it was made "
            "for, and float32 weights, as module.float() has, with mixed_precision for speed"
        ) from error


def put_on(module: torch.nn.Module, device: str | torch.device) -> None:
    """Move a module to a device, or say that there is none such here.

    Parameters
    ----------
    module : torch.nn.Module
        Moved in place.
    device : str or torch.device
        Where to.

    Raises
    ------
    ValueError
        When this machine or this torch has no such device.

    Examples
    --------
    >>> import torch
    >>> put_on(torch.nn.Linear(2, 2), "cpu")
    """
    import torch

    try:
        module.to(device)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({error}); give 'cpu', or leave device out for the GPU where "
            "there is one"
        ) from error


def _forward(
    encoder: PatchEncoder,
    images: npt.NDArray[np.uint8],
    target: torch.device,
    mixed_precision: MixedPrecision,
) -> torch.Tensor:
    """Give the vectors of a batch, one an image."""
    z = run_module(encoder, images, target, mixed_precision)
    if z.ndim != 2 or len(z) != len(images):
        raise ValueError(
            f"module of encoder {encoder.name!r} must return shape ({len(images)}, D), "
            f"found {tuple(z.shape)}; "
            + ("flatten(1) in place of squeeze() keeps a batch of one" if z.ndim == 1 else "pool first")
        )
    return z


def _finite(encoder: PatchEncoder, z: torch.Tensor) -> torch.Tensor:
    """Refuse vectors that are no numbers."""
    import torch

    if not torch.isfinite(z).all():
        row = int((~torch.isfinite(z)).any(dim=1).nonzero()[0, 0])
        raise ValueError(
            f"module of encoder {encoder.name!r} returned nan or inf for image {row} of the batch"
        )
    return z


def _autocast(target: torch.device, mixed_precision: MixedPrecision) -> AbstractContextManager[object]:
    """Give the context in which the module runs."""
    import torch

    kinds = {True: torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}
    if mixed_precision is False:
        return nullcontext()
    if mixed_precision not in kinds:
        raise ValueError(f"mixed_precision must be False, True, 'bf16' or 'fp16'; found {mixed_precision!r}")
    return torch.autocast(target.type, dtype=kinds[mixed_precision])


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


@contextmanager
def _naming(labels: npt.NDArray[np.int64]) -> Iterator[None]:
    """Let an error name the entities of the batch."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} (batch of entities {labels[0]} to {labels[-1]})") from error


def _vectors(
    encoder: PatchEncoder,
    batches: Iterator[npt.NDArray[np.uint8]],
    labels: npt.NDArray[np.int64],
    target: torch.device,
    mixed_precision: MixedPrecision,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the vectors of each batch, fetched after the next batch is under way: a GPU always has work."""
    waiting: tuple[torch.Tensor, npt.NDArray[np.int64]] | None = None
    done = 0
    for images in batches:
        mine = labels[done : done + len(images)]
        done += len(images)
        with _naming(mine):
            z = _forward(encoder, images, target, mixed_precision)
        if waiting is not None:
            yield _fetched(encoder, *waiting)
        waiting = z, mine
    if waiting is not None:
        yield _fetched(encoder, *waiting)


def _fetched(
    encoder: PatchEncoder, z: torch.Tensor, labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Bring vectors to the CPU and check them."""
    with _naming(labels):
        return _finite(encoder, z.cpu()).numpy()


def square_side_um(entities: Entities) -> float | None:
    """Give the side of entities that are squares of one size.

    Parameters
    ----------
    entities : Entities
        Such as `patches` and `regions` find.

    Returns
    -------
    float or None
        Micrometres; None when there is no entity.

    Raises
    ------
    ValueError
        When they are no squares of one size.

    Examples
    --------
    >>> from histograph.entities import patches
    >>> from histograph.slides import open_slide
    >>> square_side_um(patches(open_slide(np.zeros((9, 9, 3), np.uint8), mpp=1.0), size_um=3.0, mask=None))
    3.0
    """
    sides = entities.bbox[:, 2:] - entities.bbox[:, :2]
    if not len(sides):
        return None
    side = float(sides.mean())
    if entities.masks is not None or np.abs(sides - side).max() > 1e-6 * side:
        raise ValueError(
            f"entities: to be read whole they must be squares of one size, as patches are; found {entities.kind} "
            "entities of other shapes. Give the encoder its pixel size, as load_encoder(…, mpp=0.5)"
        )
    return side


def embed_entities(
    slide: Slide,
    entities: Entities,
    encoder: PatchEncoder | torch.nn.Module | str | os.PathLike[str],
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 2,
    mixed_precision: MixedPrecision = False,
    progress: bool = True,
    whole: bool = False,
) -> FeatureTable:
    """Embed the patch around every entity's centroid with a patch encoder, while threads read the next patches.

    Parameters
    ----------
    slide : Slide
        Where the pixels come from; outside it is white.
    entities : Entities
        N entities; a patch has the encoder's size, whatever the entity's, unless `whole` is set.
    encoder : PatchEncoder, torch.nn.Module, str or os.PathLike
        What turns patches into vectors, or what `load_encoder` takes.
    batch_size : int
        Patches a batch.
    device : str or torch.device, optional
        Where the module runs; it is moved there and afterwards back. Default: where it is; an encoder that is
        loaded here by its name goes to the GPU, if there is one.
    workers : int
        Threads that read patches.
    mixed_precision : bool, "bf16" or "fp16"
        Run the module under autocast to bfloat16 (also for True) or float16.
    progress : bool
        Show a progress bar over the entities.
    whole : bool
        Read squares of one size whole, as `PatchEncoder.fitted` says; always so where the encoder's pixel size is
        not known.

    Returns
    -------
    FeatureTable
        (N, D), columns "name_0", "name_1", …, rows in the order of `entities`.

    Raises
    ------
    ValueError
        When the module returns no (B, D) or a value that is not finite (the message names the entities), or the
        entities are no squares of one size and have to be read whole.

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

    if not isinstance(encoder, PatchEncoder):
        from .named import load_encoder

        encoder = load_encoder(encoder, device=device)
    if whole or encoder.mpp is None:
        side = square_side_um(entities)
        encoder = encoder.fitted(side or encoder.size_px * (encoder.mpp or 1.0))
    home = encoder.device
    target = home if device is None else torch.device(device)
    batches = iter_crops(slide, entities.centroid, encoder.size_um, encoder.size_px, batch_size, workers)
    parts: list[npt.NDArray[np.float32]] = []
    put_on(encoder.module, target)
    try:
        with tqdm(total=len(entities), desc=encoder.name, unit="patch", disable=not progress) as bar:
            for vectors in _vectors(encoder, batches, entities.label, target, mixed_precision):
                parts.append(vectors)
                bar.update(len(vectors))
        if not parts:  # no entity: one white patch tells the number of columns
            white = np.full((1, encoder.size_px, encoder.size_px, 3), 255, np.uint8)
            parts.append(encoder.encode(white, target, mixed_precision).cpu().numpy()[:0])
    finally:
        encoder.module.to(home)
    values = np.concatenate(parts)
    names = [f"{encoder.name}_{i}" for i in range(values.shape[1])]
    return FeatureTable(values, names, ["1"] * len(names), entities.label)
