"""Training a method and using it: :func:`pretrain`, :func:`embed`, :func:`add_latents`, and data of image patches."""

from .embed import Embeddings, embed
from .latents import add_latents
from .patches import PatchDataset
from .pretrain import pretrain

__all__ = ["Embeddings", "PatchDataset", "add_latents", "embed", "pretrain"]
