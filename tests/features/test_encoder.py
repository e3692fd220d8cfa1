import subprocess
import sys

import numpy as np
import pytest
import torch

from histograph.entities import Entities
from histograph.features import PatchEncoder, crops, embed_entities, load_encoder

from .scenes import ArraySlide, blobs


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 5, 3)
        self.norm = torch.nn.BatchNorm2d(5)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.convolution(x))).mean(dim=(2, 3))


class Fails(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


@pytest.fixture(scope="module")
def scene():
    m, image = blobs(size=60)
    return ArraySlide(image, 0.5), Entities.from_instance_map(m[:, :], mpp=0.5)


def encoder(module, **changes):
    settings = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "size_px": 8, "mpp": 0.5, "name": "net"}
    return PatchEncoder(module, **(settings | changes))


def test_against_the_module_itself(scene):
    slide, entities = scene
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    table = embed_entities(slide, entities, encoder(net), batch_size=7, progress=False)
    assert table.values.shape == (len(entities), 5) and table.names[0] == "net_0"
    assert np.array_equal(table.label, entities.label)
    assert net.training and net.norm.training  # put back
    images = crops(slide, entities.centroid, 4.0, 8) / 255
    x = (images - (0.5, 0.4, 0.3)) / (0.2, 0.3, 0.4)
    with torch.no_grad():
        expected = net.eval()(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    np.testing.assert_allclose(table.values, expected, atol=1e-5)
    one = embed_entities(
        slide, entities, encoder(net), batch_size=100, device="cpu", workers=1, progress=False
    )
    np.testing.assert_allclose(one.values, table.values, atol=1e-5)
    half = embed_entities(slide, entities, encoder(net), mixed_precision=True, progress=False)
    np.testing.assert_allclose(half.values, table.values, atol=0.1)


def test_small_nuclei_have_vectors_of_their_own(scene):
    # field bug E.4: elsewhere a nucleus that fills less than a quarter of its crop keeps what was in memory before
    m = np.zeros((60, 60), int)
    m[5, 5], m[20:22, 30:32], m[40:58, 40:58] = 1, 2, 3
    cells = Entities.from_instance_map(m, mpp=0.5)
    pool = encoder(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    images = (crops(scene[0], cells.centroid, 4.0, 8) / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.3, 0.4)
    for _ in range(2):
        full = torch.full((1000, 1000), float("nan"))
        del full
        table = embed_entities(scene[0], cells, pool, batch_size=2, progress=False)
        np.testing.assert_allclose(table.values, images.mean(axis=(1, 2)), atol=1e-5)


def test_no_entity_still_has_columns(scene):
    assert embed_entities(scene[0], Entities.empty(), encoder(Net()), progress=False).values.shape == (0, 5)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda x: x, ValueError, "pool first"),
        (lambda x: x.mean(dim=(2, 3))[:1], ValueError, "must return shape"),
        (lambda x: (x,), TypeError, "one tensor"),
        (lambda x: x.mean(dim=(2, 3)) * torch.nan, ValueError, "nan or inf for image 0"),
    ],
)
def test_wrong_output_is_refused_and_named(scene, output, error, message):
    with pytest.raises(error, match=message):
        embed_entities(*scene, encoder(Fails(output)), progress=False)


def test_an_error_names_the_batch_of_entities(scene):
    slide, entities = scene
    calls = []

    def output(x):
        calls.append(len(x))
        return x.mean(dim=(2, 3)) * (torch.nan if len(calls) == 2 else 1)

    first, last = entities.label[4], entities.label[7]
    with pytest.raises(ValueError, match=f"entities {first} to {last}"):
        embed_entities(slide, entities, encoder(Fails(output)), batch_size=4, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0, 0)}, "mean"),
        ({"mean": (0, 0, np.nan)}, "mean"),
        ({"std": (1, 1, 0)}, "std"),
        ({"size_px": 0}, "size_px"),
        ({"mpp": -1}, "mpp"),
        ({"mpp": "0.5"}, "mpp must be a positive number"),
        ({"mean": 0.5}, r"mean must be three finite numbers, red, green, blue, found 0\.5"),
        ({"mean": (178, 127, 178)}, "mean must lie on the scale 0 to 1"),
        ({"std": (255, 255, 255)}, "std must lie on the scale 0 to 1"),
        ({"size_px": (8, 8)}, r"size_px must be a whole number.*\(8, 8\)"),
        ({"size_px": 8.5}, "size_px must be a whole number"),
        ({"name": ""}, "name"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder(Net(), **changes)


def test_wrong_module_and_images():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        encoder(abs)
    for images in (np.zeros((1, 8, 8, 3)), np.zeros((1, 4, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="images"):
            encoder(Net()).encode(images)


def test_importing_features_loads_no_torch():
    code = "import sys, histograph.features; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_module_that_cannot_read_the_images_is_named():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(ValueError, match=r"encoder 'net' .*\(2, 3, 8, 8\), float32.*weights are float16"):
        encoder(linear.half()).encode(images)
    larger = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    with pytest.raises(ValueError, match=r"encoder 'net' .*\(2, 3, 8, 8\).*Give the size_px"):
        encoder(larger).encode(images)
    with pytest.raises(ValueError, match=r"flatten\(1\) in place of squeeze"):
        encoder(Fails(lambda x: x.mean(dim=(2, 3)).squeeze())).encode(images[:1])


def test_a_device_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        load_encoder("histograph-vit", device="gpu")
