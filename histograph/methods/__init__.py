"""Self-supervised methods: one readable file each, all with the contract of :class:`Method`."""

from .base import Embedding, Method, load_method
from .hmgdm import HMGDM

__all__ = ["HMGDM", "Embedding", "Method", "load_method"]
