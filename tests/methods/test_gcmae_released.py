"""The released form of GCMAE against arrays of the released code, and its files in both directions."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import histograph as hg
from histograph.methods import GCMAE, Patches, load_method, load_released, to_released
from histograph.methods.gcmae_released import AliasSampler, ReleasedBank, released_learning_rate
from histograph.nn import VisionTransformer, memory_bank
from histograph.training import PatchDataset

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "gcmae"
SIZES = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2}
SIZES |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "negatives": 6}
HEADS = {"heads": 2, "decoder_heads": 2}


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parity

    yield parity
    sys.modules.pop("parity", None)


def test_every_array_of_the_released_code(parity, capsys):
    """Spec 6.2, 6.6, 6.8-6.13, 6.16, 6.17, 6.20; every parameter's gradient among them."""
    import parity_gcmae

    assert parity.check_folder(GOLDEN, parity_gcmae.KINDS, 1e-5) == []
    printed = capsys.readouterr().out
    checked = {tuple(line.strip("| ").split(" | ")[:2]) for line in printed.splitlines() if ".npz |" in line}
    assert sum(array.startswith("grad/") for _, array in checked) == 36
    wanted = {
        "loss_total",
        "npid_feature",
        "memory_after",
        "cls_feature_unmasked",
        "globalpool_feature_unmasked",
    }
    assert wanted <= {array for name, array in checked if name == "model_m1.npz"}
    assert {("lr_schedule.npz", "lr"), ("knn.npz", "c1_pred"), ("alias.npz", "skew6_alias")} <= checked


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("model_m1", "grad/mask_token"),
        ("model_m1", "memory_after"),
        ("nce_n1", "step2_grad_v"),
        ("alias", "skew5_prob"),
        ("masking", "block_mask"),
        ("knn", "c0_scores"),
    ],
)
def test_one_wrong_number_fails(parity, tmp_path, kind, array):
    import parity_gcmae

    arrays = {name: value.numpy() for name, value in golden(kind).items()}
    np.savez(tmp_path / f"{kind}.npz", **arrays | {array: 1.01 * arrays[array] + 1})
    [complaint] = parity.check_folder(tmp_path, parity_gcmae.KINDS, 1e-5)
    assert complaint.startswith(f"{kind}.npz: {array} is off by")


def test_a_training_step_is_the_released_one(monkeypatch):
    """Spec 6.13 through forward and after_step themselves, with the recorded noise and rows."""
    a = golden("model_m1")
    weights = {name[3:]: value for name, value in a.items() if name.startswith("sd/")}
    method = load_released(weights, heads=int(a["heads"]), decoder_heads=int(a["dec_heads"])).train()
    method.crop_scale, method.orientations = (1, 1), 1
    method.mean.zero_()
    method.std.fill_(1)
    # the batch holds numbers from 0 to 1, as files do; the recorded images do not
    monkeypatch.setattr(method, "_laid", lambda unit: a["img"])
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: a["noise"])
    monkeypatch.setattr(AliasSampler, "draw", lambda self, count: a["nce_idx"].flatten())
    loss = method(Patches(a["img"].permute(0, 2, 3, 1), row=a["y"]))["loss"]
    loss.backward()
    method.after_step(1)
    assert torch.allclose(loss, a["loss_total"], atol=1e-5)
    assert torch.allclose(method.bank.memory, a["memory_after"], atol=1e-6)
    for name, parameter in method.network.named_parameters():
        assert torch.allclose(parameter.grad, a[f"grad/{name}"], atol=1e-5), name
    assert torch.allclose(method.bank.params[2], a["Z"])


def test_vectors_of_whole_images_as_a_plain_transformer():
    """Spec 6.16: what `encode` hands out, and the encoder by itself."""
    a = golden("model_m1")
    weights = {name[3:]: value for name, value in a.items() if name.startswith("sd/")}
    settings = {"heads": int(a["heads"]), "decoder_heads": int(a["dec_heads"])}
    settings |= {"mean": (0, 0, 0), "std": (1, 1, 1)}
    batch = Patches(a["img"].permute(0, 2, 3, 1))
    for pooling, name in (("cls", "cls_feature_unmasked"), ("mean", "globalpool_feature_unmasked")):
        method = load_released(weights, pooling=pooling, **settings)
        assert torch.allclose(method.encode(batch).graph, a[name], atol=1e-5)
    encoder = method.encoder()
    assert type(encoder) is VisionTransformer
    assert torch.allclose(encoder(a["img"])[:, 0], a["cls_feature_unmasked"], atol=1e-5)


def test_alias_sampler_draws_with_its_chances():
    """Spec 6.12: frequencies within 3 sigma, and equal chances are plain whole numbers."""
    chances = torch.tensor([5.0, 1.0, 0.0, 2.5, 1.5])
    sampler = AliasSampler(chances)
    share = sampler.prob.clone().index_add_(0, sampler.alias, 1 - sampler.prob) / 5
    assert torch.allclose(share, chances / chances.sum())
    torch.manual_seed(1)
    drawn = sampler.draw(20_000).bincount(minlength=5)
    expected = 20_000 * chances / chances.sum()
    sigma = (expected * (1 - chances / chances.sum())).sqrt()
    assert bool(((drawn - expected).abs() <= 3 * sigma).all())
    torch.manual_seed(1)
    found = AliasSampler(torch.ones(9)).draw(50)
    torch.manual_seed(1)
    assert torch.equal(found, torch.randint(9, (50,)))
    with pytest.raises(ValueError, match="chances must be numbers of at least 0, not all of them 0"):
        AliasSampler(torch.tensor([-1.0, 2.0]))


def test_last_of_equal_rows_wins():
    """Spec 6.14, as released."""
    torch.manual_seed(0)
    bank = ReleasedBank(4, rows=6)
    before, v = bank.memory.clone(), normalize(torch.randn(3, 4), dim=1)
    bank.update(torch.tensor([2, 5, 2]), v)
    for row, value in ((2, v[2]), (5, v[1])):
        assert torch.allclose(bank.memory[row], normalize(0.5 * before[row] + 0.5 * value, dim=0), atol=1e-6)


def test_more_negatives_than_rows():
    """Spec 6.14: as released they are drawn with replacement, and one row is enough."""
    torch.manual_seed(0)
    for rows in (1, 3):
        bank = ReleasedBank(4, rows=rows, negatives=50)
        contrast = bank.contrast(normalize(torch.randn(1, 4), dim=1), torch.tensor([0]))
        assert contrast.chance.shape == (1, 51) and contrast.loss.isfinite()
        assert bank.params[2] > 0
        first = bank.params.clone()
        bank(normalize(torch.randn(1, 4), dim=1), torch.tensor([0]))
        assert torch.equal(bank.params, first)
        bank.start(2)
        assert bank.params[2] == -1


def test_z_is_the_mean_of_all_processes(monkeypatch):
    """Spec 6.21: a process that kept a Z of its own would contrast otherwise than the others, also after a resume."""
    torch.manual_seed(0)
    bank, v, row = (
        ReleasedBank(4, rows=6, negatives=5),
        normalize(torch.randn(2, 4), dim=1),
        torch.tensor([1, 4]),
    )
    index = torch.tensor([[1, 0, 2], [4, 4, 5]])
    mean = (bank.memory[index] @ v.unsqueeze(2)).squeeze(2).div(0.07).exp().mean()
    monkeypatch.setattr(memory_bank, "_processes", lambda: 2)
    monkeypatch.setattr(memory_bank.distributed, "all_reduce", lambda value: value.add_(3 * value))
    bank.contrast(v, row, index)
    assert torch.allclose(bank.params[2], 6 * (mean + 3 * mean) / 2, rtol=1e-5)


def test_released_files_go_both_ways(tmp_path):
    torch.manual_seed(0)
    method = GCMAE(**SIZES, official_compat=True)
    data = PatchDataset(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    hg.pretrain(method, data, epochs=2, batch_size=4, progress=False, accelerator="cpu")
    weights = to_released(method)
    torch.save(
        {"model": {f"module.{name}": value for name, value in weights.items()}, "epoch": 1},
        tmp_path / "a.pth",
    )
    again = load_released(tmp_path / "a.pth", **HEADS)
    assert {
        name: value for name, value in again.state_dict().items() if name not in ("mean", "std")
    }.keys() == (method.state_dict().keys() - {"mean", "std"})
    for name, value in to_released(again).items():
        assert torch.equal(value, weights[name]), name
    assert again.bank.rows == 8 and float(again.bank.params[2]) > 0 and not again.training
    assert torch.equal(
        hg.embed(again, data, progress=False).graph, hg.embed(method, data, progress=False).graph
    )
    method.save(tmp_path / "ours.safetensors")
    assert torch.equal(load_method(tmp_path / "ours.safetensors").bank.memory, method.bank.memory)


def test_released_names_shapes_and_order():
    lines = (GOLDEN / "keys_gcmae.txt").read_text().split("\n")
    wanted = [tuple(line.split("\t")) for line in lines if line]
    assert len(wanted) == 256
    method = GCMAE(official_compat=True)
    method.bank.start(1000)
    found = [(name, str(tuple(value.shape))) for name, value in to_released(method).items()]
    assert found == wanted


def test_learning_rate_of_the_released_form():
    """Spec 6.17: through the trainer, warm-up for half of the run and down to 0."""
    data = PatchDataset(np.zeros((4, 16, 16, 3), np.uint8))
    method = GCMAE(**SIZES, official_compat=True)
    log = hg.pretrain(
        method, data, epochs=8, batch_size=4, lr=1.0, warmup=0.5, progress=False, accelerator="cpu"
    )
    assert log["lr"].tolist() == pytest.approx([released_learning_rate(step, 1.0, 4, 8) for step in range(8)])
    assert GCMAE(**SIZES).schedule(0, 8, 4) == {}


def test_what_does_not_fit_is_refused():
    weights = to_released(GCMAE(**SIZES, official_compat=True))
    with pytest.raises(TypeError, match="dim is not a setting of the released GCMAE"):
        load_released(weights, dim=16)
    short = {name: value for name, value in weights.items() if name != "blocks.1.norm1.bias"}
    with pytest.raises(ValueError, match=r"missing blocks\.1\.norm1\.bias; unexpected nothing"):
        load_released(short, **HEADS)
    with pytest.raises(
        ValueError, match=r"shapes that do not fit dim 16 .* norm\.weight \(3,\) instead of \(16,\)"
    ):
        load_released(weights | {"norm.weight": torch.zeros(3)}, **HEADS)
    with pytest.raises(ValueError, match="source lacks pos_embed, patch_embed"):
        load_released({"lemniscate.memory": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="method must be a GCMAE made with official_compat=True"):
        to_released(GCMAE(**SIZES))
