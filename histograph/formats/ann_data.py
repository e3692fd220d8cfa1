"""Graphs to AnnData and back, under the names that squidpy uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..entities.entities import Entities
from .ann_entities import KEY, add_type_colors, matrix_columns
from .ids import row_ids
from .pixels import LEVEL0
from .tables import type_words

if TYPE_CHECKING:
    from anndata import AnnData
    from torch_geometric.data import Data

    from ..graphs.schema import Graph

__all__ = ["from_anndata", "to_anndata"]


def anndata_module() -> Any:
    """Import anndata, or say how to install it.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise ImportError('AnnData needs the anndata package: pip install "histograph[interop]"') from error
    return anndata


def to_anndata(
    source: Graph | Entities, node_type: str | None = None, library_id: str | None = None
) -> AnnData:
    """Copy one layer of a graph, or entities without edges, to an `anndata.AnnData`.

    Parameters
    ----------
    source : Data, HeteroData or Entities
        What to copy.
    node_type : str, optional
        Which layer of a HeteroData.
    library_id : str, optional
        Key in ``uns["spatial"]``; by default the slide_id.

    Returns
    -------
    anndata.AnnData
        ``X`` and ``var_names`` the features, ``obs_names`` the ids as words, ``obs["type"]`` the types,
        ``obs["area_um2"]``, ``obsm["spatial"]`` and ``obsm["bbox"]`` in micrometres,
        ``obsp["spatial_connectivities"]`` and ``["spatial_distances"]`` the edges and their lengths in µm, further
        edge attributes as ``obsp["spatial_<name>"]``, ``uns["spatial"]`` and ``uns["spatial_neighbors"]`` as squidpy
        expects them, and under ``uns["histograph"]`` what `from_anndata` needs to give the same graph again.

    Raises
    ------
    ImportError
        anndata is not installed.
    ValueError
        The layer is not in the graph.

    Examples
    --------
    >>> from histograph.graphs import example_graph
    >>> try:
    ...     table = to_anndata(example_graph(), "cell")
    ... except ImportError:
    ...     table = None  # pip install "histograph[interop]"
    >>> table is None or table.obsm["spatial"].shape == (60, 2)
    True
    """
    anndata = anndata_module()
    if isinstance(source, Entities):
        if node_type is not None:
            raise ValueError("node_type: is for graphs; entities have one kind")
        return _entities(anndata, source, library_id or "entities")
    from ..graphs.layer import layer
    from .graph_nodes import graph_nodes

    data, nodes = layer(source, node_type), graph_nodes(source, node_type)
    words = [str(i) for i in (data.id if nodes.label is None else nodes.label.tolist())]
    table = anndata.AnnData(
        X=np.ascontiguousarray(data.x.cpu().numpy(), np.float32),
        obs=_obs(words, nodes.columns.get("type"), data.get("label_names"), nodes.area),
        var=_frame(list(data.feature_names)),
    )
    table.obsm["spatial"] = data.pos.cpu().numpy()
    if nodes.bbox is not None:
        table.obsm["bbox"] = data.bbox.cpu().numpy()
    _add_edges(table, data)
    library = library_id or str(data.slide_id)
    _add_facts(table, library, nodes.area)
    provenance = data.get("provenance")
    table.uns[KEY] = {
        "unit": "um",
        "slide_id": str(data.slide_id),
        "mpp": np.asarray(data.mpp, np.float64),
        "node_type": nodes.kind,
        "integer_ids": nodes.label is not None,
        "edge_attr_names": np.array(list(data.edge_attr_names), object),
        "provenance": json.dumps(provenance),
    }
    return table


def _frame(names: list[str]) -> Any:
    import pandas as pd

    return pd.DataFrame(index=pd.Index(names, dtype=object))


def _obs(ids: list[str], types: Any, names: Any, area: Any) -> Any:
    """Rows: ids, types as categories (none where unknown) and areas."""
    import pandas as pd

    obs = _frame(ids)
    if types is not None:
        types = type_words(types)
        names = sorted(set(types.tolist()) - {""}) if names is None else list(names)
        known = {name: number for number, name in enumerate(names)}
        codes = [known.get(name, -1) for name in types.tolist()]
        obs["type"] = pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object))
    if area is not None:
        obs["area_um2"] = area
    return obs


def _add_edges(table: AnnData, data: Data) -> None:
    """Edges as square sparse matrices: one for the structure, one for each attribute."""
    count = len(data.pos)
    source, target = data.edge_index.cpu().numpy()
    order = np.lexsort((target, source))
    start = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=count))]).astype(np.int64)
    columns = target[order]

    def matrix(values: Any) -> Any:
        return sparse.csr_matrix((values, columns, start), shape=(count, count))

    table.obsp["spatial_connectivities"] = matrix(np.ones(len(columns), np.float32))
    values = data.edge_attr.cpu().numpy()[order]
    for k, name in enumerate(data.edge_attr_names):
        key = "distances" if name == "length" else name
        table.obsp[f"spatial_{key}"] = matrix(np.ascontiguousarray(values[:, k]))


def _add_facts(table: AnnData, library: str, area: Any) -> None:
    """Give what squidpy looks for in `uns`."""
    diameter = 1.0 if area is None or not len(area) else float(np.sqrt(4 * np.median(area) / np.pi))
    factors = {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": diameter}
    table.uns["spatial"] = {library: {"images": {}, "scalefactors": factors, "metadata": {"unit": "um"}}}
    if "spatial_connectivities" in table.obsp:
        table.uns["spatial_neighbors"] = {
            "connectivities_key": "spatial_connectivities",
            "distances_key": "spatial_distances",
            "params": {"coord_type": "generic"},
        }


def _entities(anndata: Any, source: Entities, library: str) -> AnnData:
    """Entities as a table: numbers are features, words and what `X` cannot hold exactly go to obs."""
    if "area_um2" in source.columns:
        raise ValueError("columns: 'area_um2' would come twice in the table, for it is the area; rename it")
    values, names = matrix_columns({n: c for n, c in source.columns.items() if n not in ("id", "type")})
    ids = row_ids(source).astype(np.str_).tolist()
    table = anndata.AnnData(
        X=np.zeros((len(source), 0), np.float32) if values is None else values,
        obs=_obs(ids, source.columns.get("type"), None, source.area),
        var=_frame(names),
    )
    for name, column in source.columns.items():
        if name not in ("id", "type") and name not in names:
            column = np.asarray(column)
            table.obs[name] = column.astype(object) if column.dtype.kind == "U" else column
    table.obsm["spatial"], table.obsm["bbox"] = source.centroid, source.bbox
    _add_facts(table, library, source.area)
    add_type_colors(table, source.parameters.get("type_colors", {}))
    kept = {name: np.asarray(column).dtype.str for name, column in source.columns.items() if name != "id"}
    table.uns[KEY] = {
        "unit": "um",
        "node_type": source.kind,
        "integer_ids": "id" not in source.columns,
        "raster_mpp": source.mpp,
        "columns": np.array(list(kept), object),
        "dtypes": np.array(list(kept.values()), object),
    }
    if LEVEL0 in source.parameters:
        pairs = source.parameters[LEVEL0]
        table.uns[KEY][LEVEL0] = {name: np.array(pair, np.float64) for name, pair in pairs.items()}
    return table


def from_anndata(
    table: AnnData,
    mpp: float | tuple[float, float] | None = None,
    unit: str | None = None,
    slide_id: str | None = None,
) -> Data:
    """Make a graph of an AnnData with ``obsm["spatial"]``: squidpy's, or one of `to_anndata`.

    Parameters
    ----------
    table : anndata.AnnData
        Edges are taken from ``obsp["spatial_connectivities"]``, where it has them; those of one direction only, as
        squidpy's nearest neighbours are, get the other too.
    mpp : float or (float, float), optional
        µm per level-0 pixel. Needed unless `to_anndata` made the table of a graph.
    unit : {"um", "px"}, optional
        What ``obsm["spatial"]`` counts in: micrometres or level-0 pixels. Needed unless `to_anndata` made the table,
        for AnnData does not say it.
    slide_id : str, optional
        Name of the slide; by default the one key of ``uns["spatial"]``.

    Returns
    -------
    Data
        A valid graph, rows in the order of the table. ``id`` are the obs_names, as numbers where they came from
        numbers; ``label`` and ``label_names`` come from ``obs["type"]``.

    Raises
    ------
    ImportError
        anndata is not installed.
    ValueError
        There are no positions, their unit or the mpp is not known, or the table gives no valid graph.

    Examples
    --------
    >>> from histograph.graphs import example_graph
    >>> try:
    ...     graph = from_anndata(to_anndata(example_graph(), "cell"))
    ... except ImportError:
    ...     graph = example_graph()["cell"]  # pip install "histograph[interop]"
    >>> graph.pos.shape
    torch.Size([60, 2])
    """
    anndata_module()
    import torch
    from torch_geometric.data import Data

    from ..graphs.schema import validate

    own = dict(table.uns.get(KEY, {}))
    if "spatial" not in table.obsm:
        raise ValueError(f"table: expected positions in obsm['spatial'], found {sorted(table.obsm)}")
    pixel = _level0(own, mpp)
    pos = np.asarray(table.obsm["spatial"], np.float64)
    if pos.ndim != 2 or pos.shape[1] != 2:
        raise ValueError(f"table: obsm['spatial'] must have shape (N, 2), found {pos.shape}")
    pos = pos * (pixel if positions_unit(own, unit) == "px" else 1.0)
    values = table.X.toarray() if sparse.issparse(table.X) else np.asarray(table.X)
    data = Data(
        x=torch.from_numpy(np.ascontiguousarray(values, np.float32)),
        pos=torch.from_numpy(pos.astype(np.float32)),
        id=_ids(table, bool(own.get("integer_ids", False))),
        feature_names=[str(name) for name in table.var_names],
        slide_id=slide_id or own.get("slide_id") or _library(table),
        mpp=(float(pixel[0]), float(pixel[1])),
    )
    if "provenance" in own:
        data.provenance = json.loads(str(own["provenance"]))
    if "type" in table.obs:
        types = table.obs["type"].astype("category").cat
        data.label = torch.from_numpy(np.array(types.codes, np.int64))
        data.label_names = [str(name) for name in types.categories]
    if "area_um2" in table.obs:
        data.area_um2 = torch.from_numpy(table.obs["area_um2"].to_numpy(np.float32).copy())
    if "bbox" in table.obsm:
        data.bbox = torch.from_numpy(np.array(table.obsm["bbox"], np.float32))
    _take_edges(table, data, own)
    validate(data)
    return data


def _level0(own: dict[str, Any], mpp: Any) -> np.ndarray:
    """µm per level-0 pixel, x and y."""
    value = mpp if mpp is not None else own.get("mpp")
    if value is None:
        raise ValueError("mpp: the table does not say how large a level-0 pixel is; give mpp=, in µm")
    return np.broadcast_to(np.asarray(value, np.float64), 2)


def positions_unit(own: dict[str, Any], unit: str | None) -> str:
    """Settle what ``obsm["spatial"]`` counts in.

    Parameters
    ----------
    own : dict
        What `to_anndata` has left in the table.
    unit : {"um", "px"}, optional
        From the caller.

    Returns
    -------
    {"um", "px"}

    Raises
    ------
    ValueError
        It is not known, or the table says otherwise.

    Examples
    --------
    >>> positions_unit({"unit": "um"}, None)
    'um'
    """
    found = unit or own.get("unit")
    if found not in ("um", "px"):
        raise ValueError(
            f"unit: expected 'um' or 'px', found {found!r}; AnnData does not say what obsm['spatial'] is in: give it"
        )
    if unit is not None and own.get("unit") not in (None, unit):
        raise ValueError(
            f"unit: the table says that obsm['spatial'] is in {own['unit']!r}, found {unit!r}; leave it out"
        )
    return str(found)


def _library(table: AnnData) -> str:
    libraries = list(table.uns.get("spatial", {}))
    if len(libraries) != 1:
        raise ValueError(
            f"slide_id: expected one library in uns['spatial'], found {libraries}; give slide_id="
        )
    return str(libraries[0])


def _ids(table: AnnData, whole: bool) -> Any:
    import torch

    names = [str(name) for name in table.obs_names]
    return torch.tensor([int(name) for name in names], dtype=torch.int64) if whole else names


def _take_edges(table: AnnData, data: Data, own: dict[str, Any]) -> None:
    """Edges and their attributes; lengths of others are measured again, in µm."""
    import torch

    from ..graphs.points import edge_attributes

    if "spatial_connectivities" not in table.obsp:
        data.edge_index, data.edge_attr = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 1)
        data.edge_attr_names = ["length"]
        return
    found = sparse.coo_array(table.obsp["spatial_connectivities"])
    if "edge_attr_names" in own:
        ends = sparse.csr_array(found)
        ends.sort_indices()
        source = np.repeat(np.arange(len(data.pos)), np.diff(ends.indptr))
        names = [str(name) for name in own["edge_attr_names"]]
        keys = ["distances" if name == "length" else name for name in names]
        columns = [sparse.csr_array(table.obsp[f"spatial_{key}"]) for key in keys]
        for column in columns:
            column.sort_indices()
        data.edge_index = torch.from_numpy(np.stack([source, ends.indices]).astype(np.int64))
        data.edge_attr = torch.from_numpy(np.stack([c.data for c in columns], axis=1).astype(np.float32))
        data.edge_attr_names = names
        return
    keep = (found.data != 0) & (found.coords[0] != found.coords[1])
    source, target = found.coords[0][keep], found.coords[1][keep]
    both = np.unique(np.stack([np.r_[source, target], np.r_[target, source]]), axis=1).astype(np.int64)
    data.edge_index = torch.from_numpy(np.ascontiguousarray(both))
    data.edge_attr = edge_attributes(data.pos, data.edge_index, ("length",))
    data.edge_attr_names = ["length"]
