"""Embeddings in the plane."""

import importlib
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array
from .canvas import RASTERIZE_ABOVE, add_legend, clean_axes, new_axes
from .colors import add_colorbar, apply_scale, color_map, read_color


def plot_embedding(
    z: ArrayLike,
    color: Any = None,
    method: Literal["pca", "umap", "none"] = "pca",
    ax: Axes | None = None,
    seed: int = 0,
    point_size: float | None = None,
    alpha: float = 0.85,
    cmap: Any = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    title: str | None = None,
) -> Axes:
    """Draw embeddings as points in two dimensions.

    Parameters
    ----------
    z
        (n, D) embeddings; anything `numpy.asarray` takes.
    color
        One colour, (n,) values or (n, 3) colours. Texts, booleans and a few distinct integers are
        categories with a legend, other numbers a scale with a colour bar.
    method
        "pca" (axes carry the explained share of the variance), "umap" (needs the package umap-learn), or
        "none" for a z that has two columns already.
    ax
        Axes to draw on; None makes a new figure.
    seed
        Seed of UMAP and of the randomised PCA of large inputs.
    point_size
        Diameter of a point in points (1/72 inch); None follows the number of points.
    alpha
        Opacity, 0 to 1.
    cmap
        Colour map of a scale.
    vmin, vmax
        Ends of the scale; None takes the 1st and 99th percentiles.
    title
        Title.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If z is no finite matrix with at least two rows and columns, the method is unknown, or a length
        differs.
    ImportError
        If UMAP is asked for and not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = plot_embedding(np.eye(4), color=["a", "a", "b", "b"], ax=Figure().add_subplot())
    >>> ax.get_xlabel()
    'PC 1 (33 %)'
    """
    vectors = as_array(z).astype(np.float64)
    if vectors.ndim != 2 or min(vectors.shape) < 2:
        raise ValueError(
            f"z must be a matrix with at least two rows and two columns, found shape {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise ValueError("z must be finite, found NaN or infinity. Drop these rows first.")
    cmap = color_map(cmap)
    coloring = read_color(color, len(vectors), what="row of z")
    points, labels = _project(vectors, method, seed)
    ax = new_axes(4.6, 4.0, longest=4.6) if ax is None else ax
    size = float(np.clip(60 / np.sqrt(len(points)), 1.0, 5.0)) if point_size is None else point_size
    # A fixed order at random, so that no category hides another by coming last.
    order = np.random.default_rng(0).permutation(len(points))
    shown = coloring.take(order)
    dots = ax.scatter(points[order, 0], points[order, 1], size**2, alpha=alpha, linewidths=0)
    dots.set_rasterized(len(points) > RASTERIZE_ABOVE)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    clean_axes(ax, title)
    # The numbers on these axes mean nothing to a reader.
    ax.set_xticks([])
    ax.set_yticks([])
    if shown.kind == "continuous":
        apply_scale(dots, shown, cmap, (vmin, vmax))
        add_colorbar(ax, dots, shown)
    else:
        dots.set_facecolor(shown.rgba)
        dots.set_alpha(alpha)
        if shown.kind == "categorical":
            add_legend(ax, shown)
    return ax


def _project(z: NDArray[np.float64], method: str, seed: int) -> tuple[NDArray[np.float64], tuple[str, str]]:
    if method == "pca":
        # Not at the top of the file: scikit-learn takes a second to import, and most figures do without.
        from sklearn.decomposition import PCA

        model = PCA(n_components=2, random_state=seed)
        points = model.fit_transform(z) if np.ptp(z, axis=0).any() else np.zeros((len(z), 2))
        shares = getattr(model, "explained_variance_ratio_", np.zeros(2))
        return points, (f"PC 1 ({100 * shares[0]:.0f} %)", f"PC 2 ({100 * shares[1]:.0f} %)")
    if method == "umap":
        return _umap(z, seed), ("UMAP 1", "UMAP 2")
    if method != "none":
        raise ValueError(f'method must be "pca", "umap" or "none", found {method!r}.')
    if z.shape[1] != 2:
        raise ValueError(f'method="none" draws a z of two columns as it is, found {z.shape[1]} columns.')
    return z, ("dimension 1", "dimension 2")


def _umap(z: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise ImportError(
            'method="umap" needs the package umap-learn. Install it with "pip install umap-learn", '
            'or use method="pca".'
        ) from error
    if len(z) < 4:
        raise ValueError(f'method="umap" needs at least four rows, found {len(z)}. Use method="pca".')
    # A seed rules out threads; saying so keeps UMAP from warning about it.
    model = umap.UMAP(n_neighbors=min(15, len(z) - 1), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(z), dtype=np.float64)
