"""A small made-up slide and graph for the tests of figures."""

import numpy as np
import torch
from torch_geometric.data import HeteroData


class FakeSlide:
    """Answers like an open slide of 100 x 60 µm at 0.5 µm a pixel, and remembers what was read."""

    mpp = (0.5, 0.5)
    size_um = (100.0, 60.0)

    def __init__(self) -> None:
        self.reads: list[tuple[float, ...]] = []

    def read_region(
        self, x_um: float, y_um: float, width_um: float, height_um: float, mpp: float
    ) -> np.ndarray:
        self.reads.append((x_um, y_um, width_um, height_um, mpp))
        return np.full((round(height_um / mpp), round(width_um / mpp), 3), 200, np.uint8)


def chain(n: int = 12) -> HeteroData:
    """Cells in a chain, every third linked to a patch."""
    graph = HeteroData()
    x = np.linspace(5, 95, n)
    cell = graph["cell"]
    cell.pos = torch.tensor(np.column_stack([x, 30 + 20 * np.sin(x)]), dtype=torch.float32)
    cell.x = torch.arange(2 * n, dtype=torch.float32).reshape(n, 2)
    cell.feature_names = ["area", "roundness"]
    cell.id = torch.arange(n) * 2 + 1
    step = torch.arange(n - 1)
    near = graph["cell", "near", "cell"]
    near.edge_index = torch.cat([torch.stack([step, step + 1]), torch.stack([step + 1, step])], dim=1)
    near.edge_attr = torch.arange(2.0 * (n - 1))[:, None]
    near.edge_attr_names = ["length"]
    touches = graph["cell", "touches", "cell"]
    touches.edge_index = torch.tensor([[0, 1], [1, 0]])
    patch = graph["patch"]
    patch.pos = torch.tensor([[25.0, 30.0], [75.0, 30.0]])
    patch.bbox = torch.tensor([[0.0, 0.0, 50.0, 60.0], [50.0, 0.0, 100.0, 60.0]])
    patch.id = torch.tensor([4, 9])
    inside = graph["cell", "in", "patch"]
    inside.edge_index = torch.stack([torch.arange(n), (torch.tensor(x) > 50).long()])
    return graph
