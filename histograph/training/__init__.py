"""Training a method and using it: `pretrain`, `finetune`, `embed`, `by_slide`, `add_latents`, and image patches."""

from .embed import Embeddings, embed
from .finetune import finetune
from .finetuned import FineTuned
from .latents import add_latents
from .patches import PatchDataset
from .pretrain import pretrain
from .slides import by_slide

__all__ = [
    "Embeddings",
    "FineTuned",
    "PatchDataset",
    "add_latents",
    "by_slide",
    "embed",
    "finetune",
    "pretrain",
]
