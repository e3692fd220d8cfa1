import importlib.abc
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import histograph as hg
from histograph.entities import nuclei
from histograph.entities.stardist import stardist_nuclei
from histograph.entities.stardist_files import StarDistModel, load_stardist, save_stardist
from histograph.entities.stardist_image import stardist_instances
from histograph.entities.stardist_runtime import make_runner, scaled
from histograph.slides import TissueMask, open_slide

DATA = Path(__file__).parent.parent / "data" / "stardist"


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("h5py")
    return load_stardist(DATA / "plain")


@pytest.fixture(scope="module")
def image():
    return np.asarray(Image.open(DATA / "image.png"))


@pytest.fixture(scope="module")
def mosaic(image):
    """Four pictures side by side and below, mirrored."""
    row = np.concatenate([image, image[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]])


@pytest.fixture(scope="module")
def slide(mosaic):
    return open_slide(mosaic, mpp=0.5)


def normalised(image):
    return scaled(image, *np.percentile(image, (1, 99.8)))


def same(a, b):
    assert a.label.tolist() == b.label.tolist()
    for name in ("centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.masks.bits, b.masks.bits)
    np.testing.assert_array_equal(a.columns["probability"], b.columns["probability"])


@pytest.mark.parametrize("name", ["plain", "norm", "kinds"])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_outputs_are_those_of_keras(name, backend, image):
    pytest.importorskip("h5py")
    if backend == "openvino":
        pytest.importorskip("openvino")
    found = make_runner(load_stardist(DATA / name), backend)(normalised(image)[:96, :96])
    with np.load(DATA / "keras.npz") as recorded:
        wanted = [
            recorded[f"{name}_{key}"] for key in ("prob", "dist", "kinds") if f"{name}_{key}" in recorded
        ]
    found = [output for output in (found[0][..., None], *found[1:]) if output is not None]
    assert len(found) == len(wanted) == (3 if name == "kinds" else 2)
    for ours, theirs in zip(found, wanted):
        assert np.abs(ours[::4, ::4] - theirs).max() < 1e-4
        assert theirs.std() > 1e-3  # something is compared


def test_nuclei_of_an_image_are_those_of_stardist(plain, image):
    labels, polygons = stardist_instances(normalised(image), plain)
    with np.load(DATA / "keras.npz") as recorded:
        np.testing.assert_array_equal(labels, recorded["plain_labels"])
        np.testing.assert_array_equal(polygons.points, recorded["plain_points"])
        np.testing.assert_allclose(polygons.score, recorded["plain_score"], atol=1e-5)
        np.testing.assert_allclose(polygons.corners().transpose(0, 2, 1), recorded["plain_coord"], atol=1e-3)
    assert labels.max() == len(polygons) > 10


def test_overlaps_near_the_threshold_are_judged_otherwise_by_stardist(plain, image):
    pytest.importorskip("stardist")
    with np.load(DATA / "keras.npz") as recorded:
        labels, _ = stardist_instances(normalised(image), plain, prob_thresh=0.3, suppression="stardist")
        np.testing.assert_array_equal(labels, recorded["plain_labels_low"])


@pytest.mark.parametrize("backend,package", [("keras", "stardist.models"), ("openvino", "openvino")])
def test_missing_packages_are_named(plain, backend, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"backend '{backend}' needs .*pip install .*backend='torch'"):
        make_runner(plain, backend)


def test_stardist_without_tensorflow_is_a_missing_package(plain, monkeypatch):
    class WithoutTensorFlow(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "stardist.models":
                raise RuntimeError("Please install TensorFlow")  # as csbdeep says it, which stardist needs

    monkeypatch.delitem(sys.modules, "stardist.models", raising=False)
    monkeypatch.setitem(sys.modules, "stardist", types.ModuleType("stardist"))
    sys.modules["stardist"].__path__ = []
    monkeypatch.setattr(sys, "meta_path", [WithoutTensorFlow(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"backend 'keras' needs .*backend='torch'.*install TensorFlow"):
        make_runner(plain, "keras")


@pytest.mark.parametrize("image", [np.zeros((0, 5, 3)), np.full((20, 20, 3), np.nan)])
def test_images_without_values_are_refused(plain, image):
    with pytest.raises(ValueError, match="image: expected finite values, at least one pixel"):
        stardist_instances(image, plain)


def test_openvino_finds_the_same_nuclei(plain, slide):
    pytest.importorskip("openvino")
    options = {"model": plain, "window_px": 144}
    torch_cells = nuclei(slide, 0.5, segment="stardist-torch", **options)
    cells = nuclei(slide, 0.5, segment="stardist-openvino", **options)
    assert cells.parameters["backend"] == "openvino" and len(cells) > 30
    np.testing.assert_array_equal(cells.instance_map(), torch_cells.instance_map())


def test_bfloat16_is_near(plain, image):
    x = normalised(image)[:96, :96]
    exact, near = make_runner(plain)(x), make_runner(plain, mixed_precision=True)(x)
    assert 0 < np.abs(exact[0] - near[0]).max() < 0.05
    assert np.abs(exact[1] - near[1]).mean() < 0.2


@pytest.mark.parametrize("tile_um,workers", [(1.0, 2), (50.0, 1), (70.0, 3)])
def test_result_does_not_depend_on_tiles(plain, slide, tile_um, workers):
    options = {"model": plain, "window_px": 144, "prob_thresh": 0.35, "max_radius_um": 12.0}
    whole = stardist_nuclei(slide, 0.5, tile_um=1e6, workers=1, **options)
    assert len(whole) > 60
    same(whole, stardist_nuclei(slide, 0.5, tile_um=tile_um, workers=workers, **options))


def test_squares_of_another_size_see_the_same(plain, slide):
    options = {"model": plain, "max_radius_um": 12.0}
    one = stardist_nuclei(slide, 0.5, window_px=144, **options)
    two = stardist_nuclei(slide, 0.5, window_px=400, **options)
    np.testing.assert_array_equal(one.label, two.label)
    np.testing.assert_allclose(one.centroid, two.centroid, atol=0.1)


def test_inside_a_slide_nuclei_are_those_of_the_image(plain, mosaic):
    """Only the border differs: the slide goes on mirrored there, the image with zeros."""
    low, high = np.percentile(mosaic, (1, 99.8))
    cells = stardist_nuclei(open_slide(mosaic, mpp=0.5), 0.5, model=plain, normalise=(low, high))
    labels, polygons = stardist_instances(normalised(mosaic), plain)
    drawn = cells.instance_map()
    far = plain.config.margin[0] + 20
    inside = (polygons.points > far) & (polygons.points < np.array(mosaic.shape[:2]) - far)
    inner = np.flatnonzero(inside.all(axis=1))
    assert len(inner) > 2
    for i in inner:
        own = labels == i + 1
        ours = np.unique(drawn[own])
        assert len(ours) == 1 and ours[0] > 0 and (own == (drawn == ours[0])).all()


def test_masks_do_not_overlap_and_ids_follow_rows(plain, slide):
    cells = stardist_nuclei(slide, 0.5, model=plain)
    counts = np.bincount(cells.instance_map().ravel(), minlength=len(cells) + 1)[1:]
    np.testing.assert_allclose(counts * 0.25, cells.area)
    assert cells.label.tolist() == list(range(1, len(cells) + 1))
    assert (cells.columns["probability"] > plain.prob_thresh).all()
    assert cells.parameters["model"] == "plain" and "type" not in cells.columns


def test_mask_only_removes(plain, slide):
    everywhere = stardist_nuclei(slide, 0.5, model=plain, normalise=(60, 240))
    mask = TissueMask(np.random.default_rng(0).random((33, 37)) < 0.5, 4.0)
    some = stardist_nuclei(slide, 0.5, mask, model=plain, normalise=(60, 240), window_px=144)
    assert 0 < len(some) < len(everywhere)
    assert {tuple(c) for c in some.centroid.round(6)} <= {tuple(c) for c in everywhere.centroid.round(6)}
    nowhere = TissueMask(np.zeros((33, 37), bool), 4.0)
    assert len(stardist_nuclei(slide, 0.5, nowhere, model=plain)) == 0


def test_kinds_become_types(slide):
    pytest.importorskip("h5py")
    model = replace(load_stardist(DATA / "kinds"), classes=("round", "long"))
    cells = stardist_nuclei(slide, 0.5, model=model, prob_thresh=0.3, window_px=144)
    assert set(cells.columns["type"]) <= {"", "round", "long"}


@pytest.mark.parametrize("value", [0, 255])
def test_blank_slides(plain, value):
    for normalise in ("slide", "window"):
        cells = stardist_nuclei(
            open_slide(np.full((70, 50, 3), value, np.uint8), mpp=0.5), 0.5, model=plain, normalise=normalise
        )
        assert cells.extent_um == (25.0, 35.0)
    assert len(stardist_nuclei(open_slide(np.zeros((1, 1, 3), np.uint8), mpp=0.5), 0.5, model=plain)) == 0


def test_nuclei_and_build_graph_ask_for_it_by_segment(plain, slide, tmp_path):
    save_stardist(replace(plain, mpp=0.5), tmp_path / "model.safetensors")
    direct = stardist_nuclei(slide, model=tmp_path / "model.safetensors")
    same(direct, nuclei(slide, segment="stardist-torch", model=tmp_path / "model.safetensors"))
    options = {"segment": "stardist-torch", "model": str(tmp_path / "model.safetensors")}
    graph = hg.build_graph(slide, entities={"cell": options}, features={"cell": ("shape",)})
    on_tissue = stardist_nuclei(slide, mask="auto", model=tmp_path / "model.safetensors")
    assert graph["cell"].num_nodes == len(on_tissue) > 10
    given = {"segment": "stardist-torch", "model": replace(plain, mpp=0.5)}
    again = hg.build_graph(slide, entities={"cell": given}, features={"cell": ("shape",)})
    assert torch.equal(again["cell"].pos, graph["cell"].pos)
    assert again.provenance["parameters"]["entities"]["cell"]["model"]["stardist"]["name"] == "plain"
    with pytest.raises(ValueError, match="unknown 'stains'"):
        hg.build_graph(slide, entities={"cell": {**options, "stains": "ruifrok"}})
    with pytest.raises(ValueError, match="segment"):
        hg.build_graph(slide, entities={"cell": {"segment": "mesmer"}})


@pytest.mark.parametrize(
    "options,error,match",
    [
        ({"mpp": 0.0}, ValueError, "mpp"),
        ({"mpp": None}, ValueError, "do not say at which pixel size"),
        ({"tile_um": 0.0}, ValueError, "tile_um"),
        ({"max_radius_um": -1.0}, ValueError, "max_radius_um"),
        ({"workers": 0}, ValueError, "workers"),
        ({"workers": 1.5}, ValueError, "workers: expected a whole number"),
        ({"window_px": 0}, ValueError, "window_px"),
        ({"prob_thresh": 1.5}, ValueError, "prob_thresh"),
        ({"nms_thresh": -0.5}, ValueError, "nms_thresh"),
        ({"normalise": "image"}, ValueError, "normalise"),
        ({"normalise": (3, 3)}, ValueError, "normalise"),
        ({"normalise": 5}, ValueError, "normalise: expected what becomes 0"),
        ({"device": "nowhere"}, ValueError, "device: 'nowhere' is not to be had here"),
        ({"backend": "onnx"}, ValueError, "backend"),
        ({"mask": "tissue"}, TypeError, "mask"),
        ({"backend": "openvino", "device": "cpu"}, ValueError, "device"),
    ],
)
def test_wrong_arguments_are_named(plain, slide, options, error, match):
    with pytest.raises(error, match=match):
        stardist_nuclei(slide, **{"mpp": 0.5, "model": plain, **options})


def test_segments_refuse_what_is_not_theirs(slide):
    with pytest.raises(ValueError, match="segment: expected one of"):
        nuclei(slide, segment="cellpose")
    with pytest.raises(ValueError, match="only with segment 'classical'"):
        nuclei(slide, segment="stardist-torch", threshold=0.3)
    with pytest.raises(TypeError, match="min_area_um2: no such setting"):
        nuclei(slide, segment="stardist-torch", min_area_um2=3.0)


def test_model_for_other_channels_is_refused(plain, slide):
    from histograph.nn.stardist_net import StarDistConfig, StarDistNet

    grey = StarDistModel(StarDistNet(StarDistConfig(n_depth=1, n_filter_base=2)).eval(), 0.5, 0.4, "grey")
    with pytest.raises(ValueError, match="for 1 channel"):
        stardist_nuclei(slide, 0.5, model=grey)
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) of floats"):
        stardist_instances(np.zeros((32, 32), np.float32), plain)
    with pytest.raises(ValueError, match="floats"):
        stardist_instances(np.zeros((32, 32, 3), np.uint8), plain)


def test_nothing_global_changes(plain, slide):
    # field bug E.6: elsewhere making an object sets the number of threads of the process
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    stardist_nuclei(slide, 0.5, model=plain)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
