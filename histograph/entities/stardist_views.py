"""A StarDist network asked about an image and its mirror images, and its answers averaged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Probability (h, w), distances (h, w, R), probabilities of the kinds (h, w, K) or None, of an image (H, W, C) float32.
Outputs = tuple[NDArray[np.float32], NDArray[np.float32], "NDArray | None"]
Runner = Callable[[NDArray[np.float32]], Outputs]

#: Which axes (rows, columns) are turned round in each view.
VIEWS: dict[int, tuple[tuple[bool, bool], ...]] = {
    1: ((False, False),),
    2: ((False, False), (True, True)),
    4: ((False, False), (True, False), (False, True), (True, True)),
}


def averaged_views(run: Runner, views: int, grid: tuple[int, int]) -> Runner:
    r"""Average what a network says of an image and of the image turned by 180°, or mirrored in each axis.

    .. math::

        \hat p(x) = \frac{1}{V} \sum_{v} p_v(v x), \qquad \hat d_k(x) = \frac{1}{V} \sum_{v} d_{v(k)}(v x)

    where v turns places and, with them, the directions k of the distances. A view turns pixel i of W into W - i, so
    that the places of the network's grid fall on each other; the first row or column, which has no partner then, is
    averaged over the views that have it. What is said of a place depends on where tiles begin as little as before.

    Parameters
    ----------
    run : callable
        Image (H, W, C), sides multiples of the grid, to probability (h, w), distances (h, w, R) in pixels at angles
        ``2 π k / R`` from the columns towards the rows, and kinds (h, w, K) or None.
    views : {1, 2, 4}
        1 gives `run` itself, 2 adds the image turned by 180°, 4 the mirror images too: as many times the work.
    grid : (int, int)
        Of the network.

    Returns
    -------
    callable
        As `run`.

    Raises
    ------
    ValueError
        If there are other views, or, when called, the number of directions has no such symmetry.

    Examples
    --------
    >>> def run(image):  # a "network" that measures the distance to the left and right end of the image
    ...     right = np.arange(image.shape[1], 0, -1, dtype=np.float32) * np.ones(image.shape[:2], np.float32)
    ...     return image[..., 0], np.stack([right, right * 0], axis=-1), None
    >>> probability, distance, kinds = averaged_views(run, 2, (1, 1))(np.ones((2, 3, 1), np.float32))
    >>> distance[1].tolist()  # to the right 3, 2, 1; to the left, as seen from the turned image, 1, 2
    [[3.0, 0.0], [1.0, 0.5], [0.5, 1.0]]
    """
    if views not in VIEWS:
        raise ValueError(f"views: expected 1, 2 or 4, found {views!r}")
    if views == 1:
        return run

    def run_all(image: NDArray[np.float32]) -> Outputs:
        if any(side % step for side, step in zip(image.shape[:2], grid, strict=True)):
            raise ValueError(
                f"image: expected sides in multiples of the grid {grid}, found {image.shape[:2]}"
            )
        total = [part.astype(np.float32) for part in run(image) if part is not None]
        count = np.ones(total[0].shape, np.float32)
        for axes in VIEWS[views][1:]:
            probability, distance, kinds = run(_turned(image, axes))
            said = (probability, distance[..., _directions(distance.shape[-1], axes)], kinds)
            here, there = _partners(axes)
            count[here] += 1
            for part, new in zip(total, said, strict=False):
                if new is not None:
                    part[here] += new[there]
        mean = [part / count.reshape(*count.shape, *[1] * (part.ndim - 2)) for part in total]
        return mean[0], mean[1], mean[2] if len(mean) > 2 else None

    return run_all


def _turned(image: NDArray, axes: tuple[bool, bool]) -> NDArray:
    """Turn axes round so that pixel i goes to W - i; what would come from pixel W is the last one once more."""
    for axis, turn in enumerate(axes):
        if turn:
            places = np.minimum(image.shape[axis] - np.arange(image.shape[axis]), image.shape[axis] - 1)
            image = image.take(places, axis)
    return image


def _partners(axes: tuple[bool, bool]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the places that a view knows, and where it has them: place j of w at w - j."""
    here = tuple(slice(1, None) if turn else slice(None) for turn in axes)
    there = tuple(slice(None, 0, -1) if turn else slice(None) for turn in axes)
    return (here[0], here[1]), (there[0], there[1])


def _directions(n_rays: int, axes: tuple[bool, bool]) -> NDArray[np.int64]:
    """Return, for each direction of the image, which direction of the view it is."""
    rays = np.arange(n_rays)
    rows, cols = axes
    if cols:
        if n_rays % 2:
            raise ValueError(
                f"views: a network of {n_rays} rays has no mirror image; expected an even number of them"
            )
        rays = (n_rays // 2 - rays) % n_rays
    return (-rays) % n_rays if rows else rays
