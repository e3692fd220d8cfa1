"""Features of entities: shape, colour, stain and texture, crops around centres, patch encoders, and tokens of cells."""

from typing import TYPE_CHECKING, Any

from .cell_tokens import CellTokens, cell_tokens
from .crops import crops, iter_crops
from .encoder import PatchEncoder, embed_entities
from .encoder_file import read_encoder, save_encoder
from .entity import entity_features
from .named import load_encoder
from .regions import GROUPS, feature_names, region_features
from .table import FeatureTable

if TYPE_CHECKING:
    from .codes import TextureCodes

__all__ = [
    "GROUPS",
    "CellTokens",
    "FeatureTable",
    "PatchEncoder",
    "TextureCodes",
    "cell_tokens",
    "crops",
    "embed_entities",
    "entity_features",
    "feature_names",
    "iter_crops",
    "load_encoder",
    "read_encoder",
    "region_features",
    "save_encoder",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name == "TextureCodes":
        from .codes import TextureCodes

        return TextureCodes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
