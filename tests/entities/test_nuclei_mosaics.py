"""Nuclei of a mosaic are those of its pieces, and what a seam of tiles cuts is found exactly once."""

import tracemalloc
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histograph.entities import NucleusSettings, nuclei
from histograph.slides import ahead, open_slide

DATA = Path(__file__).parent.parent / "data" / "stardist"
WINDOW = 176  # for StarDist: squares of 64 pixels without their margin of 56
CLASSICAL = {"threshold": 0.3}


@pytest.fixture(scope="module")
def image():
    return np.asarray(Image.open(DATA / "image.png"))


@pytest.fixture(scope="module")
def stardist():
    pytest.importorskip("h5py")
    from histograph.entities.stardist_files import load_stardist

    model = load_stardist(DATA / "plain")
    return {
        "segment": "stardist-torch",
        "model": model,
        "mpp": 0.5,
        "normalise": (60, 240),
        "prob_thresh": 0.35,
        "window_px": WINDOW,
        "max_radius_um": 12.0,
    }


class AtOnce(Executor):
    """Work in the caller's thread as soon as it is submitted."""

    def __init__(self, workers, thread_name_prefix):
        super().__init__()

    def submit(self, work, *arguments):
        done = Future()
        done.set_result(work(*arguments))
        return done


def padded(image, above, shape):
    """Lay an image on white, some pixels from the top and left."""
    out = np.full((*shape, 3), 255, np.uint8)
    out[above : above + image.shape[0], above : above + image.shape[1]] = image
    return out


def same(a, b):
    assert a.label.tolist() == b.label.tolist()
    for name in ("centroid", "bbox", "area"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("bits", "pointers", "boxes"):
        np.testing.assert_array_equal(getattr(a.masks, name), getattr(b.masks, name))
    assert a.columns.keys() == b.columns.keys()
    for name, column in a.columns.items():
        np.testing.assert_array_equal(column, b.columns[name])


def described(cells, row=0, col=0):
    """Return each nucleus as its box, moved by some pixels, with its pixels and columns."""
    masks, boxes = cells.masks, cells.masks.boxes + np.tile([row, col], 2)
    columns = [cells.columns[name].tolist() for name in sorted(cells.columns)]
    pixels = [masks.bits[masks.pointers[i] : masks.pointers[i + 1]].tobytes() for i in range(len(cells))]
    return sorted(zip(boxes.tolist(), pixels, *columns))


def check_mosaic(pieces, columns, options, least):
    """Compare the nuclei of pieces, one by one, with those of all of them side by side and below."""
    height, width = pieces[0].shape[:2]
    rows = [np.concatenate(pieces[at : at + columns], axis=1) for at in range(0, len(pieces), columns)]
    slide = open_slide(np.concatenate(rows), mpp=0.5)
    wanted = []
    for number, piece in enumerate(pieces):
        row, col = divmod(number, columns)
        cells = nuclei(open_slide(piece, mpp=0.5), **options)
        wanted += described(cells, row * height, col * width)
    whole = nuclei(slide, tile_um=1e6, **options)
    assert described(whole) == sorted(wanted) and len(wanted) > least
    for tile_um, workers in ((47.0, 3), (101.0, 1)):
        same(whole, nuclei(slide, tile_um=tile_um, workers=workers, **options))


def test_mosaic_of_separated_images_classical(crop, image):
    gap = NucleusSettings().halo(0.5) // 2 + 1
    crops = [crop[0][top : top + 130, left : left + 146] for top, left in ((0, 0), (200, 30), (150, 220))]
    shape = (130 + 2 * gap, 146 + 2 * gap)
    check_mosaic([padded(piece, gap, shape) for piece in (image, *crops)], 2, CLASSICAL, 60)


def test_mosaic_of_separated_images_stardist(image, stardist):
    # pieces of whole squares, so that the network sees each from the same place, in white as wide as its sight
    turned = [image, image[::-1], image[:, ::-1], image[:, :100]]
    check_mosaic([padded(piece, 60, (256, 320)) for piece in turned], 2, stardist, 40)


def test_mosaic_without_gaps_is_the_same_far_from_its_seams(crop):
    pieces = [crop[0], crop[0][:, ::-1], crop[0][::-1]]
    width, far = crop[0].shape[1], NucleusSettings().halo(0.5) + 40
    mosaic = nuclei(open_slide(np.concatenate(pieces, axis=1), mpp=0.5), **CLASSICAL)
    for number, piece in enumerate(pieces):
        alone = described(nuclei(open_slide(piece, mpp=0.5), **CLASSICAL), 0, number * width)
        first, last = number * width + far, (number + 1) * width - far
        inner = [item for item in alone if first < item[0][1] and item[0][3] < last]
        found = [item for item in described(mosaic) if first < item[0][1] and item[0][3] < last]
        assert inner == found and len(inner) > 5


def test_nuclei_on_the_corners_of_tiles_are_found_once_classical():
    image = np.full((400, 440, 3), (238, 205, 225), np.uint8)
    row, col = np.ogrid[:400, :440]
    centres = [(r, c) for r in range(40, 400, 40) for c in range(40, 440, 40)]
    for r, c in centres:
        image[(row - r) ** 2 + (col - c) ** 2 <= 49] = (90, 60, 140)
    cells = nuclei(open_slide(image, mpp=0.5), tile_um=20.0)
    assert len(cells) == len(centres) == 90
    found = {tuple(centre) for centre in (cells.centroid * 2 - 0.5).round().astype(int)[:, ::-1].tolist()}
    assert found == set(centres)


def test_nuclei_on_seams_of_squares_and_tiles_are_found_once_stardist(image, stardist):
    row = np.concatenate([image, image[:, ::-1]], axis=1)
    slide = open_slide(np.concatenate([row, row[::-1]]), mpp=0.5)
    side = WINDOW - 2 * 56
    whole = nuclei(slide, tile_um=1e6, **stardist)
    boxes = whole.masks.boxes
    # with tiles of one square every seam of squares is one of tiles too
    cut = (boxes[:, :2] // side != (boxes[:, 2:] - 1) // side).any(axis=1)
    assert cut.sum() > 15
    tiled = nuclei(slide, tile_um=side * 0.5, **stardist)
    same(whole, tiled)
    one_by_one = np.bincount(tiled.instance_map().ravel(), minlength=len(tiled) + 1)[1:]
    np.testing.assert_allclose(one_by_one * 0.25, tiled.area)  # no two share a pixel


@pytest.mark.parametrize("side", [1, 37, 100])
def test_bands_in_which_polygons_are_drawn_do_not_matter(image, stardist, side, monkeypatch):
    from histograph.entities import stardist_squares

    slide = open_slide(np.concatenate([image, image[::-1], image]), mpp=0.5)
    settings = {**stardist, "window_px": 176 if side > 1 else 400, "prob_thresh": 0.3}
    whole = nuclei(slide, tile_um=1e6, **settings)
    monkeypatch.setattr(stardist_squares, "_DRAW_PX", max(side, 9))
    same(whole, nuclei(slide, tile_um=side, **settings))


@pytest.mark.parametrize("method", ["classical", "stardist"])
def test_memory_is_that_of_tiles_and_the_result(image, method, request, monkeypatch):
    options = {**CLASSICAL, "tile_um": 100.0}
    if method == "stardist":
        from histograph.entities import stardist_squares

        options = {**request.getfixturevalue("stardist"), "tile_um": 64.0}
        monkeypatch.setattr(stardist_squares, "_DRAW_PX", 128)
    # who is first, the thread or the caller, is chance and so would be the peak: here all results wait that may
    monkeypatch.setattr(ahead, "ThreadPoolExecutor", AtOnce)
    nuclei(open_slide(image, mpp=0.5), **options)  # compiled before it is measured
    left = []
    for times in (4, 12):  # the first is already larger than a tile with its margin
        slide = open_slide(np.tile(image, (times, 2, 1)), mpp=0.5)
        tracemalloc.start()
        cells = nuclei(slide, workers=1, **options)
        size, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        left.append(peak - size)
        assert len(cells) > 40 * times and size < 400 * len(cells) + 2**15
    # three times the rows of tiles; what waits at the end of a row grows with its length
    assert left[1] < 1.1 * left[0]
