"""Windows of graphs against PyG's subgraph and a count of nodes."""

import pytest
import torch
from torch_geometric.utils import subgraph

from histograph.nn import induced, random_window

from ..methods.graphs import graph


def test_a_window_is_a_rectangle_with_its_share_of_nodes():
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(500, 2, generator=generator) * 300
    shares = []
    for _ in range(50):
        inside = random_window(pos, (0.1, 0.4), generator)
        shares.append(float(inside.double().mean()))
        low, high = pos[inside].amin(0), pos[inside].amax(0)
        assert torch.equal(inside, ((pos >= low) & (pos <= high)).all(1))
    assert 0.1 <= min(shares) < 0.15 and 0.35 < max(shares) <= 0.4


def test_windows_of_tiny_and_of_stacked_graphs():
    assert random_window(torch.zeros(1, 2), (0.05, 0.4)).tolist() == [True]
    assert random_window(torch.zeros(5, 2), (0.05, 0.1)).all()  # all in one place
    with pytest.raises(ValueError, match="scale must be"):
        random_window(torch.zeros(1, 2), (0.0, 0.4))


def test_induced_subgraphs_are_pygs():
    generator = torch.Generator().manual_seed(0)
    data = graph(nodes=30, pairs=80)
    batch = torch.arange(30) // 15
    masks = [torch.rand(30, generator=generator) < share for share in (0.5, 0.9, 0.2)]
    parts = induced(masks, data.edge_index, batch, 2)
    start = edges = 0
    for number, mask in enumerate(masks):
        wanted, attr = subgraph(mask, data.edge_index, data.edge_attr, relabel_nodes=True, num_nodes=30)
        nodes = int(mask.sum())
        assert torch.equal(parts.node[start : start + nodes], mask.nonzero().squeeze(1))
        assert torch.equal(parts.batch[start : start + nodes], 2 * number + batch[mask])
        mine = slice(edges, edges + wanted.shape[1])
        assert torch.equal(parts.edge_index[:, mine], wanted + start)
        assert torch.equal(data.edge_attr[parts.edge[mine]], attr)
        start, edges = start + nodes, edges + wanted.shape[1]
    assert start == len(parts.node) and edges == parts.edge_index.shape[1]
