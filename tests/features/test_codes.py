"""Texture codes against their definition; zones, whitening, planted textures, and the way onto a graph."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from histograph.features import TextureCodes, codes
from histograph.graphs import knn_edges
from histograph.slides import open_slide
from histograph.training import add_latents


def noise(count=30, height=14, width=14, seed=0):
    """Crops of coarse and fine noise, so that their small patches are correlated."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 180, (count, height // 4 + 1, width // 4 + 1, 3)).repeat(4, 1).repeat(4, 2)
    fine = rng.integers(0, 76, (count, height, width, 3))
    return (coarse[:, :height, :width] + fine).astype(np.uint8)


def to_tensor(crops, dtype=torch.float32):
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).to(dtype) / 255


@pytest.fixture(scope="module")
def fitted():
    return TextureCodes(codes=12, patch_px=3).fit(noise(), samples=2000)


def brute_force(module, images):
    """Loop over places: whiten, measure the distances, average those of a zone."""
    p, radii = module.patch_px, module.zones.double().tolist()
    mean, whitening, centroids = module.mean.double(), module.whitening.double(), module.centroids.double()
    height, width = (side - p + 1 for side in images.shape[2:])
    rows = []
    for image in images.double():
        zones = [[] for _ in range(len(radii) + 1)]
        for i, j in itertools.product(range(height), range(width)):
            z = (image[:, i : i + p, j : j + p].flatten() - mean) @ whitening
            d = torch.cdist(z[None], centroids, compute_mode="donot_use_mm_for_euclid_dist")[0]
            y, x = (i - (height - 1) / 2) / (height / 2), (j - (width - 1) / 2) / (width / 2)
            zones[sum((x * x + y * y) ** 0.5 >= radius for radius in radii)].append(
                (d.mean() - d).clamp(min=0)
            )
        empty = torch.zeros(len(centroids), dtype=torch.double)
        rows.append(torch.cat([torch.stack(zone).mean(0) if zone else empty for zone in zones]))
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(14, 14), (9, 17), (4, 4), (3, 3), (3, 8)])
def test_codes_are_those_of_the_definition(fitted, shape):
    images = to_tensor(noise(3, *shape, seed=5))
    expected = brute_force(fitted, images)
    assert expected.shape == (3, fitted.out_dim) == (3, 36) and (expected > 0.01).any()
    torch.testing.assert_close(fitted(images).double(), expected, atol=1e-5, rtol=1e-4)


def test_small_patches_of_the_fit_and_of_the_codes_have_one_order():
    """A crop of one small patch that is itself a centroid activates it by the mean distance."""
    crops = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), np.uint8)
    module = TextureCodes(codes=4, patch_px=3, zones=()).fit(crops, samples=400)
    z = (to_tensor(crops).flatten(1) - module.mean) @ module.whitening
    assert torch.cdist(z, module.centroids).amin(1).max() < 1e-3
    code, distance = module(to_tensor(crops)), torch.cdist(module.centroids, module.centroids)
    order = torch.cdist(z, module.centroids).argmin(1)
    torch.testing.assert_close(code[torch.arange(4), order], distance.mean(1)[order], atol=5e-3, rtol=0)


@pytest.mark.parametrize("block", [1, 30, 200])
def test_blocks_do_not_change_the_codes(fitted, monkeypatch, block):
    images = to_tensor(noise(5, 14, 11))
    whole = fitted(images)
    monkeypatch.setattr(codes, "_BLOCK", block)
    sizes, activations = [], fitted._activations
    monkeypatch.setattr(fitted, "_activations", lambda x: (out := activations(x), sizes.append(out.shape))[0])
    torch.testing.assert_close(fitted(images), whole)
    assert max(b * places for b, places, _ in sizes) <= max(block, 9)  # a row is the least


def test_zones_are_those_of_radii_and_turn_into_themselves():
    module = TextureCodes()
    for n in (35, 34, 8):
        weights = module._zone_weights(n, n)
        assert torch.equal(weights.rot90(1, (1, 2)), weights) and torch.equal(weights.flip(2), weights)
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3))
        assert ((weights > 0).sum(0) == 1).all()
    assert torch.equal(module._zone_weights(20, 31).mT, module._zone_weights(31, 20))
    y, x = np.mgrid[:35, :35] - 17.0  # patches of 6 px in a crop of 40 px: radii of 6 and 11 px
    radius = np.hypot(y, x)
    for zone, inside in zip(
        module._zone_weights(35, 35), (radius < 6, radius < 11, radius < 99), strict=True
    ):
        inside, radius = inside & (radius >= 0), np.where(inside, -1, radius)
        np.testing.assert_allclose(zone.numpy(), inside / inside.sum(), rtol=1e-6)


def test_a_patch_on_a_radius_lies_outside_it():
    first, second = TextureCodes(zones=(0.5,))._zone_weights(2, 3)  # y is ±1/2, x is 0 or ±2/3
    assert not first.any() and torch.equal(second, torch.full((2, 3), 1 / 6))


def test_turned_crop_has_another_code_unless_the_filters_turn_too(fitted):
    images = to_tensor(noise(4, seed=3))
    turned = images.rot90(1, (2, 3))
    assert (fitted(turned) - fitted(images)).abs().max() > 0.05
    order = torch.arange(27).view(3, 3, 3).rot90(1, (1, 2)).flatten()
    other = TextureCodes(codes=12, patch_px=3)
    other.mean.copy_(fitted.mean[order])
    other.whitening.copy_(fitted.whitening[order])
    other.centroids.copy_(fitted.centroids)
    torch.testing.assert_close(other(turned), fitted(images), atol=1e-5, rtol=1e-4)


def test_whitening_makes_the_strong_directions_alike():
    crops = noise(200)
    module = TextureCodes(codes=4, patch_px=2).fit(crops, samples=5000)
    u = torch.nn.functional.unfold(to_tensor(crops), 2).transpose(1, 2).flatten(0, 1)
    covariance = torch.cov(((u - module.mean) @ module.whitening).T)
    variance = torch.linalg.eigvalsh(torch.cov(u.T))
    torch.testing.assert_close(
        torch.linalg.eigvalsh(covariance), variance / (variance + 1e-3), atol=0.15, rtol=0
    )
    assert (covariance - covariance.diag().diag()).abs().max() < 0.1
    torch.testing.assert_close(module.whitening, module.whitening.T, atol=1e-4, rtol=0)


def test_fit_is_deterministic_and_leaves_the_global_generators_alone():
    crops = noise()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, second, third = (TextureCodes(8, 3).fit(crops, samples=500, seed=s) for s in (1, 1, 2))
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.centroids, third.centroids)


def test_state_dict_round_trip(fitted):
    other = TextureCodes(codes=12, patch_px=3, zones=(0.2, 0.5))
    other.load_state_dict(fitted.state_dict())
    images = to_tensor(noise(2))
    assert torch.equal(other(images), fitted(images))
    for wrong in (TextureCodes(12, 4), TextureCodes(11, 3), TextureCodes(12, 3, zones=(0.5,))):
        with pytest.raises(RuntimeError, match="size mismatch"):
            wrong.load_state_dict(fitted.state_dict())


def stripes(count, down, rng):
    """Stripes of random phase in two random colours, down or across; both kinds have the same mean colours."""
    phase = rng.integers(0, 4, count)
    pattern = ((np.arange(16) + phase[:, None]) // 2 % 2)[:, :, None, None]
    first, second = rng.integers(100, 200, (2, count, 1, 1, 3))
    crops = np.broadcast_to(pattern * first + (1 - pattern) * second, (count, 16, 16, 3))
    return (crops if down else crops.swapaxes(1, 2)).astype(np.uint8)


def nearest_mean(train, test):
    """Share of the test rows, in two equal halves, that lie nearest to the training mean of their half."""
    classes = torch.stack([half.mean(0) for half in train.chunk(2)])
    truth = torch.arange(2).repeat_interleave(len(test) // 2)
    return (torch.cdist(test, classes).argmin(1) == truth).float().mean()


def test_planted_textures_part_where_mean_colours_do_not():
    rng = np.random.default_rng(0)
    train, test = (np.concatenate([stripes(60, down, rng) for down in (True, False)]) for _ in range(2))
    module = TextureCodes(codes=20, patch_px=4).fit(train, samples=4000)
    by_code = nearest_mean(module(to_tensor(train)), module(to_tensor(test)))
    by_colour = nearest_mean(to_tensor(train).mean((2, 3)), to_tensor(test).mean((2, 3)))
    assert by_code > 0.9 and by_colour < 0.65


def test_colour_is_kept():
    """Even crops of one hue each: whitening a patch by itself would leave nothing of them."""
    rng = np.random.default_rng(0)
    colour = np.repeat([[200, 80, 80], [80, 80, 200]], 60, axis=0)[:, None, None]
    crops = (colour + rng.integers(-20, 21, (120, 10, 10, 3))).astype(np.uint8)
    module = TextureCodes(codes=8, patch_px=3).fit(crops, samples=1000)
    assert nearest_mean(module(to_tensor(crops)), module(to_tensor(crops))) == 1


def test_gradient_against_finite_differences(fitted):
    module = TextureCodes(codes=12, patch_px=3)
    module.load_state_dict(fitted.state_dict())
    images = to_tensor(noise(2, 5, 5), torch.double).requires_grad_()
    assert torch.autograd.gradcheck(module.double(), images)


def test_autocast_keeps_full_precision(fitted):
    encoder = fitted.encoder(size_px=14, mpp=0.5)
    crops = noise(3)
    assert torch.equal(encoder.encode(crops, mixed_precision=True), encoder.encode(crops))


def test_encoder_gives_a_graph_its_latents(fitted):
    rng = np.random.default_rng(0)
    slide = open_slide(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8), mpp=0.5, slide_id="noise")
    pos = torch.from_numpy(rng.uniform(4, 36, (12, 2))).float()
    edge_index, edge_attr = knn_edges(pos, k=2)
    graph = Data(pos=pos, edge_index=edge_index, edge_attr=edge_attr, slide_id="noise", mpp=(0.5, 0.5))
    graph.provenance = {}
    encoder = fitted.encoder(size_px=10, mpp=0.5)
    assert encoder.size_um == 5
    add_latents(graph, slide, encoder, progress=False)
    assert graph.latent.shape == (12, 36) and graph.edge_latent.shape == (graph.num_edges, 36)
    assert graph.provenance["latents"]["node"]["encoder"] == "code"
    for (x, y), latent in zip(pos.double().tolist(), graph.latent, strict=True):
        crop = slide.read_region(x - 2.5, y - 2.5, 5, 5, mpp=0.5)
        torch.testing.assert_close(
            latent.float(), fitted(to_tensor(crop[None]))[0].detach(), atol=2e-3, rtol=2e-3
        )


def test_empty_batch(fitted):
    assert fitted(torch.zeros(0, 3, 9, 9)).shape == (0, 36)


def test_import_of_the_room_does_not_load_torch():
    code = "import sys, histograph.features; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert run.stdout.strip() == "False"


def test_wrong_arguments(fitted):
    with pytest.raises(ValueError, match="codes must be a whole number of at least 2, found 1"):
        TextureCodes(codes=1)
    with pytest.raises(ValueError, match=r"patch_px must be a whole number of at least 1, found 2.5"):
        TextureCodes(patch_px=2.5)
    for zones in ((0.5, 0.5), (0.0, 0.5), (0.5, 1.5), (float("nan"),)):
        with pytest.raises(ValueError, match="zones must ascend between 0 and √2"):
            TextureCodes(zones=zones)
    new = TextureCodes(codes=12, patch_px=3)
    with pytest.raises(RuntimeError, match=r"not fitted; call fit\(images\)"):
        new(torch.zeros(1, 3, 9, 9))
    with pytest.raises(RuntimeError, match="not fitted"):
        new.encoder(9, 0.5)
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\).*found float64 of shape \(2, 9, 9, 3\)"):
        new.fit(np.zeros((2, 9, 9, 3)))
    with pytest.raises(ValueError, match=r"N of at least 1.*\(0, 9, 9, 3\)"):
        new.fit(np.zeros((0, 9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="at least patch_px=3 pixels high and wide, found 2 × 9"):
        new.fit(np.zeros((1, 2, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="1 different small patches among samples=50, fewer than codes=12"):
        new.fit(np.zeros((1, 9, 9, 3), np.uint8), samples=50)
    with pytest.raises(RuntimeError, match="not fitted"):  # a fit that failed leaves nothing
        new(torch.zeros(1, 3, 9, 9))
    with pytest.raises(ValueError, match=r"found torch.uint8 of shape \(1, 3, 9, 9\)"):
        fitted(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"found torch.float32 of shape \(1, 9, 9, 3\)"):
        fitted(torch.zeros(1, 9, 9, 3))
    with pytest.raises(ValueError, match="found 9 × 2"):
        fitted(torch.zeros(1, 3, 9, 2))
    with pytest.raises(ValueError, match="found 2 × 2"):
        fitted.encoder(2, 0.5)
