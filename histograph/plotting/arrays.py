"""Values as arrays, whether they come from NumPy, pandas or torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array(values: Any) -> NDArray[Any]:
    """Give values as an array; tensors on any device, with gradient, and of types that NumPy lacks (bfloat16).

    Parameters
    ----------
    values
        Array, tensor, column or sequence.

    Returns
    -------
    ndarray
        The values.

    Examples
    --------
    >>> import torch
    >>> as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype
    dtype('float32')
    """
    if not hasattr(values, "detach"):
        return np.asarray(values)
    plain = values.detach().cpu()
    return np.asarray(plain.float() if str(plain.dtype) == "torch.bfloat16" else plain)
