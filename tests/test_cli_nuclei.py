"""`histograph nuclei`, and the choice of what finds nuclei in `histograph build`."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import histograph as hg
from histograph.cli_nuclei import remove_unfinished
from histograph.entities.parts_on_disk import KeptParts
from histograph.formats import FORMATS, read_entities
from tests.test_cli import run, stained

MODEL = Path(__file__).parent / "data" / "stardist" / "plain"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "stained.png"
    Image.fromarray(stained(200, 220, 30)).save(path)
    return path


@pytest.mark.parametrize("to", ["geojson.gz", "csv", "tif"])
def test_nuclei_of_a_slide_are_written(picture, tmp_path, capsys, to):
    assert run("nuclei", picture, "--out", tmp_path, "--mpp", 0.5, "--to", to, "--everywhere") == 0
    wanted = hg.entities.nuclei(hg.open_slide(picture, mpp=0.5))
    [file] = tmp_path.iterdir()
    assert file.name == f"stained.{to}"
    found = read_entities(file, mpp=0.5 if to == "geojson.gz" else None)
    assert len(found) == len(wanted) > 10
    np.testing.assert_allclose(found.centroid, wanted.centroid, atol=0.3)
    assert f"{len(wanted)} nuclei in" in capsys.readouterr().out
    assert run("nuclei", picture, "--out", tmp_path, "--mpp", 0.5, "--to", to) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_broken_slide_does_not_stop_the_rest(picture, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    out = tmp_path / "out"
    assert run("nuclei", broken, picture, "--out", out, "--mpp", 0.5, "--to", "csv") == 1
    said = capsys.readouterr().out
    assert "failed   broken.png" in said and "done     stained.png" in said
    assert [path.name for path in out.iterdir()] == ["stained.csv"]


def test_slides_of_one_name_do_not_replace_each_other(picture, tmp_path, capsys):
    other = tmp_path / "stained.tif"
    other.write_bytes(b"never read")
    assert run("nuclei", picture, other, "--out", tmp_path / "out", "--mpp", 0.5, "--to", "csv") == 2
    said = capsys.readouterr()
    message = "".join((said.out + said.err).replace("│", " ").split())
    assert "stained.tifwouldbothbewrittento" in message and not (tmp_path / "out").exists()
    for name in ("a.json", "a.geojson"):
        (tmp_path / name).write_text("[]")
    files = [tmp_path / "a.json", tmp_path / "a.geojson"]
    assert run("convert", *files, "--to", "csv", "--out", tmp_path / "out", "--overwrite") == 2
    assert not (tmp_path / "out").exists()


def test_stardist_from_the_command_line(picture, tmp_path):
    words = ("--mpp", 0.5, "--segment", "stardist-torch", "--segment-model", MODEL, "--segment-mpp", 0.5)
    assert run("nuclei", picture, "--out", tmp_path, "--to", "csv", "--everywhere", *words) == 0
    slide = hg.open_slide(picture, mpp=0.5)
    wanted = hg.entities.nuclei(slide, mpp=0.5, segment="stardist-torch", model=MODEL)
    assert len(read_entities(tmp_path / "stained.csv")) == len(wanted)
    assert run("build", picture, "--out", tmp_path / "g", "--entities", "cell", *words) == 0
    graph = hg.load(tmp_path / "g" / "stained.safetensors")
    masked = hg.entities.nuclei(slide, mpp=0.5, mask="auto", segment="stardist-torch", model=MODEL)
    assert len(graph["cell"].x) == len(masked)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("nuclei", "--to", "docx"), 2, "must be one of geojson"),
        (("nuclei", "--segment-model", "x"), 2, "is for StarDist"),
        (("nuclei", "--segment", "magic"), 1, "segment: expected one of"),
        (("build", "--entities", "patch", "--segment", "stardist-torch"), 2, "--entities has no cell"),
    ],
)
def test_wrong_words(picture, tmp_path, capsys, words, status, message):
    verb, *rest = words
    assert run(verb, picture, "--out", tmp_path, "--mpp", 0.5, *rest) == status
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).replace("│", " ").split())


def test_nuclei_that_could_not_be_written_are_not_sought_again(picture, tmp_path, capsys, monkeypatch):
    words = "nuclei", picture, "--out", tmp_path, "--mpp", 0.5, "--to"

    def full(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("histograph.formats.write_entities", full)
        assert run(*words, "png") == 1
    assert "no space left" in capsys.readouterr().out
    assert list(tmp_path.glob("unfinished/*/tile-*.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]

    def never(*arguments):
        raise AssertionError("sought again")

    monkeypatch.setattr(import_module("histograph.entities.nuclei"), "segment", never)
    assert run(*words, "tif") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["stained.tif"]


def test_nuclei_of_a_graph_that_could_not_be_built_are_not_sought_again(
    picture, tmp_path, capsys, monkeypatch
):
    words = "build", picture, "--out", tmp_path, "--mpp", 0.5, "--entities", "cell", "--resume"

    def fails(*arguments, **options):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("histograph.graphs.many.save", fails)
        assert run(*words) == 1
    assert "out of memory" in capsys.readouterr().out
    assert list(tmp_path.glob("unfinished/*/tile-*.npz"))

    def never(*arguments):
        raise AssertionError("sought again")

    monkeypatch.setattr(import_module("histograph.entities.nuclei"), "segment", never)
    assert run(*words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.parquet", "stained.safetensors"]


@pytest.mark.parametrize("words", [("nuclei", "--mpp", 0.5), ("convert",)])
def test_what_cannot_work_is_refused_before_the_search(picture, tmp_path, capsys, monkeypatch, words):
    verb, *rest = words
    source = tmp_path / "a.geojson"
    source.write_text("[]")
    given = picture if verb == "nuclei" else source
    monkeypatch.setitem(sys.modules, "anndata", None)
    assert run(verb, given, "--out", tmp_path / "out", "--to", "h5ad", *rest) == 1
    assert "pip install" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(verb, given, "--out", source, "--to", "csv", *rest) == 2
    assert "must be a folder" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_two_processes_on_one_slide(picture, tmp_path, capsys, monkeypatch):
    """The tiles of the slower one are gone when the faster one has written its file."""

    def slower(slide, **arguments):
        (tmp_path / "stained.csv").write_text("of the other")
        raise FileNotFoundError("resume: … has been removed")

    monkeypatch.setattr("histograph.entities.nuclei", slower)
    words = "nuclei", picture, "--out", tmp_path, "--mpp", 0.5, "--to", "csv"
    assert run(*words) == 0
    assert "skipped  stained.png" in capsys.readouterr().out
    assert (tmp_path / "stained.csv").read_text() == "of the other"
    assert run(*words, "--overwrite") == 1
    assert "failed   stained.png" in capsys.readouterr().out


def test_tiles_of_another_process_stay(tmp_path, monkeypatch):
    other, looked = tmp_path / "unfinished" / "b.nuclei", Path.iterdir

    def iterdir(path):  # another process begins just after this one has looked
        found = list(looked(path))
        other.mkdir(exist_ok=True)
        return iter(found)

    other.parent.mkdir()
    remove_unfinished(tmp_path)
    assert not other.parent.exists()
    remove_unfinished(tmp_path)
    other.parent.mkdir()
    monkeypatch.setattr(Path, "iterdir", iterdir)
    remove_unfinished(tmp_path)
    kept = KeptParts.open(tmp_path / "unfinished", "a", {})
    kept.remove()
    kept.remove()


@pytest.mark.parametrize("to", ["geojson.gz", "hovernet", "cellvit", "stardist", "tif", "h5ad"])
def test_pixels_of_the_slide_come_back_from_any_format(tmp_path, monkeypatch, to):
    """QuPath counts in level-0 pixels from where the scanned part begins, whatever the masks lie on."""
    if to == "h5ad":
        pytest.importorskip("anndata")
    Image.fromarray(stained(200, 220, 30)).save(tmp_path / "s.png")
    opened = hg.slides.open_slide

    def with_bounds(path, mpp):
        slide = opened(path, mpp=(0.4, 0.5))
        slide._reader.properties.update({"openslide.bounds-x": "30", "openslide.bounds-y": "7"})
        return slide

    monkeypatch.setattr("histograph.slides.open_slide", with_bounds)
    assert run("nuclei", tmp_path / "s.png", "--out", tmp_path / "a", "--to", "geojson", "--everywhere") == 0
    wanted = json.loads((tmp_path / "a" / "s.geojson").read_text())
    assert wanted["histograph"]["mpp"] == [0.4, 0.5] and wanted["histograph"]["offset_px"] == [30, 7]
    assert run("nuclei", tmp_path / "s.png", "--out", tmp_path / "b", "--to", to, "--everywhere") == 0
    file = tmp_path / "b" / f"s{FORMATS[to]}"
    assert run("convert", file, "--to", "geojson", "--out", tmp_path / "c") == 0
    found = json.loads((tmp_path / "c" / "s.geojson").read_text())
    for key in ("mpp", "offset_px"):
        assert found["histograph"][key] == wanted["histograph"][key]

    def corners(value):
        shapes = [np.asarray(np.concatenate(f["geometry"]["coordinates"])) for f in value["features"]]
        return np.array([shape.min(axis=0) for shape in shapes])

    if to != "h5ad":  # which holds points
        np.testing.assert_allclose(corners(found), corners(wanted), atol=3.0 if to == "stardist" else 1e-6)
