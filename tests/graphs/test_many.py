"""Many slides: one file each, skipped when complete, reported when broken."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histograph.entities import Entities
from histograph.graphs import GraphDataset, build_many, convert_many, load
from histograph.graphs import many as many_module
from histograph.graphs.provenance import describe

OPTIONS = {"entities": {"patch": {"size_um": 20.0}}, "mask": None, "progress": False, "mpp": 1.0}


@pytest.fixture
def slides(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(random.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return [tmp_path / f"{name}.png" for name in ("a", "b", "c")]


@pytest.mark.parametrize("kind", [None, ThreadPoolExecutor])
def test_one_file_a_slide_and_a_manifest(slides, tmp_path, kind):
    executor = kind and kind(2)
    table = build_many(slides, tmp_path / "out", executor=executor, **OPTIONS)
    assert table["status"].tolist() == ["built"] * 3 and table["slide_id"].tolist() == ["a", "b", "c"]
    assert table["nodes"].tolist() == [6, 6, 6] and table["mpp_x"].tolist() == [1.0] * 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.safetensors", "b.safetensors", "c.safetensors", "manifest.parquet",
    ]  # fmt: skip
    assert pd.read_parquet(tmp_path / "out" / "manifest.parquet")["slide_id"].tolist() == ["a", "b", "c"]
    assert GraphDataset(tmp_path / "out", node_type="patch").slide_ids == ["a", "b", "c"]
    if executor:
        executor.shutdown()


@pytest.mark.slow
def test_worker_processes(slides, tmp_path):
    import multiprocessing

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        table = build_many(slides[:1], tmp_path / "out", executor=executor, **OPTIONS)
    assert table["status"].tolist() == ["built"]


def test_a_second_run_skips_what_is_complete_with_equal_options(slides, tmp_path):
    out = tmp_path / "out"
    build_many(slides[:2], out, **OPTIONS)
    first = (out / "a.safetensors").stat().st_mtime_ns
    table = build_many(slides, out, **OPTIONS)
    assert table["status"].tolist() == ["skipped", "skipped", "built"]
    assert (out / "a.safetensors").stat().st_mtime_ns == first
    assert table["nodes"].tolist() == [6, 6, 6]
    (out / "b.safetensors").write_bytes((out / "b.safetensors").read_bytes()[:-100])
    assert build_many(slides, out, **OPTIONS)["status"].tolist() == ["skipped", "built", "skipped"]
    other = {**OPTIONS, "entities": {"patch": {"size_um": 10.0}}}
    assert build_many(slides[:1], out, **other)["status"].tolist() == ["built"]
    assert build_many(slides, out, **OPTIONS)["status"].tolist() == ["built", "skipped", "skipped"]
    assert build_many(slides, out, overwrite=True, **OPTIONS)["status"].tolist() == ["built"] * 3


def test_another_slide_of_the_same_name_is_not_taken_for_done(slides, tmp_path):
    build_many(slides[:1], tmp_path / "out", **OPTIONS)
    slides[0].write_bytes(slides[0].read_bytes() + b"\0")
    assert build_many(slides[:1], tmp_path / "out", **OPTIONS)["status"].tolist() == ["built"]


@pytest.mark.parametrize("kind", [None, ThreadPoolExecutor])
def test_a_broken_slide_is_reported_and_does_not_stop_the_rest(slides, tmp_path, kind):
    slides[1].write_bytes(b"not a picture")
    executor = kind and kind(2)
    table = build_many([*slides, tmp_path / "gone.png"], tmp_path / "out", executor=executor, **OPTIONS)
    assert table["status"].tolist() == ["built", "failed", "built", "failed"]
    assert table["error"].notna().tolist() == [False, True, False, True]
    assert "gone.png" in table["error"][3] and "FileNotFoundError" in table["error"][3]
    assert len(GraphDataset(tmp_path / "out")) == 2
    with pytest.raises((OSError, ValueError)):
        build_many(slides, tmp_path / "out", executor=executor, skip_errors=False, **OPTIONS)
    if executor:
        executor.shutdown()


def test_interrupting_leaves_complete_files_only(slides, tmp_path, monkeypatch):
    real = many_module.build_graph

    def interrupted(path, **options):
        if path.stem == "b":
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(many_module, "build_graph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_many(slides, tmp_path / "out", **OPTIONS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.safetensors", "manifest.parquet"]
    assert load(tmp_path / "out" / "a.safetensors")["patch"].id.tolist() == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(many_module, "build_graph", real)
    assert build_many(slides, tmp_path / "out", **OPTIONS)["status"].tolist() == ["skipped", "built", "built"]


def test_the_manifest_keeps_earlier_slides(slides, tmp_path):
    build_many(slides[:1], tmp_path / "out", **OPTIONS)
    build_many(slides[1:], tmp_path / "out", **OPTIONS)
    assert GraphDataset(tmp_path / "out").slide_ids == ["a", "b", "c"]
    (tmp_path / "out" / "a.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors"):
        GraphDataset(tmp_path / "out")


def test_mpp_by_slide(slides, tmp_path):
    options = {**OPTIONS, "mpp": {"a": 1.0, "b": 2.0}}
    table = build_many(slides, tmp_path / "out", **options)
    assert table["status"].tolist() == ["built", "built", "failed"] and table["mpp_x"][1] == 2.0
    assert "mpp" in table["error"][2]


def test_mistakes_are_found_before_a_slide_is_opened(slides, tmp_path):
    with pytest.raises(ValueError, match="would both be written to a"):
        build_many([slides[0], tmp_path / "other" / "a.svs"], tmp_path / "out")
    with pytest.raises(ValueError, match="unknown 'cells'"):
        build_many(slides, tmp_path / "out", entities=("cells",))
    with pytest.raises(ValueError, match="unknown \\['egdes'\\]"):
        build_many(slides, tmp_path / "out", egdes={})
    with pytest.raises(ValueError, match="found none"):
        build_many([], tmp_path / "out")
    with pytest.raises(TypeError, match="found one path"):
        build_many(slides[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_equally_large_file_of_other_content_is_not_taken_for_done(tmp_path):
    # features of another encoder of the same width
    path, out = tmp_path / "a.h5", tmp_path / "out"
    for value, status in ((1.0, "built"), (1.0, "skipped"), (2.0, "built")):
        with h5py.File(path, "w") as file:
            file["features"] = np.full((3, 600_000), value, np.float32)  # more than is hashed whole
            file["coords"] = [[0, 0], [256, 0], [0, 256]]
        table = convert_many([path], out, mpp=0.5, patch_size_level0=256, progress=False)
        assert table["status"].tolist() == [status]
        assert load(out / "a.safetensors").x[0, 0] == value


def test_tables_and_types_of_cells_count_as_options():
    table = pd.DataFrame({"a": [1.0, 2.0]}, index=[3, 8])
    cells = Entities.from_instance_map([[3, 8]], mpp=1.0)
    one, other = (replace(cells, columns={"type": np.array(names)}) for names in (["a", "b"], ["b", "a"]))
    assert describe(table) != describe(table.set_axis([8, 3])) and describe(one) != describe(other)
    assert describe(cells) == describe(Entities.from_instance_map([[3, 8]], mpp=1.0))
