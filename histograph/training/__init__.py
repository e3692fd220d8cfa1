"""Training a method and using it: :func:`pretrain` and :func:`embed`."""

from .embed import Embeddings, embed
from .pretrain import pretrain

__all__ = ["Embeddings", "embed", "pretrain"]
