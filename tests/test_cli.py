"""What a user types in a shell, and what is answered when the input is bad."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

import histograph as hg
from histograph.cli import main


def run(*words):
    """Run the command in this process and return its exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def stained(height=300, width=400, n_nuclei=60, seed=0):
    """A picture like H&E: purple discs on pink, white around."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 245, np.uint8)
    image[20:-20, 20:-20] = (225, 160, 195)
    rows, columns = np.mgrid[:height, :width]
    for row, column in zip(
        rng.integers(35, height - 35, n_nuclei), rng.integers(35, width - 35, n_nuclei), strict=True
    ):
        image[(rows - row) ** 2 + (columns - column) ** 2 < 49] = (80, 45, 130)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def leftovers(folder):
    """Names of everything under a folder that is not a finished graph or a manifest."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "stained.png"
    Image.fromarray(stained()).save(path)
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Eight graph files, four of dense and four of sparse tissue, and their labels."""
    folder = tmp_path_factory.mktemp("graphs")
    lines = ["slide_id,label,group"]
    for i in range(8):
        slide = hg.open_slide(stained(160, 160, n_nuclei=8 + 40 * (i % 2), seed=i), mpp=0.5)
        slide.slide_id = f"s{i}"
        graph = hg.build_graph(
            slide, entities={"tissue": {"size_um": 8.0, "merge_threshold": 0.0}}, progress=False
        )
        hg.save(graph, folder / f"s{i}.safetensors")
        lines.append(f"s{i},{'dense' if i % 2 else 'sparse'},patient{i}")
    (folder.parent / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_build_then_skip(picture, tmp_path, capsys):
    assert run("build", picture, "--out", tmp_path, "--mpp", "0.5") == 0
    graph = hg.load(tmp_path / "stained.safetensors")
    assert graph["cell"].num_nodes > 30 and set(graph.node_types) == {"cell", "tissue", "patch"}
    written = (tmp_path / "stained.safetensors").stat().st_mtime_ns
    assert run("build", picture, "--out", tmp_path, "--mpp", "0.5") == 0
    assert (tmp_path / "stained.safetensors").stat().st_mtime_ns == written
    assert "skipped" in capsys.readouterr().out
    assert leftovers(tmp_path) == ["manifest.parquet", "stained.safetensors"]


def test_build_takes_folders(picture, tmp_path):
    (picture.parent / f"._{picture.name}").write_bytes(b"of another system")
    assert run("build", picture.parent, "--out", tmp_path, "--mpp", "0.5", "--entities", "patch") == 0
    assert hg.load(tmp_path / "stained.safetensors").node_types == ["patch"]


def test_pretrain_embed_evaluate(graphs, tmp_path, capsys):
    assert (
        run(
            "pretrain", graphs, "--out", tmp_path / "run", "--epochs", 2, "--window-um", 0, "--hidden-dim", 32
        )
        == 0
    )
    method = tmp_path / "run" / "method.safetensors"
    assert run("embed", graphs, "--method", method, "--out", tmp_path / "z") == 0
    assert (tmp_path / "z" / "embeddings.csv").read_text().count("\n") == 9
    labels = graphs.parent / "labels.csv"
    vectors = tmp_path / "z" / "embeddings.safetensors"
    for probe in ("linear", "knn"):
        words = (
            "evaluate",
            vectors,
            "--labels",
            labels,
            "--out",
            tmp_path / "e",
            "--folds",
            2,
            "--probe",
            probe,
            *(("--k", 2) if probe == "knn" else ()),
        )
        assert run(*words) == 0
        assert (tmp_path / "e" / f"{probe}_probe.csv").exists()
    assert "auc" in capsys.readouterr().out


def test_pama_takes_the_patches_of_whole_slides(tmp_path, capsys):
    for i in range(3):
        slide = hg.open_slide(stained(160, 160, seed=i), mpp=0.5, slide_id=f"p{i}")
        entities = {"patch": {"size_um": 16.0}, "tissue": {"size_um": 8.0}}
        hg.save(hg.build_graph(slide, entities, mask=None, progress=False), tmp_path / f"p{i}.safetensors")
    words = "--method", "pama", "--epochs", 2, "--hidden-dim", 16, "--patches-per-anchor", 4
    assert run("pretrain", tmp_path, "--out", tmp_path / "run", *words) == 0
    method = hg.methods.load_method(tmp_path / "run" / "method.safetensors")
    assert isinstance(method, hg.methods.PAMA) and method.config["patches_per_anchor"] == 4
    words = "--method", tmp_path / "run" / "method.safetensors", "--out", tmp_path / "vectors"
    assert run("embed", *tmp_path.glob("p*.safetensors"), *words) == 0
    vectors = hg.training.Embeddings.load(tmp_path / "vectors" / "embeddings.safetensors")
    assert vectors.graph.shape == (3, 16) and vectors.node.shape == (3 * 25, 16)


def test_slpd_takes_the_regions_of_slides(tmp_path, capsys):
    """Slides in, slide vectors out: build, pre-train, embed; the slide's vector is the mean of its regions'."""
    for i in range(3):
        Image.fromarray(stained(320, 480, seed=i)).save(tmp_path / f"s{i}.png")
    sizes = "--entities", "patch,region", "--patch-um", 20, "--region-um", 80
    assert run("build", *sorted(tmp_path.glob("*.png")), "--out", tmp_path / "g", "--mpp", 0.5, *sizes) == 0
    words = "--method", "slpd", "--epochs", 3, "--hidden-dim", 32, "--grid", 4, "--min-nodes", 1
    words += "--prototypes", 2, "--min-regions", 4, "--start-epoch", 1
    assert run("pretrain", tmp_path / "g", "--out", tmp_path / "run", *words) == 0
    method = hg.methods.load_method(tmp_path / "run" / "method.safetensors")
    assert isinstance(method, hg.methods.SLPD) and (
        method.config["region_size"],
        method.prototypes.regions,
    ) == (4, 18)
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    intra = [float(line.split(",")[log[0].split(",").index("intra")]) for line in log[1:]]
    assert intra[0] == 0 and min(intra[1:]) > 0
    words = "--method", tmp_path / "run" / "method.safetensors", "--out", tmp_path / "z"
    assert run("embed", tmp_path / "g", *words) == 0
    vectors = hg.training.Embeddings.load(tmp_path / "z" / "embeddings.safetensors")
    assert (vectors.graph.shape, vectors.node.shape, vectors.slide_ids) == (
        (3, 32),
        (18, 32),
        ["s0", "s1", "s2"],
    )
    np.testing.assert_allclose(vectors.graph[1], vectors.node[6:12].mean(0), atol=1e-5)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--method", "mae"), "must be one of hmgdm, pama, slpd; found mae"),
        (("--method", "slpd", "--window-um", 9), "not an option of slpd"),
        (
            ("--method", "pama", "--node-type", "tissue", "--representation", "layers"),
            "not an option of pama",
        ),
        (("--patches-per-anchor", 9), "not an option of hmgdm"),
    ],
)
def test_pretrain_refuses_what_the_method_does_not_know(graphs, tmp_path, capsys, words, message):
    assert run("pretrain", graphs, "--out", tmp_path / "run", *words) != 0
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_pretrain_resumes(graphs, tmp_path):
    words = "pretrain", graphs, "--window-um", 0, "--hidden-dim", 32
    assert run(*words, "--out", tmp_path / "whole", "--epochs", 3) == 0
    assert run(*words, "--out", tmp_path / "whole", "--epochs", 3) == 0  # nothing left to do
    log = (tmp_path / "whole" / "log.csv").read_text()
    assert log.count("\n") == 4


def bad_slides(folder):
    """Every kind of broken input, with a word that the message must hold."""
    (folder / "text.svs").write_text("this is not a slide")
    (folder / "empty.svs").write_bytes(b"")
    whole = hg.bundled.slide_path().read_bytes()
    (folder / "truncated.svs").write_bytes(whole[: len(whole) // 3])
    (folder / "nothing.tif").write_bytes(whole[:8])
    Image.fromarray(stained(100, 100, 2)).save(folder / "no_mpp.png")
    return {
        "missing.svs": "missing.svs",
        "text.svs": "text.svs",
        "empty.svs": "empty.svs",
        "truncated.svs": "truncated.svs",
        "nothing.tif": "nothing.tif",
        "no_mpp.png": "mpp",
    }


@pytest.mark.parametrize(
    "name", ["missing.svs", "text.svs", "empty.svs", "truncated.svs", "nothing.tif", "no_mpp.png"]
)
def test_bad_slide_is_one_clear_error(name, tmp_path, capsys):
    word = bad_slides(tmp_path)[name]
    assert run("build", tmp_path / name, "--out", tmp_path / "out") == 1
    said = "".join(capsys.readouterr())
    assert word in said and "Traceback" not in said
    assert [n for n in leftovers(tmp_path / "out") if n != "manifest.parquet"] == []


def test_one_broken_slide_does_not_stop_the_rest(picture, tmp_path, capsys):
    (tmp_path / "broken.svs").write_text("no slide")
    assert run("build", tmp_path / "broken.svs", picture, "--out", tmp_path / "out", "--mpp", "0.5") == 1
    said = capsys.readouterr().out
    assert "failed" in said and "broken" in said
    assert (tmp_path / "out" / "stained.safetensors").exists()


@pytest.mark.parametrize("fill", [255, 128], ids=["white", "gray"])
def test_no_tissue_gives_a_valid_empty_graph(fill, tmp_path):
    path = tmp_path / "blank.tif"
    tifffile.imwrite(path, np.full((200, 300, 3), fill, np.uint8), photometric="rgb")
    assert run("build", path, "--out", tmp_path / "out", "--mpp", "0.5") == 0
    graph = hg.load(tmp_path / "out" / "blank.safetensors")
    hg.validate(graph)
    assert graph["cell"].num_nodes == 0 and graph["cell"].x.shape[1] == len(graph["cell"].feature_names)


def test_tissue_without_nuclei_gives_a_graph_without_cells(tmp_path):
    Image.fromarray(np.full((300, 300, 3), (225, 160, 195), np.uint8)).save(tmp_path / "pink.png")
    assert run("build", tmp_path / "pink.png", "--out", tmp_path / "out", "--mpp", "0.5") == 0
    graph = hg.load(tmp_path / "out" / "pink.safetensors")
    hg.validate(graph)
    assert graph["cell"].num_nodes == 0 and graph["tissue"].num_nodes > 0


def test_one_pixel_picture(tmp_path):
    Image.fromarray(np.full((1, 1, 3), 200, np.uint8)).save(tmp_path / "dot.png")
    assert run("build", tmp_path / "dot.png", "--out", tmp_path / "out", "--mpp", "0.5") == 0
    hg.validate(hg.load(tmp_path / "out" / "dot.safetensors"))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX paths")
def test_unwritable_output(picture, capsys):
    assert run("build", picture, "--out", "/dev/null/graphs", "--mpp", "0.5") == 1
    assert "/dev/null/graphs" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX paths")
def test_quickstart_to_an_unwritable_folder(capsys):
    assert run("quickstart", "--out", "/dev/null/q") == 1
    assert "/dev/null/q" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [("build", "x.svs", "--out", "y", "--no-such-option"), ("no-such-verb",), ("build", "--out", "y")],
    ids=["unknown option", "unknown verb", "no slide"],
)
def test_wrong_usage_exits_with_2(words, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err


def test_unknown_entity_names_the_valid_ones(picture, tmp_path, capsys):
    assert run("build", picture, "--out", tmp_path, "--mpp", "0.5", "--entities", "cells") == 1
    said = "".join(capsys.readouterr())
    assert "cells" in said and "tissue" in said


@pytest.mark.parametrize("verb", ["pretrain", "embed"])
def test_broken_graph_file(verb, graphs, tmp_path, capsys):
    whole = (graphs / "s0.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    hg.methods.HMGDM(4, hidden_dim=16).save(tmp_path / "method.safetensors")
    words = [verb, tmp_path / "half.safetensors", "--out", tmp_path / "out"]
    assert run(*words, *(["--method", tmp_path / "method.safetensors"] if verb == "embed" else [])) == 1
    said = capsys.readouterr().err
    assert "half.safetensors" in said and "Traceback" not in said


def test_a_graph_is_not_a_method(graphs, tmp_path, capsys):
    assert run("embed", graphs, "--method", graphs / "s0.safetensors", "--out", tmp_path) == 1
    assert "s0.safetensors" in capsys.readouterr().err


def test_labels_without_a_slide(graphs, tmp_path, capsys):
    run("pretrain", graphs, "--out", tmp_path / "run", "--epochs", 1, "--window-um", 0, "--hidden-dim", 32)
    run("embed", graphs, "--method", tmp_path / "run" / "method.safetensors", "--out", tmp_path)
    (tmp_path / "labels.csv").write_text("slide_id,label\ns0,1\n")
    words = (
        "evaluate",
        tmp_path / "embeddings.safetensors",
        "--labels",
        tmp_path / "labels.csv",
        "--out",
        tmp_path,
    )
    assert run(*words) == 1
    assert "s1" in capsys.readouterr().err
    assert run(*words, "--k", 3) == 2  # of the other probe
    assert "--probe knn" in capsys.readouterr().err


def test_slides_that_are_left_out_are_named(graphs, tmp_path, capsys):
    run("pretrain", graphs, "--out", tmp_path / "run", "--epochs", 1, "--window-um", 0, "--hidden-dim", 32)
    method = tmp_path / "run" / "method.safetensors"
    counts = [hg.load(graphs / f"s{i}.safetensors")["tissue"].x.shape[0] for i in range(8)]
    capsys.readouterr()
    words = ("embed", graphs, "--method", method, "--out", tmp_path, "--min-nodes", min(counts) + 1)
    assert run(*words) == 0
    assert f"left out: {counts.count(min(counts))} slides with too few nodes" in capsys.readouterr().err
    words = ("evaluate", tmp_path / "embeddings.safetensors", "--labels", graphs.parent / "labels.csv")
    assert run(*words, "--out", tmp_path, "--folds", 2) == 0
    assert f"left out: {counts.count(min(counts))} slides of" in capsys.readouterr().err


def test_embed_refuses_an_out_that_cannot_be_written_before_any_work(graphs, tmp_path, capsys):
    run("pretrain", graphs, "--out", tmp_path / "run", "--epochs", 1, "--window-um", 0, "--hidden-dim", 32)
    (tmp_path / "file").write_text("")
    method = tmp_path / "run" / "method.safetensors"
    capsys.readouterr()
    assert run("embed", graphs, "--method", method, "--out", tmp_path / "file") == 1
    said = capsys.readouterr().err
    assert "out: cannot write here" in said and "batch/s" not in said


def test_doctor(capsys):
    assert run("doctor") == 0
    said = capsys.readouterr().out
    assert "openslide" in said and "pip install" in said


def test_help_lists_every_verb():
    done = subprocess.run(
        [sys.executable, "-m", "histograph.cli", "--help"], capture_output=True, text=True, check=True
    )
    for verb in ("build", "nuclei", "convert", "pretrain", "embed", "evaluate", "quickstart", "doctor"):
        assert verb in done.stdout
