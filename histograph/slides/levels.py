"""Geometry of a pyramid: how many level-0 pixels one pixel of a level spans, per axis, as a float."""

__all__ = ["level_scale"]


def level_scale(full: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Return the (x, y) downsample of a level from the sizes of level 0 and of that level.

    A scanner averages whole blocks of d x d pixels and then drops or pads the odd row, so a level of
    floor(w / d) or ceil(w / d) columns has the downsample d, not w / w_level. Only where no integer explains
    both sizes is the level taken to span the whole canvas, with the downsample w / w_level (3.99, say).

    Parameters
    ----------
    full : tuple of int
        Width and height of level 0, pixels.
    level : tuple of int
        Width and height of the level, pixels.

    Returns
    -------
    tuple of float
        Downsample along x and along y, level-0 pixels per level pixel.

    Examples
    --------
    >>> level_scale((4443, 3567), (2221, 1783))
    (2.0, 2.0)
    >>> level_scale((3990, 1995), (1000, 500))
    (3.99, 3.99)
    """
    ratio_x, ratio_y = full[0] / level[0], full[1] / level[1]
    factor = max(1, round((ratio_x + ratio_y) / 2))
    if all(abs(n - m / factor) < 1 for m, n in zip(full, level)):
        return float(factor), float(factor)
    return ratio_x, ratio_y
