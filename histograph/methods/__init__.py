"""Self-supervised methods: one readable file each, all with the contract of :class:`Method`."""

from .base import Embedding, Graphs, Method, Patches, load_method
from .entity_autoencoder import EntityAutoencoder
from .hmgdm import HMGDM
from .hmgdm_attention import attention_read
from .hmgdm_sampling import HiddenRows, HiddenSample, restore_hidden, sample_hidden
from .pama import PAMA
from .pama_attention import AnchorMaps, anchor_maps
from .pama_files import read_released_slide
from .pama_released_classifier import ReleasedPAMAClassifier
from .released import load_released, to_released

__all__ = [
    "HMGDM",
    "PAMA",
    "AnchorMaps",
    "Embedding",
    "EntityAutoencoder",
    "Graphs",
    "HiddenRows",
    "HiddenSample",
    "Method",
    "Patches",
    "ReleasedPAMAClassifier",
    "anchor_maps",
    "attention_read",
    "load_method",
    "load_released",
    "read_released_slide",
    "restore_hidden",
    "sample_hidden",
    "to_released",
]
