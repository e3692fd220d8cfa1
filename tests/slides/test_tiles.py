import numpy as np
import pytest

from histograph.slides import TissueMask, open_slide


def test_tiles_cover_the_slide(noise):
    image = noise(70, 110, 3)
    slide = open_slide(image, mpp=0.5)
    grid = slide.tiles(size=10)
    assert len(grid) == 6 * 4
    canvas = np.zeros((80, 120, 3), np.uint8)
    for tile, pixels in grid.images():
        canvas[tile.row * 20 :][:20, tile.column * 20 :][:, :20] = pixels
    np.testing.assert_array_equal(canvas[:70, :110], image)
    assert (canvas[70:] == 255).all() and (canvas[:, 110:] == 255).all()


def test_overlap_and_order(noise):
    slide = open_slide(noise(100, 100, 3), mpp=1.0)
    grid = slide.tiles(size=40, overlap=10)
    assert [(t.x_um, t.y_um) for t in grid][:4] == [(0, 0), (30, 0), (60, 0), (0, 30)]
    assert len(grid) == 9
    alone, ahead = list(grid.images(workers=0)), list(grid.images(workers=3))
    assert [t for t, _ in alone] == [t for t, _ in ahead] == list(grid)
    np.testing.assert_array_equal([i for _, i in alone], [i for _, i in ahead])
    assert [t.row for t in grid[3:6]] == [1, 1, 1]
    assert grid[-1].column == 2
    with pytest.raises(IndexError):
        grid[9]


def test_mask_chooses_tiles(noise):
    slide = open_slide(noise(100, 100, 3), mpp=1.0)
    raster = np.zeros((10, 10), bool)
    raster[:5, :3] = True
    mask = TissueMask(raster, mpp=10.0)
    assert [(t.column, t.row) for t in slide.tiles(50, mask=mask)] == [(0, 0)]
    assert len(slide.tiles(50, mask=mask, min_tissue=0.61)) == 0
    assert len(slide.tiles(50, mask=mask, min_tissue=0.0)) == 4


def test_stopping_early_does_not_hang(noise):
    images = open_slide(noise(100, 100, 3), mpp=1.0).tiles(5).images(workers=2)
    next(images)
    images.close()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 0}, "size"),
        ({"size": -3}, "size"),
        ({"size": float("nan")}, "size"),
        ({"size": 10, "overlap": 10}, "overlap"),
        ({"size": 10, "overlap": -1}, "overlap"),
        ({"size": 10, "min_tissue": 0.3}, "without a mask"),
        ({"size": 10, "mask": TissueMask(np.ones((2, 2), bool), 9.0), "min_tissue": 2}, "min_tissue"),
        ({"size": 10, "mpp": -1}, "mpp"),
    ],
)
def test_impossible_grids(options, word):
    slide = open_slide(np.zeros((40, 40, 3), np.uint8), mpp=0.5)
    with pytest.raises(ValueError, match=word):
        slide.tiles(**options)
    with pytest.raises(ValueError, match="workers"):
        slide.tiles(10).images(workers=-1)
