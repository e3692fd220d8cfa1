import numpy as np
import pytest
from PIL import Image

from histograph.slides import open_slide
from histograph.slides.image_reader import as_rgb


def whole(slide):
    w, h = slide.dimensions
    return slide.read_region(0, 0, w, h, mpp=1.0)


def test_arrays_of_every_kind(noise):
    grey, rgb, rgba = noise(6, 8), noise(6, 8, 3), noise(6, 8, 4)
    deep = noise(6, 8, 3, dtype=np.uint16)
    np.testing.assert_array_equal(whole(open_slide(grey, mpp=1.0)), grey[..., None].repeat(3, 2))
    np.testing.assert_array_equal(whole(open_slide(grey > 9, mpp=1.0))[..., 1], 255 * (grey > 9))
    np.testing.assert_array_equal(whole(open_slide(rgb, mpp=1.0)), rgb)
    np.testing.assert_array_equal(whole(open_slide(deep, mpp=1.0)), np.floor(deep / 257 + 0.5))
    a = rgba[..., 3:] / 255
    assert np.abs(whole(open_slide(rgba, mpp=1.0)) - (rgba[..., :3] * a + 255 * (1 - a))).max() <= 0.51


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((3, 4, 4), np.uint8), None),
        (np.zeros((3, 8, 9), np.uint8), r"shape \(3, 8, 9\); .*Move the channels to the last axis"),
        (np.zeros((8, 9, 2), np.uint8), r"shape \(8, 9, 2\)"),
        (np.zeros((1, 8, 9, 3), np.uint8), r"shape \(1, 8, 9, 3\)"),
        (np.zeros(5, np.uint8), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
    ],
)
def test_arrays_that_are_no_images(array, word):
    if word is None:  # (3, 4, 4) is read as a tiny RGBA image: shapes alone cannot tell
        assert open_slide(array, mpp=1.0).dimensions == (4, 3)
        return
    with pytest.raises(ValueError, match=word):
        open_slide(array, mpp=1.0)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "P", "LA", "I;16"])
def test_image_files(tmp_path, noise, mode):
    rgb = noise(12, 16, 3)
    path = tmp_path / "a.png"
    if mode == "I;16":
        image = Image.fromarray(noise(12, 16, dtype=np.uint16))
    elif mode == "RGBA":
        image = Image.fromarray(noise(12, 16, 4))
    else:
        image = Image.fromarray(rgb).convert(mode)
    image.save(path)
    out = whole(open_slide(path, mpp=1.0))
    assert out.shape == (12, 16, 3) and out.dtype == np.uint8
    if mode == "RGB":
        np.testing.assert_array_equal(out, rgb)
    if mode == "I;16":
        np.testing.assert_array_equal(out[..., 0], np.floor(noise(12, 16, dtype=np.uint16) / 257 + 0.5))


def test_cmyk_is_refused(tmp_path, noise):
    Image.fromarray(noise(12, 16, 3)).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a.jpg has colours 'CMYK'.*Convert it to RGB first"):
        open_slide(tmp_path / "a.jpg", mpp=0.5)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_animations_are_refused(tmp_path, noise, suffix):
    frames = [Image.fromarray(noise(12, 16, 3, seed=k)) for k in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"a\.{suffix} is animated: 3 frames"):
        open_slide(tmp_path / f"a.{suffix}", mpp=0.5)


def test_png_resolution_of_a_microscope(tmp_path, noise):
    Image.fromarray(noise(9, 9, 3)).save(tmp_path / "a.png", dpi=(50800, 50800))
    assert open_slide(tmp_path / "a.png").mpp == pytest.approx((0.5, 0.5), rel=1e-3)


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bits_in_either_order_of_bytes(order):
    image = np.array([[0, 257, 65535]], order + "u2")
    assert as_rgb(image)[0, :, 0].tolist() == [0, 1, 255]
