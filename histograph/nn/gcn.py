"""Graph convolution with edge weights."""

import torch
from torch import Tensor, nn

from .segments import SparseSum


class GraphConv(nn.Module):
    """Symmetrically normalised graph convolution, ``D^-1/2 (A_w + I) D^-1/2 x W + b``.

    ``A_w`` holds the edge weights, the self weight is 1, and the degree of a node is the weight that comes
    in, itself included.

    Parameters
    ----------
    in_dim, out_dim : int
        Widths of the node features before and after.

    References
    ----------
    Kipf and Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017, eq. 2.

    Examples
    --------
    >>> import torch
    >>> conv = GraphConv(3, 2)
    >>> conv(torch.ones(4, 3), torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([4, 2])
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(in_dim, out_dim)))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, x: Tensor, edges: Tensor | SparseSum, edge_weight: Tensor | None = None) -> Tensor:
        """Pass messages once.

        Parameters
        ----------
        x : Tensor
            (N, in_dim).
        edges : Tensor or SparseSum
            (2, E) int64, source then target, without self loops; or the same sorted once for many calls,
            ``SparseSum.from_pairs(target, source, N)``.
        edge_weight : Tensor, optional
            (E,), at least 0; 1 when left out.

        Returns
        -------
        Tensor
            (N, out_dim).
        """
        h = x @ self.weight
        nodes = h.shape[0]
        incoming = edges if isinstance(edges, SparseSum) else SparseSum.from_pairs(edges[1], edges[0], nodes)
        weight = None if edge_weight is None else edge_weight.to(h.dtype)[incoming.order]
        ones = h.new_ones(incoming.row.numel()) if weight is None else weight
        scale = h.new_ones(nodes).index_add(0, incoming.segment, ones).rsqrt().unsqueeze(1)
        h = h * scale
        return torch.addcmul(self.bias, incoming(h, weight) + h, scale)
