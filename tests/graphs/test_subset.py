"""Some nodes of a file: what is read is what the whole graph has there."""

import numpy as np
import pytest
import torch

from histograph.graphs import GraphFile, layer, save
from histograph.graphs.example import example_graph

NEAR = ("cell", "near", "cell")


@pytest.fixture(scope="module")
def graph():
    return example_graph(cells=3000, patches=9, seed=1)


@pytest.fixture
def file(graph, tmp_path):
    with GraphFile(save(graph, tmp_path / "a.safetensors")) as opened:
        yield opened


def rows_of(kind, count):
    generator = np.random.default_rng(0)
    return {
        "none": np.zeros(0, int),
        "first": np.array([0]),
        "last": np.array([count - 1]),
        "all": np.arange(count),
        "scattered": np.sort(generator.permutation(count)[:40]),
        "dense": np.sort(generator.permutation(count)[: count // 2]),
        "two runs": np.r_[5:60, 2000:2100],
    }[kind]


@pytest.mark.parametrize("kind", ["none", "first", "last", "all", "scattered", "dense", "two runs"])
def test_the_induced_subgraph(file, kind):
    whole = file.load()
    rows = rows_of(kind, 3000)
    part = file.subset("cell", rows)
    assert part.node_types == ["cell"] and part.edge_types == [NEAR]
    for name in ("x", "pos", "id"):
        assert torch.equal(part["cell"][name], whole["cell"][name][rows])
    source, target = whole[NEAR].edge_index.numpy()
    kept = np.isin(source, rows) & np.isin(target, rows)
    ends = np.searchsorted(rows, np.stack([source[kept], target[kept]]))
    assert np.array_equal(part[NEAR].edge_index, ends)
    assert torch.equal(part[NEAR].edge_attr, whole[NEAR].edge_attr[torch.from_numpy(kept)])


def test_without_edges_and_of_a_graph_of_one_kind(file, graph, tmp_path):
    assert file.subset("cell", np.array([3, 9]), []).edge_types == []
    with GraphFile(save(layer(graph, "cell"), tmp_path / "b.safetensors")) as one:
        part = one.subset("node", np.array([3, 9]))
        assert torch.equal(part.x, one.load().x[[3, 9]])


def test_messages(file):
    for rows in ([3, 3], [4, 3], [-1, 3], [2999, 3000]):
        with pytest.raises(ValueError, match="expected ascending rows from 0 to 2999 of 'cell'"):
            file.subset("cell", np.array(rows))
    with pytest.raises(ValueError, match="no node type 'region'"):
        file.subset("region", np.array([0]))
    with pytest.raises(ValueError, match="no relation"):
        file.subset("cell", np.array([0]), [("cell", "touches", "cell")])
