"""`train_nuclei`: train a StarDist network on labelled images, without TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from histograph.entities.stardist_files import StarDistModel, save_stardist
from histograph.methods import Method
from histograph.nn.follow import follow
from histograph.nn.seeded import seeded
from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_loss import stardist_loss
from histograph.nn.stardist_net import StarDistNet

from .checkpoint import remove_checkpoint
from .loop import Conduct, Settings, make_fabric, train, writable_folder
from .nucleus_crops import NucleusBatch, NucleusCrops

FILE = "stardist.safetensors"
# How much of the running mean of the weights is kept at a step, once there were enough steps.
_KEEP = 0.999


def train_nuclei(
    crops: NucleusCrops,
    network: StarDistConfig | StarDistModel | None = None,
    epochs: int = 40,
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 4,
    lr: float = 3e-4,
    weight_decay: float = 0.01,
    warmup: float = 0.02,
    gradient_clip: float = 5.0,
    seed: int = 0,
    resume: bool = True,
    name: str = "stardist",
    prob_thresh: float = 0.5,
    nms_thresh: float = 0.4,
    card: dict[str, Any] | None = None,
    accelerator: str = "auto",
    precision: Any = "32-true",
    num_workers: int = 0,
    progress: bool = True,
) -> tuple[StarDistModel, pd.DataFrame]:
    """Train a StarDist network on crops of labelled images.

    The loss is StarDist's (see `stardist_loss`); the course of the learning rate, seeds and resuming are those of
    `pretrain`. The running mean of the weights is what is returned. Images are read from 0 to 1, not by percentiles:
    what becomes of a nucleus does not depend on the rest of its slide.

    Parameters
    ----------
    crops : NucleusCrops
        Drawn anew in every pass.
    network : StarDistConfig or StarDistModel, optional
        Shape of a new network, or a model that is trained further (in a copy). Default: three channels, grid, rays
        and the rest as `crops` asks for, 24 filters at the first level and 64 before the outputs.
    epochs : int
        Passes of ``len(crops)`` crops.
    out : path, optional
        Folder of the run: ``stardist.safetensors``, ``checkpoint.pt``, ``log.csv``. None writes nothing.
    batch_size : int
        Crops per step.
    lr, weight_decay, warmup, gradient_clip, seed, resume, accelerator, precision, num_workers, progress
        As in `pretrain`; the seed also draws the first weights.
    name, prob_thresh, nms_thresh, card
        Of the model, see `StarDistModel`.

    Returns
    -------
    StarDistModel
        For ``nuclei(slide, segment="stardist-torch", model=...)``.
    pandas.DataFrame
        One row per epoch: ``epoch``, ``step``, mean ``loss``, ``probability`` and ``distance``, ``lr``, ``seconds``.

    Raises
    ------
    ValueError
        If an argument is out of range, or the crops do not fit the network.
    ImportError
        If the stardist package, which measures the targets, is missing.
    OSError
        If `out` cannot be written.
    FloatingPointError
        If the loss is not finite.

    References
    ----------
    U. Schmidt, M. Weigert, C. Broaddus, G. Myers, Cell detection with star-convex polygons, MICCAI 2018.
    """
    settings = Settings(epochs, batch_size, lr, weight_decay, warmup, gradient_clip, seed, 1, str(precision))
    config = _config(network, crops)
    folder = None if out is None else writable_folder(Path(out))
    if folder is not None and not resume:
        remove_checkpoint(folder)
    fit = StarDistTraining(config.to_dict(), seed)
    if isinstance(network, StarDistModel):
        fit.begin_with(network.network)
    conduct = Conduct("nuclei", folder, resume, progress, num_workers=num_workers)
    fabric = make_fabric(accelerator, 1, "auto", precision)
    history = fabric.launch(lambda fabric: train(fabric, fit, crops, settings, conduct, NucleusBatch.join))
    model = StarDistModel(
        fit.averaged.cpu().eval(),
        prob_thresh,
        nms_thresh,
        name,
        mpp=crops.model_mpp,
        percentiles=None,
        card=card or {},
    )
    if folder is not None:
        save_stardist(model, folder / FILE)
    return model, pd.DataFrame(history)


class StarDistTraining(Method):
    """A StarDist network, the running mean of its weights, and its loss, as the trainer wants them.

    Parameters
    ----------
    network : dict
        Of ``StarDistConfig.to_dict``.
    seed : int
        Of the first weights.

    Examples
    --------
    >>> small = {"n_channel_in": 3, "n_rays": 4, "unet_n_depth": 1, "unet_n_filter_base": 2, "net_conv_after_unet": 0}
    >>> fit = StarDistTraining(small)
    >>> one = torch.ones(1, 1, 8, 8)
    >>> terms = fit(NucleusBatch(one.expand(1, 3, 8, 8), one, one, one.expand(1, 4, 8, 8)))
    >>> sorted(terms)
    ['distance', 'loss', 'probability']
    """

    def __init__(self, network: dict[str, Any], seed: int = 0) -> None:
        super().__init__({"network": network, "seed": seed})
        config = StarDistConfig.from_dict(network)
        with seeded(seed):
            self.network = StarDistNet(config)
            for part in self.network.modules():
                if isinstance(part, nn.Conv2d):
                    outputs = part in (self.network.prob, self.network.dist, self.network.prob_class)
                    (nn.init.xavier_uniform_ if outputs else nn.init.kaiming_normal_)(part.weight)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = StarDistNet(config).requires_grad_(False)
        self.averaged.load_state_dict(self.network.state_dict())

    def begin_with(self, network: StarDistNet) -> None:
        """Take over the weights of another network."""
        self.network.load_state_dict(network.state_dict())
        self.averaged.load_state_dict(network.state_dict())

    def forward(self, batch: NucleusBatch) -> dict[str, Tensor]:
        """Compute the loss of a batch."""
        image = batch.image.contiguous(memory_format=torch.channels_last)
        logit, dist, _ = self.network.logits(image)
        return stardist_loss(logit.float(), dist.float(), batch.probability, batch.distance, batch.present)

    def after_step(self, step: int) -> None:
        """Move the running mean towards the weights, faster in the beginning."""
        follow(self.averaged, self.network, min(_KEEP, (1 + step) / (10 + step)))


def _config(network: StarDistConfig | StarDistModel | None, crops: NucleusCrops) -> StarDistConfig:
    """Settle the network's shape, and check the crops against it."""
    if network is None:
        config = StarDistConfig(
            n_rays=crops.n_rays, n_channel_in=3, grid=crops.grid, n_filter_base=24, features=64
        )
    else:
        config = network if isinstance(network, StarDistConfig) else network.config
    if config.n_channel_in != 3 or config.n_classes is not None:
        raise ValueError(
            "network: expected one for 3 channels without kinds of nuclei, found n_channel_in "
            f"{config.n_channel_in} and n_classes {config.n_classes}"
        )
    for name in ("grid", "n_rays"):
        if getattr(config, name) != getattr(crops, name):
            raise ValueError(
                f"network: {name} {getattr(config, name)} differs from that of the crops, {getattr(crops, name)}; "
                "make the crops with the network's"
            )
    if any(crops.crop_px % divisor for divisor in config.divisor):
        raise ValueError(
            f"crop_px: expected a multiple of {config.divisor} for this network, found {crops.crop_px}"
        )
    return config
