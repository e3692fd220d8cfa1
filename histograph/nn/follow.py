"""What happens to all tensors of a network at once: a teacher that follows its student, and gradients cut to length.

Both go through torch's operations on lists of tensors: a handful of kernels instead of one or more for each tensor,
and never a wait for a number on the accelerator.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    r"""Move a teacher towards its student, :math:`\theta_t \leftarrow m \theta_t + (1 - m) \theta_s`.

    Parameters are paired in order. Buffers (running statistics of batch norms) are copied.

    Parameters
    ----------
    teacher : Module
        Changed in place.
    student : Module
        Of the same form.
    momentum : float
        1 leaves the teacher, 0 copies the student.

    Raises
    ------
    ValueError
        If the two are of different forms, or `momentum` is not from 0 to 1.

    References
    ----------
    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.

    Examples
    --------
    >>> teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = teacher.weight.data.fill_(0.0), student.weight.data.fill_(1.0)
    >>> follow(teacher, student, 0.75)
    >>> teacher.weight.item()
    0.25
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be from 0 to 1; found {momentum}")
    old: list[Tensor] = list(teacher.parameters())
    new: list[Tensor] = list(student.parameters())
    if [value.shape for value in old] != [value.shape for value in new]:
        raise ValueError(
            f"teacher and student must have parameters of the same shapes; found {len(old)} and {len(new)} tensors"
        )
    if old:
        torch._foreach_lerp_(old, new, 1 - momentum)
    for kept, value in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(value)


@torch.no_grad()
def clip_each(parameters: Iterable[Tensor], limit: float) -> None:
    r"""Shorten the gradient of every tensor by itself, :math:`g \leftarrow g \min(1, c / (\lVert g \rVert + 10^{-6}))`.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over.
    limit : float
        Largest norm c of each gradient; above 0.

    Raises
    ------
    ValueError
        If `limit` is not above 0.

    Examples
    --------
    >>> long, short = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    >>> long.grad, short.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
    >>> clip_each([long, short], 1.0)
    >>> long.grad, short.grad
    (tensor([0.6000, 0.8000]), tensor([0.5000]))
    """
    if not limit > 0:
        raise ValueError(f"limit must be above 0; found {limit}")
    gradients = [value.grad for value in parameters if value.grad is not None]
    if gradients:
        factor = (limit / (torch.stack(torch._foreach_norm(gradients)) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(factor.unbind()))
