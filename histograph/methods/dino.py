"""DINO: an image patch seen through several crops, and a student that says of each what its teacher says of the others.

*Nodes* are the square tokens of a patch and a class token; *edges* join all pairs of tokens of a crop. *Hidden* is what
lies outside a crop: the student sees two global and several local crops, the teacher the global ones alone. *Predicted*
is the teacher's distribution over learned prototypes, from every other crop. The vector of a patch is the teacher's
class token.

The file reads top to bottom as a step runs: crop, represent, and in `distillation.py` compare and follow.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021; on histology Chen and Krishnan,
"Self-Supervised Vision Transformers Learn Visual Concepts in Histopathology", LMRL workshop, NeurIPS 2021. Where the
released recipe is one for photographs, this takes tissue as it is: it has no up and no left, and its colours vary by
the amounts of stain. Normalisation is part of the method, so that vectors are made with that of the training.
"""

from itertools import groupby
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..nn.bounds import are_numbers, check_bounds
from ..nn.multi_crop import View
from ..nn.vit import VisionTransformer
from .base import Embedding, constructor_arguments, read_image
from .distillation import GLOBAL_VIEWS, SelfDistillation

# Mean and standard deviation of the channels of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The released form's blur of the first global, second global and local crops, and the second's chance to be solarised.
_RELEASED_BLUR, _RELEASED_SOLARISE = (1.0, 0.1, 0.5), 0.2


class DINO(SelfDistillation):
    r"""Self-distillation with no labels, of image patches.

    With q the student's and p the teacher's distribution, over the views v and the global views u,

    .. math::

        L = \frac{1}{|\{u \ne v\}|} \sum_{u \ne v} - p_u \cdot \log q_v, \quad
        p = \mathrm{softmax}((g - c) / \tau_t), \quad q = \mathrm{softmax}(z / \tau_s)

    and after each step :math:`\theta_t \leftarrow m \theta_t + (1 - m) \theta_s`, m rising to 1, and the centre c moves
    towards the mean of g.

    The defaults are the published sizes, ViT-S/16. For a CPU, ``DINO(96, 8, dim=192, depth=6, heads=3, local_size=48,
    local_views=4, out_dim=4096, head_dim=512, bottleneck_dim=128)`` and patches of 96 pixels. As published, train
    with ``pretrain(..., lr=5e-4 * batch / 256, weight_decay=0.04, gradient_clip=3.0, warmup=0.1)``; short runs want a
    lower `momentum`, such as 0.99.

    Parameters
    ----------
    image_size : int
        Side of the global crops in pixels, for which positions are learned.
    patch_size : int
        Side of a token in pixels; divides `image_size` and `local_size`.
    dim, depth, heads, mlp_ratio
        Of the :class:`histograph.nn.VisionTransformer`; dim is the width of the vectors.
    drop_path : float
        Chance that a branch of the student's last block is left out for a crop, rising to it from 0.
    local_size : int
        Side of the local crops in pixels.
    local_views : int
        Number of local crops.
    global_scale, local_scale : (float, float)
        Smallest and largest share of a patch that a global and a local crop show.
    stain : float
        How much the amounts of the stains are jittered: factors in 1 ± stain, shifts in ± stain / 4 of optical density.
    blur : float
        Chance of a Gaussian blur of each crop.
    out_dim : int
        Number of prototypes; fewer than the 65,536 published for small data, such as 4,096.
    head_dim, bottleneck_dim, head_layers : int
        Width of the hidden layers, width at the prototypes and number of layers of the head.
    train_gain : bool
        Whether the lengths of the prototypes are trained; otherwise they stay 1.
    student_temperature, teacher_temperature : float
        Of the two distributions.
    warmup_teacher_temperature : float
        The teacher's in the first epoch.
    temperature_epochs : int
        Epochs in which the teacher's rises to its value; 0 for none.
    center_momentum : float
        How much of the centre stays after a step.
    momentum : float
        How much of the teacher stays after the first step; rises to 1.
    weight_decay_growth : float
        Weight decay at the end over that at the start, which is the trainer's.
    freeze_epochs : int
        First epochs in which the prototypes stay as they are.
    mean, std : (float, float, float)
        Of the colour channels from 0 to 1, taken off and divided by; those of ImageNet by default.
    official_compat : bool
        The released recipe: crops are jittered as photographs (`stain` and `blur` must stay as they are), positions of
        other sizes are interpolated with its offset, and the learning rate starts at 0 and ends at 0.2 % of its peak.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from histograph.methods import Patches
    >>> small = {"out_dim": 32, "head_dim": 16, "bottleneck_dim": 8}
    >>> method = DINO(16, 8, dim=16, depth=2, heads=2, local_size=8, local_views=2, **small)
    >>> patches = Patches(torch.zeros(3, 16, 16, 3, dtype=torch.uint8))
    >>> sorted(method(patches)), method.encode(patches).graph.shape
    (['entropy', 'loss'], torch.Size([3, 16]))
    """

    reads: ClassVar[tuple[str, ...]] = ("image",)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.1,
        local_size: int = 96,
        local_views: int = 8,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        stain: float = 0.2,
        blur: float = 0.5,
        out_dim: int = 65536,
        head_dim: int = 2048,
        bottleneck_dim: int = 256,
        head_layers: int = 3,
        train_gain: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        temperature_epochs: int = 0,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        weight_decay_growth: float = 10.0,
        freeze_epochs: int = 1,
        mean: tuple[float, float, float] = _MEAN,
        std: tuple[float, float, float] = _STD,
        official_compat: bool = False,
    ) -> None:
        config = constructor_arguments(locals())
        _check_arguments(config)

        def backbone(student: bool) -> VisionTransformer:
            return VisionTransformer(
                image_size,
                patch_size,
                dim,
                depth,
                heads,
                mlp_ratio,
                drop_path=drop_path if student else 0.0,
                interpolation_offset=0.1 if official_compat else 0.0,
            )

        super().__init__(config, backbone, dim)
        self.crops = _crops(config)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def views(self, batch: Any) -> tuple[list[Any], list[Any]]:
        """Cut and colour the crops of a batch.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, H, W, 3), of any one size.

        Returns
        -------
        global_views, local_views : list of Tensor
            (B, 3, size, size) normalised, of each crop.

        Raises
        ------
        TypeError, ValueError
            If the batch holds no images of that shape.
        """
        image = self._read(batch)
        crops = [self._normalised(crop(image)) for crop in self.crops]
        return crops[:GLOBAL_VIEWS], crops[GLOBAL_VIEWS:]

    def represent(self, backbone: Any, views: list[Any]) -> Tensor:
        """Give the class tokens of crops, with one pass for each run of crops of one size.

        Parameters
        ----------
        backbone : VisionTransformer
            The student's or the teacher's.
        views : list of Tensor
            (B, 3, size, size) of each crop.

        Returns
        -------
        Tensor
            (crops · B, dim), crop after crop.
        """
        runs = groupby(views, key=lambda view: view.shape[-2:])
        return torch.cat([backbone.pooled(torch.cat(list(run))) for _, run in runs])

    def encode(self, batch: Any) -> Embedding:
        """Embed patches by the teacher's class token, from the whole patch.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, H, W, 3); H and W are multiples of `patch_size`.

        Returns
        -------
        Embedding
            ``graph`` (B, dim), a row a patch; no node vectors, for which there is :meth:`tokens`.
        """
        return Embedding(node=None, graph=self.teacher.backbone.pooled(self.normalise(batch)))

    def tokens(self, batch: Any) -> Tensor:
        """Give the teacher's vectors of all tokens of whole patches.

        Parameters
        ----------
        batch : Patches
            As in :meth:`encode`.

        Returns
        -------
        Tensor
            (B, 1 + H/p · W/p, dim), the class token first, then row after row.
        """
        return self.teacher.backbone(self.normalise(batch))

    def normalise(self, batch: Any) -> Tensor:
        """Give whole patches as the network reads them.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, H, W, 3).

        Returns
        -------
        Tensor
            (B, 3, H, W), to be given to ``teacher.backbone``, also for its attention.

        Raises
        ------
        TypeError, ValueError
            If the batch holds no images of that shape.
        """
        return self._normalised(self._read(batch).permute(0, 3, 1, 2))

    def _normalised(self, unit: Tensor) -> Tensor:
        return ((unit - self.mean) / self.std).to(self.mean.dtype)

    def _read(self, batch: Any) -> Tensor:
        """Take (B, H, W, 3) colours from 0 to 1 out of a batch."""
        image = read_image(batch, "DINO", ", or train graphs with GraphDINO")
        # colours are cut and jittered in single precision at least
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        return image.to(dtype) / 255 if image.dtype == torch.uint8 else image.to(dtype)


def _crops(config: dict[str, Any]) -> list[View]:
    """Say how each crop is made."""
    sizes = [config["image_size"]] * GLOBAL_VIEWS + [config["local_size"]] * config["local_views"]
    scales = [config["global_scale"]] * GLOBAL_VIEWS + [config["local_scale"]] * config["local_views"]
    made = []
    for number, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        span = cast(tuple[float, float], tuple(scale))
        if config["official_compat"]:
            blur = _RELEASED_BLUR[min(number, 2)]
            made.append(View(size, span, "photo", 0.0, blur, _RELEASED_SOLARISE * (number == 1)))
        else:
            made.append(View(size, span, "stain", config["stain"], config["blur"]))
    return made


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    scales = ("global_scale", "local_scale")
    ascending = "two numbers above 0, ascending, at most 1"
    patch = config["patch_size"]
    bounds = [
        ("patch_size", patch >= 1, "at least 1"),
        (
            "local_size",
            config["local_size"] >= patch >= 1 and config["local_size"] % patch == 0,
            f"a multiple of patch_size {patch}",
        ),
        *(
            (name, are_numbers(config[name], 2) and 0 < config[name][0] <= config[name][1] <= 1, ascending)
            for name in scales
        ),
        ("stain", 0 <= config["stain"] < 1, "at least 0 and below 1"),
        ("blur", 0 <= config["blur"] <= 1, "from 0 to 1"),
        ("mean", are_numbers(config["mean"], 3), "three numbers, for red, green and blue"),
        ("std", are_numbers(config["std"], 3) and min(config["std"]) > 0, "three numbers above 0"),
    ]
    check_bounds(bounds, config)
    for name, default in (("stain", 0.2), ("blur", 0.5)):
        if config["official_compat"] and config[name] != default:
            raise ValueError(
                f"{name} must stay {default} with official_compat=True, whose crops are jittered as photographs; "
                f"found {config[name]!r}"
            )
