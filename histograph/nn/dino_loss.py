"""The loss of DINO: each crop's student must say what the centred teacher says of the other global views."""

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
        with torch.no_grad():
            log_p = ((teacher.float() - self.center) / temperature).log_softmax(-1)
            p = log_p.exp().view(views, -1, log_p.shape[1])
            entropy = -(log_p.mul_(p.view_as(log_p))).sum(-1).mean()
        z = (student.float() / self.student_temperature).view(crops, -1, student.shape[1])
        # the sum over pairs, read crop by crop: its normaliser as often as it is paired, and what it is paired with
        times = torch.full((crops, 1), views, dtype=z.dtype, device=z.device)
        times[:views] -= 1
        agreement = torch.einsum("ubk,vbk->buv", p, z)
        paired = torch.ones_like(agreement[0])
        paired.fill_diagonal_(0)
        total = (times * z.logsumexp(-1)).sum() - (paired * agreement).sum()
        return total / (z.shape[1] * (views * crops - views)), entropy

    @torch.no_grad()
    def update(self, teacher: Tensor) -> None:
        r"""Move the centre towards the teacher's mean over all processes, :math:`c \leftarrow m c + (1 - m) \bar g`.

        Parameters
        ----------
        teacher : Tensor
            (R, K) rows of a step, or a single row that is their mean; as many in every process.
        """
        mean = teacher.float().mean(0, keepdim=True)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_momentum)

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
