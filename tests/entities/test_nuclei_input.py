"""Images that are no H&E, blank or of another kind: nuclei of what is certain, an error for the rest; and the bar."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histograph.entities import nuclei
from histograph.slides import open_slide

DATA = Path(__file__).parent.parent / "data" / "stardist"
METHODS = ["classical", "stardist-torch"]


def options(method):
    if method == "classical":
        return {}
    pytest.importorskip("h5py")
    from histograph.entities.stardist_files import load_stardist

    return {
        "segment": method,
        "model": load_stardist(DATA / "plain"),
        "mpp": 0.5,
        "window_px": 176,
        "max_radius_um": 12.0,
    }


@pytest.fixture(scope="module")
def image():
    return np.asarray(Image.open(DATA / "image.png"))


def arrays(cells):
    return cells.centroid.tolist(), cells.masks.bits.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_what_becomes_rgb_has_the_same_nuclei(image, method):
    settings = options(method)
    wanted = nuclei(open_slide(image, mpp=0.5), **settings)
    assert len(wanted) > 10
    opaque = np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)
    for same in (opaque, image.astype(np.uint16) * 257):
        assert arrays(nuclei(open_slide(same, mpp=0.5), **settings)) == arrays(wanted)
    clear = opaque.copy()
    clear[..., 3] = 0  # nothing is seen of it, so it is glass
    assert len(nuclei(open_slide(clear, mpp=0.5), **settings)) == 0
    grey = image[..., 1]
    assert arrays(nuclei(open_slide(grey, mpp=0.5), **settings)) == arrays(
        nuclei(open_slide(np.stack([grey] * 3, axis=2), mpp=0.5), **settings)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0, 255, 240])
@pytest.mark.parametrize("mask", [None, "auto"])
def test_blank_slides_have_no_nuclei(method, value, mask):
    slide = open_slide(np.full((150, 170, 3), value, np.uint8), mpp=0.5)
    cells = nuclei(slide, mask=mask, tile_um=40.0, **options(method))
    assert len(cells) == 0 and cells.instance_map().shape == (150, 170)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "found,match",
    [
        (np.zeros((9, 9, 3), np.uint8), r"an array; open it first: histograph.open_slide\(array, mpp=0.5\)"),
        ("slide.svs", r"'slide.svs'; open it first: histograph.open_slide\(path\)"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_slide_is_refused(method, found, match):
    with pytest.raises(TypeError, match=f"slide: expected an open slide, found {match}"):
        nuclei(found, **options(method))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_for_other_channels_is_refused(image, channels):
    from histograph.entities.stardist_files import StarDistModel
    from histograph.nn.stardist_net import StarDistConfig, StarDistNet

    net = StarDistNet(StarDistConfig(n_channel_in=channels, n_depth=1, n_filter_base=2, features=0)).eval()
    model = StarDistModel(net, 0.5, 0.4, "fluorescence")
    with pytest.raises(ValueError, match=rf"'fluorescence' is for {channels} channel.*slides have 3.*H&E"):
        nuclei(open_slide(image, mpp=0.5), 0.5, segment="stardist-torch", model=model)


@pytest.mark.parametrize("method", METHODS)
def test_the_bar_tells_nuclei_and_area(image, method, capsys):
    slide = open_slide(np.tile(image, (2, 2, 1)), mpp=2.0)  # 520 x 584 µm
    settings = options(method) | {"mpp": 2.0}
    cells = nuclei(slide, tile_um=200.0, progress=True, **settings)
    last = capsys.readouterr().err.split("\r")[-1]
    width, height = slide.size_um
    area = f"{width * height / 1e6:.2f}"
    assert "100%|" in last and f"| {area}/{area} mm² [" in last and f"{len(cells):,} nuclei]" in last
    nuclei(slide, tile_um=200.0, **settings)
    assert capsys.readouterr().err == ""
