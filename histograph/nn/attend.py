"""Attention by torch's fastest kernel, wherever all queries of a block read all of its keys."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Compute :math:`\mathrm{softmax}(q k^T / \sqrt d + m) v`.

    In bfloat16 on a processor what is differentiated goes through float32: the kernel's backward pass takes about twice
    as long in bfloat16 there.

    Parameters
    ----------
    query : Tensor
        (B, heads, Q, d).
    key, value : Tensor
        (B, heads, K, d).
    mask : Tensor, optional
        (Q, K), or what broadcasts to (B, heads, Q, K): bool, where a key is read, or numbers m to be added.

    Returns
    -------
    Tensor
        (B, heads, Q, d), of the kind of `query`.

    Examples
    --------
    >>> query, key, value = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0], [3.0]]]])
    >>> attend(query, key, value).item(), attend(query, key, value, torch.tensor([[True, False]])).item()
    (2.0, 1.0)
    """
    kind = query.dtype
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(kind)
    if query.device.type != "cpu" or kind != torch.bfloat16 or not query.requires_grad:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    with torch.autocast("cpu", enabled=False):
        read = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    return read.to(kind)
