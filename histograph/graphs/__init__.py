"""From entities to graphs: edges, the schema, building, storing, datasets of graphs, and conversion."""

from .build import build_graph
from .contact import contact_edges
from .convert import to_networkx
from .dataset import GraphDataset
from .delaunay import delaunay_edges
from .example import example_graph
from .graph_file import GraphFile
from .grid import grid_edges
from .knn import knn_edges
from .layer import layer
from .many import build_many
from .morton import morton_order
from .patch_h5 import read_clam, read_patch_features, read_trident
from .patch_many import convert_many
from .patch_write import write_patch_features
from .radius import radius_edges
from .region_dataset import RegionDataset
from .schema import validate
from .store import load, save
from .summary import summary
from .triangulate import triangulate
from .window import crop

__all__ = [
    "GraphDataset",
    "GraphFile",
    "RegionDataset",
    "build_graph",
    "build_many",
    "contact_edges",
    "convert_many",
    "crop",
    "delaunay_edges",
    "example_graph",
    "grid_edges",
    "knn_edges",
    "layer",
    "load",
    "morton_order",
    "radius_edges",
    "read_clam",
    "read_patch_features",
    "read_trident",
    "save",
    "summary",
    "to_networkx",
    "triangulate",
    "validate",
    "write_patch_features",
]
