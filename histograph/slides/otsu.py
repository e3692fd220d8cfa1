"""Otsu's threshold of a histogram."""

import numpy as np
from numpy.typing import ArrayLike


def otsu(counts: ArrayLike, edges: ArrayLike) -> float | None:
    """Return the upper edge of the bin that best parts a histogram in two.

    It maximises the variance between the classes, n_0 n_1 (m_0 - m_1)², with the counts and means of the two.

    Parameters
    ----------
    counts : array_like, (B,) int
        Counts.
    edges : array_like, (B + 1,) float
        Edges of the bins.

    Returns
    -------
    float or None
        None when fewer than two bins hold anything.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979) 62-66.

    Examples
    --------
    >>> otsu([5, 5, 0, 0, 7], [0, 1, 2, 3, 4, 5])
    2.0
    >>> otsu([0, 9], [0, 1, 2]) is None
    True
    """
    counts, edges = np.asarray(counts), np.asarray(edges, np.float64)
    below = np.cumsum(counts)
    mass = np.cumsum(counts * ((edges[:-1] + edges[1:]) / 2))
    parted = (below > 0) & (below < below[-1])
    if not parted.any():
        return None
    n_0, n_1, m = (
        below[parted].astype(np.float64),
        (below[-1] - below[parted]).astype(np.float64),
        mass[parted],
    )
    between = n_0 * n_1 * (m / n_0 - (mass[-1] - m) / n_1) ** 2
    return float(edges[1:][parted][int(np.argmax(between))])
