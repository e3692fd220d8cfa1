from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import TimeEmbedding, sinusoidal_embedding

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hmgdm" / "layers.npz"


@pytest.mark.parametrize("dim", [4, 7, 8])
def test_equals_the_released_embedding(dim):
    with np.load(GOLDEN) as file:
        time, wanted = torch.tensor(file["time_t"]), torch.tensor(file[f"time_emb_d{dim}"])
    torch.testing.assert_close(sinusoidal_embedding(time, dim), wanted, atol=2e-4, rtol=0)


def test_times_get_different_vectors():
    out = TimeEmbedding(16)(torch.arange(5))
    assert torch.cdist(out, out).fill_diagonal_(1).min() > 1e-3


def test_too_narrow():
    with pytest.raises(ValueError, match="at least 4"):
        sinusoidal_embedding(torch.tensor([1]), 3)
