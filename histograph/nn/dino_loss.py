"""The loss of DINO: each crop's student must say what the centred teacher says of the other global views."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class DINOLoss(nn.Module):
    r"""Cross-entropy between teacher and student over all pairs of different views, and the centre of the teacher.

    With teacher rows g of U global views, student rows z of V crops of which the first U are the same views, and c
    the centre,

    .. math::

        p_u = \mathrm{softmax}((g_u - c) / \tau_t), \quad
        L = \frac{1}{U V - U} \sum_{u} \sum_{v \ne u} \mathrm{mean}_B \Bigl(
            \log \sum_k e^{z_{vk} / \tau_s} - p_u \cdot z_v / \tau_s \Bigr)

    which is :math:`-p_u \cdot \log \mathrm{softmax}(z_v / \tau_s)`, with one normaliser for each crop instead of one
    for each pair. The minimum is the teacher's entropy, not 0.

    Parameters
    ----------
    out_dim : int
        Number K of prototypes.
    student_temperature : float
        tau_s.
    center_momentum : float
        How much of the centre stays at an update.

    Attributes
    ----------
    center : Tensor
        (1, K) buffer, 0 at the start.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, equations 1, 3 and 4.

    Examples
    --------
    >>> loss = DINOLoss(4)
    >>> student, teacher = torch.zeros(3 * 5, 4), torch.zeros(2 * 5, 4)  # 3 crops of 5 images, 2 of them global
    >>> [round(float(value), 4) for value in loss(student, teacher, views=2)]  # both are log 4
    [1.3863, 1.3863]
    """

    center: Tensor

    def __init__(self, out_dim: int, student_temperature: float = 0.1, center_momentum: float = 0.9) -> None:
        super().__init__()
        for name, fine, expected, found in (
            ("out_dim", out_dim >= 1, "at least 1", out_dim),
            ("student_temperature", student_temperature > 0, "above 0", student_temperature),
            ("center_momentum", 0 <= center_momentum <= 1, "from 0 to 1", center_momentum),
        ):
            if not fine:
                raise ValueError(f"{name} must be {expected}; found {found}")
        self.student_temperature, self.center_momentum = student_temperature, center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))

    def forward(
        self, student: Tensor, teacher: Tensor, views: int = 2, temperature: float = 0.04
    ) -> tuple[Tensor, Tensor]:
        """Compare all pairs; the centre is read and not changed.

        Parameters
        ----------
        student : Tensor
            (V · B, K), crop after crop, the `views` global ones first.
        teacher : Tensor
            (views · B, K), in the same order; no gradient goes back.
        views : int
            Number U of global views.
        temperature : float
            tau_t.

        Returns
        -------
        loss, entropy : Tensor
            Scalars: the loss, and the mean entropy of the teacher's rows (detached), which it cannot go below.

        Raises
        ------
        ValueError
            If the shapes do not fit or there is no pair.
        """
        crops = self._count(student, teacher, views)
        p, entropy = self.targets(teacher, temperature)
        pairs = cross_entropies(p.view(views, -1, p.shape[1]), student, self.student_temperature)
        paired = pairs.new_ones(views, crops).fill_diagonal_(0)
        return (paired * pairs.mean(2)).sum() / (views * crops - views), entropy

    @torch.no_grad()
    def targets(
        self, teacher: Tensor, temperature: float = 0.04, center: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Give the distributions that the student is to give.

        Parameters
        ----------
        teacher : Tensor
            (R, K) rows.
        temperature : float
            tau_t.
        center : Tensor, optional
            (1, K) to be taken off in place of the own one.

        Returns
        -------
        p, entropy : Tensor
            (R, K) float32 distributions, and the mean of their entropies.
        """
        center = self.center if center is None else center
        log_p = ((teacher.float() - center.float()) / temperature).log_softmax(-1)
        p = log_p.exp()
        return p, -(log_p.mul_(p)).sum(-1).mean()

    @torch.no_grad()
    def moved(self, teacher: Tensor, count: int | None = None) -> Tensor:
        r"""Give the centre after a step, :math:`m c + (1 - m) \bar g`, with the mean over the rows of all processes.

        Parameters
        ----------
        teacher : Tensor
            (R, K) rows of a step in this process, or a single row that is their mean.
        count : int, optional
            Number of rows that the mean stands for, R by default; 0 for none, when `teacher` is not read. It may
            differ among processes.

        Returns
        -------
        Tensor
            (1, K); the centre as it is where no process has a row.
        """
        count = len(teacher) if count is None else count
        mean = teacher.float().mean(0, keepdim=True) if count else torch.zeros_like(self.center)
        if dist.is_available() and dist.is_initialized():
            total = torch.cat([mean * count, mean.new_full((1, 1), count)], dim=1)
            dist.all_reduce(total)
            count = int(total[0, -1])
            mean = total[:, :-1] / max(count, 1)
        if count == 0:
            return self.center.clone()
        return self.center.lerp(mean.to(self.center.dtype), 1 - self.center_momentum)

    @torch.no_grad()
    def update(self, teacher: Tensor, count: int | None = None) -> None:
        """Move the centre as :meth:`moved` says.

        Parameters
        ----------
        teacher, count
            Of :meth:`moved`.
        """
        self.center.copy_(self.moved(teacher, count))

    def _count(self, student: Tensor, teacher: Tensor, views: int) -> int:
        """Give the number of crops, or say what does not fit."""
        width = self.center.shape[1]
        if student.dim() != 2 or teacher.dim() != 2 or {student.shape[1], teacher.shape[1]} != {width}:
            raise ValueError(
                f"student and teacher must have {width} columns (out_dim), "
                f"found {tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        rows = len(teacher) // views if views >= 1 else 0
        if rows == 0 or len(teacher) % views or len(student) % rows or len(student) < len(teacher):
            raise ValueError(
                "student must have B rows for each crop and teacher B for each of "
                f"{views} global views, found {len(student)} and {len(teacher)} rows"
            )
        if len(student) == rows:
            raise ValueError("student must hold at least two crops to be paired, found one")
        return len(student) // rows


def cross_entropies(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    r"""Compare every target of an item with every view of it, in one pass over what the student says.

    .. math::

        H_{tvb} = \log \sum_k e^{z_{vbk} / \tau} - p_{tb} \cdot z_{vb} / \tau = - p_{tb} \cdot \log q_{vb}

    with one normaliser for each row of the student instead of one for each pair.

    Parameters
    ----------
    target : Tensor
        (T, B, K) distributions p.
    student : Tensor
        (V · B, K) rows z, view after view.
    temperature : float
        tau.

    Returns
    -------
    Tensor
        (T, V, B); losses are means over some of it.

    Examples
    --------
    >>> target = torch.full((2, 3, 4), 0.25)
    >>> cross_entropies(target, torch.zeros(5 * 3, 4), 0.1).shape
    torch.Size([2, 5, 3])
    """
    return _CrossEntropies.apply(target, student.float().view(-1, *target.shape[1:]), temperature)


class _CrossEntropies(torch.autograd.Function):
    r"""What :func:`cross_entropies` gives, with few passes over tables as wide as there are prototypes.

    With q the student's distribution and h the gradients of H,
    :math:`\partial L / \partial z_{vb} = \sum_t h_{tvb} (q_{vb} - p_{tb}) / \tau`.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, z: Tensor, temperature: float) -> Tensor:
        top = z.amax(-1, keepdim=True) / temperature
        q = torch.add(-top, z, alpha=1 / temperature).exp_()
        total = q.sum(-1, keepdim=True)
        with torch.autocast(z.device.type, enabled=False):
            said = target.transpose(0, 1) @ z.permute(1, 2, 0)  # (B, T, V)
        ctx.save_for_backward(target, z, q, total)
        ctx.temperature = temperature
        return (top + total.log()).squeeze(-1) - said.permute(1, 2, 0) / temperature

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        target, z, q, total = ctx.saved_tensors
        h = gradients[0] / ctx.temperature
        grad_target = grad_z = None
        if ctx.needs_input_grad[0]:
            grad_target = -torch.einsum("tvb,vbk->tbk", h, z)
        if ctx.needs_input_grad[1]:
            grad_z = q * (h.sum(0)[..., None] / total)
            for p, weight in zip(target, h, strict=True):
                grad_z.addcmul_(p, weight[..., None], value=-1)
        return grad_target, grad_z, None
