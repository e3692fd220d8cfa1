import http.client
import json
import shutil
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.entities import nuclei, stardist_files
from histograph.entities.stardist_files import StarDistModel, load_stardist, save_stardist
from histograph.nn.stardist_config import StarDistConfig
from histograph.nn.stardist_net import StarDistNet
from histograph.slides import open_slide

h5py = pytest.importorskip("h5py")
DATA = Path(__file__).parent.parent / "data" / "stardist"


def equal(a, b):
    one, two = a.network.state_dict(), b.network.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture()
def folder(tmp_path):
    return Path(shutil.copytree(DATA / "plain", tmp_path / "plain"))


def test_folder_says_thresholds_and_config():
    model = load_stardist(DATA / "plain")
    assert (model.nms_thresh, round(model.prob_thresh, 4), model.name, model.mpp) == (
        0.3,
        0.5094,
        "plain",
        None,
    )
    assert model.config.n_rays == 16 and model.config.grid == (2, 2)
    assert load_stardist(model) is model
    assert load_stardist(DATA / "norm").prob_thresh == 0.5  # no thresholds.json: StarDist's default


@pytest.mark.parametrize("inside", ["", "2D_model/"])
def test_zip_is_read_like_its_folder(folder, tmp_path, inside):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        for item in folder.iterdir():
            packed.write(item, inside + item.name)
        packed.writestr("__MACOSX/" + inside + "config.json", "rubbish")
    assert equal(load_stardist(tmp_path / "model.zip"), load_stardist(folder))


def keras_2(model, path):
    """Write weights as Keras 2 does, with counters that go on from other models, out of order in the file."""
    numbers = {"conv2d": 7, "batch_normalization": 3}
    with h5py.File(path, "w", track_order=False) as file:
        for name, conv, norm in model.network.keras_layers():
            if name is None:
                name, numbers["conv2d"] = f"conv2d_{numbers['conv2d']}", numbers["conv2d"] + 1
            file[f"{name}/{name}/kernel:0"] = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
            file[f"{name}/{name}/bias:0"] = conv.bias.detach().numpy()
            if norm is not None:
                layer, numbers["batch_normalization"] = (
                    f"batch_normalization_{numbers['batch_normalization']}",
                    numbers["batch_normalization"] + 1,
                )
                for key, value in (
                    ("gamma", norm.weight),
                    ("beta", norm.bias),
                    ("moving_mean", norm.running_mean),
                    ("moving_variance", norm.running_var),
                ):
                    file[f"{layer}/{layer}/{key}:0"] = value.detach().numpy()
        file["optimizer_weights/Adam/kernel:0"] = np.zeros(3)


@pytest.mark.parametrize("name", ["norm", "kinds"])
def test_layouts_of_keras_2_and_3_are_one(tmp_path, name):
    model = load_stardist(DATA / name)
    shutil.copy(DATA / name / "config.json", tmp_path)
    keras_2(model, tmp_path / "weights_last.h5")
    assert equal(load_stardist(tmp_path), model)


def test_best_weights_are_preferred(folder):
    content = (folder / "weights_best.h5").read_bytes()
    (folder / "weights_last.h5").write_bytes(b"not read")
    assert equal(load_stardist(folder), load_stardist(DATA / "plain"))
    (folder / "weights_best.h5").unlink()
    with pytest.raises(ValueError, match=r"weights_last.h5: not a readable HDF5 file"):
        load_stardist(folder)
    (folder / "weights_last.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"weights_last.h5"):
        load_stardist(folder)


@pytest.mark.parametrize(
    "change,match",
    [
        ({"n_rays": 32}, "kernel of layer 'dist': expected shape"),
        ({"unet_n_depth": 3}, "which its config.json asks for|expected shape"),
        ({"unet_batch_norm": True}, "gamma of layer 'batch_normalization'"),
        ({"n_classes": 2}, "features_class"),
        ({"grid": [3, 3]}, "config.json: grid"),
        ({"n_dim": 3}, "two-dimensional"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, match):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=match):
        load_stardist(folder)


def test_what_is_left_over_is_named(folder):
    with h5py.File(folder / "weights_best.h5", "a") as file:
        file["batch_normalization_9/batch_normalization_9/gamma:0"] = np.zeros(3)
    with pytest.raises(ValueError, match="batch_normalization_9"):
        load_stardist(folder)


def test_broken_folders_are_named(folder, tmp_path):
    (folder / "thresholds.json").write_text('{"prob": 0.5')
    with pytest.raises(ValueError, match=r"thresholds\.json is not JSON"):
        load_stardist(folder)
    (folder / "thresholds.json").unlink()
    (folder / "weights_best.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected weights_best\.h5"):
        load_stardist(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_stardist(folder)
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(ValueError, match="found none of them"):
        load_stardist(tmp_path / "model.txt")


def test_own_file_keeps_everything(tmp_path):
    model = replace(
        load_stardist(DATA / "kinds"), mpp=0.25, percentiles=None, card={"licence": "CC0"}, classes=("a", "b")
    )
    save_stardist(model, tmp_path / "m.safetensors")
    found = load_stardist(tmp_path / "m.safetensors")
    assert equal(found, model) and found.config == model.config
    for name in ("prob_thresh", "nms_thresh", "name", "mpp", "percentiles", "card", "classes"):
        assert getattr(found, name) == getattr(model, name)
    with pytest.raises(ValueError, match="safetensors"):
        save_stardist(model, tmp_path / "m.pt")
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load_stardist(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "inside", ["2D_versatile_he.zip", "2D_versatile_he_extracted", "2D_versatile_he", ""]
)
def test_released_model_where_stardist_keeps_it(inside, tmp_path, monkeypatch):
    """The zip, or what Keras 3, csbdeep's link to it, or Keras 2 made of it."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    home = tmp_path / "keras" / "models" / "StarDist2D" / "2D_versatile_he"
    if inside.endswith(".zip"):
        home.mkdir(parents=True)
        with zipfile.ZipFile(home / inside, "w") as packed:
            for item in (DATA / "plain").iterdir():
                packed.write(item, item.name)
    else:
        shutil.copytree(DATA / "plain", home / inside)
    for name in ("2D_versatile_he", "Versatile (H&E nuclei)"):
        assert equal(load_stardist(name), load_stardist(DATA / "plain"))


@pytest.mark.parametrize(
    "answer",
    [urllib.error.URLError("no network"), http.client.IncompleteRead(b"half"), b"a page of a proxy"],
)
@pytest.mark.parametrize("segment", ["stardist", "stardist-torch", "stardist-openvino"])
def test_what_cannot_be_downloaded_says_which_file_to_put_where(tmp_path, monkeypatch, answer, segment):
    import io

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def urlopen(url, timeout):
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    place = tmp_path / "models" / "StarDist2D" / "2D_versatile_he" / "2D_versatile_he.zip"
    with pytest.raises(
        FileNotFoundError, match=r"python_2D_versatile_he.zip elsewhere and put it at"
    ) as caught:
        nuclei(open_slide(np.zeros((8, 8, 3), np.uint8), mpp=0.5), segment=segment, model="2D_versatile_he")
    assert str(place) in str(caught.value) and not place.exists()


def test_without_weights_the_error_says_what_to_give(monkeypatch, tmp_path):
    monkeypatch.setattr(stardist_files, "SHIPPED", tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="give model="):
        load_stardist()


@pytest.mark.parametrize(
    "change,match",
    [
        ({"prob_thresh": 2.0}, "prob_thresh"),
        ({"mpp": -1.0}, "mpp"),
        ({"percentiles": (9, 3)}, "percentiles"),
        ({"classes": ("a",)}, "classes"),
    ],
)
def test_models_are_checked(change, match):
    net = StarDistNet(StarDistConfig(n_depth=0, n_filter_base=2, features=0))
    with pytest.raises(ValueError, match=match):
        replace(StarDistModel(net, 0.5, 0.4, "x"), **change)


@pytest.mark.parametrize(
    "text,message",
    [
        ('{"prob": "a", "nms": 0.3}', "thresholds.json: prob: expected a number from 0 to 1, found 'a'"),
        ('{"prob": null}', "prob: expected a number from 0 to 1, found None"),
        ('{"nms": 7}', "nms: expected a number from 0 to 1, found 7"),
        ('{"nms": NaN}', "nms: expected a number from 0 to 1, found nan"),
    ],
)
def test_thresholds_that_are_none(folder, text, message):
    (folder / "thresholds.json").write_text(text)
    with pytest.raises(ValueError, match=f"{folder.name}: .*{message}"):
        load_stardist(folder)


def test_weights_that_are_no_numbers(folder, tmp_path):
    # a network of NaN finds nothing, without a word
    with h5py.File(folder / "weights_best.h5", "r+") as file:
        file["prob/prob/bias"][...] = np.nan
    with pytest.raises(ValueError, match=r"weights_best.h5: bias of layer 'prob': expected finite"):
        load_stardist(folder)
    model = load_stardist(DATA / "plain")
    with torch.no_grad():
        next(iter(model.network.parameters())).view(-1)[0] = torch.inf
    save_stardist(model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: weights .* are not finite"):
        load_stardist(tmp_path / "a.safetensors")


def test_zips_that_are_damaged_or_hold_two_models(folder, tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for item in folder.iterdir():
            packed.write(item, item.name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.zip is damaged .*CRC"):
        load_stardist(path)
    with zipfile.ZipFile(path, "w") as packed:
        for name in "ab":
            packed.write(folder / "config.json", f"{name}/config.json")
    with pytest.raises(ValueError, match=r"model.zip: expected one model, found a/, b/"):
        load_stardist(path)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda facts: "{", "JSONDecodeError"),
        (lambda facts: "[]", "TypeError"),
        (
            lambda facts: json.dumps({key: facts[key] for key in facts if key != "config"}),
            "KeyError: 'config'",
        ),
        (lambda facts: json.dumps(facts | {"percentiles": [5]}), "IndexError"),
        (lambda facts: json.dumps(facts | {"version": 2}), "of version 2, expected 1"),
    ],
)
def test_heads_of_files_that_are_not_ours(tmp_path, change, message):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_stardist(load_stardist(DATA / "plain"), path)
    with safe_open(path, "pt") as file:
        facts, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    [(name, text)] = facts.items()
    save_file(tensors, path, metadata={name: change(json.loads(text))})
    with pytest.raises(ValueError, match=rf"a.safetensors: its header .*{message}"):
        load_stardist(path)
