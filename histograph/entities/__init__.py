"""From pixels to labelled shapes: cells, tissue, patches and regions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .entities import Entities, from_instance_map
from .grid import patches, regions
from .masks import Masks
from .nuclei import nuclei
from .nuclei_tile import NucleusSettings
from .superpixels import superpixels

if TYPE_CHECKING:
    from .stardist import stardist_nuclei
    from .stardist_files import StarDistModel, load_stardist, save_stardist
    from .stardist_image import stardist_instances

# What needs torch is loaded on first use.
_LAZY = {
    "StarDistModel": "stardist_files",
    "load_stardist": "stardist_files",
    "save_stardist": "stardist_files",
    "stardist_instances": "stardist_image",
    "stardist_nuclei": "stardist",
}

__all__ = [
    "Entities",
    "Masks",
    "NucleusSettings",
    "StarDistModel",
    "from_instance_map",
    "load_stardist",
    "nuclei",
    "patches",
    "regions",
    "save_stardist",
    "stardist_instances",
    "stardist_nuclei",
    "superpixels",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
