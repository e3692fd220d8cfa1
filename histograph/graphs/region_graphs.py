"""Regions of the graphs of slides, on disk or in memory."""

from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data, HeteroData

from histograph.entities import Entities
from histograph.graphs.dataset import GraphDataset
from histograph.graphs.graph_file import GraphFile
from histograph.graphs.hierarchy import parent_of
from histograph.graphs.layer import layer, pick_relation
from histograph.graphs.order import edge_fields
from histograph.graphs.region_sources import SlideRegions, near
from histograph.graphs.schema import EdgeType

_IN = ("patch", "in", "region")
_NEXT = ("region", "next_to", "region")


class GraphRegions:
    """Regions of the graphs of slides; of a file, only what a region needs is read.

    Parameters
    ----------
    graphs : GraphDataset
        Whole graphs of several node types, with regions.
    node_type : str
        What the nodes of a region are.
    grid : int
        Places along a side of a region, for patches.
    edges : bool
        Whether edges are read too.

    Raises
    ------
    ValueError
        If a graph has no regions or no such nodes, or patches do not fit the grid.

    Examples
    --------
    >>> graph = HeteroData(slide_id="s", mpp=(0.5, 0.5))
    >>> graph["patch"].x, graph["patch"].pos = torch.ones(1, 4), torch.tensor([[192.0, 64.0]])
    >>> graph["region"].x, graph["region"].pos = torch.ones(1, 0), torch.tensor([[256.0, 256.0]])
    >>> graph["region"].bbox = torch.tensor([[0.0, 0.0, 512.0, 512.0]])
    >>> graph["patch"].id, graph["region"].id = torch.tensor([5]), torch.tensor([1])
    >>> graph["patch"].feature_names, graph["region"].feature_names = list("abcd"), []
    >>> GraphRegions(GraphDataset([graph]), "patch", 4, edges=True).read(0, 0).place
    tensor([[0, 1]])
    """

    def __init__(self, graphs: GraphDataset, node_type: str, grid: int, edges: bool) -> None:
        if any(box is not None for box in graphs.windows) or not isinstance(graphs.feature_names, dict):
            raise ValueError(
                "graphs: expected whole graphs of slides with regions; make the GraphDataset without node_type and "
                "without window_um"
            )
        self._graphs, self._node_type, self._grid, self._edges = graphs, node_type, grid, edges
        if node_type not in graphs.feature_names or node_type == "region":
            raise ValueError(
                f"node_type: no {node_type!r} to find in regions; the graphs have {list(graphs.feature_names)}"
            )
        self.feature_dim = len(graphs.feature_names[node_type])
        self._paths = graphs.paths
        self.on_disk = any(path is not None for path in self._paths)
        self._members: list[tuple[np.ndarray, np.ndarray]] = []
        self._corners: list[tuple[np.ndarray, float]] = []
        self.slides = [self._scan(number) for number in range(len(graphs))]

    def read(self, slide: int, row: int) -> Data:
        """Read one region.

        Parameters
        ----------
        slide, row : int
            Number of the slide, and of the region in it.

        Returns
        -------
        torch_geometric.data.Data
            ``x``, ``pos``, ``id``, ``place`` for patches, and ``edge_index`` and ``edge_attr`` where edges are read.
        """
        nodes, pointer = self._members[slide]
        rows = nodes[pointer[row] : pointer[row + 1]].astype(np.int64)
        path = self._paths[slide]
        if path is None:
            graph = self._graphs[slide]
            relation = pick_relation(graph.edge_types, self._node_type, None) if self._edges else None
            part = _induced(graph, self._node_type, rows, relation)
        else:
            file = self._graphs._open(path)
            relation = pick_relation(file.relations, self._node_type, None) if self._edges else None
            part = layer(file.subset(self._node_type, rows, [relation] if relation else []), self._node_type)
        item = Data(x=part.x.float(), pos=part.pos)
        if self._node_type == "patch":
            corner, step = self._corners[slide][0][row], self._corners[slide][1]
            item.place = torch.from_numpy(_places(part.pos.numpy(), corner, step).clip(0, self._grid - 1))
        if self._edges:
            item.edge_index, item.edge_attr = part.edge_index, part.edge_attr
        item.id = part.id
        return item

    def _scan(self, number: int) -> SlideRegions:
        """List the regions of one slide and who lies in them, without reading features."""
        path = self._paths[number]
        if path is None:
            graph = self._graphs[number]
            pos, first = graph[self._node_type].pos.cpu().numpy(), graph[self._node_type]
        else:
            file = self._graphs._open(path)
            graph, pos, first = _shell(file), file.pos(self._node_type).numpy(), None
            if len(pos):
                first = file.subset(self._node_type, np.zeros(1, dtype=np.int64), [])[self._node_type]
        if "region" not in graph.node_types:
            raise ValueError(
                f"graphs: {graph.slide_id!r} has no regions; build it with entities=('patch', 'region')"
            )
        store = graph["region"]
        if store.get("bbox") is None:
            raise ValueError(
                f"graphs: the regions of {graph.slide_id!r} have no bbox, so where they begin is unknown"
            )
        box, centre = store.bbox.cpu().numpy().astype(np.float64), store.pos.cpu().numpy()
        parent = self._parents(graph, pos, box)
        nodes = np.flatnonzero(parent >= 0)
        nodes = nodes[np.argsort(parent[nodes], kind="stable")].astype(
            np.int32
        )  # kept for all slides at once
        count = np.bincount(parent[nodes], minlength=len(box))
        pointer = np.concatenate([[0], count.cumsum()])
        self._members.append((nodes, pointer))
        side = float((box[:, 2:] - box[:, :2]).mean()) if len(box) else 1.0
        self._corners.append((box[:, :2], side / self._grid))
        if self._node_type == "patch":
            own = None if first is None or first.get("bbox") is None else first.bbox[:1].numpy()
            self._check_places(graph.slide_id, pos[nodes], parent[nodes], own)
        edges = graph[_NEXT].edge_index.cpu().numpy() if _NEXT in graph.edge_types else near(centre, side)
        region_id = np.asarray(store.id) if isinstance(store.id, torch.Tensor) else np.arange(len(box))
        return SlideRegions(graph.slide_id, region_id, centre, edges, count)

    def _parents(self, graph: HeteroData, pos: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Region of each node, -1 for none: by the relation of patches, and by the boxes for other nodes."""
        parent = np.full(len(pos), -1, dtype=np.int64)
        if self._node_type == "patch" and _IN in graph.edge_types:
            source, target = graph[_IN].edge_index.cpu().numpy()
            parent[source] = target
            return parent
        label = np.arange(1, len(box) + 1)
        size = box[:, 2:] - box[:, :2]
        squares = Entities(
            "region", label, box[:, :2] + size / 2, box, size.prod(1), float(np.mean(graph.mpp))
        )
        return parent_of(pos.astype(np.float64), squares)

    def _check_places(
        self, slide_id: str, pos: np.ndarray, parent: np.ndarray, box: np.ndarray | None
    ) -> None:
        """Refuse patches that are denser or sparser than the grid of a region, or outside their region."""
        if not len(pos):
            return
        corner, step = self._corners[-1]
        along = (pos - corner[parent]) / step
        if along.min() < -0.01 or along.max() > self._grid + 0.01:
            raise ValueError(
                f"graphs: a patch of {slide_id!r} lies outside the region that it is said to be in"
            )
        gaps = np.concatenate([np.diff(np.unique(pos[:, axis])) for axis in (0, 1)])
        gaps = gaps[gaps > 0.01 * step]
        apart = [float(gaps.min())] if len(gaps) else []
        # patches of a sparse slide lie further apart than they are wide
        apart += [] if box is None else [float((box[:, 2:] - box[:, :2]).mean())]
        place = _places(pos, corner[parent], step).clip(0, self._grid - 1)
        key = (parent * self._grid + place[:, 0]) * self._grid + place[:, 1]
        twice = len(np.unique(key)) < len(key)
        if twice or (apart and box is not None and min(apart) > 1.5 * step):
            found = f"{min(apart):g} µm apart" if apart else "at one place"
            wanted = round(step * self._grid / min(apart)) if apart else 2 * self._grid
            raise ValueError(
                f"grid: {self._grid} places along a region of {step * self._grid:g} µm do not fit the patches of "
                f"{slide_id!r}, which lie {found}; give grid={wanted}"
            )


def _places(pos: np.ndarray, corner: np.ndarray, step: float) -> np.ndarray:
    """Row and column of patches in their region."""
    return np.floor((pos - corner) / step).astype(np.int64)[:, ::-1].copy()


def _shell(file: GraphFile) -> Any:
    """Read the regions of a file and who lies in them, without the nodes that lie in them."""
    names = ["region"] if "region" in file.node_types else []
    return file.load(names, [key for key in (_IN, _NEXT) if key in file.relations])


def _induced(graph: HeteroData, node_type: str, rows: np.ndarray, relation: EdgeType | None) -> Data:
    """Take some nodes of one type and the edges among them out of a graph in memory."""
    store, chosen = graph[node_type], torch.from_numpy(rows)
    ids = store.id[chosen] if isinstance(store.id, torch.Tensor) else [store.id[row] for row in rows]
    part = Data(x=store.x[chosen], pos=store.pos[chosen], id=ids)
    part.edge_index, part.edge_attr = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 1)
    if relation is not None:
        edges = graph[relation]
        source, target = edges.edge_index.numpy()
        # edges are sorted by source, so those of a row lie together
        low, high = (np.searchsorted(source, rows, side=side) for side in ("left", "right"))
        at = np.repeat(low - np.append(0, (high - low).cumsum()[:-1]), high - low) + np.arange(
            (high - low).sum()
        )
        place = np.searchsorted(rows, target[at]).clip(max=len(rows) - 1)
        kept = rows[place] == target[at]
        ends = np.stack([np.repeat(np.arange(len(rows)), high - low)[kept], place[kept]])
        part.edge_index = torch.from_numpy(ends)
        if "edge_attr" in edge_fields(edges, len(source)):
            part.edge_attr = edges.edge_attr[torch.from_numpy(at[kept])]
    return part
