"""GraphMAE: a masked graph autoencoder, the closest published relative of H-MGDM.

*Nodes* and *edges* are those of the graph; edge attributes are not read. *Hidden* are the features of half of the
nodes, whose edges stay. *Predicted* are these features, from the encoder's view of the rest. The differences to
H-MGDM: no noise level, no edge attributes, and the encoder sees that a hidden node is there.

Hou, Liu, Cen, Dong, Yang, Wang and Tang, "GraphMAE: Self-Supervised Masked Graph Autoencoders", KDD 2022. Two choices
are this file's: masks are drawn inside each graph, and layers are normalised by row, so that a graph's vector depends
on no other graph of the batch.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histograph.methods import Embedding, Graphs, Method
from histograph.nn import Standardise, random_subset, segment_max, segment_mean

from .encoder import Encoder, convolution


def scaled_cosine_error(out: Tensor, goal: Tensor, gamma: float) -> Tensor:
    """Mean over rows of ``(1 - cos(out, goal)) ** gamma``; 0 without rows.

    Examples
    --------
    >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> float(scaled_cosine_error(a, 3 * a, 2.0)), float(scaled_cosine_error(a, b, 2.0))
    (0.0, 1.0)
    """
    error = (1 - F.cosine_similarity(out.float(), goal.float())).clamp(min=0)
    return error.pow(gamma).sum() / max(len(error), 1)


class GraphMAE(Method):
    """Masked graph autoencoder with re-mask decoding and scaled cosine error.

    Parameters
    ----------
    node_dim : int
        Columns of ``x``.
    hidden_dim : int
        Width of the encoder's layers, divisible by ``heads``.
    layers : int
        Encoder layers, at least 1.
    encoder : {"gin", "gat", "gcn"}
        Kind of layers, of the encoder and of the decoder's one.
    heads : int
        Attention heads of the encoder, with "gat".
    mask_rate : float
        Hidden share of the nodes of each graph, in (0, 1).
    replace_rate : float
        Share of the hidden nodes that show another node's features instead of the learned token, in [0, 1].
    gamma : float
        Exponent of the scaled cosine error, at least 1; larger weighs easy nodes less.
    pooling : {"mean", "max", "mean_std"}
        How node vectors make the graph vector; the last has twice the width.
    representation : {"latent", "layers"}
        What `encode` gives: the last layer, as in the paper, or the input embedding and all layers side by side.
    clip : float
        Standardised features are clipped at this many standard deviations.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> graph = Data(x=torch.randn(4, 5), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
    >>> method = GraphMAE(node_dim=5, hidden_dim=8)
    >>> sorted(method(graph)), method.encode(graph).graph.shape
    (['loss'], torch.Size([1, 8]))
    """

    reads = ("x", "edge_index")

    def __init__(
        self,
        node_dim: int,
        hidden_dim: int = 128,
        layers: int = 2,
        encoder: Literal["gin", "gat", "gcn"] = "gin",
        heads: int = 4,
        mask_rate: float = 0.5,
        replace_rate: float = 0.05,
        gamma: float = 2.0,
        pooling: Literal["mean", "max", "mean_std"] = "mean",
        representation: Literal["latent", "layers"] = "latent",
        clip: float = 5.0,
    ) -> None:
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(config)
        _check_arguments(config)
        self.node_dim, self.gamma = node_dim, gamma
        self.mask_rate, self.replace_rate = mask_rate, replace_rate
        self.pooling, self.representation = pooling, representation
        self.node_scale = Standardise(node_dim, clip)
        self.mask_token = nn.Parameter(torch.zeros(node_dim))
        self.encoder = Encoder(encoder, node_dim, hidden_dim, layers, heads)
        self.bridge = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.remask_token = nn.Parameter(torch.zeros(hidden_dim))
        self.decoder = convolution(encoder, hidden_dim, node_dim)

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Fit the standardisation over all graphs, once in the life of the weights."""
        if epoch == 0 and not bool(self.node_scale.fitted):
            self.node_scale.fit(self._read_x(dataset[i]) for i in range(len(dataset)))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Hide nodes, encode, hide them again, decode, and compare their directions in feature space."""
        x, graph_of, num_graphs = self._read(batch)
        hidden = random_subset(graph_of, num_graphs, self.mask_rate)
        code = self.bridge(self.encoder(self._corrupt(x, hidden), batch.edge_index)[-1])
        code = torch.where(hidden[:, None], self.remask_token.to(code.dtype), code)
        out = self.decoder(code, batch.edge_index)
        return {"loss": scaled_cosine_error(out[hidden], x[hidden], self.gamma)}

    def encode(self, batch: Any) -> Embedding:
        """Embed whole graphs: node vectors, and these pooled over each graph."""
        x, graph_of, num_graphs = self._read(batch)
        layers = self.encoder(x, batch.edge_index)
        node = torch.cat(layers, dim=1) if self.representation == "layers" else layers[-1]
        if self.pooling == "max":
            return Embedding(node, segment_max(node, graph_of, num_graphs))
        mean = segment_mean(node, graph_of, num_graphs)
        if self.pooling == "mean":
            return Embedding(node, mean)
        variance = segment_mean((node - mean[graph_of]).square(), graph_of, num_graphs)
        return Embedding(node, torch.cat([mean, (variance + 1e-12).sqrt()], dim=1))

    def _corrupt(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Show the token in place of hidden nodes, and in place of a few of them another node of the batch."""
        replaced = hidden & (torch.rand(len(x), device=x.device) < self.replace_rate)
        other = x[torch.randint(max(len(x), 1), (len(x),), device=x.device)]
        shown = torch.where(hidden[:, None], self.mask_token.to(x.dtype), x)
        return torch.where(replaced[:, None], other, shown)

    def _read(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Give standardised features, the graph of each node, and the number of graphs."""
        x = self.node_scale(self._read_x(batch))
        if getattr(batch, "batch", None) is None:
            return x, torch.zeros(len(x), dtype=torch.long, device=x.device), 1
        return x, batch.batch, batch.num_graphs

    def _read_x(self, data: Any) -> Tensor:
        if data.x is None or data.x.dim() != 2 or data.x.shape[1] != self.node_dim:
            found = None if data.x is None else tuple(data.x.shape)
            raise ValueError(f"x must have shape (N, node_dim = {self.node_dim}), found {found}")
        return data.x


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    bounds = {
        "node_dim": (config["node_dim"] >= 1, "at least 1"),
        "mask_rate": (0 < config["mask_rate"] < 1, "between 0 and 1, both excluded"),
        "replace_rate": (0 <= config["replace_rate"] <= 1, "between 0 and 1"),
        "gamma": (config["gamma"] >= 1, "at least 1"),
        "pooling": (config["pooling"] in ("mean", "max", "mean_std"), '"mean", "max" or "mean_std"'),
        "representation": (config["representation"] in ("latent", "layers"), '"latent" or "layers"'),
    }
    for name, (fine, expected) in bounds.items():
        if not fine:
            raise ValueError(f"{name} must be {expected}; found {config[name]!r}")
