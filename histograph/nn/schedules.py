"""What changes over a run by a rule: half a cosine after a linear rise."""

import math


def linear_rise(start: float, end: float, step: int, steps: int) -> float:
    """Go straight from one value to another, both included, and stay there.

    Parameters
    ----------
    start, end : float
        Value at step 0, and from step ``steps - 1`` on.
    step : int
        Number of the step, from 0.
    steps : int
        Length of the rise; 0 for none.

    Returns
    -------
    float
        The value at this step; `start` at the only step of a rise of one.

    Examples
    --------
    >>> [round(linear_rise(0.04, 0.07, epoch, 3), 3) for epoch in range(5)]
    [0.04, 0.055, 0.07, 0.07, 0.07]
    """
    if step >= steps:
        return end
    return start + (end - start) * step / max(steps - 1, 1)


def cosine_schedule(
    start: float, end: float, step: int, total: int, warmup: int = 0, warmup_start: float = 0.0
) -> float:
    r"""Rise linearly to a value, then go along half a cosine to another.

    .. math::

        v_i = e + \tfrac{1}{2} (s - e) (1 + \cos(\pi i / n)), \quad i = 0, \dots, n - 1

    so that the last step is just short of `end`.

    Parameters
    ----------
    start, end : float
        Values s and e between which the cosine runs.
    step : int
        Number of the step, from 0.
    total : int
        All steps, those of the warm-up among them.
    warmup : int
        Steps of the linear rise from `warmup_start` to `start`, both included.
    warmup_start : float
        Value at step 0 of the warm-up.

    Returns
    -------
    float
        The value at this step; `end` after the last.

    Raises
    ------
    ValueError
        If `step` is negative or the warm-up is longer than all steps.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017; as in Caron et al.,
    "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021.

    Examples
    --------
    >>> [round(cosine_schedule(1.0, 0.0, step, 6, warmup=2), 3) for step in range(7)]
    [0.0, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < 0:
        raise ValueError(f"step must be at least 0; found {step}")
    if not 0 <= warmup <= total:
        raise ValueError(f"warmup must be from 0 to total = {total} steps; found {warmup}")
    if step < warmup:
        return linear_rise(warmup_start, start, step, warmup)
    if step >= total:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
