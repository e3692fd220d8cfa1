"""The numbered checks of the method's specification that apply to the default form, and the ablations."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import HMGDM
from histograph.methods.hmgdm import _gaussian_kl
from tests.methods.graphs import graph, striped

SMALL = {"hidden_dim": 16, "heads": 2, "joint_depth": 1}


def small(**settings):
    torch.manual_seed(0)
    return HMGDM(6, 2, **(SMALL | settings))


def batch_of(*sizes, first_seed=0):
    return Batch.from_data_list([graph(n, 2 * n, seed=first_seed + k) for k, n in enumerate(sizes)])


def split_of(method, batch, seed=0):
    torch.manual_seed(seed)
    graphs = method._read(batch)
    return method._split(graphs, *method._masks(graphs))


def outputs(method, batch, change=None, time=500, seed=0):
    """Run a step by hand, let `change` edit the hidden noisy nodes; return split, node and edge predictions."""
    split = split_of(method, batch, seed)
    encoded = method._condition(split)
    noisy = torch.randn(split.x[split.visible :].shape)
    noisy_edges = torch.randn(split.edge_attr[split.condition :].shape)
    noisy = noisy if change is None else change(noisy)
    times = torch.full((batch.num_graphs,), time)
    latents = (encoded.node_mean, encoded.edge_mean)
    return split, *method._denoise(split, encoded, latents, noisy, noisy_edges, times)


@pytest.mark.parametrize("paired", [True, False])
def test_masks_are_complementary_and_of_exact_size_per_graph(paired):  # checks 1 and 2
    method, batch = small(paired_edges=paired), batch_of(5, 12, 30)
    graphs = method._read(batch)
    nodes, edges = method._masks(graphs)
    edge_batch = batch.batch[batch.edge_index[0]]
    for g in range(3):
        n, e = int((batch.batch == g).sum()), int((edge_batch == g).sum())
        assert int(nodes[batch.batch == g].sum()) == int(0.6 * n)
        hidden = int(edges[edge_batch == g].sum())
        assert hidden == (2 * int(0.6 * (e // 2)) if paired else int(0.6 * e))
    split = method._split(graphs, nodes, edges)
    assert split.visible + int(nodes.sum()) == batch.num_nodes
    assert split.known + int(edges.sum()) == batch.num_edges
    assert (split.edge_index[:, : split.condition] < split.visible).all()
    assert (split.edge_index[:, split.condition : split.known] >= split.visible).any(0).all()
    if paired:
        twins = {(int(i), int(j)): bool(h) for (i, j), h in zip(batch.edge_index.T, edges)}
        assert all(twins[j, i] == hidden for (i, j), hidden in twins.items())


def test_reordering_keeps_every_row_and_edge():
    method, batch = small(), batch_of(5, 12)
    split = split_of(method, batch)
    x = method._read(batch).x

    def edge_set(x, edge_index, edge_attr):
        return {(*x[i].tolist(), *x[j].tolist(), *e.tolist()) for (i, j), e in zip(edge_index.T, edge_attr)}

    before = edge_set(x, batch.edge_index, method._read(batch).edge_attr)
    assert edge_set(split.x, split.edge_index, split.edge_attr) == before


def test_masks_are_fresh_and_seeded():  # check 3
    method, graphs = small(), small()._read(batch_of(30, 30))
    torch.manual_seed(1)
    first, second = method._masks(graphs), method._masks(graphs)
    torch.manual_seed(1)
    again = method._masks(graphs)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    # independent: as many hidden edges touch hidden nodes as chance would have it, not all or none
    touched = first[0][graphs.edge_index].any(0)
    assert 0 < (touched & first[1]).sum() < first[1].sum()


@pytest.mark.parametrize("representation", ["latent", "layers", "decoder"])
def test_encoder_follows_permutations(representation):  # check 11
    method, data = small(representation=representation).eval(), graph(15, 30)
    nodes, edges = torch.randperm(15), torch.randperm(60)
    place = torch.empty_like(nodes)
    place[nodes] = torch.arange(15)
    moved = Data(
        x=data.x[nodes], edge_index=place[data.edge_index[:, edges]], edge_attr=data.edge_attr[edges]
    )
    a, b = method.encode(data), method.encode(moved)
    torch.testing.assert_close(b.node, a.node[nodes], atol=1e-5, rtol=0)
    if representation != "decoder":
        torch.testing.assert_close(b.edge, a.edge[edges], atol=1e-5, rtol=0)
    torch.testing.assert_close(b.graph, a.graph, atol=1e-5, rtol=0)


def test_hidden_attributes_never_reach_the_encoder():  # check 12
    method, batch = small(), batch_of(12, 20)
    split = split_of(method, batch)
    encoded = method._condition(split)
    split.x[split.visible :] = 1e3
    split.edge_attr[split.condition :] = -1e3
    again = method._condition(split)
    assert torch.equal(encoded.node_mean, again.node_mean) and torch.equal(encoded.edge_mean, again.edge_mean)
    for a, b in zip(encoded.node_layers + encoded.edge_layers, again.node_layers + again.edge_layers):
        assert torch.equal(a, b)


def test_graphs_are_isolated():  # check 13
    method = small().eval()
    one, other, third = graph(15, 30), graph(12, 20, seed=1), graph(12, 20, seed=1)
    third.x, third.edge_attr = torch.randn(12, 6), torch.randn(40, 2)
    a, b = (Batch.from_data_list([one, g]) for g in (other, third))
    assert torch.equal(method.encode(a).node[:15], method.encode(b).node[:15])
    torch.testing.assert_close(method.encode(a).graph[:1], method.encode(one).graph)
    split, nodes, edges = outputs(method, a)
    _, nodes_b, edges_b = outputs(method, b)
    hidden = split.node_batch[split.visible :] == 0
    assert torch.equal(nodes[hidden], nodes_b[hidden]) and not torch.equal(nodes, nodes_b)
    hidden = split.edge_batch[split.known :] == 0
    assert torch.equal(edges[hidden], edges_b[hidden])


def test_batch_equals_single_graphs():
    method = small().eval()
    singles = [graph(n, n, seed=n) for n in (3, 17, 8)]
    together = method.encode(Batch.from_data_list(singles))
    torch.testing.assert_close(together.node, torch.cat([method.encode(g).node for g in singles]))
    torch.testing.assert_close(together.edge, torch.cat([method.encode(g).edge for g in singles]))
    torch.testing.assert_close(together.graph, torch.cat([method.encode(g).graph for g in singles]))


def test_divergence_is_the_closed_form():  # check 14
    mean, logvar = torch.randn(50, 4), torch.randn(50, 4)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(_gaussian_kl(mean, logvar), wanted)
    assert wanted > 0
    assert _gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2)) == 0
    terms = small()(batch_of(12, 20))
    assert terms["kl"] >= 0


def test_only_hidden_rows_are_predicted_and_compared():  # check 15
    method, batch = small(), batch_of(12, 20)
    split, nodes, edges = outputs(method, batch)
    assert nodes.shape == (batch.num_nodes - split.visible, 6)
    assert edges.shape == (batch.num_edges - split.known, 2)


def test_loss_is_the_weighted_sum():
    method = small(kl_weight=0.2, node_weight=3.0, edge_weight=0.7)
    terms = method(batch_of(12, 20))
    wanted = 0.2 * terms["kl"] + 3.0 * terms["node"] + 0.7 * terms["edge"]
    torch.testing.assert_close(terms["loss"].detach(), wanted)
    assert terms["loss"].requires_grad and not terms["node"].requires_grad


def test_prediction_depends_on_noisy_input_time_and_condition():  # check 16
    method, batch = small().eval(), batch_of(12, 20)
    _, nodes, edges = outputs(method, batch)
    _, other, other_edges = outputs(method, batch, change=lambda noisy: noisy + 1)
    assert (nodes - other).abs().max() > 1e-3
    assert torch.equal(edges, other_edges)  # the streams meet in the encoder only
    _, other, other_edges = outputs(method, batch, time=10)
    assert (nodes - other).abs().max() > 1e-3 and (edges - other_edges).abs().max() > 1e-3
    batch.x = batch.x + torch.randn(batch.x.shape)
    _, other, _ = outputs(method, batch)
    assert (nodes - other).abs().max() > 1e-4


def test_representation_is_deterministic():  # check 17
    method, batch = small(), batch_of(12, 20)
    torch.manual_seed(1)
    first = method.encode(batch)
    torch.manual_seed(2)
    second = method.encode(batch)
    assert torch.equal(first.node, second.node) and torch.equal(first.graph, second.graph)
    state = torch.get_rng_state()
    method.encode(batch)
    assert torch.equal(state, torch.get_rng_state())
    other = small(fixed_time=3, node_mask_ratio=0.2)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.encode(batch).node, first.node)


def test_layers_are_the_embedding_and_every_layer_side_by_side():
    latent = small()
    method, batch = small(representation="layers"), batch_of(12, 20)
    method.load_state_dict(latent.state_dict())
    vectors = method.encode(batch)
    width = method.encoder.node_convs[0].weight.shape[0]
    assert vectors.node.shape == (batch.num_nodes, 4 * width) and vectors.edge.shape[1] == 4 * width
    scaled = method.node_scale(batch.x)
    assert torch.equal(vectors.node[:, :width], method.node_embed(scaled))
    last = vectors.node[:, -width:]
    torch.testing.assert_close(method.encoder.node_mean(last), latent.encode(batch).node)


@pytest.mark.parametrize("settings", [{}, {"edge_latents": False}, {"skips": False}])
def test_decoder_representation_is_one_of_hidden_nodes(settings):
    method, data = small(representation="decoder", **settings).eval(), graph(12, 20)
    vectors = method.encode(data)
    assert vectors.node.shape == (12, method.node_embed[0].out_features) and vectors.edge is None
    torch.testing.assert_close(vectors.graph, vectors.node.mean(0, keepdim=True))
    assert torch.equal(method.encode(data).node, vectors.node)
    # through the rest of the head it is a prediction of clean attributes: the same rows, the same head
    graphs = method._read(data)
    predicted = method.decoder.node_head[1:](vectors.node)
    assert predicted.shape == graphs.x.shape
    # each node is read by itself and by its neighbours, and by the level that is assumed
    other = small(representation="decoder", read_time=900, **settings).eval()
    other.load_state_dict(method.state_dict())
    assert (other.encode(data).node - vectors.node).abs().max() > 1e-4
    data.x[0] += 3
    moved = (method.encode(data).node - vectors.node).abs().amax(1)
    assert moved[0] > 1e-3 and (moved[1:] > 0).any()


def test_decoder_representation_stays_inside_each_graph():
    method = small(representation="decoder").eval()
    first, second = graph(9, 14), graph(5, 6)
    together = method.encode(Batch.from_data_list([first, second])).node
    torch.testing.assert_close(together[:9], method.encode(first).node, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[9:], method.encode(second).node, atol=1e-5, rtol=0)


def test_assumed_level_follows_the_fixed_one():
    assert small().read_time == 500 and small(fixed_time=30).read_time == 30
    assert small(fixed_time=30, read_time=7).read_time == 7


def test_positions_are_not_read():  # check 18
    method, data = small(), graph()
    before = method.encode(data).node
    data.pos = data.pos @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + 1e4
    assert torch.equal(method.encode(data).node, before)


@pytest.mark.parametrize(
    "sizes", [[(4, 0)], [(1, 0)], [(1, 0), (9, 3)], [(2, 1), (20, 2)], [(0, 0), (5, 4)], [(3, 3), (40, 200)]]
)
def test_odd_graphs_give_finite_losses_and_gradients(sizes):  # check 19
    data = Batch.from_data_list([graph(n, p, seed=k) for k, (n, p) in enumerate(sizes)])
    for settings in ({}, {"skips": False}, {"paired_edges": False}, {"edge_mask_ratio": 0.0}):
        method = small(**settings)
        terms = method(data)
        terms["loss"].backward()
        assert all(term.isfinite() for term in terms.values())
        for name, parameter in method.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        z = method.encode(data)
        assert z.graph.isfinite().all() and z.graph.shape == (len(sizes), 16)


def test_memory_is_linear_in_the_number_of_graphs():  # check 20
    method = small()

    def saved(count):
        data, total = Batch.from_data_list([graph(30, 60)] * count), 0

        def keep(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            method(data)
        return total

    assert saved(8) <= 8 * saved(1) * 1.1


@pytest.mark.parametrize("target", ["x0", "step", "epsilon"])
@pytest.mark.parametrize("schedule", ["sigmoid", "cosine", "jsd"])
def test_targets_and_schedules(target, schedule):
    terms = small(target=target, schedule=schedule, timesteps=50)(batch_of(12, 20))
    assert terms["loss"].isfinite()


def test_ablations_change_the_computation():
    batch = batch_of(12, 20)

    def node_term(**settings):
        method = small(**settings)
        method.load_state_dict(small().state_dict(), strict=False)
        torch.manual_seed(5)
        return float(method(batch)["node"])

    terms = [node_term(), node_term(skips=False), node_term(fixed_time=999), node_term(edge_latents=False)]
    assert len(set(terms)) == 4
    plain = small(edge_latents=False)
    assert "edge" not in plain(batch) and plain.encode(batch).edge is None
    assert not any("edge" in name for name, _ in plain.named_parameters())


def test_skips_are_what_the_decoder_reads():
    method, batch = small(skips=False), batch_of(12, 20)
    split = split_of(method, batch)
    encoded = method._condition(split)
    rows = (
        method.node_embed(split.x[split.visible :]),
        method.edge_embed(split.edge_attr[split.condition :]),
    )
    latents, time = (encoded.node_mean, encoded.edge_mean), torch.tensor([5, 5])
    before = method.decoder(split, encoded, latents, rows, time)[0]
    for layer in encoded.node_layers:
        layer.data += 1
    assert torch.equal(before, method.decoder(split, encoded, latents, rows, time)[0])
    method.decoder.skips = True
    assert not torch.equal(before, method.decoder(split, encoded, latents, rows, time)[0])


def test_without_edge_attributes():
    data = graph()
    data.edge_attr = None
    method = HMGDM(6, **SMALL)
    assert method(data)["loss"].isfinite() and method.encode(data).node.shape == (20, 16)


def test_pooling():
    data = batch_of(7, 9)
    z = {name: small(pooling=name).encode(data) for name in ("mean", "max", "mean_std")}
    node = z["mean"].node
    torch.testing.assert_close(z["mean"].graph[1], node[7:].mean(0))
    assert torch.equal(z["max"].graph[0], node[:7].max(0).values)
    torch.testing.assert_close(z["mean_std"].graph[1, 16:], node[7:].std(0, correction=0))


def test_standardisation_is_fitted_once():
    data = [graph(20, 30, seed=k) for k in range(3)]
    for g in data:
        g.x[:, 0] = 7.0
        g.x[:, 1] *= 100
    method = small()
    method.before_epoch(0, data)
    x = method._read(Batch.from_data_list(data)).x
    torch.testing.assert_close(x[:, 2:].mean(0), torch.zeros(4), atol=1e-2, rtol=0)
    assert torch.equal(x[:, 0], torch.zeros(60)) and x.abs().max() <= 5
    before = method.node_scale.mean.clone()
    method.before_epoch(0, [graph(20, 30, seed=9)])
    assert torch.equal(before, method.node_scale.mean)


def test_learns_to_predict_hidden_nodes():
    torch.manual_seed(0)
    data = [striped(seed) for seed in range(24)]
    method = HMGDM(6, 1, hidden_dim=32, heads=2, joint_depth=1)
    method.before_epoch(0, data)
    batch, unseen = Batch.from_data_list(data), Batch.from_data_list([striped(100 + s) for s in range(24)])
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        terms = method(batch)
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    method.fixed_time = 999
    method.eval()
    # the features have variance 1: predicting the mean of each column would give 1
    assert float(method(unseen)["node"]) < 0.6


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"node_mask_ratio": 1.0}, "node_mask_ratio"),
        ({"edge_mask_ratio": -0.1}, "edge_mask_ratio"),
        ({"layers": 1}, "layers"),
        ({"heads": 3}, "heads"),
        ({"target": "v"}, "target"),
        ({"schedule": "cubic"}, "schedule"),
        ({"fixed_time": 1000}, "fixed_time"),
        ({"read_time": -1}, "read_time"),
        ({"pooling": "sum"}, "pooling"),
        ({"edge_dim": 0, "edge_latents": True}, "edge_latents"),
        ({"kl_weight": -1.0}, "kl_weight"),
    ],
)
def test_wrong_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        HMGDM(**({"node_dim": 6, "edge_dim": 2} | SMALL | settings))


def test_wrong_columns_are_named():
    with pytest.raises(ValueError, match=r"x must have shape \(N, node_dim = 6\)"):
        small()(graph(node_dim=5))
    with pytest.raises(ValueError, match="edge_attr must have shape"):
        small().encode(graph(edge_dim=3))
    data = graph()
    data.edge_attr = None
    with pytest.raises(ValueError, match="found NoneType"):
        small()(data)


def test_latent_outweighs_its_noise_at_the_start():
    encoded = small()._condition(split_of(small(), batch_of(12, 20)))
    assert (encoded.node_logvar / 2).exp().max() < 0.2 and (encoded.edge_logvar / 2).exp().max() < 0.2
