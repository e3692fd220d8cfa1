"""What StarDist models do in the stardist package itself, beside what they do here; needs stardist and TensorFlow."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histograph.entities import nuclei
from histograph.entities.stardist_files import load_stardist, save_stardist
from histograph.entities.stardist_image import stardist_instances
from histograph.entities.stardist_runtime import make_runner, scaled
from histograph.slides import open_slide

pytest.importorskip("tensorflow")
models = pytest.importorskip("stardist.models")

DATA = Path(__file__).parent.parent / "data" / "stardist"


@pytest.fixture(scope="module")
def image():
    pixels = np.asarray(Image.open(DATA / "image.png"))
    return scaled(pixels, *np.percentile(pixels, (1, 99.8)))


@pytest.fixture(scope="module")
def slide():
    return open_slide(np.asarray(Image.open(DATA / "image.png")), mpp=0.5)


def compare(ours, theirs, count):
    found = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    assert len(found) == count
    for a, b in found:
        assert a.shape == b.shape and np.abs(a - b).max() < 1e-4 and b.std() > 1e-3


@pytest.mark.parametrize("name,count", [("plain", 2), ("norm", 2), ("kinds", 3)])
@pytest.mark.parametrize("opened", [True, False])
def test_outputs_are_equal(name, count, opened, image):
    """Opened by stardist, or built by it and filled by us."""
    model = load_stardist(DATA / name)
    x = image[:96, :96]
    keras = make_runner(model if opened else replace(model, source=None), "keras")
    compare(make_runner(model)(x), keras(x), count)


@pytest.mark.parametrize(
    "name,prob_thresh,nms_thresh", [("plain", None, None), ("plain", 0.35, 0.5), ("kinds", 0.35, 0.5)]
)
def test_nuclei_are_those_of_predict_instances(name, prob_thresh, nms_thresh, image):
    theirs = models.StarDist2D(None, name=name, basedir=str(DATA))
    labels, found = theirs.predict_instances(image, prob_thresh=prob_thresh, nms_thresh=nms_thresh)
    options = {"prob_thresh": prob_thresh, "nms_thresh": nms_thresh}
    own, polygons = stardist_instances(image, DATA / name, suppression="stardist", **options)
    assert len(polygons) == len(found["points"]) > 5
    # probabilities that are equal but for rounding may change places: compare by place
    ours, order = by_place(own, polygons.points)
    wanted, their_order = by_place(labels, found["points"])
    np.testing.assert_array_equal(ours, wanted)
    np.testing.assert_array_equal(polygons.points[order], found["points"][their_order])
    np.testing.assert_allclose(polygons.score[order], found["prob"][their_order], atol=1e-4)
    corners = polygons.corners().transpose(0, 2, 1)
    np.testing.assert_allclose(corners[order], found["coord"][their_order], atol=1e-3)
    if name == "kinds":
        np.testing.assert_array_equal(polygons.kind[order], found["class_id"][their_order])


def by_place(labels, points):
    """Number labels by row and column of the centres; return also the order."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    number = np.zeros(len(order) + 1, int)
    number[order + 1] = np.arange(len(order)) + 1
    return number[labels], order


def test_drawing_is_that_of_polygons_to_label(image):
    from stardist.geometry import polygons_to_label

    labels, polygons = stardist_instances(image, DATA / "plain", prob_thresh=0.3)
    theirs = polygons_to_label(polygons.dist, polygons.points, labels.shape, prob=polygons.score)
    # theirs numbers polygons as they are painted, ours by falling probability
    pairs = np.unique(np.stack([labels.ravel(), theirs.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(labels)) == len(np.unique(theirs))


def zipped(path, inside=""):
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("__MACOSX/" + inside + "config.json", "rubbish")
        for item in (DATA / "plain").iterdir():
            packed.write(item, inside + item.name)
    return path


def test_folders_zips_names_and_files_of_ours_are_one(slide, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    home = tmp_path / "keras" / "models" / "StarDist2D"
    (home / "2D_versatile_he").mkdir(parents=True)
    zipped(home / "2D_versatile_he" / "2D_versatile_he.zip")
    save_stardist(load_stardist(DATA / "plain"), tmp_path / "own.safetensors")
    monkeypatch.chdir(shutil.copytree(DATA / "plain", tmp_path / "here"))
    packed = zipped(tmp_path / "packed.zip", "2D_model/")
    reference = nuclei(slide, 0.5, segment="stardist-torch", model=DATA / "plain", window_px=144)
    assert len(reference) > 10
    for way in (".", packed, "2D_versatile_he", tmp_path / "own.safetensors"):
        found = nuclei(slide, 0.5, segment="stardist", model=way, window_px=144)
        np.testing.assert_array_equal(found.instance_map(), reference.instance_map(), err_msg=str(way))


def test_stardist_reads_the_weights_that_we_read(image, tmp_path):
    """By itself it would take the newest weights that are called best."""
    folder = shutil.copytree(DATA / "plain", tmp_path / "plain")
    (folder / "weights_best_of_today.h5").write_bytes(b"no weights")
    model, x = load_stardist(folder), image[:96, :96]
    compare(make_runner(model)(x), make_runner(model, "keras")(x), 2)
