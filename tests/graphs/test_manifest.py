"""The manifest of a folder into which several runs write."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pandas as pd
import pytest
from safetensors.numpy import save_file

from histograph.graphs import GraphDataset, example_graph, manifest, save
from histograph.graphs.manifest import MANIFEST, listed_files, table_of, write_manifest


def put(folder, *names):
    for seed, name in enumerate(names):
        graph = example_graph(seed=seed)
        graph.slide_id = name
        save(graph, folder / f"{name}.safetensors")


def rows(*names, status="built"):
    return table_of(
        [
            {"slide_id": n, "status": status, "file": None if status == "failed" else f"{n}.safetensors"}
            for n in names
        ]
    )


def ids(folder):
    return pd.read_parquet(folder / MANIFEST)["slide_id"].tolist()


def test_what_another_run_wrote_meanwhile_is_kept(tmp_path, monkeypatch):
    """Between reading the old manifest and writing the new one another run finishes a slide and writes its own."""
    put(tmp_path, "a", "b")
    write_manifest(rows("b"), tmp_path)
    real, done = manifest.atomic_path, []

    def late(path):
        if not done:
            done.append(True)
            put(tmp_path, "c")
            write_manifest(rows("c"), tmp_path)
        return real(path)

    monkeypatch.setattr(manifest, "atomic_path", late)
    write_manifest(rows("a"), tmp_path)
    assert ids(tmp_path) == ["a", "b", "c"]
    assert GraphDataset(tmp_path, node_type="cell").slide_ids == ["a", "b", "c"]


def test_jobs_at_the_same_time_lose_nothing(tmp_path):
    """Each writes its graph, and then all their manifests at once; threads here, which share nothing but the folder."""
    names = [f"s{i}" for i in range(8)]
    together = Barrier(len(names))

    def one_job(name):
        put(tmp_path, name)
        together.wait()
        write_manifest(rows(name), tmp_path)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(one_job, names))
    assert ids(tmp_path) == names
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_graph_without_a_row_gets_one_from_its_header(tmp_path):
    put(tmp_path, "a", "killed")
    write_manifest(rows("a"), tmp_path)
    table = pd.read_parquet(tmp_path / MANIFEST).set_index("slide_id")
    graph = example_graph(seed=1)
    assert table.loc["killed", "nodes"] == graph.num_nodes and table.loc["killed", "edges"] == graph.num_edges
    assert table.loc["killed", "mpp_x"] == graph.mpp[0] and pd.isna(table.loc["killed", "seconds"])


def test_files_of_a_folder_are_its_graphs_but_those_that_failed(tmp_path):
    put(tmp_path, "a")
    write_manifest(rows("a"), tmp_path)
    put(tmp_path, "old", "late")
    save_file({}, tmp_path / "method.safetensors")
    failed = pd.concat([pd.read_parquet(tmp_path / MANIFEST), rows("old", status="failed")])
    failed.to_parquet(tmp_path / MANIFEST, index=False)
    assert [path.stem for path in listed_files(tmp_path)] == ["a", "late"]
    write_manifest(rows("a"), tmp_path)
    assert ids(tmp_path) == ["a", "late", "old"]
    assert [path.stem for path in listed_files(tmp_path)] == ["a", "late"]  # a later run does not forget
    write_manifest(rows("old"), tmp_path)
    assert [path.stem for path in listed_files(tmp_path)] == ["a", "late", "old"]


def test_broken_files_are_not_passed_over(tmp_path):
    put(tmp_path, "a", "b")
    write_manifest(rows("a"), tmp_path)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "c.safetensors")
    cut = tmp_path / "c.safetensors"
    cut.write_bytes(cut.read_bytes()[:-50])
    write_manifest(rows("a"), tmp_path)
    assert ids(tmp_path) == ["a", "b"]
    with pytest.raises(ValueError, match=r"c\.safetensors is cut off"):
        GraphDataset(tmp_path)
