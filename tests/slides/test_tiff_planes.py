"""TIFF files of several planes: refused with what they hold and how to choose, while pyramids open as they did."""

import re

import numpy as np
import pytest
import tifffile

from histograph.slides import open_slide

TILED = {"tile": (32, 32), "photometric": "rgb"}


def pages(path, images, kinds=None, **options):
    with tifffile.TiffWriter(path) as file:
        for k, image in enumerate(images):
            file.write(image, subfiletype=kinds[k] if kinds else 0, metadata=None, **(TILED | options))
    return path


@pytest.mark.parametrize("tile", [{"tile": (32, 32)}, {"rowsperstrip": 8}])
@pytest.mark.parametrize(
    "axes,options",
    [
        ("ZYXS", {"ome": True}),
        ("TYXS", {"ome": True}),
        ("TZYXS", {"ome": True}),
        ("QYXS", {"metadata": None}),
        ("QYXS", {}),
        ("ZYXS", {"imagej": True}),
    ],
)
def test_stacks_are_refused_with_what_they_hold(tmp_path, noise, tile, axes, options):
    shape = (2, 3, 40, 50, 3) if axes == "TZYXS" else (3, 40, 50, 3)
    image, path = noise(*shape), tmp_path / "a.tif"
    if "imagej" not in options:
        options = options | tile | {"photometric": "rgb"}
    tifffile.imwrite(path, image, **({"metadata": {"axes": axes}} | options))
    with pytest.raises(
        ValueError, match=r"a.tif is a stack with axes .* shape .*: \d along .*expected one"
    ) as error:
        open_slide(path, mpp=0.5)
    assert "".join(f"{n} along {a}" for a, n in zip(axes, shape) if a in "ZT" and len(axes) == 4) in str(
        error.value
    )
    # what the message says to do is what helps
    call = re.search(r"open_slide\((tifffile.imread\(.*?\)\[[0, ]+\]), mpp", str(error.value))[1]
    chosen = eval(call.replace("'a.tif'", repr(str(path))), {"tifffile": tifffile})
    with open_slide(chosen, mpp=1.0) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 50, 40), image.reshape(-1, 40, 50, 3)[0])


def test_images_of_equal_size_are_refused(tmp_path, noise):
    image = noise(64, 96, 3)
    pages(tmp_path / "a.tif", [image, image[..., 0]], photometric=None)
    with tifffile.TiffWriter(tmp_path / "b.tif", ome=True) as file:
        file.write(image, **TILED)
        file.write(image, **TILED)
    small = image[::2, ::2].copy()
    pages(tmp_path / "c.tif", [image, small, image, small], [0, 1, 0, 1])  # two pyramids, one after the other
    for name, found in (
        ("a", "2 images of the largest"),
        ("b", "2 images of the largest"),
        ("c", "2 along I"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.tif .*{found}.*Choose one"):
            open_slide(tmp_path / f"{name}.tif", mpp=0.5)


def test_channels_that_are_no_colours_are_refused(tmp_path, noise):
    def write(count, names=None):
        metadata = {"axes": "CYX"} | ({"Channel": {"Name": names}} if names else {})
        options = {"photometric": "minisblack", "ome": True, "metadata": metadata, "tile": (32, 32)}
        tifffile.imwrite(tmp_path / "a.tif", noise(count, 40, 50), **options)
        return tmp_path / "a.tif"

    for count, names in ((2, None), (4, None), (3, ["DAPI", "CD3", "CD8"])):
        with pytest.raises(
            ValueError, match=f"a.tif .*shape .{count}, 40, 50.* {count} channels .*Choose channels"
        ):
            open_slide(write(count, names), mpp=0.5)
    for names in (None, ["Red", "Green", "Blue"], ["Channel:0:0", "Channel:0:1", "Channel:0:2"]):
        open_slide(write(3, names), mpp=0.5).close()


def test_an_image_over_several_files_is_refused(tmp_path, noise):
    names = ["a.ome.tif", "b.ome.tif"]
    channel = '<Channel ID="Channel:0:{k}" SamplesPerPixel="1"/>'
    data = '<TiffData FirstC="{k}" IFD="0" PlaneCount="1"><UUID FileName="{n}">urn:uuid:{k}</UUID></TiffData>'
    body = "".join(channel.format(k=k) for k in range(3))
    body += "".join(data.format(k=k, n=names[min(k, 1)]) for k in range(3))
    for k, name in enumerate(names):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{k}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" SizeC="3" SizeZ="1" '
            f'SizeT="1">{body}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / name, noise(40, 50), description=text, metadata=None)
    with pytest.raises(ValueError, match=r"a.ome.tif is one of several files.*shape \(3, 40, 50\)"):
        open_slide(tmp_path / "a.ome.tif", mpp=0.5)


@pytest.mark.parametrize("kinds", [[0, 1, 1, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize("tile", [(32, 32), None])
def test_pyramids_with_labels_masks_and_thumbnails_open(tmp_path, noise, kinds, tile):
    image = noise(128, 192, 3)
    levels = [image[:: 2**k, :: 2**k].copy() for k in range(3)] + [image[:20, :40].copy()]
    pages(tmp_path / "a.tif", levels, kinds, tile=tile)
    levels.insert(0, image[:20, :30].copy())  # a thumbnail first
    pages(tmp_path / "b.tif", levels, [0, 0, *kinds[1:]], tile=tile)
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        file.write(image, metadata=None, **(TILED | {"tile": tile}))
        file.write(image[..., 0] > 9, photometric="minisblack", metadata=None, subfiletype=1, tile=tile)
    with tifffile.TiffFile(tmp_path / "c.tif", mode="r+") as file:
        file.pages[1].tags["NewSubfileType"].overwrite(4)  # what lies on the slide and what does not
    for name in "abc":
        with open_slide(tmp_path / f"{name}.tif", mpp=1.0) as slide:
            assert slide.dimensions == (192, 128)
            np.testing.assert_array_equal(slide.read_region(0, 0, 192, 128), image)
