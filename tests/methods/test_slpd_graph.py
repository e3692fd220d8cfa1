"""SLPD on graphs: the losses of SLPD, with windows of graphs and any encoder."""

import pytest
import torch
from torch_geometric.data import Data

import histograph as hg
from histograph.methods import SLPD, GraphDINO, GraphSLPD, load_method
from histograph.methods.dino_graph import ENCODERS
from histograph.methods.prototype_distillation import PrototypeDistillation
from histograph.training.graphs import collate

SMALL = {
    "node_dim": 6,
    "dim": 16,
    "layers": 2,
    "out_dim": 24,
    "head_dim": 16,
    "bottleneck_dim": 8,
    "local_views": 2,
    "prototypes": 2,
    "min_regions": 4,
    "start_epoch": 0,
}


def method(seed=0, **changes):
    torch.manual_seed(seed)
    return GraphSLPD(**SMALL | changes)


def cells(slides=4, regions=6, seed=0):
    """Regions of cells of two kinds, by turns."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(slides * regions):
        count = 20 + number % 7
        x = torch.randn(count, 6, generator=generator)
        x += 4.0 * (number % 2)
        pos = 100 * torch.rand(count, 2, generator=generator)
        edge_index, edge_attr = hg.knn_edges(pos, k=4)
        graph = Data(x=x, pos=pos, edge_index=edge_index, edge_attr=edge_attr)
        graph.region, graph.slide = torch.tensor([number]), torch.tensor([number // regions])
        found.append(graph)
    return found


@pytest.mark.parametrize("encoder", ENCODERS)
def test_trains_embeds_and_comes_back_from_a_file(tmp_path, encoder):
    network, data = method(encoder=encoder), cells()
    log = hg.pretrain(network, data, epochs=2, batch_size=8, out=tmp_path, progress=False, accelerator="cpu")
    assert (log["self"] >= log["entropy"]).all() and bool(network.scale.fitted)
    assert (log["intra"] > 0).all() and (log["inter"] > 0).all()
    z = hg.embed(network, data, progress=False)
    assert z.graph.shape == (24, 16) and len(z.node) == sum(item.num_nodes for item in data)
    again = hg.embed(load_method(tmp_path / "method.safetensors"), data, progress=False)
    assert torch.equal(z.graph, again.graph)


def test_clusters_are_those_of_the_kinds():
    network, data = method(), cells()
    network.before_epoch(0, data)
    cluster = network.prototypes.assignment.view(4, 6)
    assert ((cluster == cluster[:, :1]) == (torch.arange(6) % 2 == 0)).all()


def test_it_shares_all_but_views_and_backbone():
    own = {
        name for name in vars(GraphSLPD) if callable(getattr(GraphSLPD, name)) and not name.startswith("__")
    }
    assert own == {"whole_view"}
    assert GraphSLPD.distil is SLPD.distil is PrototypeDistillation.distil
    assert GraphSLPD.views is GraphDINO.views and GraphSLPD.encode is GraphDINO.encode
    order = GraphSLPD.__mro__
    assert order.index(PrototypeDistillation) > order.index(GraphDINO.__mro__[1])


def test_features_are_scaled_before_they_are_clustered():
    networks, found = (method(), method()), []
    for network, factor in zip(networks, (1, 1000), strict=True):
        data = cells()
        for graph in data:
            graph.x *= factor
        network.before_epoch(0, data)
        p = network.prototypes.unit()
        found.append(
            p[torch.arange(4), network.prototypes.assignment.view(4, 6)[:, 0]]
        )  # of each first region
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_without_prototypes_it_is_graph_dino():
    data = cells()
    network = method(start_epoch=5)
    torch.manual_seed(0)
    plain = GraphDINO(**{name: SMALL[name] for name in list(SMALL)[:7]})
    plain.load_state_dict({n: v for n, v in network.state_dict().items() if n in plain.state_dict()})
    found = []
    for one in (network, plain):
        one.before_epoch(0, data)
        torch.manual_seed(1)
        found.append(float(one(collate(data[:5], GraphSLPD.reads))["loss"].detach()))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_vectors_of_the_clusters_do_not_depend_on_the_batch():
    network, data = method(), cells()
    together = network.prototype_space(collate(data, GraphSLPD.reads))
    alone = torch.cat([network.prototype_space(graph) for graph in data])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize(("argument", "value"), [("node_dim", 0), ("encoder", "vit"), ("prototypes", 0)])
def test_messages(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        method(**{argument: value})
