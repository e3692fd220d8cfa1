"""Latents of the image crops of nodes and edges: what stage 1 of H-MGDM adds to a graph."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import BaseStorage
from tqdm.auto import tqdm

from histograph.features import PatchEncoder, iter_crops
from histograph.features.encoder import put_on
from histograph.graphs.layer import pick_node_type, pick_relation
from histograph.graphs.morton import morton_order
from histograph.graphs.order import EDGE, NODE
from histograph.graphs.schema import EdgeType, Graph
from histograph.methods import Method, Patches
from histograph.slides import Slide

from .centres import crop_centres
from .patches import Pixels, check_slide


def add_latents(
    graph: Graph,
    slide: Slide,
    encoder: Method | PatchEncoder,
    size_um: float | None = None,
    node_type: str | None = None,
    relation: str | EdgeType | None = None,
    edges: bool = True,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    workers: int = 2,
    progress: bool = True,
) -> None:
    """Give each node and each edge of one layer the latent of the image around it.

    The node store gets ``latent`` (N, L) and the relation's store ``edge_latent`` (E, L), both float16; those that
    are there are replaced. A node's crop lies around its position and an edge's around its midpoint, one for both
    directions. Crops are read in spatial order and forgotten once encoded, so that the memory beyond the latents
    does not grow with the slide. `save` writes the latents, and ``GraphDataset(..., node_fields=("latent",),
    edge_fields=("edge_attr", "edge_latent"))`` hands them to a method.

    Parameters
    ----------
    graph : torch_geometric.data.Data or torch_geometric.data.HeteroData
        A graph of `slide`; changed in place.
    slide : Slide
        Where the pixels come from.
    encoder : Method or PatchEncoder
        A method of image patches such as `EntityAutoencoder`, or a patch encoder.
    size_um : float, optional
        Side of a crop in micrometres; a method needs it, a patch encoder has its own.
    node_type, relation : str, optional
        The layer, as in `histograph.graphs.layer`.
    edges : bool
        Whether edges get latents too.
    batch_size : int
        Crops at a time.
    device : str or torch.device, optional
        Where to compute; where the weights are, by default.
    workers : int
        Threads that read crops.
    progress : bool
        Whether to show a bar.

    Raises
    ------
    ValueError
        If the graph is of another slide or lacks the layer, `size_um` is missing or one too many, or a latent is
        not finite or too large for float16.
    TypeError
        If the encoder does not read image patches.

    Examples
    --------
    >>> from histograph.methods import EntityAutoencoder
    >>> from histograph.slides import open_slide
    >>> from torch_geometric.data import Data
    >>> slide = open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5)
    >>> pair = Data(pos=torch.tensor([[1.0, 1], [3, 3]]), edge_index=torch.tensor([[0, 1], [1, 0]]))
    >>> stage1 = EntityAutoencoder(size_px=8, width=8)
    >>> add_latents(pair, slide, stage1, size_um=2, progress=False)
    >>> pair.latent.shape, pair.edge_latent.shape, pair.latent.dtype
    (torch.Size([2, 4]), torch.Size([2, 4]), torch.float16)
    """
    check_slide(graph, slide)
    node_store, edge_store, place = _stores(graph, node_type, relation, edges)
    centres = crop_centres(node_store["pos"], None if edge_store is None else edge_store["edge_index"])
    module, size_um, size_px, encode = _crop_encoder(encoder, size_um)
    pos = np.concatenate([centres.node, centres.edge])
    order = morton_order(pos)
    batches = iter_crops(slide, pos[order], size_um, size_px, batch_size, workers)
    tensors = chain(module.parameters(), module.buffers())
    home = next((tensor.device for tensor in tensors), torch.device("cpu"))
    target = home if device is None else torch.device(device)
    modes = [(part, part.training) for part in module.modules()]
    latents: Tensor | None = None
    done = 0
    try:
        put_on(module.eval(), target)
        with tqdm(total=len(pos), desc="latents", unit="crop", disable=not progress) as bar:
            for images in batches:
                found = encode(images, target).to("cpu", torch.float16)
                rows = order[done : done + len(images)]
                _check_finite(found, pos[rows])
                if latents is None:
                    latents = torch.empty(len(pos), found.shape[1], dtype=torch.float16)
                latents[torch.from_numpy(rows)] = found
                done += len(images)
                bar.update(len(images))
        if latents is None:  # no node: one white crop tells the number of columns
            white = np.full((1, size_px, size_px, 3), 255, np.uint8)
            latents = encode(white, target)[:0].to("cpu", torch.float16)
    finally:
        module.to(home)
        for part, training in modes:
            part.training = training
    count = len(centres.node)
    node_store["latent"] = latents[:count].clone()
    if edge_store is not None:
        edge_store["edge_latent"] = latents[count:][torch.from_numpy(centres.edge_row)]
    _note(graph, place, encoder, size_um, size_px)


def _stores(
    graph: Graph, node_type: str | None, relation: str | EdgeType | None, edges: bool
) -> tuple[BaseStorage, BaseStorage | None, tuple[str, EdgeType | None]]:
    """Find where nodes and edges of the layer are kept, and what the two are called."""
    if not isinstance(graph, HeteroData):
        return graph.stores[0], graph.stores[0] if edges else None, (NODE, EDGE if edges else None)
    node_type = pick_node_type(graph.node_types, node_type)
    if not edges:
        return graph[node_type], None, (node_type, None)
    edge_type = pick_relation(graph.edge_types, node_type, relation)
    if edge_type is None:
        raise ValueError(f"edges: the graph has no relation within {node_type!r}; give edges=False")
    return graph[node_type], graph[edge_type], (node_type, edge_type)


def _crop_encoder(
    encoder: Method | PatchEncoder, size_um: float | None
) -> tuple[torch.nn.Module, float, int, Callable[[Pixels, torch.device], Tensor]]:
    """Give the module, the side of its crops in micrometres and pixels, and what turns crops into vectors."""
    if isinstance(encoder, PatchEncoder):
        if size_um is not None:
            raise ValueError(
                f"size_um: the patch encoder {encoder.name!r} has its own, {encoder.size_um:g} µm; leave it out"
            )
        return encoder.module, encoder.size_um, encoder.size_px, encoder.encode
    size_px = getattr(encoder, "size_px", None)
    if not isinstance(encoder, Method) or not isinstance(size_px, int):
        raise TypeError(
            "encoder must be a PatchEncoder or a method of image patches, such as EntityAutoencoder; found "
            f"{type(encoder).__name__}"
        )
    if size_um is None:
        raise ValueError(
            "size_um is missing: give the side of a crop in micrometres, as the method was trained"
        )

    def encode(images: Pixels, device: torch.device) -> Tensor:
        with torch.inference_mode():
            return encoder.encode(Patches(torch.from_numpy(images).to(device))).graph

    return encoder, float(size_um), size_px, encode


def _check_finite(latents: Tensor, pos: np.ndarray) -> None:
    """Refuse what float16 cannot hold."""
    bad = ~torch.isfinite(latents).all(dim=1)
    if bad.any():
        x, y = pos[int(bad.nonzero()[0])]
        raise ValueError(
            f"encoder: the latent of the crop at ({x:.1f}, {y:.1f}) µm holds NaN, infinity, or a number beyond "
            f"the range of float16 (±65504); train the encoder longer or with a larger kl_weight"
        )


def _note(
    graph: Graph,
    place: tuple[str, EdgeType | None],
    encoder: Method | PatchEncoder,
    size_um: float,
    size_px: int,
) -> None:
    """Say in the graph's provenance, if it has one, where the latents come from."""
    provenance: dict[str, Any] | None = graph.stores[0].get("provenance")
    if provenance is None:
        return
    named = (
        {"encoder": encoder.name}
        if isinstance(encoder, PatchEncoder)
        else {"encoder": type(encoder).__name__, "config": dict(encoder.config)}
    )
    relation = list(place[1]) if place[1] is not None else None
    facts = {**named, "size_um": size_um, "size_px": size_px, "relation": relation}
    graph.provenance = {**provenance, "latents": {**provenance.get("latents", {}), place[0]: facts}}
