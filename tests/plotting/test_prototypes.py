import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from histograph.graphs import RegionDataset
from histograph.nn import PrototypeGraph
from histograph.plotting import plot_prototype_regions, plot_prototypes
from histograph.plotting.colors import PALETTE, UNASSIGNED
from histograph.slides import open_slide

SIDE = 32.0


def _ax() -> Axes:
    return Figure().add_subplot()


def _regions(**options) -> RegionDataset:
    """Two slides, of 2 x 3 and 1 x 2 regions of 32 um."""
    pos = [
        [((c + 0.5) * SIDE, (r + 0.5) * SIDE) for r in range(rows) for c in range(3 if rows > 1 else 2)]
        for rows in (2, 1)
    ]
    grids = [np.random.default_rng(0).random((len(p), 3, 2, 2)).astype(np.float32) for p in pos]
    return RegionDataset.from_grids(grids, ["a", "b"], **{"pos": pos, "patch_um": SIDE / 2, **options})


def _slide(name: str = "a", rows: int = 2, columns: int = 3):
    """Each region is grey of its own: 10 x its number, and 100 more in slide b."""
    number = np.arange(rows * columns).reshape(rows, columns) * 10 + 100 * (name == "b")
    image = number.repeat(64, 0).repeat(64, 1).astype(np.uint8)
    return open_slide(np.repeat(image[..., None], 3, axis=2), mpp=0.5, slide_id=name)


def test_regions_of_one_slide_lie_over_it_in_the_colours_of_their_prototypes() -> None:
    ax = plot_prototypes(_regions(), [0, 1, 2, 2, 1, -1, 0, 0], _slide(), ax=_ax())
    squares = ax.collections[0]
    corners = np.array([path.vertices[:4] for path in squares.get_paths()])
    assert np.allclose(corners.min(1), [(c * SIDE, r * SIDE) for r in range(2) for c in range(3)])
    assert np.allclose(np.ptp(corners, axis=1), SIDE)
    expected = [PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[2], PALETTE[1], UNASSIGNED]
    assert [to_hex(color) for color in squares.get_facecolor()] == [color.lower() for color in expected]
    assert ax.images[0].get_extent() == [0, 96, 64, 0] and ax.get_title() == "a"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2", "none"]


def test_a_prototype_keeps_its_colour_where_others_are_missing() -> None:
    assignment = torch.tensor([0, 0, 0, 0, 0, 0, 2, 1])
    ax = plot_prototypes(_regions(), assignment, slide_id="b", ax=_ax(), names={2: "stroma"}, title="other")
    assert [to_hex(color) for color in ax.collections[0].get_facecolor()] == [
        PALETTE[2].lower(),
        PALETTE[1].lower(),
    ]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1", "stroma"]
    assert ax.get_title() == "other" and not ax.images


def test_only_what_a_window_shows_is_drawn_and_sizes_can_be_given() -> None:
    ax = plot_prototypes(_regions(), [0] * 8, _slide(), ax=_ax(), window_um=(0, 0, 30, 30), region_um=20)
    (square,) = ax.collections[0].get_paths()
    assert np.allclose(square.vertices[0], (6, 6)) and ax.get_xlim() == (0, 30)
    empty = plot_prototypes(_regions(), [0] * 8, slide_id="a", ax=_ax(), window_um=(500, 0, 30, 30))
    assert not empty.collections[0].get_paths() and empty.get_legend() is None


def test_nearest_regions_are_read_from_their_slides_with_their_cosine() -> None:
    z = np.array([[1, 0], [1, 1], [0, 1], [-1, 0], [3, 4], [0, -1], [4, 3], [0, 5]], float)
    slides = [_slide(), _slide("b", 1, 2)]
    axes = plot_prototype_regions(
        _regions(), z, [[2.0, 0], [0, 1]], slides, columns=3, px=16, figure=Figure()
    )
    assert [ax.get_title() for ax in axes[0]] == ["1.00", "0.80", "0.71"]
    assert [ax.get_title() for ax in axes[1]] == ["1.00", "1.00", "0.80"]
    greys = [[ax.images[0].get_array().mean() for ax in row] for row in axes]
    assert greys == [[0, 100, 10], [20, 110, 40]]
    assert axes[0, 0].images[0].get_array().shape == (16, 16, 3)
    assert axes[1, 1].images[0].get_extent() == [32, 64, 32, 0]
    assert (
        axes[1, 0].get_ylabel() == "prototype 1"
        and to_hex(axes[1, 0].spines["top"].get_edgecolor()) == PALETTE[1].lower()
    )


def test_rows_are_of_the_slides_given_and_of_each_only_so_many() -> None:
    z = np.eye(8)[:, :3] + 0.1
    options = {"columns": 4, "px": 8, "names": {0: "tumour"}, "title": "nearest"}
    one = plot_prototype_regions(_regions(), z, z[:1], {"b": _slide("b", 1, 2)}, figure=Figure(), **options)
    assert [len(ax.images) for ax in one[0]] == [1, 1, 0, 0]  # slide b has two regions
    assert one[0, 0].get_ylabel() == "tumour" and one[0, 0].figure.get_suptitle() == "nearest"
    both = [_slide(), _slide("b", 1, 2)]
    each = plot_prototype_regions(_regions(), z, z[:1], both, per_slide=1, figure=Figure(), **options)
    assert [len(ax.images) for ax in each[0]] == [1, 1, 0, 0]


def test_it_takes_the_table_of_a_method() -> None:
    regions = _regions()
    z = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    table = PrototypeGraph(2, 4, min_regions=3)
    table.refresh(z, regions.slide)
    ax = plot_prototypes(regions, table.assignment, _slide())
    ax.figure.canvas.draw()
    assert len(ax.collections[0].get_paths()) == 6
    plt.close(ax.figure)
    axes = plot_prototype_regions(regions, z, table.unit()[0], _slide(), columns=2)
    axes[0, 0].figure.canvas.draw()
    # the nearest region of a prototype is one of its own
    assert axes.shape == (2, 2) and float(axes[0, 0].get_title()) > 0.5
    plt.close(axes[0, 0].figure)


@pytest.mark.parametrize(
    ("assignment", "options", "message"),
    [
        ([0] * 7, {}, r"each of 8 regions; found shape \(7,\)"),
        ([0.5] * 8, {}, "whole number"),
        ([-2] * 8, {}, "smallest -2"),
        ([0] * 8, {"slide_id": None}, r"one of the 2 slides .* \['a', 'b'\]; found None"),
        ([0] * 8, {"slide_id": "c"}, "found 'c'"),
        ([0] * 8, {"region_um": 0.0}, "region_um must be above 0"),
    ],
)
def test_mistakes_are_named(assignment, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        plot_prototypes(_regions(), assignment, **{"slide_id": "a", "ax": _ax(), **options})


def test_unknown_places_and_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"pos of the regions is unknown \(nan\)"):
        plot_prototypes(_regions(pos=None), [0] * 8, slide_id="a", ax=_ax())
    single = _regions()[[0]]
    with pytest.raises(
        ValueError, match="region_um: the size of regions cannot be told from those of slide 'a'"
    ):
        plot_prototypes(single, [0], ax=_ax())
    assert len(plot_prototypes(single, [0], ax=_ax(), region_um=SIDE).collections[0].get_paths()) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": 0}, ValueError, "columns must be at least 1"),
        ({"per_slide": 0}, ValueError, "per_slide must be at least 1"),
        ({"z": np.ones((7, 2))}, ValueError, r"z must have shape \(N = 8, D\)"),
        ({"prototypes": np.ones(2)}, ValueError, r"found \(8, 2\) and \(2,\)"),
        ({"slides": "a.svs"}, TypeError, "slides must be open slides, found str"),
        ({"slides": []}, ValueError, "slides must be of the data set"),
    ],
)
def test_mistakes_of_the_grid_are_named(options, error, message) -> None:
    arguments = {"z": np.ones((8, 2)), "prototypes": np.ones((1, 2)), "slides": _slide(), **options}
    figure = Figure()
    with pytest.raises(error, match=message):
        plot_prototype_regions(_regions(), figure=figure, **arguments)
    assert not figure.axes
