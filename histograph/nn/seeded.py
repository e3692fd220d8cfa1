"""Random numbers that depend on a seed alone, for code that draws from torch's default generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's default generator for a while; afterwards it goes on as if nothing had been drawn.

    Parameters
    ----------
    seed : int
        Any integer.
    device : torch.device or str
        Where numbers will be drawn, beside the CPU.

    Yields
    ------
    None
        While the seed holds.

    Examples
    --------
    >>> import torch
    >>> state = torch.get_rng_state()
    >>> with seeded(3):
    ...     first = torch.rand(2)
    >>> with seeded(3):
    ...     print(torch.equal(first, torch.rand(2)))
    True
    >>> torch.equal(state, torch.get_rng_state())
    True
    """
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
