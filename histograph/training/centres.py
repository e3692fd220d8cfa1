"""Where the image crops of a graph lie: around its nodes, and halfway along its edges."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True)
class CropCentres:
    """Centres of the crops of one layer, in micrometres.

    Attributes
    ----------
    node : ndarray
        (N, 2) positions of the nodes.
    edge : ndarray
        (M, 2) midpoints of the undirected edges.
    edge_row : ndarray
        (E,) int64, the row of `edge` that each stored (directed) edge goes with.
    """

    node: npt.NDArray[np.float64]
    edge: npt.NDArray[np.float64]
    edge_row: npt.NDArray[np.int64]


def crop_centres(pos: Tensor, edge_index: Tensor | None) -> CropCentres:
    """List the centres of the crops of a graph; an edge and its reverse have one crop.

    Parameters
    ----------
    pos : Tensor
        (N, 2) positions in micrometres.
    edge_index : Tensor, optional
        (2, E) rows; without edges, M = E = 0.

    Returns
    -------
    CropCentres
        Nodes in their order; undirected edges by their lower, then their higher row.

    Examples
    --------
    >>> import torch
    >>> centres = crop_centres(torch.tensor([[0.0, 0], [4, 2]]), torch.tensor([[0, 1], [1, 0]]))
    >>> centres.edge.tolist(), centres.edge_row.tolist()
    ([[2.0, 1.0]], [0, 0])
    """
    node = pos.detach().cpu().numpy().astype(np.float64)
    if edge_index is None:
        return CropCentres(node, np.zeros((0, 2)), np.zeros(0, np.int64))
    ends = np.sort(edge_index.detach().cpu().numpy(), axis=0)
    width = max(len(node), 1)
    pairs, row = np.unique(ends[0] * width + ends[1], return_inverse=True)
    low, high = np.divmod(pairs, width)
    return CropCentres(node, (node[low] + node[high]) / 2, row.reshape(-1))
