"""Self-distillation without labels: a student learns to say what its own slowly following teacher says.

What the nodes are, how views are cut, and what the backbone is, is left to the methods: DINO cuts crops of image
patches, GraphDINO windows of graphs. This file holds the rest: two networks with a head each, the loss and its centre,
what is frozen, how gradients are limited, what changes over a run, and how the teacher follows.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..nn.bounds import check_bounds
from ..nn.dino_head import DINOHead
from ..nn.dino_loss import DINOLoss
from ..nn.follow import clip_each, follow
from ..nn.schedules import cosine_schedule, linear_rise
from .base import Graphs, Method

# Views that the teacher sees, too.
GLOBAL_VIEWS = 2
# Standard deviation of the head's first weights, as released.
_RELEASED_STD = 0.02


class Branch(nn.Module):
    """A backbone and a head, the student or the teacher.

    Parameters
    ----------
    backbone : Module
        Gives a vector for each view.
    head : DINOHead
        Reads these vectors.

    Examples
    --------
    >>> Branch(nn.Identity(), DINOHead(4, 8, 4, 2)).head.mlp[0].in_features
    4
    """

    def __init__(self, backbone: nn.Module, head: DINOHead) -> None:
        super().__init__()
        self.backbone: Any = backbone  # of the kind that the method's `represent` calls
        self.head = head


class SelfDistillation(Method):
    """Student, teacher and their loss; a method adds :meth:`views` and :meth:`represent`.

    Parameters
    ----------
    config : dict
        The method's arguments by name; those of the head, the temperatures and schedules are read here, see
        :class:`histograph.methods.DINO`.
    make_backbone : callable
        Called with True for the student's backbone and False for the teacher's.
    dim : int
        Width of the vectors of the backbone.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from histograph.methods import DINO
    >>> issubclass(DINO, SelfDistillation)
    True
    """

    #: Last learning rate over the peak with `official_compat`: 1e-6 / 5e-4.
    released_end: ClassVar[float] = 0.002

    def __init__(self, config: dict[str, Any], make_backbone: Callable[[bool], nn.Module], dim: int) -> None:
        super().__init__(config)
        _check_arguments(config)
        sizes = {name: config[name] for name in ("out_dim", "bottleneck_dim", "train_gain")}
        sizes |= {"hidden_dim": config["head_dim"], "layers": config["head_layers"]}
        sizes["init_std"] = _RELEASED_STD if config.get("official_compat") else None
        self.student = Branch(make_backbone(True), DINOHead(dim, **sizes))
        self.teacher = Branch(make_backbone(False), DINOHead(dim, **sizes)).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.loss = DINOLoss(config["out_dim"], config["student_temperature"], config["center_momentum"])
        self.epoch, self.momentum = 0, config["momentum"]
        # losses whose centres move after the step: the mean of the rows, and how many they are
        self._pending: list[tuple[DINOLoss, Tensor, int]] = []
        self.train()

    def views(self, batch: Any) -> tuple[list[Any], list[Any]]:
        """Draw the views of a batch: two global ones, which the teacher sees too, and local ones.

        Parameters
        ----------
        batch : Patches or torch_geometric.data.Batch
            Patches or graphs.

        Returns
        -------
        global_views, local_views : list
            As :meth:`represent` reads them.
        """
        raise TypeError(f"{type(self).__name__} must define views(batch)")

    def represent(self, backbone: Any, views: list[Any]) -> Tensor:
        """Give the backbone's vectors of views.

        Parameters
        ----------
        backbone : Module
            The student's or the teacher's.
        views : list
            Of :meth:`views`, V in all.

        Returns
        -------
        Tensor
            (V · B, dim), view after view.
        """
        raise TypeError(f"{type(self).__name__} must define represent(backbone, views)")

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Draw views and compare student and teacher.

        Parameters
        ----------
        batch : Patches or torch_geometric.data.Batch
            Patches or graphs.

        Returns
        -------
        dict of str to Tensor
            ``loss``, and detached ``entropy``, the teacher's: what the loss cannot fall below. It falls to 0 or
            stays at the logarithm of `out_dim` where the training has collapsed.
        """
        return self.distil(*self.views(batch))

    def distil(self, global_views: list[Any], local_views: list[Any]) -> dict[str, Tensor]:
        """Compare what student and teacher say of given views.

        Parameters
        ----------
        global_views, local_views : list
            As of :meth:`views`.

        Returns
        -------
        dict of str to Tensor
            As of :meth:`forward`.
        """
        said = self.student.head(self.represent(self.student.backbone, global_views + local_views))
        with torch.no_grad():
            wanted = self.teacher.head(self.represent(self.teacher.backbone, global_views))
        loss, entropy = self.loss(said, wanted, GLOBAL_VIEWS, self.teacher_temperature)
        if self.training:
            self._pending = [(self.loss, wanted.float().mean(0, keepdim=True), len(wanted))]
        return {"loss": loss, "entropy": entropy}

    @property
    def teacher_temperature(self) -> float:
        """Temperature of the teacher in this epoch."""
        first, last = self.config["warmup_teacher_temperature"], self.config["teacher_temperature"]
        return linear_rise(first, last, self.epoch, self.config["temperature_epochs"])

    def train(self, mode: bool = True) -> "SelfDistillation":
        """Set the mode of the student; the teacher stays in evaluation mode, with nothing dropped.

        Parameters
        ----------
        mode : bool
            Whether to train.

        Returns
        -------
        SelfDistillation
            Itself.
        """
        super().train(mode)
        self.teacher.eval()
        return self

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Remember the epoch, which the temperature and the frozen last layer depend on.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        dataset : sequence of Data, or PatchDataset
            Not read.
        """
        self.epoch = epoch

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Split the student's parameters for the optimiser, which changes each in one pass: there are many prototypes.

        Returns
        -------
        list of dict
            As :meth:`Method.parameter_groups`, with the option ``fused`` of torch's AdamW.
        """
        return [group | {"fused": True} for group in super().parameter_groups()]

    def schedule(self, step: int, total_steps: int, warmup_steps: int) -> dict[str, float]:
        """Let the weight decay rise by a cosine, and find the teacher's momentum.

        Parameters
        ----------
        step, total_steps, warmup_steps : int
            See :meth:`Method.schedule`.

        Returns
        -------
        dict of str to float
            The factor of the weight decay; with `official_compat` that of the learning rate too.
        """
        self.momentum = cosine_schedule(self.config["momentum"], 1.0, step, total_steps)
        factors = {
            "weight_decay": cosine_schedule(1.0, self.config["weight_decay_growth"], step, total_steps)
        }
        if self.config.get("official_compat"):
            factors["lr"] = cosine_schedule(1.0, self.released_end, step, total_steps, warmup_steps)
        return factors

    def limit_gradients(self, limit: float) -> bool:
        """Limit the norm of each tensor's gradient by itself, and freeze the prototypes in the first epochs.

        Parameters
        ----------
        limit : float
            Of each norm; 0 for none.

        Returns
        -------
        bool
            True.
        """
        if self.epoch < self.config["freeze_epochs"]:
            for weight in self.student.head.last_layer.parameters():
                weight.grad = None
        if limit > 0:
            clip_each(self.student.parameters(), limit)
        return True

    def after_step(self, step: int) -> None:
        """Move the teacher towards the student, and centres towards what the teacher said.

        Parameters
        ----------
        step : int
            Number of optimiser steps made so far, from 1.
        """
        follow(self.teacher, self.student, self.momentum)
        for loss, mean, count in self._pending:
            loss.update(mean, count)
        self._pending = []


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    bounds = [
        ("local_views", config["local_views"] >= 0, "at least 0"),
        ("teacher_temperature", config["teacher_temperature"] > 0, "above 0"),
        ("warmup_teacher_temperature", config["warmup_teacher_temperature"] > 0, "above 0"),
        ("temperature_epochs", config["temperature_epochs"] >= 0, "at least 0"),
        ("momentum", 0 <= config["momentum"] <= 1, "from 0 to 1"),
        (
            "weight_decay_growth",
            0 <= config["weight_decay_growth"] < math.inf,
            "a finite number of at least 0",
        ),
        ("freeze_epochs", config["freeze_epochs"] >= 0, "at least 0"),
        ("head_dim", config["head_dim"] >= 1, "at least 1"),
        ("head_layers", config["head_layers"] >= 1, "at least 1"),
    ]
    check_bounds(bounds, config)
