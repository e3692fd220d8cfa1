import numpy as np
import pytest

from histograph.entities.stain import (
    MACENKO_REFERENCE,
    RUIFROK,
    estimate_stains,
    stain_weights,
    weighted_density,
)


def test_amounts_are_recovered_from_mixtures():
    rng = np.random.default_rng(0)
    amount = rng.uniform(0, 1.2, (40, 50, 2))
    colours = np.array(MACENKO_REFERENCE)
    colours = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    image = np.rint(256 * np.exp(-amount @ colours) - 1).clip(0, 255).astype(np.uint8)
    found = weighted_density(image, stain_weights(MACENKO_REFERENCE))
    assert np.abs(found - amount[..., 0]).max() < 0.06


def test_weights_annihilate_eosin_and_keep_weighted_density():
    for stains in (RUIFROK, MACENKO_REFERENCE):
        weights = stain_weights(stains)
        unit = np.array(stains) / np.linalg.norm(stains, axis=1, keepdims=True)
        np.testing.assert_allclose(unit @ weights, [1, 0], atol=1e-12)


def test_estimate_finds_the_stains_of_synthetic_pixels():
    rng = np.random.default_rng(1)
    amount = np.concatenate(
        [rng.uniform([0.6, 0.0], [1.5, 0.1], (4000, 2)), rng.uniform([0.0, 0.4], [0.1, 1.2], (4000, 2))]
    )
    colours = np.array(MACENKO_REFERENCE)
    colours = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    pixels = np.rint(256 * np.exp(-amount @ colours) - 1).clip(0, 255).astype(np.uint8)
    found = estimate_stains(pixels)
    assert (np.sum(found * colours, axis=1) > 0.99).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="stained pixels"):
        estimate_stains(np.full((500, 3), 250, np.uint8))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        stain_weights([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="different"):
        stain_weights([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
