"""H-MGDM as its authors released it, oddities included, to use released weights and to compare with the paper.

*Nodes* and *edges* are tissue entities and their adjacency, each with a latent (3072 numbers in the release). *Hidden*
are a share of the nodes and, independently, of the directed edges of the whole batch; hidden edges are removed from
the encoder, hidden nodes are not. *Predicted* are the attributes of the hidden rows, or one reverse step of them.

Use :class:`histograph.methods.HMGDM` with ``official_compat=True``. For new models its default form is the better
choice, for the released network

- rotates attributes by an angle that counts nodes and edges in storage order, so the result depends on that order;
- lets the encoder see the hidden nodes, and hands the decoder the clean attributes that it is to predict;
- uses one map for mean and log variance of the nodes, and a log variance of edges that is at least 0;
- attends in the joint transformer across the graphs of a batch, so a graph's loss depends on its neighbours;
- replaces hidden nodes by what they read (no residual), and has affine maps in a row without activation.

The file reads top to bottom as a step runs: rotate, hide, noise, encode, decode, compare.

Zhuang, Cen, Li, Zhou, Yu, Magnier and Wang, "Dynamic Entity-Masked Graph Diffusion Model for Histopathology
Image Representation Learning", AAAI 2025.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..nn import (
    AttentionLayout,
    antithetic_times,
    beta_schedule,
    segment_max,
    segment_mean,
    sinusoidal_embedding,
)
from ..nn.bounds import check_bounds
from ..nn.diffusion import Schedule
from .base import Embedding, check_finite
from .hmgdm_released_layers import (
    ReleasedBlock,
    ReleasedEncoding,
    ReleasedLayers,
    ReleasedTransformer,
    affine_pair,
    mean_entry,
)
from .hmgdm_released_noise import first_of, noisy_rows, paired_times, rotary_code

RELEASED_TARGETS = ("x0", "step")
RELEASED_POOLINGS = ("mean", "max")
# arguments of HMGDM that the released network takes as they are
_SHARED = (
    "node_dim",
    "edge_dim",
    "hidden_dim",
    "embed_dim",
    "layers",
    "heads",
    "joint_depth",
    "node_mask_ratio",
    "edge_mask_ratio",
    "theta",
    "timesteps",
    "schedule",
    "beta_start",
    "beta_end",
    "target",
    "fixed_time",
    "kl_weight",
    "node_weight",
    "edge_weight",
    "pooling",
)


@dataclass(frozen=True)
class ReleasedGraphs:
    """A batch as the released network reads it.

    Attributes
    ----------
    x : Tensor
        (N, F) rotated node attributes.
    edge_index : Tensor
        (2, E) int64.
    edge_attr : Tensor
        (E, F') rotated edge attributes.
    batch, edge_batch : Tensor
        (N,) and (E,) int64, the graph of each node and edge.
    num_graphs : int
        Number of graphs.

    Examples
    --------
    >>> import torch
    >>> index = torch.tensor([[0, 1], [1, 0]])
    >>> zero = torch.zeros(2, dtype=torch.long)
    >>> ReleasedGraphs(torch.zeros(2, 4), index, torch.zeros(2, 4), zero, zero, 1).num_graphs
    1
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    edge_batch: Tensor
    num_graphs: int


class ReleasedHMGDM(nn.Module):
    """The released network with its parts one by one, so that each can be run with given masks, noise and times.

    Most users want ``HMGDM(..., official_compat=True)``, which trains, saves and embeds with it.

    Parameters
    ----------
    node_dim, edge_dim : int
        Columns of ``x`` and ``edge_attr``, even.
    hidden_dim : int
        Width h of layers and latents, divisible by ``heads``.
    embed_dim : int
        Width D of the embedded attributes.
    layers, heads, joint_depth : int
        Encoder layers (at least 2), attention heads, depth of the joint transformer.
    node_mask_ratio, edge_mask_ratio : float
        Hidden share of all nodes and all directed edges of the batch, rounded down.
    theta : float
        Base of the rotary frequencies.
    timesteps : int
        Noise levels T.
    schedule : str
        See :func:`histograph.nn.beta_schedule`.
    beta_start, beta_end : float, optional
        Ends of the schedule; see there.
    target : {"x0", "step"}
        Loss of :meth:`forward`: the hidden attributes (the released mode ``direct``), or one deterministic reverse
        step of them. The decoder is given the clean attributes in both.
    fixed_time : int, optional
        Time of the first ``G // 2 + 1`` graphs, the others get ``T - 1 - fixed_time``; random pairs by default.
    kl_weight, node_weight, edge_weight : float
        Weights of the three terms.
    pooling : {"mean", "max"}
        How node vectors make the graph vector.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> graph = Data(x=torch.randn(4, 6), edge_index=index, edge_attr=torch.randn(4, 2))
    >>> network = ReleasedHMGDM(6, 2, hidden_dim=8, embed_dim=12)
    >>> sorted(network(graph))
    ['edge', 'kl', 'loss', 'node']
    >>> network.encode(graph).graph.shape
    torch.Size([1, 8])
    """

    betas: Tensor
    alphas: Tensor

    def __init__(
        self,
        node_dim: int = 3072,
        edge_dim: int = 3072,
        hidden_dim: int = 256,
        embed_dim: int = 512,
        layers: int = 3,
        heads: int = 4,
        joint_depth: int = 2,
        node_mask_ratio: float = 0.6,
        edge_mask_ratio: float = 0.6,
        theta: float = 1000.0,
        timesteps: int = 1000,
        schedule: Schedule = "sigmoid",
        beta_start: float | None = None,
        beta_end: float | None = None,
        target: Literal["x0", "step"] = "x0",
        fixed_time: int | None = None,
        kl_weight: float = 1.0,
        node_weight: float = 0.5,
        edge_weight: float = 0.5,
        pooling: Literal["mean", "max"] = "mean",
    ) -> None:
        super().__init__()
        _check_arguments({name: value for name, value in locals().items() if name != "self"})
        self.node_dim, self.edge_dim, self.hidden_dim, self.theta = node_dim, edge_dim, hidden_dim, theta
        self.node_mask_ratio, self.edge_mask_ratio = node_mask_ratio, edge_mask_ratio
        self.target, self.fixed_time, self.pooling = target, fixed_time, pooling
        self.weights = {"kl": kl_weight, "node": node_weight, "edge": edge_weight}

        betas = torch.from_numpy(beta_schedule(schedule, timesteps, beta_start, beta_end)).float()
        self.register_buffer("betas", betas)
        self.register_buffer("alphas", (1 - betas).cumprod(0))
        self.node_embed = nn.Sequential(nn.LayerNorm(node_dim), nn.Linear(node_dim, embed_dim))
        self.edge_embed = nn.Sequential(nn.LayerNorm(edge_dim), nn.Linear(edge_dim, embed_dim))
        self.time = nn.Sequential(
            nn.Linear(hidden_dim, 4 * hidden_dim),
            nn.ReLU(),
            nn.Linear(4 * hidden_dim, 4 * hidden_dim),
            nn.ReLU(),
            nn.Linear(4 * hidden_dim, hidden_dim),
        )
        self.encoder = ReleasedLayers(embed_dim, hidden_dim, layers)
        self.node_query = affine_pair(embed_dim, embed_dim // 2, hidden_dim)
        self.edge_query = affine_pair(embed_dim, embed_dim // 2, hidden_dim)
        self.node_joint = ReleasedTransformer(hidden_dim, heads, joint_depth)
        self.edge_joint = ReleasedTransformer(hidden_dim, heads, joint_depth)
        self.blocks = nn.ModuleList(ReleasedBlock(hidden_dim, heads) for _ in range(layers - 1))
        self.node_head = _relu_maps(hidden_dim, hidden_dim, embed_dim, node_dim)
        self.edge_head = _relu_maps(hidden_dim, hidden_dim, embed_dim, edge_dim)
        # in released checkpoints, read by nothing
        self.unused = nn.ModuleDict(
            {
                "node_norm": nn.LayerNorm(hidden_dim),
                "edge_norm": nn.LayerNorm(hidden_dim),
                "pair_score": _relu_maps(2 * hidden_dim, hidden_dim, hidden_dim // 2, 1),
            }
        ).requires_grad_(False)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Hide rows of the whole batch, encode, decode and compare.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (N, node_dim), ``edge_index`` (2, E), ``edge_attr`` (E, edge_dim).

        Returns
        -------
        dict of str to Tensor
            ``loss``, and detached ``kl``, ``node`` and ``edge``.

        Raises
        ------
        ValueError
            If the columns are not those of the constructor.
        """
        graphs = self.read(batch)
        device = graphs.x.device
        hidden = (
            first_of(torch.randperm(graphs.x.shape[0], device=device), self.node_mask_ratio),
            first_of(torch.randperm(graphs.edge_attr.shape[0], device=device), self.edge_mask_ratio),
        )
        time = self.times(graphs.num_graphs)
        encoding = self.encode_rows(graphs, ~hidden[1])
        latents = encoding.sample(torch.randn_like(encoding.node_mean), torch.randn_like(encoding.edge_mean))
        out = self.decode(graphs, hidden, encoding, latents, time)
        goals = graphs.x[hidden[0]], graphs.edge_attr[hidden[1]]
        if self.target == "step":
            goals = (
                self.step_target(goals[0], torch.randn_like(goals[0]), time[graphs.batch[hidden[0]]]),
                self.step_target(goals[1], torch.randn_like(goals[1]), time[graphs.edge_batch[hidden[1]]]),
            )
        terms = {"kl": encoding.kl()} | {
            name: mean_entry((prediction.float() - goal).square())
            for name, prediction, goal in zip(("node", "edge"), out, goals, strict=True)
        }
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}

    def encode(self, batch: Any) -> Embedding:
        """Embed whole graphs with the posterior mean; the released code draws a sample, see `encode_rows`.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`forward`.

        Returns
        -------
        Embedding
            ``node`` (N, h), ``graph`` (G, h), ``edge`` (E, h).
        """
        graphs = self.read(batch)
        encoding = self.encode_rows(graphs)
        return Embedding(encoding.node_mean, self.pool(encoding.node_mean, graphs), encoding.edge_mean)

    def read(self, batch: Any) -> ReleasedGraphs:
        """Check the columns of a PyG batch and rotate its attributes."""
        for name, values, dim in (
            ("x", batch.x, self.node_dim),
            ("edge_attr", batch.edge_attr, self.edge_dim),
        ):
            if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] != dim:
                found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"{name} must have {dim} columns for this H-MGDM, found {found}")
            check_finite(name, values)
        batch_index = getattr(batch, "batch", None)
        num_graphs = 1 if batch_index is None else int(batch.num_graphs)
        index = batch.x.new_zeros(batch.x.shape[0], dtype=torch.long) if batch_index is None else batch_index
        edge_batch = index[batch.edge_index[0]]
        return ReleasedGraphs(
            rotary_code(batch.x.to(self.betas.dtype), index, num_graphs, self.theta),
            batch.edge_index,
            rotary_code(batch.edge_attr.to(self.betas.dtype), edge_batch, num_graphs, self.theta),
            index,
            edge_batch,
            num_graphs,
        )

    def times(self, num_graphs: int) -> Tensor:
        """Draw a time for each graph (G,), in pairs that sum to T - 1."""
        if self.fixed_time is not None:
            return paired_times(self.fixed_time, num_graphs, self.betas.numel(), self.betas.device)
        return antithetic_times(num_graphs, self.betas.numel(), self.betas.device)

    def step_target(self, clean: Tensor, eps: Tensor, time: Tensor) -> Tensor:
        """Give ``a_{t-1} - a_t`` with the same noise, 0 at t = 0, for rows (N, F) at times (N,)."""
        before = self.alphas[(time - 1).clamp(min=0)]
        return noisy_rows(clean, eps, before) - noisy_rows(clean, eps, self.alphas[time])

    def encode_rows(self, graphs: ReleasedGraphs, visible_edges: Tensor | None = None) -> ReleasedEncoding:
        """Encode all nodes, and the edges that the (E,) bool mask leaves visible; all without a mask."""
        e, edge_index = graphs.edge_attr, graphs.edge_index
        if visible_edges is not None:
            e, edge_index = e[visible_edges], edge_index[:, visible_edges]
        return self.encoder.encode(self.node_embed(graphs.x), self.edge_embed(e), edge_index)

    def pool(self, z: Tensor, graphs: ReleasedGraphs) -> Tensor:
        """Pool node vectors (N, h) over each graph, (G, h)."""
        pool = segment_max if self.pooling == "max" else segment_mean
        return pool(z, graphs.batch, graphs.num_graphs)

    def decode(
        self,
        graphs: ReleasedGraphs,
        hidden: tuple[Tensor, Tensor],
        encoding: ReleasedEncoding,
        latents: tuple[Tensor, Tensor],
        time: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predict the attributes of the hidden nodes and edges.

        Parameters
        ----------
        graphs : ReleasedGraphs
            Attributes for the decoder; the released forward hands over the clean ones.
        hidden : tuple of Tensor
            (N,) and (E,) bool, True on hidden nodes and edges.
        encoding : ReleasedEncoding
            Of all nodes and of the visible edges.
        latents : tuple of Tensor
            (N, h) and (number of visible edges, h) samples.
        time : Tensor
            (G,) int64.

        Returns
        -------
        node, edge : Tensor
            (number of hidden nodes, node_dim) and (number of hidden edges, edge_dim), in index order.
        """
        (node_hidden, node_shown), (edge_hidden, edge_shown) = (_rows(mask) for mask in hidden)
        tau = self.time(sinusoidal_embedding(time, self.hidden_dim).to(self.betas.dtype))
        node_tau, edge_tau = tau[graphs.batch], tau[graphs.edge_batch]
        x = self.node_query(self.node_embed(graphs.x)) + node_tau
        e = self.edge_query(self.edge_embed(graphs.edge_attr)) + edge_tau
        x = self.node_joint(_put(x, node_shown, latents[0][node_shown]), _one_block(graphs.batch))
        e = self.edge_joint(_put(e, edge_shown, latents[1]), _one_block(graphs.edge_batch))
        node_reads = AttentionLayout(graphs.batch[node_hidden], graphs.batch[node_shown], graphs.num_graphs)
        edge_reads = AttentionLayout(
            graphs.edge_batch[edge_hidden], graphs.edge_batch[edge_shown], graphs.num_graphs
        )
        for layer in reversed(range(len(self.blocks))):
            block = cast(ReleasedBlock, self.blocks[layer])
            x, e = x + node_tau, e + edge_tau
            node_skip, edge_skip = encoding.node_layers[layer][node_shown], encoding.edge_layers[layer]
            read = block.edge_reader(e[edge_hidden], edge_skip, edge_reads)
            e = _put(_put(e, edge_hidden, e[edge_hidden] + read), edge_shown, edge_skip)
            # hidden nodes keep nothing of themselves
            x = _put(x, node_hidden, block.node_reader(x[node_hidden], node_skip, node_reads))
            x = _put(x, node_shown, node_skip)
            (x,), (e,) = block.layers(x, e, graphs.edge_index)
            x, e = block.node_out(x), block.edge_out(e)
        return self.node_head(x[node_hidden]), self.edge_head(e[edge_hidden])


def build_released(config: dict[str, Any]) -> ReleasedHMGDM:
    """Build the released network from the arguments of :class:`histograph.methods.HMGDM`.

    Parameters
    ----------
    config : dict
        All arguments by name.

    Returns
    -------
    ReleasedHMGDM
        The network.

    Raises
    ------
    ValueError
        If an argument asks for what the released network cannot do, or is outside its range.

    Examples
    --------
    >>> from histograph.methods import HMGDM
    >>> HMGDM(6, 4, hidden_dim=8, official_compat=True).released.betas.shape
    torch.Size([1000])
    >>> HMGDM(6, 4, hidden_dim=8, skips=False, official_compat=True)
    Traceback (most recent call last):
    ValueError: skips must be True with official_compat=True, ...; found False...
    """
    possible: dict[str, tuple[Any, ...]] = {
        "latent_dim": (None, config["hidden_dim"]),
        "paired_edges": (None, False),
        "target": RELEASED_TARGETS,
        "edge_latents": (None, True),
        "skips": (True,),
        "pooling": RELEASED_POOLINGS,
        "representation": ("latent",),
        "read_time": (None,),
        "clip": (None,),
    }
    for name, values in possible.items():
        if config[name] not in values:
            raise ValueError(
                f"{name} must be {' or '.join(map(str, values))} with official_compat=True, for the released "
                f"network knows nothing else; found {config[name]!r}. The default form does"
            )
    released = {"kl_weight": 1.0, "embed_dim": 512, "theta": 1000.0}
    given = {name: config[name] for name in _SHARED if name not in released or config[name] is not None}
    return ReleasedHMGDM(**(released | given))


def _relu_maps(first: int, second: int, third: int, fourth: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(first, second), nn.ReLU(), nn.Linear(second, third), nn.ReLU(), nn.Linear(third, fourth)
    )


def _rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers where the mask is True, and where it is False."""
    return mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)


def _put(rows: Tensor, index: Tensor, values: Tensor) -> Tensor:
    return rows.index_copy(0, index, values.to(rows.dtype))


def _one_block(batch: Tensor) -> AttentionLayout:
    """Let every row of the batch see every other, of whatever graph."""
    together = torch.zeros_like(batch)
    return AttentionLayout(together, together, 1)


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    steps = config["timesteps"]
    bounds = [
        (
            name,
            config[name] >= 2 and config[name] % 2 == 0,
            "even and at least 2: columns are rotated in pairs",
        )
        for name in ("node_dim", "edge_dim")
    ]
    bounds += [
        ("hidden_dim", config["hidden_dim"] >= 4, "at least 4"),
        ("embed_dim", config["embed_dim"] >= 1, "at least 1"),
        ("layers", config["layers"] >= 2, "at least 2: decoder blocks read the layers before the last"),
        ("joint_depth", config["joint_depth"] >= 1, "at least 1"),
        ("theta", config["theta"] > 0, "above 0"),
        ("target", config["target"] in RELEASED_TARGETS, f"one of {', '.join(RELEASED_TARGETS)}"),
        ("pooling", config["pooling"] in RELEASED_POOLINGS, f"one of {', '.join(RELEASED_POOLINGS)}"),
        (
            "fixed_time",
            config["fixed_time"] is None or 0 <= config["fixed_time"] < steps,
            f"in 0 .. timesteps - 1 = {steps - 1}, or None",
        ),
    ]
    bounds += [
        (name, 0 <= config[name] < 1, "at least 0 and below 1")
        for name in ("node_mask_ratio", "edge_mask_ratio")
    ]
    bounds += [
        (name, config[name] >= 0, "at least 0") for name in ("kl_weight", "node_weight", "edge_weight")
    ]
    check_bounds(bounds, config, " in the released H-MGDM (official_compat)")
