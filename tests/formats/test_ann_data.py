"""AnnData: a graph comes back as it was, tables of squidpy's make, and units that are not known are refused."""

import sys

import numpy as np
import pytest
import torch
from scipy import sparse

from histograph.formats import from_anndata, from_spatialdata, to_anndata, to_spatialdata
from histograph.graphs import build_graph, example_graph, layer, validate
from histograph.slides import open_slide

from .scenes import cells


@pytest.fixture(scope="module")
def built():
    slide = open_slide(np.full((200, 200, 3), 90, np.uint8), mpp=0.25, slide_id="s1")
    return build_graph(slide, {"cell": cells()}, features={"cell": ("shape",)}, mask=None, progress=False)


def assert_same_graph(a, b):
    for name in ("x", "pos", "edge_index", "edge_attr", "area_um2", "bbox", "label"):
        assert torch.equal(a[name], b[name]), name
    assert a.id.tolist() == list(b.id.tolist() if isinstance(b.id, torch.Tensor) else b.id)
    for name in ("feature_names", "edge_attr_names", "slide_id", "mpp", "label_names"):
        assert a[name] == b[name], name


def test_without_anndata_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    for call in (lambda: to_anndata(example_graph(), "cell"), lambda: from_anndata(None)):
        with pytest.raises(ImportError, match=r"histograph\[interop\]"):
            call()
    for call in (lambda: to_spatialdata(cells(3)), lambda: from_spatialdata(None)):
        with pytest.raises(ImportError, match=r"histograph\[interop\]"):
            call()


def test_graph_round_trip(built, tmp_path):
    anndata = pytest.importorskip("anndata")
    table = to_anndata(built)
    assert_same_graph(layer(built, "cell"), from_anndata(table))
    table.write_h5ad(tmp_path / "a.h5ad")
    again = from_anndata(anndata.read_h5ad(tmp_path / "a.h5ad"))
    assert_same_graph(layer(built, "cell"), again)
    assert again.provenance == built.provenance


def test_edges_of_length_zero_are_kept(tmp_path):
    # field bug E.2: elsewhere a sparse matrix of lengths loses them
    anndata = pytest.importorskip("anndata")
    instance_map = np.zeros((20, 20), int)
    instance_map[2:9, 2:9], instance_map[4:7, 4:7], instance_map[15, 15] = 4, 9, 2  # a ring around a square
    slide = open_slide(np.full((20, 20, 3), 90, np.uint8), mpp=0.5, slide_id="s")
    graph = build_graph(
        slide, {"cell": instance_map}, {"cell": {"method": "knn", "k": 1}}, {"cell": ()}, None, progress=False
    )
    lengths = graph["cell", "near", "cell"].edge_attr[:, 0]
    assert (lengths == 0).sum() == 2
    to_anndata(graph).write_h5ad(tmp_path / "a.h5ad")
    again = from_anndata(anndata.read_h5ad(tmp_path / "a.h5ad"))
    assert torch.equal(again.edge_index, graph["cell", "near", "cell"].edge_index)
    assert torch.equal(again.edge_attr[:, 0], lengths)


def test_rows_in_another_order_keep_their_ids(built):
    # field bug E.10: elsewhere nodes and features are matched by position
    pytest.importorskip("anndata")
    order = np.random.default_rng(0).permutation(len(built["cell"].id))
    again = from_anndata(to_anndata(built)[order].copy())
    assert again.id.tolist() == built["cell"].id[order].tolist()
    assert torch.equal(again.x, built["cell"].x[order]) and torch.equal(
        again.label, built["cell"].label[order]
    )
    mine = built["cell", "near", "cell"].edge_index
    pairs = {frozenset(pair) for pair in built["cell"].id[mine].T.tolist()}
    assert {frozenset(pair) for pair in again.id[again.edge_index].T.tolist()} == pairs


def test_names_are_squidpys(built):
    pytest.importorskip("anndata")
    table = to_anndata(built, library_id="lib")
    data = layer(built, "cell")
    np.testing.assert_array_equal(table.obsm["spatial"], data.pos)
    assert list(table.uns["spatial"]) == ["lib"] and set(table.uns["spatial"]["lib"]) >= {
        "images",
        "scalefactors",
    }
    keys = table.uns["spatial_neighbors"]
    dense = table.obsp[keys["distances_key"]].toarray()
    assert (table.obsp[keys["connectivities_key"]].toarray()[tuple(data.edge_index)] == 1).all()
    np.testing.assert_allclose(dense[tuple(data.edge_index)], data.edge_attr[:, 0])
    assert table.obs["type"].isna().sum() == (data.label == -1).sum()
    assert list(table.obs_names) == [str(i) for i in data.id.tolist()]


def test_tables_of_others():
    anndata = pytest.importorskip("anndata")
    table = anndata.AnnData(X=sparse.csr_matrix(np.eye(3, dtype=np.float32)))
    table.obs_names = ["a", "b", "c"]
    table.obsm["spatial"] = np.array([[0, 0], [6, 8], [0, 20]])
    table.obsp["spatial_connectivities"] = sparse.csr_matrix(np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]]))
    for options, message in [
        ({}, "mpp"),
        ({"mpp": 0.5}, "unit: expected 'um' or 'px'"),
        ({"mpp": 0.5, "unit": "mm"}, "unit"),
        ({"mpp": 0.5, "unit": "px"}, "slide_id"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_anndata(table, **options)
    graph = from_anndata(table, mpp=0.5, unit="px", slide_id="s")
    validate(graph)
    assert graph.id == ["a", "b", "c"] and graph.pos.tolist() == [[0, 0], [3, 4], [0, 10]]
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]] and graph.edge_attr[0] == 5
    assert from_anndata(table, mpp=0.5, unit="um", slide_id="s").pos[1].tolist() == [6, 8]
    del table.obsm["spatial"]
    with pytest.raises(ValueError, match=r"obsm\['spatial'\]"):
        from_anndata(table, mpp=0.5, unit="um", slide_id="s")


def test_entities_and_units(built):
    pytest.importorskip("anndata")
    source = cells()
    table = to_anndata(source)
    assert list(table.var_names) == ["prob", "count"]
    np.testing.assert_array_equal(table.obsm["spatial"], source.centroid)
    graph = from_anndata(table, mpp=0.25, slide_id="s")
    np.testing.assert_array_equal(graph.id, source.label)
    with pytest.raises(ValueError, match="leave it out"):
        from_anndata(table, mpp=0.25, unit="px", slide_id="s")
    with pytest.raises(ValueError, match="is for graphs"):
        to_anndata(source, "cell")
