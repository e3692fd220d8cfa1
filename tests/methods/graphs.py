"""Synthetic graphs for the tests of methods and training."""

import torch
from torch_geometric.data import Data


def graph(nodes=20, pairs=30, node_dim=6, edge_dim=2, seed=0, **fields):
    """A random graph with both directions of `pairs` edges, at most as many as the nodes allow."""
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(nodes, nodes, 1)
    chosen = torch.randperm(i.numel(), generator=generator)[:pairs]
    edge_index = torch.stack([torch.cat([i[chosen], j[chosen]]), torch.cat([j[chosen], i[chosen]])])
    order = (edge_index[0] * nodes + edge_index[1]).argsort()
    edge_attr = torch.randn(chosen.numel(), edge_dim, generator=generator).repeat(2, 1)
    return Data(
        x=torch.randn(nodes, node_dim, generator=generator),
        pos=torch.rand(nodes, 2, generator=generator) * 100,
        edge_index=edge_index[:, order],
        edge_attr=edge_attr[order],
        **fields,
    )


def striped(seed, nodes=24, node_dim=6):
    """A ring whose features wave along it, so that hidden nodes can be told from their neighbours."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(nodes) / nodes * 2 * torch.pi + torch.rand(1, generator=generator) * 6
    wave = torch.stack([angle.sin(), angle.cos()], dim=1).repeat(1, node_dim // 2)
    here = torch.arange(nodes)
    edge_index = torch.stack([torch.cat([here, (here + 1) % nodes]), torch.cat([(here + 1) % nodes, here])])
    length = 1 + 0.5 * wave[edge_index[0], :1] * wave[edge_index[1], :1]
    return Data(
        x=wave + 0.1 * torch.randn(nodes, node_dim, generator=generator),
        edge_index=edge_index,
        edge_attr=length,
    )
