"""Tables of prototypes: look-ups against a loop, what is missing, files, and the graph that they are."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from histograph.nn.prototype_graph import PrototypeGraph


def vectors(counts=(9, 8, 3, 10), width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(sum(counts), width, generator=generator), dim=1)
    return z, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@pytest.fixture
def graph():
    found = PrototypeGraph(prototypes=3, dim=6, neighbors=2, min_regions=5)
    found.refresh(*vectors())
    return found


def test_prototypes_are_the_directions_of_the_means(graph):
    """Spec 6.2, 6.22."""
    z, slide = vectors()
    p = graph.unit()
    assert p.shape == (4, 3, 6) and graph.valid.tolist() == [True, True, False, True]
    torch.testing.assert_close(p.norm(dim=2)[graph.valid], torch.ones(3, 3))
    assert not p[2].any() and (graph.assignment[slide == 2] == -1).all()
    for number in (0, 1, 3):
        for cluster in range(3):
            mean = z[(slide == number) & (graph.assignment == cluster)].mean(0)
            torch.testing.assert_close(graph.centroid[number, cluster], mean)
            torch.testing.assert_close(p[number, cluster], normalize(mean, dim=0))
    exact = PrototypeGraph(3, 6, min_regions=9)
    exact.refresh(*vectors())
    assert exact.valid.tolist() == [True, False, False, True]


@pytest.mark.parametrize("match", ["bijective", "nearest"])
def test_look_ups_follow_the_edges(match):
    graph = PrototypeGraph(3, 6, neighbors=2, match=match, min_regions=5)
    graph.refresh(*vectors())
    p = graph.unit()
    region = torch.tensor([0, 12, 18, 29, 0])
    found = graph(region)
    assert found.vector.shape == (3, 5, 6) and found.known.shape == (3, 5)
    for column, number in enumerate(region.tolist()):
        slide, cluster = int(graph.slide[number]), int(graph.assignment[number])
        if slide == 2:
            assert not found.known[:, column].any() and not found.vector[:, column].any()
            continue
        torch.testing.assert_close(found.vector[0, column], p[slide, cluster])
        for rank in range(2):
            other = int(graph.neighbor[slide, rank])
            assert other not in (2, slide)
            if match == "nearest":
                wanted = p[other, (p[other] @ p[slide, cluster]).argmax()]
            else:
                wanted = p[other, graph.matching[slide, rank, cluster]]
                assert sorted(graph.matching[slide, rank].tolist()) == [0, 1, 2]
            torch.testing.assert_close(found.vector[1 + rank, column], wanted)


def test_neighbours_that_there_are_not(graph):
    few = PrototypeGraph(2, 6, neighbors=3, min_regions=5)
    few.refresh(*vectors((6, 6)))
    found = few(torch.tensor([0, 11]))
    assert found.known.tolist() == [[True, True], [True, True], [False, False], [False, False]]
    assert not found.vector[2:].any() and found.vector.isfinite().all()


def test_warm_start_begins_with_the_centroids(graph):
    before, assignment = graph.centroid.clone(), graph.assignment.clone()
    z, slide = vectors()
    graph.refresh(z, slide, warm=True)  # they are a minimum already
    assert torch.equal(graph.assignment, assignment)
    torch.testing.assert_close(graph.centroid, before)
    moved = normalize(z + 0.05 * vectors(seed=1)[0], dim=1)
    graph.refresh(moved, slide, warm=True)
    assert (graph.assignment == assignment).float().mean() > 0.8  # clusters keep their numbers


def test_as_graph(graph):
    whole = graph.as_graph()
    assert whole["region"].num_nodes == 30 and whole["prototype"].x.shape == (12, 6)
    region, prototype = whole["region", "in", "prototype"].edge_index
    assert (prototype // 3 == graph.slide[region]).all() and len(region) == 27
    assert (prototype % 3 == graph.assignment[region]).all()
    own, slide = whole["prototype", "in", "slide"].edge_index
    assert slide.tolist() == [0] * 3 + [1] * 3 + [3] * 3 and (own // 3 == slide).all()
    source, target = whole["slide", "similar", "slide"].edge_index
    assert len(source) == 6 and not {2} & {*source.tolist(), *target.tolist()}
    first, second = whole["prototype", "matches", "prototype"].edge_index
    alike = (graph.unit().flatten(0, 1)[first] * graph.unit().flatten(0, 1)[second]).sum(1)
    torch.testing.assert_close(
        alike.view(-1, 3).sum(1), whole["slide", "similar", "slide"].similarity, atol=1e-5, rtol=1e-5
    )
    assert whole.validate()


def test_files_bring_as_many_rows_as_they_have(graph):
    other = nn.ModuleDict({"table": PrototypeGraph(3, 6, neighbors=2, min_regions=5)})
    other.load_state_dict({f"table.{name}": value for name, value in graph.state_dict().items()})
    found, wanted = other["table"](torch.arange(30)), graph(torch.arange(30))
    assert torch.equal(found.vector, wanted.vector) and torch.equal(found.known, wanted.known)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PrototypeGraph(4, 6, neighbors=2).load_state_dict(graph.state_dict())
    graph.clear()
    assert graph.regions == 0 and graph.centroid.shape == (0, 3, 6)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("prototypes", 0), ("neighbors", 0), ("match", "any"), ("assignment", "soft"), ("coherence", -1.0)],
)
def test_messages(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        PrototypeGraph(**{"prototypes": 2, "dim": 4} | {argument: value})


def test_rows_of_another_width(graph):
    with pytest.raises(ValueError, match=r"z must have shape \(N, dim = 6\), found \(5, 4\)"):
        graph.refresh(torch.zeros(5, 4), torch.zeros(5, dtype=torch.long))


def test_regions_that_were_not_clustered(graph):
    with pytest.raises(ValueError, match="region must be at least 0 and below 30"):
        graph(torch.tensor([3, 30]))
