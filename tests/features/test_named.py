"""Encoders by name, from files and from modules: the vectors are those of the network itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from histograph.bundled import __file__ as bundled_file
from histograph.entities import Entities, patches
from histograph.features import PatchEncoder, embed_entities, load_encoder, named, read_encoder, save_encoder
from histograph.features.tokens import TokenVectors, pool_tokens
from histograph.methods import GCMAE, EntityAutoencoder, vit_state_dict
from histograph.methods.files import read_tensors
from histograph.nn import VisionTransformer
from histograph.slides import open_slide

MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.3, 0.25)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def normalised(images=IMAGES):
    x = (images / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(32, 8, dim=24, depth=2, heads=2, layer_scale=0.5, registers=2).eval()


class Pool(torch.nn.Module):
    """A module that says all there is to know about it."""

    def __init__(self, **facts):
        super().__init__()
        for key, value in facts.items():
            setattr(self, key, value)

    def forward(self, x):
        return x.mean(dim=(2, 3))


def full(**changes):
    return {"mean": MEAN, "std": STD, "size_px": 8, "mpp": 0.5} | changes


@pytest.mark.parametrize("tokens", ["cls", "mean", "cls+mean", "mean+std", "all"])
def test_saved_file_gives_the_vectors_of_the_network(network, tmp_path, tokens):
    path = tmp_path / "vit.safetensors"
    save_encoder(path, network, MEAN, STD, mpp=1.0, tokens=tokens, name="ours", card="trained on nothing")
    encoder = load_encoder(path)
    with torch.no_grad():
        hidden = network(normalised())
    parts = {"cls": [hidden[:, 0]], "mean": [hidden[:, 3:].mean(1)], "all": [hidden.mean(1)]}
    parts["cls+mean"] = parts["cls"] + parts["mean"]
    parts["mean+std"] = [
        *parts["mean"],
        (hidden[:, 3:] - hidden[:, 3:].mean(1, keepdim=True)).square().mean(1).sqrt(),
    ]
    expected = torch.cat(parts[tokens], dim=1)
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=0.02, rtol=0.01)
    assert (encoder.mpp, encoder.size_px, encoder.step_px, encoder.name) == (1.0, 32, 8, "ours")
    assert encoder.source == str(path) and not encoder.module.training
    np.testing.assert_allclose([encoder.mean, encoder.std], [MEAN, STD])
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())


def test_saved_file_is_half_as_large_and_exact_after_the_first_time(network, tmp_path):
    save_encoder(tmp_path / "a", network, MEAN, STD, mpp=1.0)
    once = read_encoder(tmp_path / "a")
    save_encoder(tmp_path / "b", once.module.network, once.mean, once.std, once.mpp)
    (meta_a, a), (meta_b, b) = (read_tensors(tmp_path / name, "histograph.encoder", 1) for name in "ab")
    assert meta_a == meta_b and all(torch.equal(a[key], b[key]) for key in a | b)
    assert {value.dtype for value in a.values()} == {torch.float16}
    numbers = sum(value.numel() for value in network.state_dict().values())
    assert 2 * numbers < (tmp_path / "a").stat().st_size < 2 * numbers + 6000


def test_what_cannot_be_saved(network, tmp_path):
    with pytest.raises(TypeError, match=r"teacher\.backbone"):
        save_encoder(tmp_path / "a", Pool(), MEAN, STD, mpp=1.0)
    with pytest.raises(ValueError, match="tokens"):
        save_encoder(tmp_path / "a", network, MEAN, STD, mpp=1.0, tokens="best")
    with pytest.raises(ValueError, match="pixel size"):
        save_encoder(tmp_path / "a", network, MEAN, STD, mpp=None)
    large = VisionTransformer(16, 8, dim=12, depth=1, heads=2)
    with torch.no_grad():
        large.cls_token.fill_(1e6)
    with pytest.raises(ValueError, match="cls_token"):
        save_encoder(tmp_path / "a", large, MEAN, STD, mpp=1.0)
    wide = VisionTransformer((16, 32), 8, dim=12, depth=1, heads=2)
    with pytest.raises(ValueError, match="square"):
        save_encoder(tmp_path / "a", wide, MEAN, STD, mpp=1.0)
    assert list(tmp_path.iterdir()) == []


def test_damaged_file(network, tmp_path):
    path = tmp_path / "vit.safetensors"
    save_encoder(path, network, MEAN, STD, mpp=1.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        load_encoder(path)
    path.write_bytes(whole.replace(b'\\"mpp\\"', b'\\"mqq\\"'))
    with pytest.raises(ValueError, match=r"damaged.*mpp"):
        load_encoder(path)


def test_options_change_what_the_file_says(network, tmp_path):
    path = tmp_path / "vit.safetensors"
    save_encoder(path, network, MEAN, STD, mpp=1.0)
    encoder = load_encoder(path, mpp=0.5, name="x", tokens="mean", mean=(0, 0, 0), std=(1, 1, 1))
    assert (encoder.mpp, encoder.name, encoder.mean) == (0.5, "x", (0, 0, 0))
    x = torch.tensor(IMAGES.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    with torch.no_grad():
        expected = network(x)[:, 3:].mean(1)
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=0.02, rtol=0.01)


def test_the_bundled_name(network, tmp_path, monkeypatch):
    monkeypatch.setattr(named, "_bundled", lambda: tmp_path / "vit.safetensors")
    with pytest.raises(FileNotFoundError, match="lacks its weights"):
        load_encoder("histograph-vit")
    save_encoder(tmp_path / "vit.safetensors", network, MEAN, STD, mpp=1.0)
    encoder = load_encoder("histograph-vit")
    assert encoder.source == "histograph-vit" and encoder.encode(IMAGES).shape == (3, 24)


def test_the_weights_that_ship():
    path = named._bundled()
    assert path.parent.samefile(bundled_file.removesuffix("__init__.py"))
    if not path.is_file():
        pytest.skip("this checkout has no vit.safetensors")
    assert path.stat().st_size <= 25e6
    encoder = load_encoder("histograph-vit")
    white = np.full((1, encoder.size_px, encoder.size_px, 3), 255, np.uint8)
    assert encoder.mpp is not None and encoder.step_px is not None and encoder.encode(white).shape[0] == 1


def test_weights_of_others(network, tmp_path):
    path = tmp_path / "dino.pth"
    plain = VisionTransformer(32, 8, dim=24, depth=2, heads=2).eval()
    torch.save({"teacher": {f"backbone.{k}": v for k, v in vit_state_dict(plain).items()}}, path)
    with pytest.raises(ValueError, match=r"dino\.pth.*heads.*said to histograph\.methods\.load_vit"):
        load_encoder(path)  # a width that says nothing of heads
    usual = VisionTransformer(32, 16, dim=192, depth=1, heads=3).eval()
    torch.save({"teacher": {f"backbone.{k}": v for k, v in vit_state_dict(usual).items()}}, path)
    encoder = load_encoder(path, mean=MEAN, std=STD, mpp=0.5)
    with torch.no_grad():
        expected = usual(normalised())[:, 0]
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert (encoder.name, encoder.size_px, encoder.step_px) == ("dino", 32, 16)


def test_method_in_memory_and_from_its_file(tmp_path):
    method = GCMAE(32, 8, dim=24, depth=1, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    encoder = load_encoder(method.eval(), mpp=0.5)
    from histograph.methods import Patches

    with torch.no_grad():
        expected = method.encode(Patches(torch.tensor(IMAGES))).graph
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert (encoder.name, encoder.size_px, encoder.step_px) == ("gcmae", 32, 8)
    method.save(tmp_path / "method.safetensors")
    again = load_encoder(tmp_path / "method.safetensors", mpp=0.5)
    torch.testing.assert_close(again.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert load_encoder(EntityAutoencoder(size_px=8, width=8)).size_px == 8
    with pytest.raises(ValueError, match="normalises images itself"):
        load_encoder(method, mean=MEAN)


def test_module_with_facts_as_attributes_or_arguments():
    tensors = {"mean": torch.tensor(MEAN).view(1, 3, 1, 1), "std": torch.tensor(STD).view(1, 3, 1, 1)}
    told = load_encoder(Pool(**full(**tensors)))
    given = load_encoder(Pool(), **full(), name="pool")
    images = IMAGES[:, :8, :8]
    torch.testing.assert_close(told.encode(images), given.encode(images))
    torch.testing.assert_close(told.encode(images), normalised(images).mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)
    assert told.mpp == 0.5 and told.name == "pool"
    assert load_encoder(told) is not told and load_encoder(told, mpp=1.0).mpp == 1.0


def test_module_that_is_a_transformer(network):
    encoder = load_encoder(network, mean=MEAN, std=STD, tokens="mean")
    with torch.no_grad():
        expected = network(normalised())[:, 3:].mean(1)
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert (encoder.mpp, encoder.step_px, network.training) == (None, 8, False)


@pytest.mark.parametrize(
    ("encoder", "options", "error", "message"),
    [
        (Pool(), {}, ValueError, "does not say mean, std, size_px"),
        (Pool(**full(std=None)), {}, ValueError, "does not say std"),
        (Pool(**full()), {"tokens": "cls"}, ValueError, "tokens is no option of the module Pool"),
        (abs, {}, TypeError, "histograph-vit"),
        ("resnet", {}, ValueError, "'resnet' is not known.*hf:org/name"),
        ("no/such.safetensors", {}, FileNotFoundError, "no file no/such"),
    ],
)
def test_what_is_not_understood(encoder, options, error, message):
    with pytest.raises(error, match=message):
        load_encoder(encoder, **options)


def test_a_graph_method_is_no_encoder():
    from histograph.methods import PAMA

    with pytest.raises(ValueError, match="embeds graphs"):
        load_encoder(PAMA(4, hidden_dim=16, decoder_dim=8))


def test_tokens():
    with pytest.raises(ValueError, match="no class token"):
        pool_tokens(torch.zeros(1, 4, 2), "cls", prefix=0)
    with pytest.raises(ValueError, match="tokens must be one of"):
        TokenVectors(torch.nn.Identity(), "last")


# --- squares of other sizes -----------------------------------------------------------------------------------


def test_squares_are_read_whole_where_the_pixel_size_is_unknown():
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    slide = open_slide(image, mpp=0.5)
    squares = patches(slide, size_um=8.0, mask=None)
    table = embed_entities(slide, squares, load_encoder(Pool(), **full(mpp=None)), progress=False)
    blocks = image.reshape(3, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(12, 16, 16, 3)
    means = (blocks.mean(axis=(1, 2)) / 255 - MEAN) / STD  # an average of averages is one of the whole
    np.testing.assert_allclose(table.values, means, atol=0.01)
    known = load_encoder(Pool(), **full(mpp=0.5))
    inner = embed_entities(slide, squares, known, progress=False)
    centre = (blocks[:, 4:12, 4:12].mean(axis=(1, 2)) / 255 - MEAN) / STD
    np.testing.assert_allclose(inner.values, centre, atol=1e-4)


def test_a_transformer_keeps_its_pixel_size(network):
    encoder = load_encoder(network, mean=MEAN, std=STD, mpp=1.0)
    wide = encoder.fitted(51.0)
    assert (wide.size_px, wide.mpp) == (48, 51 / 48)
    assert wide.encode(np.zeros((2, 48, 48, 3), np.uint8)).shape == (2, 24)


def test_a_pixel_size_that_does_not_fit_is_refused():
    encoder = load_encoder(Pool(), **full())
    assert encoder.fitted(4.0).mpp == 0.5 and encoder.fitted(5.0).size_px == 8
    with pytest.raises(ValueError, match=r"trained at 0.5; make them about 4 µm wide"):
        encoder.fitted(8.0)
    with pytest.raises(ValueError, match="size_um"):
        encoder.fitted(np.nan)
    with pytest.raises(ValueError, match="pixel size"):
        _ = load_encoder(Pool(), **full(mpp=None)).size_um


def test_cells_cannot_be_read_whole():
    slide = open_slide(np.zeros((16, 16, 3), np.uint8), mpp=0.5)
    cells = Entities.from_instance_map(np.array([[1, 0, 2], [1, 0, 2], [0, 0, 2]]), mpp=0.5)
    with pytest.raises(ValueError, match="squares of one size"):
        embed_entities(slide, cells, load_encoder(Pool(), **full(mpp=None)), progress=False)


def test_no_patch_still_has_columns():
    slide = open_slide(np.zeros((16, 16, 3), np.uint8), mpp=0.5)
    none = patches(slide, size_um=64.0, mask=None)
    assert embed_entities(slide, none, Pool(**full(mpp=None)), progress=False).values.shape == (0, 3)


# --- what is kept between slides ------------------------------------------------------------------------------


def test_the_last_encoder_is_kept_until_its_file_changes(network, tmp_path):
    path = tmp_path / "vit.safetensors"
    save_encoder(path, network, MEAN, STD, mpp=1.0)
    first = named.cached_encoder(path)
    assert named.cached_encoder(str(path)) is first
    assert named.cached_encoder(path, name="other").name == "other"
    save_encoder(path, network, MEAN, STD, mpp=0.25, name="longer")
    assert named.cached_encoder(path).mpp == 0.25


def test_the_next_batch_is_read_while_the_model_runs():
    """A slide whose reading waits for the model, and a model that waits for the reading, both come to an end."""
    from threading import Event

    read = [Event() for _ in range(4)]

    class Slow:
        def read_region(self, x_um, y_um, width_um, height_um, mpp=None):
            read[int(x_um // 4)].set()
            return np.zeros((8, 8, 3), np.uint8)

    class Waits(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls < 4:  # the next batch must come without an end of this one
                assert read[self.calls].wait(timeout=20)
            return x.mean(dim=(2, 3))

    label = np.arange(1, 5)
    centre = np.stack([4.0 * label - 2, np.full(4, 2.0)], axis=1)
    box = np.concatenate([centre - 2, centre + 2], axis=1)
    squares = Entities("patch", label, centre, box, np.full(4, 16.0), 0.5, None, {})
    encoder = PatchEncoder(Waits(), (0, 0, 0), (1, 1, 1), 8, 0.5, "waits")
    assert len(embed_entities(Slow(), squares, encoder, batch_size=1, workers=1, progress=False).values) == 4


def test_mixed_precision_kinds(network):
    encoder = load_encoder(network, mean=MEAN, std=STD)
    exact = encoder.encode(IMAGES)
    for kind in (True, "bf16", "fp16"):
        found = encoder.encode(IMAGES, mixed_precision=kind)
        assert found.dtype == torch.float32 and not torch.equal(found, exact)
        torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)
    with pytest.raises(ValueError, match="mixed_precision"):
        encoder.encode(IMAGES, mixed_precision="int8")


def test_importing_features_loads_no_library_of_models():
    heavy = {"torch", "transformers", "timm"}
    code = f"import sys, histograph.features as f; f.load_encoder; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_side_that_is_no_whole_number_is_refused_and_not_cut():
    module = torch.nn.Flatten()
    module.mean, module.std, module.size_px = MEAN, STD, 8.5
    with pytest.raises(ValueError, match=r"size_px must be a whole number of at least 1, found 8\.5"):
        load_encoder(module)
    assert load_encoder(module, size_px=8.0).size_px == 8
