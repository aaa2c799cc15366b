"""Functions that are the same to the last bit on every machine: libraries differ, tables and elementary operations do not.

A number x is split into a point of a grid and a rest d, f(point) is read from a table of correctly rounded values, and d
corrects it by a short series. The tables come from the decimal module, whose results are specified digit by digit; the series
from additions, multiplications and divisions in float64, one at a time, as IEEE 754 rounds them. (torch's own fused forms,
x + a y or lerp, round once or twice depending on processor and place in memory.)

    exp     e^k (1 + d + d^2/2),   |d| <= 2^-9                  relative error 1.3e-9
    log     log 2^e + log c + r - r^2/2 + r^3/3 - r^4/4         absolute error 1e-12
    sin     S (1 - d^2/2) + C (d - d^3/6),   |d| <= pi/1024     absolute error 1e-10
    erf     T + D (d - k d^2),   D = 2/sqrt(pi) e^(-k^2)        absolute error 4e-9
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from score_sde_analytic.errors import RunError

#: Digits of tables before they are rounded to float64.
DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
#: Points of tables of exp, log and erf per unit.
POINTS = 256
#: exp is a normal number in between.
EXP_RANGE = (-708, 709)
#: erf(6) = 1 - 2e-17.
ERF_END = 6
#: Points of a full turn.
TURN = 1024
#: Beyond it the rest of a turn is not exact.
MOST_ANGLE = 2.0**14
#: x + ROUND is rounded to 1 / POINTS, and its last bits count the points from 0.
ROUND = 1.5 * 2.0**52 / POINTS
#: Numbers that a function works out at once.
BLOCK = 2**16
ROUND_BITS = int(np.float64(ROUND).view(np.int64))

Values = Float64[Tensor, "*shape"]


def exp(x: Values) -> Values:
    """e^x, held at e^-708 and e^709 beyond."""
    low, high = EXP_RANGE
    confined = x.clamp(low, high)
    point = confined + ROUND
    d = confined.sub_(point - ROUND)
    value = _looked_up(_exp_table(), point.view(torch.int64).sub_(ROUND_BITS + low * POINTS))
    series = (d * 0.5).add_(1.0).mul_(d)  # d + d^2/2
    return series.mul_(value).add_(value)


def sigmoid(x: Values) -> Values:
    """1 / (1 + e^-x)."""
    return exp(-x).add_(1.0).reciprocal_()


def silu(x: Values) -> Values:
    """x / (1 + e^-x)."""
    return torch.div(x, exp(-x).add_(1.0))


def tanh(x: Values) -> Values:
    """1 - 2 / (e^2x + 1)."""
    return 1.0 - 2.0 / (exp(2.0 * x) + 1.0)


def erf(x: Values) -> Values:
    """2/sqrt(pi) integral_0^x e^(-u^2) du."""
    confined = x.clamp(-ERF_END, ERF_END)
    point, d = _split(confined)
    index = _counted(point) + ERF_END * POINTS
    k = point - ROUND
    values, slopes = _erf_tables()
    return _looked_up(values, index) + _looked_up(slopes, index) * (d - k * d * d)


def gelu(x: Values, approximate: str = "none") -> Values:
    """x Phi(x), by erf or by the formula of tanh that some networks were trained with."""
    if approximate == "none":
        return 0.5 * x * (1.0 + erf(x * 0.5**0.5))
    inner = 0.044715 * (x * x * x) + x
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * inner))


def log(x: Values) -> Values:
    """log x; -inf at 0, NaN below."""
    mantissa, exponent = x.frexp()
    point, rest = _split(mantissa)
    c = point - ROUND
    r = rest / c
    series = r * (1.0 - r * (0.5 - r * (1.0 / 3.0 - r * 0.25)))
    value = exponent.double() * 0.6931471805599453 + _looked_up(_log_table(), _counted(point)) + series
    return torch.where(x > 0, value, torch.where(x == 0, -torch.inf, torch.nan))


def sin(x: Values) -> Values:
    """sin x.

    Raises:
        RunError: |x| > 2^14.
    """
    return _wave(x, 0)


def cos(x: Values) -> Values:
    """cos x = sin(x + a quarter of a turn).

    Raises:
        RunError: |x| > 2^14.
    """
    return _wave(x, TURN // 4)


def _in_blocks(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, of so many numbers at a time that what is in between stays near the processor."""

    def blocked(x: Tensor, **settings: Any) -> Tensor:
        if x.numel() <= BLOCK:
            return function(x, **settings)
        values = torch.empty(x.numel(), dtype=torch.float64)
        for part, of_part in zip(x.flatten().split(BLOCK), values.split(BLOCK), strict=True):
            of_part.copy_(function(part, **settings))
        return values.view(x.shape)

    return blocked


#: name in aten -> the function.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: _in_blocks(function) for function in (exp, sigmoid, silu, tanh, erf, gelu, log, sin, cos)
}


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest point, as its count in the last bits of a number, and what is left."""
    point = x + ROUND
    return point, x - (point - ROUND)


def _counted(point: Tensor) -> Tensor:
    return point.view(torch.int64) - ROUND_BITS


def _looked_up(table: Tensor, index: Int64[Tensor, "*shape"]) -> Tensor:
    """Entries of a table; NaN counts as anything, since the rest that corrects it is NaN."""
    confined = index.clamp_(0, len(table) - 1)
    return table.index_select(0, confined.flatten()).view(index.shape)


def _wave(x: Tensor, ahead: int) -> Tensor:
    if x.numel() and float(x.abs().amax()) > MOST_ANGLE:
        raise RunError(f"angles above {MOST_ANGLE:g} are outside exact arithmetic's sin and cos; feed smaller time labels")
    sines, coarse, fine = _turn_tables()
    steps = (x * (TURN / float(2 * PI))).round()
    d = (x - steps * coarse) - steps * fine
    count = steps.nan_to_num().long() + ahead
    square = d * d
    s, c = _looked_up(sines, count % TURN), _looked_up(sines, (count + TURN // 4) % TURN)
    return s * (1.0 - 0.5 * square) + c * (d * (1.0 - square * (1.0 / 6.0)))


def _table(values: list[Decimal]) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([float(value) for value in values], dtype=torch.float64)


@cache
def _exp_table() -> Tensor:
    """At multiples of 1 / POINTS: products of e^i and e^(j / POINTS), each correctly rounded."""
    low, high = EXP_RANGE
    with localcontext(prec=DIGITS), torch.inference_mode(False):
        whole = _table([Decimal(i).exp() for i in range(low, high)])
        part = _table([(Decimal(j) / POINTS).exp() for j in range(POINTS)])
        last = _table([Decimal(high).exp()])
        return torch.cat([(whole[:, None] * part).flatten(), last])


@cache
def _log_table() -> Tensor:
    """At multiples of 1 / POINTS from 0, which is never asked for, to 1."""
    with localcontext(prec=DIGITS):
        return _table([Decimal(0), *((Decimal(j) / POINTS).ln() for j in range(1, POINTS + 1))])


@cache
def _erf_tables() -> tuple[Tensor, Tensor]:
    with localcontext(prec=DIGITS):
        points = [Decimal(j) / POINTS for j in range(ERF_END * POINTS + 1)]
        slopes = [2 / PI.sqrt() * (-k * k).exp() for k in points]
        values = [_erf_of(k, slope) for k, slope in zip(points, slopes, strict=True)]
        return _table([-v for v in values[:0:-1]] + values), _table(slopes[:0:-1] + slopes)


def _erf_of(k: Decimal, slope: Decimal) -> Decimal:
    """2/sqrt(pi) e^(-k^2) sum_n 2^n k^(2n+1) / (2n+1)!!."""
    term, sum_, n = k, k, 1
    while term > Decimal("1e-45"):
        term = term * 2 * k * k / (2 * n + 1)
        sum_ += term
        n += 1
    return slope * sum_


@cache
def _turn_tables() -> tuple[Tensor, float, float]:
    """sin at the points of a turn; the angle between them in two parts, the coarse one of 30 bits."""
    with localcontext(prec=DIGITS):
        angle = 2 * PI / TURN
        coarse = float(np.round(float(angle) * 2.0**37) / 2.0**37)
        quarter = [_sine(angle * j) for j in range(TURN // 4 + 1)]
        half = quarter + quarter[-2:0:-1]
        return _table(half + [-value for value in half]), coarse, float(angle - Decimal(coarse))


def _sine(x: Decimal) -> Decimal:
    term, sum_, n = x, x, 1
    while abs(term) > Decimal("1e-45"):
        term = -term * x * x / ((n + 1) * (n + 2))
        sum_ += term
        n += 2
    return sum_
