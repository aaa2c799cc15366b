"""Gaussian algebra shared by every layer: broadcasting per-sample scalars, KL divergence, discretised mass.

KL(N(m_q, v_q I) || N(m_p, v_p I)) / d = 1/2 [log(v_p / v_q) + (v_q + ||m_q - m_p||^2 / d) / v_p - 1]
KL(N(m_q, v_q I) || N(m_p, diag v_p)) / d = mean_i of the same
                                          = mean_i 1/2 [log1p(e_i / v_q) + (||m_q - m_p||_i^2 - e_i) / v_p_i],   v_p = v_q + e
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import readable, sent, square_norm, total, wide
from score_sde_analytic.errors import InputError

#: Whose fused sums round the same at every place in memory, so that a sample does not depend on its batch.
FUSED = (torch.float32, torch.float64)
#: 0 + a x is a x.
ZERO = torch.zeros(())
SQRT_HALF = math.sqrt(0.5)
#: Standard deviations beyond which the mass of a tail nears the smallest numbers, and only its logarithm is worked out.
REMOTE = 30.0


def expand(
    g: float | Float[Tensor, " ..."], x: Float[Tensor, " batch *dims"] | Any
) -> float | Float[Tensor, ""] | Float[Tensor, " batch *ones"]:
    """Shape a scalar `()` or per-sample `(batch,)` value so that it multiplies `x`, of any kind where `g` is a float.

    Tensors are cast to the dtype and device of `x` here, the one place where float64 schedule scalars meet data.

    >>> expand(torch.ones(2, dtype=torch.float64), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])

    Raises:
        InputError: `g` is neither a scalar nor one number per sample.
    """
    if not isinstance(g, Tensor):
        return g
    if g.ndim == 0:
        return sent(g, x.device, x.dtype)
    if g.shape != x.shape[:1]:
        raise InputError(f"expected a scalar or shape ({x.shape[0]},) for a batch of {x.shape[0]}, got {tuple(g.shape)}")
    return sent(g, x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def axpy(
    x: Float[Tensor, " batch *dims"], y: Float[Tensor, " batch *dims"], a: float | Float[Tensor, " ..."]
) -> Float[Tensor, " batch *dims"]:
    """x + a y with a scalar or per-sample a.

    >>> axpy(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([2.0, 3.0])).tolist()
    [[2.0], [3.0]]
    """
    return x + expand(a, x) * y if isinstance(a, Tensor) or x.dtype not in FUSED else torch.add(x, y, alpha=a)


def add_scaled_(
    x: Float[Tensor, " batch *dims"], y: Float[Tensor, " batch *dims"], a: float | Float[Tensor, " ..."]
) -> Float[Tensor, " batch *dims"]:
    """`axpy` in the place of an x that nobody else holds.

    >>> add_scaled_(torch.zeros(2, 1), torch.ones(2, 1), 2.0).tolist()
    [[2.0], [2.0]]
    """
    return x.add_(expand(a, x) * y) if isinstance(a, Tensor) or x.dtype not in FUSED else x.add_(y, alpha=a)


def scaled(x: Float[Tensor, " batch *dims"], a: float | Float[Tensor, " ..."]) -> Float[Tensor, " batch *dims"]:
    """a x with a scalar or per-sample a.

    >>> scaled(torch.ones(2, 1), torch.tensor([2.0, 3.0])).tolist()
    [[2.0], [3.0]]
    """
    if isinstance(a, Tensor) or x.dtype not in FUSED or not x.is_cpu:
        return expand(a, x) * x
    return torch.add(ZERO, x, alpha=a)  # the same; of a factor torch makes a tensor first, which takes the host its time


def mean_square(x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
    """||x||^2 / d per sample, gathered in float64.

    >>> mean_square(torch.tensor([[3.0, 4.0]]))
    tensor([12.5000], dtype=torch.float64)
    """
    return square_norm(x) / math.prod(x.shape[1:])


def mean_product(x: Float[Tensor, " batch *dims"], y: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
    """<x, y> / d per sample, gathered in float64.

    >>> mean_product(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]]))
    tensor([5.5000], dtype=torch.float64)
    """
    return total(x * y) / math.prod(x.shape[1:])


def square_error(x: Float[Tensor, " batch *dims"], y: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch *dims"]:
    """(x - y)^2 of every coordinate, float64."""
    return wide(x - y).square()


def normal_kl(
    square_error: float | Float[Tensor, "*shape"], var_q: float | Float[Tensor, " ..."], var_p: float | Float[Tensor, " ..."]
) -> Float64[Tensor, "*shape"]:
    """KL(N(m_q, var_q I) || N(m_p, var_p I)) in nats per dimension.

    >>> float(normal_kl(0.0, 1.0, 2.0)), float(normal_kl(1.0, 1.0, 1.0))
    (0.0966, 0.5)

    Args:
        square_error: ||m_q - m_p||^2 / d, any shape.
        var_q, var_p: isotropic variances, floats or broadcastable to `square_error`.
    """
    var_q, var_p = (torch.as_tensor(v, dtype=torch.float64) for v in (var_q, var_p))
    return 0.5 * (torch.log(var_p / var_q) + (var_q + square_error) / var_p - 1.0)


def step_kl(square_error: Any, var_q: Any, excess: Any, var_p: Any = None) -> Any:
    """KL(N(m_q, var_q) || N(m_p, var_p)) of one coordinate in nats; tensors, arrays or floats that broadcast.

    >>> float(step_kl(0.0, 1.0, 1e-9, 1.0 + 1e-9)) / (1e-18 / 4)
    1.0

    Args:
        square_error: (m_q - m_p)^2.
        excess: var_p - var_q > -var_q, which the caller knows better than a difference of the two: log1p then keeps tiny steps
            exact, where var_p / var_q is 1 + O(h).
        var_p: where it is at hand; None for var_q + excess.
    """
    log1p = torch.log1p if isinstance(excess, Tensor) else np.log1p
    return 0.5 * (log1p(excess / var_q) + (square_error - excess) / (var_q + excess if var_p is None else var_p))


def diagonal_kl(
    square_error: Float64[Tensor, " batch *dims"], var_q: float | Float[Tensor, " ..."], excess: Float[Tensor, " ..."]
) -> Float64[Tensor, " batch"]:
    """KL(N(m_q, var_q I) || N(m_p, diag(var_q + excess))) in nats per dimension; exact where excess is tiny.

    Args:
        square_error: (m_q - m_p)^2 of every coordinate.
        excess: of the variances, broadcastable to it, > -var_q.
    """
    return step_kl(square_error, var_q, excess).flatten(1).mean(1)


def log_interval(lower: Float64[Tensor, "*shape"], upper: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """log(Phi(upper) - Phi(lower)) for lower < upper, without cancellation in either tail."""
    # Seen from the nearer edge, be it on the left or on the right.
    near, far = torch.maximum(lower, -upper), torch.maximum(-lower, upper)
    remote = near > REMOTE
    if readable(remote) and not remote.any():
        return _log_mass(near, far)
    # What is remote is kept out of a formula whose derivative is infinite there.
    inside = _log_mass(near.masked_fill(remote, 0.0), far.masked_fill(remote, torch.inf))
    if not readable(remote):
        return torch.where(remote, _log_tail(near, far), inside)
    return inside.masked_scatter(remote, _log_tail(near[remote], far[remote]))


def _log_mass(near: Tensor, far: Tensor) -> Tensor:
    """log(Phi(-near) - Phi(-far)) where both are numbers."""
    return torch.erfc(near * SQRT_HALF).sub_(torch.erfc(far * SQRT_HALF)).mul_(0.5).log()


def _log_tail(near: Tensor, far: Tensor) -> Tensor:
    """log(Phi(-near) - Phi(-far)) where either is too small for a number."""
    log_near, log_far = torch.special.log_ndtr(-near), torch.special.log_ndtr(-far)
    return log_near + torch.log(-torch.expm1(log_far - log_near))


def discretised_log_prob(
    x: Float[Tensor, " batch *dims"],
    mean: Float[Tensor, " ..."],
    std: float | Float[Tensor, " ..."],
    lo: float,
    hi: float,
    levels: int,
) -> Float64[Tensor, "*shape"]:
    """Log-probability of grid values under a normal density integrated over its bin, in nats per coordinate.

    The `levels` grid points are even in [lo, hi]; bin edges lie halfway between them and the two outer bins extend to
    infinity, so the bins sum to one (Ho et al., 2020, eq. 13). The normal CDF is exact (`log_ndtr`).

    >>> x = torch.linspace(-1.0, 1.0, 256)[:, None]
    >>> float(discretised_log_prob(x, torch.tensor(0.3), 0.05, -1.0, 1.0, 256).exp().sum())
    1.0

    Args:
        x: values on the grid.
        mean: predicted mean, broadcastable to `x`.
        std: standard deviation of the decoder: a float, or what broadcasts with `x`.
    """
    width = (hi - lo) / (levels - 1)
    x, mean = wide(x), wide(mean)
    std = sent(std, x.device, torch.float64) if isinstance(std, Tensor) else float(std)
    index = ((x - lo) / width).round()
    # Neighbours compute their common edge from the same number, so that the bins tile to the last bit.
    below, above = (((index + shift) * width).add_(lo).sub(mean).div(std) for shift in (-0.5, 0.5))
    return log_interval(below.masked_fill_(index <= 0, -torch.inf), above.masked_fill_(index >= levels - 1, torch.inf))
