"""Compiled loops on several threads at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_threads(job: Callable[[int, int], None], count: int, parts: int = 1) -> None:
    """Call job(low, high) on consecutive parts of ``0 .. count - 1``, with as many threads as torch uses.

    Parameters
    ----------
    job : callable
        Must release the global lock to gain anything, and write only what belongs to its part.
    count : int
        Number of items.
    parts : int
        Parts for each thread; several, where items differ in what they cost.

    Examples
    --------
    >>> squares = [0] * 5
    >>> def job(low, high):
    ...     squares[low:high] = [i * i for i in range(low, high)]
    >>> in_threads(job, 5)
    >>> squares
    [0, 1, 4, 9, 16]
    """
    workers = torch.get_num_threads()
    if workers == 1 or count < 2:
        job(0, count)
        return
    parts = min(workers * parts, count)
    cuts = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(job, cuts[:-1], cuts[1:]))
