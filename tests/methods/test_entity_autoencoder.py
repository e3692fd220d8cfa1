"""The auto-encoder of crops: it learns, its latent is a function of the crop alone, its loss is the closed form."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from histograph.methods import EntityAutoencoder, Patches, load_method
from histograph.methods.entity_autoencoder import kl_to_normal
from histograph.training import PatchDataset, embed, pretrain
from tests.methods.crops import disks


def small(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EntityAutoencoder(**({"size_px": 16, "width": 16} | settings))


def crops(count=6, size=16, seed=0):
    return Patches(torch.from_numpy(disks(count, size, seed)))


def test_reconstruction_beats_the_mean_image_and_the_mean_colour():
    train, test = disks(600, 16, seed=0), torch.from_numpy(disks(200, 16, seed=1))
    method = small()
    log = pretrain(method, PatchDataset(train), epochs=6, lr=4e-3, accelerator="cpu", progress=False)
    assert log["reconstruction"].iloc[-1] < 0.5 * log["reconstruction"].iloc[0]
    back = method.decode(embed(method, PatchDataset(test), progress=False).graph)
    truth = test.float()

    def error(guess):
        return float((guess - truth).square().mean())

    mean_image = torch.from_numpy(train).float().mean(0)
    own_colour = truth.mean((1, 2), keepdim=True)
    assert error(back.float()) < 0.4 * error(mean_image) and error(back.float()) < 0.6 * error(own_colour)


def test_divergence_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 5, 3, 2, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum((1, 2))
    torch.testing.assert_close(kl_to_normal(mean, logvar), expected)
    assert kl_to_normal(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def test_loss_is_the_sum_of_its_terms_and_reaches_all_weights():
    method = small(kl_weight=0.5)
    terms = method(crops())
    expected = terms["reconstruction"] + 0.5 * terms["kl"] / (3 * 16 * 16)
    torch.testing.assert_close(terms["loss"].detach(), expected)
    terms["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
    without = small(kl_weight=0.0)(crops())
    torch.testing.assert_close(without["loss"].detach(), without["reconstruction"])


def test_reconstruction_is_of_a_drawn_latent():
    method, batch = small(), crops()
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = method(batch), method(batch)
    torch.manual_seed(0)
    with torch.no_grad():
        again = method(batch)
    assert float(first["loss"]) == float(again["loss"]) != float(second["loss"])
    assert float(first["kl"]) == float(second["kl"])


def test_latent_is_deterministic_and_of_the_crop_alone():
    method, batch = small().eval(), crops()
    z = method.encode(batch)
    assert z.node is None and z.graph.shape == (6, method.latent_dim) == (6, 16)
    assert torch.equal(z.graph, method.train().encode(batch).graph)
    alone = torch.cat([method.encode(Patches(image[None])).graph for image in batch.image])
    torch.testing.assert_close(alone, z.graph)
    as_float = Patches(batch.image.float() / 255)
    torch.testing.assert_close(method.encode(as_float).graph, z.graph)


@pytest.mark.parametrize(("size_px", "downsample", "channels"), [(8, 2, 1), (24, 4, 3), (32, 16, 5)])
def test_size_of_the_latent(size_px, downsample, channels):
    method = small(size_px=size_px, downsample=downsample, latent_channels=channels)
    assert method.latent_dim == channels * (size_px // downsample) ** 2
    z = method.encode(crops(2, size_px)).graph
    assert z.shape == (2, method.latent_dim)
    image = method.decode(z)
    assert image.shape == (2, size_px, size_px, 3) and image.dtype == torch.uint8


def test_default_is_small():
    method = EntityAutoencoder()
    assert method.latent_dim == 64 and 50_000 < sum(p.numel() for p in method.parameters()) < 150_000


def test_file_round_trip(tmp_path):
    method = small(latent_channels=2, kl_weight=0.1)
    method.save(tmp_path / "stage1.safetensors")
    again = load_method(tmp_path / "stage1.safetensors")
    assert again.config == method.config and again.kl_weight == 0.1
    assert torch.equal(again.encode(crops()).graph, method.encode(crops()).graph)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"downsample": 3}, "downsample must be 2, 4, 8 or 16; found 3"),
        ({"size_px": 20}, "size_px must be a multiple of downsample = 8; found 20"),
        ({"size_px": 0}, "size_px"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"width": 0}, "width"),
        ({"kl_weight": -1}, "kl_weight"),
        ({"kl_weight": float("nan")}, "kl_weight"),
        ({"backbone": "large"}, "backbone"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_wrong_crops():
    with pytest.raises(ValueError, match=r"image must have shape \(B, 16, 16, 3\), found \(2, 8, 8, 3\)"):
        small().encode(crops(2, 8))
    with pytest.raises(ValueError, match=r"uint8, or floating point from 0 to 1, found torch.int64"):
        small().encode(Patches(crops().image.long()))
    with pytest.raises(TypeError, match="reads image patches, found ndarray"):
        small().encode(np.zeros((2, 16, 16, 3)))
    with pytest.raises(ValueError, match=r"latent must have shape \(B, 16\)"):
        small().decode(torch.zeros(2, 3))


def test_missing_diffusers_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"histograph\[diffusion\]"):
        small(backbone="diffusers", downsample=4)


def test_diffusers_backbone(tmp_path):
    pytest.importorskip("diffusers")
    settings = {"backbone": "diffusers", "size_px": 32, "downsample": 4, "latent_channels": 3, "width": 8}
    method = small(**settings)
    batch = crops(3, 32)
    z = method.encode(batch).graph
    assert z.shape == (3, method.latent_dim) == (3, 3 * 8 * 8)
    assert method.backbone.model.config.block_out_channels == (8, 16, 32)
    terms = method(batch)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"]) and method.decode(z).shape == batch.image.shape
    posterior = method.backbone.model.encode(method._read(batch)).latent_dist
    torch.testing.assert_close(terms["kl"], posterior.kl().mean())
    method.save(tmp_path / "vae.safetensors")
    assert torch.equal(load_method(tmp_path / "vae.safetensors").encode(batch).graph, z)
