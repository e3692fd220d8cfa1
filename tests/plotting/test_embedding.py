import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist

from histograph.plotting import plot_embedding


def _ax() -> Axes:
    return Figure().add_subplot()


def test_pca_keeps_the_distances_of_a_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(40, 2)) * [5, 1]
    z = plane @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 3.0
    ax = plot_embedding(z, ax=_ax())
    drawn = np.asarray(ax.collections[0].get_offsets())
    assert np.allclose(np.sort(pdist(drawn)), np.sort(pdist(plane)))
    shares = [int(text.split("(")[1].split()[0]) for text in (ax.get_xlabel(), ax.get_ylabel())]
    assert shares[0] > shares[1] and 99 <= sum(shares) <= 101


def test_colours_stay_with_their_rows() -> None:
    z = np.column_stack([np.arange(30.0), np.zeros(30)])
    ax = plot_embedding(z, color=np.arange(30.0), method="none", ax=_ax())
    dots = ax.collections[0]
    assert np.allclose(dots.get_array(), np.asarray(dots.get_offsets())[:, 0])
    assert len(ax.child_axes) == 1
    ax = plot_embedding(z, color=["a"] * 10 + ["b"] * 20, method="none", ax=_ax())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    left = np.asarray(ax.collections[0].get_offsets())[:, 0] < 10
    assert len(np.unique(ax.collections[0].get_facecolor()[left], axis=0)) == 1


def test_constant_embeddings_are_drawn_as_one_point() -> None:
    ax = plot_embedding(np.ones((5, 3)), ax=_ax())
    assert np.allclose(ax.collections[0].get_offsets(), 0)


def test_umap_is_called_with_a_seed_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict = {}

    class UMAP:
        def __init__(self, **options: object) -> None:
            seen.update(options)

        def fit_transform(self, z: np.ndarray) -> np.ndarray:
            return z[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    z = np.random.default_rng(0).normal(size=(8, 4))
    ax = plot_embedding(z, method="umap", seed=7, ax=_ax())
    assert seen == {"n_neighbors": 7, "random_state": 7, "n_jobs": 1}
    assert np.allclose(np.sort(ax.collections[0].get_offsets(), axis=0), np.sort(z[:, :2] * 2, axis=0))
    assert ax.get_xlabel() == "UMAP 1"
    with pytest.raises(ValueError, match="four rows"):
        plot_embedding(z[:3], method="umap", ax=_ax())


def test_umap_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        plot_embedding(np.eye(5), method="umap", ax=_ax())


@pytest.mark.parametrize(
    ("z", "options", "message"),
    [
        (np.ones(3), {}, r"found shape \(3,\)"),
        (np.ones((3, 1)), {}, "two columns"),
        (np.full((3, 3), np.nan), {}, "finite"),
        (np.eye(3), {"method": "tsne"}, "method must be"),
        (np.eye(3), {"method": "none"}, "found 3 columns"),
        (np.eye(3), {"color": [1.0]}, "for each row of z"),
    ],
)
def test_mistakes_are_named(z: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_embedding(z, ax=_ax(), **options)
