"""Patch-GCN: a graph network on the patches of a slide, trained on labels of slides.

Chen, Lu, Shaban, Chen, Chen, Williamson and Mahmood, "Whole Slide Images are 2D Point Clouds: Context-Aware Survival
Prediction using Patch-based Graph Convolutional Networks", MICCAI 2021. The layers are torch_geometric's: GENConv with
a learnt softmax, residual connections, all layers side by side, gated attention over patches. Two choices are this
file's: the answer is a class, not a hazard, and features are standardised by the training slides. The released network
reads one kind of edges, of space or of features; which edges it is given is the matter of `peers.slide_edges`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import DeepGCNLayer, GENConv
from torch_geometric.nn.aggr import AttentionalAggregation

from histograph.nn import Standardise

#: Graphs at once when classes are predicted.
_TOGETHER = 16


class PatchGCN(nn.Module):
    """The network of Patch-GCN with a class as the answer.

    Parameters
    ----------
    node_dim, classes : int
        Columns of ``x``, number of classes.
    hidden_dim, layers : int
        Width, number of message-passing layers (at least 1).
    dropout : float
        Of the dense layers; within message-passing layers it is 0.1, as published.

    Raises
    ------
    ValueError
        If `layers` is below 1.

    Examples
    --------
    >>> graph = Data(x=torch.zeros(5, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))
    >>> network = PatchGCN(node_dim=3, classes=2, hidden_dim=8)
    >>> network(Batch.from_data_list([graph, graph])).shape
    torch.Size([2, 2])
    """

    def __init__(
        self, node_dim: int, classes: int, hidden_dim: int = 128, layers: int = 3, dropout: float = 0.25
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1; found {layers}")
        width = (layers + 1) * hidden_dim
        self.scale = Standardise(node_dim)
        self.embed = _dense(node_dim, hidden_dim, dropout)
        self.first = _convolution(hidden_dim)
        self.rest = nn.ModuleList(
            DeepGCNLayer(
                _convolution(hidden_dim), nn.LayerNorm(hidden_dim), nn.ReLU(), block="res", dropout=0.1
            )
            for _ in range(layers - 1)
        )
        self.mix = _dense(width, width, dropout)
        self.pool = AttentionalAggregation(_GatedScore(width, dropout))
        self.head = nn.Sequential(_dense(width, width, dropout), nn.Linear(width, classes))

    def forward(self, batch: Batch) -> Tensor:
        """Give (graphs, classes) scores."""
        seen = [self.embed(self.scale(batch.x))]
        seen.append(self.first(seen[-1], batch.edge_index))
        for layer in self.rest:
            seen.append(layer(seen[-1], batch.edge_index))
        rows = self.mix(torch.cat(seen, dim=1))
        return self.head(self.pool(rows, batch.batch, dim_size=batch.num_graphs))


class _GatedScore(nn.Module):
    """Score of a row, ``w (tanh(V h) * sigmoid(U h))``."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(dim, 1)

    def forward(self, rows: Tensor) -> Tensor:
        return self.score(self.value(rows) * self.gate(rows))


def _dense(dim_in: int, dim_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, dim_out), nn.ReLU(), nn.Dropout(dropout))


def _convolution(dim: int) -> GENConv:
    return GENConv(dim, dim, aggr="softmax", learn_t=True, num_layers=2, norm="layer")


def fit_predict(
    train_graphs: Sequence[Data],
    train_targets: Sequence[int] | ArrayLike,
    test_graphs: Sequence[Data],
    hidden_dim: int = 128,
    layers: int = 3,
    dropout: float = 0.25,
    epochs: int = 20,
    batch_size: int = 8,
    lr: float = 1e-3,
    weight_decay: float = 1e-5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Train Patch-GCN on labelled slides, and predict others.

    Parameters
    ----------
    train_graphs, test_graphs : sequence of Data
        Slides with ``x`` and ``edge_index``.
    train_targets : array-like
        (G,) class numbers 0 .. K - 1 of the training slides.
    hidden_dim, layers, dropout
        Of `PatchGCN`.
    epochs, batch_size : int
        Passes over the training slides, slides per step.
    lr, weight_decay : float
        Of AdamW; the rate falls to 0 along a cosine.
    seed : int
        Of weights, order and dropout.

    Returns
    -------
    ndarray
        (n, K) probabilities of the test slides.

    Raises
    ------
    ValueError
        If there is not one target for each training slide.

    Examples
    --------
    >>> edge_index = torch.tensor([[0, 1], [1, 0]])
    >>> graphs = [Data(x=torch.full((2, 1), float(i % 2)), edge_index=edge_index) for i in range(8)]
    >>> p = fit_predict(graphs, [i % 2 for i in range(8)], graphs[:2], hidden_dim=8, epochs=20, lr=0.01)
    >>> p.argmax(1).tolist()
    [0, 1]
    """
    y = torch.as_tensor(np.asarray(train_targets))
    if y.shape != (len(train_graphs),) or not len(y):
        raise ValueError(
            f"train_targets must have one class for each of {len(train_graphs)} slides, at least one; "
            f"found shape {tuple(y.shape)}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PatchGCN(train_graphs[0].x.shape[1], int(y.max()) + 1, hidden_dim, layers, dropout)
        network.scale.fit(graph.x for graph in train_graphs)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(network(_batch(train_graphs, rows.tolist())), y[rows]).backward()
                optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        parts = torch.arange(len(test_graphs)).split(_TOGETHER)
        return torch.cat(
            [network(_batch(test_graphs, rows.tolist())).softmax(1).double() for rows in parts]
        ).numpy()


def _batch(graphs: Sequence[Data], rows: Sequence[int]) -> Batch:
    # nothing but what the network reads: places and the like may differ in kind between slides
    return Batch.from_data_list(
        [Data(x=graphs[i].x, edge_index=graphs[i].edge_index, num_nodes=graphs[i].num_nodes) for i in rows]
    )
