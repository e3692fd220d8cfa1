"""A graph network trained from scratch on the labels alone: what self-supervision has to beat where labels are few."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from histograph.evaluation import grouped_split
from histograph.nn import Standardise, segment_mean

from .encoder import Encoder

Loss = Callable[[Tensor, Tensor], Tensor]


def fit_predict(
    train_graphs: Sequence[Data],
    train_targets: Sequence[Any] | ArrayLike,
    test_graphs: Sequence[Data],
    level: Literal["graph", "node"] = "graph",
    loss: Loss | None = None,
    encoder: Literal["gin", "gat", "gcn"] = "gin",
    hidden_dim: int = 128,
    layers: int = 3,
    epochs: int = 100,
    patience: int | None = None,
    groups: ArrayLike | None = None,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> NDArray[np.float64]:
    """Train on labelled graphs or nodes, and predict others.

    Parameters
    ----------
    train_graphs, test_graphs : sequence of Data
        Graphs with ``x`` and ``edge_index``.
    train_targets : array-like
        Of graphs: (G,) class numbers 0 .. K - 1, or (G, …) whatever ``loss`` reads. Of nodes: a list of (N_i,) class
        numbers with -1 where a node has no label; such a node still sends messages.
    level : {"graph", "node"}
        What has a label.
    loss : callable, optional
        ``loss(out, target)`` of the (n,) outputs and the targets of a batch, e.g. a Cox loss, which compares the graphs
        of a batch with each other (give a large ``batch_size``). Default: cross entropy of classes.
    encoder, hidden_dim, layers
        Of `Encoder`.
    epochs : int
        Passes over the labelled data; the most of them with ``patience``.
    patience : int, optional
        Stop after so many epochs without a lower loss on a fifth of the training groups, which is kept aside, and
        take the best weights. None trains on everything for all epochs.
    groups : array-like, optional
        (G,) patient of each training graph, which the inner split keeps together; each graph alone by default.
    batch_size : int
        Graphs per step.
    lr, weight_decay : float
        Of AdamW.
    seed : int
        Of weights, order and inner split.
    device : str or torch.device
        Where to train.

    Returns
    -------
    ndarray
        (n, K) probabilities of the test graphs or of all their nodes in order; (n,) outputs with a ``loss`` of its own.

    Raises
    ------
    ValueError
        If targets and graphs do not match, no node has a label, or there are too few groups for ``patience``.

    Examples
    --------
    >>> edge_index = torch.tensor([[0, 1], [1, 0]])
    >>> graphs = [Data(x=torch.full((2, 1), float(i % 2)), edge_index=edge_index) for i in range(8)]
    >>> fit_predict(graphs, [i % 2 for i in range(8)], graphs[:2], hidden_dim=8, epochs=20, lr=0.01).argmax(1).tolist()
    [0, 1]
    """
    targets = _as_targets(train_graphs, train_targets, level, loss)
    marked = [_marked(graph, target) for graph, target in zip(train_graphs, targets, strict=True)]
    everything = torch.cat([target.flatten() for target in targets])
    outputs = int(everything.max()) + 1 if loss is None else 1
    train, inner = marked, []
    if patience is not None:
        fold = grouped_split(np.arange(len(marked)) if groups is None else groups, seed=seed)[0]
        train, inner = [marked[i] for i in fold.train], [marked[i] for i in fold.test]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Network(train_graphs[0].x.shape[1], outputs, level, encoder, hidden_dim, layers)
        network.scale.fit(graph.x for graph in train)
        network.to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
        best, best_loss, waited = network, float("inf"), 0
        for _ in range(epochs):
            network.train()
            for rows in torch.randperm(len(train)).split(batch_size):
                optimizer.zero_grad()
                network.loss(Batch.from_data_list([train[i] for i in rows]).to(device), loss).backward()
                optimizer.step()
            if patience is None:
                continue
            with torch.inference_mode():
                now = float(network.eval().loss(Batch.from_data_list(inner).to(device), loss))
            waited += 1
            if now < best_loss:
                best, best_loss, waited = copy.deepcopy(network), now, 0
            if waited >= patience:
                break
    return _predict(best, test_graphs, batch_size, device, loss is None)


def _as_targets(graphs: Sequence[Data], targets: Any, level: str, loss: Loss | None) -> list[Tensor]:
    """Give one tensor per graph, checked."""
    if level not in ("graph", "node"):
        raise ValueError(f'level must be "graph" or "node", found {level!r}')
    if len(targets) != len(graphs) or not len(graphs):
        raise ValueError(
            f"train_targets must have one entry for each graph, found {len(targets)} for {len(graphs)} graphs"
        )
    result = [torch.as_tensor(np.asarray(target)) for target in targets]
    if level == "graph":
        return [target[None] for target in result]
    for number, (graph, target) in enumerate(zip(graphs, result, strict=True)):
        if target.shape[:1] != (graph.num_nodes,):
            raise ValueError(
                f"train_targets[{number}] must have one row for each of {graph.num_nodes} nodes, "
                f"found shape {tuple(target.shape)}"
            )
    if loss is None and not any(bool((target >= 0).any()) for target in result):
        raise ValueError("train_targets must label at least one node (0 or above), all are -1")
    return result


def _marked(graph: Data, target: Tensor) -> Data:
    return Data(x=graph.x, edge_index=graph.edge_index, target=target, num_nodes=graph.num_nodes)


class _Network(nn.Module):
    """The encoder of the peers with a linear head on all its layers."""

    def __init__(
        self, node_dim: int, outputs: int, level: str, encoder: str, hidden_dim: int, layers: int
    ) -> None:
        super().__init__()
        self.level = level
        self.scale = Standardise(node_dim)
        self.encoder = Encoder(encoder, node_dim, hidden_dim, layers)
        self.head = nn.Linear((layers + 1) * hidden_dim, outputs)

    def forward(self, batch: Batch) -> Tensor:
        rows = torch.cat(self.encoder(self.scale(batch.x), batch.edge_index), dim=1)
        return self.head(rows if self.level == "node" else segment_mean(rows, batch.batch, batch.num_graphs))

    def loss(self, batch: Batch, loss: Loss | None) -> Tensor:
        out = self(batch)
        if loss is not None:
            return loss(out.squeeze(1), batch.target)
        labelled = batch.target >= 0
        # a sum over a count of at least 1: a batch without any label gives 0, not NaN
        total = F.cross_entropy(out[labelled], batch.target[labelled], reduction="sum")
        return total / labelled.sum().clamp(min=1)


def _predict(
    network: _Network, graphs: Sequence[Data], batch_size: int, device: str | torch.device, classes: bool
) -> NDArray[np.float64]:
    parts = []
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(graphs), batch_size):
            chunk = [_marked(graph, torch.zeros(0)) for graph in graphs[start : start + batch_size]]
            out = network(Batch.from_data_list(chunk).to(device))
            parts.append((out.softmax(1) if classes else out.squeeze(1)).double().cpu())
    return torch.cat(parts).numpy()
