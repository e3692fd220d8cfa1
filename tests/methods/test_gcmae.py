"""GCMAE: what a step reads, hides, predicts and remembers, and what it hands out."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import histograph as hg
from histograph.methods import GCMAE, Patches, load_method
from histograph.methods.gcmae import reconstruction_loss
from histograph.nn import MemoryBank, patchify
from histograph.nn.stain_jitter import stain_matrix
from histograph.training import PatchDataset
from histograph.training.graphs import collate

SIZES = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2}
SIZES |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def small(**settings):
    torch.manual_seed(0)
    return GCMAE(**{**SIZES, **settings})


def stripes(count=12, size=16, seed=0):
    """Pictures whose hidden squares follow from the others: stripes of two colours, upright or level."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, size, size, 3), np.uint8)
    for image in images:
        colours = rng.integers(0, 256, (2, 3))
        image[:] = np.where((np.arange(size) % 4 < 2)[:, None], colours[0], colours[1])[None]
    images[1::2] = images[1::2].transpose(0, 2, 1, 3)
    return images


@pytest.fixture
def data():
    return PatchDataset(stripes())


@pytest.fixture
def batch(data):
    return collate(list(data), ("image",))


def test_rows_travel_with_the_patches(data):
    assert collate([data[4], data[2]], ("image",)).row.tolist() == [4, 2]
    assert data[[5, 3]][1].row.tolist() == [1]  # numbered in the data set that is trained on
    assert collate([data[0], Patches(data[1].image)], ("image",)).row is None
    moved = data[3].to(torch.float64)
    assert moved.row.dtype == torch.int64 and moved.image.dtype == torch.float64


def test_loss_is_the_weighted_sum(batch, data):
    """Spec 6.13."""
    method = small(reconstruction_weight=2.0, contrast_weight=0.3)
    method.before_epoch(0, data)
    terms = method(batch)
    total = 2 * terms["reconstruction"] + 0.3 * terms["contrast"]
    assert float(terms["loss"].detach()) == pytest.approx(float(total), rel=1e-6)
    assert terms["loss"].requires_grad and not terms["contrast"].requires_grad


def test_parts_that_weigh_nothing_are_not_computed(batch, data):
    alone = small(contrast_weight=0.0)
    assert alone.bank is None
    assert sorted(alone(Patches(batch.image))) == ["loss", "reconstruction"]  # and needs no rows
    other = small(reconstruction_weight=0.0)
    other.before_epoch(0, data)
    terms = other(batch)
    terms["loss"].backward()
    assert sorted(terms) == ["contrast", "loss"]
    for name, parameter in other.named_parameters():
        assert (
            parameter.requires_grad
            == (parameter.grad is not None)
            != ("decoder" in name or "mask_token" in name)
        )


def test_only_hidden_squares_are_compared():
    """Spec 6.4: brute force, and the gradient."""
    predicted = torch.randn(3, 5, 7, requires_grad=True)
    goal, hidden = torch.randn(3, 5, 7), torch.rand(3, 5) < 0.5
    loss = reconstruction_loss(predicted, goal, hidden)
    loss.backward()
    assert not predicted.grad[~hidden].any() and predicted.grad[hidden].all()
    errors = [
        np.mean((predicted[i, j].detach().numpy() - goal[i, j].numpy()) ** 2)
        for i, j in hidden.nonzero().tolist()
    ]
    assert float(loss.detach()) == pytest.approx(np.mean(errors), rel=1e-5)


def test_goals_are_standardised_with_the_unbiased_variance(batch):
    """Spec 6.4."""
    method = small()
    image = batch.image.permute(0, 3, 1, 2).float() + torch.randn(12, 3, 16, 16)
    goal = method._goal(image)
    assert torch.allclose(goal.var(2), torch.ones(12, 16), atol=1e-3)
    assert torch.allclose(goal.mean(2), torch.zeros(12, 16), atol=1e-4)
    assert torch.equal(small(normalise_target=False)._goal(image), patchify(image, 4))


def test_bank_is_written_after_the_step_and_only_there(batch, data):
    """Spec 6.8, 6.9."""
    method = small(bank_momentum=0.5)
    method.before_epoch(0, data)
    half = collate([data[i] for i in (7, 2, 9)], ("image",))
    before = method.bank.memory.clone()
    method(half)["loss"].backward()
    assert torch.equal(method.bank.memory, before)
    row, v = method._seen
    assert torch.allclose(v.norm(dim=1), torch.ones(3))
    method.after_step(1)
    assert row.tolist() == [7, 2, 9]
    expected = normalize(0.5 * before[row] + 0.5 * v, dim=1)
    assert torch.allclose(method.bank.memory[row], expected, atol=1e-6)
    changed = (method.bank.memory != before).any(1).nonzero().flatten().tolist()
    assert changed == [2, 7, 9]
    after = method.bank.memory.clone()
    method.after_step(2)  # nothing new was seen
    method.eval()(half)
    method.after_step(3)  # nor in a look at other data
    assert torch.equal(method.bank.memory, after)


def test_same_seed_same_step(batch, data):
    """Spec 6.18."""
    method = small(negatives=3)
    method.before_epoch(0, data)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append([float(term.detach()) for term in method(batch).values()])
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


def test_encoding_hides_nothing_and_repeats(batch):
    """Spec 6.15, with and without training mode; alone as in a batch; bytes as numbers from 0 to 1."""
    method = small()
    first = method.train().encode(batch)
    torch.manual_seed(99)
    second = method.eval().encode(Patches(batch.image.float() / 255))
    assert torch.allclose(first.graph, second.graph, atol=1e-6)
    assert torch.allclose(first.node, second.node, atol=1e-6)
    assert first.node.shape == (12 * 16, 16)
    alone = torch.cat([method.encode(Patches(image[None])).graph for image in batch.image])
    assert torch.allclose(alone, first.graph, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_is_contrasted_is_what_is_handed_out(batch, data, pooling):
    method = small(pooling=pooling, mask_ratio=1 / 16, crop_scale=(1, 1), orientations=1).eval()
    tokens = method.network(method._normalised(method._read(batch)))
    expected = tokens.mean(1) if pooling == "mean" else tokens[:, 0]
    assert torch.allclose(method.encode(batch).graph, expected, atol=1e-6)
    assert torch.allclose(method.contrasted(tokens), expected, atol=1e-6)
    assert torch.equal(method.encode_graphs(batch), method.encode(batch).graph)


def test_encoder_alone_gives_the_same_vectors(batch):
    method = small(pooling="cls").eval()
    encoder = method.encoder()
    image = (batch.image.permute(0, 3, 1, 2) / 255 - method.mean) / method.std
    assert torch.allclose(encoder(image)[:, 0], method.encode(batch).graph, atol=1e-6)
    with torch.no_grad():
        encoder.cls_token.zero_()
    assert method.network.cls_token.any()


def test_other_sizes(batch):
    method = small()
    assert method.encode(Patches(torch.rand(2, 24, 32, 3))).node.shape == (2 * 48, 16)
    method.bank.start(12)
    method.train()(Patches(torch.rand(3, 40, 20, 3), row=torch.arange(3)))
    method.eval()(Patches(torch.rand(3, 40, 20, 3), row=torch.arange(3)))
    with pytest.raises(ValueError, match="multiples of patch_size 4"):
        method.encode(Patches(torch.rand(2, 18, 16, 3)))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_orientations_of_training(count):
    method = small(orientations=count, crop_scale=(1, 1)).train()
    picture = torch.rand(1, 3, 16, 16)
    torch.manual_seed(0)
    laid = method._laid(picture.expand(300, -1, -1, -1))
    mirrored = [picture, picture.flip(3), picture.flip(2), picture.flip(2, 3)]
    every = [*mirrored, *(one.transpose(2, 3) for one in mirrored)]
    seen = {i for one in laid for i, other in enumerate(every) if torch.allclose(one, other[0], atol=1e-5)}
    assert seen == set(range(count))
    assert torch.equal(method.eval()._laid(picture), picture)


def test_crops_of_training():
    method = small(crop_scale=(0.2, 0.5), orientations=1).train()
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(64, 3, 32, 32)
    torch.manual_seed(0)
    laid = method._laid(ramp)
    assert laid.shape == (64, 3, 16, 16) and laid.min() >= 0 and laid.max() <= 1
    width = (laid[..., -1] - laid[..., 0]).mean((1, 2))
    assert width.max() < 0.9 and width.min() > 0.3 and width.std() > 0.05


def test_stains_of_training():
    """Amounts of stain vary from patch to patch within bounds, alike for all its pixels; not when embedding."""
    method = small(crop_scale=(1, 1), orientations=1, stain=0.3).train()
    picture = torch.full((64, 3, 16, 16), 0.5)
    torch.manual_seed(0)
    laid = method._laid(picture)
    assert (laid - laid[..., :1, :1]).abs().max() < 1e-5
    density = torch.linalg.solve(stain_matrix().T, -laid[:, :, 0, 0].T.log10()).T
    before = torch.linalg.solve(stain_matrix().T, -picture[0, :, 0, 0].log10())
    change = (density - before).abs()
    assert (change <= 0.3 * before.abs() + 0.3 / 4 + 1e-4).all() and change[:, :2].mean() > 0.02
    assert torch.equal(method.eval()._laid(picture), picture)


@pytest.mark.parametrize("official", [False, True])
def test_patches_are_cut_in_full_precision(batch, data, official):
    """Under autocast they are the same, and a network of any precision reads them."""
    method = small(stain=0.0 if official else 0.3, negatives=4, official_compat=official).train()
    method.before_epoch(0, data)
    unit = method._read(batch)
    laid = []
    for mixed in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            laid.append(method._laid(unit))
    assert torch.equal(laid[0], laid[1]) and laid[1].dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float64):
        assert method.to(dtype)(batch)["loss"].isfinite()
        assert method.encode(batch).graph.dtype == dtype


def test_training_learns_and_resumes(data, tmp_path):
    """Hidden stripes are restored, patches are told apart, and an interrupted run ends the same."""
    settings = {"batch_size": 6, "lr": 3e-3, "progress": False, "accelerator": "cpu"}
    method = small(crop_scale=(1, 1), orientations=1)
    log = hg.pretrain(method, data, epochs=30, out=tmp_path / "whole", **settings)
    assert log["reconstruction"].iloc[-3:].mean() < 0.7 * log["reconstruction"].iloc[0]
    assert log["contrast"].iloc[-3:].mean() < 0.6 * log["contrast"].iloc[0]
    assert method.bank.rows == 12
    again = load_method(tmp_path / "whole" / "method.safetensors")
    z = hg.embed(method, data, progress=False)
    assert torch.equal(hg.embed(again, data, progress=False).graph, z.graph)
    assert torch.equal(again.bank.memory, method.bank.memory)
    assert z.node.shape == (12 * 16, 16) and z.ptr.tolist() == list(range(0, 193, 16))


def test_resume_keeps_the_bank(data, tmp_path):
    """Spec 6.19: with the estimation, whose Z is part of the state."""
    settings = {"batch_size": 6, "epochs": 3, "progress": False, "accelerator": "cpu"}
    whole = small(contrast="nce")
    hg.pretrain(whole, data, out=tmp_path / "whole", **settings)

    class Stop(Exception):
        pass

    class Interrupted(GCMAE):
        def before_epoch(self, epoch, dataset):
            if epoch == 2:
                raise Stop
            super().before_epoch(epoch, dataset)

    try:
        Interrupted.__name__ = "GCMAE"
        torch.manual_seed(0)
        part = Interrupted(**SIZES, contrast="nce")
        with pytest.raises(Stop):
            hg.pretrain(part, data, out=tmp_path / "part", **settings)
    finally:
        hg.methods.Method.registry.pop("Interrupted", None)
    rest = small(contrast="nce")
    hg.pretrain(rest, data, out=tmp_path / "part", **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[name], value), name
    assert rest.bank.log_z.isfinite()


def test_restored_pictures(batch):
    """What is shown stays as it was; what is hidden is grey, or predicted with the square's own mean and spread."""
    method = small()
    hidden = torch.zeros(12, 16, dtype=torch.bool)
    hidden[:, [0, 5, 6]] = True
    found = method.restore(batch, hidden)
    squares = [
        patchify(image.permute(0, 3, 1, 2), 4) for image in (batch.image, found.masked, found.restored)
    ]
    assert torch.equal(squares[0][~hidden], squares[1][~hidden])
    assert torch.equal(squares[0][~hidden], squares[2][~hidden])
    assert squares[1][hidden].unique().tolist() == [128]
    assert torch.equal(found.hidden, hidden)
    drawn = method.restore(batch)
    assert drawn.hidden.sum(1).tolist() == [8] * 12
    raw = small(normalise_target=False).restore(batch, hidden)
    assert raw.restored.dtype == torch.uint8 and raw.restored.shape == batch.image.shape


def test_a_perfect_prediction_restores_the_picture(batch, monkeypatch):
    method = small()
    smooth = Patches(torch.rand(2, 16, 16, 3))
    goal = method._goal(method._normalised(method._read(smooth)))
    monkeypatch.setattr(method.network, "decode", lambda latent, place: goal)
    wanted = (smooth.image * 255).round().byte()
    assert (method.restore(smooth).restored.int() - wanted.int()).abs().max() <= 1


def test_restoring_refuses(batch):
    method = small()
    hidden = torch.zeros(12, 16, dtype=torch.bool)
    hidden[0, 0] = True
    with pytest.raises(ValueError, match="hide the same number of squares in each patch"):
        method.restore(batch, hidden)
    with pytest.raises(ValueError, match="not all"):
        method.restore(batch, ~torch.zeros_like(hidden))
    with pytest.raises(ValueError, match=r"hidden must be booleans of shape \(12, 16\)"):
        method.restore(batch, hidden[:3])
    with pytest.raises(ValueError, match="image must be 16 pixels high and wide"):
        method.restore(Patches(torch.rand(1, 32, 16, 3)))


def test_what_does_not_fit_is_refused(batch, data):
    method = small()
    with pytest.raises(ValueError, match=r"row is missing: .* give pretrain a PatchDataset"):
        method(Patches(batch.image))
    with pytest.raises(ValueError, match=r"Give the bank the size of the data set with start\(rows\)"):
        method(batch)
    with pytest.raises(TypeError, match="GCMAE reads image patches, found Data"):
        from torch_geometric.data import Data

        method.encode(Data(x=torch.zeros(2, 3)))
    with pytest.raises(
        ValueError, match=r"image must be uint8, or floating point from 0 to 1, found torch\.int64"
    ):
        method.encode(Patches(batch.image.long()))
    with pytest.raises(ValueError, match=r"image must have shape \(B, H, W, 3\)"):
        method.encode(Patches(batch.image[..., :2]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio must be between 0 and 1"),
        ({"mask_ratio": 0.01}, None),
        ({"mask_ratio": 0.99}, "mask_ratio must hide and show at least one of the 16 squares"),
        ({"contrast_weight": 0.0, "reconstruction_weight": 0.0}, "contrast_weight must be above 0 where"),
        ({"contrast": "triplet"}, "contrast must be one of softmax, nce, or None"),
        ({"pooling": "max"}, "pooling must be one of mean, cls"),
        ({"orientations": 3}, "orientations must be 1, 2, 4, 8 or None; found 3"),
        ({"stain": 1.0}, "stain must be at least 0 and below 1; found 1.0"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must rise"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be three numbers above 0"),
        ({"bank_storage": "int8"}, "bank_storage must be one of"),
        ({"negatives": 0}, "negatives must be at least 1"),
        ({"official_compat": True, "negatives": None}, "negatives must be a number with official_compat"),
        ({"official_compat": True, "contrast": "softmax"}, 'contrast must be "nce" with official_compat'),
        ({"official_compat": True, "bank_storage": "float16"}, 'bank_storage must be "float32" with'),
        ({"patch_size": 5}, "image_size must be a multiple of patch_size 5"),
    ],
)
def test_bad_settings(settings, message):
    if message is None:
        assert small(**settings).mask_ratio == 0.01
        return
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_bank_follows_the_data():
    method = small(negatives=5, bank_storage="float16", temperature=0.2)
    assert isinstance(method.bank, MemoryBank) and method.bank.rows == 0
    assert (method.bank.negatives, method.bank.temperature) == (5, 0.2)
    method.before_epoch(0, range(7))
    memory = method.bank.memory.clone()
    method.before_epoch(1, range(7))
    assert torch.equal(method.bank.memory, memory) and memory.dtype == torch.float16
    method.before_epoch(1, range(9))
    assert method.bank.rows == 9


def test_parameters_that_do_not_decay():
    groups = small().parameter_groups()
    assert all(group["betas"] == (0.9, 0.95) for group in groups)
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]
    assert any(p.shape == (1, 1, 16) for p in groups[0]["params"])  # the class token decays
