"""Standardisation of feature columns with statistics that are fitted once and travel with the weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Scale columns to mean 0 and standard deviation 1 and clip outliers, ``clip((x - mean) / sd, -c, c)``.

    Before :meth:`fit` it only clips. A column that is constant in the data becomes 0.

    Parameters
    ----------
    dim : int
        Number of columns.
    clip : float
        Largest distance from the mean that is kept, in standard deviations.

    Examples
    --------
    >>> import torch
    >>> scale = Standardise(2)
    >>> scale.fit([torch.tensor([[1.0, 5.0], [3.0, 5.0]])])
    >>> scale(torch.tensor([[3.0, 5.0], [99.0, 5.0]]))
    tensor([[1., 0.],
            [5., 0.]])
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, dim: int, clip: float = 5.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, tables: Iterable[Tensor]) -> None:
        """Measure mean and standard deviation over all rows of all tables, in one pass and double precision.

        Parameters
        ----------
        tables : iterable of Tensor
            (N_i, dim) each; N_i may be 0.

        Raises
        ------
        ValueError
            If a table holds NaN or infinity.
        """
        count = 0
        mean = torch.zeros(self.mean.shape, dtype=torch.float64)
        scatter = torch.zeros_like(mean)
        for number, table in enumerate(tables):
            rows = table.detach().to("cpu", torch.float64)
            if not bool(rows.isfinite().all()):
                column = int((~rows.isfinite()).any(0).nonzero()[0])
                raise ValueError(
                    f"features must be finite: graph {number} of the data has NaN or infinity "
                    f"in column {column}"
                )
            n = rows.shape[0]
            if n == 0:
                continue
            # Chan, Golub and LeVeque (1983): merge the moments of a block into the running ones
            shift = rows.mean(0) - mean
            scatter += (rows - rows.mean(0)).square().sum(0) + shift.square() * (count * n / (count + n))
            mean += shift * (n / (count + n))
            count += n
        std = (scatter / max(count, 1)).sqrt()
        constant = std <= 1e-6 * mean.abs().clamp(min=1e-6)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, 1.0, std))
        self.fitted.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise (N, dim) rows."""
        return ((x - self.mean) / self.std).clamp(-self.clip, self.clip)
