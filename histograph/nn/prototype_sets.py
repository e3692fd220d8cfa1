"""How alike two slides' sets of prototypes are, and the slides most alike to each: a graph of slides.

Two sets are compared by their best one-to-one correspondence, for any number of prototypes: an assignment problem for
each pair of slides. Of all pairs only those whose upper bound can still be among the nearest are solved.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bounds import check_bounds
from .set_matching import Tile, improve, match_sets, solve, upper_bound
from .threads import in_threads

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_SLACK = 1e-5  # part of a product by which rounding may put a bound below the similarity


class NearestSlides(NamedTuple):
    """The slides most alike to each.

    Attributes
    ----------
    slide : Tensor
        (S, r) int64, most alike first, the smaller number first where two are equally alike; -1 where there are none.
    similarity : Tensor
        (S, r) float32; minus infinity where there are none.
    matching : Tensor
        (S, r, K) int64: ``matching[s, q, k]`` is the prototype of ``slide[s, q]`` that belongs to prototype k of s;
        -1 where there are none.
    """

    slide: Tensor
    similarity: Tensor
    matching: Tensor


def set_similarity(p: Tensor, q: Tensor, chunk: int = 128) -> Tensor:
    r"""Compare each set with each by the best one-to-one correspondence.

    .. math::

        \mathrm{sim}(s, t) = \max_\pi \sum_k \langle p_{sk}, q_{t \pi(k)} \rangle

    over all permutations pi, found without trying them (shortest augmenting paths, :math:`K^3` operations a pair). Of
    unit rows it is :math:`K - \min_\pi \sum_k \lVert p_{sk} - q_{t \pi(k)} \rVert^2 / 2`, and K where the sets are
    the same.

    Parameters
    ----------
    p, q : Tensor
        (S, K, D) and (T, K, D) prototypes.
    chunk : int
        Sets compared at a time: the memory beside the result is two tables (chunk · K, chunk · K).

    Returns
    -------
    Tensor
        (S, T) float32, on the device of `p`; a set of zeros has similarity 0 to all.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not finite or `chunk` is below 1.

    References
    ----------
    Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems", 1987.

    Examples
    --------
    >>> p = torch.eye(3)[None]  # three prototypes, at right angles
    >>> set_similarity(p, torch.cat([p[:, [2, 0, 1]], 0.5 * p, -p]))
    tensor([[3.0000, 1.5000, 0.0000]])
    """
    ours, theirs = _rows(p, "p"), _rows(q, "q")
    if p.shape[1:] != q.shape[1:]:
        raise ValueError(
            f"p and q must have as many prototypes of the same width; found {tuple(p.shape)} and {tuple(q.shape)}"
        )
    check_bounds((("chunk", chunk >= 1, "at least 1"),), locals())
    k = p.shape[1]
    out = np.empty((len(p), len(q)), np.float32)
    for low, high in _cuts(len(p), chunk):
        for first, last in _cuts(len(q), chunk):
            gram = (ours[low * k : high * k] @ theirs[first * k : last * k].T).numpy()
            in_threads(partial(solve, gram, k, out[low:high, first:last]), high - low)
    return torch.from_numpy(out).to(p.device)


def nearest_slides(
    p: Tensor,
    valid: Tensor,
    r: int = 1,
    patients: Tensor | None = None,
    chunk: int = 128,
    match: str = "bijective",
) -> NearestSlides:
    r"""Find the r slides whose prototypes are most alike to those of each, by `set_similarity`.

    A table of all inner products is made tile by tile and never kept. What cannot be among the r nearest is passed over
    by :math:`\sum_l \max_k \langle p_{sk}, p_{tl} \rangle`, then by the bound that subtracting the largest value of
    each row first gives; only the rest is solved, by products computed anew, so that the answer does not depend on
    `chunk`.

    Parameters
    ----------
    p : Tensor
        (S, K, D) prototypes, see `prototypes`.
    valid : Tensor
        (S,) bool; the other slides get no neighbours and are nobody's.
    r : int
        Number of neighbours.
    patients : Tensor, optional
        (S,) int64 patient of each slide; slides of the same patient are not neighbours.
    chunk : int
        Slides compared at a time: memory is about two tables (chunk · K, chunk · K) in float32.
    match : str
        Which prototype of a neighbour belongs to one of ours: "bijective", the correspondence that defines the
        similarity, each used once; or "nearest", the most alike by itself, several may share one.

    Returns
    -------
    NearestSlides
        Of each slide; never itself. On the device of `p`.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not finite or an argument is out of range.

    Examples
    --------
    >>> turn = torch.tensor([0.0, 0.1, 0.3, 0.3])
    >>> p = torch.stack([turn.cos(), turn.sin()], dim=1).unsqueeze(1)  # four slides with a prototype each
    >>> found = nearest_slides(p, torch.tensor([True, True, True, False]), r=2)
    >>> found.slide.tolist()
    [[1, 2], [0, 2], [1, 0], [-1, -1]]
    """
    rows = _rows(p, "p")
    slides, k, width = p.shape
    bounds = (
        ("r", r >= 1, "at least 1"),
        ("chunk", chunk >= 1, "at least 1"),
        ("match", match in ("bijective", "nearest"), "'bijective' or 'nearest'"),
    )
    check_bounds(bounds, locals())
    if valid.shape != (slides,) or valid.dtype != torch.bool:
        raise ValueError(
            f"valid must be bool of shape ({slides},); found {tuple(valid.shape)} of {valid.dtype}"
        )
    if patients is not None and (patients.shape != (slides,) or patients.dtype != torch.int64):
        raise ValueError(
            f"patients must be int64 of shape ({slides},), one number a slide; "
            f"found {tuple(patients.shape)} of {patients.dtype}"
        )
    kept = valid.nonzero().flatten().cpu()
    p = rows.view(slides, k, width)[kept].contiguous()
    group = torch.arange(slides) if patients is None else patients.detach().cpu()
    found = _search(p, group[kept].numpy(), r, chunk)
    return _gathered(p, kept, found, slides, match, valid.device)


def _gathered(
    p: Tensor, kept: Tensor, found: tuple[Ints, Doubles], slides: int, match: str, device: torch.device
) -> NearestSlides:
    """Match prototypes, and write what was found among the kept slides in numbers of all."""
    near, alike = found
    matched = np.full((*near.shape, p.shape[1]), -1, np.int64)
    match_sets(p.numpy(), near, match == "bijective", matched)
    slide = torch.full((slides, near.shape[1]), -1)
    similarity = torch.full(slide.shape, -torch.inf)
    matching = torch.full((*slide.shape, p.shape[1]), -1)
    there = torch.from_numpy(near)
    slide[kept] = torch.where(there >= 0, kept[there], -1)
    similarity[kept] = torch.from_numpy(alike).float()
    matching[kept] = torch.from_numpy(matched)
    return NearestSlides(slide.to(device), similarity.to(device), matching.to(device))


def _search(p: Tensor, group: Ints, r: int, chunk: int) -> tuple[Ints, Doubles]:
    """Find the r nearest of other groups: (S, r) numbers, -1 for none, and their similarities."""
    slides, k, _ = p.shape
    near, alike = np.full((slides, r), -1, np.int64), np.full((slides, r), -np.inf)
    rows, sets = p.flatten(0, 1), p.numpy()
    slack = _SLACK * k * float(rows.norm(dim=1).max()) ** 2 if slides else 0.0
    cuts = _cuts(slides, chunk)
    for number, (low, high) in enumerate(cuts):
        for first, last in cuts[number:]:
            gram = (rows[low * k : high * k] @ rows[first * k : last * k].T).numpy()
            tile = Tile(gram, np.empty((high - low, last - first), np.float32), low, first)
            in_threads(partial(upper_bound, tile, k), high - low)
            in_threads(partial(improve, tile, False, sets, group, slack, near, alike), high - low)
            if first != low:  # the other direction is in the tile too
                in_threads(partial(improve, tile, True, sets, group, slack, near, alike), last - first)
    return near, alike


def _rows(p: Tensor, name: str) -> Tensor:
    """Refuse what are no sets, or give the prototypes of all, one after another, on the CPU."""
    if p.dim() != 3 or min(p.shape[1:]) < 1 or not p.is_floating_point():
        raise ValueError(
            f"{name} must be (S, K, D) floating point prototypes; found {tuple(p.shape)} of {p.dtype}"
        )
    if not bool(p.isfinite().all()):
        raise ValueError(f"{name} must be finite; found nan or inf, look at what made the prototypes")
    return p.detach().to("cpu", torch.float32).flatten(0, 1).contiguous()


def _cuts(count: int, chunk: int) -> list[tuple[int, int]]:
    """Cut ``0 .. count - 1`` into runs of `chunk`."""
    return list(pairwise([*range(0, count, chunk), count]))
