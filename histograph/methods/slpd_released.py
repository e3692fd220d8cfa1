"""What the released SLPD code does otherwise, behind ``official_compat=True``.

A prototype is treated as if it were a view: what is said of it is not compared with the student's view of the same
number. And what is said of prototypes of the own slide and of others shares one centre, which therefore moves twice in
a step: in between, so that the second loss is read with the first one's mean in it.

Not repeated: batches without prototypes that end in NaN, a centre weighted by counts that are not those of the
processes, and a shared centre that checkpoints forget. These are not part of the method, and change no number of a run
in one process that is not interrupted.
"""

import torch
from torch import Tensor


def all_views(targets: int, views: int, device: torch.device | None = None) -> Tensor:
    """Compare every prototype with every view.

    Parameters
    ----------
    targets, views : int
        Numbers T and V.
    device : torch.device, optional
        Of the result.

    Returns
    -------
    Tensor
        (T, V) float32 ones.

    Examples
    --------
    >>> all_views(1, 3)
    tensor([[1., 1., 1.]])
    """
    return torch.ones(targets, views, device=device)


def released_views(targets: int, views: int, device: torch.device | None = None) -> Tensor:
    """Compare every prototype with all views but the one of its number.

    Parameters
    ----------
    targets, views : int
        Numbers T and V: one prototype of the own slide, or one of each neighbour.
    device : torch.device, optional
        Of the result.

    Returns
    -------
    Tensor
        (T, V) float32 of 0 and 1.

    Examples
    --------
    >>> released_views(2, 3)
    tensor([[0., 1., 1.],
            [1., 0., 1.]])
    """
    return torch.ones(targets, views, device=device).fill_diagonal_(0)
