"""Simple predictors of hidden patches, from the visible ones of the same slide: what PAMA has to beat."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch_geometric.data import Data

TRAINING_MEAN, MEAN, NEAREST = "training mean", "mean of the visible patches", "nearest visible patch"
AROUND, WEIGHTED = "mean of the 8 nearest visible patches", "all visible patches by inverse square distance"
RIDGE = "ridge regression on all these and three Gaussian means"
GUESSES = (TRAINING_MEAN, MEAN, NEAREST, AROUND, WEIGHTED, RIDGE)
_WIDTHS = (1.0, 2.0, 4.0)  # of the Gaussian means, in steps of the grid


def hide(slides: Sequence[Data], share: float, seed: int) -> list[Tensor]:
    """Draw which patches of each slide stay visible: a share ``1 - share``, as PAMA counts them."""
    rng = np.random.default_rng(seed)
    masks = []
    for slide in slides:
        visible = torch.zeros(slide.num_nodes, dtype=torch.bool)
        kept = max(1, int(slide.num_nodes * (1 - share)))
        visible[torch.from_numpy(rng.permutation(slide.num_nodes)[:kept])] = True
        masks.append(visible)
    return masks


def near_means(slide: Data, visible: Tensor) -> dict[str, Tensor]:
    """Guess the hidden rows of standardised features by means that need no training."""
    x, hidden = slide.x[visible], ~visible
    distance = torch.cdist(slide.pos[hidden], slide.pos[visible])
    order = distance.topk(min(8, len(x)), largest=False).indices
    step = grid_step(slide.pos)
    found = {
        TRAINING_MEAN: torch.zeros(len(distance), x.shape[1]),
        MEAN: x.mean(0).expand(len(distance), -1),
        NEAREST: x[order[:, 0]],
        AROUND: x[order].mean(1),
        WEIGHTED: _weighted(distance.clamp(min=1e-3 * step) ** -2, x),
    }
    for width in _WIDTHS:
        # the floor makes it the mean where nothing is near
        found[f"Gaussian {width:g}"] = _weighted(torch.exp(-((distance / (width * step)) ** 2) / 2) + 1e-9, x)
    return found


def grid_step(pos: Tensor) -> float:
    """Give the distance of neighbouring places of a grid; 1 for one place."""
    gaps = torch.cat([axis.unique().diff() for axis in pos.T])
    gaps = gaps[gaps > 1e-3 * (pos.max() - pos.min())]
    return float(gaps.min()) if len(gaps) else 1.0


def _weighted(weight: Tensor, x: Tensor) -> Tensor:
    return weight @ x / weight.sum(1, keepdim=True)


def _columns(found: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([guess for name, guess in found.items() if name != TRAINING_MEAN], dim=1).numpy()


def fit_ridge(slides: Sequence[Data], share: float, seed: int, draws: int = 2) -> Ridge:
    """Fit the regression on hidden patches of the training slides."""
    inputs, goals = [], []
    for draw in range(draws):
        for slide, visible in zip(slides, hide(slides, share, seed + draw), strict=True):
            inputs.append(_columns(near_means(slide, visible)))
            goals.append(slide.x[~visible].numpy())
    return Ridge(100.0).fit(np.concatenate(inputs), np.concatenate(goals))


def guess(slide: Data, visible: Tensor, ridge: Ridge) -> dict[str, Tensor]:
    """Guess the hidden rows in every way of `GUESSES`."""
    found = near_means(slide, visible)
    found[RIDGE] = torch.from_numpy(ridge.predict(_columns(found)).astype(np.float32))
    return {name: found[name] for name in GUESSES}
