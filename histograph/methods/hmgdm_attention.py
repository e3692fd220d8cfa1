"""Where H-MGDM looks: how much each node is read by the decoder while others are hidden."""

import math
from typing import Any, cast

import torch
from torch import Tensor

from ..nn import AttentionLayout, CrossAttention, received_attention, segment_sum
from ..nn.seeded import seeded
from .hmgdm import HMGDM, _DecoderBlock, _Graphs

# Rounds at most, as a multiple of what is expected to suffice: random masks may leave a node out for long.
_PATIENCE = 20


def attention_read(method: HMGDM, batch: Any, visible: int = 8, seed: int = 0) -> Tensor:
    """Measure how much hidden nodes read each node when it is visible, over many random masks.

    In every round a fresh part of each graph is hidden, as in training, and noised to the highest level, where most
    must be inferred from the visible part. The weights of the decoder's cross attentions to a visible node are summed
    over the hidden nodes and averaged over heads and blocks; times visible nodes over hidden nodes of
    its graph, so that 1 is what a node gets where attention is even.

    Parameters
    ----------
    method : HMGDM
        Trained, in its own form.
    batch : torch_geometric.data.Batch or Data
        As in :meth:`HMGDM.forward`.
    visible : int
        Rounds go on until each node was visible that often (or 20 times longer than that should take).
    seed : int
        Of masks and noise. Torch's generator is left as it was.

    Returns
    -------
    Tensor
        (N,) at least 0, mean over the rounds in which the node was visible and others of its graph were hidden;
        NaN for a node without such a round, as in a graph of one node.

    Raises
    ------
    ValueError
        If `visible` is below 1, the columns are not those of the method, or the method is the released network.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> graph = Data(x=torch.randn(6, 3), edge_index=torch.zeros(2, 0, dtype=torch.long))
    >>> attention_read(HMGDM(3, hidden_dim=16), graph, visible=2).shape
    torch.Size([6])
    """
    if visible < 1:
        raise ValueError(f"visible must be at least 1, found {visible}")
    if method.released is not None:
        raise ValueError(
            "the attention of the released network (official_compat=True) is not read; see HMGDM"
        )
    with torch.no_grad(), seeded(seed, method.node_scale.mean.device):
        graphs = method._read(batch)
        size = torch.bincount(graphs.batch, minlength=graphs.num_graphs)
        # graphs so small that nothing of them is ever hidden are not waited for
        waited = ((size.double() * method.node_mask_ratio).floor() >= 1)[graphs.batch]
        total, count = torch.zeros_like(graphs.x[:, 0]), torch.zeros_like(graphs.batch)
        for _ in range(math.ceil(_PATIENCE * visible / (1 - method.node_mask_ratio))):
            if not bool((count[waited] < visible).any()):
                break
            weight, seen = read_once(method, graphs, *method._masks(graphs))
            total, count = total + weight, count + seen
        return torch.where(count > 0, total / count, torch.nan)


@torch.no_grad()
def read_once(
    method: HMGDM, graphs: _Graphs, hidden_nodes: Tensor, hidden_edges: Tensor
) -> tuple[Tensor, Tensor]:
    """Measure one round of :func:`attention_read`.

    Parameters
    ----------
    method : HMGDM
        The method.
    graphs : _Graphs
        The batch as the method reads it.
    hidden_nodes, hidden_edges : Tensor
        (N,) and (E,) bool.

    Returns
    -------
    weight : Tensor
        (N,) 0 for nodes that were not seen.
    seen : Tensor
        (N,) bool, visible while other nodes of the graph were hidden.
    """
    split = method._split(graphs, hidden_nodes, hidden_edges)
    encoded = method._condition(split)
    times = split.node_batch.new_full((graphs.num_graphs,), method.diffusion.timesteps - 1)
    hidden_rows = split.x[split.visible :]
    when = times[:1].expand(len(hidden_rows))
    noisy = method.diffusion.noisy(hidden_rows, torch.randn_like(hidden_rows), when)
    received: list[Tensor] = []

    def keep(module: CrossAttention, inputs: tuple[Tensor, Tensor, AttentionLayout]) -> None:
        rows, context, layout = inputs
        key = module.key_value(context).chunk(2, dim=1)[0]
        received.append(received_attention(module.query(rows), key, layout, module.heads))

    blocks = [cast(_DecoderBlock, block) for block in method.decoder.blocks]
    hooks = [block.node.attention.register_forward_pre_hook(keep) for block in blocks]
    try:
        # the decoder's nodes do not read its edges, which would cost most of the time
        method._denoise(split, encoded, (encoded.node_mean, None), noisy, None, times)
    finally:
        for hook in hooks:
            hook.remove()
    hidden = segment_sum(hidden_nodes.to(graphs.x).unsqueeze(1), graphs.batch, graphs.num_graphs)[:, 0]
    shown = segment_sum((~hidden_nodes).to(graphs.x).unsqueeze(1), graphs.batch, graphs.num_graphs)[:, 0]
    even = (shown / hidden.clamp(min=1))[graphs.batch]
    weight = torch.zeros_like(graphs.x[:, 0])
    weight[~hidden_nodes] = torch.stack(received).mean(0)
    return weight * even, ~hidden_nodes & (hidden > 0)[graphs.batch]
