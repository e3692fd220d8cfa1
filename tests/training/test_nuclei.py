"""Training a StarDist network: it learns, resumes exactly, and its model finds nuclei."""

import numpy as np
import pytest

import histograph as hg
from histograph.entities.stardist_files import load_stardist
from histograph.nn.stardist_config import StarDistConfig
from histograph.training.nuclei import train_nuclei
from histograph.training.nucleus_crops import NucleusCrops
from tests.training.test_nucleus_crops import discs

pytest.importorskip("stardist")

NETWORK = StarDistConfig(n_channel_in=3, grid=(2, 2), n_rays=8, n_depth=1, n_filter_base=8, features=0)


def some_crops(length: int = 16) -> NucleusCrops:
    image, label = discs()
    return NucleusCrops([image], [label], 0.5, 32, 0.5, n_rays=8, length=length, scale=(1, 1))


def test_a_trained_network_finds_the_discs(tmp_path) -> None:
    model, log = train_nuclei(
        some_crops(64), NETWORK, epochs=16, lr=1e-2, out=tmp_path, accelerator="cpu", progress=False
    )
    assert log["loss"].iloc[-1] < 0.5 * log["loss"].iloc[0]
    assert model.percentiles is None
    image, label = discs()
    loaded = load_stardist(tmp_path / "stardist.safetensors")
    slide = hg.open_slide(image, mpp=0.5)
    cells = hg.entities.nuclei(slide, segment="stardist-torch", model=loaded, window_px=64)
    found = cells.instance_map((0, 0, 32, 32))
    assert len(cells) == 4
    for number in range(3, 7):
        inside = label == number
        best = np.bincount(found[inside]).argmax()
        overlap = np.count_nonzero(inside & (found == best)) / np.count_nonzero(inside | (found == best))
        assert best > 0
        assert overlap > 0.6


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch) -> None:
    arguments = {"network": NETWORK, "epochs": 3, "accelerator": "cpu", "progress": False, "seed": 4}
    whole, _ = train_nuclei(some_crops(), **arguments)
    crops, drawn = some_crops(), 0

    class Stopped(NucleusCrops):
        def __getitem__(self, index):
            nonlocal drawn
            drawn += 1
            if drawn > 40:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    crops.__class__ = Stopped
    with pytest.raises(KeyboardInterrupt):
        train_nuclei(crops, out=tmp_path, **arguments)
    resumed, log = train_nuclei(some_crops(), out=tmp_path, **arguments)
    assert log["epoch"].tolist() == [0, 1, 2]
    for name, value in whole.network.state_dict().items():
        assert (value == resumed.network.state_dict()[name]).all(), name


def test_training_goes_on_from_a_model() -> None:
    first, _ = train_nuclei(some_crops(), NETWORK, epochs=1, accelerator="cpu", progress=False)
    kept = {name: value.clone() for name, value in first.network.state_dict().items()}
    second, _ = train_nuclei(some_crops(), first, epochs=1, lr=1e-9, accelerator="cpu", progress=False)
    for name, value in second.network.state_dict().items():
        assert np.allclose(value, kept[name], atol=1e-5)
        assert (first.network.state_dict()[name] == kept[name]).all()


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (StarDistConfig(n_channel_in=1, n_rays=8, grid=(2, 2)), "expected one for 3 channels"),
        (
            StarDistConfig(n_channel_in=3, n_rays=16, grid=(2, 2)),
            "n_rays 16 differs from that of the crops, 8",
        ),
        (StarDistConfig(n_channel_in=3, n_rays=8, grid=(1, 1)), "grid"),
        (StarDistConfig(n_channel_in=3, n_rays=8, grid=(2, 2), n_depth=5), "crop_px: expected a multiple"),
    ],
)
def test_crops_that_do_not_fit_are_refused(network, words) -> None:
    with pytest.raises(ValueError, match=words):
        train_nuclei(some_crops(), network, epochs=1)
