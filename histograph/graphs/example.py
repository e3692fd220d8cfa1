"""A small made-up graph, for documentation, tests and trying things out."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import HeteroData

from histograph.graphs.order import canonical
from histograph.graphs.points import edges_from_pairs


def example_graph(cells: int = 60, patches: int = 4, seed: int = 0, slide_id: str = "example") -> HeteroData:
    """Make a valid graph of random cells on a square of patches, with random features.

    Parameters
    ----------
    cells : int
        Number of cells, scattered evenly over the patches.
    patches : int
        Number of patches of 128 µm, a square number.
    seed : int
        Seed of the random numbers.
    slide_id : str
        Name of the slide.

    Returns
    -------
    HeteroData
        Types ``cell`` and ``patch``; relations near, next_to and in.

    Raises
    ------
    ValueError
        `patches` is not a square number.

    Examples
    --------
    >>> graph = example_graph(cells=10)
    >>> graph["cell"].x.shape, graph["cell", "in", "patch"].edge_index.shape
    (torch.Size([10, 3]), torch.Size([2, 10]))
    """
    side = round(patches**0.5)
    if side * side != patches:
        raise ValueError(f"patches: expected a square number, found {patches}")
    random = np.random.default_rng(seed)
    graph = HeteroData()
    cell_pos = random.uniform(0, 128.0 * side, (cells, 2)).astype(np.float32)
    row, column = np.divmod(np.arange(patches), max(side, 1))
    patch_pos = (np.stack([column, row], axis=1) * 128.0 + 64.0).astype(np.float32)
    places = (("cell", "near", cell_pos, 40.0, 3), ("patch", "next_to", patch_pos, 185.0, 2))
    for name, relation, pos, reach, width in places:
        store = graph[name]
        store.x = torch.from_numpy(random.normal(size=(len(pos), width)).astype(np.float32))
        store.pos = torch.from_numpy(pos)
        store.id = torch.from_numpy(random.permutation(len(pos)).astype(np.int64) + 1)
        store.feature_names = [f"{name}_{number}" for number in range(width)]
        pairs = cKDTree(pos).query_pairs(reach, output_type="ndarray") if len(pos) else np.zeros((0, 2))
        edges = graph[name, relation, name]
        edges.edge_index, edges.edge_attr = edges_from_pairs(pairs.astype(np.int64), pos)
        edges.edge_attr_names = ["length"]
    inside = graph["cell", "in", "patch"]
    patch = (cell_pos // 128.0).astype(np.int64) @ np.array([1, side])
    inside.edge_index = torch.from_numpy(np.stack([np.arange(cells), patch]))
    steps = patch_pos[patch] - cell_pos
    inside.edge_attr = torch.from_numpy(np.linalg.norm(steps, axis=1, keepdims=True).astype(np.float32))
    inside.edge_attr_names = ["length"]
    graph.slide_id, graph.mpp = slide_id, (0.5, 0.5)
    graph.provenance = {"made": "example_graph", "seed": seed}
    return canonical(graph)
