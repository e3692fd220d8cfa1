"""DINO on graphs: windows as crops, any encoder, whole runs."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

import histograph as hg
from histograph.methods import GraphDINO, load_method
from histograph.methods.dino_graph import ENCODERS

from .graphs import graph

SMALL = {
    "node_dim": 6,
    "dim": 16,
    "layers": 2,
    "out_dim": 24,
    "head_dim": 16,
    "bottleneck_dim": 8,
    "local_views": 3,
}


def method(seed=0, **changes):
    torch.manual_seed(seed)
    return GraphDINO(**SMALL | changes)


def graphs(count=4):
    return [graph(nodes=20 + 5 * seed, pairs=50, seed=seed, slide_id=str(seed)) for seed in range(count)]


def test_windows_are_induced_subgraphs_of_their_graph():
    network, data = method(feature_drop=0.0), graphs()
    batch = Batch.from_data_list(data)
    (large,), (small,) = network.views(batch)
    for part, windows, low, high in ((large, 8, 0.4, 1.0), (small, 12, 0.05, 0.4)):
        assert part.graphs == windows and part.batch.max() == windows - 1
        assert len(part.edge_attr) == part.edge_index.shape[1]
        assert (part.batch[part.edge_index[0]] == part.batch[part.edge_index[1]]).all()
        for window in range(windows):
            own = data[window % 4]
            nodes = part.pos[part.batch == window]
            assert (nodes[:, None] == own.pos).all(2).any(1).all()
            share = len(nodes) / own.num_nodes
            assert low - 1 / own.num_nodes <= share <= high
            inside = (nodes[:, None] == own.pos).all(2).any(0)
            edges = int((inside[own.edge_index[0]] & inside[own.edge_index[1]]).sum())
            assert int((part.batch[part.edge_index[0]] == window).sum()) == edges


def test_features_are_dropped_by_column_in_each_window():
    network = method(feature_drop=0.5, standardise=False)
    data = graph(nodes=40)
    data.x = torch.ones(40, 6)
    (large,), _ = network.views(data)
    patterns = [large.x[large.batch == window] for window in range(2)]
    assert all((rows == rows[0]).all() for rows in patterns)
    assert 0 < large.x.mean() < 1


def test_one_seed_gives_the_same_windows():
    network, batch = method(), Batch.from_data_list(graphs())
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(network(batch)["loss"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_crops_of_the_student_are_scored_together():
    """Vectors of windows laid side by side are those of each window by itself."""
    network = method().eval()
    (large,), _ = network.views(Batch.from_data_list(graphs()))
    found = network.represent(network.teacher.backbone, [large])
    for window in range(large.graphs):
        kept = (large.batch == window).nonzero().squeeze(1)
        rows = torch.full((len(large.x),), -1)
        rows[kept] = torch.arange(len(kept))
        own = (large.batch[large.edge_index[0]] == window).nonzero().squeeze(1)
        alone = Data(x=large.x[kept], edge_index=rows[large.edge_index[:, own]])
        torch.testing.assert_close(
            found[window], network.teacher.backbone(alone).mean(0), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_trains_embeds_and_comes_back_from_a_file(tmp_path, encoder):
    network, data = method(encoder=encoder), graphs()
    log = hg.pretrain(network, data, epochs=2, batch_size=2, out=tmp_path, progress=False, accelerator="cpu")
    assert (log["loss"] >= log["entropy"]).all() and bool(network.scale.fitted)
    z = hg.embed(network, data, progress=False)
    assert z.graph.shape == (4, 16) and len(z.node) == sum(item.num_nodes for item in data)
    torch.testing.assert_close(z.graph[1], z.node[z.ptr[1] : z.ptr[2]].mean(0))
    again = hg.embed(load_method(tmp_path / "method.safetensors"), data, progress=False)
    assert torch.equal(z.graph, again.graph)


def test_vectors_do_not_depend_on_the_order_of_nodes():
    network, data = method().eval(), graph(nodes=30)
    order = torch.randperm(30)
    place = order.argsort()
    moved = Data(x=data.x[order], pos=data.pos[order], edge_index=place[data.edge_index])
    found, other = network.encode(data), network.encode(moved)
    torch.testing.assert_close(found.node[order], other.node, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.graph, other.graph, atol=1e-5, rtol=1e-5)


def test_a_subclass_brings_its_own_encoder(tmp_path):
    class Edges(nn.Module):
        """Reads what the built-in encoders do not: lengths of edges."""

        def __init__(self):
            super().__init__()
            self.edge, self.node = nn.Linear(2, 16), nn.Linear(6, 16)

        def forward(self, data):
            seen = torch.zeros(len(data.x), 16).index_add(0, data.edge_index[1], self.edge(data.edge_attr))
            return self.node(data.x) + seen

    class EdgeReader(GraphDINO):
        def make_encoder(self):
            return Edges()

    network, data = EdgeReader(**SMALL), graphs()
    hg.pretrain(network, data, epochs=1, batch_size=2, out=tmp_path, progress=False, accelerator="cpu")
    z = hg.embed(network, data, progress=False)
    again = hg.embed(load_method(tmp_path / "method.safetensors"), data, progress=False)
    assert torch.equal(z.node, again.node)


def test_teacher_follows_with_its_statistics():
    class Normed(GraphDINO):
        def make_encoder(self):
            class Points(nn.Sequential):
                def forward(self, data):
                    return super().forward(data.x)

            return Points(nn.Linear(6, 16), nn.BatchNorm1d(16))

    network = Normed(**SMALL | {"momentum": 0.0})
    batch = Batch.from_data_list(graphs())
    network(batch)["loss"].backward()
    network.after_step(1)
    student, teacher = network.student.state_dict(), network.teacher.state_dict()
    moved = [name for name in student if name.endswith("running_mean")]
    assert moved and any(student[name].any() for name in moved)
    assert all(torch.equal(value, teacher[name]) for name, value in student.items())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("node_dim", 0),
        ("layers", 0),
        ("encoder", "transformer"),
        ("feature_drop", 1.0),
        ("global_scale", (0.0, 1.0)),
        ("local_scale", (0.4, 0.1)),
        ("momentum", -0.1),
    ],
)
def test_messages(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        method(**{argument: value})


def test_batches_that_do_not_fit():
    network, data = method(), graph()
    with pytest.raises(ValueError, match=r"x must have shape \(N, node_dim = 6\), found \(20, 5\)"):
        network(Data(x=data.x[:, :5], pos=data.pos, edge_index=data.edge_index))
    with pytest.raises(ValueError, match="pos must have shape"):
        network(Data(x=data.x, edge_index=data.edge_index))
    with pytest.raises(ValueError, match="edge_index must be"):
        network(Data(x=data.x, pos=data.pos))
    empty = Data(x=data.x[:0], pos=data.pos[:0], edge_index=torch.zeros(2, 0, dtype=torch.long))
    del data.edge_attr
    with pytest.raises(ValueError, match="every graph must have a node; graph 1 has none"):
        network(Batch.from_data_list([data, empty]))
