"""The bar of a search for nuclei: what part of the area is done, and how many are found."""

from __future__ import annotations

from tqdm.auto import tqdm

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} mm² [{elapsed}<{remaining}{postfix}]"


def area_bar(total_um2: float, progress: bool) -> tqdm:
    """Return a bar over an area.

    Parameters
    ----------
    total_um2 : float
        The area of all tiles, in µm².
    progress : bool
        Whether to show it.

    Returns
    -------
    tqdm
        Counts mm²; to be closed.

    Examples
    --------
    >>> with area_bar(5e6, progress=False) as bar:
    ...     bar.total
    5.0
    """
    return tqdm(desc="nuclei", total=total_um2 / 1e6, bar_format=_FORMAT, disable=not progress)


def advance(bar: tqdm, area_um2: float, found: int) -> None:
    """Move the bar by the area of a tile and tell how many nuclei there are by now.

    Parameters
    ----------
    bar : tqdm
        From `area_bar`.
    area_um2 : float
        Of the tile.
    found : int
        Nuclei so far.

    Examples
    --------
    >>> with area_bar(5e6, progress=False) as bar:
    ...     advance(bar, 1e6, 3000)
    """
    bar.set_postfix_str(f"{found:,} nuclei", refresh=False)
    bar.update(area_um2 / 1e6)
