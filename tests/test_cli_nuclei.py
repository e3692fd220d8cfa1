"""`histograph nuclei`, and the choice of what finds nuclei in `histograph build`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import histograph as hg
from histograph.formats import read_entities
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
