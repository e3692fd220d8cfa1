"""Self-supervised methods: one readable file each, all with the contract of :class:`Method`."""

from .base import Embedding, Graphs, Method, Patches, load_method
from .dino import DINO
from .dino_graph import GraphDINO
from .entity_autoencoder import EntityAutoencoder
from .gcmae import GCMAE, Restoration
from .hmgdm import HMGDM
from .hmgdm_attention import attention_read
from .hmgdm_sampling import HiddenRows, HiddenSample, restore_hidden, sample_hidden
from .pama import PAMA
from .pama_attention import AnchorMaps, anchor_maps
from .pama_files import read_released_slide
from .pama_released_classifier import ReleasedPAMAClassifier
from .released import load_released, to_released
from .slpd import SLPD
from .slpd_graph import GraphSLPD
from .vit_weights import VitFacts, load_vit, vit_state_dict

__all__ = [
    "DINO",
    "GCMAE",
    "HMGDM",
    "PAMA",
    "SLPD",
    "AnchorMaps",
    "Embedding",
    "EntityAutoencoder",
    "GraphDINO",
    "GraphSLPD",
    "Graphs",
    "HiddenRows",
    "HiddenSample",
    "Method",
    "Patches",
    "ReleasedPAMAClassifier",
    "Restoration",
    "VitFacts",
    "anchor_maps",
    "attention_read",
    "load_method",
    "load_released",
    "load_vit",
    "read_released_slide",
    "restore_hidden",
    "sample_hidden",
    "to_released",
    "vit_state_dict",
]
