"""Training a method and using it: `pretrain`, `finetune`, `embed`, `add_latents`, and data of image patches."""

from .embed import Embeddings, embed
from .finetune import finetune
from .finetuned import FineTuned
from .latents import add_latents
from .patches import PatchDataset
from .pretrain import pretrain

__all__ = ["Embeddings", "FineTuned", "PatchDataset", "add_latents", "embed", "finetune", "pretrain"]
