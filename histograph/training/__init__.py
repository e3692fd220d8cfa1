"""Training: `pretrain`, `finetune`, `embed`, `by_slide`, `add_latents`, image patches, `train_nuclei`."""

from .embed import Embeddings, embed
from .finetune import finetune
from .finetuned import FineTuned
from .latents import add_latents
from .nuclei import train_nuclei
from .nucleus_crops import NucleusCrops
from .nucleus_looks import Looks
from .patches import PatchDataset
from .pretrain import pretrain
from .slides import by_slide

__all__ = [
    "Embeddings",
    "FineTuned",
    "Looks",
    "NucleusCrops",
    "PatchDataset",
    "add_latents",
    "by_slide",
    "embed",
    "finetune",
    "pretrain",
    "train_nuclei",
]
