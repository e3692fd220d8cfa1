from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import DualHypergraph, GraphConv, HypergraphConv, SparseSum

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hmgdm" / "layers.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name[6:]: torch.tensor(file[name]) for name in file.files if name.startswith("layer_")}


def random_graph(nodes=9, pairs=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(nodes, nodes, 1)
    chosen = torch.randperm(i.numel(), generator=generator)[:pairs]
    edge_index = torch.stack([torch.cat([i[chosen], j[chosen]]), torch.cat([j[chosen], i[chosen]])])
    return (
        edge_index,
        torch.randn(nodes, 5, generator=generator),
        torch.randn(2 * pairs, 4, generator=generator),
    )


def dense_hypergraph_conv(conv, e, edge_index, nodes):
    """Build H with private singletons and evaluate D^-1 H B^-1 H^T E W + b."""
    edges = edge_index.shape[1]
    H = torch.zeros(edges, nodes)
    for a in range(edges):
        H[a, edge_index[0, a]] = H[a, edge_index[1, a]] = 1
    H = H[:, H.sum(0) > 1]
    H = torch.cat([H, torch.eye(edges)], dim=1)
    return (H / H.sum(1, keepdim=True)) @ (H / H.sum(0)).T @ e @ conv.weight + conv.bias


@pytest.mark.parametrize("directed", [False, True])
def test_hypergraph_conv_equals_the_dense_formula(directed):
    edge_index, _, e = random_graph()
    if directed:  # leaves hyperedges of a single edge, which must be dropped
        edge_index, e = edge_index[:, :6], e[:6]
    conv = HypergraphConv(4, 3)
    torch.nn.init.normal_(conv.bias)
    out = conv(e, DualHypergraph.from_edges(edge_index, 9))
    torch.testing.assert_close(out, dense_hypergraph_conv(conv, e, edge_index, 9))


def test_graph_conv_equals_the_dense_formula():
    edge_index, x, e = random_graph()
    weight = e[:, 0].abs()
    conv = GraphConv(5, 3)
    A = torch.eye(9)
    A[edge_index[1], edge_index[0]] = weight
    scale = torch.diag(A.sum(1) ** -0.5)
    torch.testing.assert_close(conv(x, edge_index, weight), scale @ A @ scale @ x @ conv.weight + conv.bias)


def test_graph_conv_takes_edges_that_are_sorted_already():
    edge_index, x, e = random_graph()
    conv, weight = GraphConv(5, 3), e[:, 0].abs()
    incoming = SparseSum.from_pairs(edge_index[1], edge_index[0], 9)
    assert torch.equal(conv(x, incoming, weight), conv(x, edge_index, weight))
    assert torch.equal(conv(x, incoming), conv(x, edge_index))


def test_hypergraph_conv_has_the_gradients_of_the_dense_formula():
    edge_index, _, e = random_graph()
    edge_index = edge_index[:, :15]  # some hyperedges with one edge, some with several
    conv, e = HypergraphConv(4, 3).double(), e[:15].double().requires_grad_()
    dual = DualHypergraph.from_edges(edge_index, 9)
    assert torch.autograd.gradcheck(lambda e: conv(e, dual), e)
    assert torch.autograd.gradgradcheck(lambda e: conv(e, dual).sin(), e)


def test_convolutions_equal_the_released_ones(golden):
    edge_index = golden["edge_index"]
    x, e = golden["x_emb"], golden["e_emb"]
    dual = DualHypergraph.from_edges(edge_index, 7)

    def filled(module, weight, bias):
        module.load_state_dict({"weight": weight, "bias": bias})
        return module

    first = filled(GraphConv(12, 8), golden["convs.0.lin.weight"].T, golden["convs.0.bias"])
    second = filled(GraphConv(8, 8), golden["convs.1.lin.weight"].T, golden["convs.1.bias"])
    edges = filled(HypergraphConv(12, 8), golden["hyperconvs.0.weight"], golden["hyperconvs.0.bias"])
    score = filled(HypergraphConv(8, 1), golden["scoreconvs.0.weight"], golden["scoreconvs.0.bias"])
    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(first(x, edge_index), golden["gcn0_out"], **close)
    torch.testing.assert_close(edges(e, dual), golden["hyperconv0_out"], **close)
    torch.testing.assert_close(
        score(golden["hyperconv0_out"].relu(), dual), golden["scoreconv0_out"], **close
    )
    weighted = second(golden["gcn0_out"].relu(), edge_index, golden["edge_weight"])
    torch.testing.assert_close(weighted, golden["gcn1_weighted_out"], **close)


def test_dual_incidence_equals_the_released_one(golden):
    edge_index, incidence = golden["edge_index"], golden["hyperedge_index"]
    dual = DualHypergraph.from_edges(edge_index, 7)
    per_edge = torch.bincount(incidence[0])
    torch.testing.assert_close(dual.edge_scale.squeeze(1), 1 / per_edge.float())
    shared = incidence[1] < 7
    per_node = torch.bincount(incidence[1][shared], minlength=7).float()
    torch.testing.assert_close(dual.node_scale.squeeze(1), torch.where(per_node > 0, 1 / per_node, 0.0))


def test_convolutions_follow_permutations_and_ignore_edge_order():
    edge_index, x, e = random_graph()
    nodes, edges = torch.randperm(9), torch.randperm(e.shape[0])
    place = torch.empty_like(nodes)
    place[nodes] = torch.arange(9)
    moved = place[edge_index[:, edges]]
    conv, hyper = GraphConv(5, 6), HypergraphConv(4, 6)
    torch.testing.assert_close(
        conv(x[nodes], moved, e[edges, 0].abs()), conv(x, edge_index, e[:, 0].abs())[nodes], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        hyper(e[edges], DualHypergraph.from_edges(moved, 9)),
        hyper(e, DualHypergraph.from_edges(edge_index, 9))[edges],
        atol=1e-5,
        rtol=0,
    )


def test_no_edges_and_isolated_nodes():
    none = torch.empty(2, 0, dtype=torch.long)
    conv, hyper = GraphConv(5, 6), HypergraphConv(4, 6)
    x = torch.randn(3, 5)
    torch.testing.assert_close(conv(x, none), x @ conv.weight + conv.bias)
    assert hyper(torch.empty(0, 4), DualHypergraph.from_edges(none, 3)).shape == (0, 6)
