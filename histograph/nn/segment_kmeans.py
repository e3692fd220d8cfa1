"""K-means inside every segment of a batch at once: the clusters of each slide's regions.

Lloyd's algorithm is message passing on the graph of rows and clusters: a row chooses a cluster (an edge), a cluster
takes the mean of its rows. Segments are shared out among threads, each in a compiled loop over its restarts. Rows are
visited in an order that their values decide, and random numbers are functions of the seed and of a row's values, so
that neither the order of rows nor the other segments have any influence.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from .bounds import check_bounds
from .lloyd import Task, cluster_segments, row_keys
from .threads import in_threads

Ints = NDArray[np.int64]

_PARTS = 4  # for each thread, so that one with larger segments is not waited for


class KMeans(NamedTuple):
    """Clusters of S segments.

    Attributes
    ----------
    centroid : Tensor
        (S, k, D) float32 means of the rows of each cluster; 0 in ignored segments.
    assignment : Tensor
        (N,) int64 cluster of each row, -1 in ignored segments.
    inertia : Tensor
        (S,) float64, sum of squared distances of rows to the centroid of their cluster; 0 in ignored segments.
    valid : Tensor
        (S,) bool, False for the ignored segments: those with fewer rows than asked for.
    objective : Tensor
        (S,) float64, what was minimised: the inertia, and the terms of coherence and of soft assignment.
    """

    centroid: Tensor
    assignment: Tensor
    inertia: Tensor
    valid: Tensor
    objective: Tensor


def segment_kmeans(
    x: Tensor,
    segment: Tensor,
    k: int,
    num_segments: int | None = None,
    iterations: int = 10,
    restarts: int = 5,
    seed: int = 0,
    start: Tensor | None = None,
    minimum: int = 1,
    assignment: str = "hard",
    temperature: float = 0.1,
    edge_index: Tensor | None = None,
    coherence: float = 0.0,
) -> KMeans:
    r"""Cluster the rows of each segment by themselves, all segments at once, and keep the best of several restarts.

    With clusters a of the rows of a segment and centroids c, what is minimised is

    .. math::

        \sum_i \lVert x_i - c_{a_i} \rVert^2 + \lambda \sum_{\{i, j\} \in E} [a_i \ne a_j]

    where lambda, the coherence, is what an edge between two clusters costs (0: plain k-means, and every row belongs to
    its nearest centroid). Rows choose in turn, given their neighbours, until none changes (iterated conditional
    modes), then centroids become means: neither ever increases the sum.

    With ``assignment="sinkhorn"`` a row has a share :math:`Q_{ik}` in each cluster and all clusters of a segment are
    equally large; the terms are :math:`\sum Q_{ik} \lVert x_i - c_k \rVert^2 + \tau \sum Q_{ik} \log Q_{ik}` and, for
    the edges, :math:`\lambda \sum (2 - \lVert Q_i + Q_j \rVert^2 / 2)`, which for shares of 0 and 1 is the same
    count and is concave, so that following its slope never increases the sum. The row's cluster is its largest share.

    Parameters
    ----------
    x : Tensor
        (N, D) rows; computed in float32 on the CPU.
    segment : Tensor
        (N,) int64, segment (slide) of each row, in ``0 .. num_segments - 1``; any order.
    k : int
        Clusters of each segment.
    num_segments : int, optional
        Number S of segments; by default up to the last that has rows.
    iterations : int
        Largest number of times that centroids move; fewer when nothing changes any more.
    restarts : int
        Number of starts; that with the smallest objective is kept, of equal ones the first.
    seed : int
        Of the starts: rows drawn one after another with a probability proportional to the squared distance to
        those drawn (k-means++).
    start : Tensor, optional
        (S, k, D) centroids from which the first restart begins, such as those of an earlier epoch; with
        ``restarts=1`` the only one.
    minimum : int
        Segments with fewer rows are ignored.
    assignment : str
        "hard" or "sinkhorn" (soft and balanced, see `balanced_assignment`).
    temperature : float
        tau of "sinkhorn", in squared units of `x`.
    edge_index : Tensor, optional
        (2, E) int64 pairs of neighbouring rows of one segment; in one direction or both, each pair counts once.
    coherence : float
        lambda, in squared units of `x`; needs `edge_index`.

    Returns
    -------
    KMeans
        On the device of `x`. A cluster that loses its rows takes the row that is farthest from its centroid (less what
        its edges then cost), among rows of clusters that keep another. Where there are fewer different rows than
        clusters, the clusters in excess repeat rows in turn, and no row is assigned to them.

    Raises
    ------
    ValueError
        If an argument is out of range, not finite, or shapes do not fit; if an edge joins two segments.

    References
    ----------
    Lloyd, "Least squares quantization in PCM", 1982. Arthur and Vassilvitskii, "k-means++", SODA 2007.
    Besag, "On the statistical analysis of dirty pictures", 1986 (iterated conditional modes).

    Examples
    --------
    >>> x = torch.tensor([[0.0], [5.0], [1.0], [6.0], [9.0]])
    >>> found = segment_kmeans(x, torch.tensor([0, 0, 0, 0, 1]), k=2, minimum=2)
    >>> found.centroid[0].flatten().sort().values
    tensor([0.5000, 5.5000])
    >>> bool(found.assignment[0] == found.assignment[2]), found.assignment[4].item(), found.valid.tolist()
    (True, -1, [True, False])
    """
    segments = _check(x, segment, k, num_segments, iterations, restarts, minimum, assignment, temperature)
    _check_start(start, (segments, k, x.shape[1]))
    rows = x.detach().to("cpu", torch.float32).contiguous().numpy() + np.float32(0)  # no -0, for the keys
    if not np.isfinite(rows).all():
        raise ValueError(
            "x must be finite in float32; found nan or inf, look at the network that made the rows"
        )
    of = segment.detach().cpu().numpy()
    key = row_keys(rows.view(np.uint32))
    order = np.lexsort((key, of))
    pointer = np.concatenate([[0], np.bincount(of, minlength=segments).cumsum()]).astype(np.int64)
    begin, near = _neighbours(edge_index, coherence, of, order)
    tau = float(temperature) if assignment == "sinkhorn" else 0.0
    task = Task(
        order, pointer, key, begin, near, float(coherence), tau, iterations, restarts, minimum,
        np.uint64(seed % 2**64),
    )  # fmt: skip
    first = np.empty((0, k, rows.shape[1]), np.float32)
    if start is not None:
        first = start.detach().to("cpu", torch.float32).contiguous().numpy()
    centroid = np.zeros((segments, k, rows.shape[1]), np.float32)
    cluster = np.full(len(rows), -1)
    scores = np.zeros((2, segments))

    def job(low: int, high: int) -> None:
        cluster_segments(low, high, rows, first, task, centroid, cluster, scores)

    in_threads(job, segments, _PARTS)
    inertia, objective = torch.from_numpy(scores).to(x.device)
    valid = torch.from_numpy(np.diff(pointer) >= minimum).to(x.device)
    means, own = torch.from_numpy(centroid).to(x.device), torch.from_numpy(cluster).to(x.device)
    return KMeans(means, own, inertia, valid, objective)


def prototypes(clusters: KMeans) -> Tensor:
    """Give the centroids unit length.

    Parameters
    ----------
    clusters : KMeans
        What `segment_kmeans` found.

    Returns
    -------
    Tensor
        (S, k, D) float32 unit rows; 0 in ignored segments, and for a centroid at the origin, which has no direction.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 0.0]])
    >>> prototypes(segment_kmeans(x, torch.tensor([0, 0, 1]), k=1, minimum=2))
    tensor([[[0.6000, 0.8000]],
            [[0.0000, 0.0000]]])
    """
    return normalize(clusters.centroid, dim=-1)


def _check(
    x: Tensor,
    segment: Tensor,
    k: int,
    num_segments: int | None,
    iterations: int,
    restarts: int,
    minimum: int,
    assignment: str,
    temperature: float,
) -> int:
    """Refuse what cannot be clustered, or give the number of segments."""
    if x.dim() != 2 or x.shape[1] < 1 or not x.is_floating_point():
        raise ValueError(f"x must be (N, D) floating point rows; found {tuple(x.shape)} of {x.dtype}")
    if segment.shape != (len(x),) or segment.dtype != torch.int64:
        raise ValueError(
            f"segment must be int64 of shape ({len(x)},), one for each row of x; "
            f"found {tuple(segment.shape)} of {segment.dtype}"
        )
    least = int(segment.max()) + 1 if len(segment) else 0
    segments = least if num_segments is None else num_segments
    check_bounds(
        (
            ("k", k >= 1, "at least 1"),
            ("num_segments", segments >= least, f"at least {least}, one more than the largest segment"),
            ("iterations", iterations >= 1, "at least 1"),
            ("restarts", restarts >= 1, "at least 1"),
            ("minimum", minimum >= 1, "at least 1"),
            ("assignment", assignment in ("hard", "sinkhorn"), "'hard' or 'sinkhorn'"),
            ("temperature", temperature > 0, "above 0"),
        ),
        locals(),
    )
    if len(segment) and int(segment.min()) < 0:
        raise ValueError(f"segment must be 0 or more; found {int(segment.min())}")
    return segments


def _check_start(start: Tensor | None, shape: tuple[int, int, int]) -> None:
    if start is not None and (start.shape != shape or not bool(start.isfinite().all())):
        raise ValueError(f"start must be finite centroids of shape {shape}; found {tuple(start.shape)}")


def _neighbours(edge_index: Tensor | None, coherence: float, of: Ints, order: Ints) -> tuple[Ints, Ints]:
    """List the neighbours of each row by its place in `order`: (N + 1,) pointers, and places."""
    if coherence < 0 or (coherence > 0 and edge_index is None):
        raise ValueError(
            f"coherence must be 0 or more, and above 0 edge_index is needed to say which rows are neighbours; "
            f"found {coherence} and edge_index={None if edge_index is None else tuple(edge_index.shape)}"
        )
    n = len(of)
    if edge_index is None:
        return np.zeros(n + 1, np.int64), np.empty(0, np.int64)
    ends = edge_index.detach().cpu().numpy()
    if ends.ndim != 2 or len(ends) != 2 or ends.dtype != np.int64:
        raise ValueError(f"edge_index must be (2, E) int64; found {ends.shape} of {ends.dtype}")
    if ends.size and (ends.min() < 0 or ends.max() >= n):
        raise ValueError(
            f"edge_index must name rows of x, 0 to {n - 1}; found {int(ends.min())} to {int(ends.max())}"
        )
    if (of[ends[0]] != of[ends[1]]).any():
        raise ValueError(
            "edge_index must join rows of one segment; found an edge between two, leave such edges out"
        )
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    one, two = place[ends[:, ends[0] != ends[1]]]
    code = np.unique(np.concatenate([one * n + two, two * n + one]))
    begin = np.concatenate([[0], np.bincount(code // max(n, 1), minlength=n).cumsum()])
    return begin.astype(np.int64), code % max(n, 1)
