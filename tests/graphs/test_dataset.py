"""Datasets of whole graphs and of windows: counts, order, labels, workers, and what may not be mixed."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import DataLoader

from histograph.graphs import GraphDataset, crop, layer, save
from histograph.graphs.example import example_graph


@pytest.fixture
def folder(tmp_path):
    for seed in range(3):
        save(
            example_graph(cells=300 + seed, patches=9, seed=seed, slide_id=f"s{seed}"),
            tmp_path / f"s{seed}.safetensors",
        )
    return tmp_path


def test_whole_graphs_of_a_folder(folder):
    (folder / "._s0.safetensors").write_bytes(b"of another system")
    data = GraphDataset(folder)
    assert len(data) == 3 and data.slide_ids == ["s0", "s1", "s2"] and data.windows == [None] * 3
    assert isinstance(data[0], HeteroData) and data[-1].slide_id == "s2"
    assert [graph["cell"].num_nodes for graph in data] == [300, 301, 302]
    assert data.node_dim == {"cell": 3, "patch": 2} and data.edge_dim["cell", "near", "cell"] == 1
    assert data.y is None and data.left_out == []
    with pytest.raises(IndexError):
        data[3]


def test_one_layer(folder):
    data = GraphDataset(folder, node_type="cell")
    assert isinstance(data[0], Data) and data.node_dim == 3 and data.edge_dim == 1
    assert data.feature_names == ["cell_0", "cell_1", "cell_2"] and data.edge_attr_names == ["length"]
    assert torch.equal(data[1].x, example_graph(cells=301, patches=9, seed=1)["cell"].x)
    assert GraphDataset(folder, node_type="patch", relation="next_to")[0].num_nodes == 9


def test_windows_share_the_nodes_out(folder):
    data = GraphDataset(folder, node_type="cell", window_um=100.0)
    for slide in ("s0", "s1", "s2"):
        ids = [i for item in data if item.slide_id == slide for i in item.id.tolist()]
        assert sorted(ids) == list(range(1, len(ids) + 1)) and len(ids) in (300, 301, 302)
    assert all(item.window == box for item, box in zip(data, data.windows, strict=True))
    assert data.windows == GraphDataset(folder, node_type="cell", window_um=(100, 100)).windows
    few = GraphDataset(folder, node_type="cell", window_um=100.0, min_nodes=20)
    assert 0 < len(few) < len(data) and min(item.num_nodes for item in few) >= 20


def test_windows_of_files_and_of_memory_agree(folder):
    graphs = [example_graph(cells=300 + seed, patches=9, seed=seed, slide_id=f"s{seed}") for seed in range(3)]
    on_disk, in_memory = (GraphDataset(item, window_um=150) for item in (folder, graphs))
    assert on_disk.windows == in_memory.windows and on_disk.slide_ids == in_memory.slide_ids
    for left, right in zip(on_disk, in_memory, strict=True):
        assert torch.equal(left["cell"].x, right["cell"].x)
        for key in left.edge_types:
            assert torch.equal(left[key].edge_index, right[key].edge_index)
    assert "provenance" in graphs[0] and "window" not in graphs[0]  # the graphs given stay as they are


def test_slices_masks_and_rows(folder):
    data = GraphDataset(folder, node_type="cell", window_um=100.0, labels={"s0": 0, "s1": 1, "s2": 1})
    part = data[::2]
    assert len(part) == -(-len(data) // 2) and part.slide_ids == data.slide_ids[::2]
    mask = np.asarray(data.slide_ids) == "s1"
    assert set(data[mask].slide_ids) == {"s1"} and data[mask].y.tolist() == [1] * mask.sum()
    assert data[[4, 2]][1].id.tolist() == data[2].id.tolist()
    assert len(data[[]]) == 0
    with pytest.raises(IndexError, match="expected a number"):
        data[np.ones(2, dtype=bool)]


@pytest.mark.parametrize(
    ("values", "y", "classes"),
    [
        ({"s0": 2, "s1": 0, "s2": 2, "other": 9}, [2, 0, 2], None),
        ({"s0": "b", "s1": "a", "s2": "b"}, [1, 0, 1], ["a", "b"]),
        ({"s0": 0.5, "s1": 1.5, "s2": 2.5}, [0.5, 1.5, 2.5], None),
        ({"s0": True, "s1": False, "s2": True}, [1, 0, 1], None),
    ],
)
def test_labels_join_on_ids(folder, values, y, classes):
    # field bug E.10: elsewhere labels are read by the row of the table
    table = pd.DataFrame({"label": list(values.values()), "slide_id": list(values)}).iloc[::-1]
    table.to_csv(folder / "labels.csv", index=False)
    for labels in (values, table, folder / "labels.csv", str(folder / "labels.csv")):
        data = GraphDataset(folder, labels=labels)
        assert data.y.tolist() == y and data.classes == classes
        assert [item.y.item() for item in data] == y and data[0].y.shape == (1,)
        assert data[0].y.dtype == (torch.float32 if isinstance(y[0], float) else torch.int64)


def test_labels_that_do_not_fit_are_named(folder):
    with pytest.raises(ValueError, match="no label for 2 of 3 slides: s1, s2"):
        GraphDataset(folder, labels={"s0": 1})
    with pytest.raises(ValueError, match="'s1' has more than one row"):
        GraphDataset(folder, labels=pd.DataFrame({"slide_id": ["s0", "s1", "s1", "s2"], "label": 1}))
    with pytest.raises(ValueError, match="no column 'label'; it has slide_id, grade"):
        GraphDataset(folder, labels=pd.DataFrame({"slide_id": ["s0"], "grade": 1}))
    with pytest.raises(FileNotFoundError, match="expected a CSV"):
        GraphDataset(folder, labels=folder / "none.csv")
    with pytest.raises(ValueError, match="no label for 1"):
        GraphDataset(folder, labels={"s0": 1, "s1": float("nan"), "s2": 0})


def test_tables_of_labels_as_people_save_them(folder):
    # a slide that is not built yet has no grade: the others' stay whole
    path = folder / "labels.csv"
    path.write_text("slide_id,label\ns0,1\ns1,0\ns2,1\ns3,\ns4,  \n")
    for labels in (
        path,
        pd.read_csv(path, dtype_backend="numpy_nullable").iloc[:4].astype({"label": "Int64"}),
    ):
        data = GraphDataset(folder, labels=labels)
        assert data.y.tolist() == [1, 0, 1] and data.y.dtype == np.int64
    path.write_text("slide_id, label\ns0, IDC\ns1 ,IDC\ns2,ILC \n", encoding="utf-8-sig")
    data = GraphDataset(folder, labels=path)
    assert data.y.tolist() == [0, 0, 1] and data.classes == ["IDC", "ILC"]
    path.write_text("slide_id,label\ns0,IDC\ns1,IDC\ns2,   \n")
    with pytest.raises(ValueError, match="no label for 1 of 3 slides: s2"):
        GraphDataset(folder, labels=path)
    path.write_bytes("slide_id,label\ns0,Ä\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not in UTF-8 .* save it as CSV UTF-8"):
        GraphDataset(folder, labels=path)
    path.write_text("")
    with pytest.raises(ValueError, match="expected a CSV with slide_id and label"):
        GraphDataset(folder, labels=path)


@pytest.mark.parametrize("value", [float("inf"), [1, 2], pd.Timestamp("2020-01-01"), b"a"])
def test_labels_are_finite_numbers_or_names(folder, value):
    with pytest.raises(ValueError, match="expected one finite number or name for each slide"):
        GraphDataset(folder, labels=dict.fromkeys(["s0", "s1", "s2"], value))


def test_labels_by_row_are_refused(folder):
    with pytest.raises(TypeError, match=r"labels: expected a mapping .* found list"):
        GraphDataset(folder, labels=[0, 1, 0])


def test_files_written_anew_are_not_taken_for_those_of_before(folder):
    data = pickle.loads(pickle.dumps(GraphDataset(folder, node_type="cell", window_um=100.0)))
    graph = example_graph(cells=300, patches=9, seed=0, slide_id="s0")
    graph["cell"].latent = torch.ones(300, 2, dtype=torch.float16)
    save(graph, folder / "s0.safetensors")  # more fields of the same nodes change no item
    assert data[0].latent.shape[1] == 2
    data = pickle.loads(pickle.dumps(data))
    save(example_graph(cells=900, patches=9, seed=0, slide_id="s0"), folder / "s0.safetensors")
    with pytest.raises(ValueError, match=r"s0\.safetensors was written anew since the dataset was made"):
        data[0]


def test_widths_and_rows_of_numpy(folder):
    data = GraphDataset(folder, node_type="cell", window_um=np.float32(100))
    assert data.windows == GraphDataset(folder, node_type="cell", window_um=100).windows
    with pytest.raises(IndexError, match="index: expected"):
        data[[0.5]]


def test_labels_that_graphs_carry(tmp_path):
    for seed in range(2):
        graph = example_graph(seed=seed, slide_id=f"s{seed}")
        graph.y = torch.tensor([seed + 5])
        save(graph, tmp_path / f"s{seed}.safetensors")
    data = GraphDataset(tmp_path, node_type="cell", window_um=128)
    assert data.y.tolist() == [5] * 4 + [6] * 4 and data[7].y.tolist() == [6]


def test_labels_may_not_hide_node_labels():
    data = layer(example_graph(), "cell").clone()
    data.y = torch.zeros(60)
    with pytest.raises(ValueError, match="already has y for each node"):
        GraphDataset([data], labels={"example": 1})[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(folder, workers):
    data = GraphDataset(folder, node_type="cell", window_um=128.0, labels={"s0": 0, "s1": 1, "s2": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        batches = list(DataLoader(data, batch_size=8, num_workers=workers))
    assert torch.cat([batch.y for batch in batches]).tolist() == data.y.tolist()
    assert sum(batch.num_nodes for batch in batches) == 903
    assert [name for batch in batches for name in batch.slide_id] == data.slide_ids
    assert torch.cat([batch.id for batch in batches]).tolist() == [
        i for item in data for i in item.id.tolist()
    ]


def test_pickled_datasets_open_their_files_anew(folder):
    data = GraphDataset(folder, window_um=128.0)
    data[0]
    again = pickle.loads(pickle.dumps(data))
    assert again[1]["cell"].id.tolist() == data[1]["cell"].id.tolist()
    data.close()
    assert len(data[1]["cell"].pos) > 0


def test_more_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("histograph.graphs.dataset._OPEN_FILES", 2)
    for seed in range(5):
        save(example_graph(cells=5, seed=seed, slide_id=f"s{seed}"), tmp_path / f"{seed}.safetensors")
    data = GraphDataset(tmp_path)
    assert [item.slide_id for item in data] == [item.slide_id for item in data] == data.slide_ids
    assert len(data._files) == 2


def test_graphs_that_differ_name_both_files(folder):
    graph = example_graph(slide_id="odd")
    graph["cell"].x = graph["cell"].x[:, :2]
    graph["cell"].feature_names = graph["cell"].feature_names[:2]
    save(graph, folder / "odd.safetensors")
    with pytest.raises(
        ValueError, match=r"odd\.safetensors and .*s0\.safetensors differ in feature_names.*cell_2"
    ) as _:
        GraphDataset([folder / "s0.safetensors", folder / "odd.safetensors"], node_type="cell")
    with pytest.raises(ValueError, match="differ in feature_names: cell: "):
        GraphDataset([folder / "s0.safetensors", folder / "odd.safetensors"])
    assert len(GraphDataset([folder / "s0.safetensors", folder / "odd.safetensors"], node_type="patch")) == 2
    with pytest.raises(ValueError, match="differ in feature_names"):
        GraphDataset([example_graph(), layer(example_graph(slide_id="t"), "cell")])
    with pytest.raises(ValueError, match="both have slide_id"):
        GraphDataset([example_graph(), example_graph()])


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        GraphDataset(folder / "none")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no graphs"):
        GraphDataset(folder / "empty")
    with pytest.raises(ValueError, match=r"s0.safetensors: node_type: no 'gland'"):
        GraphDataset(folder, node_type="gland")
    with pytest.raises(ValueError, match="give node_type too"):
        GraphDataset(folder, relation="near")
    with pytest.raises(ValueError, match="min_nodes: expected 1"):
        GraphDataset(folder, window_um=10, min_nodes=0)
    for size in (0, -1, np.nan, (10, 0), (1, 2, 3)):
        with pytest.raises(ValueError, match="window_um: expected"):
            GraphDataset(folder, window_um=size)


def test_graphs_without_nodes_are_left_out_and_listed(folder):
    save(example_graph(cells=0, patches=9, slide_id="bare"), folder / "bare.safetensors")
    data = GraphDataset(folder, node_type="cell")
    assert len(data) == 3 and data.left_out == ["bare"]
    assert len(GraphDataset(folder, node_type="cell", min_nodes=0)) == 4


def test_one_file_and_graphs_in_memory(folder):
    assert len(GraphDataset(folder / "s0.safetensors")) == 1
    graph = example_graph()
    assert torch.equal(GraphDataset([graph], node_type="cell")[0].x, graph["cell"].x)
    box = GraphDataset(graph, window_um=128).windows[0]
    assert torch.equal(GraphDataset(graph, window_um=128)[0]["cell"].id, crop(graph, box)["cell"].id)
