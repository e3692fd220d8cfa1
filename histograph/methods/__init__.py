"""Self-supervised methods: one readable file each, all with the contract of :class:`Method`."""

from .base import Embedding, Graphs, Method, Patches, load_method
from .entity_autoencoder import EntityAutoencoder
from .hmgdm import HMGDM
from .hmgdm_attention import attention_read
from .hmgdm_checkpoint import load_released, to_released
from .hmgdm_sampling import HiddenRows, HiddenSample, restore_hidden, sample_hidden

__all__ = [
    "HMGDM",
    "Embedding",
    "EntityAutoencoder",
    "Graphs",
    "HiddenRows",
    "HiddenSample",
    "Method",
    "Patches",
    "attention_read",
    "load_method",
    "load_released",
    "restore_hidden",
    "sample_hidden",
    "to_released",
]
