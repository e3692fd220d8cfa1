"""Features of entities: shape, colour, stain and texture, crops around centres, and patch encoders."""

from .crops import crops, iter_crops
from .encoder import PatchEncoder, embed_entities
from .entity import entity_features
from .regions import GROUPS, feature_names, region_features
from .table import FeatureTable

__all__ = [
    "GROUPS",
    "FeatureTable",
    "PatchEncoder",
    "crops",
    "embed_entities",
    "entity_features",
    "feature_names",
    "iter_crops",
    "region_features",
]
