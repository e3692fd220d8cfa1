"""From vectors of regions to vectors of slides."""

import numpy as np
import torch

from histograph.evaluation import slide_means
from histograph.graphs import RegionDataset

from .embed import Embeddings


def by_slide(z: Embeddings, regions: RegionDataset) -> Embeddings:
    r"""Gather the vectors of regions by slide: a slide's vector is their mean, as in HIPT, and they are its nodes.

    Parameters
    ----------
    z : Embeddings
        Of ``embed(method, regions)``, a row a region.
    regions : RegionDataset
        The regions that were embedded.

    Returns
    -------
    Embeddings
        ``graph`` (S, D), a row a slide in the order of ``regions.slide_ids``; ``node`` (N, D), the regions slide after
        slide, with their ids.

    Raises
    ------
    ValueError
        If there are not as many rows as regions.

    Examples
    --------
    >>> regions = RegionDataset.from_grids([np.zeros((2, 4, 3, 3)), np.zeros((1, 4, 3, 3))], ["a", "b"])
    >>> rows = torch.tensor([[0.0], [2.0], [5.0]])
    >>> z = by_slide(Embeddings(rows, None, torch.zeros(4, dtype=torch.long), [], ["a", "a", "b"]), regions)
    >>> z.graph.flatten(), z.ptr, z.slide_ids
    (tensor([1., 5.]), tensor([0, 2, 3]), ['a', 'b'])
    """
    if len(z) != len(regions):
        raise ValueError(
            f"z must have a row for each of {len(regions)} regions, found {len(z)}; embed these regions"
        )
    order = torch.argsort(regions.slide, stable=True)
    count = torch.bincount(regions.slide, minlength=len(regions.slide_ids))
    means = slide_means(z.graph.numpy(), regions.slide.numpy(), len(regions.slide_ids))
    ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
    ids = regions.region_id[order]
    return Embeddings(
        torch.from_numpy(means.astype(np.float32)), z.graph[order], ptr, ids, list(regions.slide_ids)
    )
