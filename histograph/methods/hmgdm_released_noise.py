"""What the released H-MGDM does before its network runs: rotate, hide, draw times, add noise."""

import torch
from torch import Tensor

from ..nn import segment_mean


def rotary_frequencies(dim: int, theta: float = 1000.0) -> Tensor:
    """Give the angle per row of each pair of columns, ``theta^(-2k / dim)``.

    Parameters
    ----------
    dim : int
        Number of columns, even.
    theta : float
        Base.

    Returns
    -------
    Tensor
        (dim / 2,) float32.

    Examples
    --------
    >>> rotary_frequencies(4, theta=100.0)
    tensor([1.0000, 0.1000])
    """
    return 1 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def rotary_code(values: Tensor, batch: Tensor, num_graphs: int, theta: float = 1000.0) -> Tensor:
    """Rotate the pairs of columns (2k, 2k+1) of row m of its graph by the angle ``m theta^(-2k / F)``.

    Parameters
    ----------
    values : Tensor
        (N, F) rows, F even.
    batch : Tensor
        (N,) int64 ascending, the graph of each row; a row's number m is its place among the rows of its graph.
    num_graphs : int
        Number of graphs.
    theta : float
        Base of the frequencies.

    Returns
    -------
    Tensor
        (N, F).

    References
    ----------
    Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021.

    Examples
    --------
    >>> import torch
    >>> rotary_code(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]), 2)
    tensor([[1.0000, 0.0000],
            [0.5403, 0.8415],
            [1.0000, 0.0000]])
    """
    count = torch.bincount(batch, minlength=num_graphs)
    place = torch.arange(batch.numel(), device=batch.device) - (count.cumsum(0) - count)[batch]
    angle = place.float().unsqueeze(1) * rotary_frequencies(values.shape[1], theta).to(values.device)
    cos, sin = (part.to(values.dtype) for part in (angle.cos(), angle.sin()))
    even, odd = values[:, 0::2], values[:, 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=2).flatten(1)


def first_of(permutation: Tensor, ratio: float) -> Tensor:
    """Mark the first ``floor(ratio * n)`` entries of a permutation of n rows: the hidden rows of a batch.

    Parameters
    ----------
    permutation : Tensor
        (N,) int64.
    ratio : float
        Share in [0, 1).

    Returns
    -------
    Tensor
        (N,) bool.

    Examples
    --------
    >>> import torch
    >>> first_of(torch.tensor([3, 1, 0, 2]), 0.6)
    tensor([False,  True, False,  True])
    """
    hidden = torch.zeros_like(permutation, dtype=torch.bool)
    hidden[permutation[: int(ratio * permutation.numel())]] = True
    return hidden


def paired_times(first: int, num_graphs: int, timesteps: int, device: torch.device | str = "cpu") -> Tensor:
    """Give the first ``G // 2 + 1`` graphs one time t and the others ``T - 1 - t``.

    Parameters
    ----------
    first : int
        The time t.
    num_graphs : int
        Number of graphs G.
    timesteps : int
        Number of noise levels T.
    device : torch.device or str
        Where the result lies.

    Returns
    -------
    Tensor
        (G,) int64.

    Examples
    --------
    >>> paired_times(300, 3, 1000)
    tensor([300, 300, 699])
    """
    time = torch.full((num_graphs // 2 + 1,), first, dtype=torch.long, device=device)
    return torch.cat([time, timesteps - 1 - time])[:num_graphs]


def noisy_rows(clean: Tensor, eps: Tensor, kept: Tensor) -> Tensor:
    """Mix rows with noise, ``sqrt(abar) a + sqrt(1 - abar) eps``; rows whose noise is 0 only shrink.

    Parameters
    ----------
    clean, eps : Tensor
        (N, F) attributes and noise.
    kept : Tensor
        (N,) share ``abar`` of the signal at the time of each row.

    Returns
    -------
    Tensor
        (N, F).

    Examples
    --------
    >>> import torch
    >>> noisy_rows(torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([0.36]))
    tensor([[0.6000, 1.4000]])
    """
    kept = kept.unsqueeze(1)
    return kept.sqrt() * clean + (1 - kept).sqrt() * eps


def noisy_positions(pos: Tensor, eps: Tensor, kept: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Move positions, ``p / 256 + (eps - mean of the graph) sqrt((1 - abar) / abar)``.

    The released code moves the visible nodes (``eps`` is 0 on hidden ones), and no later step reads the result.

    Parameters
    ----------
    pos : Tensor
        (N, 2) in pixels of a patch of 256.
    eps : Tensor
        (N, 2) noise.
    kept : Tensor
        (N,) share ``abar`` of the signal.
    batch : Tensor
        (N,) int64, the graph of each node.
    num_graphs : int
        Number of graphs.

    Returns
    -------
    Tensor
        (N, 2).

    Examples
    --------
    >>> import torch
    >>> eps = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> noisy_positions(torch.full((2, 2), 256.0), eps, torch.full((2,), 0.5), torch.zeros(2).long(), 1)
    tensor([[1.5000, 1.0000],
            [0.5000, 1.0000]])
    """
    centred = eps - segment_mean(eps, batch, num_graphs)[batch]
    return pos / 256 + centred * ((1 - kept) / kept).sqrt().unsqueeze(1)
