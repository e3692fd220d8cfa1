"""Files of other programs in and out: entities and graphs to and from QuPath, HoVer-Net, tables and others."""

from .ann_data import from_anndata, to_anndata
from .ann_entities import entities_from_anndata
from .cellvit import read_cellvit, write_cellvit
from .convert import FORMATS, convert_file, read_entities, write_entities
from .geojson import iter_geojson, read_geojson, to_geojson
from .hovernet import read_hovernet, write_hovernet
from .instance_maps import read_instance_map, write_instance_map
from .spatial_data import from_spatialdata, to_spatialdata
from .star_shapes import read_stardist, star_polygons, write_stardist
from .tables import read_table, write_table

__all__ = [
    "FORMATS",
    "convert_file",
    "entities_from_anndata",
    "from_anndata",
    "from_spatialdata",
    "iter_geojson",
    "read_cellvit",
    "read_entities",
    "read_geojson",
    "read_hovernet",
    "read_instance_map",
    "read_stardist",
    "read_table",
    "star_polygons",
    "to_anndata",
    "to_geojson",
    "to_spatialdata",
    "write_cellvit",
    "write_entities",
    "write_hovernet",
    "write_instance_map",
    "write_stardist",
    "write_table",
]
