"""The graph network that the peers share: a linear embedding, then normalised message-passing layers."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv, GINConv

KINDS = ("gin", "gat", "gcn")


def convolution(kind: str, dim_in: int, dim_out: int, heads: int = 1) -> nn.Module:
    """Make one message-passing layer of a kind; ``heads``, with "gat" only, must divide ``dim_out``."""
    if kind not in KINDS:
        raise ValueError(f"encoder must be one of {', '.join(KINDS)}; found {kind!r}")
    if kind == "gat":
        if dim_out % heads:
            raise ValueError(f"hidden_dim must be divisible by heads = {heads}; found {dim_out}")
        return GATConv(dim_in, dim_out // heads, heads)
    if kind == "gcn":
        return GCNConv(dim_in, dim_out)
    return GINConv(nn.Sequential(nn.Linear(dim_in, dim_out), nn.ReLU(), nn.Linear(dim_out, dim_out)))


class Encoder(nn.Module):
    """Graph network whose layers are normalised by row, so that a graph depends on no other of the batch.

    Parameters
    ----------
    kind : {"gin", "gat", "gcn"}
        Kind of layers.
    node_dim, hidden_dim, layers, heads : int
        Columns of ``x``, width, number of layers (at least 1), attention heads (with "gat").

    Examples
    --------
    >>> import torch
    >>> encoder = Encoder("gin", node_dim=3, hidden_dim=8, layers=2)
    >>> [tuple(h.shape) for h in encoder(torch.zeros(5, 3), torch.tensor([[0, 1], [1, 0]]))]
    [(5, 8), (5, 8), (5, 8)]
    """

    def __init__(self, kind: str, node_dim: int, hidden_dim: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1; found {layers}")
        self.embed = nn.Linear(node_dim, hidden_dim)
        self.convs = nn.ModuleList(convolution(kind, hidden_dim, hidden_dim, heads) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim) for _ in range(layers))

    def forward(self, x: Tensor, edge_index: Tensor) -> list[Tensor]:
        """Give the embedding and the (N, hidden_dim) features after every layer."""
        layers = [self.embed(x)]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            layers.append(F.gelu(norm(conv(layers[-1], edge_index))))
        return layers
