"""Votes of the nearest training rows, weighted as in DINO and in the monitors of GCMAE, or even."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import as_labels, as_vectors

Matrix = NDArray[np.float64]

# Similarities of one block of test rows hold at most this many numbers (64 MB).
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Vote:
    """Votes for the classes of test rows.

    Parameters
    ----------
    scores
        (m, K) sum of the weights of the neighbours of each class.
    classes
        (K,) the classes, ascending.

    Examples
    --------
    >>> vote = Vote(np.array([[0.5, 2.0, 1.5]]), np.array(["fat", "stroma", "tumour"]))
    >>> vote.predicted, vote.probability
    (array(['stroma'], dtype='<U6'), array([[0.125, 0.5  , 0.375]]))
    """

    scores: Matrix
    classes: NDArray[Any]

    @property
    def predicted(self) -> NDArray[Any]:
        """(m,) class of most votes; on a tie the one that comes first."""
        found: NDArray[Any] = self.classes[self.scores.argmax(axis=1)]
        return found

    @property
    def probability(self) -> Matrix:
        """(m, K) share of the votes."""
        shares: Matrix = self.scores / self.scores.sum(axis=1, keepdims=True)
        return shares

    def accuracy(self, y: ArrayLike, top: int = 1) -> float:
        """Give the share of rows whose class is among those of most votes.

        Parameters
        ----------
        y
            (m,) true classes; a class that no training row has counts as missed.
        top
            How many classes may be named; with fewer classes than that, all of them are.

        Returns
        -------
        float
            Between 0 and 1. On a tie at the last place the class that comes first is named.

        Raises
        ------
        ValueError
            If the length differs or `top` is not positive.

        Examples
        --------
        >>> vote = Vote(np.array([[0.5, 2.0, 1.5]]), np.array(["fat", "stroma", "tumour"]))
        >>> vote.accuracy(["tumour"]), vote.accuracy(["tumour"], top=2), vote.accuracy(["tumour"], top=5)
        (0.0, 1.0, 1.0)
        """
        truth = np.asarray(y)
        if truth.shape != (len(self.scores),) or not len(truth):
            raise ValueError(
                f"y must have one class for each of {len(self.scores)} rows, found shape {truth.shape}."
            )
        if top < 1:
            raise ValueError(f"top must be at least 1, found {top}.")
        named = np.argsort(-self.scores, axis=1, kind="stable")[:, :top]
        return float((self.classes[named] == truth[:, None]).any(axis=1).mean())


def neighbour_vote(
    train: ArrayLike,
    y: ArrayLike,
    test: ArrayLike,
    k: int = 20,
    temperature: float | None = 0.07,
    distance: Literal["cosine", "euclidean"] = "cosine",
) -> Vote:
    r"""Let the k nearest training rows of each test row vote for its class.

    A neighbour at cosine similarity s has the weight :math:`\exp(s / T)`, as in DINO (k = 20) and in the monitors of
    GCMAE (k = 200); without a temperature all neighbours count alike, as in the pathology evaluation of DINO (k = 5,
    Euclidean distance). Rows are taken as they are, not standardised. Of equally near rows the earlier one votes.

    Parameters
    ----------
    train
        (n, D) vectors of the rows that vote.
    y
        (n,) their classes.
    test
        (m, D) vectors to classify.
    k
        Number of neighbours.
    temperature
        T > 0; None lets neighbours count alike.
    distance
        "cosine" or "euclidean"; a temperature goes with "cosine".

    Returns
    -------
    Vote
        Scores of the classes.

    Raises
    ------
    ValueError
        If widths differ, k exceeds the training rows, or the temperature is out of range or does not go with the
        distance.

    References
    ----------
    Z. Wu et al., Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018, section 3.4.
    M. Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021.

    Examples
    --------
    >>> vote = neighbour_vote([[1, 0], [1, 0.1], [0, 1]], ["a", "a", "b"], [[2, 0.1], [0, 3]], k=2)
    >>> vote.predicted
    array(['a', 'b'], dtype='<U1')
    """
    known, asked = as_vectors(train), as_vectors(test)
    labels = as_labels(y, len(known))
    _check(known, asked, k, temperature, distance)
    if distance == "cosine":
        known, asked = _unit(known), _unit(asked)
    offset = 0.0 if distance == "cosine" else (known**2).sum(axis=1) / 2
    scores = np.zeros((len(asked), len(labels.classes)))
    step = max(1, _BLOCK // len(known))
    for start in range(0, len(asked), step):
        # of Euclidean distances |a - b|², the part that differs between training rows, halved
        near = asked[start : start + step] @ known.T - offset
        row = np.arange(len(near))[:, None]
        chosen = _nearest(near, k)
        weight = np.ones(chosen.shape) if temperature is None else np.exp(near[row, chosen] / temperature)
        np.add.at(scores, (start + row, labels.code[chosen]), weight)
    return Vote(scores, labels.classes)


def _check(known: Matrix, asked: Matrix, k: int, temperature: float | None, distance: str) -> None:
    if known.shape[1] != asked.shape[1]:
        raise ValueError(
            f"train and test must have the same number of columns, found {known.shape[1]} and {asked.shape[1]}."
        )
    if not 1 <= k <= len(known):
        raise ValueError(f"k must be between 1 and the {len(known)} training rows, found {k}.")
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f'distance must be "cosine" or "euclidean", found {distance!r}.')
    if temperature is None:
        return
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, or None for even votes; found {temperature}.")
    if distance == "euclidean":
        raise ValueError('temperature weighs cosine similarities; use distance="cosine" or temperature=None.')
    if temperature < 0.002:
        raise ValueError(
            f"temperature must be at least 0.002, for exp(1 / T) to be finite; found {temperature}."
        )


def _unit(z: Matrix) -> Matrix:
    """Give rows of length 1; a row of zeros stays, alike to nothing."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    unit: Matrix = z / np.where(length > 0, length, 1.0)
    return unit


def _nearest(near: Matrix, k: int) -> NDArray[np.int64]:
    """Give the columns of the k largest numbers of each row, of equal ones the first."""
    chosen = np.argpartition(-near, k - 1, axis=1)[:, :k]
    last = np.take_along_axis(near, chosen, axis=1).min(axis=1)
    for row in np.flatnonzero((near >= last[:, None]).sum(axis=1) > k):
        above = np.flatnonzero(near[row] > last[row])
        equal = np.flatnonzero(near[row] == last[row])
        chosen[row] = np.concatenate([above, equal[: k - len(above)]])
    return chosen
