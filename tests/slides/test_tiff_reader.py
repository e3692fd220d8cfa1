import numpy as np
import pytest
import tifffile

from histograph.slides import Slide, open_slide
from histograph.slides.tiff_reader import TiffReader


def pixels(slide):
    assert slide.properties["histograph.reader"] == "tifffile"
    w, h = slide.dimensions
    return slide.read_region(0, 0, w, h, mpp=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 7, "compression": "lzw"},
        {"tile": (32, 48), "compression": "zstd"},
        {"compression": "deflate", "predictor": True},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "rowsperstrip": 9, "compression": "deflate"},
        {"byteorder": ">", "bigtiff": True},
    ],
    ids=str,
)
def test_flat_and_unusual_tiffs(tmp_path, noise, options):
    image = noise(70, 90, 3)
    stored = np.moveaxis(image, -1, 0) if options.get("planarconfig") == "separate" else image
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    with Slide(TiffReader(tmp_path / "a.tif"), (1.0, 1.0), "a") as slide:
        np.testing.assert_array_equal(pixels(slide), image)
        np.testing.assert_array_equal(slide.read_region(33, 21, 40, 30, mpp=1.0), image[21:51, 33:73])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_sixteen_bits_are_scaled(tmp_path, noise, byteorder, compression):
    image = noise(40, 50, 3, dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb", byteorder=byteorder, compression=compression
    )
    with open_slide(tmp_path / "a.tif", mpp=1.0) as slide:
        np.testing.assert_array_equal(pixels(slide), np.floor(image / 257 + 0.5))


def test_grey_inverted_palette_and_one_bit(tmp_path, noise):
    grey = noise(40, 50)
    colours = noise(3, 256, seed=3).astype(np.uint16) * 257
    cases = {
        "grey": (grey, {"photometric": "minisblack"}, grey[..., None].repeat(3, 2)),
        "inverted": (grey, {"photometric": "miniswhite"}, 255 - grey[..., None].repeat(3, 2)),
        "palette": (grey, {"photometric": "palette", "colormap": colours}, (colours // 257).T[grey]),
        "bits": (grey > 99, {"photometric": "minisblack"}, 255 * (grey > 99)[..., None].repeat(3, 2)),
    }
    for name, (image, options, expected) in cases.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image, **options)
        with open_slide(tmp_path / f"{name}.tif", mpp=1.0) as slide:
            np.testing.assert_array_equal(pixels(slide), expected, err_msg=name)


def test_transparency_becomes_white(tmp_path, noise):
    image = noise(20, 30, 4)
    image[:5, :, 3], image[5:10, :, 3] = 0, 255
    for kind in ("unassalpha", "assocalpha"):
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=[kind])
        out = pixels(open_slide(tmp_path / "a.tif", mpp=1.0))
        np.testing.assert_array_equal(out[5:10], image[5:10, :, :3])
        a = image[10:, :, 3:].astype(float)
        colour = image[10:, :, :3] * (1.0 if kind == "assocalpha" else a / 255)
        assert np.abs(out[10:] - np.minimum(colour + 255 - a, 255)).max() <= 0.51
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(pixels(open_slide(tmp_path / "a.tif", mpp=1.0)), image[..., :3])


def write_ome(path, levels, axes="YXS", **metadata):
    with tifffile.TiffWriter(path, ome=True) as file:
        options = {
            "tile": (64, 64),
            "compression": "deflate",
            "photometric": "rgb" if axes == "YXS" else "minisblack",
        }
        file.write(levels[0], subifds=len(levels) - 1, metadata={"axes": axes, **metadata}, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **options)
    return path


def test_ome_pyramid_with_its_sizes(tmp_path, noise):
    levels = [noise(256, 512, 3), noise(128, 256, 3, seed=1), noise(64, 128, 3, seed=2)]
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    with open_slide(write_ome(tmp_path / "a.ome.tif", levels, **size)) as slide:
        assert slide.mpp == (0.25, 0.25)
        assert slide.level_dimensions == ((512, 256), (256, 128), (128, 64))
        for level in range(3):
            out = slide.read_region(0, 0, *slide.size_um, mpp=0.25 * 2**level)
            np.testing.assert_array_equal(out, levels[level])


def test_ome_channels_as_planes(tmp_path, noise):
    image = noise(3, 100, 120)
    path = write_ome(tmp_path / "a.ome.tif", [image], axes="CYX", PhysicalSizeX=0.5, PhysicalSizeY=0.6)
    with open_slide(path) as slide:
        assert slide.mpp == (0.5, 0.6)
        out = slide.read_region(0, 0, 60, 60, mpp=0.5)
        np.testing.assert_array_equal(out[0], np.moveaxis(image, 0, -1)[0])


def test_resolution_tags_in_a_unit_of_length(tmp_path, noise):
    for unit, per_um in (("CENTIMETER", 1e4), ("INCH", 25400.0)):
        options = {"resolution": (per_um / 0.5, per_um / 0.25), "resolutionunit": unit}
        tifffile.imwrite(tmp_path / "a.tif", noise(20, 20, 3), photometric="rgb", **options)
        assert open_slide(tmp_path / "a.tif").mpp == pytest.approx((0.5, 0.25))
    tifffile.imwrite(
        tmp_path / "a.tif", noise(20, 20, 3), photometric="rgb", resolution=(2, 2), resolutionunit=1
    )
    with pytest.raises(ValueError, match="mpp"):
        open_slide(tmp_path / "a.tif")
    tifffile.imwrite(
        tmp_path / "b.tif", noise(20, 20), imagej=True, resolution=(2, 4), metadata={"unit": "um"}
    )
    assert open_slide(tmp_path / "b.tif").mpp == (0.5, 0.25)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "word"),
    [
        ((20, 20), np.float32, {"photometric": "minisblack"}, "float32"),
        ((20, 20), np.int16, {"photometric": "minisblack"}, "int16"),
        ((20, 20, 5), np.uint8, {"photometric": "minisblack", "planarconfig": "contig"}, "5 channels"),
        ((6, 20, 20), np.uint8, {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}, "stack"),
        ((20, 20, 4), np.uint8, {"photometric": "separated"}, "CMYK"),
        ((20, 20, 3), np.float32, {"photometric": "rgb"}, r"float32 .*255\).round\(\)"),
        ((20, 20, 3), np.uint8, {"photometric": "cielab"}, "CIELAB .*convert the file to RGB"),
        ((20, 20, 2), np.uint8, {"photometric": "minisblack", "planarconfig": "contig"}, "2 channels"),
    ],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_pixels_without_a_defined_colour(tmp_path, shape, dtype, options, word, tiled):
    # tiled, OpenSlide would take some of them and make up a picture
    options = options | ({"tile": (16, 16)} if tiled and word != "stack" else {})
    tifffile.imwrite(tmp_path / "a.tif", np.ones(shape, dtype), **options)
    with pytest.raises(ValueError, match=f"a.tif .*{word}"):
        open_slide(tmp_path / "a.tif", mpp=0.5)


def test_tiled_grey_and_transparent_become_rgb(tmp_path, noise):
    grey, clear = noise(40, 50), noise(40, 50, 4)
    clear[..., 3] = 255
    clear[:9, :, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack", tile=(32, 32))
    tifffile.imwrite(tmp_path / "b.tif", clear, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))
    with open_slide(tmp_path / "a.tif", mpp=1.0) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 50, 40), grey[..., None].repeat(3, 2))
    with open_slide(tmp_path / "b.tif", mpp=1.0) as slide:
        found = slide.read_region(0, 0, 50, 40)
    assert (found[:9] == 255).all() and np.array_equal(found[9:], clear[9:, :, :3])


def test_only_the_needed_tiles_are_decoded(tmp_path, noise):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", noise(640, 640, 3), tile=(64, 64), photometric="rgb", compression="lzw"
    )
    with open_slide(tmp_path / "a.ome.tif", mpp=1.0) as slide:
        slide.read_region(70, 70, 100, 20)
        assert len(slide._reader._segments) == 2
