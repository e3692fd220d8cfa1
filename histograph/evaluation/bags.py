"""Slides as bags of region vectors, and the mean of each bag."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import as_vectors


@dataclass(frozen=True)
class Bags:
    """Region vectors of slides, those of a slide in consecutive rows.

    Parameters
    ----------
    z
        (N, D) float64.
    ptr
        (S + 1,) int64, the regions of slide s are rows ``ptr[s]:ptr[s + 1]``; at least one.
    row
        (N,) int64, the row of the caller's z that each row is.
    """

    z: NDArray[np.float64]
    ptr: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def rows_of(self, slides: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the rows of chosen slides, and which of the chosen slides each belongs to.

        Parameters
        ----------
        slides
            (s,) numbers of slides, in any order.

        Returns
        -------
        rows : ndarray
            (n,) int64.
        place : ndarray
            (n,) int64, in ``0 .. s - 1``, ascending.

        Examples
        --------
        >>> as_bags([[1.0], [2.0], [3.0]], [1, 0, 1]).rows_of(np.array([1]))
        (array([1, 2]), array([0, 0]))
        """
        count = np.diff(self.ptr)[slides]
        place = np.repeat(np.arange(len(slides)), count)
        inside = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        return self.ptr[slides][place] + inside, place


def as_bags(z: Any, slide: ArrayLike | None = None, n: int | None = None) -> Bags:
    """Lay region vectors out by slide.

    Parameters
    ----------
    z
        (N, D) vectors of all regions, with `slide`; or a sequence with the (n_s, D) vectors of each slide.
    slide
        (N,) number of the slide of each region, 0 … S-1, in any order.
    n
        Number S of slides; None takes what is there.

    Returns
    -------
    Bags
        Rows of a slide in the order in which they were given.

    Raises
    ------
    ValueError
        If shapes or widths differ, a vector is not finite, `slide` holds no such numbers, or a slide has no region.

    Examples
    --------
    >>> as_bags([[[1.0]], [[2.0], [3.0]]]).ptr
    array([0, 1, 3])
    """
    if slide is None:
        return _from_list(z, n)
    vectors = as_vectors(z)
    number = np.asarray(slide)
    if number.shape != (len(vectors),) or number.dtype.kind not in "iu":
        raise ValueError(
            f"slide must hold the whole number of the slide of each of {len(vectors)} rows of z, found shape "
            f"{number.shape} and dtype {number.dtype}. Number names with numpy.unique(…, return_inverse=True)."
        )
    slides = int(number.max()) + 1 if n is None else n
    if int(number.min()) < 0 or int(number.max()) >= slides:
        raise ValueError(
            f"slide must hold numbers from 0 to {slides - 1}, found {number.min()} to {number.max()}."
        )
    count = np.bincount(number, minlength=slides)
    _check_filled(count)
    order = np.argsort(number, kind="stable")
    return Bags(vectors[order], np.concatenate([[0], np.cumsum(count)]), order)


def slide_means(z: ArrayLike, slide: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    r"""Average the region vectors of each slide, :math:`\bar z_s = \frac1{n_s} \sum_{i \in s} z_i`.

    This is how HIPT gives a slide one vector, for `knn_probe` and `linear_probe`. With vectors of `hg.embed` on a
    data set of regions: ``slide_means(embeddings, regions.slide)``.

    Parameters
    ----------
    z
        (N, D) region vectors; anything that `numpy.asarray` takes.
    slide
        (N,) number of the slide of each region, 0 … S-1, in any order.
    n
        Number S of slides; None takes the largest number and 1.

    Returns
    -------
    ndarray
        (S, D) float64.

    Raises
    ------
    ValueError
        As `as_bags`.

    Examples
    --------
    >>> slide_means([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]], [0, 1, 0])
    array([[2., 1.],
           [5., 5.]])
    """
    bags = as_bags(z, slide, n)
    return np.add.reduceat(bags.z, bags.ptr[:-1], axis=0) / np.diff(bags.ptr)[:, None]


def _from_list(z: Sequence[ArrayLike], n: int | None) -> Bags:
    if getattr(z, "ndim", 3) == 2 or not len(z):
        raise ValueError(
            "z must be a sequence with a matrix (regions, D) for each slide, at least one; found "
            f"{'one matrix: give slide, the number of the slide of each row' if len(z) else 'none'}."
        )
    if n is not None and len(z) != n:
        raise ValueError(f"z must have a matrix for each of {n} slides, found {len(z)}.")
    parts = [np.asarray(part) for part in z]
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) != 1 or any(part.ndim != 2 for part in parts):
        raise ValueError(
            f"z must have matrices (regions, D) of one width D, found rows of shape {sorted(shapes)[:4]}."
        )
    count = np.array([len(part) for part in parts])
    _check_filled(count)
    vectors = as_vectors(np.concatenate(parts))
    return Bags(vectors, np.concatenate([[0], np.cumsum(count)]), np.arange(len(vectors)))


def _check_filled(count: NDArray[np.int64]) -> None:
    empty = np.flatnonzero(count == 0)
    if len(empty):
        raise ValueError(
            f"each slide needs at least one region, found none of {len(empty)} of {len(count)} slides (first: "
            f"{empty[0]}). Drop these slides from y and groups, and number the others anew."
        )
