"""From a slide to its graph: find entities, measure them, join them, and record how."""

import inspect
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import HeteroData

from histograph.entities import Entities, from_instance_map
from histograph.features import (
    CellTokens,
    FeatureTable,
    PatchEncoder,
    cell_tokens,
    embed_entities,
    entity_features,
)
from histograph.graphs.delaunay import delaunay_edges
from histograph.graphs.grid import grid_edges
from histograph.graphs.hierarchy import parent_of
from histograph.graphs.knn import knn_edges
from histograph.graphs.order import storage_order
from histograph.graphs.plan import FINDERS, PatchVectors, Plan, make_plan
from histograph.graphs.points import edge_attributes, edges_from_pairs
from histograph.graphs.provenance import parameters, provenance
from histograph.graphs.radius import radius_edges
from histograph.graphs.schema import RELATIONS, validate
from histograph.graphs.touching import touching_pairs
from histograph.slides import Slide, TissueMask, open_slide


def build_graph(
    slide: Slide | str | os.PathLike[str],
    entities: Sequence[str] | Mapping[str, Any] = ("cell", "tissue", "patch"),
    edges: Mapping[Any, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    mask: TissueMask | Literal["auto"] | None = "auto",
    mpp: float | tuple[float, float] | None = None,
    progress: bool = True,
    workers: int = 2,
    encoder: Any = None,
) -> HeteroData:
    """Build the graph of a slide: entities as nodes, neighbourhoods as edges, and who lies in whom.

    Parameters
    ----------
    slide : Slide, str or os.PathLike
        An open slide, or the path of one, which is opened and closed here.
    entities : sequence of str, or mapping
        Names out of ``"cell"``, ``"tissue"``, ``"patch"``, ``"region"``; or a dict from these to options of
        the finder (`nuclei`, `superpixels`, `patches`, `regions`), to ready `Entities`, to an instance map
        on the level-0 pixels, or to ``{"instance_map": (H, W), "mpp": µm per pixel, "origin_um": (x, y)}``.
    edges : mapping, optional
        From a node type, a relation, or a tuple like ``("cell", "touches", "cell")`` to a method with
        options: ``{"method": "delaunay", "max_length_um": 50}`` (the default of cells), ``{"method": "knn",
        "k": 8}``, ``{"method": "radius", "radius_um": 30}``, ``{"method": "contact", "gap_um": 0}`` (the
        default of tissue), ``{"method": "grid", "neighbors": 8}`` (the default of patches and regions).
        ``attributes`` names the edge attributes; the default is length, sin, cos, and contact_um for
        contact. A node type as key replaces its default relation, and may take a list of several; None
        leaves a relation out.
    features : mapping, optional
        From a node type to feature groups out of shape, color, stain, texture (default: all; without shape
        for patches and regions), to ``{"groups": …, "mpp": …}``, to a `PatchEncoder` (crops around the
        centroids), to `histograph.features.CellTokens` (tokens under the masks), or to values: a
        `FeatureTable` or a DataFrame whose index holds the entity labels (joined on them), or an (N, F)
        array, one row an entity in ascending order of label.
    mask : TissueMask, "auto" or None
        Where to look: "auto" finds the tissue, None takes the whole slide.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel, for a path whose file does not say.
    progress : bool
        Show progress bars.
    workers : int
        Threads that read and measure.
    encoder : str, os.PathLike, torch.nn.Module, PatchEncoder or mapping, optional
        What turns patches into vectors, in place of hand-made features: ``"histograph-vit"``,
        ``"hf:owkin/phikon"``, ``"timm:hf-hub:MahmoodLab/UNI"``, and all else that
        `histograph.features.load_encoder` takes; or ``{"encoder": …}`` with its options and with ``batch_size``,
        ``mixed_precision`` ("bf16", "fp16") and ``device``. Each patch is read whole; where the encoder says its
        pixel size, patches must be of a size that fits.

    Returns
    -------
    HeteroData
        As `histograph.graphs.schema` says: nodes in Morton order, edges by source then target, ``id`` the
        label of the entity, ``area_um2`` and ``bbox`` of each, the hierarchy as relations ``in``, and
        ``provenance`` with parameters, versions, tissue area, seconds of each stage and the UTC time.
        Without tissue it is empty and still valid.

    Raises
    ------
    ValueError
        An unknown entity, relation, method, option or feature (the message lists the valid ones), or
        features that lack an entity.
    TypeError
        An argument of a kind that is not understood.

    Examples
    --------
    >>> slide = open_slide(np.full((64, 64, 3), 150, np.uint8), mpp=0.5)
    >>> cells = np.zeros((64, 64), int)
    >>> cells[4:10, 4:10], cells[20:28, 30:40] = 7, 3
    >>> graph = build_graph(slide, {"cell": cells, "patch": {"size_um": 16.0}}, mask=None, progress=False)
    >>> graph["cell"].id, graph["cell", "near", "cell"].num_edges, graph["cell", "in", "patch"].num_edges
    (tensor([7, 3]), 2, 2)
    """
    plan = make_plan(entities, edges, features, encoder)
    described = parameters(plan, mask, mpp)
    if isinstance(slide, Slide):
        if mpp is not None:
            raise ValueError("mpp: an open slide has one already; give it to open_slide, or give a path")
        return _build(slide, plan, mask, described, progress, workers)
    with open_slide(Path(slide), mpp=mpp) as opened:
        return _build(opened, plan, mask, described, progress, workers)


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Write down the time since the last lap."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def _build(
    slide: Slide, plan: Plan, mask: Any, described: dict[str, Any], progress: bool, workers: int
) -> HeteroData:
    """Run a plan on an open slide."""
    clock = _Clock()
    tissue = slide.tissue_mask() if isinstance(mask, str) and mask == "auto" else mask
    clock.lap("mask")
    found: dict[str, Entities] = {}
    for name, how in plan.entities.items():
        found[name] = _find(slide, name, how, tissue, progress, workers)
        clock.lap(f"{name} entities")
    graph, order = HeteroData(), {}
    for name, items in found.items():
        values, names = _measure(slide, name, items, plan.features[name], progress, workers)
        order[name] = _add_nodes(graph, name, items, values, names)
        clock.lap(f"{name} features")
    for key, options in plan.edges.items():
        _add_edges(graph, key, found[key[0]], order[key[0]], dict(options))
        clock.lap(f"{key[0]} {key[1]}")
    for child, relation, parent in RELATIONS:
        if relation == "in" and child in found and parent in found:
            _add_hierarchy(graph, child, parent, found, order)
    clock.lap("hierarchy")
    graph.slide_id, graph.mpp = slide.slide_id, (float(slide.mpp[0]), float(slide.mpp[1]))
    area = None if tissue is None else float(tissue.area_um2)
    finders = {name: items.parameters for name, items in found.items()}
    facts = {"tissue_area_um2": area, "seconds": clock.seconds, "entities": _plain(finders)}
    sources = {
        name: how.encoder.source
        for name, how in plan.features.items()
        if isinstance(how, (PatchVectors, CellTokens))
    }
    facts |= {"encoders": sources} if sources else {}
    graph.provenance = provenance(described, slide, facts)
    graph.provenance["slide"]["offset_px"] = list(slide.offset_px)
    validate(graph)
    return graph


def _plain(value: Any) -> Any:
    """Bring what finders recorded to plain JSON data."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _find(slide: Slide, name: str, how: Any, mask: Any, progress: bool, workers: int) -> Entities:
    """Find the entities of one type, or take those given."""
    if isinstance(how, Entities):
        return _on_slide(how, slide)
    if "instance_map" in how:
        labels, map_mpp = np.asarray(how["instance_map"]), how["mpp"]
        if map_mpp is None:
            width, height = slide.dimensions
            if labels.shape != (height, width) or not np.isclose(slide.mpp[0], slide.mpp[1], rtol=1e-6):
                raise ValueError(
                    f"entities[{name!r}]: an instance map without mpp must have the level-0 shape "
                    f"{(height, width)} of a slide with square pixels, found {labels.shape} and mpp "
                    f"{slide.mpp}; give {{'instance_map': …, 'mpp': …}}"
                )
            map_mpp = float(slide.mpp[0])
        return _on_slide(from_instance_map(labels, map_mpp, name, how.get("origin_um", (0.0, 0.0))), slide)
    options = dict(how)
    shared = {"mask": mask, "progress": progress, "workers": workers}
    accepted = inspect.signature(FINDERS[name]).parameters
    return FINDERS[name](slide, **options, **{key: item for key, item in shared.items() if key in accepted})


def _on_slide(items: Entities, slide: Slide) -> Entities:
    """Refuse entities off the slide, which a wrong mpp or another slide's coordinates give; squares may reach over."""
    slack = max(items.mpp, *slide.mpp)
    off = ((items.centroid < -slack) | (items.centroid > np.add(slide.size_um, slack))).any(axis=1)
    if off.any() and items.kind in ("cell", "tissue"):
        (x, y), (width, height) = items.centroid[off][0], slide.size_um
        raise ValueError(
            f"entities[{items.kind!r}]: {int(off.sum())} of {len(items)} lie off the slide, first label "
            f"{int(items.label[off][0])} at x {x:.1f}, y {y:.1f} µm, of {width:.1f} x {height:.1f} µm; "
            f"check that they are of this slide, and their mpp ({items.mpp:g}) and origin"
        )
    return items


def _measure(
    slide: Slide, name: str, items: Entities, how: Any, progress: bool, workers: int
) -> tuple[np.ndarray, list[str]]:
    """Features of one type, one row an entity in ascending order of label, and their names."""
    if isinstance(how, PatchVectors):
        how = embed_entities(
            slide,
            items,
            how.encoder,
            batch_size=how.batch_size,
            device=how.device,
            workers=workers,
            mixed_precision=how.mixed_precision,
            progress=progress,
            whole=True,
        )
    elif isinstance(how, CellTokens):
        how = cell_tokens(
            slide,
            items,
            how.encoder,
            context=how.context,
            margin=how.margin,
            batch_size=how.batch_size,
            device=how.device,
            workers=workers,
            mixed_precision=how.mixed_precision,
            progress=progress,
        )
    elif isinstance(how, PatchEncoder):
        how = embed_entities(slide, items, how, workers=workers, progress=progress)
    elif isinstance(how, Mapping):
        if not how["groups"]:
            return np.zeros((len(items), 0), dtype=np.float32), []
        how = entity_features(
            slide, items, mpp=how["mpp"], groups=how["groups"], workers=workers, progress=progress
        )
    if isinstance(how, FeatureTable):
        return _join(how.label, how.values, items, name), list(how.names)
    if isinstance(how, pd.DataFrame):
        values = how.to_numpy(dtype=np.float32)
        return _join(how.index.to_numpy(), values, items, name), [str(column) for column in how.columns]
    values = np.asarray(how.detach().cpu() if isinstance(how, torch.Tensor) else how, dtype=np.float32)
    if values.ndim != 2 or len(values) != len(items):
        raise ValueError(
            f"features[{name!r}]: expected an array of shape ({len(items)}, F), one row an entity in "
            f"ascending order of label, found {values.shape}; a FeatureTable or DataFrame is joined on labels"
        )
    return values, [f"feature_{number}" for number in range(values.shape[1])]


def _join(label: np.ndarray, values: np.ndarray, items: Entities, name: str) -> np.ndarray:
    """Bring rows to the order of the entities by label."""
    by_label = np.argsort(label, kind="stable")
    ordered = np.asarray(label)[by_label]
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError(f"features[{name!r}]: a label has more than one row; give each entity one")
    place = np.searchsorted(ordered, items.label)
    known = place < len(ordered)
    known[known] = ordered[place[known]] == items.label[known]
    if not known.all():
        raise ValueError(
            f"features[{name!r}]: no row for {int((~known).sum())} of {len(items)} entities, first label "
            f"{int(items.label[~known][0])}; rows are joined on the entities' labels"
        )
    return np.asarray(values[by_label[place]], dtype=np.float32)


def _add_nodes(
    graph: HeteroData, name: str, items: Entities, values: np.ndarray, names: list[str]
) -> np.ndarray:
    """Add the nodes of one type in storage order; return that order."""
    pos, label = items.centroid.astype(np.float32), torch.from_numpy(items.label.astype(np.int64))
    order = storage_order(torch.from_numpy(pos), label)
    store = graph[name]
    store.x = torch.from_numpy(np.ascontiguousarray(values[order], dtype=np.float32))
    store.pos = torch.from_numpy(pos[order])
    store.id = label[torch.from_numpy(order)]
    store.feature_names = names
    store.area_um2 = torch.from_numpy(items.area[order].astype(np.float32))
    store.bbox = torch.from_numpy(items.bbox[order].astype(np.float32))
    if "type" in items.columns:
        types = np.asarray(items.columns["type"])
        store.label_names = sorted(set(types.tolist()) - {""})
        known = np.searchsorted(store.label_names, types) if store.label_names else np.zeros(len(types), int)
        store.label = torch.from_numpy(np.where(types == "", -1, known)[order].astype(np.int64))
    return order


def _add_edges(
    graph: HeteroData, key: tuple[str, str, str], items: Entities, order: np.ndarray, options: dict[str, Any]
) -> None:
    """Add one relation within a node type."""
    pos, store = graph[key[0]].pos, graph[key]
    method, attributes = options.pop("method"), options.pop("attributes")
    if method == "contact":
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        store.edge_index, store.edge_attr = _contact(items, rank, pos, attributes, **options)
    elif method == "grid":
        spacing = options["spacing_um"]
        if spacing is None and len(items):
            side = float((items.bbox[0, 2:] - items.bbox[0, :2]).mean())
            spacing = side - float(items.parameters.get("overlap_um", 0.0))
        store.edge_index, store.edge_attr = grid_edges(
            pos, spacing_um=spacing or 1.0, neighbors=options["neighbors"], attributes=attributes
        )
    else:
        builder: Any = {"delaunay": delaunay_edges, "knn": knn_edges, "radius": radius_edges}[method]
        store.edge_index, store.edge_attr = builder(pos, attributes=attributes, **options)
    store.edge_attr_names = list(attributes)


def _contact(
    items: Entities, rank: np.ndarray, pos: torch.Tensor, attributes: Sequence[str], gap_um: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges of entities that touch, with the border that they share where it is asked for."""
    pairs, contact = touching_pairs(items, gap_um)
    geometric = [name for name in attributes if name != "contact_um"]
    ends = np.sort(rank[pairs], axis=1)
    edge_index, _ = edges_from_pairs(ends, pos)
    columns = dict(zip(geometric, edge_attributes(pos, edge_index, geometric).T, strict=True))
    key = ends[:, 0] * len(rank) + ends[:, 1]
    by_key = np.argsort(key)
    low, high = np.sort(edge_index.numpy(), axis=0)
    place = np.searchsorted(key[by_key], low * len(rank) + high)
    columns["contact_um"] = torch.from_numpy(contact[by_key][place].astype(np.float32))
    return edge_index, torch.stack([columns[name] for name in attributes], dim=1)


def _add_hierarchy(
    graph: HeteroData, child: str, parent: str, found: Mapping[str, Entities], order: Mapping[str, np.ndarray]
) -> None:
    """Add which parent each child lies in; a child in none gets no edge."""
    row = parent_of(found[child].centroid[order[child]], found[parent])
    source = np.flatnonzero(row >= 0)
    rank = np.empty_like(order[parent])
    rank[order[parent]] = np.arange(len(rank))
    target = rank[row[source]]
    steps = graph[parent].pos.numpy()[target].astype(np.float64) - graph[child].pos.numpy()[source]
    store = graph[child, "in", parent]
    store.edge_index = torch.from_numpy(np.stack([source, target]))
    store.edge_attr = torch.from_numpy(np.hypot(*steps.T).astype(np.float32)[:, None])
    store.edge_attr_names = ["length"]
