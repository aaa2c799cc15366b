"""Models whose predictions are equal to the last bit, whatever the batch, the threads and the BLAS.

A decoder must work out the very numbers that the encoder worked with, and float32 networks do not: their sums depend on the
batch size, on threads and on the processor. `exact_model` carries a model out in `ExactArithmetic`. What a codec computes
around the network belongs there too: means, coefficients in a basis, variances by a free statistic.

    with ExactArithmetic():
        mean = basis.forward(prediction.combine(a, b))

Scalars of schedules and curves come from libraries that differ in the last bit: `settled` rounds that bit away.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.arrays import has_float64
from score_sde_analytic.coding.exact_arithmetic import ExactArithmetic
from score_sde_analytic.coding.exact_sums import BITS
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.models.around import Around
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import charge
from score_sde_analytic.process.level import Level

#: Bits that are left of settled scalars.
SETTLED = 40


def exact_model(model: ScoreModel) -> ScoreModel:
    """The model in exact arithmetic.

    Predictions have x_t's dtype, and hold x_0. `prediction.x_0` is reproducible as it is; other readings are where they are
    asked for in `ExactArithmetic`. There are no gradients. Weights are copied: make it anew after training. A network that
    mixes the examples of a batch still does.

    Raises:
        UnsupportedError: a prediction meets an operation that is not known to be reproducible, or another device than the CPU.

    >>> net = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 2)).eval()
    >>> exact = exact_model(ScoreModel(lambda x, labels: net(x), model.schedule, fingerprint="small"))
    >>> x_t = torch.randn(64, 2)
    >>> torch.equal(exact(x_t, 0.5).x_0[5:6], exact(x_t[5:6], 0.5).x_0), exact.fingerprint()["arithmetic"]
    (True, 'exact')
    """
    return ExactModel(model)


class ExactModel(Around):
    """See `exact_model`.

    Attributes:
        arithmetic: in which the network's weights are rounded already; for what is computed around the model.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(_widened(model))
        self.arithmetic = ExactArithmetic(_weights(self.model))

    @property
    def inner(self) -> ScoreModel:
        inner = super().inner
        return inner if self.clamp is not None else inner.unclamped()

    def _predicted(self, x_t: Tensor, level: Level) -> Prediction:
        with self.model.metered() as cost:
            prediction = self._carried(x_t, level)
        charge(self, **vars(cost))
        return prediction

    def _carried(self, x_t: Tensor, level: Level) -> Prediction:
        if not has_float64(x_t.device.type):
            raise UnsupportedError(f"{x_t.device.type} has no float64, which exact arithmetic needs; use the CPU")
        with torch.no_grad(), self.arithmetic:
            said = self.inner.predict(x_t.double(), _settled_level(level))
            x_0 = said.x_0
        return replace(said, x_t=x_t, value=x_0.to(x_t.dtype), kind="x_0")

    def with_network(self, net: Any, fingerprint: str) -> ScoreModel:
        return ExactModel(self.model.with_network(net, fingerprint))

    def fingerprint(self) -> dict[str, Any]:
        return self.inner.fingerprint() | {"arithmetic": "exact"}


def settled(value: float | Float[Tensor, "*shape"]) -> Any:
    """Rounded to 40 bits: two libraries that differ in the last of 53 give one number, but once in thousands of times.

    >>> settled(math.exp(1.0)) == settled(math.nextafter(math.exp(1.0), 3.0))
    True
    """
    spread = value * (2.0 ** (BITS - SETTLED) + 1.0)  # Veltkamp's splitting
    high = spread - (spread - value)
    if isinstance(value, Tensor):
        return torch.where(value.isfinite(), high, value)
    return high if math.isfinite(value) else value


def _settled_level(level: Level) -> Level:
    return Level(level.t, settled(level.alpha), settled(level.sigma), settled(level.log_snr))


def _widened(model: ScoreModel) -> ScoreModel:
    """With a copy of its network in float64, known by the same fingerprint."""
    if not isinstance(model.net, nn.Module):
        return model
    return model.with_network(copy.deepcopy(model.net).double(), model.fingerprint()["network"])


def _weights(model: ScoreModel) -> list[Tensor]:
    net = model.net
    return [*net.parameters(), *net.buffers()] if isinstance(net, nn.Module) else []
