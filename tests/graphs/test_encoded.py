"""`build_graph(encoder=…)`: patches carry the vectors of an encoder; folders, resumption and the command line."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import histograph as hg
from histograph.cli import main
from histograph.features import load_encoder, named, save_encoder
from histograph.nn import VisionTransformer

MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.3, 0.25)


class Colour(torch.nn.Module):
    """Mean colour, with all that an encoder has to say."""

    mean, std, size_px = (0, 0, 0), (1, 1, 1), 8

    def forward(self, x):
        return x.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8)).save(folder / f"{name}.png")
    return [folder / "a.png", folder / "b.png"]


@pytest.fixture
def weights(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(16, 8, dim=12, depth=1, heads=2)
    save_encoder(tmp_path / "vit.safetensors", network, MEAN, STD, mpp=1.0)
    return tmp_path / "vit.safetensors"


def build(slide, **options):
    return hg.build_graph(slide, {"patch": {"size_um": 16.0}}, mask=None, mpp=0.5, progress=False, **options)


def test_a_module_as_encoder(pictures):
    graph = build(pictures[0], encoder=Colour())
    hg.validate(graph)
    image = np.asarray(Image.open(pictures[0])) / 255
    row, column = ((graph["patch"].pos.numpy()[:, ::-1] - 8) / 16).astype(int).T
    means = image.reshape(3, 32, 4, 32, 3).mean(axis=(1, 3))[row, column]
    np.testing.assert_allclose(graph["patch"].x, means, atol=0.01)
    assert graph["patch"].feature_names == ["colour_0", "colour_1", "colour_2"]


def test_a_file_as_encoder_is_written_down(pictures, weights, tmp_path):
    graph = build(pictures[0], encoder=str(weights))
    assert graph["patch"].x.shape == (12, 12) and graph.provenance["encoders"] == {"patch": str(weights)}
    told = graph.provenance["parameters"]["features"]["patch"]
    assert told["whole"]["encoder"]["mpp"] == 1.0 and told["mixed_precision"] is False
    hg.save(graph, tmp_path / "g.safetensors")
    assert hg.load(tmp_path / "g.safetensors").provenance["encoders"] == {"patch": str(weights)}


def test_options_of_an_encoder(pictures, weights):
    exact = build(pictures[0], encoder=load_encoder(weights))["patch"].x
    options = {"encoder": weights, "batch_size": 5, "device": "cpu", "name": "ours"}
    graph = build(pictures[0], encoder=options)
    torch.testing.assert_close(graph["patch"].x, exact, atol=1e-5, rtol=1e-5)
    assert graph["patch"].feature_names[0] == "ours_0"
    half = build(pictures[0], encoder={"encoder": weights, "mixed_precision": "bf16"})["patch"].x
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": Colour(), "features": {"patch": ("color",)}}, "features.*too"),
        ({"encoder": {"encoder": Colour(), "batch": 3}}, "batch_size"),
        ({"encoder": {"batch_size": 3}}, "needs the key 'encoder'"),
        ({"encoder": {"encoder": Colour(), "batch_size": 0}}, "batch_size"),
        ({"encoder": {"encoder": Colour(), "mixed_precision": "int8"}}, "mixed_precision"),
        ({"encoder": {"encoder": Colour(), "mpp": 0.5}}, "trained at 0.5; make them about 4 µm wide"),
        ({"encoder": "phikon"}, "'phikon' is not known"),
    ],
)
def test_mistakes(pictures, options, message):
    with pytest.raises(ValueError, match=message):
        build(pictures[0], **options)


def test_an_encoder_needs_patches(pictures):
    with pytest.raises(ValueError, match="add 'patch'"):
        hg.build_graph(pictures[0], ("cell",), mpp=0.5, encoder=Colour(), progress=False)


@pytest.mark.parametrize("threads", [0, 2])
def test_many_slides_load_once_and_resume(pictures, weights, tmp_path, monkeypatch, threads):
    loads = []
    true = named._by_name
    monkeypatch.setattr(named, "_by_name", lambda *given: (loads.append(given), true(*given))[1])
    out = tmp_path / "graphs"

    def run(**changes):
        options = {"entities": {"patch": {"size_um": 16.0}}, "mask": None, "mpp": 0.5, "encoder": weights}
        executor = ThreadPoolExecutor(threads) if threads else None
        return hg.build_many(pictures, out, executor=executor, progress=False, **(options | changes))

    assert list(run()["status"]) == ["built", "built"] and len(loads) == 1
    assert list(run()["status"]) == ["skipped", "skipped"] and len(loads) == 1
    again = {"encoder": weights, "batch_size": 3}  # how it is computed does not change what is meant
    assert list(run(encoder=again)["status"]) == ["skipped", "skipped"]
    (out / "b.safetensors").unlink()
    assert list(run()["status"]) == ["skipped", "built"]
    assert list(run(encoder={"encoder": weights, "mixed_precision": "bf16"})["status"]) == ["built", "built"]
    mean = {"encoder": weights, "tokens": "mean"}  # the same weights, other vectors
    assert list(run(encoder=mean)["status"]) == ["built", "built"]
    assert list(run(encoder=mean)["status"]) == ["skipped", "skipped"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_encoder(weights, VisionTransformer(16, 8, dim=12, depth=1, heads=2), MEAN, STD, mpp=1.0)
    assert list(run()["status"]) == ["built", "built"]  # other weights of the same name


def command(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def test_command_line(pictures, weights, tmp_path, capsys):
    out = tmp_path / "graphs"
    words = ["build", pictures[0], "--out", out, "--mpp", 0.5, "--entities", "patch", "--patch-um", 16]
    encoder = ["--encoder", weights, "--batch-size", 4, "--mixed-precision", "bf16", "--device", "cpu"]
    assert command(*words, *encoder) == 0
    assert hg.load(out / "a.safetensors")["patch"].x.shape[1] == 12
    assert command(*words, *encoder) == 0 and "skipped" in capsys.readouterr().out
    assert command(*words, "--encoder", "phikon") == 1
    assert "hf:org/name" in capsys.readouterr().err
    assert command(*words, "--batch-size", 4) == 2
    assert command("build", pictures[0], "--out", out, "--entities", "cell", "--patch-um", 16) == 2
