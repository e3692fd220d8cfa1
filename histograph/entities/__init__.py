"""From pixels to labelled shapes: cells, tissue, patches and regions."""

from .entities import Entities, from_instance_map
from .grid import patches, regions
from .masks import Masks
from .nuclei import nuclei
from .nuclei_tile import NucleusSettings
from .superpixels import superpixels

__all__ = [
    "Entities",
    "Masks",
    "NucleusSettings",
    "from_instance_map",
    "nuclei",
    "patches",
    "regions",
    "superpixels",
]
