"""Self-supervised methods: one readable file each, all with the contract of :class:`Method`."""

from .base import Embedding, Graphs, Method, load_method
from .hmgdm import HMGDM

__all__ = ["HMGDM", "Embedding", "Graphs", "Method", "load_method"]
