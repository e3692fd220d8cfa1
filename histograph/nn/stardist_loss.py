"""What a StarDist network is trained with: the error of its probabilities and distances."""

from torch import Tensor
from torch.nn import functional as F

#: Weight of the distances beside the probability, and of distances that are predicted where there is no nucleus.
DISTANCE_WEIGHT, BACKGROUND_WEIGHT = 0.2, 1e-4


def stardist_loss(
    logit: Tensor, dist: Tensor, probability: Tensor, distance: Tensor, present: Tensor
) -> dict[str, Tensor]:
    r"""Binary cross-entropy of the probability, and absolute error of the distances, weighted by the probability.

    .. math::

        L = \mathrm{BCE}(p, \hat p) + 0.2 \left( \frac{\sum_i p_i \, \overline{|d_i - \hat d_i|}}{\sum_i p_i}
            + 10^{-4} \, \overline{[p_i = 0] \, |\hat d_i|} \right)

    Parameters
    ----------
    logit : Tensor
        (B, 1, H, W) predicted, before the sigmoid.
    dist : Tensor
        (B, R, H, W) predicted, in pixels.
    probability : Tensor
        (B, 1, H, W) wanted, from 0 outside nuclei to 1 in their middle.
    distance : Tensor
        (B, R, H, W) wanted, in pixels.
    present : Tensor
        (B, 1, H, W) 1 where the truth is known, 0 where it is not.

    Returns
    -------
    dict of str to Tensor
        ``"loss"`` with gradient; ``"probability"`` (the cross-entropy) and ``"distance"`` (pixels), detached.

    References
    ----------
    U. Schmidt, M. Weigert, C. Broaddus, G. Myers, Cell detection with star-convex polygons, MICCAI 2018.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 2, 2)
    >>> terms = stardist_loss(30 * one, torch.full((1, 4, 2, 2), 5.0), one, torch.full((1, 4, 2, 2), 3.0), one)
    >>> round(terms["loss"].item(), 4), terms["distance"].item()
    (0.4, 2.0)
    """
    entropy = F.binary_cross_entropy_with_logits(logit, probability, reduction="none")
    known = present.sum().clamp(min=1)
    entropy = (entropy * present).sum() / known
    weight = probability * present
    error = ((dist - distance).abs().mean(1, keepdim=True) * weight).sum() / weight.sum().clamp(min=1)
    idle = (dist.abs().mean(1, keepdim=True) * (probability == 0) * present).sum() / known
    loss = entropy + DISTANCE_WEIGHT * (error + BACKGROUND_WEIGHT * idle)
    return {"loss": loss, "probability": entropy.detach(), "distance": error.detach()}
