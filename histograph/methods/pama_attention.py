"""Where PAMA looks: what the anchors of a slide take from its patches, and the slide node from the anchors."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .pama import PAMA, _Block
from .pama_released import ReleasedPAMA
from .pama_released_input import grid_places
from .pama_released_layers import ReleasedRound


@dataclass(frozen=True)
class AnchorMaps:
    """Attention of one slide.

    Attributes
    ----------
    anchor_index : Tensor
        (K,) int64 rows of the patches at which the anchors are.
    weight : Tensor
        (H, K, P) attention of each anchor to each patch; what is missing to a sum of 1 goes to the slide node.
    slide_weight : Tensor
        (H, K) attention of the slide node to each anchor, summing to 1 (in the released form, less what goes to
        anchors of the padding).

    Examples
    --------
    >>> AnchorMaps(torch.tensor([2]), torch.ones(4, 1, 3) / 3, torch.ones(4, 1)).slide_weight.shape
    torch.Size([4, 1])
    """

    anchor_index: Tensor
    weight: Tensor
    slide_weight: Tensor


def anchor_maps(method: PAMA, graph: Any, block: int = -1) -> AnchorMaps:
    """Compute the attention between anchors, patches and slide node in one block of the encoder.

    Parameters
    ----------
    method : PAMA
        In its own or in the released form; it is put into evaluation mode while it runs.
    graph : torch_geometric.data.Data
        One slide, as in :meth:`PAMA.forward`.
    block : int
        Number of the block, from 0; negative numbers count from the last.

    Returns
    -------
    AnchorMaps
        On the device of the method.

    Raises
    ------
    ValueError
        If there is no such block, or the graph is a batch of several slides.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> slide = Data(x=torch.randn(30, 4), pos=torch.rand(30, 2) * 900)
    >>> method = PAMA(4, hidden_dim=8, layers=2, heads=2, decoder_dim=8, num_anchors=5)
    >>> anchor_maps(method, slide).weight.shape
    torch.Size([2, 5, 30])
    """
    layers = len(method.blocks if method.released is None else method.released.blocks)
    if not -layers <= block < layers:
        raise ValueError(
            f"block must be in -{layers} .. {layers - 1}, the method has {layers}; found {block}"
        )
    ptr = getattr(graph, "ptr", None)
    if ptr is not None and ptr.numel() > 2:
        raise ValueError(
            f"graph must be one slide, found a batch of {ptr.numel() - 1}; give one of its slides"
        )
    training = method.training
    method.eval()
    try:
        with torch.no_grad():
            if method.released is not None:
                return _released_maps(method.released, graph, block)
            return _own_maps(method, graph, block)
    finally:
        method.train(training)


def _own_maps(method: PAMA, graph: Any, block: int) -> AnchorMaps:
    slides = method._read(graph)
    seen = None if slides.seen is None else slides.seen[0]
    given: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.extend(inputs[:2])

    chosen = cast(_Block, method.blocks[block])
    handle = chosen.register_forward_pre_hook(keep)
    try:
        method._encode(slides, None)
    finally:
        handle.remove()
    x, anchors = (chosen.norm1(rows) for rows in given)
    weight, back = chosen.attention.weights(x, anchors, slides.code[0], seen)
    rows = method._anchor_rows(graph, slides.x, graph.pos, [len(slides.x)])[0]
    return AnchorMaps(rows, weight[:, :, 1:], back[:, 0])


def _released_maps(network: ReleasedPAMA, graph: Any, block: int) -> AnchorMaps:
    rounds: list[ReleasedRound] = []
    network.represent(network.reader.read(graph), None, rounds)
    given = getattr(graph, "anchor_index", None)
    rows = network.reader._chosen(grid_places(graph.pos)) if given is None else given
    rows = rows[: network.reader.max_anchors]
    count = min(len(graph.x), network.reader.max_patches)
    found = rounds[block]
    weight = found.anchor_weight.new_zeros(found.anchor_weight.shape[1], len(rows), len(graph.x))
    weight[:, :, :count] = found.anchor_weight[0, :, : len(rows), 1 : 1 + count]
    return AnchorMaps(rows, weight, found.token_weight[0, :, 0, : len(rows)])
