"""Open a slide, read regions by micrometres, find its tissue, cut it into tiles."""

from .open import SLIDE_SUFFIXES, open_slide
from .slide import Slide
from .tiles import Tile, TileGrid
from .tissue import TissueMask, tissue_mask

__all__ = ["SLIDE_SUFFIXES", "Slide", "Tile", "TileGrid", "TissueMask", "open_slide", "tissue_mask"]
