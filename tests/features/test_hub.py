"""Models of Hugging Face and timm: with stand-ins for the libraries everywhere, with the libraries where they are."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from histograph.features import load_encoder
from histograph.features.recipes import RECIPES, recipe_of

MEAN, STD = [0.7, 0.6, 0.5], [0.2, 0.3, 0.25]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
LARGER = np.zeros((1, 48, 48, 3), np.uint8)
PREPARED = {"image_mean": MEAN, "image_std": STD, "do_normalize": True, "size": {"height": 32, "width": 32}}


def normalised():
    x = (IMAGES / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


class Tokens(torch.nn.Module):
    """A class token and a register, which hold the mean colour and 9, then 16 squares of 8 pixels."""

    def __init__(self, prefix=2):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.pooler = torch.nn.Identity()
        self.num_prefix_tokens = prefix

    def forward_features(self, x):
        squares = torch.nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)
        special = [x.mean(dim=(2, 3))[:, None], torch.full_like(squares[:, :1], 9.0)]
        return self.weight * torch.cat([*special[: self.num_prefix_tokens], squares], dim=1)

    def forward(self, pixel_values):
        return SimpleNamespace(last_hidden_state=self.forward_features(pixel_values))


@pytest.fixture
def transformers(monkeypatch):
    """Stand in for transformers: a folder's config is read, the network is ours."""
    fake, state = (
        ModuleType("transformers"),
        SimpleNamespace(missing=set(), error=None, kind=None, revision=None),
    )

    def config_of(where, revision=None):
        if state.error is not None:
            raise state.error
        state.revision = revision
        return SimpleNamespace(model_type="vit", image_size=32, patch_size=8)

    def loader(kind):
        def load(where, revision=None, output_loading_info=False):
            state.kind = kind
            return Tokens(), {"missing_keys": state.missing}

        return SimpleNamespace(from_pretrained=load)

    fake.AutoConfig = SimpleNamespace(from_pretrained=config_of)
    fake.AutoModel, fake.ViTModel = loader("auto"), loader("vit")
    monkeypatch.setitem(sys.modules, "transformers", fake)
    return state


@pytest.fixture
def timm(monkeypatch):
    """Stand in for timm: remember how a model is asked for."""
    fake, state = ModuleType("timm"), SimpleNamespace(asked=None, error=None)

    class Pooled(Tokens):
        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"mean": tuple(MEAN), "std": tuple(STD), "input_size": (3, 32, 32)}

        def forward(self, x):
            return 2 * self.forward_features(x)[:, 0]

    def create_model(name, **arguments):
        state.asked = name, arguments
        if state.error is not None:
            raise state.error
        return Pooled()

    fake.create_model, fake.layers = create_model, SimpleNamespace(SwiGLUPacked="a layer")
    monkeypatch.setitem(sys.modules, "timm", fake)
    return state


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return tmp_path / "model"


def test_transformers_folder(transformers, folder):
    encoder = load_encoder(f"hf:{folder}")
    torch.testing.assert_close(encoder.encode(IMAGES), normalised().mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)
    assert (encoder.name, encoder.size_px, encoder.mpp, encoder.source) == ("model", 32, None, f"hf:{folder}")
    both = load_encoder(f"hf:{folder}", tokens="cls+mean", mpp=0.5, name="x")
    colours = normalised().mean(dim=(2, 3))  # the register is left out of the mean
    torch.testing.assert_close(both.encode(IMAGES), torch.cat([colours, colours], 1), atol=1e-5, rtol=1e-5)
    assert both.mpp == 0.5 and both.name == "x"
    assert load_encoder(f"hf:{folder}", mean=(0, 0, 0)).mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("prepared", "mean", "std", "size"),
    [
        (PREPARED | {"rescale_factor": 1 / 127.5}, [v / 2 for v in MEAN], [v / 2 for v in STD], 32),
        (PREPARED | {"do_rescale": False}, [v / 255 for v in MEAN], [v / 255 for v in STD], 32),
        ({"do_normalize": False, "size": 48}, [0, 0, 0], [1, 1, 1], 48),
        (PREPARED | {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 16}, MEAN, STD, 16),
        (PREPARED | {"size": {"shortest_edge": 64}}, MEAN, STD, 64),
        ({"image_processor": PREPARED}, MEAN, STD, 32),
        ({"image_mean": MEAN, "image_std": STD}, MEAN, STD, 32),  # the size is in the config
    ],
)
def test_preparation_is_read_in_all_its_forms(transformers, folder, prepared, mean, std, size):
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    encoder = load_encoder(f"hf:{folder}")
    np.testing.assert_allclose([encoder.mean, encoder.std], [mean, std], atol=1e-9)
    assert encoder.size_px == size


def test_unknown_normalisation_is_refused(transformers, folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"how images are normalised; give load_encoder\(…, mean="):
        load_encoder(f"hf:{folder}")
    assert load_encoder(f"hf:{folder}", mean=MEAN, std=STD).std == tuple(STD)


def test_missing_weights_are_refused_but_for_the_pooler(transformers, folder):
    transformers.missing = {"pooler.dense.weight"}
    assert load_encoder(f"hf:{folder}").module.network.pooler is None
    transformers.missing = {"pooler.dense.weight", "encoder.layer.3.bias"}
    with pytest.raises(ValueError, match=r"lack 1 weights of the network, first encoder\.layer\.3\.bias"):
        load_encoder(f"hf:{folder}")


def error_of(name, base=OSError, cause=None):
    made = type(name, (base,), {})("first line\nsecond line")
    made.__cause__ = cause
    return made


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("x"), OSError, "cannot be loaded: x"),
        (
            error_of("GatedRepoError"),
            PermissionError,
            "gated. Ask for access at https://huggingface.co/org/name",
        ),
        (error_of("Wrapped", cause=error_of("GatedRepoError")), PermissionError, "hf auth login"),
        (error_of("RepositoryNotFoundError"), FileNotFoundError, "Check the spelling"),
        (error_of("LocalEntryNotFoundError", FileNotFoundError), FileNotFoundError, "hf download org/name"),
        (
            error_of("Other", ValueError),
            ValueError,
            "cannot be loaded: first line. If it is a model for timm",
        ),
    ],
)
def test_transformers_errors_say_what_to_do(transformers, error, kind, message):
    transformers.error = error
    with pytest.raises(kind, match=message) as caught:
        load_encoder("hf:org/name@v2")
    assert "second" not in str(caught.value) and "\n" not in str(caught.value)


def test_repository_with_a_revision_and_a_recipe(transformers, folder, monkeypatch):
    hub = ModuleType("huggingface_hub")
    asked = []

    def download(repository, file, revision=None):
        asked.append((repository, file, revision))
        if file == "preprocessor_config.json":
            raise type("EntryNotFoundError", (OSError,), {})("404")
        return folder / "preprocessor_config.json"

    hub.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    encoder = load_encoder("hf:owkin/phikon@abc")
    assert asked == [("owkin/phikon", f"{kind}_config.json", "abc") for kind in ("preprocessor", "processor")]
    assert (encoder.mpp, encoder.name, encoder.mean, transformers.revision) == (
        0.5,
        "phikon",
        tuple(MEAN),
        "abc",
    )


@pytest.mark.parametrize("path", ["/no/such/folder", "./here", "phikon", "a/b/c"])
def test_no_such_folder(transformers, path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*org/name"):
        load_encoder(f"hf:{path}")


def test_timm_pools_by_itself_or_by_recipe(timm):
    encoder = load_encoder("timm:hf-hub:org/name")
    assert timm.asked == ("hf-hub:org/name", {"pretrained": True, "num_classes": 0})
    colours = normalised().mean(dim=(2, 3))
    torch.testing.assert_close(encoder.encode(IMAGES), 2 * colours, atol=1e-5, rtol=1e-5)
    assert (encoder.mpp, encoder.name, encoder.size_px) == (None, "name", 32)
    virchow = load_encoder("timm:hf-hub:paige-ai/Virchow2")
    assert timm.asked[1]["mlp_layer"] == "a layer" and timm.asked[1]["act_layer"] is torch.nn.SiLU
    torch.testing.assert_close(virchow.encode(IMAGES), torch.cat([colours] * 2, 1), atol=1e-5, rtol=1e-5)
    assert virchow.mpp == 0.5
    load_encoder("timm:hf-hub:MahmoodLab/UNI")
    assert timm.asked[1] == {
        "pretrained": True,
        "num_classes": 0,
        "init_values": 1e-5,
        "dynamic_img_size": True,
    }


def test_images_of_another_size(transformers, timm, folder, monkeypatch):
    asked = []

    def forward(self, pixel_values, interpolate_pos_encoding=False):
        asked.append((pixel_values.shape[2], interpolate_pos_encoding))
        return SimpleNamespace(last_hidden_state=self.forward_features(pixel_values))

    monkeypatch.setattr(Tokens, "forward", forward)
    monkeypatch.setattr(Tokens, "config", SimpleNamespace(image_size=32), raising=False)
    for size in (32, 48):
        load_encoder(f"hf:{folder}", size_px=size).encode(np.zeros((1, size, size, 3), np.uint8))
    assert asked == [(32, False), (48, True)]
    monkeypatch.setattr(
        Tokens, "set_input_size", lambda self, img_size: asked.append(img_size), raising=False
    )
    assert load_encoder("timm:x", size_px=48).size_px == 48 and asked.pop() == 48
    assert load_encoder("timm:x", size_px=32).size_px == 32 and len(asked) == 2


def test_timm_errors_say_what_to_do(timm):
    timm.error = error_of("LocalEntryNotFoundError", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="timm:local-dir:/path/to/UNI"):
        load_encoder("timm:hf-hub:MahmoodLab/UNI")
    timm.error = RuntimeError("Unknown model (x)")
    with pytest.raises(ValueError, match="'timm:x' cannot be loaded: Unknown model"):
        load_encoder("timm:x")
    with pytest.raises(FileNotFoundError, match="no folder /no/such"):
        load_encoder("timm:local-dir:/no/such")


@pytest.mark.parametrize(
    ("name", "line"), [("hf:org/name", "histograph.encoders"), ("timm:x", "install timm")]
)
def test_without_the_library(monkeypatch, name, line):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=line):
        load_encoder(name)


def test_recipes_are_found_by_repository_and_by_folder():
    assert recipe_of("MahmoodLab/uni") is RECIPES["mahmoodlab/uni"]
    assert recipe_of("/data/models/UNI2-h/") is RECIPES["mahmoodlab/uni2-h"]
    assert recipe_of("someone/UNI").mpp is None  # another model of that name


SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters", "ResNet"])
@pytest.mark.filterwarnings("ignore")
def test_real_transformers(folder, kind):
    library = pytest.importorskip("transformers")
    sizes = SMALL if kind != "ResNet" else {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(library, f"{kind}Model")(getattr(library, f"{kind}Config")(**sizes)).eval()
    network.save_pretrained(folder)
    with torch.no_grad():
        hidden = network(normalised()).last_hidden_state
    expected = hidden[:, 0] if kind != "ResNet" else hidden.mean((2, 3))
    encoder = load_encoder(f"hf:{folder}")
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert load_encoder(f"hf:{folder}", size_px=48).encode(LARGER).isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_real_timm(tmp_path):
    library = pytest.importorskip("timm")
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = library.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    told = {"input_size": [3, 32, 32], "mean": MEAN, "std": STD, "num_classes": 0}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 32}, "pretrained_cfg": told}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        expected = network(normalised())
    encoder = load_encoder(f"timm:local-dir:{tmp_path}")
    torch.testing.assert_close(encoder.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert load_encoder(f"timm:local-dir:{tmp_path}", size_px=48).encode(LARGER).isfinite().all()
