"""Released PAMA checkpoints come in and go out bit by bit, at any width, and broken ones are explained."""

from pathlib import Path

import pytest
import torch

from histograph.methods import PAMA, ReleasedPAMAClassifier, load_method, load_released, to_released
from histograph.methods.pama_released import ReleasedPAMA
from histograph.methods.pama_released_classifier import ReleasedClassifierNetwork

KEYS = Path(__file__).parents[1] / "data" / "golden" / "pama" / "keys_pama.txt"
SIZES = {"hidden_dim": 12, "layers": 2, "heads": 3, "decoder_dim": 8, "decoder_layers": 1, "decoder_heads": 2}


def values(network, seed=0):
    """Give every tensor values of its own."""
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=g) for name, value in network.state_dict().items()}


@pytest.fixture
def pretrained():
    return values(ReleasedPAMA(7, **SIZES, mlp_ratio=2.5))


@pytest.fixture
def tuned():
    return values(ReleasedClassifierNetwork(5, node_dim=7, hidden_dim=12, layers=2, heads=3))


def listed(part):
    """Names and shapes of a part of the released list, 0 for pre-training and 1 for the downstream model."""
    lines = KEYS.read_text().split("# ")[1 + part].splitlines()[1:]
    return [tuple(line.split("\t")) for line in lines if line]


@pytest.mark.parametrize("width", [384, 512])
def test_released_sizes_have_the_released_names_and_shapes(width):
    with torch.device("meta"):
        network = PAMA(width, official_compat=True).released
        downstream = ReleasedPAMAClassifier(width, classes=3).released
    for part, module, count in ((0, network, 97), (1, downstream, 64)):
        found = [(name, str(tuple(value.shape))) for name, value in module.state_dict().items()]
        changes = {"patch_embed.weight": (1024, width), "decoder_pred.weight": (width, 512)}
        changes["decoder_pred.bias"] = (width,)
        wanted = [(name, str(changes.get(name, shape))) for name, shape in listed(part)]
        assert found == wanted and len(found) == count
    size = sum(value.numel() for value in network.state_dict().values())
    assert size == {384: 57_814_544, 512: 58_011_280}[width]
    if width == 384:
        assert sum(value.numel() for value in downstream.state_dict().values()) == 50_788_451


@pytest.mark.parametrize("width", [384, 512])
def test_either_width_is_read_from_the_file(width, tmp_path):
    weights = values(ReleasedPAMA(width, **SIZES))
    torch.save({"epoch": 99, "state_dict": weights}, tmp_path / "a.pth")
    method = load_released(tmp_path / "a.pth")
    assert isinstance(method, PAMA) and method.config["node_dim"] == width
    assert to_released(method).keys() == weights.keys()


def test_weights_come_back_bit_by_bit(pretrained):
    method = load_released(pretrained)
    back = to_released(method)
    assert list(back) == list(pretrained)
    for name, value in pretrained.items():
        assert torch.equal(back[name], value), name
    assert not method.training
    config = {name: method.config[name] for name in SIZES}
    assert config == SIZES and method.config["mlp_ratio"] == 2.5 and method.config["node_dim"] == 7
    again = load_released(back)
    for name, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_what_goes_out_is_a_copy(pretrained):
    method = load_released(pretrained)
    to_released(method)["cls_token"].zero_()
    assert torch.equal(to_released(method)["cls_token"], pretrained["cls_token"])


def test_downstream_weights_come_back_bit_by_bit(tuned, tmp_path):
    torch.save({"state_dict": {f"module.{name}": value for name, value in tuned.items()}}, tmp_path / "a.pth")
    model = load_released(tmp_path / "a.pth")
    assert isinstance(model, ReleasedPAMAClassifier) and not model.training
    assert model.config["classes"] == 5 and model.config["drop_path"] == 0.15
    back = to_released(model)
    assert list(back) == list(tuned)
    for name, value in tuned.items():
        assert torch.equal(back[name], value), name


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("held", [True, False])
def test_containers(pretrained, tmp_path, prefix, held):
    network = load_released(pretrained).released
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    sum(value.sum() for value in network.parameters()).backward()
    before = {f"{prefix}{name}": value for name, value in pretrained.items()}
    optimizer.step()
    extra = {"epoch": 100, "state_dict": before, "optimizer": optimizer.state_dict()}
    torch.save(extra if held else before, tmp_path / "a.pth")
    back = to_released(load_released(tmp_path / "a.pth"))
    for name, value in pretrained.items():
        assert torch.equal(back[name], value), name


def test_pretrained_weights_leave_only_the_head_of_the_downstream_model(pretrained):
    method = load_released(pretrained)
    model = ReleasedPAMAClassifier.from_pretrained(method, classes=3)
    shared = {name: value for name, value in pretrained.items() if name in model.released.state_dict()}
    missing, unexpected = model.released.load_state_dict(shared, strict=False)
    assert missing == ["head.weight", "head.bias"] and not unexpected
    for name, value in to_released(model).items():
        if name not in missing:
            assert torch.equal(value, pretrained[name]), name
    assert model.config["node_dim"] == 7 and model.config["heads"] == 3
    head = model.released.head.requires_grad_(False)
    assert not head.bias.any() and 0 < float(head.weight.abs().max()) < 0.1


def test_settings_that_shapes_do_not_tell(pretrained, tuned, tmp_path):
    settings = {
        "mask_ratio": 0.5,
        "anchor_dropout": 0.1,
        "normalise_target": True,
        "patches_per_anchor": 18.0,
    }
    method = load_released(pretrained, **settings)
    assert {name: method.config[name] for name in settings} == settings
    assert method.released.mask_ratio == 0.5 and method.released.reader.patches_per_anchor == 18.0
    method.save(tmp_path / "a.safetensors")
    assert load_method(tmp_path / "a.safetensors").config == method.config
    assert load_released(tuned, dropout=0.0).config["dropout"] == 0.0
    with pytest.raises(TypeError, match="mask_ratio is not a setting of the released PAMA's downstream"):
        load_released(tuned, mask_ratio=0.5)
    with pytest.raises(TypeError, match=r"heads is not a setting.*Sizes are read from the checkpoint"):
        load_released(pretrained, heads=4)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda w: without(w, "norm.bias"), "network of 2 blocks: missing norm.bias; unexpected nothing"),
        (lambda w: without(w, "mask_token"), "missing mask_token"),
        (lambda w: w | {"extra": torch.zeros(1)}, "missing nothing; unexpected extra"),
        (lambda w: w | {"norm.bias": torch.zeros(3)}, r"norm.bias \(3,\) instead of \(12,\)"),
        (
            lambda w: w | {"blocks.1.attn.polar_emb.weight": torch.zeros(16, 1)},
            r"polar_emb.weight \(16, 1\) instead of \(8, 1\)",
        ),
        (lambda w: without(w, "patch_embed.weight"), "lacks patch_embed.weight, which tell the sizes"),
        (lambda w: without(w, "decoder_blocks.0.attn.dis_embed.weight"), "lacks decoder_blocks.0.attn"),
        (lambda w: {"state_dict": w | {"note": "text"}}, "found the keys blocks.0"),
        (
            lambda w: w | {"head.weight": torch.zeros(3, 12)},
            "downstream model of 2 blocks: missing head.bias",
        ),
    ],
)
def test_broken_checkpoints_are_explained(pretrained, edit, words):
    with pytest.raises(ValueError, match=words):
        load_released(edit(pretrained))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"weight": torch.zeros(2)}, {"model": {"a": 1}}])
def test_other_checkpoints_are_told_apart(content):
    with pytest.raises(
        ValueError, match=r"released H-MGDM \(with x_embedding.0.weight\), PAMA \(with kernel_token\)"
    ):
        load_released(content)


class Harmful:
    """Would write a file when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_files_that_cannot_be_read_are_explained(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": pretrained, "extra": Harmful()}, "harmful.pth")
    with pytest.raises(
        ValueError, match=r"harmful.pth is not a file of torch.save with tensors.*save its weights"
    ):
        load_released("harmful.pth")
    assert not Path("harm").exists()
    with pytest.raises(FileNotFoundError, match=r"source: no file at nowhere.pth"):
        load_released("nowhere.pth")


def test_other_forms_have_no_released_counterpart():
    with pytest.raises(ValueError, match=r"official_compat=True.*found one of the default form"):
        to_released(PAMA(3, hidden_dim=8, heads=2, decoder_dim=8))
    with pytest.raises(ValueError, match="found Linear"):
        to_released(torch.nn.Linear(1, 1))
