"""What the class token of a Vision Transformer reads: maps of its heads, and the tokens that hold most of a map."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch


def class_attention(module: Any, image: "torch.Tensor", block: int = -1) -> NDArray[np.float64]:
    """Give the attention of the class token to the squares of one image, a map for each head.

    Parameters
    ----------
    module
        A `histograph.nn.VisionTransformer`, or any module with `patch_size` and ``attention(image, block)`` that gives
        (1, heads, T, T), rows of readers, the class token first and the squares last. It is read in evaluation mode
        and without gradients.
    image
        (3, H, W) or (1, 3, H, W), normalised as the module expects.
    block
        Number of the block; from the end if negative.

    Returns
    -------
    ndarray
        (heads, H / patch_size, W / patch_size). What the class token reads of itself, and of tokens that are no
        squares, is left out, so that a map sums to less than 1.

    Raises
    ------
    TypeError
        If the module cannot tell its attention.
    ValueError
        If the image is not one image, or the tokens do not fit it.

    Examples
    --------
    >>> import torch
    >>> from histograph.nn import VisionTransformer
    >>> network = VisionTransformer(image_size=32, patch_size=8, dim=16, depth=2, heads=2)
    >>> class_attention(network, torch.zeros(3, 32, 24)).shape
    (2, 4, 3)
    """
    import torch

    if not hasattr(module, "attention") or not hasattr(module, "patch_size"):
        raise TypeError(
            f"module must have patch_size and attention(image, block), found {type(module).__name__}. Load its weights "
            "into a histograph.nn.VisionTransformer, or hand in a module of your own that has both."
        )
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or len(batch) != 1:
        raise ValueError(f"image must be one image (3, H, W), found shape {tuple(image.shape)}.")
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            found = module.attention(batch, block)[0, :, 0].double().cpu().numpy()
    finally:
        for part, training in modes:
            part.training = training
    rows, columns = (side // module.patch_size for side in batch.shape[2:])
    if found.shape[1] <= rows * columns:
        raise ValueError(
            f"module gives {found.shape[1]} tokens for {rows} x {columns} squares; expected one more at least, the "
            "class token."
        )
    squares: NDArray[np.float64] = found[:, -rows * columns :].reshape(len(found), rows, columns)
    return squares


def mass_mask(attention: ArrayLike, mass: float = 0.5) -> NDArray[np.bool_]:
    r"""Keep, for each head, the smallest set of tokens that holds a share of its attention.

    Tokens are taken from the largest weight down until their sum reaches :math:`m \sum_i a_i`; of equal weights the
    first is taken first.

    Parameters
    ----------
    attention
        (heads, …) weights, not negative, for instance of `class_attention`; a head need not sum to 1.
    mass
        Share m to hold, in (0, 1].

    Returns
    -------
    ndarray
        bool of the same shape.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, a head has no weight, or `mass` is out of range.

    References
    ----------
    M. Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021, figure 1.

    Examples
    --------
    >>> mass_mask([[0.1, 0.5, 0.3, 0.1]], mass=0.6)
    array([[False,  True,  True, False]])
    """
    weight = np.asarray(attention, dtype=np.float64)
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be in (0, 1], for instance 0.5; found {mass}.")
    if weight.ndim < 2 or weight.size == 0:
        raise ValueError(f"attention must have a row for each head, found shape {weight.shape}.")
    flat = weight.reshape(len(weight), -1)
    if not np.isfinite(flat).all() or (flat < 0).any():
        raise ValueError("attention must be finite and not negative, as after a softmax.")
    total = flat.sum(axis=1, keepdims=True)
    if (total == 0).any():
        raise ValueError(f"attention of head {int(np.flatnonzero(total[:, 0] == 0)[0])} is 0 everywhere.")
    order = np.argsort(-flat, axis=1, kind="stable")
    ranked = np.take_along_axis(flat, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    # what is reached but for rounding is reached
    needed = (before < mass * total * (1 - 1e-12)) & (ranked > 0)
    kept = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(kept, order, needed, axis=1)
    return kept.reshape(weight.shape)
