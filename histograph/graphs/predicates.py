"""Exact signs of the two questions plane geometry asks: on which side of a line, inside or outside a circle.

A triangulation breaks (crossing edges, endless loops) when rounding turns either answer round. Each question is
therefore answered in two steps, after J. R. Shewchuk, "Adaptive precision floating-point arithmetic and fast robust
geometric predicates", Discrete & Computational Geometry 18, 1997:

1. evaluate the determinant in plain doubles, next to a bound on its rounding error; nearly always it is larger than
   the bound, and its sign is right;
2. otherwise evaluate it exactly, as an *expansion*: an unevaluated sum of doubles, smallest first, that do not
   overlap, so that the last one has the sign of the whole.

Both steps start from coordinate differences, so a far origin costs nothing. The arithmetic must stay as written:
these kernels are never compiled with ``fastmath``. Differences below 1e-70 or above 1e+70 leave the range in which
four of them can be multiplied.
"""

import numpy as np
from numba import njit

_EPSILON = 2.0**-53  # half a unit in the last place: the largest relative error of one operation
_ORIENT_BOUND = (3.0 + 16.0 * _EPSILON) * _EPSILON  # Shewchuk, section 4.3
_INCIRCLE_BOUND = (10.0 + 96.0 * _EPSILON) * _EPSILON  # Shewchuk, section 4.4
_SPLITTER = 2.0**27 + 1.0

# The longest expansions met: a 2 x 2 minor of two-term differences has 16 terms; times two more of them 256; the sum
# of two such, a lifted minor, 512. The incircle determinant is the sum of three lifted minors.
_MINOR, _LIFTED = 16, 512


@njit(cache=True, nogil=True)
def orient2d(ax: float, ay: float, bx: float, by: float, cx: float, cy: float) -> float:
    """Sign of the turn a, b, c: the doubled signed area ``(a - c) x (b - c)``, with its sign exact.

    Parameters
    ----------
    ax, ay, bx, by, cx, cy : float
        Coordinates of three points, in any one unit, x to the right and y up.

    Returns
    -------
    float
        Positive when a, b, c turn counter-clockwise, negative when clockwise, zero exactly when they are collinear.

    Examples
    --------
    >>> orient2d(0.0, 0.0, 1.0, 0.0, 0.0, 1.0) > 0
    True
    >>> orient2d(0.1, 0.1, 0.2, 0.2, 0.3, 0.1 + 0.2) > 0  # 0.1 + 0.2 is a little more than 0.3 in binary
    True
    """
    left = (ax - cx) * (by - cy)
    right = (ay - cy) * (bx - cx)
    determinant = left - right
    if abs(determinant) >= _ORIENT_BOUND * (abs(left) + abs(right)):
        return determinant
    return _orient2d_exact(ax, ay, bx, by, cx, cy)


@njit(cache=True, nogil=True)
def incircle(ax: float, ay: float, bx: float, by: float, cx: float, cy: float, dx: float, dy: float) -> float:
    """Whether d lies inside the circle through a, b, c (counter-clockwise): the lifted determinant, sign exact.

    Parameters
    ----------
    ax, ay, bx, by, cx, cy, dx, dy : float
        Coordinates of four points in any one unit; a, b, c counter-clockwise (the sign turns otherwise).

    Returns
    -------
    float
        Positive when d is strictly inside, negative when outside, zero exactly when the four are cocircular.

    Examples
    --------
    >>> incircle(0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.4, 0.4) > 0
    True
    >>> incircle(0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    0.0
    """
    adx, ady = ax - dx, ay - dy
    bdx, bdy = bx - dx, by - dy
    cdx, cdy = cx - dx, cy - dy
    bdxcdy, cdxbdy = bdx * cdy, cdx * bdy
    cdxady, adxcdy = cdx * ady, adx * cdy
    adxbdy, bdxady = adx * bdy, bdx * ady
    alift = adx * adx + ady * ady
    blift = bdx * bdx + bdy * bdy
    clift = cdx * cdx + cdy * cdy
    determinant = alift * (bdxcdy - cdxbdy) + blift * (cdxady - adxcdy) + clift * (adxbdy - bdxady)
    permanent = (
        alift * (abs(bdxcdy) + abs(cdxbdy))
        + blift * (abs(cdxady) + abs(adxcdy))
        + clift * (abs(adxbdy) + abs(bdxady))
    )
    if abs(determinant) > _INCIRCLE_BOUND * permanent:
        return determinant
    return _incircle_exact(ax, ay, bx, by, cx, cy, dx, dy)


# ---- exact evaluation ------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _orient2d_exact(ax: float, ay: float, bx: float, by: float, cx: float, cy: float) -> float:
    """Evaluate the turn determinant exactly; return its leading term."""
    work = np.empty(5 * _MINOR)
    minor, work = work[:_MINOR], work[_MINOR:]
    acx, acy = _two_difference(ax, cx), _two_difference(ay, cy)
    n = _minor(acx, acy, _two_difference(bx, cx), _two_difference(by, cy), work, minor)
    return minor[n - 1]


@njit(cache=True, nogil=True)
def _incircle_exact(
    ax: float, ay: float, bx: float, by: float, cx: float, cy: float, dx: float, dy: float
) -> float:
    """Evaluate the incircle determinant exactly, along its lifted column; return its leading term."""
    adx, ady = _two_difference(ax, dx), _two_difference(ay, dy)
    bdx, bdy = _two_difference(bx, dx), _two_difference(by, dy)
    cdx, cdy = _two_difference(cx, dx), _two_difference(cy, dy)
    space = np.empty(
        11 * _LIFTED
    )  # one allocation for all: it costs as much as a good part of the arithmetic
    work, one, other = (
        space[: 4 * _LIFTED],
        space[4 * _LIFTED : 5 * _LIFTED],
        space[5 * _LIFTED : 6 * _LIFTED],
    )
    pair, whole = space[6 * _LIFTED : 8 * _LIFTED], space[8 * _LIFTED :]
    n = _lifted_minor(adx, ady, bdx, bdy, cdx, cdy, work, one)
    m = _lifted_minor(bdx, bdy, cdx, cdy, adx, ady, work, other)
    n = _add(one, n, other, m, pair)
    m = _lifted_minor(cdx, cdy, adx, ady, bdx, bdy, work, other)
    n = _add(pair, n, other, m, whole)
    return whole[n - 1]


@njit(cache=True, nogil=True)
def _lifted_minor(px, py, qx, qy, rx, ry, work, out):
    """``(px² + py²) (qx ry - qy rx)`` as an expansion in `out`; each argument is a (tail, head) difference."""
    minor, once, spare = work[:_MINOR], work[_MINOR:_LIFTED], work[_LIFTED : 2 * _LIFTED]
    by_x, by_y = work[2 * _LIFTED : 3 * _LIFTED], work[3 * _LIFTED :]
    n = _minor(qx, qy, rx, ry, spare, minor)
    n_once = _multiply(minor, n, px, spare, once)
    n_x = _multiply(once, n_once, px, spare, by_x)
    n_once = _multiply(minor, n, py, spare, once)
    n_y = _multiply(once, n_once, py, spare, by_y)
    return _add(by_x, n_x, by_y, n_y, out)


@njit(cache=True, nogil=True)
def _minor(px, py, qx, qy, work, out):
    """``px qy - py qx`` as an expansion of at most 16 terms in `out`; arguments are (tail, head) differences."""
    factor, spare = work[:2], work[_MINOR : 2 * _MINOR]
    left, right = work[2 * _MINOR : 3 * _MINOR], work[3 * _MINOR : 4 * _MINOR]
    factor[0], factor[1] = px
    n_left = _multiply(factor, factor.size, qy, spare, left)
    factor[0], factor[1] = -py[0], -py[1]
    n_right = _multiply(factor, factor.size, qx, spare, right)
    return _add(left, n_left, right, n_right, out)


@njit(cache=True, nogil=True)
def _multiply(e, n, factor, spare, out):
    """Expansion `e` of `n` terms times a (tail, head) pair, into `out`; `spare` is scratch as long as `out`."""
    tail, head = factor
    if tail == 0.0:  # the difference was exact, as it is between near neighbours
        return _scale(e, n, head, out)
    half = spare.size // 2
    n_tail = _scale(e, n, tail, spare[:half])
    n_head = _scale(e, n, head, spare[half:])
    return _add(spare[:half], n_tail, spare[half:], n_head, out)


@njit(cache=True, nogil=True)
def _scale(e, n, factor, out):
    """Expansion `e` of `n` terms times one double, into `out` (Shewchuk, figure 13); returns the number of terms."""
    used = 0
    total, low = _two_product(e[0], factor)
    if low != 0.0:
        out[used] = low
        used += 1
    for i in range(1, n):
        high, low = _two_product(e[i], factor)
        middle, error = _two_sum(total, low)
        if error != 0.0:
            out[used] = error
            used += 1
        total, error = _two_sum(high, middle)
        if error != 0.0:
            out[used] = error
            used += 1
    if total != 0.0 or used == 0:
        out[used] = total
        used += 1
    return used


@njit(cache=True, nogil=True)
def _add(e, n_e, f, n_f, out):
    """Sum of two expansions, into `out`: merge the terms by magnitude, carry one running sum (figure 8)."""
    i = j = used = 0
    total = 0.0
    for _ in range(n_e + n_f):
        if j == n_f or (i < n_e and abs(e[i]) < abs(f[j])):
            term = e[i]
            i += 1
        else:
            term = f[j]
            j += 1
        total, error = _two_sum(total, term)
        if error != 0.0:
            out[used] = error
            used += 1
    if total != 0.0 or used == 0:
        out[used] = total
        used += 1
    return used


@njit(cache=True, nogil=True)
def _two_sum(a, b):
    """Return the rounded sum of two doubles and its exact error (Knuth)."""
    total = a + b
    b_part = total - a
    a_part = total - b_part
    return total, (a - a_part) + (b - b_part)


@njit(cache=True, nogil=True)
def _two_difference(a, b):
    """Return the exact difference of two doubles as (tail, head): rounding error first, then rounded value."""
    head, tail = _two_sum(a, -b)
    return tail, head


@njit(cache=True, nogil=True)
def _two_product(a, b):
    """Return the rounded product of two doubles and its exact error (Dekker and Veltkamp)."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


@njit(cache=True, nogil=True)
def _split(a):
    """Two halves of 26 bits that sum to `a`."""
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high
