"""Deep features of cells: tokens of a Vision Transformer, averaged over the area of each nucleus."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit

from histograph.entities.within import check_slide

from .crops import iter_crops
from .encoder import MixedPrecision, PatchEncoder, put_on, run_module
from .table import FeatureTable
from .token_overlap import TokenWindows, token_windows

if TYPE_CHECKING:
    import torch

    from histograph.entities import Entities
    from histograph.slides import Slide

__all__ = ["CellTokens", "cell_tokens"]


@dataclass(frozen=True)
class CellTokens:
    """Features of a node type by `cell_tokens`, for `histograph.build_graph`.

    Parameters
    ----------
    encoder : str, os.PathLike, torch.nn.Module or PatchEncoder
        What `histograph.features.load_encoder` takes; its network must have a token for each square of the image.
    context : bool
        As of `cell_tokens`.
    margin : int, optional
        As of `cell_tokens`.
    mpp : float, optional
        Micrometres per pixel that the encoder was trained at, where it does not say, or to say otherwise.
    batch_size : int
        Windows a batch.
    mixed_precision : bool, "bf16" or "fp16"
        As of `cell_tokens`.
    device : str or torch.device, optional
        Where the encoder runs. Default: a module stays where it is; what is loaded goes to the GPU, if there is one.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Examples
    --------
    >>> CellTokens("histograph-vit", context=True).batch_size
    16
    """

    encoder: Any = "histograph-vit"
    context: bool = False
    margin: int | None = None
    mpp: float | None = None
    batch_size: int = 16
    mixed_precision: Any = False
    device: Any = None

    def __post_init__(self) -> None:
        if self.batch_size != int(self.batch_size) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, found {self.batch_size!r}")
        if self.mixed_precision not in (False, True, "bf16", "fp16"):
            raise ValueError(
                f"mixed_precision must be False, True, 'bf16' or 'fp16', found {self.mixed_precision!r}"
            )

    def loaded(self) -> CellTokens:
        """Load the encoder and refuse one that cannot do it, before any slide is read.

        Returns
        -------
        CellTokens
            The same with a `PatchEncoder`.

        Raises
        ------
        ValueError
            When the encoder has no tokens, does not know its pixel size, or the margin leaves nothing of a window.
        OSError, ImportError
            As `histograph.features.load_encoder`.

        Examples
        --------
        >>> CellTokens("histograph-vit").loaded().encoder.size_px
        96
        """
        from .named import cached_encoder

        named = isinstance(self.encoder, (str, os.PathLike))
        options: dict[str, Any] = {} if self.mpp is None else {"mpp": self.mpp}
        if named and self.device is not None:
            options["device"] = self.device
        encoder = cached_encoder(self.encoder, **options)
        _Field(encoder, self.margin, encoder.device)
        # what the caller made stays where it is between slides
        return replace(self, encoder=encoder, mpp=None, device=None if named else self.device)


def cell_tokens(
    slide: Slide,
    cells: Entities,
    encoder: PatchEncoder | torch.nn.Module | str | os.PathLike[str] = "histograph-vit",
    context: bool = False,
    margin: int | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    workers: int = 2,
    mixed_precision: MixedPrecision = False,
    progress: bool = True,
) -> FeatureTable:
    r"""Give each nucleus the mean of the tokens that it covers, weighted by the area of its mask in the square of each.

    The squares of all tokens form one grid from the canvas origin, of sides :math:`s` (pixels of a token times µm a
    pixel). With :math:`a_{it}` the area of nucleus i in square t and :math:`z_t` its token,

    .. math:: x_i = \sum_t a_{it} z_t \,/\, \sum_t a_{it}

    Windows of the encoder's size lie on a fixed grid and overlap, and each token is taken from the one window in whose
    inner part it lies; a nucleus at a seam thus has each of its squares once. Only windows whose inner part holds some
    of a nucleus are read. What a nucleus gets depends on neither the others nor `workers`; `batch_size` changes it by
    the rounding of the network at most. Outside the slide is white.

    Parameters
    ----------
    slide : Slide
        Where the pixels come from.
    cells : Entities
        N nuclei, or any entities; without masks each is a full rectangle. Areas are exact, also where a border of the
        grid cuts a pixel of the mask; a nucleus whose mask is empty gets the token at its centroid.
    encoder : PatchEncoder, torch.nn.Module, str or os.PathLike
        What `load_encoder` takes; its network must have a token for each square, as Vision Transformers do, and its
        pixel size must be known.
    context : bool
        Append the class token of the window (the mean of its squares, where there is none), averaged likewise: what
        surrounds the nucleus.
    margin : int, optional
        Tokens at each border of a window that are read for context alone; less than half of a side. Default: an eighth
        of the tokens along a side.
    batch_size : int
        Windows a batch.
    device : str or torch.device, optional
        Where the module runs; it is moved there and afterwards back. Default: where it is; an encoder that is loaded
        here by its name goes to the GPU, if there is one.
    workers : int
        Threads that read windows.
    mixed_precision : bool, "bf16" or "fp16"
        Run the module under autocast to bfloat16 (also for True) or float16.
    progress : bool
        Show a progress bar over the windows.

    Returns
    -------
    FeatureTable
        (N, D), columns "name_token_0", …, with `context` (N, 2 D) and "name_window_0", …; rows in the order of `cells`.

    Raises
    ------
    ValueError
        When the encoder gives no tokens or no number, its pixel size is not known, or an argument is out of range.
    TypeError
        When `slide` is no open slide.

    Examples
    --------
    >>> from histograph.entities import Entities
    >>> from histograph.slides import open_slide
    >>> slide = open_slide(np.full((60, 60, 3), 180, np.uint8), mpp=0.5)
    >>> cells = Entities.from_instance_map(np.eye(3, dtype=int)[1:] * 5, mpp=0.5, origin_um=(10, 10))
    >>> cell_tokens(slide, cells, progress=False)
    FeatureTable(1 entities, 192 features: histograph-vit_token_0 [1], histograph-vit_token_1 [1], ...)
    """
    from tqdm.auto import tqdm

    check_slide(slide)
    if not isinstance(encoder, PatchEncoder):
        from .named import load_encoder

        encoder = load_encoder(encoder, device=device)
    home = encoder.device
    put_on(encoder.module, home if device is None else device)
    try:
        field = _Field(encoder, margin, encoder.device, mixed_precision)
        windows = token_windows(cells, field.side_um, field.grid, field.margin)
        values = np.zeros((len(cells), field.width * (2 if context else 1)), np.float32)
        with tqdm(total=len(windows), desc=encoder.name, unit="window", disable=not progress) as bar:
            for count in _pool(field, slide, windows, values, context, batch_size, workers):
                bar.update(count)
    finally:
        encoder.module.to(home)
    total = np.bincount(windows.entity, windows.area, len(cells))
    values /= total[:, None].astype(np.float32)
    names = [f"{encoder.name}_token_{i}" for i in range(field.width)]
    names += [f"{encoder.name}_window_{i}" for i in range(field.width)] if context else []
    return FeatureTable(values, names, ["1"] * len(names), cells.label)


class _Field:
    """An encoder that gives its tokens in their places, and the grid that they make."""

    def __init__(
        self,
        encoder: PatchEncoder,
        margin: int | None,
        target: torch.device,
        mixed_precision: MixedPrecision = False,
    ) -> None:
        from .tokens import TokenField

        if encoder.mpp is None:
            raise ValueError(
                f"encoder {encoder.name!r} does not say the pixel size that it was trained at; give it, as "
                "load_encoder(…, mpp=0.5) or CellTokens(…, mpp=0.5)"
            )
        self.encoder = replace(encoder, module=TokenField(encoder.module))
        self.target, self.mixed_precision = target, mixed_precision
        white = np.full((1, encoder.size_px, encoder.size_px, 3), 255, np.uint8)
        _, places, self.width = self.run(white).shape
        self.grid = math.isqrt(places - 1)
        if self.grid**2 != places - 1:
            raise ValueError(
                f"encoder {encoder.name!r} gives {places - 1} tokens of a square image, which are no rows and columns "
                "of squares; use crops around the nuclei, embed_entities(slide, cells, encoder)"
            )
        self.side_um = encoder.size_um / self.grid
        self.margin = self.grid // 8 if margin is None else margin
        if self.margin != int(self.margin) or not 0 <= 2 * self.margin < self.grid:
            raise ValueError(
                f"margin must be a whole number of tokens, at least 0 and less than half of the {self.grid} along a "
                f"side of encoder {encoder.name!r}; found {margin!r}"
            )

    def run(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Give (B, 1 + N, D): a vector of each window, then its tokens row by row."""
        return run_module(self.encoder, images, self.target, self.mixed_precision)


def _pool(
    field: _Field,
    slide: Slide,
    windows: TokenWindows,
    values: npt.NDArray[np.float32],
    context: bool,
    batch_size: int,
    workers: int,
) -> Iterator[int]:
    """Add up the tokens of the entities; yield the number of windows that are done, after each batch."""
    side, size = field.side_um, field.encoder.size_um
    centre = windows.corner[:, ::-1] * side + size / 2
    batches = iter_crops(slide, centre, size, field.encoder.size_px, batch_size, workers)
    waiting: tuple[torch.Tensor, npt.NDArray[np.int64], int, int] | None = None
    done = 0
    for images in batches:
        first, done = done, done + len(images)
        taken, row = _taken(field, windows, images, first, context)
        if waiting is not None:  # fetched after the next batch is under way: a GPU always has work
            yield _added(field, windows, values, *waiting)
        waiting = taken, row, first, done
    if waiting is not None:
        yield _added(field, windows, values, *waiting)


def _taken(
    field: _Field, windows: TokenWindows, images: npt.NDArray[np.uint8], first: int, context: bool
) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """Run a batch of windows; give the tokens that lie under entities, and which of them each share reads."""
    import torch

    z = field.run(images)
    bounds = windows.start[first : first + len(images) + 1]
    window = np.repeat(np.arange(len(images)), np.diff(bounds))
    place = window * z.shape[1] + 1 + windows.place[bounds[0] : bounds[-1]]
    found, row = np.unique(place, return_inverse=True)
    index = torch.from_numpy(found).to(z.device)
    taken = z.flatten(0, 1)[index]
    if context:
        taken = torch.cat([taken, z[:, 0][index // z.shape[1]]], dim=1)
    return taken, row.reshape(-1)


def _added(
    field: _Field,
    windows: TokenWindows,
    values: npt.NDArray[np.float32],
    taken: torch.Tensor,
    row: npt.NDArray[np.int64],
    first: int,
    last: int,
) -> int:
    """Bring the tokens of some windows to the CPU, check them, and add them to their entities."""
    tokens = taken.cpu().numpy()
    part = slice(windows.start[first], windows.start[last])
    bad = ~np.isfinite(tokens).all(axis=1)
    if bad.any():
        share = int(windows.start[first] + np.flatnonzero(bad[row])[0])
        window = int(np.searchsorted(windows.start, share, side="right")) - 1
        x, y = windows.corner[window, ::-1] * field.side_um
        raise ValueError(
            f"module of encoder {field.encoder.name!r} returned nan or inf for the window at x {x:.1f}, y {y:.1f} µm"
        )
    _add(values, windows.entity[part], windows.area[part], row, tokens)
    return last - first


@njit(cache=True, nogil=True)
def _add(values, entity, area, row, tokens):  # type: ignore[no-untyped-def]
    """Add one share after the other, so that sums do not depend on where batches end."""
    for k in range(len(entity)):
        for column in range(tokens.shape[1]):
            values[entity[k], column] += np.float32(area[k]) * tokens[row[k], column]
