import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from histograph.plotting.colors import PALETTE, UNASSIGNED, categorical, palette, read_color


@pytest.mark.parametrize("n", [0, 1, 8, 16, 17, 60])
def test_palette_colours_are_distinct(n: int) -> None:
    assert len(palette(n)) == len(set(palette(n))) == n


def test_dark_vision_keeps_the_first_colours_apart() -> None:
    """The first seven stay distinct for a deuteranope (matrix of Machado, Oliveira & Fernandes 2009)."""
    rgb = np.array([to_rgba(color)[:3] for color in PALETTE[:7]])
    machado = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = np.clip(rgb**2.2 @ machado.T, 0, 1) ** (1 / 2.2)
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(7, 1)]
    assert distance.min() > 0.1


@pytest.mark.parametrize(
    ("color", "kind"),
    [
        (None, "constant"),
        ("tab:red", "constant"),
        ((0.1, 0.2, 0.3), "constant"),
        (["a", "b", "a"], "categorical"),
        (np.array([True, False, True]), "categorical"),
        ([5, 7, 5], "categorical"),
        ([0.5, 7, 5], "continuous"),
        (torch.tensor([0.5, 7, 5]), "continuous"),
        (np.zeros((3, 3)), "direct"),
        ("area", "continuous"),
    ],
)
def test_kinds_of_colour(color: object, kind: str) -> None:
    assert read_color(color, 3, {"area": np.arange(3.0)}).kind == kind


def test_many_integers_are_a_scale() -> None:
    assert read_color(np.arange(17), 17).kind == "continuous"


def test_a_feature_goes_before_a_colour_of_the_same_name() -> None:
    assert read_color("red", 2, {"red": np.array([0.0, 1.0])}).label == "red"


def test_categories_are_ascending_and_unassigned_is_grey() -> None:
    coloring = categorical([1, -1, 0, 1], names={0: "stroma"})
    assert coloring.names == ["unassigned", "stroma", "1"]
    assert np.allclose(coloring.rgba[1], to_rgba(UNASSIGNED))
    assert np.allclose(coloring.rgba[[2, 0]], [to_rgba(PALETTE[0]), to_rgba(PALETTE[1])])
    part = coloring.take(np.array([0]))
    assert np.allclose(part.rgba, coloring.rgba[:1])


def test_unknown_names_suggest_what_is_meant() -> None:
    with pytest.raises(
        ValueError, match=r"color='aera' is neither.*Did you mean 'area'\?.*Names: area, roundness"
    ):
        read_color("aera", 3, {"area": np.zeros(3), "roundness": np.zeros(3)})


@pytest.mark.parametrize("color", [[1.0, 2.0], np.zeros((3, 2)), np.zeros((3, 3, 3)), np.zeros((2, 3))])
def test_wrong_lengths_are_named(color: object) -> None:
    with pytest.raises(ValueError, match=r"color must have one value for each node: expected shape \(3,\)"):
        read_color(color, 3)
